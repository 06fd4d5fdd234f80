"""Where a peer's conversation with its coordinator stands, and what was said and has to wait."""
from __future__ import annotations

import math
from collections import deque
from enum import Enum
from typing import Deque, Tuple

from hive.session.messages import FromCoordinator
from hive.session.protocol import Message, demand

MOST_KEPT = 256  # messages that wait while this peer trains or fetches
LATER = ("version", "commit", "train", "send", "verdict", "status", "finished")  # may wait


class Phase(Enum):
    AWAY = "no connection, or one that is given up"
    JOINING = "until the network is built"
    TAKING_PART = "it was welcome: from now on a new start may mend what goes wrong"


class Conversation:
    """One after the other, on one connection each."""

    def __init__(self) -> None:
        self.phase = Phase.AWAY
        self.joined = False  # ever
        self.settled = False  # the connection is known to be a good one
        self.awaited: Tuple[FromCoordinator, ...] = ()  # kinds of message that are answered at once
        self.nonces = "", ""  # the coordinator's, this peer's
        self.inbox: Deque[Message] = deque()
        self.heard_at = self.told_at = -math.inf  # steady seconds

    def begin(self, now: float) -> None:
        self.phase, self.settled, self.awaited = Phase.JOINING, False, ("challenge",)
        self.inbox.clear()
        self.heard_at = now

    def part(self) -> None:
        self.phase, self.awaited = Phase.AWAY, ()

    def take_part(self) -> None:
        self.phase, self.joined = Phase.TAKING_PART, True

    def keep(self, said: Message) -> None:
        """For its turn. Of what is said while this peer is busy, the newest status and not too much
        else."""
        demand(said["type"] in LATER, f"A coordinator does not send {said['type']} messages now.")
        if said["type"] == "status":
            self.inbox = deque(one for one in self.inbox if one["type"] != "status")
        demand(len(self.inbox) < MOST_KEPT, "The coordinator says more than it hears.")
        self.inbox.append(said)

    def waits(self, *kinds: FromCoordinator) -> bool:
        """Was something of these kinds said that nobody has answered yet?"""
        return any(said["type"] in kinds for said in self.inbox)
