"""What follows from what is found of updates: who does not count, what is tried, when the run goes
back, and what its owner orders. `trust` says what is found; here it gets its consequences."""
from __future__ import annotations

import math
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

from hive.learning.sync import UNDO
from hive.session.intake import Delivery, Intake
from hive.session.ledger import Ledger
from hive.session.record import Combined, Record
from hive.session.reply import Reply
from hive.session.rounds import LATE, Rounds
from hive.session.run import Run
from hive.session.schema import Undone
from hive.session.standing import Standing
from hive.session.trust import WANTED, Outcome, Trial, Trust
from hive.session.work import PROBES, UPDATES, SlowWork

OTHERS = 64  # windows that nobody was given yet, of which some are tried


class Return(NamedTuple):
    """The run is to go back to a version, or, if that is the newest, only to write something down.
    """

    version: int
    reason: str


class Oversight:
    """`probing`: is there somebody who tries updates?"""

    def __init__(self, ledger: Ledger, reply: Reply, work: SlowWork, standing: Standing, run: Run,
                 rounds: Rounds, intake: Intake, probing: bool):
        self.ledger, self.reply, self.work, self.standing = ledger, reply, work, standing
        self.run, self.rounds, self.intake, self.probing = run, rounds, intake, probing
        self.trust = Trust(ledger.trusted())
        self.going_back: Optional[Return] = None
        self.told = 0  # judgements that were not written down yet, and are told
        self.undone: List[Undone] = [{"round": number, "to": target}
                                     for number, target in ledger.undone()]
        self.tell()

    def banned(self) -> List[str]:
        return [peer for peer, known in self.trust.peers.items() if known.banned]

    def tell(self) -> None:
        """Page and log hear what was decided."""
        for peer, known in self.trust.peers.items():
            about = self.standing.contributors.get(peer)
            if about:
                about["score"], about["aside"] = round(known.score, 3), known.aside
                about["banned"] = known.banned
        for one in self.trust.judgements[self.told:]:
            about = self.standing.contributors.get(one.peer)
            if about and one.kind not in ("seen", "probed"):
                self.reply.say(one.kind, f"{about['name']}: {one.reason}")
        self.told = len(self.trust.judgements)

    # Updates

    def see(self, committed: Combined) -> List[Tuple[Delivery, str]]:
        """Look at the updates of a round that is being made. Returns those that must not count
        after all, and why."""
        left_out = []
        for one in committed.brought:
            delivery = self.intake.counted.get(one.by)
            self.trust.see(self.rounds.version + 1, one.by, one.seen)
            if delivery and not one.weight and self.intake.counts(one.by):
                left_out.append((delivery, f"It does not count, for it {one.seen.fault}."))
        self.tell()
        return left_out

    def probe(self, number: int, before: Any, committed: Combined) -> None:
        """Try some updates of the round that led to this version, if it is time for that."""
        now = self.reply.now.steady
        if self.probing and not self.run.finished and self.trust.may_try(now):
            trials = [self._trial(one) for one in self.trust.pick(committed.brought, now)]
            self.work.ask(PROBES, "probe", number, before, committed.weights, trials,
                          then=self._learn)

    def _trial(self, one: Any) -> Trial:
        delivery = self.intake.latest.get(one.by)
        others = range(self.run.windows, self.run.windows + OTHERS)
        return Trial(one.by, one.codec, one.content, delivery and delivery.given, others,
                     bool(delivery and delivery.stale))

    def _learn(self, outcome: Outcome) -> None:
        best = self.trust.learn(outcome, self.rounds.version, self.reply.now.steady)
        self.tell()
        if best is not None and not self.going_back:
            self.going_back = Return(best, "the loss on text that no peer has rose from "
                                     f"{self.trust.losses[best]:.4f} to {outcome.after:.4f}")

    # Back to an earlier version

    def goes_back(self) -> bool:
        """Is it time to? What was delivered in the open round is not made undone by chance."""
        return bool(self.going_back and not self.run.finished
                    and (self.rounds.closed or not self.rounds.delivered))

    def go_back(self, then: Callable[[Combined], None]) -> None:
        assert self.going_back
        self.rounds.closed = True
        self.work.ask(UPDATES, "undo", self.going_back.version, then=then)

    def record_return(self, committed: Combined) -> Record:
        """What is written down of it. What was delivered meanwhile comes again, late."""
        assert self.going_back
        (target, reason), self.going_back = self.going_back, None
        number, now = self.rounds.version + 1, self.reply.now
        step = self.ledger.at(target)[1]
        if target < self.rounds.version:
            self.undone.append({"round": number, "to": target})
            self.trust.went_back(number, target, reason)
            self.reply.say("undone", f"round {number} goes back to round {target}: {reason}")
        for peer in self.intake.counted:
            self.intake.leave_out(peer, LATE, "the run went back to an earlier round")
        length = self.intake.length(now.steady, self.rounds.longest)
        return Record(number, committed.base, committed.result, UNDO, committed.update, step,
                      math.nan, now.unix - length, now.unix, self.intake.close(), self.take())

    def take(self) -> Any:
        """What is to be written down with the next round."""
        self.told = 0
        return self.trust.take()

    # The owner's hand

    def order(self, kind: str, value: Any) -> List[str]:
        """"ban" and "pardon" name a peer, "rollback" a version. Returns which peers this is of."""
        version = self.rounds.version
        if kind == "rollback":
            if 0 <= value < version:
                self.going_back = Return(value, WANTED)
            return []
        peers = [peer for peer, about in self.standing.contributors.items()
                 if about["name"] == value]
        for peer in peers:
            (self.trust.ban if kind == "ban" else self.trust.pardon)(peer, version)
        self.tell()
        return peers

    def note(self) -> None:
        """Nobody is there who would make a round: what was ordered is written down by itself."""
        self.going_back = self.going_back or Return(self.rounds.version, "")
