"""How long a peer waits before each attempt to connect."""
from __future__ import annotations

from typing import Callable

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before the next attempt
WAITED_SHARE = 0.25  # ... of all that was waited before


class Patience:
    """A coordinator that was only started again is found again soon, and one that is gone for long
    is left in peace."""

    def __init__(self) -> None:
        self.waited = 0.0

    def next(self, uniform: Callable[[float, float], float]) -> float:
        """Seconds; `uniform` draws from a range, so that not all come at once."""
        wait = min(max(FIRST_WAIT, WAITED_SHARE * self.waited), LONGEST_WAIT)
        self.waited += wait
        return wait * uniform(0.5, 1.5)
