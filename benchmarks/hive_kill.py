"""kill -9 of a coordinator at many moments: what is lost, what is doubled, how soon it goes on.

    python benchmarks/hive_kill.py
    python benchmarks/hive_kill.py --kills 20 --seed 7

Two real peers (hive/peer.py, a process each) train all the time while the coordinator, with the
command line a user would type, is killed and started again. Most kills come --least to --most
seconds after the first round it committed since its start, one in five while it starts: at any
moment from its first instruction to a little after it listens. The moments come from --seed.

After every kill the record is replayed as `server.py --verify` does it, but inside this process,
which saves loading PyTorch; after every tenth kill and after the last one the real command runs.
Each peer keeps a diary. An update is lost when its peer was told that it counted and the journal
does not have it; it is doubled when the journal counts it twice, or once although its peer was told
that it did not count (the peer sends that work again). How soon it goes on is the time from
"join with" on the coordinator's screen, which comes when both ports are open, to the moment of the
first new round as the journal has it.
"""
from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import List, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from hive_watched import (
    ROOT,
    Coordinator,
    PeerProcess,
    Program,
    all_stopped,
    balance,
    commits,
    prepare,
    until,
)

from gltch_2_7m import PRESETS, GltchError
from hive.books import applying
from hive.journal import Journal
from hive.session.job import Job

STARTING = 0.2  # of the kills come while the coordinator starts
REAL_VERIFY = 10  # kills from one run of the command itself to the next
MEDIAN, WORST = 4.0, 10.0  # the goal, in seconds


class Moment(NamedTuple):
    """When to kill: a share of the last start, or seconds after the first commit."""

    starting: bool
    after: float

    def __str__(self) -> str:
        return (f"at {self.after:4.0%} of its start   " if self.starting
                else f"{self.after:4.2f} s after a commit")


def moments(arguments: argparse.Namespace) -> List[Moment]:
    rng = random.Random(arguments.seed)
    return [Moment(True, rng.uniform(0, 1.2)) if number and rng.random() < STARTING
            else Moment(False, rng.uniform(arguments.least, arguments.most))
            for number in range(arguments.kills)]  # the first tells how long a start takes


def verify(folder: Path, real: bool) -> str:
    """What is wrong with the record, in a sentence; empty when nothing is."""
    if real:
        done = subprocess.run(
            [sys.executable, str(ROOT / "hive" / "server.py"), "--verify"], cwd=str(folder),
            capture_output=True, text=True)
        return done.stderr.strip() if done.returncode else ""
    try:
        with contextlib.closing(Journal(folder / "runs" / "hive", read_only=True)) as journal:
            for _ in journal.verify(applying(Job.from_json(journal.run or {}))):
                pass
    except GltchError as error:
        return str(error)
    return ""


class Result(NamedTuple):
    waits: List[float]  # seconds from listening to the first new commit
    damaged: int
    lost: int
    doubled: int


def first_commit(server: Coordinator, rounds: int) -> float:
    """Wait for a round that was not there when the coordinator was started; when it came."""
    def news() -> List[float]:
        if not server.alive:
            raise SystemExit("The coordinator ended by itself:\n" + server.said())
        return commits(server.run)[rounds:]

    found: List[float] = until(news, lambda: "No new round came:\n" + server.said())
    return found[0]


