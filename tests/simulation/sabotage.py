#!/usr/bin/env python3
"""Do the faults bite? Break a rule of the sessions on purpose, and count the runs until it shows.

    python tests/simulation/sabotage.py               all of them: the table of docs/reliability.md
    python tests/simulation/sabotage.py "no retries"  one of them, and what was found
"""
from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Tuple
from unittest import mock

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hive.journal import Journal
from hive.session.coordinator_session import CoordinatorSession
from hive.session.effects import Close
from hive.session.peer_session import PeerSession
from hive.session.protocol import Receiver
from hive.session.record import Made
from hive.session.rounds import ACCEPTED, Rounds, Verdict
from hive.session.uploads import Uploads
from hive.session.work import SlowWork
from hive.simulation import trials

FIRST, MOST = 0, 200  # seeds


class Sabotage(NamedTuple):
    """What is broken, in words, and the attributes that do it."""

    what: str
    changes: Tuple[Tuple[Any, str, Any], ...]

    def found(self, first: int = FIRST, most: int = MOST) -> Tuple[Optional[int], str]:
        """Within how many seeds, and what is said then; (None, "") if it never is."""
        with contextlib.ExitStack() as changed:
            for owner, name, value in self.changes:
                changed.enter_context(mock.patch.object(owner, name, value))
            for count in range(1, most + 1):
                try:
                    trials.play(first + count - 1)
                except trials.Failure as failure:
                    return count, str(failure)
        return None, ""


def told_before_the_journal(work: Any, writing: Any, write: Any = SlowWork.write) -> None:
    if writing.name == "round":
        writing.then()
        writing = writing._replace(then=lambda: None)
    write(work, writing)


def keep_what_it_carried(session: Any, updates: Any) -> None:
    for one in list(updates):
        session.settle(one, counted=False)
    session.left = 0


def settle_without_feedback(session: Any, one: Any, counted: bool) -> None:
    session.offers.updates.remove(one)
    if not counted:
        session.left += one.work.tokens


def settle_without_carried(session: Any, one: Any, counted: bool) -> None:
    session.do("settle", counted, one.part)
    session.offers.updates.remove(one)
    session.left += one.work.tokens


def go_on_from_own_weights(session: Any, one: Any, counted: bool, settle: Any = PeerSession.settle
                           ) -> None:
    with mock.patch.object(PeerSession, "rebase", nothing):
        settle(session, one, counted)


def accept_everything(rounds: Any, peer: str, version: int, weights: str, steps: int, now: float,
                      base: Any = None) -> Verdict:
    member = rounds.members[peer]
    member.state = "uploading"
    member.offered.setdefault(version, now)
    return Verdict(ACCEPTED)


def take_accepted_for_counted(session: Any, said: Any, on_verdict: Any = PeerSession.on_verdict
                              ) -> None:
    if said["verdict"] == ACCEPTED and session.offers.updates:
        session.settle(session.offers.updates[0], counted=True)
    on_verdict(session, said)


def welcome_that_never_counted(session: Any, welcome: Any, on_welcome: Any = PeerSession.on_welcome
                               ) -> None:
    on_welcome(session, {**welcome, "counted": []})


def keep_update_of_another(session: Any, welcome: Any, on_welcome: Any = PeerSession.on_welcome
                           ) -> None:
    with mock.patch.object(PeerSession, "give_up", nothing):
        on_welcome(session, welcome)


def forget_what_travels(session: Any, start_anew: Any = PeerSession.start_anew) -> None:
    start_anew(session)
    session.offers.updates.clear()


def hold_anything(session: Any, said: Any, follows: bool, result: Any,
                  hold: Any = PeerSession.hold) -> None:
    hold(session, {**said, "weights": result[1]}, follows, result)


def two_connections(session: Any, number: int, code: int, reason: str = "", last: Any = None,
                    close: Any = CoordinatorSession._close) -> None:
    if code != 1000:  # a replaced connection, or one that said goodbye
        close(session, number, code, reason, last)
    else:
        session.reply.add(Close(number, code, reason))


