"""From many updates to one: admission, weighted mean, outer optimizer, the next weights.

A peer's update is its pseudo-gradient, theta_t - theta_i after its inner steps. The coordinator
keeps their weighted mean while they arrive, takes one outer step, and applies exactly the encoded
update that it broadcasts: so every copy of the weights stays equal, bit for bit.
"""
from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Deque, Iterable, List, NamedTuple, Tuple

import torch
from torch import Tensor

from gltch_2_7m import GltchError, require
from hive.learning.codec import WHOLE, decode, digest, encode, from_bytes, replaced, to_bytes
from hive.learning.fragments import Fragments
from hive.learning.sync import Sync

CLIP = 3.0  # an update longer than this many median lengths is shortened to that
HEAVIEST = 4.0  # an update heavier than this many median weights counts as that heavy
FIRST_STEP = 0.02  # of the weights' length that a step may move, while no lengths are known; three
# times what the first steps of the presets do
REMEMBERED = 64  # weights of the latest updates, and lengths of each part's, for their medians
ENOUGH = 3  # of them for a median


class Rejected(GltchError):
    """An update that must not touch the weights; the message says why."""


def apply_update(weights: Tensor, codec: str, content: bytes, part: slice = WHOLE) -> Tensor:
    """The weights (P,) after a committed update of a part; the one way they ever change."""
    return moved(weights, part, decode(codec, content, len(weights[part])))


def moved(weights: Tensor, part: slice, update: Tensor) -> Tensor:
    return replaced(weights, part, weights[part] - update)


class Committed(NamedTuple):
    """One outer step: what is broadcast, and the weights it leads to."""

    codec: str
    update: bytes
    base: str  # SHA-256 of the weights before
    weights: Tensor  # (P,)
    result: str  # SHA-256 of the weights after
    broadcast: Tensor  # (n,), the encoded update of the round's part as everybody decodes it
    residual: Tensor  # (n,), what it leaves out


