"""The journal on a disk that is full, or that cannot be written, and the file with the key."""
import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_journal import (
    ROOT,
    WEIGHTS,
    add,
    commit_rounds,
    copy,  # noqa: F401 (a fixture)
    finished,
    journal,  # noqa: F401 (a fixture)
    next_record,
    opened,
    six_rounds,  # noqa: F401 (a fixture)
    verify,
    weights_by_hand,
)

import gltch_2_7m as gltch
from gltch_2_7m import GltchError, Unwritable
from hive.journal import Journal
from hive.key import key_for
from hive.session.record import Contribution

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions and signals")


# ---- Full


class SmallDisk:
    """A disk in memory of one megabyte, filled with a file."""

    def __init__(self, folder):
        self.folder, self.ballast = folder, folder / "ballast"

    def fill(self):
        with open(self.ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)) == 4096:
                pass

    def free(self):
        self.ballast.unlink()


@pytest.fixture
def disk(mount, place):
    return SmallDisk(mount(place / "disk", "size=1m"))


def everything(journal):  # noqa: F811
    """All that the journal holds, but for what SQLite keeps beside it."""
    tables = {table: journal._query(f"SELECT * FROM {table}") for table in (
        "run", "versions", "updates", "peers", "contributions", "evaluations", "samples")}
    files = {path.name: path.read_bytes() for path in journal.snapshots.iterdir()}
    return tables, files, list(journal.verify(add))


def writes(journal):  # noqa: F811
    """Everything that is written while a run goes on, each larger than a nearly full disk takes."""
    last, big = journal.last, "x" * 40_000
    record = next_record(journal, contributions=tuple(
        Contribution(f"new {i}", big, 1, 1, 1.0, 1.0, 1, "counted") for i in range(3)))
    return {
        "commit": lambda: journal.commit(record),
        "snapshot": lambda: journal.snapshot(last, weights_by_hand(last), bytes(40_000)),
        "add_evaluation": lambda: [journal.add_evaluation(n, 1.0, 1.0) for n in range(last + 1)],
        "add_sample": lambda: journal.add_sample(last, big),
        "remember_peer": lambda: journal.remember_peer("p9", big, "token", "a laptop", "cpu", 1.0)}


@pytest.mark.parametrize("name", ["commit", "snapshot", "add_evaluation", "add_sample",
                                  "remember_peer"])
def test_on_a_full_disk_nothing_changes_and_the_same_journal_goes_on_later(disk, name):
    with opened(disk.folder / "hive") as journal:  # noqa: F811
        journal.start({"name": "small"}, WEIGHTS)
        commit_rounds(journal, 3)
        journal.snapshot(2, weights_by_hand(2), b"the outer state")
        before, write = everything(journal), writes(journal)[name]
        disk.fill()
        for _ in range(3):
            with pytest.raises(Unwritable):
                write()
            assert everything(journal) == before
        disk.free()
        write()
        assert everything(journal) != before
        commit_rounds(journal, 2)
        assert list(journal.verify(add)) == list(range(journal.last + 1))
    assert verify(disk.folder / "hive")[-1] >= 5


def test_on_a_full_disk_a_journal_is_not_opened_and_later_it_holds_all_it_held(disk):
    with opened(disk.folder / "hive") as journal:  # noqa: F811
        journal.start({"name": "small"}, WEIGHTS)
        commit_rounds(journal, 3)
        before = everything(journal)
    disk.fill()
    for _ in range(2):  # the lock is let go
        with pytest.raises(Unwritable, match="journal.db could not be used: "):
            Journal(disk.folder / "hive")
    disk.free()
    with opened(disk.folder / "hive") as journal:
        assert everything(journal) == before


@pytest.mark.parametrize("name", ["commit", "add_sample", "remember_peer"])
def test_what_sqlite_calls_full_is_unwritable_and_the_same_write_works_later(journal, name):  # noqa: F811
    commit_rounds(journal, 2)
    before, write = everything(journal), writes(journal)[name]
    (pages,), = journal._db.execute("PRAGMA page_count")
    journal._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    for _ in range(2):
        with pytest.raises(Unwritable, match="journal.db could not be used: .*full"):
            write()
        assert everything(journal) == before
    journal._db.execute("PRAGMA max_page_count = 1000000")
    write()
    assert everything(journal) != before


