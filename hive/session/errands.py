"""Slow work that a peer's session has asked its host for."""
from __future__ import annotations

from typing import Any, Callable, Dict, NamedTuple, Optional

from hive.session.effects import PeerWork


class Errand(NamedTuple):
    """Its end is waited for."""

    what: PeerWork
    then: Callable[[Any], None]


class Errands:
    def __init__(self) -> None:
        self.ticket = 0
        self.under_way: Dict[int, Errand] = {}

    def ask(self, what: PeerWork, then: Optional[Callable[[Any], None]]) -> int:
        """Returns its ticket. Nobody waits for what leads to nothing."""
        self.ticket += 1
        if then:
            self.under_way[self.ticket] = Errand(what, then)
        return self.ticket

    def forget(self, *names: PeerWork) -> None:
        self.under_way = {ticket: one for ticket, one in self.under_way.items()
                          if one.what not in names}
