"""The fields of each message that somebody reads, for the type checker; `protocol.MESSAGES` says
what may be in them, and a test compares the two."""
from __future__ import annotations

from typing import Any, Dict, List, Literal, Optional, TypedDict

Kind = Literal["cuda", "mps", "cpu", "tab"]  # of a device; a tab is that of a browser
FromPeer = Literal["hello", "ready", "fetch", "offer", "progress", "goodbye"]
FromCoordinator = Literal["challenge", "welcome", "blob", "gone", "version", "commit", "train",
                          "send", "verdict", "status", "finished", "refused"]


class Challenge(TypedDict):
    type: str
    protocol: int
    hive: str
    nonce: str
    locked: bool


class Hello(TypedDict):
    type: str
    protocol: int
    nonce: str
    proof: str
    name: str
    device: str
    kind: Kind
    process: str
    token: Optional[str]
    text: Optional[str]


class Welcome(TypedDict):
    type: str
    proof: str
    peer: str
    name: str
    token: Optional[str]
    counted: List[int]  # rounds
    job: Dict[str, Any]


class Ready(TypedDict):
    type: str
    version: int
    weights: Optional[str]
    batch_size: int


class Version(TypedDict):
    type: str
    version: int
    weights: str
    step: int
    counted: List[int]  # rounds


class Train(TypedDict):
    type: str
    version: int
    weights: str
    step: int
    total: Optional[int]
    quota: int
    seconds: float
    window: int


class Commit(TypedDict):
    type: str
    version: int
    weights: str
    codec: str
    update: str
    bytes: int
    step: int
    counted: bool
    follows: bool  # its content comes at once, and then the next task


class Status(TypedDict):
    type: str
    version: int
    peers: int
    loss: Optional[float]
    val_loss: Optional[float]


class Finished(TypedDict):
    type: str
    reason: str


class Offer(TypedDict):
    type: str
    version: int  # that its round starts from
    base: int  # that its peer held
    weights: str
    codec: str
    update: str
    bytes: int
    steps: int
    tokens: int
    loss: Optional[float]
    seconds: float
    batch_size: int
    follows: bool  # its content comes at once


class Send(TypedDict):
    type: str
    blob: str
    offset: int


class Verdict(TypedDict):
    type: str
    version: int
    verdict: str
    reason: str


class Fetch(TypedDict):
    type: str
    blob: str
    offset: int


class Blob(TypedDict):
    type: str
    blob: str
    bytes: int
    offset: int


class Gone(TypedDict):
    type: str
    blob: str


class Progress(TypedDict):
    type: str
    version: int
    steps: int