class Torture:
    """A coordinator that is killed again and again, and the peers that stay."""

    def __init__(self, folder: Path, arguments: argparse.Namespace, programs: List[Program]):
        self.folder, self.programs = folder, programs
        self.options = ["--data", "text.txt", "--size", arguments.size, "--batch-size",
                        str(arguments.batch_size), "--steps", "1000000000", "--min-peers", "2"]
        self.server = Coordinator(folder, self.options)
        programs.append(self.server)
        self.server.wait()
        self.ports = self.server.ports
        self.peers = [PeerProcess(folder, self.ports[0], name) for name in ("ada", "bob")]
        programs.extend(self.peers)
        self.waits: List[float] = []
        self.damaged = 0
        first_commit(self.server, 0)
        self.server.kill()

    def restart(self) -> None:
        self.rounds = len(commits(self.server.run))
        self.server = self.programs[0] = Coordinator(self.folder, self.options, self.ports)

    def go_on(self) -> None:
        """Wait for the first new round."""
        self.server.wait()
        self.start = self.server.listened - self.server.began
        self.waits.append(first_commit(self.server, self.rounds) - self.server.listened)

    def kill(self, moment: Moment, real: bool) -> str:
        """Once: start it, kill it at that moment, look at what it left. Returns a line about it."""
        self.restart()
        went_on = ""
        if moment.starting:
            time.sleep(moment.after * self.start)
        else:
            self.go_on()
            went_on = f"went on in {self.waits[-1]:5.2f} s   "
            time.sleep(moment.after)
        if not self.server.alive:
            raise SystemExit("The coordinator ended by itself:\n" + self.server.said())
        self.server.kill()
        trouble = verify(self.folder, real)
        self.damaged += bool(trouble)
        books = balance(self.server.run, self.peers)
        return (f"{went_on:24}killed {moment}   {len(commits(self.server.run)):5,} rounds, "
                f"{books.counted:6,} updates, lost {books.lost}, doubled {books.doubled}   "
                f"{trouble}")

    def result(self) -> Result:
        """Let it go on once more, so that news of what was still on its way arrives."""
        self.restart()
        self.go_on()
        until(lambda: len(commits(self.server.run)) > self.rounds + 2 or not self.server.alive,
              lambda: "It does not go on:\n" + self.server.said())
        for program in reversed(self.programs):
            program.stop()
        for peer in self.peers:
            if "Traceback" in peer.said():
                raise SystemExit(f"{peer.name} ended with a traceback:\n{peer.said()}")
        self.damaged += bool(verify(self.folder, real=True))
        books = balance(self.server.run, self.peers)
        return Result(self.waits, self.damaged, books.lost, books.doubled)


def run(folder: Path, arguments: argparse.Namespace) -> Result:
    programs: List[Program] = []
    with all_stopped(programs):
        torture = Torture(folder, arguments, programs)
        for number, moment in enumerate(moments(arguments), 1):
            real = number % REAL_VERIFY == 0 or number == arguments.kills
            print(f"{number:4}  {torture.kill(moment, real)}", flush=True)
        return torture.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--least", type=float, default=0.2, metavar="SECONDS")
    parser.add_argument("--most", type=float, default=3.0, metavar="SECONDS")
    parser.add_argument("--size", choices=list(PRESETS), default="1m")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--folder", help="where the coordinator writes (default: the system's "
                        "folder for temporary files)")
    arguments = parser.parse_args()
    try:
        import websockets  # noqa: F401
    except ImportError:
        sys.exit("The Hive needs the package websockets: pip install websockets")
    print(f"{arguments.kills} kills, seed {arguments.seed}; size {arguments.size}, 2 real peers, "
          f"{os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        prepare(folder, 20_000)
        try:
            result = run(folder, arguments)
        except KeyboardInterrupt:
            sys.exit("\nStopped; nothing is left running.")
    median, worst = statistics.median(result.waits), max(result.waits)
    print(f"\nfrom a restart to the first new round: median {median:.2f} s, worst {worst:.2f} s "
          f"({len(result.waits)} restarts)")
    for what, figure, goal, good in (
            ("lost updates", f"{result.lost}", "0", not result.lost),
            ("doubled updates", f"{result.doubled}", "0", not result.doubled),
            ("damaged records", f"{result.damaged}", "0", not result.damaged),
            ("median", f"{median:.2f} s", f"at most {MEDIAN:g} s", median <= MEDIAN),
            ("worst", f"{worst:.2f} s", f"at most {WORST:g} s", worst <= WORST)):
        print(f"goal  {what:16} {figure:>9}   {goal:16} {'reached' if good else 'MISSED'}")


if __name__ == "__main__":
    main()
