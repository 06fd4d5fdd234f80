"""The journal: what was acknowledged is there, whole, unchanged, and leads to the same weights."""
import contextlib
import hashlib
import json
import math
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gltch_2_7m import GltchError, Unwritable
from hive.journal import FORMAT, OLDER, SCHEMA, Journal, worth_keeping
from hive.learning.sync import UNDO
from hive.session.record import Contribution, Judgement, Record

RUN = {"name": "first light", "config": {"n_layer": 6, "dropout": 0.1}, "codec": "add"}
WEIGHTS = bytes(range(32))
ROOT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def add(weights, codec, update, number):
    """A codec small enough to see through: byte by byte, modulo 256."""
    if codec != "add" or len(update) != len(weights):
        raise GltchError("this is no update.")
    return bytes((w + u) % 256 for w, u in zip(weights, update))


def update_of(number):
    return hashlib.sha256(b"update %d" % number).digest()


def contributions_to(number):
    return (Contribution("p1", "Ada", 5, 1000 + number, 2.5, 0.75, 400, "counted"),
            Contribution("p2", "Bob", 3, 600, 2.75, 0.25, 300, "counted"),
            Contribution("p3", "Cyd", 1, 90, 9.5, 0.0, 200, "late", "after the round closed"))


def next_record(journal, **changes):
    """The round that follows, and the weights it leads to unless changed."""
    number = journal.last + 1
    before = journal.weights_at(number - 1, add)
    after = add(before, "add", update_of(number), number)
    record = Record(number, sha256(before), sha256(after), "add", update_of(number), 10 * number,
                    3.0 / number, 100.0 * number, 100.0 * number + 60, contributions_to(number))
    return replace(record, **changes)


def commit_rounds(journal, count):
    for _ in range(count):
        journal.commit(next_record(journal))


def weights_by_hand(number):
    weights = WEIGHTS
    for i in range(1, number + 1):
        weights = add(weights, "add", update_of(i), i)
    return weights


@contextlib.contextmanager
def opened(folder, **options):
    journal = Journal(folder, **options)
    try:
        yield journal
    finally:
        journal.close()


@pytest.fixture
def journal(place):
    with opened(place / "hive") as journal:
        journal.start(RUN, WEIGHTS)
        yield journal


def finished(folder, rounds):
    """A closed journal of this many rounds."""
    with opened(folder) as journal:
        journal.start(RUN, WEIGHTS)
        commit_rounds(journal, rounds)
    return folder


@pytest.fixture(scope="module")
def six_rounds(tmp_path_factory):
    """A closed journal of six rounds in one file: copy it, do not change it."""
    folder = finished(tmp_path_factory.mktemp("journal") / "hive", 6)
    assert not (folder / "journal.db-wal").exists()
    return folder


@pytest.fixture
def copy(six_rounds, place):
    return Path(shutil.copytree(six_rounds, place / "copy"))


def tamper(folder, statement, *values):
    """Change the record behind the journal's back."""
    with contextlib.closing(sqlite3.connect(str(folder / "journal.db"))) as db, db:
        assert db.execute(statement, values).rowcount > 0


def verify(folder):
    with opened(folder, read_only=True) as journal:
        return list(journal.verify(add))


# ---- The record is durable


def test_a_journal_opened_again_goes_on_where_it_was(place):
    with opened(place / "hive") as journal:
        assert journal.run is None
        journal.start(RUN, WEIGHTS)
        assert journal.head() == (0, sha256(WEIGHTS), 0) and journal.last == 0
        commit_rounds(journal, 3)
    with opened(place / "hive") as journal:
        assert journal.run == RUN
        assert journal.head() == (3, sha256(weights_by_hand(3)), 30) and journal.last == 3
        commit_rounds(journal, 1)
        assert journal.head() == (4, sha256(weights_by_hand(4)), 40)
        assert list(journal.verify(add)) == [0, 1, 2, 3, 4]


COMMITTING = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests", {tests!r}]
from pathlib import Path
from test_journal import *
journal = Journal(Path("hive"))
if journal.run is None:
    journal.start(RUN, WEIGHTS)
while True:
    commit_rounds(journal, 1)
    journal.snapshot(journal.last, journal.weights_at(journal.last, add))
    print(journal.last, flush=True)
"""


@posix
def test_a_round_is_there_whole_or_not_at_all(place, start):
    script = COMMITTING.format(root=str(ROOT), tests=str(Path(__file__).parent))
    for acknowledged in (1, 38):  # the second process goes on where the first one was killed
        process = start(sys.executable, "-c", script)
        for line in process.stdout:
            if int(line) >= acknowledged:
                break
        process.kill()
        rest = process.communicate()[0].split()
        assert process.returncode == -signal.SIGKILL
        with opened(place / "hive") as journal:  # and the lock vanished with the process
            last = journal.last
            assert last >= int(rest[-1] if rest else line)
            assert list(journal.verify(add)) == list(range(last + 1))
            assert [one["peers"] for one in journal.history()] == [2] * last
            assert journal.weights_at(last, add) == weights_by_hand(last)


DYING = """
import os, signal, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests", {tests!r}]
from pathlib import Path
from test_journal import *
for statement in range(100):
    if os.fork() == 0:
        journal = Journal(Path(f"hive{{statement}}"))
        journal.start(RUN, WEIGHTS)
        commit_rounds(journal, 1)
        record, seen = next_record(journal), []
        def die(sql):
            seen.append(sql)
            if len(seen) > statement:
                os.kill(os.getpid(), signal.SIGKILL)
        journal._db.set_trace_callback(die)
        journal.commit(record)
        os._exit(0)
    if os.wait()[1] == 0:
        break
