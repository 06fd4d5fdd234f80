"""What comes in for a round: updates that are being added to it, and what is noted of them."""
from __future__ import annotations

import math
from collections import Counter
from typing import Dict, List, NamedTuple, Optional, Tuple

from hive.session import messages
from hive.session.links import Link
from hive.session.record import Contribution
from hive.session.rounds import Verdict
from hive.session.standing import believed_tokens, least_seconds


class Delivery(NamedTuple):
    """An update that is completely there, while it is being added."""

    link: Link
    said: messages.Offer
    size: int
    tokens: int
    stale: int  # rounds that it came late

    @property
    def weight(self) -> float:
        """What starts from old weights fits the new ones less."""
        return self.tokens / (1 + self.stale)


class Intake:
    """`parameters` of the network, `characters` of a sequence."""

    def __init__(self, parameters: int, characters: int):
        self.parameters, self.characters = parameters, characters
        self.asked: Counter[str] = Counter()  # by peer: characters since its work last counted
        self.opened: Optional[float] = None  # the round began, in steady seconds
        self.adding: Dict[str, Delivery] = {}  # by peer
        self.contributions: List[Contribution] = []  # since the last round closed
        self.committing = False  # the round is being made durable

    def ask(self, link: Link, steps: int) -> None:
        """Of a peer."""
        link.steps = 0
        self.asked[link.peer] += steps * link.batch_size * self.characters

    def take(self, link: Link, said: messages.Offer, size: int, stale: int, now: float) -> Delivery:
        """It is in time, and is going to be added."""
        self.opened = now if self.opened is None else self.opened
        delivery = Delivery(link, said, size, self._believed(link, said, now), stale)
        self.adding[link.peer] = delivery
        return delivery

    def _believed(self, link: Link, said: messages.Offer, now: float) -> int:
        """Characters that it trained on, as far as it was asked to and had the time for it. What it
        carried over from updates that came too late was asked for earlier."""
        made = said["steps"] * link.batch_size * self.characters
        claimed = min(said["tokens"], max(made, self.asked[link.peer]))
        return believed_tokens(claimed, now - link.counted_at, self.parameters)

    def count(self, delivery: Delivery, weight: float) -> None:
        """It was added, with this weight."""
        link, said, size, tokens, stale = delivery
        del self.adding[link.peer]
        self.asked.pop(link.peer, None)
        link.lately = said["steps"]
        least = least_seconds(tokens, self.parameters)
        link.laps.append((tokens, max(said["seconds"], least)))
        loss = math.nan if said["loss"] is None else said["loss"]
        self.contributions.append(Contribution(
            link.peer, link.identity.name, said["steps"], tokens, loss, weight, size, "counted",
            f"{stale} rounds late" if stale else ""))

    def refuse(self, link: Link, said: messages.Offer, verdict: Verdict) -> None:
        """It does not count. That is noted once a round."""
        once = [c for c in self.contributions
                if (c.peer, c.verdict) != (link.peer, verdict.verdict)]
        self.contributions = [*once, Contribution(
            link.peer, link.identity.name, said["steps"], said["tokens"], math.nan, 0.0, 0,
            verdict.verdict, verdict.reason)]

    def close(self) -> Tuple[Contribution, ...]:
        """All that was noted; what is from now on belongs to the next round."""
        contributions, self.contributions = tuple(self.contributions), []
        return contributions

    def length(self, now: float, longest: float) -> float:
        """Seconds of the round so far, at most as long as it was planned: a machine that slept did
        not train, and the clock on the wall may be set."""
        return min(0.0 if self.opened is None else now - self.opened, longest)
