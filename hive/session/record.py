"""What is written down of a round: the session makes it, and the journal keeps it."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, NamedTuple, Protocol, Sequence, Tuple

LATELY = 64  # rounds of a peer that are remembered as those in which its updates counted


@dataclass(frozen=True)
class Contribution:
    """What one peer brought to one round."""

    peer: str
    name: str
    steps: int
    tokens: int
    loss: float  # nats per character
    weight: float  # its share in the combined update
    bytes: int  # uploaded
    verdict: str  # "counted", "late" or "rejected"
    reason: str = ""  # for a person

    @property
    def shown(self) -> Dict[str, Any]:
        """On the dashboard."""
        return {"peer": self.peer, "name": self.name, "steps": self.steps, "tokens": self.tokens,
                "loss": self.loss, "bytes": self.bytes, "verdict": self.verdict,
                "reason": self.reason}


class Combined(Protocol):
    """What the slow work "combine" makes of the updates: `learning.outer.Committed` is one."""

    @property
    def codec(self) -> str: ...
    @property
    def update(self) -> bytes: ...
    @property
    def base(self) -> str: ...
    @property
    def weights(self) -> Any: ...
    @property
    def result(self) -> str: ...
    @property
    def brought(self) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Judgement:
    """What was found of a peer, and when: with these alone it can be told why it was set aside."""

    peer: str  # empty: of the run
    kind: str  # "seen", "probed", "aside", "back", "banned", "pardoned" or "undone"
    version: int  # that the update was to lead to, or that was the newest
    score: float  # of the peer from then on, from 0 to 1
    reason: str  # for a person
    numbers: Dict[str, Any]  # what was measured


@dataclass(frozen=True)
class Record:
    """One committed round."""

    number: int  # the version it produced, >= 1
    base: str  # SHA-256 of the flat fp32 weights before, hexadecimal
    result: str  # ... and after
    codec: str  # name of the codec of `update`
    update: bytes  # the encoded outer update, exactly as broadcast; or the version it returns to
    step: int  # global step after this round
    loss: float  # token-weighted training loss, nats per character; NaN if nothing was measured
    opened: float  # unix seconds
    committed: float
    contributions: Tuple[Contribution, ...]
    judgements: Tuple[Judgement, ...] = ()  # of this round and earlier ones, since the last record


class Made(NamedTuple):
    """A committed round, as far as peers hear of it."""

    number: int
    codec: str
    result: str  # SHA-256 of the weights after
    update: str  # SHA-256
    bytes: int  # of the update
    step: int

    def commit(self, counted: bool, follows: bool) -> Dict[str, Any]:
        """What the peer hears."""
        return {"type": "commit", "version": self.number, "weights": self.result,
                "codec": self.codec, "step": self.step, "update": self.update, "bytes": self.bytes,
                "counted": counted, "follows": follows}