print(statement)
"""


@pytest.mark.process
@posix
def test_a_death_before_any_statement_of_a_commit_leaves_the_round_before(place):
    script = DYING.format(root=str(ROOT), tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    statements = int(done.stdout)
    assert statements > 8  # begin, version, update, contributions, link, commit
    for statement in range(statements + 1):
        with opened(place / f"hive{statement}") as journal:
            last = 1 if statement < statements else 2
            assert list(journal.verify(add)) == list(range(last + 1))
            commit_rounds(journal, 1)


def test_a_start_that_was_interrupted_can_be_repeated(place):
    with opened(place / "hive") as journal:
        (journal.snapshots / "00000000.bin").write_bytes(b"written, and then the power failed")
    with opened(place / "hive") as journal:
        with pytest.raises(GltchError, match="holds no run yet"):
            journal.head()
        journal.start(RUN, WEIGHTS)
        assert journal.weights_at(0, add) == WEIGHTS


def test_a_run_is_started_once(journal):
    with pytest.raises(GltchError, match="already holds a run"):
        journal.start(RUN, bytes(32))
    assert journal.weights_at(0, add) == WEIGHTS


@pytest.mark.parametrize("changes", [{"number": 2}, {"number": 4}, {"base": "0" * 64}])
def test_a_round_that_does_not_follow_the_last_one_is_refused(journal, changes):
    commit_rounds(journal, 2)
    with pytest.raises(GltchError, match="cannot be committed"):
        journal.commit(next_record(journal, **changes))
    assert list(journal.verify(add)) == [0, 1, 2]
    commit_rounds(journal, 1)


def test_a_commit_that_fails_half_way_leaves_nothing(journal):
    wrong = Contribution("p4", "Dan", 1, 1, 1.0, 1.0, 1, "perhaps")
    commit_rounds(journal, 1)
    with pytest.raises(sqlite3.IntegrityError):
        journal.commit(next_record(journal, contributions=(*contributions_to(2), wrong)))
    assert journal.last == 1 and journal.updates_since(1) == []
    assert {one["peer"] for one in journal.contributors()} == {"p1", "p2", "p3"}
    commit_rounds(journal, 1)
    assert list(journal.verify(add)) == [0, 1, 2]


def test_a_full_disk_is_one_sentence_and_costs_no_round(journal):
    commit_rounds(journal, 2)
    (pages,), = journal._db.execute("PRAGMA page_count")
    journal._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(GltchError, match="journal.db could not be used: .*full"):
        journal.commit(next_record(journal, update=bytes(100_000)))
    assert list(journal.verify(add)) == [0, 1, 2]
    journal._db.execute("PRAGMA max_page_count = 1000000")
    commit_rounds(journal, 1)
    assert list(journal.verify(add)) == [0, 1, 2, 3]


@given(loss=st.floats(), weight=st.floats(), opened_at=st.floats(allow_nan=False),
       steps=st.integers(0, 2**63 - 1), name=st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=40, deadline=None)
def test_whatever_a_round_holds_it_can_be_verified(loss, weight, opened_at, steps, name):
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as journal:
        journal.start({"odd": [loss, {"name": name}]}, WEIGHTS)
        journal.commit(next_record(journal, loss=loss, opened=opened_at, step=steps, contributions=(
            Contribution(name, name, steps, 1, loss, weight, 0, "rejected", name),)))
        assert list(journal.verify(add)) == [0, 1]
        one = journal.history()[0]
        assert one["loss"] == loss or math.isnan(loss) and math.isnan(one["loss"])
        assert one["opened"] == opened_at and one["step"] == steps
        assert journal.contributors()[0]["name"] == name


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_survives(journal, loss):
    journal.commit(next_record(journal, loss=loss))
    journal.add_evaluation(1, loss, 1.0)
    assert list(journal.verify(add)) == [0, 1]
    assert repr(journal.history()[0]["loss"]) == repr(journal.history()[0]["val_loss"])
    assert repr(journal.history()[0]["loss"]) == repr(loss)
    assert repr(journal.evaluations()) == repr([(1, loss)])


def test_the_links_are_the_documented_hashes(copy):
    """Computed again from the sentence in the documentation, for those who verify elsewhere."""
    with contextlib.closing(sqlite3.connect(str(copy / "journal.db"))) as db:
        links = [row[0] for row in db.execute("SELECT link FROM versions ORDER BY number")]
    compact = {"sort_keys": True, "separators": (",", ":")}
    link = sha256(json.dumps([RUN, sha256(WEIGHTS)], **compact).encode())
    assert links[0] == link
    for number in range(1, 7):
        before, after = weights_by_hand(number - 1), weights_by_hand(number)
        record = {"number": number, "base": sha256(before), "result": sha256(after), "codec": "add",
                  "step": 10 * number, "loss": 3.0 / number, "opened": 100.0 * number,
                  "committed": 100.0 * number + 60,
                  "contributions": [asdict(one) for one in contributions_to(number)]}
        text = link + json.dumps(record, **compact) + sha256(update_of(number))
        link = sha256(text.encode())
        assert links[number] == link


# ---- A change is found


def test_an_unchanged_run_is_verified_version_by_version(copy):
    assert verify(copy) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("column", [
    "base", "result", "codec", "step", "loss", "opened", "committed", "update_sha256",
    "update_bytes", "link"])
@pytest.mark.parametrize("value", [7, "7", b"\xff"])
def test_a_changed_round_is_found_and_named(copy, column, value):
    tamper(copy, f"UPDATE versions SET {column} = ? WHERE number = 4", value)
    with pytest.raises(GltchError, match="^Round 4 is broken: "):
        verify(copy)


@pytest.mark.parametrize("column", [
    "position", "peer", "name", "steps", "tokens", "loss", "weight", "bytes", "verdict", "reason"])
def test_a_changed_contribution_is_found_and_named(copy, column):
    value = "late" if column == "verdict" else 7
    tamper(copy, f"UPDATE contributions SET {column} = ? WHERE number = 4 AND peer = 'p1'", value)
    with pytest.raises(GltchError, match="^Round 4 is broken: its record was changed"):
        verify(copy)


@pytest.mark.parametrize("statement", [
    "DELETE FROM contributions WHERE number = 4 AND peer = 'p3'",
    "INSERT INTO contributions SELECT 4, 9, peer, name, steps, tokens, loss, weight, bytes, "
    "verdict, reason FROM contributions WHERE number = 4 AND position = 0",
    "UPDATE contributions SET number = 4, position = 9 WHERE number = 5 AND position = 0",
    "UPDATE updates SET content = x'00' || substr(content, 2) WHERE number = 4",
    "UPDATE updates SET content = 'text' WHERE number = 4",
    "DELETE FROM updates WHERE number = 4",
    "DELETE FROM versions WHERE number = 4",
    "UPDATE versions SET number = -4 WHERE number = 4"])
def test_something_taken_away_or_put_in_is_found_and_named(copy, statement):
    tamper(copy, statement)
    with pytest.raises(GltchError, match="^Round 4 is broken: "):
        verify(copy)


@pytest.mark.parametrize("table", ["versions", "updates", "contributions"])
def test_two_rounds_in_another_order_are_found(copy, table):
    for old, new in ((4, -1), (5, 4), (-1, 5)):
        tamper(copy, f"UPDATE {table} SET number = ? WHERE number = ?", new, old)
    with pytest.raises(GltchError, match="^Round 4 is broken: "):
        verify(copy)


def test_another_order_of_the_contributions_is_found(copy):
    for old, new in ((0, 9), (1, 0), (9, 1)):
        tamper(copy, "UPDATE contributions SET position = ? WHERE number = 4 AND position = ?",
               new, old)
    with pytest.raises(GltchError, match="^Round 4 is broken: its record was changed"):
        verify(copy)


def test_an_update_changed_together_with_its_hash_is_found(copy):
    other = bytes(32)
    tamper(copy, "UPDATE updates SET content = ? WHERE number = 4", other)
    tamper(copy, "UPDATE versions SET update_sha256 = ? WHERE number = 4", sha256(other))
    with pytest.raises(GltchError, match="^Round 4 is broken: its record was changed"):
        verify(copy)


@pytest.mark.parametrize("changes, reason", [
    ({"result": "0" * 64}, "does not lead to its result"),
    ({"update": b"short"}, "this is no update")])
def test_a_coordinator_that_recorded_nonsense_is_found(journal, changes, reason):
    """The links of such a round are right: only computing it again shows what it is."""
    commit_rounds(journal, 1)
    journal.commit(next_record(journal, **changes))
    verified = journal.verify(add)
    assert [next(verified), next(verified)] == [0, 1]
    with pytest.raises(GltchError, match=f"^Round 2 is broken: .*{reason}"):
        next(verified)
    with pytest.raises(GltchError):
        journal.weights_at(2, add)


def test_a_changed_beginning_is_found(copy):
    description = json.dumps({**RUN, "name": "another"})
    tamper(copy, "UPDATE run SET description = ?", description)
    with pytest.raises(GltchError, match="^Version 0 is broken: "):
        verify(copy)
    tamper(copy, "UPDATE run SET description = 'no JSON'")
    with pytest.raises(GltchError, match="description"):
        verify(copy)


def test_other_initial_weights_are_found(copy):
    (copy / "snapshots" / "00000000.bin").write_bytes(bytes(32))
    with pytest.raises(GltchError, match="^Version 0 is broken: "):
        verify(copy)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_of_the_file_is_reported_or_changes_nothing(six_rounds, data):
    """Whichever byte a disk loses: a sentence, or weights that are those of before."""
    with tempfile.TemporaryDirectory() as other:
        folder = Path(shutil.copytree(six_rounds, Path(other) / "copy"))
        content = bytearray((folder / "journal.db").read_bytes())
        position = data.draw(st.integers(0, len(content) - 1), "position")
        content[position] ^= data.draw(st.integers(1, 255), "change")
        (folder / "journal.db").write_bytes(content)
        with contextlib.suppress(GltchError):
            with opened(folder, read_only=True) as journal:
                for number in journal.verify(add):
                    assert journal.weights_at(number, add) == weights_by_hand(number)


def test_a_damaged_schema_is_one_sentence(copy):
    """SQLite repeats the damaged word in its complaint, which then is no valid text either."""
    content = (copy / "journal.db").read_bytes()
    word = b"number INTEGER NOT NULL REFERENCES versions, position"
    assert content.count(word) == 1
    (copy / "journal.db").write_bytes(content.replace(word, word.replace(b"NULL", b"\xceULL")))
    with pytest.raises(GltchError, match="journal.db is damaged"):
        verify(copy)


@pytest.mark.parametrize("content, read_only", [
    (b"no database at all" * 100, False), (b"no database at all" * 100, True), (b"", True),
    ("the first half", False), ("the first half", True)])
def test_a_file_that_is_no_journal_is_one_sentence(copy, content, read_only):
    whole = (copy / "journal.db").read_bytes()
    content = whole[:len(whole) // 2] if content == "the first half" else content
    (copy / "journal.db").write_bytes(content)
    with pytest.raises(GltchError, match="journal.db is"):
        with opened(copy, read_only=read_only) as journal:
            list(journal.verify(add))


def test_a_journal_of_a_later_format_is_left_alone(copy):
    with contextlib.closing(sqlite3.connect(str(copy / "journal.db"))) as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    with pytest.raises(GltchError, match="no journal that this version"):
        Journal(copy)


# ---- What was found of peers, and rounds that are undone


JUDGED = (Judgement("p1", "seen", 7, 0.7, "", {"cosine": 0.25, "likeness": math.nan}),
          Judgement("p1", "aside", 7, 0.3, "its updates bring little", {}),
          Judgement("p2", "banned", 7, 1.0, "its owner", {}))


def as_before(folder):
    """As it was before there were judgements and kinds of peers."""
    peers, = [statement for statement in SCHEMA.split(";") if "TABLE peers" in statement]
    with contextlib.closing(sqlite3.connect(str(folder / "journal.db"))) as db:
        rows = db.execute("SELECT * FROM peers").fetchall()
        for statement in ("DROP TABLE judgements", "DROP TABLE peers", peers):
            db.execute(statement)
        db.executemany("INSERT INTO peers VALUES (?, ?, ?, ?, ?, ?)", [row[:-1] for row in rows])
        db.execute(f"PRAGMA user_version = {OLDER}")
        db.commit()


def test_an_older_journal_is_read_and_verified_as_it_is(copy):
    as_before(copy)
    with opened(copy, read_only=True) as journal:
        assert list(journal.verify(add)) == list(range(7))
        assert journal.trusted() == [] and journal.judgements(3) == []
        assert {one["kind"] for one in journal.contributors()} == {""}


def test_an_older_journal_goes_on_and_verifies_from_its_first_round_to_the_newest(copy):
    as_before(copy)
    with opened(copy) as journal:
        journal.commit(next_record(journal, judgements=JUDGED))
        assert list(journal.verify(add)) == list(range(8))
        assert len(journal.judgements(7)) == 3 and journal.judgements(6) == []
        journal.remember_peer("p1", "Ada", "hash", "Firefox", "tab", 9e9)
        kinds = {one["peer"]: one["kind"] for one in journal.contributors()}
        assert kinds.pop("p1") == "tab" and set(kinds.values()) == {""}


def test_what_was_found_of_peers_is_kept_and_tells_whom_to_believe(copy):
    with opened(copy) as journal:
        journal.commit(next_record(journal, judgements=JUDGED))
    with opened(copy) as journal:
        assert journal.trusted() == [("p1", 0.3, "aside", "its updates bring little"),
                                     ("p2", 1.0, "banned", "its owner")]
        assert journal.judgements(7)[0] == {
            "peer": "p1", "kind": "seen", "version": 7, "score": 0.7, "reason": "",
            "numbers": {"cosine": 0.25, "likeness": None}}
        back = Judgement("p1", "back", 8, 0.8, "its work is good again", {})
        journal.commit(next_record(journal, judgements=(back,)))
        assert journal.trusted()[0] == ("p1", 0.8, "back", "its work is good again")


@pytest.mark.parametrize("change", [
    "UPDATE judgements SET score = 1.0 WHERE kind = 'aside'", "DELETE FROM judgements",
    "UPDATE judgements SET reason = 'no reason' WHERE kind = 'banned'",
    "UPDATE judgements SET numbers = '{}' WHERE kind = 'seen'"])
def test_a_changed_judgement_is_found(copy, change):
    with opened(copy) as journal:
        journal.commit(next_record(journal, judgements=JUDGED))
    tamper(copy, change)
    with pytest.raises(GltchError, match="^Round 7 is broken"):
        verify(copy)


def undoing(journal, target):
    """A record that returns to an earlier version."""
    return next_record(journal, codec=UNDO, update=str(target).encode(),
                       result=journal.at(target)[0], contributions=())


def test_a_round_may_return_to_an_earlier_version(journal):
    commit_rounds(journal, 5)
    journal.commit(undoing(journal, 2))
    assert journal.weights_at(6, add) == weights_by_hand(2)
    after = add(weights_by_hand(2), "add", update_of(7), 7)
    journal.commit(next_record(journal, base=sha256(weights_by_hand(2)), result=sha256(after)))
    assert journal.weights_at(7, add) == after
    assert list(journal.verify(add)) == list(range(8))
    assert journal.undone() == [(6, 2)]


def test_a_round_that_returns_to_the_newest_version_only_writes_something_down(journal):
    commit_rounds(journal, 2)
    journal.commit(replace(undoing(journal, 2), judgements=JUDGED))
    assert journal.weights_at(3, add) == weights_by_hand(2) and journal.undone() == []
    counter = counted(add)
    assert list(journal.verify(counter.apply)) == list(range(4))
    assert len(counter.calls) == 2, "nothing is computed again for it"


@pytest.mark.parametrize("target", [b"4", b"5", b"-1", b"x", b""])
def test_nobody_returns_to_a_version_that_is_not_earlier(journal, target):
    commit_rounds(journal, 3)
    journal.commit(replace(undoing(journal, 2), update=target))
    with pytest.raises(GltchError):
        list(journal.verify(add))


# ---- The weights of any version


@given(snapshots=st.sets(st.integers(1, 8)), damaged=st.sets(st.integers(1, 8)),
       missing=st.sets(st.integers(1, 8)))
@settings(max_examples=25, deadline=None)
def test_weights_at_any_round_equal_those_that_were_committed(snapshots, damaged, missing):
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as journal:
        journal.start(RUN, WEIGHTS)
        for number in range(1, 9):
            commit_rounds(journal, 1)
            if number in snapshots:
                journal.snapshot(number, weights_by_hand(number))
        for path in journal.snapshots.glob("*.bin"):
            if int(path.stem) in damaged:
                path.write_bytes(b"\0" + path.read_bytes()[1:-1])
            if int(path.stem) in missing:
                path.unlink()
        for number in range(9):
            assert journal.weights_at(number, add) == weights_by_hand(number)


def counted(apply):
    """`apply`, and the list of its calls."""
    calls = []

    def counting(*arguments):
        calls.append(arguments)
        return apply(*arguments)

    return SimpleNamespace(apply=counting, calls=calls)


def test_replay_begins_at_the_nearest_intact_snapshot(journal):
    for number in range(1, 8):
        commit_rounds(journal, 1)
        if number in (2, 5):
            journal.snapshot(number, weights_by_hand(number))
    for path, replayed in ((None, 2), ("00000005.bin", 5), ("00000002.bin", 7)):
        if path:
            (journal.snapshots / path).write_bytes(b"damaged")
        counter = counted(add)
        assert journal.weights_at(7, counter.apply) == weights_by_hand(7)
        assert len(counter.calls) == replayed


def test_what_was_undone_is_not_computed_on_the_way_to_a_version(journal):
    commit_rounds(journal, 4)
    journal.commit(undoing(journal, 3))
    journal.commit(undoing(journal, 4))  # of which round 5 took back the round
    for target in (5, 6, 2):
        journal.commit(undoing(journal, target))
    counter = counted(add)
    assert journal.weights_at(9, counter.apply) == weights_by_hand(2)
    assert [number for _, _, _, number in counter.calls] == [1, 2]
    assert journal.weights_at(8, counter.apply) == weights_by_hand(4)
    assert list(journal.verify(add)) == list(range(10))


def test_without_any_intact_snapshot_there_is_one_sentence(journal):
    commit_rounds(journal, 2)
    (journal.snapshots / "00000000.bin").unlink()
    with pytest.raises(GltchError, match="no intact snapshot"):
        journal.weights_at(2, add)


@pytest.mark.parametrize("number", [-1, 3, 10**6])
def test_unknown_versions_are_refused(journal, number):
    commit_rounds(journal, 2)
    for use in (lambda: journal.weights_at(number, add), lambda: journal.update(number),
                lambda: journal.snapshot(number, WEIGHTS), lambda: journal.add_sample(number, "x"),
                lambda: journal.add_evaluation(number, 1.0, 1.0), lambda: journal.update(0)):
        with pytest.raises(GltchError, match="holds no"):
            use()
    assert journal.extra(number) is None


def test_a_damaged_update_is_not_handed_out(copy):
    tamper(copy, "UPDATE updates SET content = zeroblob(32) WHERE number = 4")
    with opened(copy) as journal:
        assert journal.update(3) == ("add", update_of(3))
        for use in (lambda: journal.update(4), lambda: journal.weights_at(5, add)):
            with pytest.raises(GltchError, match="the update of round 4 was changed"):
                use()


def test_a_peer_that_was_away_learns_which_updates_it_missed(journal):
    commit_rounds(journal, 4)
    assert journal.updates_since(4) == []
    assert journal.updates_since(2) == [
        (number, "add", sha256(weights_by_hand(number)), sha256(update_of(number)), 32, 10 * number)
        for number in (3, 4)]
    assert [row[0] for row in journal.updates_since(-1)] == [1, 2, 3, 4]


# ---- Snapshots


def test_pruning_keeps_what_was_promised(journal):
    for number in range(1, 208):
        journal.commit(next_record(journal))
        if number % 5 == 0 or number == 206:
            journal.snapshot(number, weights_by_hand(number), b"state %d" % number)
    assert sorted(path.name for path in journal.snapshots.iterdir()) == [
        "00000000.bin", "00000100.bin", "00000200.bin", "00000205.bin", "00000206.bin",
        "00000206.extra"]


@given(st.sets(st.integers(0, 1000)))
def test_pruning_never_takes_the_newest_three_or_a_hundredth(present):
    kept = worth_keeping(present)
    assert set(sorted(present)[-3:]) <= kept <= present
    assert {number for number in present if number % 100 == 0} <= kept
    assert len(kept) <= 3 + 11


def test_snapshots_are_kept_as_seldom_as_it_is_said(journal):
    for number in range(1, 31):
        journal.commit(next_record(journal))
        journal.snapshot(number, weights_by_hand(number), every=12)
    assert sorted(path.name for path in journal.snapshots.iterdir()) == [
        f"{number:08d}.bin" for number in (0, 12, 24, 28, 29, 30)]


def test_each_round_is_applied_with_its_number(journal):
    commit_rounds(journal, 5)
    numbers = []

    def noting(weights, codec, update, number):
        numbers.append(number)
        return add(weights, codec, update, number)

    assert list(journal.verify(noting)) == [0, 1, 2, 3, 4, 5]
    journal.weights_at(3, noting)
    assert numbers == [1, 2, 3, 4, 5, 1, 2, 3]


def test_a_snapshot_of_other_weights_is_refused(journal):
    commit_rounds(journal, 2)
    with pytest.raises(GltchError, match="other weights"):
        journal.snapshot(1, weights_by_hand(2))
    assert not (journal.snapshots / "00000001.bin").exists()


def test_the_extra_of_exactly_that_version_comes_back_intact_or_not_at_all(journal):
    commit_rounds(journal, 2)
    journal.snapshot(1, weights_by_hand(1), b"momentum 1")
    assert journal.extra(1) == b"momentum 1" and journal.extra(0) is None
    journal.snapshot(2, weights_by_hand(2), b"momentum 2")
    assert journal.extra(2) == b"momentum 2" and journal.extra(1) is None
    path = journal.snapshots / "00000002.extra"
    for damaged in (path.read_bytes()[:-1], b"\0" + path.read_bytes()[1:], b""):
        path.write_bytes(damaged)
        assert journal.extra(2) is None
    journal.snapshot(2, weights_by_hand(2))
    assert not path.exists()


def test_what_a_restored_database_does_not_know_is_passed_over(journal):
    """journal.db came back from a backup, the snapshots are newer."""
    for future in ("00000008.bin", "00000009.bin", "00000010.bin"):
        (journal.snapshots / future).write_bytes(b"of rounds that are lost")
    (journal.snapshots / "notes.bin").write_bytes(b"not ours")
    commit_rounds(journal, 8)
    assert journal.weights_at(8, add) == weights_by_hand(8)
    journal.snapshot(8, weights_by_hand(8))
    assert sorted(path.name for path in journal.snapshots.iterdir()) == [
        "00000000.bin", "00000008.bin", "notes.bin"]


def test_what_a_kill_left_half_written_is_cleared_away(copy):
    abandoned = copy / "snapshots" / ".00000006.bin.123.tmp"
    abandoned.write_bytes(b"half")
    verify(copy)
    assert abandoned.exists()  # a reader leaves everything alone
    Journal(copy).close()
    assert not abandoned.exists()


# ---- In memory


def test_a_journal_in_memory_says_the_same_as_one_in_a_folder(place):
    told = []
    with opened(place / "hive") as on_disk, opened(None) as in_memory:
        for journal in (on_disk, in_memory):
            journal.start(RUN, WEIGHTS)
            for number in range(1, 15):
                commit_rounds(journal, 1)
                journal.add_evaluation(number, 1.0 / number, 0.5)
                journal.snapshot(number, weights_by_hand(number), b"extra %d" % number)
            told.append((journal.run, journal.head(), list(journal.verify(add)),
                         journal.history(), journal.contributors(), journal.newest_extra(),
                         [journal.weights_at(number, add) for number in range(15)],
                         sorted(journal.files.names())))
    assert told[0] == told[1]
    assert "00000014.extra" in told[0][-1]
    assert not Path(":memory:").exists()


def test_a_full_memory_is_a_full_disk():
    with opened(None) as journal:
        journal.start(RUN, WEIGHTS)
        commit_rounds(journal, 1)
        room, = journal._query("PRAGMA max_page_count")[0]
        journal._query("PRAGMA max_page_count = 1")
        record = replace(next_record(journal), update=bytes(100_000))
        with pytest.raises(Unwritable, match="is full"):
            journal.commit(record)
        assert journal.last == 1
        journal._query(f"PRAGMA max_page_count = {room}")
        journal.commit(record)
        assert journal.last == 2


# ---- Who may open it


def test_two_coordinators_on_one_folder_get_one_sentence(journal):
    with pytest.raises(GltchError, match="^Another coordinator works in .*hive: stop it, or"):
        Journal(journal.folder)
    journal.close()
    journal.close()  # closing twice does no harm
    Journal(journal.folder).close()


def test_a_journal_that_could_not_be_opened_leaves_no_lock(copy):
    whole = (copy / "journal.db").read_bytes()
    (copy / "journal.db").write_bytes(b"damaged" * 1000)
    with pytest.raises(GltchError) as caught:
        Journal(copy)
    (copy / "journal.db").write_bytes(whole)
    Journal(copy).close()
    assert "restore the folder from a copy" in str(caught.value)


def test_a_reader_follows_the_coordinator_and_changes_nothing(journal):
    commit_rounds(journal, 2)
    with opened(journal.folder, read_only=True) as reader:
        assert reader.run == RUN and list(reader.verify(add)) == [0, 1, 2]
        commit_rounds(journal, 1)
        assert reader.weights_at(3, add) == weights_by_hand(3)
        for change in (lambda: reader.commit(next_record(reader)),
                       lambda: reader.start(RUN, WEIGHTS),
                       lambda: reader.snapshot(3, weights_by_hand(3)),
                       lambda: reader.add_sample(3, "text"),
                       lambda: reader.add_evaluation(3, 1.0, 1.0),
                       lambda: reader.remember_peer("p", "n", "t", "a laptop", "cpu", 1.0)):
            with pytest.raises(GltchError):
                change()
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader._db.execute("DELETE FROM updates")
    assert list(journal.verify(add)) == [0, 1, 2, 3] and journal.samples() == []
    assert [path.name for path in journal.snapshots.iterdir()] == ["00000000.bin"]


def test_a_reader_needs_a_journal_and_makes_none(place):
    with pytest.raises(GltchError, match="There is no run of a hive in .*nowhere: choose"):
        Journal(place / "nowhere", read_only=True)
    assert not (place / "nowhere").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(place):
    (place / "file").write_bytes(b"")
    with pytest.raises(GltchError, match="could not be written"):
        Journal(place / "file" / "hive")


def test_an_odd_folder_name_is_no_obstacle(place):
    folder = finished(place / "50% ?mode=memory #1 é", 1)
    assert verify(folder) == [0, 1] and (folder / "journal.db").exists()


def test_threads_read_while_rounds_are_committed(journal):
    failures, done = [], threading.Event()

    def read():
        try:
            while not done.is_set():
                rounds = journal.history()
                assert [one["number"] for one in rounds] == list(range(1, len(rounds) + 1))
                assert all(one["peers"] == 2 and one["update_bytes"] == 32 for one in rounds)
                assert journal.weights_at(len(rounds), add) == weights_by_hand(len(rounds))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        commit_rounds(journal, 15)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures and journal.last == 15


# ---- What is shown


def test_history_tells_each_round_in_order(journal):
    journal.commit(next_record(journal))
    journal.commit(next_record(journal, contributions=()))
    journal.add_evaluation(0, 4.2, 0.5)
    journal.add_evaluation(1, 2.9, 0.5)
    journal.add_evaluation(1, 2.8, 0.5)  # again, after a restart
    assert journal.history() == [
        {"number": 1, "step": 10, "loss": 3.0, "val_loss": 2.8, "peers": 2, "tokens": 1601,
         "bytes": 900, "update_bytes": 32, "opened": 100.0, "committed": 160.0},
        {"number": 2, "step": 20, "loss": 1.5, "val_loss": None, "peers": 0, "tokens": 0,
         "bytes": 0, "update_bytes": 32, "opened": 200.0, "committed": 260.0}]
    assert journal.evaluations() == [(0, 4.2), (1, 2.8)]


def test_history_does_not_read_the_updates(copy):
    with contextlib.closing(sqlite3.connect(str(copy / "journal.db"))) as db:
        db.execute("DROP TABLE updates")
    with opened(copy, read_only=True) as journal:
        assert [one["update_bytes"] for one in journal.history()] == [32] * 6
        assert len(journal.updates_since(0)) == 6
        with pytest.raises(GltchError):
            journal.update(1)


def test_samples_come_newest_first(journal):
    commit_rounds(journal, 2)
    journal.add_evaluation(0, 4.25, 0.5)
    journal.add_evaluation(2, 2.5, 0.5)
    for number, text in ((0, "zzz"), (1, "ROMEO:"), (2, "O, \0 é\n"), (2, "again")):
        journal.add_sample(number, text)
    newest = {"round": 2, "step": 20, "val_loss": 2.5, "text": "again"}
    assert journal.samples() == [
        newest, {"round": 2, "step": 20, "val_loss": 2.5, "text": "O, \0 é\n"},
        {"round": 1, "step": 10, "val_loss": None, "text": "ROMEO:"},
        {"round": 0, "step": 0, "val_loss": 4.25, "text": "zzz"}]
    assert journal.samples(limit=1) == [newest]


def test_a_peer_keeps_its_first_day_and_is_found_by_its_name(journal):
    journal.remember_peer("p1", "Ada", "hash one", "a laptop", "cpu", 10.0)
    journal.remember_peer("p2", "Bob", "hash two", "NVIDIA T4", "cuda", 11.0)
    journal.remember_peer("p1", "Ada L.", "hash three", "Firefox", "tab", 12.0)
    assert journal.identities("Ada L.") == [("p1", "hash three")]
    assert journal.identities("Bob") == [("p2", "hash two")]
    assert journal.identities("Ada") == []
    ada = next(one for one in journal.contributors() if one["peer"] == "p1")
    assert (ada["first_seen"], ada["last_seen"]) == (10.0, 12.0)
    assert (ada["device"], ada["kind"]) == ("Firefox", "tab")


def test_contributors_are_summed_over_the_run(journal):
    journal.remember_peer("p2", "Bob", "hash", "NVIDIA T4", "cuda", 10.0)
    journal.remember_peer("p9", "Eve", "other", "a laptop", "cpu", 11.0)
    for verdict in ("counted", "late", "rejected", "counted", "late"):
        journal.commit(next_record(journal, contributions=(
            Contribution("p1", "Ada", 5, 1000, 2.5, 1.0, 400, verdict),
            Contribution("p2", "Bob", 5, 1500, 2.5, 1.0, 50, "counted"))))
    assert journal.contributors() == [
        {"peer": "p2", "name": "Bob", "device": "NVIDIA T4", "kind": "cuda", "first_seen": 10.0,
         "last_seen": 560.0, "tokens": 7500, "rounds": 5, "late": 0, "rejected": 0, "bytes": 250},
        {"peer": "p1", "name": "Ada", "device": "", "kind": "", "first_seen": 160.0,
         "last_seen": 560.0, "tokens": 2000, "rounds": 2, "late": 2, "rejected": 1, "bytes": 2000},
        {"peer": "p9", "name": "Eve", "device": "a laptop", "kind": "cpu", "first_seen": 11.0,
         "last_seen": 11.0, "tokens": 0, "rounds": 0, "late": 0, "rejected": 0, "bytes": 0}]
    assert [journal.counted(peer)[-1:] for peer in ("p1", "p2", "p9", "?")] == [[4], [5], [], []]


def test_of_many_identities_of_one_name_the_64_seen_last_are_known(journal):
    for number in range(70):
        journal.remember_peer(f"p{number}", "Ada", f"hash {number}", "a laptop", "cpu",
                              float(number))
    assert journal.identities("Ada") == [(f"p{n}", f"hash {n}") for n in range(69, 5, -1)]


def test_who_was_never_introduced_has_no_identity_to_come_back_to(journal):
    commit_rounds(journal, 1)
    for row in journal.contributors():
        assert journal.identities(row["name"]) == []


# ---- What the dashboard draws


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Forty rounds, some of them without a loss, and evaluations of some: read it only."""
    folder = tmp_path_factory.mktemp("drawn") / "hive"
    with opened(folder) as journal:
        journal.start(RUN, WEIGHTS)
        for number in range(1, 41):
            loss = math.nan if number in (7, 8, 9) else (number * 37 % 64) / 16  # sums are exact
            journal.commit(Record(
                number, journal.head()[1], f"{number:064x}", "add", b"", 10 * number + number % 3,
                loss, 100.0 * number, 100.0 * number + 60, ()))
        for number in (0, 1, 2, 5, 9, 10, 11, 24, 25, 40):
            journal.add_evaluation(number, math.nan if number == 9 else number / 8, 0.5)
    with opened(folder, read_only=True) as journal:
        yield journal