@pytest.mark.parametrize("part", [".bin", ".extra"])
def test_half_a_snapshot_is_not_left_and_the_one_before_is_still_there(
        journal, monkeypatch, part):  # noqa: F811
    commit_rounds(journal, 3)
    journal.snapshot(2, weights_by_hand(2), b"the outer state")
    before, sync = everything(journal), os.fsync

    def fail(number):
        if Path(os.readlink(f"/proc/self/fd/{number}")).name.startswith(f".00000003{part}."):
            raise OSError(28, "No space left on device")
        sync(number)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc to tell the files apart")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(Unwritable, match=f"00000003{part} could not be written"):
            journal.snapshot(3, weights_by_hand(3), b"the outer state of round 3")
    assert everything(journal) == before and journal.newest_extra() == (2, b"the outer state")
    journal.snapshot(3, weights_by_hand(3), b"the outer state of round 3")
    assert journal.newest_extra() == (3, b"the outer state of round 3")


@posix
def test_too_many_open_files_stop_a_snapshot_and_nothing_else(journal):  # noqa: F811
    import resource
    commit_rounds(journal, 3)
    before, (soft, hard) = everything(journal), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(Unwritable, match="Too many open files"):
            journal.snapshot(3, weights_by_hand(3), b"extra")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert everything(journal) == before
    journal.snapshot(3, weights_by_hand(3), b"extra")
    assert journal.newest_extra() == (3, b"extra")


