"""From many updates to one: admission, weighted mean, outer optimizer, the next weights.

A peer's update is its pseudo-gradient, theta_t - theta_i after its inner steps. The coordinator
keeps their weighted mean while they arrive, takes one outer step, and applies exactly the encoded
update that it broadcasts: so every copy of the weights stays equal, bit for bit.
"""
from __future__ import annotations

import math
import statistics
from collections import OrderedDict, deque
from typing import Deque, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

from gltch_2_7m import GltchError, require
from hive.learning.codec import (
    CHUNK,
    WHOLE,
    decode,
    decode_part,
    digest,
    encode,
    from_bytes,
    replaced,
    to_bytes,
)
from hive.learning.fragments import Fragments
from hive.learning.robust import COMBINATIONS, Combination
from hive.learning.rules import Seen, Sketch, Sketcher, look
from hive.learning.sync import UNDO, Sync

CLIP = 3.0  # an update longer than this many median lengths is shortened to that
HEAVIEST = 4.0  # an update heavier than this many median weights counts as that heavy
FIRST_STEP = 0.02  # of the weights' length that a step may move, while no lengths are known; three
# times what the first steps of the presets do
REMEMBERED = 64  # weights of the latest updates, and lengths of each part's, for their medians
ENOUGH = 3  # of them for a median
KEPT_BYTES = 1 << 28  # of updates of the open round; what is beyond is counted and not kept, but
# for combinations that need them all
AT_ONCE = 1 << 24  # values of all updates that such a combination decodes at once, 64 MiB
MOST_SKETCHES = 1024  # of peers whose latest update is remembered, to know it again


class Rejected(GltchError):
    """An update that must not touch the weights; the message says why."""


def apply_update(weights: Tensor, codec: str, content: bytes, part: slice = WHOLE) -> Tensor:
    """The weights (P,) after a committed update of a part; the one way they ever change."""
    return moved(weights, part, decode(codec, content, len(weights[part])))


def moved(weights: Tensor, part: slice, update: Tensor) -> Tensor:
    return replaced(weights, part, weights[part] - update)


class Brought(NamedTuple):
    """An update of the open round, and what was seen of it beside the others."""

    by: str
    codec: str
    content: bytes  # empty: there was no room to keep it
    weight: float  # 0: its peer is set aside, or it turned out that it must not count
    share: float  # of it that was added: less than 1 if it was too long
    late: bool
    sketch: Sketch
    seen: Seen = Seen()


class Committed(NamedTuple):
    """One outer step: what is broadcast, and the weights it leads to."""

    codec: str
    update: bytes
    base: str  # SHA-256 of the weights before
    weights: Tensor  # (P,)
    result: str  # SHA-256 of the weights after
    broadcast: Tensor  # (n,), the encoded update of the round's part as everybody decodes it
    residual: Tensor  # (n,), what it leaves out
    brought: Sequence[Brought] = ()  # by whom, also what does not count


