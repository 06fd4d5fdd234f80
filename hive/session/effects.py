"""What a session wants done. Its host does it, in order.

`link` is a number that the host gave a connection; the peer's side has one connection and names
none. `ticket` is a number that the session gave to a piece of slow work: its end comes back with
it, as `done(ticket, result, now)` or `failed(ticket, error, now)`.
"""
from __future__ import annotations

from typing import Any, Dict, Literal, NamedTuple, Optional, Tuple, Union

from hive.session.protocol import Message
from hive.session.schema import Content, EventKind


class Moment(NamedTuple):
    """Now, on two clocks."""

    steady: float  # seconds of a clock that only goes forward: for waiting
    unix: float  # for what is written down


# --- On both sides --------------------------------------------------------------------------------

PeerWork = Literal["text", "begin", "load", "whole", "apply", "rebase", "task", "take", "settle",
                   "forget"]
CoordinatorWork = Literal["add", "combine", "undo", "keep", "snapshot", "remember_peer", "evaluate",
                          "keep_evaluation", "keep_checkpoint", "probe"]
Work = Union[PeerWork, CoordinatorWork]
Lane = Literal["work", "updates", "evaluations", "probes"]


class Do(NamedTuple):
    """Slow work. What has the same lane is done one after the other, in this order."""

    ticket: int
    lane: Lane
    what: Work
    values: Tuple[Any, ...] = ()


class Say(NamedTuple):
    """A line for people."""

    kind: str
    text: str


# --- The coordinator's ----------------------------------------------------------------------------

class Send(NamedTuple):
    link: int
    message: Message


class SendBlob(NamedTuple):
    """In chunks, after everything that was sent on this link before."""

    link: int
    what: Content
    blob: str  # SHA-256 of the content
    content: bytes
    offset: int


class Proved(NamedTuple):
    """It has the key: it is a peer now, and no stranger at the door."""

    link: int


class Close(NamedTuple):
    """Nothing that waits is sent any more, but for the last word."""

    link: int
    code: int  # of the WebSocket's closing frame
    reason: str
    last: Optional[Message] = None


class Pause(NamedTuple):
    """Hear nothing from this link for so long; it keeps what it says until then."""

    link: int
    seconds: float


class Event(NamedTuple):
    """Something happened that the dashboard shows."""

    kind: EventKind
    fields: Dict[str, Any]


class Finish(NamedTuple):
    """The run is over, and everything is written down."""

    reason: str


class Fail(NamedTuple):
    """The run cannot go on."""

    error: Exception


CoordinatorEffect = Union[Send, SendBlob, Proved, Close, Pause, Do, Event, Say, Finish, Fail]


# --- The peer's -----------------------------------------------------------------------------------

class Tell(NamedTuple):
    message: Message


class Upload(NamedTuple):
    """In chunks, after everything that was told before; `uploaded(blob, now)` when it is out."""

    blob: str  # SHA-256 of the content
    content: bytes
    offset: int


class Keep(NamedTuple):
    """The identity, for the next process of this peer."""

    token: str
    name: str


class Settled(NamedTuple):
    """This connection is a good one: the next wait before connecting may be short again."""


class Leave(NamedTuple):
    """This conversation went wrong, or is over for a reason; a new connection may begin another."""

    reason: str


class Refuse(NamedTuple):
    """The coordinator will not have this peer; trying again would change nothing."""

    reason: str


class End(NamedTuple):
    """The run is over."""

    reason: str


PeerEffect = Union[Tell, Upload, Keep, Settled, Leave, Refuse, End, Do, Say]
