"""What happens in a run, as a numbered sequence that the dashboard follows without a gap."""
from __future__ import annotations

import json
import math
from collections import deque
from typing import Any, Callable, Deque, Optional


class Events:
    """The latest events of one session, numbered from 1. The session is the life of one process:
    a page that knows (session, number) can be told exactly what it has missed."""

    def __init__(self, session: str, clock: Callable[[], float], keep: int = 8192):
        self.session, self.seq, self.clock = session, 0, clock
        self.latest: Deque[str] = deque(maxlen=keep)  # encoded once, for all pages

    def add(self, kind: str, **values: Any) -> None:
        self.seq += 1
        event = {"seq": self.seq, "at": self.clock(), "type": kind, **values}
        self.latest.append(json.dumps(finite(event), allow_nan=False, separators=(",", ":")))

    def since(self, session: str, seq: int) -> Optional[str]:
        """All events after number `seq` as a JSON array; None when they are not known any more, or
        never were."""
        missed = self.seq - seq
        if session != self.session or not 0 <= missed <= len(self.latest):
            return None
        return f"[{','.join(list(self.latest)[len(self.latest) - missed:])}]"


def finite(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON does not know."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
