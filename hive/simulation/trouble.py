"""The dice of a run under faults: what they bring about, and the record of it."""
from __future__ import annotations

import random
import textwrap
from collections import Counter, deque
from typing import Any, Deque, List, Tuple

from torch import Tensor

from hive.simulation.virtual import UNNOTICED_SECONDS, Clock

LATEST = 30  # events that a failure tells
LONGEST = 100  # characters of a value in them
CROWDED = 0.1  # of the runs


class Trouble:
    def __init__(self, seed: int):
        self.clock = Clock()
        self.dice = random.Random(f"faults {seed}")
        self.more = random.Random(f"more faults {seed}")  # came later, and changes no draw above
        self.newer = random.Random(f"newer faults {seed}")  # likewise
        self.covered: Counter[str] = Counter()
        self.events: Deque[Tuple[float, str, str, Tuple[Any, ...]]] = deque(maxlen=LATEST)
        self.crowd = random.Random(f"crowd {seed}")
        self.crowded = 0.3 if self.crowd.random() < CROWDED else 0.0  # a proved peer finds no place
        self.disturbances: Counter[str] = Counter()  # of what arrives: still to come
        self.calm_at = 0.0

    def note(self, who: str, what: str, values: Tuple[Any, ...] = ()) -> None:
        self.events.append((self.clock.now, who, what, values))

    def cover(self, fault: str) -> None:
        self.covered[fault] += 1
        self.note("fault", fault)

    def story(self) -> List[str]:
        """The last events, a line each."""
        return [f"{moment:10.3f}  {who:<12} {what:<10} {', '.join(map(brief, values))}"
                for moment, who, what, values in self.events]

    def until(self, moment: float) -> None:
        """A fault lasts until then."""
        self.calm_at = max(self.calm_at, moment)

    def noticed(self) -> float:
        """Seconds until one side sees that a connection broke."""
        return self.dice.choice((0.0, UNNOTICED_SECONDS))


def brief(value: Any) -> str:
    """A value as it is shown among the last events."""
    if isinstance(value, dict) and "type" in value:
        said = (f"{name} {brief(item)}" for name, item in value.items() if name != "type")
        return f"{value['type']}: {', '.join(said)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(brief, value))})"
    if isinstance(value, (bytes, Tensor)):
        return f"{len(value)} {'bytes' if isinstance(value, bytes) else 'values'}"
    if isinstance(value, str) and len(value) == 64:
        return value[:8]
    return "..." if isinstance(value, dict) else textwrap.shorten(str(value), LONGEST)
