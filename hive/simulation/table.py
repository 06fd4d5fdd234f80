"""What is printed of a simulated run."""
from __future__ import annotations

from typing import Any, Dict, NamedTuple, Optional


class Row(NamedTuple):
    """A committed round, as it is printed."""

    round: int
    step: int
    seconds: float  # virtual, since the beginning
    counted: int  # updates
    late: int
    rejected: int
    loss: Optional[float]
    val_loss: Optional[float]  # None: not measured after this round
    bytes_up: int  # of updates and weights, in this round, all peers together
    bytes_down: int
    peers: int  # connected


class Summary(NamedTuple):
    """A whole run."""

    finished: str  # why it ended
    rounds: int
    step: int
    seconds: float  # virtual
    loss: Optional[float]  # of the last round
    val_loss: Optional[float]  # at the end
    start_loss: Optional[float]  # the same before the first round
    training: float  # share of the time that connected peers spent training
    up_per_parameter: float  # bytes, for each counted update
    down_per_parameter: float  # bytes, for each committed update that a peer received
    weights_bytes: int  # of whole weights, for peers that are new or were away for long
    updates: Dict[str, int]  # counted, and stale of these: of an earlier round; late, rejected
    tokens: Dict[str, int]  # trained = counted + carried (not yet counted) + lost
    interrupted: int  # uploads that broke off in the middle
    disagreements: int  # times a peer's weights had another hash than the hive's
    aside: Dict[str, int]  # peers that were ever set aside, and the round in which they first were
    sync: Dict[str, Any]
