"""What comes in for a round: updates that are being added to it, and what is noted of them."""
from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import replace
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from hive.session import messages
from hive.session.links import Lap, Link
from hive.session.record import Contribution
from hive.session.rounds import LATE, Verdict
from hive.session.standing import believed_tokens, least_seconds
from hive.session.uploads import BUDGET_BYTES

KNOWN = 3  # updates from which on it is known how fast a peer is
LOSS_FACTOR = 4.0  # times the loss of pure guessing, ln(vocabulary), is no loss but a breakdown
FASTER = 2.0  # than it usually was lately a peer may be
LATELY = 5  # of its updates; half of them decide what is usual


class Delivery(NamedTuple):
    """An update that is completely there, while it is being added."""

    link: Link
    said: messages.Offer
    size: int
    tokens: int
    stale: int  # rounds of its part that it came late
    arrived: float  # steady seconds
    given: Optional[Sequence[int]]  # windows that it was made from; None: not known
    weighty: float  # of its tokens, as many as it can have made

    @property
    def weight(self) -> float:
        """What starts from old weights fits the new ones less."""
        return self.weighty / (1 + self.stale)


class Early(NamedTuple):
    """An update that is completely there before the round begins in which it may count."""

    said: messages.Offer
    content: bytes
    arrived: float  # steady seconds


