"""Whom a hive believes: a slow score for each peer, who is set aside and who gets in again, whose
updates are tried, and when a round has to be undone.

Pure: it hears what was measured, and in which rounds. An update weighs its characters times the
score of its peer. What is found moves the score by a part of the way only, so that no single update
decides; and nothing is found where the others do not tell what is usual, as in a hive of two, or
late in training when all that anybody brings is small. A peer set aside goes on sending, is
looked at and tried as before, and gets in again when its work is good; only its owner bans a peer.
"""
from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Deque, Dict, Iterable, List, NamedTuple, Optional, Protocol, Sequence, Tuple

from hive.session.record import Judgement

BANNED, PARDONED = "the owner of this hive has banned it", "the owner of this hive has pardoned it"
WANTED = "the owner of this hive wants that"  # that the run goes back

RATE = 0.3  # of the way to what an update deserves, a score goes each time
ASIDE, BACK = 0.35, 0.7  # scores below and above which a peer is set aside and gets in again
SURE = 3.0  # standard deviations that are no chance
FEWEST = 3  # peers that tell what is usual
LEAST_SPREAD = 0.25  # of the usual effect, by which honest peers may always differ
LITTLE = 0.5  # of the usual effect: less, and surely so, is little
PATIENCE = 6  # updates until it is clear that a peer does not train on its own windows
OWN = 0.25  # of how surely the others do
CLEARLY = 2.0  # standard deviations by which the others must do
PROBE_SHARE = 0.25  # of one core may go into trying updates
MOST_TRIED = 64  # updates at once, however suspicious
PROBE_SECONDS = 0.5  # that trying an update takes, as long as that was not measured
JUMP = 0.1  # of the lowest loss lately, or of all that was learned so far if that is more: when
# the loss rises by more the round is undone
RECENT = 8  # measured versions that are lately
REST = 16  # rounds after one that was undone before another may be, unless all that was ever
# learned is lost: then peers' losses may be so high that nobody's updates are taken any more


class Fall(Protocol):
    """By how much a loss falls: `learning.probe.Change` is one."""

    @property
    def mean(self) -> float: ...
    @property
    def doubt(self) -> float: ...
    @property
    def sure(self) -> float: ...


class Tried(NamedTuple):
    """An update that was tried by itself."""

    peer: str
    gain: Any  # a Fall, of the loss on text that no peer has
    length: float
    own: float  # how surely it did more for the windows it was given; NaN: unknown
    late: bool = False  # it started from older weights, and may fit these ones less


class Usual(NamedTuple):
    """What a step of length 1 brings, and by how much peers differ in that; NaN: no telling."""

    effect: float = math.nan
    spread: float = math.nan  # as a standard deviation


class Trial(NamedTuple):
    """What is to be tried."""

    peer: str
    codec: str
    content: bytes
    given: Optional[Sequence[int]]  # windows that it was made from; None: not known
    others: Sequence[int]
    late: bool = False


class Outcome(NamedTuple):
    """What trying led to."""

    version: int  # that the round led to
    before: float  # held-out loss of the weights that it began with
    after: float  # ... and that it led to
    tried: Sequence[Tried]
    seconds: float  # of one core


@dataclass
class Faith:
    """What is known of a peer."""

    score: float = 1.0
    aside: str = ""  # why it is; empty: it is not
    banned: bool = False
    tried: int = 0  # the version in which that was last done
    own: Deque[float] = field(default_factory=lambda: deque(maxlen=2 * PATIENCE))


