"""What a coordinator believes of the work behind an update."""
from collections import deque
from types import SimpleNamespace

from hive.session.intake import Intake
from hive.session.rounds import LATE, REJECTED


def peer_of(name="ann"):
    return SimpleNamespace(
        peer=name, identity=SimpleNamespace(name=name), batch_size=8, steps=0, counted_at=0.0,
        laps=deque(), lately=0, up=SimpleNamespace(seconds=0.1),
        windows=SimpleNamespace(first=0, number=0))


def offer(steps, tokens):
    return {"version": 1, "steps": steps, "tokens": tokens, "seconds": 1.0, "loss": 2.0}


def delivered(intake, link, now):
    """Two steps of eight characters, and as many carried over from a late update."""
    delivery = intake.take(link, offer(2, 32), 100, 0, now, now)
    intake.count(delivery, 1.0)
    return delivery.tokens


def test_what_a_return_made_late_is_believed_when_it_comes_again():
    intake, link = Intake(1000, 1, 1), peer_of()
    intake.ask(link, 2)
    intake.ask(link, 2)
    assert delivered(intake, link, now=10.0) == 32
    intake.leave_out(link.peer, LATE, "the run went back to an earlier round")
    intake.close()
    assert delivered(intake, link, now=20.0) == 32


def test_what_was_rejected_or_counted_is_not_believed_again():
    for rejected in (True, False):
        intake, link = Intake(1000, 1, 1), peer_of()
        intake.ask(link, 4)
        assert delivered(intake, link, now=10.0) == 32
        if rejected:
            intake.leave_out(link.peer, REJECTED, "it is a copy")
        intake.close()
        intake.ask(link, 2)
        assert delivered(intake, link, now=20.0) == 16
