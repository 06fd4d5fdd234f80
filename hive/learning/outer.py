"""From many updates to one: admission, weighted mean, outer optimizer, the next weights.

A peer's update is its pseudo-gradient, theta_t - theta_i after its inner steps. The coordinator
keeps their weighted mean while they arrive, takes one outer step, and applies exactly the encoded
update that it broadcasts: so every copy of the weights stays equal, bit for bit.
"""
from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Deque, Iterable, NamedTuple, Tuple

import torch
from torch import Tensor

from gltch_2_7m import GltchError, require
from hive.learning.codec import decode, digest, encode, from_bytes, to_bytes
from hive.learning.sync import Sync

CLIP = 3.0  # an update longer than this many median lengths is shortened to that
HEAVIEST = 4.0  # an update heavier than this many median weights counts as that heavy
FIRST_STEP = 0.02  # of the weights' length that a step may move, while no lengths are known; three
# times what the first steps of the presets do
REMEMBERED = 64  # lengths and weights of the latest updates, for their medians
ENOUGH = 3  # of them for a median


class Rejected(GltchError):
    """An update that must not touch the weights; the message says why."""


def apply_update(weights: Tensor, codec: str, content: bytes) -> Tensor:
    """The weights (P,) after a committed update; the one way they ever change."""
    update = decode(codec, content, len(weights))
    return torch.sub(weights, update, out=update)


class Committed(NamedTuple):
    """One outer step: what is broadcast, and the weights it leads to."""

    codec: str
    update: bytes
    base: str  # SHA-256 of the weights before
    weights: Tensor  # (P,)
    result: str  # SHA-256 of the weights after
    broadcast: Tensor  # (P,), the encoded update as everybody decodes it
    residual: Tensor  # (P,), what it leaves out


class Outer:
    """The global weights and all that decides how they move. One round: `add` ..., `step`.

    `usual` is what an update weighs, in tokens, as long as that is not known from updates."""

    def __init__(self, weights: Tensor, sync: Sync, usual: float = math.inf):
        self.weights, self.sync = weights, sync
        self.hash = digest(weights)
        self.momentum = torch.zeros_like(weights)
        self.residual = torch.zeros_like(weights)  # what the broadcasts left out so far
        self.total = torch.zeros_like(weights)  # of what has been added since the last step
        self.lengths: Deque[float] = deque(maxlen=REMEMBERED)
        self.heavy: Deque[float] = deque([usual] * ENOUGH, maxlen=REMEMBERED)  # weights of updates
        self.begin()

    def begin(self) -> None:
        """Forget what has been added since the last step."""
        self.total.zero_()
        self.weight = 0.0

    def add(self, codec: str, content: bytes, weight: float, steps: int) -> float:
        """Count one peer's update of so many inner steps, no longer and no heavier than a few times
        what is usual. Returns the weight that it counts with; raises Rejected."""
        if codec != self.sync.up:
            raise Rejected(f"Updates are sent as {self.sync.up} here, not {codec!r}.")
        try:
            update = decode(codec, content, len(self.weights))
        except GltchError as error:
            raise Rejected(str(error)) from None
        length = float(torch.linalg.vector_norm(update))
        if not math.isfinite(length):
            raise Rejected("The update holds values that are not finite: training broke down on "
                           "that peer.")
        longest = CLIP * statistics.median(self.lengths) if len(self.lengths) >= ENOUGH else 0.0
        longest = longest or FIRST_STEP * steps * float(self.weights.norm()) or math.inf
        counting = min(weight, HEAVIEST * statistics.median(self.heavy))
        self.lengths.append(length)
        self.heavy.append(weight)
        self.total.add_(update, alpha=counting * min(1.0, longest / max(length, 1e-30)))
        self.weight += counting
        return counting

    def step(self) -> Committed:
        """The next weights, by SGD with Nesterov momentum over the weighted mean (DiLoCo, arXiv
        2311.08105, algorithm 1), encoded with error feedback. Changes nothing until `accept`."""
        assert self.weight > 0, "a step needs an update"
        mu = self.sync.outer_momentum
        update = self.total * ((1 + mu) / self.weight)  # mean + mu (mu b + mean), in place
        update.add_(self.momentum, alpha=mu * mu).mul_(self.sync.outer_lr).add_(self.residual)
        content = encode(self.sync.down, update)
        broadcast = decode(self.sync.down, content, len(update))
        weights = self.weights - broadcast  # what `apply_update` does with the same bytes
        return Committed(self.sync.down, content, self.hash, weights, digest(weights), broadcast,
                         residual=update.sub_(broadcast))

    def accept(self, committed: Committed) -> None:
        """Move on to the committed weights; the next round begins."""
        self.weights, self.hash = committed.weights, committed.result
        self.residual = committed.residual
        self.follow(committed.broadcast)
        self.begin()

    def follow(self, broadcast: Tensor) -> None:
        """The momentum b after an update u that was broadcast. With u = lr (mean + mu b) and
        b = mu b' + mean, u alone tells the new b from the old b': so the journal's updates bring
        the momentum back after a crash, bit for bit."""
        lr, mu = self.sync.outer_lr, self.sync.outer_momentum
        if mu:
            self.momentum.mul_(mu / (1 + mu)).add_(broadcast, alpha=1 / (lr * (1 + mu)))

    def state(self) -> bytes:
        """What a restarted coordinator needs besides the weights."""
        return to_bytes(torch.cat([self.momentum, self.residual, torch.tensor([*self.lengths])]))

    def recover(self, state: bytes, since: Iterable[Tuple[str, bytes]],
                heavy: Iterable[float] = ()) -> None:
        """Go on after a restart, from the state at a snapshot (empty: the run's beginning), the
        updates (codec, content) committed since, and the latest weights of peers' updates.

        What the error feedback held is known only if there were no updates since; then nothing
        differs from a coordinator that never stopped. Peers' updates since then are no more known
        one by one: of each round their mean stands for them, which is at most as long."""
        if state:
            values, count = from_bytes(state), len(self.weights)
            require(2 * count <= len(values) <= 2 * count + REMEMBERED, "The state of the outer "
                    "optimizer has another size than the weights.")
            self.momentum, self.residual = values[:count].clone(), values[count: 2 * count].clone()
            self.lengths.extend(values[2 * count:].tolist())
        for codec, update in since:
            broadcast = decode(codec, update, len(self.weights))
            mu, before = self.sync.outer_momentum, self.momentum
            mean = torch.sub(broadcast / self.sync.outer_lr, before, alpha=mu * mu) / (1 + mu)
            self.lengths.append(float(mean.norm()))
            self.follow(broadcast)
            self.residual.zero_()
        self.heavy.extend(heavy)