class Intake:
    """`parameters` of the network, `characters` of a sequence; `in_flight` updates of a peer may be
    on their way at once."""

    def __init__(self, parameters: int, characters: int, in_flight: int):
        self.parameters, self.characters, self.in_flight = parameters, characters, in_flight
        self.early: Dict[str, Dict[int, Early]] = {}  # by peer and version
        self.asked: Counter[str] = Counter()  # by peer: characters since its work last counted
        self.asking: Counter[str] = Counter()  # ... with its latest task
        self.spent: Counter[str] = Counter()  # ... of which an update of this round took so much
        self.opened: Optional[float] = None  # the round's first task, in steady seconds
        self.adding: Dict[str, Delivery] = {}  # by peer
        self.counted: Dict[str, Delivery] = {}  # ... that were added to this round
        self.latest: Dict[str, Delivery] = {}  # ... and to the one before
        self.contributions: List[Contribution] = []  # since the last round closed
        self.committing = False  # the round is being made durable

    def ask(self, link: Link, steps: int) -> None:
        """Of a peer."""
        link.steps = 0
        self.asking[link.peer] = steps * link.batch_size * self.characters
        self.asked[link.peer] += self.asking[link.peer]

    def keep(self, peer: str, early: Early) -> bool:
        """Until its round begins; False when there is no room."""
        kept = sum(len(one.content) for mine in self.early.values() for one in mine.values())
        room = (kept + len(early.content) <= BUDGET_BYTES
                and len(self.early.get(peer, ())) < self.in_flight)
        if room:
            self.early.setdefault(peer, {})[early.said["version"]] = early
        return room

    @property
    def waiting(self) -> List[str]:
        """Peers of which something is kept."""
        return [peer for peer, mine in self.early.items() if mine]

    def due(self, waits: Callable[[int], bool]) -> List[Tuple[str, Early]]:
        """What was kept, and has no longer to wait."""
        return [(peer, mine.pop(version)) for peer, mine in self.early.items()
                for version in sorted(mine) if not waits(version)]

    def leave(self, peer: str) -> None:
        """What was kept of it is not any more; it still has it."""
        self.early.pop(peer, None)

    def has(self, peer: str, version: int) -> bool:
        """Is this update of it here, and not counted yet?"""
        adding = self.adding.get(peer)
        return (adding is not None and adding.said["version"] == version
                or version in self.early.get(peer, {}))

    def take(self, link: Link, said: messages.Offer, size: int, stale: int, now: float,
             arrived: float) -> Delivery:
        """It is in time, and is going to be added."""
        tokens = self._believed(link, said, now)
        used = said["steps"] * link.batch_size
        known = not stale and self.in_flight == 1 and used <= link.windows.number
        given = range(link.windows.first, link.windows.first + used) if known else None
        weighty = self._measured(link, tokens, arrived)
        delivery = Delivery(link, said, size, tokens, stale, arrived, given, weighty)
        self.adding[link.peer] = delivery
        return delivery

    def _believed(self, link: Link, said: messages.Offer, now: float) -> int:
        """Characters that it trained on, as far as it was asked to and had the time for it. What it
        carried over from updates that came too late was asked for earlier."""
        made = said["steps"] * link.batch_size * self.characters
        claimed = min(said["tokens"], self.asked[link.peer] or made)  # nothing: after a restart
        return believed_tokens(claimed, now - link.counted_at, self.parameters)

    def _measured(self, link: Link, tokens: int, arrived: float) -> float:
        """Of these the characters that there was time for, at most a few times as fast as this
        peer usually was lately. Once it is known: a first round may have waited for anything."""
        if len(link.laps) < KNOWN:
            return tokens
        usual = statistics.median(lap.characters / max(lap.passed, 1e-3)
                                  for lap in list(link.laps)[-LATELY:])
        return min(tokens, FASTER * usual * max(arrived - link.counted_at, 1e-3))

    def count(self, delivery: Delivery, weight: float) -> None:
        """It was added, with this weight."""
        link, said, size, tokens, stale, arrived, _, weighty = delivery
        self.counted[link.peer] = self.adding.pop(link.peer)
        passed = max(0.0, arrived - link.counted_at)  # it may have waited longer than others
        link.counted_at = max(link.counted_at, arrived)
        # What it was asked for lately may be on its way already.
        several, asked = self.in_flight > 1, self.asked[link.peer]
        left = min(asked - tokens, self.asking[link.peer]) if several else 0
        self.asked[link.peer] = max(0, left)
        self.spent[link.peer] = asked - self.asked[link.peer]
        link.lately = said["steps"]
        least = least_seconds(tokens, self.parameters)
        link.laps.append(Lap(min(tokens, weighty), max(said["seconds"], least), link.up.seconds,
                             passed))
        loss = math.nan if said["loss"] is None else said["loss"]
        self.contributions.append(Contribution(
            link.peer, link.identity.name, said["steps"], tokens, loss, weight, size, "counted",
            f"{stale} round{'s' * (stale > 1)} late" if stale else ""))

    def refuse(self, link: Link, said: messages.Offer, verdict: Verdict) -> None:
        """It does not count. That is noted once a round."""
        once = [c for c in self.contributions
                if (c.peer, c.verdict) != (link.peer, verdict.verdict)]
        self.contributions = [*once, Contribution(
            link.peer, link.identity.name, said["steps"], said["tokens"], math.nan, 0.0, 0,
            verdict.verdict, verdict.reason)]

    def counts(self, peer: str) -> bool:
        """In this round, as far as is known; a peer that is set aside delivers, too."""
        return any((one.peer, one.verdict) == (peer, "counted") for one in self.contributions)

    def leave_out(self, peer: str, verdict: str, reason: str) -> None:
        """It was added, and does not count after all; what is late comes again."""
        if verdict == LATE:
            self.asked[peer] += self.spent.pop(peer, 0)
        self.contributions = [
            replace(one, weight=0.0, verdict=verdict, reason=reason)
            if (one.peer, one.verdict) == (peer, "counted") else one for one in self.contributions]

    def close(self) -> Tuple[Contribution, ...]:
        """All that was noted; what is from now on belongs to the next round."""
        self.latest, self.counted = self.counted, {}
        self.spent.clear()
        contributions, self.contributions = tuple(self.contributions), []
        return contributions

    def length(self, now: float, longest: float) -> float:
        """Seconds of the round so far, at most as long as it was planned: a machine that slept did
        not train, and the clock on the wall may be set. 0 when its tasks were given out before a
        restart: nobody knows when."""
        return min(0.0 if self.opened is None else now - self.opened, longest)


def implausible(said: messages.Offer, size: int, vocabulary: int) -> str:
    """What no honest peer would offer, in words; empty if there is nothing. `size` is that of an
    update, in bytes."""
    loss, most = said["loss"], LOSS_FACTOR * math.log(max(2, vocabulary))
    if loss is not None and loss > most:
        return f"A loss of {loss:.4g} nats is far above guessing: training broke down."
    if said["bytes"] != size:
        return f"An update of this hive has {size:,} bytes, not {said['bytes']:,}."
    return ""


def weighted_mean(pairs: Iterable[Tuple[float, float]]) -> float:
    """Mean of (value, weight) pairs, NaN when there are none."""
    known = list(pairs)
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else math.nan
