"""The owner's hand: on a stopped run a round of its own, on a running one a file of its owner's."""
import json
import os
import sys
import threading

import pytest
from builders import make_job

from gltch_2_7m import GltchError
from hive.journal import Journal
from hive.orders import FOLDER, Order, carry_out, make_place, taken

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")


@pytest.fixture
def stopped(place):
    """A run with two peers, one of them by two names, and no rounds yet."""
    journal = Journal(place / "hive")
    journal.start(make_job().as_json(), bytes(8))
    for number, name in enumerate(("ann", "bob", "ann")):
        journal.remember_peer(f"peer-{number}", name, f"token {number}", "CPU", "cpu", 1.0)
    journal.close()
    return place / "hive"


def read(folder):
    return Journal(folder, read_only=True)


def test_on_a_stopped_run_a_ban_is_a_round_that_changes_nothing_else(stopped):
    assert "round 1" in carry_out(stopped, Order("ban", "ann"))
    journal = read(stopped)
    assert [(peer, kind) for peer, _, kind, _ in journal.trusted()] == [
        ("peer-0", "banned"), ("peer-2", "banned")]
    assert journal.at(1) == journal.at(0) and journal.undone() == []
    assert list(journal.verify(lambda *_: b"")) == [0, 1]
    journal.close()
    carry_out(stopped, Order("pardon", "ann"))
    journal = read(stopped)
    assert {kind for _, _, kind, _ in journal.trusted()} == {"pardoned"}
    journal.close()


def test_on_a_stopped_run_a_rollback_is_a_round_that_leads_to_an_earlier_version(stopped):
    for name in ("ann", "bob"):
        carry_out(stopped, Order("ban", name))
    carry_out(stopped, Order("rollback", 0))
    journal = read(stopped)
    assert journal.undone() == [(3, 0)] and journal.judgements(3)[0]["kind"] == "undone"
    assert list(journal.verify(lambda *_: b"")) == [0, 1, 2, 3]
    journal.close()


@pytest.mark.parametrize("order", [
    Order("ban", "nobody"), Order("pardon", "nobody"), Order("pardon", "ann"),
    Order("rollback", 0), Order("rollback", -1), Order("rollback", 99)])
def test_an_order_that_makes_no_sense_is_a_sentence_and_changes_nothing(stopped, order):
    with pytest.raises(GltchError):
        carry_out(stopped, order)
    journal = read(stopped)
    assert journal.last == 0
    journal.close()


def test_a_running_coordinator_takes_each_order_once(stopped):
    running = Journal(stopped)  # its lock is held
    make_place(stopped)
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(carry_out(stopped, Order("ban", "bob"))))
    asking.start()
    orders = []
    while asking.is_alive():
        orders += taken(stopped)
        asking.join(0.01)
    running.close()
    assert orders == [Order("ban", "bob")] and "has taken the order" in answers[0]
    assert list(taken(stopped)) == [] and list((stopped / FOLDER).iterdir()) == []


@posix
def test_only_its_owner_may_give_orders(stopped):
    make_place(stopped)
    assert (stopped / FOLDER).stat().st_mode & 0o777 == 0o700
    place = stopped / FOLDER
    for name in ("a", "b", "c"):
        (place / f"{name}.json").write_text(json.dumps(["ban", "ann"]))
    (place / "a.json").chmod(0o600)
    (place / "b.json").chmod(0o666)  # others may have written that
    (place / "c.json").unlink()
    os.symlink(place / "a.json", place / "c.json")
    assert list(taken(stopped)) == [Order("ban", "ann")]
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"5", b'["ban"]', b'["ban", 5]', b'["rollback", "1"]', b'["rollback", true]',
    b'["stop", "ann"]', b'["ban", "' + b"x" * 5000 + b'"]', b"\xff"])
def test_what_is_no_order_is_removed_and_none(stopped, content):
    make_place(stopped)
    path = stopped / FOLDER / "x.json"
    path.write_bytes(content)
    path.chmod(0o600)
    assert list(taken(stopped)) == [] and not path.exists()


def test_orders_of_an_earlier_process_are_forgotten(stopped):
    make_place(stopped)
    (stopped / FOLDER / "x.json").write_text('["ban", "ann"]')
    make_place(stopped)
    assert list(taken(stopped)) == []
