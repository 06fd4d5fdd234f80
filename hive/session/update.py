"""A peer's update, from the task that it is trained in to the news whether it counts."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, List, NamedTuple

from hive.learning.fragments import Fragments
from hive.session import protocol
from hive.session.protocol import Message


class Held(NamedTuple):
    """The hive's weights, as this peer has them."""

    version: int
    hash: str  # their SHA-256
    weights: Any


NOTHING = Held(0, "", None)


class Task(NamedTuple):
    """Steps to make from these weights."""

    base: Held
    quota: int
    most: int  # with those that are made while updates travel
    seconds: float  # for the quota
    began: float  # steady seconds

    def done(self, steps: int, now: float) -> bool:
        """All are made, or there is no time for another one."""
        spent = now - self.began
        return steps >= self.quota or spent * (steps + 1) / steps > self.seconds


@dataclass
class Progress:
    """Steps that no update was made of yet."""

    steps: int = 0
    tokens: int = 0
    losses: float = 0.0  # sum over the steps, nats per character
    seconds: float = 0.0  # spent training

    def add(self, tokens: int, loss: float, seconds: float) -> None:
        self.steps, self.tokens = self.steps + 1, self.tokens + tokens
        self.losses, self.seconds = self.losses + loss, self.seconds + seconds

    @property
    def loss(self) -> float:
        return self.losses / self.steps

    @property
    def speed(self) -> float:
        """Characters a second."""
        return self.tokens / max(self.seconds, 1e-9)


@dataclass(eq=False)
class Outgoing:
    """An update on its way: nobody knows yet whether it counts."""

    version: int  # of the weights that its round starts from
    base: int  # of the weights that its peer held; earlier ones, if other updates were on their way
    weights: str  # their SHA-256
    codec: str
    update: bytes
    sequences: int  # in a step
    part: slice  # of the weights
    work: Progress  # with the tokens of earlier updates that did not count
    told: bool = False  # on this connection
    offered: float = -math.inf  # when this was last told, or sent; inf while it is being sent
    sent: bool = False  # since it was offered
    eager: bool = False  # sent along with its first offer
    last_chance: bool = False  # no error feedback keeps it any more

    def __post_init__(self) -> None:
        self.blob = protocol.name_of(self.update)

    def counted_in(self, rounds: List[int], fragments: Fragments) -> bool:
        """In one of these its peer counted, by what is written down."""
        return any(number > self.version and fragments.of_round(number) == self.part
                   for number in rounds)

    def offer(self, now: float, follows: bool) -> Message:
        """What the coordinator hears of it now; `follows`: all of it comes at once."""
        self.told, self.offered, self.sent, self.eager = True, now, False, follows
        work = self.work
        return {"type": "offer", "version": self.version, "base": self.base,
                "weights": self.weights, "codec": self.codec, "update": self.blob,
                "bytes": len(self.update), "steps": work.steps, "tokens": work.tokens,
                "seconds": work.seconds, "loss": work.loss if math.isfinite(work.loss) else None,
                "batch_size": self.sequences, "follows": follows}
