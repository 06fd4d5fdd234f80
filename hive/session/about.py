"""Who a peer is."""
from __future__ import annotations

from typing import Callable, NamedTuple, Optional

from hive.session.messages import Kind


class Identity(NamedTuple):
    """As whom a hive knows this peer."""

    token: Optional[str]  # None: not yet
    name: str


class About(NamedTuple):
    """What this peer was started with."""

    name: str
    key: str
    device: str
    kind: Kind
    text: Optional[str]
    process: str
    batch_size: Optional[int]
    server: str  # how it is called in lines for people
    token: Callable[[], str]
    recall: Callable[[str], Optional[Identity]]