def points_of(rows, first, every):
    """Rows, (round, ...), in the points they belong to."""
    points = {}
    for row in rows:
        points.setdefault((row[0] - first) // every, []).append(row)
    return [points[place] for place in sorted(points)]


def curve_by_hand(journal, first, last, points):
    every = max(1, -(-(last - first + 1) // points))
    rounds = points_of([(one["number"], one["step"], one["loss"], one["committed"])
                        for one in journal.history() if first <= one["number"] <= last],
                       first, every)
    losses = [[row[2] for row in point if not math.isnan(row[2])] for point in rounds]
    evaluations = [point[-1] for point in points_of(
        [(number, journal.at(number)[1], None if math.isnan(loss) else loss)
         for number, loss in journal.evaluations() if first <= number <= last], first, every)]
    return {
        "first": first, "last": last, "every": every,
        "rounds": [point[-1][0] for point in rounds],
        "steps": [point[-1][1] for point in rounds],
        "loss": [sum(part) / len(part) if part else None for part in losses],
        "low": [min(part, default=None) for part in losses],
        "high": [max(part, default=None) for part in losses],
        "committed": [point[-1][3] for point in rounds],
        "evaluations": {name: [row[place] for row in evaluations]
                        for place, name in enumerate(("rounds", "steps", "val_loss"))}}


@given(first=st.integers(0, 45), last=st.integers(0, 45), points=st.integers(1, 50))
@settings(max_examples=150, deadline=None)
def test_a_curve_is_what_a_plain_computation_gives(drawn, first, last, points):
    curve = drawn.curve(first, last, points)
    assert curve == curve_by_hand(drawn, first, last, points)
    assert len(curve["rounds"]) <= points and len(curve["evaluations"]["rounds"]) <= points


def test_every_round_is_in_exactly_one_point(drawn):
    assert drawn.curve(0, 40, 5000)["rounds"] == list(range(1, 41))
    for points in range(1, 42):
        curve = drawn.curve(1, 40, points)
        sizes = [after - before for before, after in zip([0, *curve["rounds"]], curve["rounds"])]
        assert set(sizes[:-1]) <= {curve["every"]} and sum(sizes) == 40


def test_of_several_evaluations_in_one_point_the_last_is_kept(drawn):
    curve = drawn.curve(1, 40, 4)  # 1 to 10, 11 to 20, 21 to 30, 31 to 40
    assert curve["rounds"] == [10, 20, 30, 40]
    assert curve["evaluations"] == {"rounds": [10, 11, 25, 40], "steps": [101, 112, 251, 401],
                                    "val_loss": [1.25, 1.375, 3.125, 5.0]}


def test_a_run_without_rounds_has_a_curve_without_points(journal):
    nothing = {name: [] for name in ("rounds", "steps", "loss", "low", "high", "committed")}
    evaluations = {"rounds": [], "steps": [], "val_loss": []}
    assert journal.curve(0, 0, 600) == {"first": 0, "last": 0, "every": 1, **nothing,
                                        "evaluations": evaluations}
    journal.add_evaluation(0, 4.25, 0.5)  # the initial weights are no round, but were measured
    assert journal.curve(0, 0, 1)["evaluations"] == {"rounds": [0], "steps": [0],
                                                     "val_loss": [4.25]}
    assert journal.curve(1, 0, 600)["evaluations"] == evaluations


def test_a_round_is_told_with_everything_but_its_update(journal):
    commit_rounds(journal, 3)
    journal.add_evaluation(2, 2.5, 0.5)
    told = journal.round(2)
    (link,), = journal._query("SELECT link FROM versions WHERE number = 2")
    record = next_record(journal, number=2, base=sha256(weights_by_hand(1)),
                         result=sha256(weights_by_hand(2)), step=20, loss=1.5, opened=200.0,
                         committed=260.0, contributions=())
    expected = {key: value for key, value in asdict(record).items() if key != "update"}
    assert told == {
        **expected, "contributions": [asdict(one) for one in contributions_to(2)],
        "judgements": [],
        "update_sha256": sha256(update_of(2)), "update_bytes": 32, "link": link, "val_loss": 2.5}
    assert journal.round(3)["val_loss"] is None
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("number", [-1, 0, 3, 10**15])
def test_a_round_that_was_not_made_is_one_sentence(journal, number):
    commit_rounds(journal, 2)
    with pytest.raises(GltchError, match=f"holds no round {number}"):
        journal.round(number)


def test_an_evaluation_is_told_of_the_version_it_belongs_to(journal):
    commit_rounds(journal, 2)
    journal.add_evaluation(1, 2.75, 0.5)
    journal.add_evaluation(1, 2.5, 0.5)
    journal.add_evaluation(2, math.nan, 0.5)
    assert [journal.evaluation(number) for number in (0, 1, 2, 3)] == [None, 2.5, None, None]


def test_the_reason_of_the_latest_update_that_did_not_count_is_remembered(journal):
    assert journal.reasons() == {}

    def commit(*verdicts):
        journal.commit(next_record(journal, contributions=tuple(
            Contribution(peer, peer, 1, 1, 2.5, 1.0, 1, verdict, reason)
            for peer, verdict, reason in verdicts)))

    commit(("p1", "late", "first"), ("p2", "counted", "2 rounds late"), ("p3", "rejected", "x"))
    commit(("p1", "rejected", "second"), ("p2", "counted", ""), ("p3", "counted", ""))
    assert journal.reasons() == {"p1": "second", "p3": "x"}
    commit(("p1", "counted", ""), ("p2", "late", ""), ("p3", "late", "y"))
    assert journal.reasons() == {"p1": "second", "p2": "", "p3": "y"}
