"""What pages and scripts hear: the fields of /api/state, of a peer in it, of every event.

docs/api.md says what they mean; tests compare it, the types in `page/facts.d.ts` and what real runs
tell with these. They stand here and not in the dashboard because the session makes the events.
None: not measured yet, or there is none; a number that is not finite becomes None, too.
"""
from __future__ import annotations

from typing import Any, Dict, List, Literal, Optional, TypedDict

PeerState = Literal[
    "joining", "waiting", "ready", "training", "uploading", "delivered", "lagging"]
Kind = Literal["", "cuda", "mps", "cpu", "tab"]  # empty: it was here before peers said so
Content = Literal["update", "weights", "text"]
Limit = Literal["", "device", "uplink", "round"]
Phase = Literal["waiting", "training", "committing", "paused", "finished"]


class Traffic(TypedDict):
    bytes_up: int
    bytes_down: int


# --- A peer ---------------------------------------------------------------------------------------

class Known(TypedDict):
    """A peer that is here, or was."""

    peer: str
    name: str
    device: str
    kind: Kind
    tokens: int
    counted: int
    late: int
    rejected: int
    reason: str
    score: float
    aside: str


class Contributed(Known):
    first_seen: float
    last_seen: float
    bytes: int
    banned: bool


class Ranked(Contributed):
    share: float


class Contributor(Ranked):
    """One of /api/peers."""

    connected: bool


class Member(Known):
    """What the session knows of a peer that is here."""

    share: float
    state: PeerState
    steps: int
    quota: int
    speed: Optional[float]
    training: Optional[float]
    limit: Limit
    joined: float


class Peer(Member, Traffic):
    latency: Optional[float]


class PeerNumbers(TypedDict, total=False):
    """Those of a peer's numbers that `measured` tells when they have changed."""

    speed: Optional[float]
    training: Optional[float]
    limit: Limit
    bytes_up: int
    bytes_down: int
    latency: Optional[float]
    tokens: int
    counted: int
    late: int
    rejected: int
    score: float
    aside: str


class Everybody(TypedDict):
    """/api/peers"""

    peers: List[Peer]
    contributors: List[Contributor]


# --- The run --------------------------------------------------------------------------------------

class Round(TypedDict):
    """The round that is being made."""

    quota: int
    seconds: float
    left: float


class Fastest(TypedDict):
    name: str
    speed: float


class Shape(TypedDict):
    """Of the network: what a peer's memory depends on."""

    layers: int
    heads: int
    width: int


class Join(TypedDict):
    port: int
    locked: bool
    colab: Optional[str]
    browsers: bool
    network: Shape
    peer_sha256: str


class Undone(TypedDict):
    """A round that went back to an earlier version."""

    round: int
    to: int


class Updates(TypedDict):
    counted: int
    late: int
    rejected: int


class Fixed(TypedDict):
    """What stays as it is for the life of the process."""

    session: str
    mode: Literal["hive", "single"]
    unit: Literal["round", "step"]
    run: str
    hive: str
    size: str
    sync: str
    parameters: int
    context: int
    vocabulary: int
    join: Optional[Join]


class Measured(Traffic):
    """What changes all the time."""

    phase: Phase
    paused: str
    version: int
    step: int
    total: Optional[int]
    round: Optional[Round]
    seconds: float
    remaining: Optional[float]
    tokens: int
    speed: Optional[float]
    flops: Optional[float]
    fastest: Optional[Fastest]
    speedup: Optional[float]


class State(Fixed, Measured):
    """/api/state"""

    seq: int
    now: float
    finished: str
    loss: Optional[float]
    val_loss: Optional[float]
    best_val_loss: Optional[float]
    evaluated: int
    undone: List[Undone]
    set_aside: int
    started: Optional[float]
    snapshots: Optional[List[int]]
    updates: Updates
    peers: List[Peer]


# --- The events, which all have `seq`, `at` and `type` too ----------------------------------------

class Joined(TypedDict):
    peer: Peer


class Left(TypedDict):
    peer: str


class WentOn(TypedDict):
    peer: str
    state: PeerState
    steps: int
    quota: int


class Transfer(TypedDict):
    peer: str
    direction: Literal["up", "down"]
    content: Content
    bytes: int


class Opened(TypedDict):
    version: int
    quota: int
    seconds: float


class Closed(TypedDict):
    version: int


class Contribution(TypedDict):
    peer: str
    name: str
    steps: int
    tokens: int
    loss: Optional[float]
    bytes: int
    verdict: Literal["counted", "late", "rejected"]
    reason: str


class Snapshots(TypedDict, total=False):
    snapshots: List[int]  # of a single machine: which there are now


class Committed(Snapshots):
    version: int
    step: int
    total: Optional[int]
    loss: Optional[float]
    opened: float
    committed: float
    undone: Optional[int]
    contributions: List[Contribution]


class Refused(TypedDict):
    peer: str
    verdict: Literal["late", "rejected"]
    reason: str


class Evaluated(Snapshots):
    version: int
    step: int
    val_loss: Optional[float]
    best_val_loss: Optional[float]
    text: str


class MeasuredNow(Measured):
    peers: Dict[str, PeerNumbers]  # of those of whom something has changed


class Finished(TypedDict):
    reason: str


EventKind = Literal["state", "joined", "left", "peer", "transfer", "opened", "closed", "committed",
                    "refused", "evaluated", "measured", "finished"]
EVENTS: Dict[EventKind, Any] = {
    "state": State, "joined": Joined, "left": Left, "peer": WentOn, "transfer": Transfer,
    "opened": Opened, "closed": Closed, "committed": Committed, "refused": Refused,
    "evaluated": Evaluated, "measured": MeasuredNow, "finished": Finished}
