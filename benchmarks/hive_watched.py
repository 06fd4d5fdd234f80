"""What hive_flood.py and hive_kill.py share: a real coordinator, and real peers that keep a diary.

A watched peer is hive/peer.py itself, as a process of its own with the usual command line, which
also writes down every update it makes and what it hears became of it. The journal never names
an uploaded update, but it holds the steps and the training loss of each, to the last bit: by these
an update is found again.
"""
from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set, TextIO, Tuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import hive.peer
from gltch_2_7m import SHAKESPEARE_CHARACTERS
from hive.session.peer_session import PeerSession
from hive.session.update import Outgoing

ROOT = Path(__file__).resolve().parent.parent
KEY = "only for this benchmark"
RUN = Path("runs") / "hive"
PATIENCE = 120.0  # seconds; only a broken program takes so long


def until(condition: Callable[[], Any], what: Callable[[], str], seconds: float = PATIENCE,
          step: float = 0.02) -> Any:
    """Wait for a condition and return what it gave. Ends the benchmark when it never comes."""
    limit = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > limit:
            raise SystemExit(what())
        time.sleep(step)


def percentile(values: List[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# --------------------------------------------------------------------------------------------------
# Processes
# --------------------------------------------------------------------------------------------------

class Program:
    """A process in a folder, whose words go into a file. It ends with the benchmark."""

    def __init__(self, folder: Path, name: str, *command: str, **settings: Any):
        self.log = folder / f"{name}.log"
        self.before = len(self.log.read_bytes()) if self.log.exists() else 0
        kept = {name: value for name, value in os.environ.items() if name != "HIVE_KEY"}
        environment = {**kept, "XDG_CACHE_HOME": str(folder / "cache" / name),
                       "OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1,localhost"}
        with open(self.log, "ab") as log:
            # In a session of its own: Ctrl-C reaches the benchmark alone, which then stops it.
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=str(folder), env=environment, stderr=log,
                start_new_session=True, **{"stdin": subprocess.DEVNULL, "stdout": log, **settings})

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        return self.log.read_bytes()[self.before:].decode(errors="replace")

    def last_words(self, lines: int = 5) -> str:
        return "\n".join("    " + line for line in self.said().splitlines()[-lines:])

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ctrl-C, and kill -9 for what does not listen."""
        if self.alive:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()


class Coordinator(Program):
    """hive/server.py. With `ports` it takes the same ones again, so that its peers come back."""

    def __init__(self, folder: Path, options: List[str], ports: Tuple[int, int] = (0, 0),
                 open_files: Optional[int] = None):
        self.folder, self.run = folder, folder / RUN
        self.began = time.time()
        super().__init__(
            folder, "server", str(ROOT / "hive" / "server.py"), "--port", str(ports[0]),
            "--dashboard-port", str(ports[1]), "--key-file", str(folder / "key"),
            "--sync", "diloco", *options,
            preexec_fn=(lambda: limit_open_files(open_files)) if open_files else None)

    @property
    def listening(self) -> bool:
        return "join with" in self.said()

    def wait(self) -> None:
        """Until it listens."""
        until(lambda: self.listening or not self.alive,
              lambda: "The coordinator does not start:\n" + self.said(), step=0.005)
        if not self.alive:
            raise SystemExit("The coordinator did not start:\n" + self.said())
        self.listened = time.time()

    @property
    def ports(self) -> Tuple[int, int]:
        """For peers, and the dashboard's."""
        found = re.search(r"dashboard http://[^:]+:(\d+)\n.*\n.*--server ws://[^:]+:(\d+)",
                          self.said())
        assert found is not None, self.said()
        return int(found[2]), int(found[1])


def limit_open_files(number: int) -> None:
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


@contextlib.contextmanager
def all_stopped(programs: List[Program]) -> Iterator[None]:
    """Whatever happens, also Ctrl-C, nothing is left behind."""
    def ended(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, ended)
    try:
        yield
    finally:
        for program in reversed(programs):
            program.stop()


def prepare(folder: Path, characters: int) -> None:
    """A key, and a text of random characters, which is as good as any here."""
    letters = random.Random(0).choices(SHAKESPEARE_CHARACTERS, k=characters)
    (folder / "text.txt").write_text(SHAKESPEARE_CHARACTERS + "".join(letters))
    (folder / "key").write_text(KEY)


# --------------------------------------------------------------------------------------------------
# A peer that keeps a diary
# --------------------------------------------------------------------------------------------------

class WatchedSession(PeerSession):
    """Writes down what it makes, and what it hears became of it."""

    diary: TextIO

    def note(self, what: str, update: Outgoing) -> None:
        print(json.dumps({
            "what": what, "update": update.blob, "version": update.version,
            "steps": update.work.steps, "loss": update.work.loss, "at": time.time(),
        }), file=self.diary, flush=True)

    def made(self, *values: Any) -> None:
        super().made(*values)
        self.note("made", self.offers.updates[-1])

    def settle(self, one: Outgoing, counted: bool) -> None:
        self.note("counted" if counted else "not counted", one)
        super().settle(one, counted)


def be_a_peer(diary: str, argv: List[str]) -> int:
    with open(diary, "a") as WatchedSession.diary, mock.patch.object(
            hive.peer, "PeerSession", WatchedSession):
        return hive.peer.main(argv)


class PeerProcess(Program):
    """The same from outside."""

    def __init__(self, folder: Path, port: int, name: str):
        self.name, self.diary = name, folder / f"{name}.diary"
        super().__init__(
            folder, name, __file__, str(self.diary), "--server", f"ws://127.0.0.1:{port}", "--name",
            name, "--key-file", str(folder / "key"), "--device", "cpu")

    def notes(self) -> List[Dict[str, Any]]:
        lines = self.diary.read_text().splitlines() if self.diary.exists() else []
        return [json.loads(line) for line in lines]


# --------------------------------------------------------------------------------------------------
# The books
# --------------------------------------------------------------------------------------------------

class Balance(NamedTuple):
    """What the diaries say against what the journal says."""

    counted: int  # updates that a peer was told counted
    lost: int  # of these, not in the journal
    doubled: int  # in the journal twice, or once although its peer was told that it did not count
    late: int
    rejected: int


def rows(run: Path, question: str) -> List[Tuple[Any, ...]]:
    """From the journal; nothing while there is none yet."""
    path = run / "journal.db"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True,
                                            timeout=10)) as db:
        try:
            return db.execute(question).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return []  # it is just being made