def test_a_damaged_journal_is_not_taken_for_one_that_cannot_be_written(copy):  # noqa: F811
    (copy / "journal.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(GltchError, match="is damaged") as caught:
        Journal(copy, read_only=True)
    assert not isinstance(caught.value, Unwritable)


# ---- Not to be written


KILLED = """
import os, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests", {tests!r}]
from pathlib import Path
from test_journal import *
journal = Journal(Path({folder!r}))
journal.start(RUN, WEIGHTS)
commit_rounds(journal, 5)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def left_behind(processes, tmp_path_factory):
    """The folder of a coordinator that was killed: its rounds are in the write-ahead log."""
    folder = tmp_path_factory.mktemp("left") / "killed"
    script = KILLED.format(root=str(ROOT), tests=str(Path(__file__).parent), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", script], timeout=240)
    assert done.returncode == -signal.SIGKILL
    assert (folder / "journal.db-wal").stat().st_size > 50_000
    return folder


@pytest.fixture
def killed(left_behind, place):
    """A copy of it, to be changed."""
    shutil.copytree(str(left_behind), str(place / "killed"))
    return place / "killed"


@pytest.fixture(params=[pytest.param("a mount", marks=pytest.mark.process), "permissions"])
def freeze(request, place):
    """Make a folder one that cannot be written; returns where it is then."""
    if request.param == "a mount":
        mount = request.getfixturevalue("mount")
        yield lambda folder: mount(place / "frozen", "bind,ro", folder)
        return
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("permissions stop everybody but root")
    frozen = []

    def take_permissions(folder):
        frozen.append(folder)
        for path in [*folder.rglob("*"), folder]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        return folder

    yield take_permissions
    for folder in frozen:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@posix
@pytest.mark.parametrize("missing", [[], ["journal.db-shm"], ["lock"], ["journal.db-shm", "lock"]])
def test_the_rounds_of_a_killed_coordinator_are_read_where_nothing_can_be_written(
        killed, freeze, missing):
    for name in missing:
        (killed / name).unlink()
    folder = freeze(killed)
    before = listing(folder)
    assert verify(folder) == [0, 1, 2, 3, 4, 5]
    assert listing(folder) == before


@posix
@pytest.mark.parametrize("empty_log", [False, True])
def test_a_finished_journal_is_read_where_nothing_can_be_written(
        copy, freeze, empty_log):  # noqa: F811
    if empty_log:
        (copy / "journal.db-wal").write_bytes(b"")
    folder = freeze(copy)
    before = listing(folder)
    for _ in range(2):
        assert verify(folder) == [0, 1, 2, 3, 4, 5, 6]
    assert listing(folder) == before


@posix
def test_a_running_coordinator_is_read_through_a_mount_that_cannot_be_written(place, mount):
    with opened(place / "hive") as writer:
        writer.start({"name": "running"}, WEIGHTS)
        commit_rounds(writer, 2)
        folder = mount(place / "frozen", "bind,ro", place / "hive")
        with opened(folder, read_only=True) as reader:
            assert list(reader.verify(add)) == [0, 1, 2]
            commit_rounds(writer, 2)
            assert list(reader.verify(add)) == [0, 1, 2, 3, 4]


@posix
def test_no_coordinator_starts_under_a_reader_that_was_told_nobody_writes(place, mount):
    folder = finished(place / "hive", 2)
    with opened(mount(place / "frozen", "bind,ro", folder), read_only=True) as reader:
        with pytest.raises(GltchError, match="Another coordinator works in"):
            Journal(folder)
        assert list(reader.verify(add)) == [0, 1, 2]
    with opened(folder) as again:
        commit_rounds(again, 1)


@posix
def test_what_is_copied_to_be_read_is_removed_again(killed, freeze, monkeypatch, place):
    (killed / "journal.db-shm").unlink()
    (place / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place / "temporary"))
    folder = freeze(killed)
    with opened(folder, read_only=True) as reader:
        assert reader.last == 5 and len(list((place / "temporary").iterdir())) == 1
    assert list((place / "temporary").iterdir()) == []


# ---- How much the latest updates weighed


def test_the_latest_counted_weights_come_newest_first(journal):  # noqa: F811
    assert journal.recent_weights() == []
    commit_rounds(journal, 3)  # of each two contributions count
    assert journal.recent_weights() == [
        (0.25, 600), (0.75, 1003), (0.25, 600), (0.75, 1002), (0.25, 600), (0.75, 1001)]
    assert journal.recent_weights(3) == [(0.25, 600), (0.75, 1003), (0.25, 600)]


# ---- The key


def ask_for(host="0.0.0.0", key_file=None):
    return argparse.Namespace(host=host, key_file=key_file)


@pytest.fixture
def no_key(monkeypatch):
    monkeypatch.delenv("HIVE_KEY", raising=False)


def test_a_key_is_made_once_for_nobody_else_to_read(place, no_key):
    key = key_for(ask_for(), place)
    assert len(key) == 32 and (place / "key").read_text() == key == key_for(ask_for(), place)
    assert os.name != "posix" or (place / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in place.glob("*key*")] == ["key"]


@pytest.mark.parametrize("content", ["", " \n\t"])
def test_an_empty_key_file_never_opens_a_hive_to_everybody(place, no_key, content):
    (place / "key").write_text(content)
    with pytest.raises(GltchError, match="key' is empty: put the key into it, or remove it"):
        key_for(ask_for(), place)
    assert key_for(ask_for("127.0.0.1"), place) == ""


def test_a_key_that_was_there_is_used_as_it_is(place, no_key):
    (place / "key").write_text("of my own\n")
    assert key_for(ask_for(), place) == "of my own"
    assert (place / "key").read_text() == "of my own\n"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_key_that_could_not_be_written_leaves_no_file(place, no_key, monkeypatch, call):
    class Crash(BaseException):
        pass

    def crash(*arguments):
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(gltch.os, call, crash)
        key_for(ask_for(), place)
    assert not (place / "key").exists()
    assert len(key_for(ask_for(), place)) == 32


@posix
def test_a_key_is_never_readable_for_others_while_it_is_written(place, no_key, monkeypatch):
    seen, replace = [], os.replace
    monkeypatch.setattr(gltch.os, "replace", lambda old, new: (
        seen.append(Path(old).stat().st_mode & 0o777), replace(old, new)))
    before = os.umask(0)
    try:
        key_for(ask_for(), place)
    finally:
        os.umask(before)
    assert seen == [0o600]


@posix
def test_verify_and_at_round_work_where_nothing_can_be_written(mount, place, start):
    runs = place / "runs"
    server = [sys.executable, ROOT / "hive" / "server.py", "--name", "tiny"]
    script = (f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
              "from hive.server import *\n"
              "args = build_parser().parse_args(['--data', 'text', '--size', '1m'])\n"
              "folder = Path('runs/tiny')\n"
              "journal = Journal(folder)\n"
              "start_run(args, journal, folder)\n"
              "journal.close()\n")
    (place / "text").write_text("To be, or not to be, that is the question.\n" * 100)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=240, capture_output=True)
    (place / "elsewhere").mkdir()
    mount(place / "elsewhere" / "runs", "bind,ro", runs)
    process = start(*server, "--verify", "--at-round", "0", cwd=str(place / "elsewhere"))
    errors = process.communicate(timeout=240)[1]
    assert process.returncode == 0, errors
    assert "All 0 rounds" in errors and (place / "elsewhere" / "round-0.pt").exists()