class Outer:
    """The global weights, at some version, and all that decides how they move. One round: `add`
    ..., `step`, `accept`. It moves its own part of the weights, and what belongs to that part.

    `usual` is what an update weighs, in tokens, as long as that is not known from updates."""

    def __init__(self, weights: Tensor, sync: Sync, usual: float = math.inf, version: int = 0):
        self.weights, self.sync, self.version = weights, sync, version
        self.fragments = Fragments(len(weights), sync.fragments)
        self.hash = digest(weights)
        self.momentum = torch.zeros_like(weights)
        self.residual = torch.zeros_like(weights)  # what the broadcasts left out so far
        self.total = torch.zeros_like(weights)  # of what has been added since the last step
        self.lengths: List[Deque[float]] = [  # of updates, by part
            deque(maxlen=REMEMBERED) for _ in self.fragments.parts]
        self.heavy: Deque[float] = deque([usual] * ENOUGH, maxlen=REMEMBERED)  # weights of updates
        self.begin()

    def begin(self) -> None:
        """Forget what has been added since the last step."""
        self.total.zero_()
        self.weight = 0.0

    @property
    def part(self) -> slice:
        """What the open round moves."""
        return self.fragments.of_round(self.version + 1)

    def add(self, codec: str, content: bytes, weight: float, steps: int) -> float:
        """Count one peer's update of `steps` inner steps, no longer and no heavier than a few times
        the usual. Returns the weight that it counts with; raises Rejected."""
        if codec != self.sync.up:
            raise Rejected(f"Updates are sent as {self.sync.up} here, not {codec!r}.")
        try:
            update = decode(codec, content, self.fragments.values(self.version + 1))
        except GltchError as error:
            raise Rejected(str(error)) from None
        length = float(torch.linalg.vector_norm(update))
        if not math.isfinite(length):
            raise Rejected("The update holds values that are not finite: training broke down on "
                           "that peer.")
        lengths = self.lengths[self.fragments.index(self.version + 1)]
        longest = CLIP * statistics.median(lengths) if len(lengths) >= ENOUGH else 0.0
        rounds = len(self.fragments)  # since this part had its turn
        longest = (longest or FIRST_STEP * steps * rounds * self.share_of_length(len(update))
                   or math.inf)
        counting = min(weight, HEAVIEST * statistics.median(self.heavy))
        lengths.append(length)
        self.heavy.append(weight)
        self.total[self.part].add_(update, alpha=counting * min(1.0, longest / max(length, 1e-30)))
        self.weight += counting
        return counting

    def share_of_length(self, values: int) -> float:
        """How long this many of the weights are on average; a part may itself be all zeros."""
        return float(self.weights.norm()) * math.sqrt(values / len(self.weights))

    def step(self) -> Committed:
        """The next weights, by SGD with Nesterov momentum over the weighted mean (DiLoCo, arXiv
        2311.08105, algorithm 1), encoded with error feedback. Changes nothing until `accept`."""
        assert self.weight > 0, "a step needs an update"
        mu, part = self.sync.outer_momentum, self.part
        update = self.total[part] * ((1 + mu) / self.weight)  # mean + mu (mu b + mean), in place
        update.add_(self.momentum[part], alpha=mu * mu).mul_(self.sync.outer_lr)
        update.add_(self.residual[part])
        content = encode(self.sync.down, update)
        broadcast = decode(self.sync.down, content, len(update))
        weights = moved(self.weights, part, broadcast)  # as `apply_update` does it
        return Committed(self.sync.down, content, self.hash, weights, digest(weights), broadcast,
                         residual=update.sub_(broadcast))

    def accept(self, committed: Committed) -> None:
        """Move on to the committed weights; the next round begins."""
        self.residual[self.part] = committed.residual
        self.follow(self.part, committed.broadcast)
        self.weights, self.hash = committed.weights, committed.result
        self.version += 1
        self.begin()

    def follow(self, part: slice, broadcast: Tensor) -> None:
        """The momentum b of a part after an update u that was broadcast. With u = lr (mean + mu b)
        and b = mu b' + mean, u alone tells the new b from the old b': so the journal's updates
        bring the momentum back after a crash, bit for bit."""
        lr, mu = self.sync.outer_lr, self.sync.outer_momentum
        if mu:
            self.momentum[part].mul_(mu / (1 + mu)).add_(broadcast, alpha=1 / (lr * (1 + mu)))

    def state(self) -> bytes:
        """What a restarted coordinator needs besides the weights: of each part, the known lengths
        fill up their place with NaN, except for the last part's."""
        *others, last = map(list, self.lengths)
        full = [known + [math.nan] * (REMEMBERED - len(known)) for known in others]
        return to_bytes(torch.cat([self.momentum, self.residual,
                                   *map(torch.tensor, [*full, last])]))

    def recover(self, state: bytes, since: Iterable[Tuple[int, str, bytes]],
                heavy: Iterable[float] = ()) -> None:
        """Go on after a restart, from the state at a snapshot (empty: the run's beginning), the
        updates (round, codec, content) committed since, and the latest weights of peers' updates.

        What the error feedback held of a part is known only if no update moved it since; if there
        was none at all, nothing differs from a coordinator that never stopped. Peers' updates since
        then are no more known one by one: of each round their mean stands for them, which is at
        most as long."""
        if state:
            values, count = from_bytes(state), len(self.weights)
            require(2 * count <= len(values) <= 2 * count + REMEMBERED * len(self.fragments),
                    "The state of the outer optimizer has another size than the weights.")
            self.momentum, self.residual = values[:count].clone(), values[count: 2 * count].clone()
            for known, kept in zip(self.lengths, values[2 * count:].split(REMEMBERED)):
                known.extend(kept[~kept.isnan()].tolist())
        for number, codec, update in since:
            part = self.fragments.of_round(number)
            broadcast = decode(codec, update, self.fragments.values(number))
            mu, before = self.sync.outer_momentum, self.momentum[part]
            mean = torch.sub(broadcast / self.sync.outer_lr, before, alpha=mu * mu) / (1 + mu)
            self.lengths[self.fragments.index(number)].append(float(mean.norm()))
            self.follow(part, broadcast)
            self.residual[part].zero_()
        self.heavy.extend(heavy)
