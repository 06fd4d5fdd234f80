"""How often something may happen: a token bucket, pure, with the time passed in."""
from __future__ import annotations


class Bucket:
    """`most` tokens at first, `a_second` more every second, but never more than `most`."""

    def __init__(self, most: float, a_second: float):
        self.most, self.a_second = most, a_second
        self.left, self.at = most, 0.0

    def take(self, count: float, now: float) -> bool:
        """Take this many tokens if there are enough; were there?"""
        self.left = min(self.most, self.left + self.a_second * max(0.0, now - self.at))
        self.at = now
        if self.left < count:
            return False
        self.left -= count
        return True