def always_counted(made: Any, counted: bool, follows: bool, commit: Any = Made.commit) -> Any:
    return commit(made, True, follows)


def opened_without_looking(journal: Any, *values: Any, begin: Any = Journal.__init__) -> None:
    begin(journal, *values)
    journal._counted = {}


def nothing(*_: Any, **__: Any) -> None:
    return None


PEER, COORDINATOR = PeerSession, CoordinatorSession
SABOTAGES: Dict[str, Sabotage] = {
    "counts twice": Sabotage(
        "`counted` is always empty: an update offered again after it counted counts again",
        ((Journal, "counted", lambda journal, peer: []),)),
    "restart forgets": Sabotage(
        "a coordinator that was started again does not read whose updates counted before",
        ((Journal, "__init__", opened_without_looking),)),
    "told too early": Sabotage(
        "peers hear that a round is committed before it is in the journal",
        ((SlowWork, "write", told_before_the_journal),)),
    "all counted": Sabotage(
        "every peer hears \"counted\" with every commit",
        ((Made, "commit", always_counted),)),
    "accepted is counted": Sabotage(
        "a peer takes the verdict \"accepted\" for \"counted\", before the commit",
        ((PEER, "on_verdict", take_accepted_for_counted),)),
    "never forgets": Sabotage(
        "a peer whose update was rejected keeps it in its error feedback",
        ((PEER, "give_up", keep_what_it_carried),)),
    "no settling": Sabotage(
        "the error feedback never hears what became of an update",
        ((PEER, "settle", settle_without_feedback),)),
    "carries on": Sabotage(
        "the tokens carried over are not set back when their update counted",
        ((PEER, "settle", settle_without_carried),)),
    "wrong base": Sabotage(
        "a peer whose update came late goes on from its own weights, not from the hive's",
        ((PEER, "settle", go_on_from_own_weights),)),
    "any update": Sabotage(
        "`Rounds.offer` accepts every update: too old, too long, delivered already",
        ((Rounds, "offer", accept_everything),)),
    "no checksums": Sabotage(
        "no SHA-256 is compared, neither of a transfer nor of the weights that come out",
        ((Receiver, "result", lambda receiver: bytes(receiver.content)),
         (PEER, "hold", hold_anything))),
    "no retries": Sabotage(
        "what could not be written because the disk was full is never tried again",
        ((SlowWork, "retry", nothing),)),
    "deaf to welcome": Sabotage(
        "a peer that comes back ignores what `welcome` says of its last update",
        ((PEER, "on_welcome", welcome_that_never_counted),)),
    "another's update": Sabotage(
        "a peer that gets a new identity offers the update of the old one again (a mistake that "
        "was found this way)",
        ((PEER, "on_welcome", keep_update_of_another),)),
    "breakdown forgets": Sabotage(
        "a peer whose training broke down forgets its updates that are on their way (a mistake "
        "that was found this way)",
        ((PEER, "start_anew", forget_what_travels),)),
    "silence": Sabotage(
        "a peer never notices that its coordinator has gone silent",
        ((PEER, "deadline", property(lambda session: math.inf)),)),
    "members stay": Sabotage(
        "`Rounds.leave` is missing: rounds wait for peers that are gone",
        ((Rounds, "leave", nothing),)),
    "uploads stay": Sabotage(
        "`Uploads.leave` is missing: a peer that is gone keeps its place in the queue",
        ((Uploads, "leave", nothing),)),
    "both connections": Sabotage(
        "a new connection of a process does not close the one before",
        ((COORDINATOR, "_close", two_connections),)),
}
QUICK = ("counts twice", "told too early", "all counted", "never forgets", "no settling",
         "carries on", "members stay", "uploads stay")  # found in a few runs


def main(names: Any) -> int:
    for name in names or SABOTAGES:
        sabotage = SABOTAGES[name]
        count, failure = sabotage.found()
        if names:
            print(failure)
        said = failure.splitlines()[-1].split(": ", 2)[-1] if failure else ""
        print(f"| {sabotage.what} | {count or f'not in {MOST}'} | {said} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