class Trust:
    """`past`: (peer, score, kind and reason of what was last decided) by the record."""

    def __init__(self, past: Iterable[Tuple[str, float, str, str]] = ()):
        self.peers: Dict[str, Faith] = {}
        for peer, score, kind, reason in past:
            aside = reason if kind in ("aside", "banned") else ""
            self.peers[peer] = Faith(score, aside, kind == "banned")
        self.judgements: List[Judgement] = []  # not written down yet
        self.losses: Dict[int, float] = {}  # held-out, of the latest versions that were measured
        self.first = 0.0  # the loss that was measured first; 0: none was
        self.begun = 0  # version that the run last went back to an earlier one with
        self.rested = 0  # version from which on a round may be undone
        self.trying = False
        self.cost = PROBE_SECONDS  # of trying one update
        self.free_at = self.looked_at = -math.inf  # steady seconds

    def of(self, peer: str) -> Faith:
        return self.peers.setdefault(peer, Faith())

    def weight(self, peer: str) -> float:
        """Of a character that it trained on."""
        known = self.of(peer)
        return 0.0 if known.aside else known.score

    def take(self) -> Tuple[Judgement, ...]:
        """What is to be written down."""
        judgements, self.judgements = tuple(self.judgements), []
        return judgements

    # What is found

    def see(self, version: int, peer: str, seen: Any) -> None:
        """How an update looks beside the others of its round: `learning.rules.Seen` is one."""
        reason = f"an update {seen.fault}" if seen.fault else ""
        told = bool(seen.fault) or seen.cosine >= seen.usual / 2 > 0
        self._move(peer, "seen", version, (0.0 if seen.fault else 1.0) if told else None, reason, {
            "cosine": seen.cosine, "usual": seen.usual, "length": seen.length,
            "tensor": seen.tensor, "likeness": seen.likeness})

    def learn(self, outcome: Outcome, newest: int, now: float) -> Optional[int]:
        """What came of trying. Returns the version to go back to if the round has to be undone."""
        self.trying = False
        self.cost = max(1e-3, outcome.seconds / (len(outcome.tried) + 1))
        self.free_at = max(self.free_at, now + outcome.seconds * (1 / PROBE_SHARE - 1))
        usual = self._usual(outcome.tried)
        for one in outcome.tried:
            known = self.of(one.peer)
            known.tried = outcome.version
            if not math.isnan(one.own):
                known.own.append(one.own)
            deserves, reason = self._judge(one, usual)
            self._move(one.peer, "probed", outcome.version, deserves, reason, {
                "gain": one.gain.mean, "doubt": one.gain.doubt, "length": one.length,
                "usual": usual.effect, "spread": usual.spread, "own": one.own})
        return self._fallen(outcome, newest)

    def _usual(self, tried: Sequence[Tried]) -> Usual:
        """By those who are not set aside."""
        good = [one for one in tried if not self.of(one.peer).aside and one.length > 0]
        if len(good) < FEWEST or statistics.median(one.gain.sure for one in good) < SURE:
            return Usual()
        effects = [one.gain.mean / one.length for one in good]
        usual = statistics.median(effects)
        spread = 1.5 * statistics.median(abs(effect - usual) for effect in effects)
        return Usual(usual, max(spread, LEAST_SPREAD * usual))

    def _judge(self, one: Tried, usual: Usual) -> Tuple[Optional[float], str]:
        """What it deserves, from 0 to 1, and why if that is not all; None: nobody can tell."""
        if math.isnan(usual.effect):
            return None, ""
        expected, doubt = usual.effect * one.length, usual.spread * one.length
        surely_less = expected - one.gain.mean > SURE * math.hypot(one.gain.doubt, doubt)
        forgiven = LITTLE * expected if one.late else 0.0
        if surely_less and one.gain.mean < -max(SURE * one.gain.doubt, forgiven):
            return 0.0, "its updates raise the loss on text that no peer has"
        if surely_less and one.late:
            return None, ""
        if surely_less and one.gain.mean < LITTLE * expected:
            return max(0.0, one.gain.mean / (LITTLE * expected)), "its updates bring little"
        if self._trains_elsewhere(one.peer):
            return 0.0, "it does not train on the text that it was given"
        return 1.0, ""

    def _trains_elsewhere(self, peer: str) -> bool:
        means = {name: statistics.mean(known.own) for name, known in self.peers.items()
                 if len(known.own) >= PATIENCE and (name == peer or not known.aside)}
        mine = means.pop(peer, math.nan)
        return (len(means) >= FEWEST and statistics.median(means.values()) >= CLEARLY
                and mine < OWN * statistics.median(means.values()))

    def _move(self, peer: str, kind: str, version: int, deserves: Optional[float], reason: str,
              numbers: Dict[str, float]) -> None:
        known = self.of(peer)
        if deserves is not None:
            known.score += RATE * (deserves - known.score)
        self.note(peer, kind, version, reason, numbers)
        if not known.aside and known.score < ASIDE and reason:
            known.aside = reason
            self.note(peer, "aside", version, reason)
        elif known.aside and not known.banned and known.score > BACK:
            known.aside = ""
            self.note(peer, "back", version, "its work is good again")

    def note(self, peer: str, kind: str, version: int, reason: str,
             numbers: Optional[Dict[str, float]] = None) -> None:
        """To be written down."""
        short = {name: float(f"{value:.4g}") for name, value in (numbers or {}).items()}
        score = round(self.of(peer).score, 4) if peer else 1.0
        self.judgements.append(Judgement(peer, kind, version, score, reason, short))

    # A round that is undone

    def _fallen(self, outcome: Outcome, newest: int) -> Optional[int]:
        """The best of the latest versions, if the loss rose by far too much since. What was tried
        before the run went back says nothing any more."""
        if outcome.version <= self.begun:
            return None
        self.losses[outcome.version - 1] = outcome.before
        self.losses[outcome.version] = outcome.after
        for old in sorted(self.losses)[: -RECENT]:
            del self.losses[old]
        best = min(self.losses, key=lambda version: (self.losses[version], -version))
        lowest, self.first = self.losses[best], self.first or outcome.before
        allowed = lowest + JUMP * max(lowest, self.first - lowest)
        rests = newest < self.rested and outcome.after <= self.first
        return None if outcome.after <= allowed or rests else best

    def went_back(self, number: int, target: int, reason: str) -> None:
        """Round `number` returned to the weights of an earlier version."""
        lost = {"before": self.losses.get(target, math.nan),
                "after": max(self.losses.values(), default=math.nan)}
        self.note("", "undone", number, reason, lost)
        self.losses.clear()
        self.begun, self.rested = number, number + REST

    # The owner's hand

    def ban(self, peer: str, version: int) -> None:
        known = self.of(peer)
        known.aside, known.banned = BANNED, True
        self.note(peer, "banned", version, known.aside)

    def pardon(self, peer: str, version: int) -> None:
        self.peers[peer] = Faith(tried=self.of(peer).tried)
        self.note(peer, "pardoned", version, PARDONED)

    # What is tried

    def may_try(self, now: float) -> bool:
        return not self.trying and now >= self.free_at

    def pick(self, brought: Sequence[Any], now: float) -> List[Any]:
        """Whose updates of a round are tried: those that look odd, beside them enough that do not
        to tell what is usual, one of a peer that wants to get in again, and as many others as there
        is time for. Each time those first that were not tried for longest. `brought` are like
        `learning.outer.Brought`."""
        waited = min(now - self.looked_at, 1e6)
        self.trying, self.looked_at = True, now
        kept = [one for one in brought if one.content]
        kept.sort(key=lambda one: self.of(one.by).tried)
        odd = [one for one in kept if one.seen.odd]
        good = [one for one in kept if not one.seen.odd and not self.of(one.by).aside]
        aside = [one for one in kept if not one.seen.odd and self.of(one.by).aside]
        chosen = [*good[:FEWEST], *aside[:1], *odd]
        others = sorted(good[FEWEST:] + aside[1:], key=lambda one: self.of(one.by).tried)
        most = max(len(chosen), int(PROBE_SHARE * waited / self.cost) - 1)
        return [*chosen, *others][: min(MOST_TRIED, most)]