class Outer:
    """The global weights, at some version, and all that decides how they move. One round: `add`
    ..., `step`, `accept`. It moves its own part of the weights, and what belongs to that part.

    `usual` is what an update weighs, in tokens, as long as that is not known from updates.
    `secret` is what nobody may know who sends updates, and `tensors` are the sizes of those that
    the weights are made of; `combination` is one of `robust.COMBINATIONS`."""

    def __init__(self, weights: Tensor, sync: Sync, usual: float = math.inf, version: int = 0,
                 secret: int = 0, tensors: Sequence[int] = (), combination: str = "mean"):
        self.weights, self.sync, self.version = weights, sync, version
        self.fragments = Fragments(len(weights), sync.fragments)
        self.hash = digest(weights)
        self.momentum = torch.zeros_like(weights)
        self.residual = torch.zeros_like(weights)  # what the broadcasts left out so far
        self.total = torch.zeros_like(weights)  # of what has been added since the last step
        self.lengths: List[Deque[float]] = [  # of updates, by part
            deque(maxlen=REMEMBERED) for _ in self.fragments.parts]
        self.heavy: Deque[float] = deque([usual] * ENOUGH, maxlen=REMEMBERED)  # weights of updates
        self.combination = COMBINATIONS[combination]
        self.sketcher = Sketcher(len(weights), secret, tensors)
        self.known: OrderedDict[Tuple[str, int], Tensor] = OrderedDict()  # the latest of a part, by
        # whom; of the hive itself by nobody: sketches
        self.begin()

    def begin(self) -> None:
        """Forget what has been added since the last step."""
        self.total.zero_()
        self.weight = 0.0
        self.brought: List[Brought] = []
        self.kept = 0  # bytes

    @property
    def part(self) -> slice:
        """What the open round moves."""
        return self.fragments.of_round(self.version + 1)

    def add(self, codec: str, content: bytes, weight: float, steps: int, by: str = "",
            late: bool = False) -> float:
        """Count one peer's update of `steps` inner steps, no longer and no heavier than a few times
        the usual; without weight it is only looked at. Returns the weight that it counts with;
        raises Rejected."""
        if codec != self.sync.up:
            raise Rejected(f"Updates are sent as {self.sync.up} here, not {codec!r}.")
        try:
            update = decode(codec, content, self.fragments.values(self.version + 1))
        except GltchError as error:
            raise Rejected(str(error)) from None
        sketch = self.sketcher.sketch(update, self.part)
        length = sketch.length
        if not math.isfinite(length):
            raise Rejected("The update holds values that are not finite: training broke down on "
                           "that peer.")
        lengths = self.lengths[self.fragments.index(self.version + 1)]
        longest = CLIP * statistics.median(lengths) if len(lengths) >= ENOUGH else 0.0
        rounds = len(self.fragments)  # since this part had its turn
        longest = (longest or FIRST_STEP * steps * rounds * self.share_of_length(len(update))
                   or math.inf)
        counting = min(weight, HEAVIEST * statistics.median(self.heavy))
        share = min(1.0, longest / max(length, 1e-30))
        if weight:
            lengths.append(length)
            self.heavy.append(weight)
            self.total[self.part].add_(update, alpha=counting * share)
            self.weight += counting
        self.kept += len(content)
        keep = self.kept <= KEPT_BYTES or self.combination is not None
        self.brought.append(
            Brought(by, codec, content if keep else b"", counting, share, late, sketch))
        return counting

    def judge(self) -> None:
        """Look at the updates of the round beside each other, and take out what must not count."""
        index = self.fragments.index(self.version + 1)
        before = [[known for known in (self.known.get((one.by, index)),
                                       self.known.get(("", index))) if known is not None]
                  for one in self.brought]
        seen = look([one.sketch for one in self.brought],
                    [torch.stack(known) if known else None for known in before],
                    [one.late for one in self.brought],
                    [one.weight > 0 for one in self.brought])
        for place, one in enumerate(self.brought):
            self.remember(one.by, index, one.sketch.places)
            if seen[place].fault and one.weight and one.content:
                update = decode(one.codec, one.content, self.fragments.values(self.version + 1))
                self.total[self.part].sub_(update, alpha=one.weight * one.share)
                one = one._replace(weight=0.0)
            self.brought[place] = one._replace(seen=seen[place])
        self.weight = sum(one.weight for one in self.brought)

    def remember(self, by: str, index: int, places: Tensor) -> None:
        self.known[by, index] = places
        self.known.move_to_end((by, index))
        while len(self.known) > MOST_SKETCHES * len(self.fragments):
            self.known.popitem(last=False)

    def share_of_length(self, values: int) -> float:
        """How long this many of the weights are on average; a part may itself be all zeros."""
        return float(self.weights.norm()) * math.sqrt(values / len(self.weights))

    def combined(self, combination: Combination) -> Tensor:
        """What the updates of the round say together, (n,), where that is not their mean."""
        counting = [one for one in self.brought if one.weight and one.content]
        values = self.fragments.values(self.version + 1)
        size = max(1, AT_ONCE // max(1, len(counting)) // CHUNK) * CHUNK

        def pieces() -> Iterator[Tuple[slice, Tensor]]:
            for begin in range(0, values, size):
                part = slice(begin, min(begin + size, values))
                yield part, torch.stack([
                    decode_part(one.codec, one.content, values, part) * one.share
                    for one in counting])  # (K, m)

        return combination(pieces, torch.tensor([one.weight for one in counting]),
                           self.momentum[self.part])

    def step(self) -> Committed:
        """The next weights, by SGD with Nesterov momentum over the weighted mean (DiLoCo, arXiv
        2311.08105, algorithm 1), encoded with error feedback. Changes nothing until `accept`."""
        assert self.weight > 0, "a step needs an update"
        mu, part = self.sync.outer_momentum, self.part
        if self.combination:
            update = self.combined(self.combination) * (1 + mu)
        else:
            update = self.total[part] * ((1 + mu) / self.weight)
        # mean + mu (mu b + mean), in place
        update.add_(self.momentum[part], alpha=mu * mu).mul_(self.sync.outer_lr)
        update.add_(self.residual[part])
        content = encode(self.sync.down, update)
        broadcast = decode(self.sync.down, content, len(update))
        weights = moved(self.weights, part, broadcast)  # as `apply_update` does it
        return Committed(self.sync.down, content, self.hash, weights, digest(weights), broadcast,
                         update.sub_(broadcast), self.brought)

    def back_to(self, version: int, weights: Tensor) -> Committed:
        """A round that returns to the weights (P,) of an earlier version. What was added to the
        open round is not part of it."""
        nothing = weights[:0]
        return Committed(UNDO, str(version).encode(), self.hash, weights, digest(weights), nothing,
                         nothing)

    def accept(self, committed: Committed) -> None:
        """Move on to the committed weights; the next round begins."""
        if committed.codec == UNDO:
            self.return_to(int(committed.update), self.version + 1)
        else:
            self.residual[self.part] = committed.residual
            self.follow(self.part, committed.broadcast)
            self.remember("", self.fragments.index(self.version + 1),
                          self.sketcher.sketch(committed.broadcast, self.part).places)
        self.weights, self.hash = committed.weights, committed.result
        self.version += 1
        self.begin()

    def return_to(self, version: int, number: int) -> None:
        """Round `number` did. Nothing goes on in the direction of what was undone."""
        if version < number - 1:
            self.momentum.zero_()
            self.residual.zero_()
            self.known.clear()

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
            if codec == UNDO:
                self.return_to(int(update), number)
                continue
            part = self.fragments.of_round(number)
            broadcast = decode(codec, update, self.fragments.values(number))
            mu, before = self.sync.outer_momentum, self.momentum[part]
            mean = torch.sub(broadcast / self.sync.outer_lr, before, alpha=mu * mu) / (1 + mu)
            self.lengths[self.fragments.index(number)].append(float(mean.norm()))
            self.follow(part, broadcast)
            self.residual[part].zero_()
        self.heavy.extend(heavy)
