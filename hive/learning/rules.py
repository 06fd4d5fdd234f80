"""What can be told of an update by looking at it beside the others of its round, at little cost.

Each update leaves a sketch: its values with random signs, added up in some thousand places. Inner
products of sketches are those of the updates, give or take 1 / sqrt(places) (count sketch, Charikar
et al. 2002), so a round of any size is compared without keeping its updates apart. Nobody but the
coordinator knows the signs.

Everything is relative to the others: late in training updates are small and have little in common,
and then nothing is said at all.
"""
from __future__ import annotations

import math
import statistics
from typing import Iterable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.linalg import vector_norm

from hive.learning.codec import blocks_of

PLACES = 4096  # of a sketch
ROWS = 64  # of that many values, as are signed and added up at once: they stay in the cache
OTHERS = 3  # updates that another one is compared with, at least
AGREEING = 0.1  # median cosine of an update with the mean of the others; below it nothing is said
UNLIKE = 0.2  # of that median: less in common with the others is nothing in common
SURE = 4.0  # standard deviations by which a cosine has to be below the median
SAME = 0.95  # cosine of two updates from which on one is a copy, if the others are less alike
ODD = 5.0  # times the median length: in all or within one tensor; worth a closer look


class Sketch(NamedTuple):
    """What is kept of an update."""

    places: Tensor  # (places,), of length 1
    length: float
    tensors: Tensor  # (n,), the length within each tensor that it is a part of


class Seen(NamedTuple):
    """An update beside the others of its round; what cannot be told is NaN."""

    cosine: float = math.nan  # with the mean of the others
    usual: float = math.nan  # the median of these
    length: float = math.nan  # times the median length
    tensor: float = math.nan  # the same within the tensor where it is longest
    likeness: float = math.nan  # cosine with what it is most alike
    twin: int = -1  # place of that update in the round; -1: what the hive or this peer sent before
    fault: str = ""  # why it must not count, for a person
    odd: bool = False  # worth a closer look


class Sketcher:
    """Signs (P,) drawn from a secret seed, and where the tensors of the network begin."""

    def __init__(self, count: int, seed: int, tensors: Sequence[int] = ()):
        generator = torch.Generator().manual_seed(seed)
        self.signs = torch.randint(0, 2, (count,), generator=generator).to(torch.int8) * 2 - 1
        self.borders = [0]
        for size in tensors or (count,):
            self.borders.append(self.borders[-1] + size)

    def sketch(self, update: Tensor, part: slice) -> Sketch:
        """Of an update (n,) of a part of the weights."""
        size = min(PLACES, len(update))
        places, scratch = update.new_zeros(size), update.new_empty(min(ROWS * size, len(update)))
        for values, signs in zip(update.split(ROWS * size), self.signs[part].split(ROWS * size)):
            # copied first: to multiply numbers of two types takes several times as long
            signed = scratch[: len(values)].copy_(signs).mul_(values)
            places += blocks_of(signed, size).sum(0)
        inside = [(max(begin, part.start) - part.start, min(end, part.stop) - part.start)
                  for begin, end in zip(self.borders, self.borders[1:])
                  if max(begin, part.start) < min(end, part.stop)]
        lengths = torch.stack([vector_norm(update[begin:end]) for begin, end in inside])
        return Sketch(places / max(float(vector_norm(places)), 1e-30), float(vector_norm(update)),
                      lengths)


def look(sketches: Sequence[Sketch], before: Sequence[Optional[Tensor]] = (),
         late: Sequence[bool] = (), trusted: Sequence[bool] = ()) -> List[Seen]:
    """Each update of a round beside the others, in the order in which they came. `before`: what
    else each may be a copy of, as places of a sketch (k, places); `late`: which start from older
    weights and may differ; `trusted`: which the others are compared with (default: all)."""
    count = len(sketches)
    late, trusted = late or [False] * count, trusted or [True] * count
    others = sum(trusted)
    if not count:
        return []
    places = torch.stack([one.places for one in sketches])  # (K, places)
    alike = places @ places.T  # (K, K)
    cosines = agreement(alike, trusted)
    usual = median(cosines[i] for i in range(count) if trusted[i])
    spread = median(abs(cosines[i] - usual) for i in range(count) if trusted[i])
    doubt = SURE * max(1.5 * spread, 1 / math.sqrt(places.shape[1]))
    lengths = relative(torch.tensor([[one.length] for one in sketches]), trusted)
    tensors = relative(torch.stack([one.tensors for one in sketches]), trusted)
    pairs = median(one for i, row in enumerate(alike.tolist()) for one in row[:i])
    seen = []
    for i in range(count):
        likeness, twin = likest(i, alike, before[i] if before else None, places[i])
        known = others - trusted[i] >= OTHERS
        fault = ""
        if known and likeness > SAME and 1 - likeness < (1 - pairs) / 4:
            fault = "is a copy"
        elif known and usual > AGREEING and usual - cosines[i] > doubt:
            if cosines[i] < -UNLIKE * usual:
                fault = "points the other way than those of the others"
            elif cosines[i] < UNLIKE * usual and not late[i]:
                fault = "has nothing in common with those of the others"
        odd = known and max(lengths[i], tensors[i]) > ODD
        seen.append(Seen(cosines[i], usual, lengths[i], tensors[i], likeness, twin, fault,
                         bool(fault) or odd))
    if all(one.fault for one, counts in zip(seen, trusted) if counts):
        return [one._replace(fault="") for one in seen]  # nobody would be left to compare with
    return seen


def agreement(alike: Tensor, trusted: Sequence[bool]) -> List[float]:
    """The cosine of each with the mean of the directions of those others that are trusted, from
    all inner products (K, K) of vectors of length 1."""
    chosen = torch.tensor(trusted, dtype=alike.dtype)  # (K,)
    whole = float(chosen @ alike @ chosen)  # squared length of the sum
    cosines = []
    for i, mine in enumerate(trusted):
        with_sum = float(alike[i] @ chosen)
        own = float(alike[i, i]) if mine else 0.0
        rest = whole - 2 * with_sum * mine + own  # squared length of the sum without this one
        cosines.append((with_sum - own) / math.sqrt(max(rest, 1e-12)) if rest > 1e-9 else 0.0)
    return cosines


def likest(i: int, alike: Tensor, before: Optional[Tensor], mine: Tensor) -> Tuple[float, int]:
    """What came before an update and is most like it: (cosine, place in the round or -1)."""
    likeness, twin = -math.inf, -1
    if i:
        likeness, twin = float(alike[i, :i].max()), int(alike[i, :i].argmax())
    if before is not None and len(before):
        earlier = float((before @ mine).max())
        if earlier > likeness:
            likeness, twin = earlier, -1
    return likeness, twin


def relative(lengths: Tensor, trusted: Sequence[bool]) -> List[float]:
    """The largest of each row (K, n) when all are divided by the median of their column."""
    known = lengths[torch.tensor(trusted)] if any(trusted) else lengths
    return (lengths / known.median(0).values.clamp(min=1e-30)).max(1).values.tolist()


def median(values: Iterable[float]) -> float:
    known = list(values)
    return statistics.median(known) if known else math.nan