def commits(run: Path) -> List[float]:
    """When each round was committed, in unix seconds."""
    return [row[0] for row in rows(
        run, "SELECT committed FROM versions WHERE number > 0 ORDER BY number")]


def balance(run: Path, peers: List[PeerProcess], since: float = 0.0, before: float = 1e18
            ) -> Balance:
    """Lost and doubled ones over the whole run; late and rejected ones between two moments."""
    made: Dict[Tuple[Any, ...], Set[str]] = {}
    told: Counter[Tuple[Any, ...]] = Counter()
    refused: Counter[Tuple[Any, ...]] = Counter()
    for peer in peers:
        settled = set()
        for note in peer.notes():
            print_of = (peer.name, note["steps"], note["loss"])
            if note["what"] == "made":
                made.setdefault(print_of, set()).add(note["update"])
            elif note["update"] not in settled:
                settled.add(note["update"])
                (told if note["what"] == "counted" else refused)[print_of] += 1
    names = tuple(peer.name for peer in peers)
    places = ", ".join(f"'{name}'" for name in names)
    recorded = Counter(row for row in rows(
        run, f"SELECT name, steps, loss FROM contributions WHERE name IN ({places}) "
             "AND verdict = 'counted'"))
    lost = sum(max(0, number - recorded[print_of]) for print_of, number in told.items())
    doubled = sum(max(0, number - (len(made.get(print_of, ())) - refused[print_of]))
                  for print_of, number in recorded.items())
    verdicts = Counter(row[0] for row in rows(
        run, f"SELECT verdict FROM contributions JOIN versions USING (number) WHERE name IN "
             f"({places}) AND committed BETWEEN {since} AND {before}"))
    return Balance(sum(told.values()), lost, doubled, verdicts["late"], verdicts["rejected"])


if __name__ == "__main__":
    sys.exit(be_a_peer(sys.argv[1], sys.argv[2:]))
