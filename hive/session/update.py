"""A peer's update, from the task that it is trained in to the news whether it counts."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from hive.session import protocol
from hive.session.protocol import Message


class Held(NamedTuple):
    """The hive's weights, as this peer has them."""

    version: int
    hash: str  # their SHA-256
    weights: Any


NOTHING = Held(0, "", None)


class Training(NamedTuple):
    """A task that is being worked on, whatever travels meanwhile."""

    base: Held
    codec: str  # of the update that it leads to


@dataclass
class Outgoing:
    """An update on its way: nobody knows yet whether it counts."""

    version: int  # of the weights it starts from
    weights: str  # their SHA-256
    codec: str
    update: bytes
    work: Any  # learning.worker.Work; with the tokens of earlier updates that did not count
    offered: float = -math.inf  # when this was last told, or sent; inf while it is being sent
    sent: bool = False  # since it was offered

    def __post_init__(self) -> None:
        self.blob = protocol.name_of(self.update)

    def offer(self, now: float) -> Message:
        """What is told of it now."""
        self.offered, self.sent = now, False
        work = self.work
        return {"type": "offer", "version": self.version, "weights": self.weights,
                "codec": self.codec, "update": self.blob, "bytes": len(self.update),
                "steps": work.steps, "tokens": work.tokens, "seconds": work.seconds,
                "loss": work.loss if math.isfinite(work.loss) else None}
