"""A full disk: the run waits, says so on page and log, and goes on when there is room."""
import contextlib
import os
import shutil
import subprocess
import sys

import pytest
from conftest import PROGRAM
from hive_processes import LIMIT, Place

MIB = 1 << 20
DISK = 256  # MiB; a round takes half a one, a snapshot 12, and a hive may make ten rounds a second
SNAPSHOTS = 11  # rounds, after which one more snapshot than at the start is due


@contextlib.contextmanager
def small_disk(folder):
    """A disk of its own at this folder. Only root may mount one."""
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("a small disk is a tmpfs, which only root on Linux can mount")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(folder)],
                             capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Filler:
    """A big file that takes all room but a few MiB."""

    def __init__(self, disk):
        self.path = disk / "big"

    def fill(self, left=0):
        size = max(0, shutil.disk_usage(self.path.parent).free - left * MIB)
        with contextlib.suppress(OSError), open(self.path, "wb", buffering=0) as file:
            for _ in range(size // MIB + 1):
                file.write(bytes(MIB))

    def free(self):
        self.path.unlink()


@pytest.fixture
def disk(processes, tmp_path):
    with small_disk(tmp_path / "disk") as folder:
        yield folder


@pytest.fixture
def peers(processes, tmp_path, text_file):
    """Where the peers are: on another disk."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    place = Place(folder, text_file)
    yield place
    place.clean()


@pytest.fixture
def here(disk, tmp_path, text_file):
    """A coordinator whose run is on the small disk, and its words on another."""
    folder = tmp_path / "coordinator"
    folder.mkdir()
    (folder / "runs").symlink_to(disk)
    place = Place(folder, text_file)
    yield place
    place.clean()


@pytest.fixture
def all_on_it(disk, text_file):
    """A coordinator whose run is on the small disk, and its words too."""
    place = Place(disk, text_file, logs=True)
    yield place
    place.clean()


def waits(hive):
    """The page's sentence, once the run waits for room."""
    def paused():
        try:
            state = hive.state()
        except OSError:
            hive.process.wait(timeout=LIMIT)
            pytest.fail(f"the coordinator ended:\n{hive.said()}", pytrace=False)
        return state["phase"] == "paused" and state["paused"]

    return hive.until(paused, "the page never says that the run waits")


def goes_on_well(hive, disk):
    """Rounds, snapshots and checkpoints are written again, and the record is whole."""
    checkpoint = hive.run / "last.pt"
    written = checkpoint.stat().st_mtime_ns
    hive.goes_on()
    state = hive.state()
    assert state["phase"] != "paused"
    assert state["paused"] == ""
    hive.reaches(state["version"] + SNAPSHOTS)
    hive.until(lambda: checkpoint.stat().st_mtime_ns > written, "no checkpoint is written any more")
    newest = max(hive.run.glob("snapshots/*.bin"))
    assert int(newest.stem) > state["version"]
    assert not list(hive.run.rglob(".*.tmp")), "something half written was left"
    assert hive.interrupt() == 130, hive.said()
    verified = subprocess.run(
        [sys.executable, str(PROGRAM.parent / "hive" / "server.py"), "--verify"],
        cwd=str(hive.folder), capture_output=True, text=True)
    assert verified.returncode == 0, verified.stderr


def train(place, peers, *options):
    """A hive of two peers that is in the middle of training, and has a checkpoint."""
    hive = place.coordinator("--steps", 1_000_000, "--min-peers", 2, *options)
    both = [peers.peer(hive, name) for name in ("ada", "bob")]
    hive.reaches(2)
    hive.until((hive.run / "last.pt").exists, "no checkpoint came")
    return hive, both


def nothing_was_lost(hive, peers):
    """They are still the same two, and nothing of theirs was refused."""
    assert {one["name"] for one in hive.state()["peers"]} == {"ada", "bob"}
    assert hive.state()["updates"]["rejected"] == 0
    for peer in peers:
        assert peer.process.poll() is None, peer.said()


def test_a_run_waits_while_a_round_cannot_be_written_and_goes_on_when_there_is_room(
        here, peers, disk):
    hive, both = train(here, peers)
    filler = Filler(disk)
    filler.fill()
    sentence = waits(hive)
    assert "journal.db" in sentence
    assert "room" in sentence
    hive.hears("journal.db")
    version = hive.state()["version"]
    nothing_was_lost(hive, both)
    with hive.journal() as journal:
        assert journal.last == version  # the page tells of no round that is not on the disk
    filler.free()
    hive.reaches(version + 1)
    nothing_was_lost(hive, both)
    goes_on_well(hive, disk)


def test_a_snapshot_or_checkpoint_that_finds_no_room_does_not_end_the_run(here, peers, disk):
    """There is room for some rounds, but not for what is written besides."""
    hive, both = train(here, peers)
    filler = Filler(disk)
    filler.fill(left=3)  # a round takes half a MiB, a checkpoint 4, a snapshot with its state 12
    sentence = waits(hive)
    named = [name for name in ("journal.db", "snapshots", ".pt") if name in sentence]
    assert named, sentence
    hive.hears(named[0])
    nothing_was_lost(hive, both)
    filler.free()
    goes_on_well(hive, disk)


def test_words_that_find_no_room_in_the_log_do_not_end_the_run(all_on_it, peers, disk):
    hive, both = train(all_on_it, peers)
    filler = Filler(disk)
    filler.fill()
    waits(hive)
    visitor = peers.peer(hive, "eve")  # whose coming cannot be written to the log
    visitor.hears("joined", "waiting")
    visitor.kill()
    assert {one["name"] for one in hive.state()["peers"]} - {"eve"} == {"ada", "bob"}
    assert all(peer.process.poll() is None for peer in both)
    filler.free()
    before = len(hive.said())
    goes_on_well(hive, disk)
    assert len(hive.said()) > before, "the log says nothing more"


def test_ctrl_c_ends_a_run_that_waits_for_room_and_the_same_command_goes_on(here, peers, disk):
    hive, _ = train(here, peers)
    filler = Filler(disk)
    filler.fill()
    waits(hive)
    version = hive.state()["version"]
    hive.interrupt()
    assert "Traceback" not in hive.said()
    filler.free()
    again = here.coordinator("--steps", 1_000_000, "--min-peers", 2, "--port", hive.port,
                             "--dashboard-port", hive.page)
    again.reaches(version + 1)
