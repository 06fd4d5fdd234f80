"""What is measured of a peer, over all its connections."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass
class Account:
    """What its tokens came to, and how it spent its time."""

    trained: int = 0  # tokens
    lost: int = 0  # of these
    unsettled: int = 0  # of these, what no update is known to have brought in
    training: float = 0.0  # seconds
    connected: float = 0.0  # seconds, on connections that are over
    since: Optional[float] = None  # when it connected; None while it is not

    def step(self, tokens: int, seconds: float) -> None:
        self.trained += tokens
        self.unsettled += tokens
        self.training += seconds

    def count(self, carried: int) -> None:
        """An update counted; so much is carried still."""
        self.unsettled = carried

    def lose(self, carried: int) -> None:
        """What was trained and is not carried any more is lost."""
        self.lost += self.unsettled - carried
        self.unsettled = carried

    def connect(self, now: float) -> None:
        self.since = now

    def hang_up(self, now: float) -> None:
        self.connected, self.since = self.seconds_connected(now), None

    def seconds_connected(self, now: float) -> float:
        return self.connected + (0.0 if self.since is None else now - self.since)
