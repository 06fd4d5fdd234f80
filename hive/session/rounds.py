"""When a round begins and ends, and which updates count: a pure state machine.

It knows no sockets, no tensors and no clock: the caller passes the time in seconds. A round
starts from one version of the weights. Members get a task (steps, seconds), offer what they made of
it, and deliver it. The round closes when everyone expected has delivered, or when its time is up;
then the coordinator commits the next version. A peer too slow for that delivers to one of the next
rounds, and nobody waits for it. Each update counts once, in one round, or not at all.

All durations are measured here, between calls; what a member says about its speed plays no part. So
half of the members may dawdle as they like, and a round takes at most twice as long.
"""
from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Deque, Dict, Iterable, List, NamedTuple, Optional

from hive.session.schema import PeerState

ACCEPTED, LATE, REJECTED = "accepted", "late", "rejected"
BUSY = ("waiting", "ready", "training", "uploading")  # something is still to come from it
AHEAD = 100  # steps that a peer may make beyond what it was asked for, while updates travel
STALEST = 32  # rounds by which an update may come too late and still count, at a lower weight
FASTEST_STEP = 1e-3  # seconds; nobody is planned for as faster
LEAST_GRACE = 2.0  # seconds for the last transfers, however short the round
LEAST_PATIENCE = 0.5  # seconds that members get after the others, however fast those were
TWICE = 2.0  # as long as half of the members took, the others may take
WELCOMING = 3  # one round in this many waits for members that are new


class Verdict(NamedTuple):
    verdict: str
    reason: str = ""


class Task(NamedTuple):
    version: int  # of the weights to start from
    quota: int  # inner steps at most
    seconds: float  # for training, from now


@dataclass
class Member:
    """A connected peer. Its state is what the dashboard shows."""

    state: PeerState = "joining"
    version: Optional[int] = None  # of the weights that it holds, or gets without asking
    prompt: Optional[bool] = None  # in time with its latest update: rounds wait for it; None: new
    began: Optional[float] = None  # when it got its task
    offered: Dict[int, float] = field(default_factory=dict)  # when its updates were, by version
    lap: Optional[float] = None  # seconds a step, measured at its latest offer
    step_seconds: Optional[float] = None  # ... of an update that was in time to count


@dataclass
class Pace:
    """How long a round trains: long enough to be worth its transfers, in time for the slower half.

    seconds: the longest a round may train. share: of a round that should be training, the rest is
    transfers and waiting; with fixed=True the quota is never raised for that.
    """

    seconds: float = 60.0
    share: float = 0.6
    longest: int = 50  # inner steps, however slow the links
    slack: float = 1.5  # slower than the median by this much is still in time
    fixed: bool = False
    overheads: Deque[float] = field(default_factory=lambda: deque(maxlen=16))

    @property
    def overhead(self) -> float:
        """Seconds that members recently spent on an upload: the slowest of the faster half."""
        return statistics.median_low(self.overheads) if self.overheads else 0.0

    def plan(self, quota: int, step_seconds: Iterable[float], overlap: bool = False) -> Task:
        """Steps and seconds of a round. `quota` is what the algorithm asks for. With `overlap`
        transfers cost no time."""
        known = list(step_seconds)
        if not known:
            return Task(0, quota, self.seconds)
        typical = min(max(statistics.median_low(known), FASTEST_STEP), self.seconds)
        if not self.fixed and not overlap:
            worth = self.overhead * self.share / (1 - self.share)
            quota = max(quota, min(self.longest, math.ceil(worth / typical)))
        return Task(0, quota, min(self.seconds, self.slack * quota * typical))

    def grace(self, seconds: float) -> float:
        """Seconds for the last transfers after `seconds` of training, and never more than those."""
        return max(LEAST_GRACE, min(seconds, 3 * self.overhead))


