"""When a round begins and ends, and which updates count: a pure state machine.

It knows no sockets, no tensors and no clock: whoever calls it passes the time in seconds. A round
starts from one version of the weights. Members get a task (steps, seconds), offer what they made of
it, and deliver it. The round closes when everyone expected has delivered, or when its time is up;
then the coordinator commits the next version. Each update counts once, in one round, or not at all.
"""
from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Deque, Dict, Iterable, List, NamedTuple, Optional

ACCEPTED, LATE, REJECTED = "accepted", "late", "rejected"


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

    state: str = "joining"  # then ready, training, uploading, delivered, lagging
    task: Optional[Task] = None
    began: float = 0.0  # when it got the task
    step_seconds: Optional[float] = None  # measured in its latest update


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
        """Seconds that members recently spent on anything but training, in the middle."""
        return statistics.median(self.overheads) if self.overheads else 0.0

    def plan(self, quota: int, step_seconds: Iterable[float]) -> Task:
        """Steps and seconds of a round. `quota` is what the algorithm asks for."""
        known = sorted(step_seconds)
        if not known:
            return Task(0, quota, self.seconds)
        typical = max(known[(len(known) - 1) // 2], 1e-9)  # of the faster half, its slowest
        if not self.fixed:
            worth = self.overhead * self.share / (1 - self.share)
            quota = max(quota, min(self.longest, math.ceil(worth / typical)))
        return Task(0, quota, min(self.seconds, self.slack * quota * typical))

    @property
    def grace(self) -> float:
        """Seconds for the last transfers, after training."""
        return max(2.0, 3 * self.overhead)


class Rounds:
    """The members, the open round, and what was delivered in it."""

    def __init__(self, version: int, weights: str, pace: Pace, least: int = 1):
        self.pace, self.least = pace, least
        self.members: Dict[str, Member] = {}
        self.open_round(version, weights, quota=1)

    def open_round(self, version: int, weights: str, quota: int) -> None:
        """Begin the round that starts from this version; its clock starts with the first task."""
        self.version, self.weights, self.quota = version, weights, quota
        self.plan: Optional[Task] = None
        self.train_until = self.deadline = math.inf
        self.delivered: List[str] = []
        self.closed = False
        for member in self.members.values():
            if member.state != "joining":
                member.state = "lagging" if member.state in ("training", "lagging") else "waiting"
            member.task = None

    # Members come and go

    def join(self, peer: str) -> None:
        self.members[peer] = Member()

    def leave(self, peer: str) -> None:
        """What it has delivered still counts."""
        self.members.pop(peer, None)

    def ready(self, peer: str, version: int, weights: str) -> bool:
        """A member holds these weights. False when they are not the ones the round starts from."""
        if (version, weights) != (self.version, self.weights):
            return False
        member = self.members[peer]
        if member.state in ("joining", "waiting", "lagging"):
            member.state = "ready"
        return True

    def tasks(self, now: float) -> Dict[str, Task]:
        """Tasks for all that are ready, once there are enough; each is handed out once."""
        ready = [peer for peer, member in self.members.items() if member.state == "ready"]
        if self.closed or not ready or self.plan is None and len(ready) < self.least:
            return {}
        if self.plan is None:
            known = (member.step_seconds for member in self.members.values())
            self.plan = self.pace.plan(self.quota, (s for s in known if s is not None))
            self.train_until = now + self.plan.seconds
            self.deadline = self.train_until + self.pace.grace
        task = Task(self.version, self.plan.quota, max(0.0, self.train_until - now))
        for peer in ready:
            self.members[peer].state, self.members[peer].task = "training", task
            self.members[peer].began = now
        return dict.fromkeys(ready, task)

    # Updates arrive

    def offer(self, peer: str, version: int, weights: str, steps: int) -> Verdict:
        """May this update be sent? Called again when a transfer goes on after a reconnect."""
        if version < self.version or version == self.version and self.closed:
            return Verdict(LATE, f"Round {version + 1} is closed; the work stays in the error "
                                 "feedback and comes with the next update.")
        if (version, weights) != (self.version, self.weights):
            return Verdict(REJECTED, "The update starts from weights that this hive never had.")
        if peer in self.delivered:
            return Verdict(REJECTED, "This peer has already delivered in this round.")
        member = self.members[peer]
        quota = self.plan.quota if self.plan else 0
        if member.task is not None:
            quota = member.task.quota
        if steps > max(quota, 1):
            return Verdict(REJECTED, f"{steps} steps are more than the {quota} that were asked for.")
        member.state = "uploading"
        return Verdict(ACCEPTED)

    def deliver(self, peer: str, version: int, steps: int, seconds: float, now: float) -> Verdict:
        """An offered update is completely there: it counts, unless the round is over."""
        verdict = self.offer(peer, version, self.weights if version == self.version else "", steps)
        if verdict.verdict == ACCEPTED:
            member = self.members[peer]
            elapsed = max(0.0, now - member.began) if member.task else seconds
            member.state = "delivered"
            member.step_seconds = min(seconds, elapsed) / steps
            self.pace.overheads.append(max(0.0, elapsed - seconds))
            self.delivered.append(peer)
        return verdict

    def reject(self, peer: str) -> None:
        """A delivered update turned out to be unusable."""
        self.delivered.remove(peer)

    # The round ends

    def close(self, now: float) -> bool:
        """True, once, when the round is over: from then on updates for it are late."""
        if self.closed or self.plan is None:
            return False
        busy = ("ready", "training", "uploading", "waiting")
        expected = any(member.state in busy for member in self.members.values())
        if now >= self.deadline and not self.delivered:  # nobody made it: the same round goes on
            for member in self.members.values():
                if member.state in busy:
                    member.state = "lagging" if member.state == "training" else member.state
            self.deadline = now + self.pace.seconds + self.pace.grace
        self.closed = bool(self.delivered) and (not expected or now >= self.deadline)
        return self.closed

    def reopen(self) -> None:
        """Nothing of what was delivered could be used: the round goes on."""
        self.closed, self.delivered = False, []
