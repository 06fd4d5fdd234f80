"""What an update does to the loss: the same characters before and after it, and how sure that is.

A probe goes a small part of the way that an update points, from the weights that its round began
with, and asks the network about the same windows of text before and after (Gauntlet, arXiv
2505.21684, section 3). Windows are independent of each other, so their spread tells how sure the
mean is. Far fewer characters are enough than for a loss, as most of what makes one window harder
than another is the same on both sides.
"""
from __future__ import annotations

import math
from typing import Dict, NamedTuple, Optional, Protocol, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gltch_2_7m import GLTCH, Config, Windows
from hive.learning.codec import unflatten

WAY = 0.25  # of an update: all of it may lead too far, late in training, for the best of peers
HELD_OUT = 4096  # characters of the held-out text
GIVEN = 2048  # ... and of the windows that a peer was given, and of others


class Change(NamedTuple):
    """By how much the loss of some windows falls, in nats per character."""

    mean: float
    doubt: float  # standard deviation of that mean

    @property
    def sure(self) -> float:
        """How many standard deviations above no change at all."""
        return self.mean / max(self.doubt, 1e-12)


def change(before: Tensor, after: Tensor) -> Change:
    """From the loss of each window (N,) before and after; of one alone nothing is sure."""
    fall = (before - after).double()
    doubt = float(fall.std()) / math.sqrt(len(fall)) if len(fall) > 1 else math.inf
    return Change(float(fall.mean()), doubt)


class Ground(Protocol):
    """Where updates are tried: the loss of each of some windows (N,)."""

    def held_out(self, weights: Tensor) -> Tensor: ...
    def windows(self, weights: Tensor, indices: Sequence[int]) -> Tensor: ...


class TextGround:
    """A network, the windows that peers train on, and those of a text that they never see."""

    def __init__(self, config: Config, train: Tensor, held_out: Tensor, seed: int):
        self.model, size = GLTCH(config), config.block_size
        self.model.eval()
        self.train = Windows(train, size, seed)
        self.most = max(2, GIVEN // size)
        room = len(held_out) - size - 1
        count = max(2, HELD_OUT // size)
        starts = torch.linspace(0, max(0, room), min(count, max(1, room))).long()  # spread evenly
        self.chosen = held_out[starts[:, None] + torch.arange(min(size, len(held_out) - 1) + 1)
                               ].long()  # (N, T + 1)

    def held_out(self, weights: Tensor) -> Tensor:
        return self.losses(weights, self.chosen[:, :-1], self.chosen[:, 1:])

    def windows(self, weights: Tensor, indices: Sequence[int]) -> Tensor:
        return self.losses(weights, *self.train.batch(indices[: self.most]))

    @torch.inference_mode()
    def losses(self, weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """Of each of the windows (N, T)."""
        unflatten(weights, self.model)
        logits = self.model(inputs).float()  # (N, T, V)
        return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(1)


class Probed(NamedTuple):
    """What an update did."""

    gain: Change  # on the held-out text, a part of the way
    length: float  # of that way
    own: float = math.nan  # how surely it did more for the windows it was given than for others


class Probe:
    """Tries updates (n,) of one part of the weights, from the same weights (P,)."""

    def __init__(self, ground: Ground, weights: Tensor, part: slice):
        self.ground, self.weights, self.part = ground, weights, part
        self.before = ground.held_out(weights)
        self.known: Dict[Tuple[int, ...], Tensor] = {}  # losses of windows at these weights

    @property
    def loss(self) -> float:
        """Of the held-out text, at these weights."""
        return float(self.before.mean())

    def after(self, weights: Tensor) -> Change:
        """What other weights bring."""
        return change(self.before, self.ground.held_out(weights))

    def at_first(self, windows: Sequence[int]) -> Tensor:
        """Their losses before; many updates are tried on the same windows that nobody was given."""
        known = tuple(windows)
        if known not in self.known:
            self.known[known] = self.ground.windows(self.weights, windows)
        return self.known[known]

    def tried(self, update: Tensor, given: Optional[Sequence[int]] = None,
              others: Sequence[int] = ()) -> Probed:
        way = WAY * update
        there = self.weights.clone()
        there[self.part] -= way
        own = math.nan
        if given:
            on_own, on_others = (change(self.at_first(some), self.ground.windows(there, some))
                                 for some in (given, others))
            doubt = max(math.hypot(on_own.doubt, on_others.doubt), 1e-12)
            own = math.nan if math.isinf(doubt) else (on_own.mean - on_others.mean) / doubt
        return Probed(change(self.before, self.ground.held_out(there)), float(way.norm()), own)
