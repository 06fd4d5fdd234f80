"""Lines for people, and not too many of one kind: a flood of peers is no flood of lines."""
from __future__ import annotations

from collections import Counter
from typing import Dict, Optional

from hive.network.throttle import Bucket


class Log:
    """Of each kind `most` lines at once, and `rate` a second in the long run."""

    def __init__(self, most: float, rate: float):
        self.most, self.rate = most, rate
        self.buckets: Dict[str, Bucket] = {}  # by kind
        self.unsaid: Counter[str] = Counter()  # lines of a kind that were too many

    def line(self, kind: str, text: str, now: float) -> Optional[str]:
        """As it should be said, None if it should not."""
        bucket = self.buckets.setdefault(kind, Bucket(self.most, self.rate))
        if not bucket.take(1, now):
            self.unsaid[kind] += 1
            return None
        unsaid = self.unsaid.pop(kind, 0)
        return f"{text} (and {unsaid:,} more since the last such line)" if unsaid else text
