"""How often something may happen: a pure token bucket, time passed in."""
from __future__ import annotations

import math


class Bucket:
    """`burst` at once, and `rate` a second in the long run."""

    def __init__(self, rate: float, burst: float):
        self.rate, self.burst = rate, burst
        self.left, self.at = burst, -math.inf

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Is there enough for this? Then it is used up."""
        self.left = min(self.burst, self.left + self.rate * max(0.0, now - self.at))
        self.at = now
        if self.left < cost:
            return False
        self.left -= cost
        return True