class Rounds:
    """The members, the open round, and what was delivered in it."""

    def __init__(self, version: int, weights: str, pace: Pace, least: int = 1, fragments: int = 1,
                 overlap: bool = False, in_flight: int = 1,
                 hashes: Optional[Dict[int, str]] = None):
        self.pace, self.least, self.fragments, self.overlap = pace, least, fragments, overlap
        self.in_flight = in_flight  # updates of a member at once
        self.missed: List[Member] = []  # by these, who had their chance, this round ended
        self.unwelcoming = WELCOMING  # rounds since one waited for new members
        self.welcoming = False  # this one does
        self.members: Dict[str, Member] = {}
        self.hashes = hashes or {}  # of the weights of the latest versions
        self.quotas: Dict[int, int] = {}  # steps that were asked for, by version
        self.open_round(version, weights, quota=1)

    def open_round(self, version: int, weights: str, quota: int,
                   most: Optional[int] = None) -> None:
        """Begin the round that starts from this version; its clock starts with the first task.
        `most` is how many steps are left of the run."""
        self.version, self.weights, self.quota, self.most = version, weights, quota, most
        self.hashes[version] = weights
        for known in (self.hashes, self.quotas):
            known.pop(version - STALEST - 1, None)
        self.plan: Optional[Task] = None
        self.began = self.train_until = self.deadline = math.inf
        self.delivered: List[str] = []
        self.apart: List[str] = []  # delivered, and only looked at
        self.closed = False
        for member in self.missed:
            member.prompt = False
        for member in self.members.values():
            self._begin(member)
        self.unwelcoming = 1 if self.welcoming else self.unwelcoming + 1
        self.missed, self.welcoming = [], False

    def _begin(self, member: Member) -> None:
        """The round before is over for this one, too."""
        before = member.state
        member.offered = {version: at for version, at in member.offered.items()
                          if version >= self.version - STALEST}
        if self.overlap and member.version == self.version - 1 and before != "uploading":
            member.state, member.version = "ready", self.version
        elif before == "delivered":
            member.state = "waiting"
        elif before in BUSY:
            member.state = "lagging"

    # Members come and go

    def join(self, peer: str) -> None:
        self.members[peer] = Member()

    def follows(self, peer: str) -> None:
        """It gets what it misses without asking, up to the newest weights."""
        member = self.members[peer]
        member.version = self.version
        done = peer in self.delivered or peer in self.apart
        member.state = "delivered" if done else "ready"

    def fell_behind(self, peer: str) -> None:
        """It takes nothing of what it gets without asking; it has to ask again."""
        self.members[peer].version = None

    def leave(self, peer: str) -> None:
        """What it has delivered still counts."""
        self.members.pop(peer, None)

    def ready(self, peer: str, version: int, weights: str) -> bool:
        """A member holds these weights. False when they are not the ones the round starts from."""
        if (version, weights) != (self.version, self.weights):
            return False
        self.follows(peer)
        return True

    def tasks(self, now: float, early: Iterable[str] = ()) -> Dict[str, Task]:
        """Tasks for all that are ready, once there are enough; each is handed out once. `early`:
        whose updates wait for rounds to come, and so for this one."""
        ready = [peer for peer, member in self.members.items() if member.state == "ready"]
        # A peer that has delivered late takes part, too, even if its update is only looked at.
        there = len({*ready, *self.delivered, *self.apart, *early})
        if self.closed or not ready or self.plan is None and there < self.least:
            return {}
        if self.plan is None or now >= self.deadline and not self.delivered:
            known = (member.step_seconds for member in self.members.values())
            plan = self.pace.plan(self.quota, (s for s in known if s is not None), self.overlap)
            self.plan = plan._replace(quota=min(plan.quota, self.most or plan.quota))
            most = self.plan.quota + self.ahead
            self.quotas[self.version] = max(most, self.quotas.get(self.version, 0))
            self.began, self.train_until = now, now + self.plan.seconds
            if not any(member.prompt for member in self.members.values()):
                self.unwelcoming = WELCOMING  # all are new
            self.deadline = now + self.longest
        task = Task(self.version, self.plan.quota, max(0.0, self.train_until - now))
        for peer in ready:
            member = self.members[peer]
            member.state = "training"
            if not self.overlap:
                member.offered.clear()
            if not self.overlap or member.began is None:
                member.began = now
        return dict.fromkeys(ready, task)

    @property
    def ahead(self) -> int:
        """Steps that a member makes beyond what it was asked for."""
        return AHEAD if self.overlap else 0

    @property
    def longest(self) -> float:
        """Seconds that the round may take, from its first task to its deadline."""
        seconds = self.plan.seconds if self.plan else self.pace.seconds
        return seconds + self.pace.grace(seconds)

    # Updates arrive

    def early(self, version: int) -> bool:
        """Is it of a round that is not open yet?"""
        return version > self.version

    def waits(self, version: int) -> bool:
        """Can an update count in a later round at the soonest?"""
        return bool(self.early(version) or self.closed
                    or (self.version - version) % self.fragments)

    def keeps(self, peer: str, version: int) -> bool:
        """May it wait for that? What comes while its round is being written, or another part has
        its turn, is late, and the work goes into the next update. But a peer that no round waits
        for might so be late for ever."""
        return self.early(version) or (
            self.waits(version) and self.members[peer].prompt is False)

    def offer(self, peer: str, version: int, weights: str, steps: int, now: float,
              base: Optional[int] = None) -> Verdict:
        """May this update be sent? Also asked when a transfer goes on after a reconnect, or when
        the coordinator was restarted in between and has no plan for the round any more. `base` is
        the version of the weights, unless it is the one that the update's round starts from."""
        base = version if base is None else base
        if base < self.version and self.hashes.get(base, weights) == weights:
            if base not in self.hashes:
                return Verdict(LATE, f"Its round {version + 1} closed long ago; the work is not "
                                     "lost, it comes with the next update.")
        elif self.hashes.get(base) != weights:
            return Verdict(REJECTED, "The update starts from weights that this hive never had.")
        if not base <= version < base + self.in_flight:
            return Verdict(REJECTED, f"From weights {base} nobody makes an update of round "
                                     f"{version + 1}.")
        if self.keeps(peer, version):
            return self._admit(self.members[peer], version, steps, now)
        if (self.version - version) % self.fragments:
            return Verdict(LATE, f"Its round {version + 1} closed, and this one changes another "
                                 "part of the weights; the work is not lost, it comes with the "
                                 "next update of its part.")
        if self.closed:
            return Verdict(LATE, f"Round {self.version + 1} has just closed; the work is not lost, "
                                 "it comes with the next update.")
        if peer in self.delivered or peer in self.apart:
            return Verdict(REJECTED, "This peer has already delivered in this round.")
        return self._admit(self.members[peer], version, steps, now)

    def _admit(self, member: Member, version: int, steps: int, now: float) -> Verdict:
        """The steps of a member that trains on began when its update before was offered."""
        most = max(self.quota, self.pace.longest) + self.ahead  # before a restart, or early
        most = self.quotas.get(version, most)
        if steps > most:
            return Verdict(REJECTED, f"{steps} steps in a round are more than anybody was asked "
                                     f"for ({most}).")
        if not self.waits(version):  # otherwise it takes part in this round as well
            member.state = "uploading"
        if version not in member.offered:
            member.offered[version] = now
            if member.began is not None:
                member.lap = (now - member.began) / steps
                member.began = now if self.overlap else member.began
        return Verdict(ACCEPTED)

    def deliver(self, peer: str, version: int, weights: str, steps: int, now: float,
                base: Optional[int] = None, arrived: Optional[float] = None) -> Verdict:
        """An offered update is completely there, perhaps already before its round began: it counts,
        unless the round is over."""
        verdict = self.offer(peer, version, weights, steps, now, base)
        if verdict.verdict == ACCEPTED:
            member = self.members[peer]
            offered = member.offered.pop(version)
            member.step_seconds = member.lap
            member.state, member.prompt = "delivered", version == self.version
            if member.prompt:
                self.pace.overheads.append((now if arrived is None else arrived) - offered)
            elif self._able(member):
                member.prompt = None
            self.delivered.append(peer)
            if self.deadline == math.inf:  # delivered before any task was given out
                self.deadline = now + self.longest
        return verdict

    def _able(self, member: Member) -> bool:
        """Was it late although it is as fast as the others? Then it fell out of step with them, by
        a late start perhaps, and deserves to be waited for once as if it were new."""
        known = [m.step_seconds for m in self.members.values()
                 if m.prompt and m.step_seconds is not None]
        return bool(known) and (member.step_seconds or math.inf) <= (
            self.pace.slack * statistics.median(known))

    def withdraw(self, peer: str) -> None:
        """An offered update is not wanted after all. The peer may try again, and nobody waits for
        that."""
        if peer in self.members:
            self.members[peer].state, self.members[peer].prompt = "waiting", False
            self.members[peer].offered.pop(self.version, None)

    def reject(self, peer: str) -> None:
        """A delivered update turned out to be unusable; the peer may try again."""
        self.delivered.remove(peer)
        self.withdraw(peer)

    def set_apart(self, peer: str) -> None:
        """What it delivered does not count, and nobody waits for it; it has no other task before
        the next round."""
        self.delivered.remove(peer)
        self.apart.append(peer)
        if peer in self.members:
            self.members[peer].prompt = False

    def restart(self) -> None:
        """Nobody holds the weights that the next round starts from."""
        for member in self.members.values():
            member.version = None

    # The round ends

    def close(self, now: float) -> bool:
        """True, once, when the round is over: from then on updates for it are late.

        It is over when everyone who was in time lately has delivered, or at the deadline; but never
        without an update.
        """
        if self.closed or not self.delivered:
            return False
        if self.plan is None and len(self.delivered) < self.least and now < self.deadline:
            return False  # after a restart: the others are on their way back
        waited_for = self._waited_for(now)
        self.closed = not waited_for or now >= self.deadline
        if self.closed:
            new = filter(self._is_new, self.members.values() if self.welcoming else ())
            self.missed = [*(member for member in waited_for if member.prompt), *new]
        return self.closed

    def _waited_for(self, now: float) -> List[Member]:
        """Who is still missing. When half of the prompt members are there the deadline moves nearer
        for the others. When all are there it does so for new ones, of which there may be some in
        every round: now and then they are waited for, and otherwise not."""
        busy = [member for member in self.members.values() if member.state in BUSY]
        prompt = [member for member in self.members.values() if member.prompt]
        if not prompt:
            return busy
        missing = [member for member in busy if member.prompt]
        if missing:
            if 2 * len(missing) <= len(prompt):
                self._hurry(now, TWICE, LEAST_PATIENCE)
            return missing
        new = list(filter(self._is_new, busy))
        if not new or self.unwelcoming < WELCOMING:
            return []
        self.welcoming = True
        self._hurry(now, self.pace.slack, 0.0)
        return new

    def _is_new(self, member: Member) -> bool:
        """Is it at work, and nobody knows yet whether it is in time?"""
        return member.prompt is None and member.state in ("training", "uploading")

    def _hurry(self, now: float, factor: float, least: float) -> None:
        """The others took until now: those missing may take `factor` times as long, at least
        `least` seconds more, and in any case the time that was promised for training."""
        if self.plan is not None:
            self.deadline = min(self.deadline, max(
                self.began + factor * (now - self.began), now + least,
                self.train_until + self.pace.overhead))

    def reopen(self) -> None:
        """Nothing of what was delivered could be used: the round goes on."""
        self.closed = False
