"""A hive under attack: what two honest peers, a visitor and the coordinator's memory notice of it.

    python benchmarks/hive_flood.py
    python benchmarks/hive_flood.py --from 127.0.0.1 --open-files 1024
    python benchmarks/hive_flood.py --attacks pings downloads --seconds 20

A real coordinator with a key, and two real peers that train on this machine. First it is quiet;
then hive_attacker.py, one process, attacks in one way after the other, each time a sink that does
next to nothing (the control) and then the hive; it is quiet again; the attacker attacks in all ways
together; and it is quiet at last. The ways:

    slow-loris    500 connections on each port that send a byte of their request every two seconds
    half-open     500 connections on each port that say nothing
    pings         a WebSocket on each port that sends 250 kB of empty pings a second
    fragments     messages that never end, in pieces of one byte and of none, as many bytes
    downloads     8 clients loop over /last.pt and /model.safetensors
    deaf          20 peers that ask for much and read nothing, 20 pages that read nothing      (key)
    joins         1,000 joins with new identities, which then stay                             (key)
    abandoned     uploads up to their last byte, a new identity each                           (key)
    rejected      updates whose values are not numbers                                         (key)
    text          4 peers fetch the text again and again                                       (key)

Memory is the most that the coordinator held resident in a phase. Rounds are fixed in their steps;
how many were made is counted between two moments, parts of a round included. The attacker takes
its share of the same processor: so rounds are compared with those of the quiet, and with those
while the same work was done to the sink. /api/state is asked ten times a second on a fixed beat,
whether the last answer has come or not; no answer within ten seconds, or another one than 200,
counts as ten seconds. An honest update is lost when its peer was told that it counted and the
journal does not have it. Should the coordinator die, that is said, and another goes on.

By default the attacker comes from addresses of its own, 127.0.0.2 to 127.0.0.9, as one who holds
eight would; with --from 127.0.0.1 it comes from where the honest ones come from, as all do behind a
tunnel or a proxy. It needs Linux: memory and processor time come from /proc.
"""
from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import hive_attacker
from hive_attacker import ATTACKS, KEYED, Rates
from hive_round import MIB, Process
from hive_watched import (
    KEY,
    RUN,
    Balance,
    Coordinator,
    PeerProcess,
    Program,
    all_stopped,
    balance,
    commits,
    percentile,
    prepare,
    rows,
    until,
)

from gltch_2_7m import PRESETS, parameters_of
from hive.session.job import Job

BEAT, NO_ANSWER = 0.1, 10.0  # seconds between two questions; what none counts as
PAUSE = 1.5  # seconds after a phase: connections close, a round in progress ends
WARM_UP = 5  # rounds
OWN = [f"127.0.0.{number}" for number in range(2, 10)]
MEMORY, ROUNDS, P99 = 150.0, 0.8, 0.5  # the goal, all together: MiB, of the quiet ones, seconds


class Phase(NamedTuple):
    """What was seen while it lasted."""

    name: str
    began: float
    ended: float
    peak: int  # bytes
    asked: List[float]  # seconds until /api/state answered
    unanswered: int
    cpu: float  # of the attacker, in processors
    did: str  # what it did
    died: str  # last words of the coordinator, also if it died in the pause after


def ask(port: int) -> float:
    """Seconds until the visitor had the state."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=NO_ANSWER)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/api/state")
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return NO_ANSWER
    return min(NO_ANSWER, time.monotonic() - began) if answer.status == 200 else NO_ANSWER


def rounds_made(times: List[float], began: float, ended: float) -> float:
    """How many between two moments, where a round in progress counts as far as it has come."""
    def place(moment: float) -> float:
        number = sum(at <= moment for at in times)
        if not 0 < number < len(times):
            return float(number)
        before, after = times[number - 1], times[number]
        return number + (moment - before) / max(after - before, 1e-9)

    return place(ended) - place(began)


class Helper(Program):
    """The attacker or the sink: lines in, lines out."""

    def __init__(self, folder: Path, name: str, *arguments: str):
        super().__init__(folder, name, hive_attacker.__file__, *arguments, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE)

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("The attacker ended:\n" + self.said())
        return json.loads(line)


class Flood:
    """The hive, its visitor, and its attacker."""

    def __init__(self, folder: Path, arguments: argparse.Namespace, programs: List[Program]):
        self.folder, self.arguments, self.programs = folder, arguments, programs
        self.options = [
            "--data", "text.txt", "--size", arguments.size, "--batch-size",
            str(arguments.batch_size), "--inner-steps", str(arguments.inner_steps), "--steps",
            "1000000000"]
        self.run = folder / RUN
        self.server = Coordinator(folder, self.options, open_files=arguments.open_files)
        programs.append(self.server)
        self.server.wait()
        self.ports = self.server.ports
        self.peers = [PeerProcess(folder, self.ports[0], name) for name in ("ada", "bob")]
        programs.extend(self.peers)
        job = Job.from_json(json.loads(rows(self.run, "SELECT description FROM run")[0][0]))
        self.parameters, self.text = parameters_of(job.config), job.text
        self.attacker = Helper(folder, "attacker")
        self.sink = Helper(folder, "sink", "--sink", str(self.parameters), str(job.text_bytes))
        programs.extend([self.attacker, self.sink])
        peers, page = self.sink.hear()
        self.sink_ports = peers, page
        self.deaths = 0
        self.asking = ThreadPoolExecutor(int(NO_ANSWER / BEAT) + 1)
        self.wait_for_rounds(WARM_UP)
        until(lambda: (self.run / "last.pt").exists(), lambda: "No checkpoint was written.")

    def wait_for_rounds(self, number: int) -> None:
        enough = len(commits(self.run)) + number
        until(lambda: len(commits(self.run)) >= enough or not self.server.alive,
              lambda: "The hive does not train:\n" + self.server.said(), step=0.1)

    def order(self, attacks: List[str], ports: Tuple[int, int], seconds: float) -> str:
        return json.dumps({
            "attacks": attacks, "seconds": seconds, "peers": ports[0], "page": ports[1],
            "sources": self.arguments.sources, "key": KEY, "parameters": self.parameters,
            "text": self.text, "rates": self.arguments.rates._asdict()})

    def phase(self, name: str, seconds: float, attacks: Optional[List[str]] = None,
              ports: Optional[Tuple[int, int]] = None) -> Phase:
        """Watch for a while as the attacker carries out its order, if it has one; then a pause."""
        self.recover()
        watched = Process(self.server.process.pid)
        watched.forget_peak()
        began, asked, stopped = time.time(), [], ""
        if attacks:
            self.attacker.tell(self.order(attacks, ports or self.ports, seconds))
        beat, peak = time.monotonic(), 0
        last = beat + seconds
        while beat < last and self.server.alive and not stopped:
            asked.append(self.asking.submit(ask, self.ports[1]))
            with contextlib.suppress(OSError, AssertionError):  # it dies just now
                peak = watched.memory("VmHWM")
            if peak > self.arguments.most_memory * MIB and attacks:
                stopped = f"stopped at {self.arguments.most_memory:,} MiB: "
                self.attacker.tell("stop")
            beat += BEAT
            time.sleep(max(0.0, beat - time.monotonic()))
        ended = time.time()
        if attacks and not self.server.alive:
            self.attacker.tell("stop")
        result: Dict[str, Any] = self.attacker.hear() if attacks else {"cpu": 0.0}
        times = [one.result() for one in asked]
        time.sleep(PAUSE)
        died = "" if self.server.alive else self.server.last_words()
        self.deaths += bool(died)
        cpu = result.pop("cpu") / max(ended - began, 1e-9)
        return Phase(name, began, ended, peak, times, sum(t >= NO_ANSWER for t in times), cpu,
                     stopped + told(result), died)

    def pair(self, name: str, attacks: List[str], seconds: float) -> Tuple[Phase, Phase]:
        """The same done to the sink, and then to the hive."""
        return (self.phase(f" (sink) {name}"[:15], seconds, attacks, self.sink_ports),
                self.phase(name, seconds, attacks))

    def recover(self) -> None:
        """Start another coordinator if this one died."""
        if not self.server.alive:
            self.server = self.programs[0] = Coordinator(
                self.folder, self.options, self.ports, self.arguments.open_files)
            self.server.wait()
            self.wait_for_rounds(2)


def told(result: Dict[str, Dict[str, int]]) -> str:
    """What the attacker says it did."""
    parts = {}
    for name, counts in result.items():
        inside = sorted(counts.items(), key=lambda item: item[0] == "bytes")  # bytes last
        parts[name] = ", ".join(
            f"{number / 1e6:,.1f} MB" if what == "bytes" else f"{number:,} {what}"
            for what, number in inside) or "nothing"
    if len(parts) < 2:
        return "".join(parts.values())
    return "".join(f"\n{'':15}  {name}: {part}" for name, part in parts.items())


# --------------------------------------------------------------------------------------------------
# The table
# --------------------------------------------------------------------------------------------------

HEAD = ("                  MiB            rounds/min            /api/state, ms    honest updates\n"
        "phase            peak  growth         quiet control    p50     p99 none  late rejected"
        "  attacker")


class Table:
    """Prints the phases as they end, against the quiet one before and the control."""

    def __init__(self, flood: Flood):
        self.flood = flood
        self.quiet: List[Phase] = []

    def rate(self, phase: Phase) -> float:
        made = rounds_made(commits(self.flood.run), phase.began, phase.ended)
        return 60 * made / (phase.ended - phase.began)

    def share(self, phase: Phase, *others: Phase) -> float:
        """Its rounds per minute in parts of those of others."""
        return self.rate(phase) / max(statistics.mean(map(self.rate, others)), 1e-9)

    def show_quiet(self, phase: Phase) -> None:
        if not (phase.died and self.quiet):  # a death is nothing to compare with
            self.quiet.append(phase)
        self.show(phase)

    def show_pair(self, control: Phase, phase: Phase) -> None:
        self.show(control)
        self.show(phase, f"{self.share(phase, control):7.0%}")

    def show(self, phase: Phase, against: str = "      -") -> None:
        books = balance(self.flood.run, self.flood.peers, phase.began, phase.ended)
        middle, most = statistics.median(phase.asked), percentile(phase.asked, 0.99)
        print(f"{phase.name:15}{phase.peak / MIB:6,.0f} {self.growth(phase):+7,.0f} "
              f"{self.rate(phase):6.1f}{self.share(phase, self.quiet[-1]):7.0%} {against}"
              f"{1000 * middle:7,.0f}{1000 * most:8,.0f}{phase.unanswered:5}{books.late:6}"
              f"{books.rejected:9}  {phase.cpu:4.0%} {phase.did}", flush=True)
        if phase.died:
            print(f"{'':15}  THE COORDINATOR DIED, and said at last:\n{phase.died}\n"
                  f"{'':15}  Another one goes on.", flush=True)

    def growth(self, phase: Phase) -> float:
        """MiB more than in the first quiet phase."""
        return (phase.peak - self.quiet[0].peak) / MIB

    def goal(self, control: Phase, phase: Phase, books: Balance) -> None:
        """All together, against the quiet before and after, and against the control."""
        quiet, ratio = self.share(phase, *self.quiet[-2:]), self.share(phase, control)
        p99 = percentile(phase.asked, 0.99)
        print()
        for what, figure, goal, good in (
                ("memory", f"{self.growth(phase):+,.0f} MiB", f"at most +{MEMORY:g} MiB",
                 self.growth(phase) <= MEMORY),
                ("rounds against quiet", f"{quiet:.0%}", f"at least {ROUNDS:.0%}", quiet >= ROUNDS),
                ("rounds against control", f"{ratio:.0%}", f"at least {ROUNDS:.0%}",
                 ratio >= ROUNDS),
                ("p99 of /api/state", f"{1000 * p99:,.0f} ms", f"at most {1000 * P99:g} ms",
                 p99 <= P99),
                ("honest updates lost", f"{books.lost} of {books.counted:,}", "0", not books.lost),
                ("honest updates doubled", f"{books.doubled}", "0", not books.doubled),
                ("deaths of the coordinator", f"{self.flood.deaths}", "0", not self.flood.deaths)):
            print(f"goal, all together   {what:26}{figure:>12}   {goal:18}"
                  f"{'reached' if good else 'MISSED'}")


def flood(folder: Path, arguments: argparse.Namespace) -> None:
    programs: List[Program] = []
    with all_stopped(programs):
        hive = Flood(folder, arguments, programs)
        table, seconds = Table(hive), arguments.seconds
        print(HEAD, flush=True)
        table.show_quiet(hive.phase("quiet", 2 * seconds))
        for name in arguments.attacks:
            table.show_pair(*hive.pair(name, [name], seconds))
        table.show_quiet(hive.phase("quiet again", 2 * seconds))
        control, together = hive.pair("all together", arguments.attacks, 2 * seconds)
        table.show_pair(control, together)
        table.show_quiet(hive.phase("quiet at last", 2 * seconds))
        hive.recover()
        hive.wait_for_rounds(2)  # news of all that was on its way has arrived
        for program in reversed(programs):
            program.stop()
        table.goal(control, together, balance(hive.run, hive.peers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS), metavar="NAME",
        help=f"of {', '.join(ATTACKS)} (default: all); {', '.join(KEYED)} have the key")
    add("--seconds", type=float, default=6.0, help="of each attack; all together and quiet last "
        "twice as long (default: 6)")
    add("--from", dest="sources", nargs="+", default=OWN, metavar="ADDRESS",
        help="loopback addresses the attacker comes from (default: 127.0.0.2 to 127.0.0.9)")
    add("--open-files", type=int, metavar="N", help="what `ulimit -n N` allows the coordinator")
    add("--most-memory", type=int, default=4096, metavar="MIB",
        help="an attack ends when the coordinator holds so much (default: 4096)")
    add("--size", choices=list(PRESETS), default="1m")
    add("--batch-size", type=int, default=4)
    add("--inner-steps", type=int, default=4)
    add("--characters", type=int, default=200_000, help="of the text (default: 200000)")
    add("--folder", help="where the coordinator writes (default: the system's folder for temporary "
        "files)")
    for name, value in Rates()._asdict().items():
        add(f"--{name}", type=type(value), default=value, metavar="N", help=RATES[name]
            + f" (default: {value:,g})")
    arguments = parser.parse_args()
    arguments.rates = Rates(*(getattr(arguments, name) for name in Rates._fields))
    if not sys.platform.startswith("linux"):
        sys.exit("This benchmark reads memory and processor time from /proc: it needs Linux.")
    try:
        import websockets
    except ImportError:
        sys.exit("The Hive needs the package websockets: pip install websockets")
    for address in arguments.sources:
        if not address.startswith("127."):
            sys.exit(f"--from {address!r} is no loopback address: this attacks nobody else.")
        with socket.socket() as probe:
            probe.bind((address, 0))
    hive_attacker.raise_limit()
    print(f"{arguments.size}, 2 real peers, attacks from {' '.join(arguments.sources)}; "
          f"{os.cpu_count()} cores, Python {platform.python_version()}, websockets "
          f"{getattr(websockets, '__version__', '?')}, open files "
          f"{arguments.open_files or 'as this shell allows'}", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        prepare(folder, arguments.characters)
        try:
            flood(folder, arguments)
        except KeyboardInterrupt:
            sys.exit("\nStopped; nothing is left running.")


RATES = {
    "idle": "connections on each port, for slow-loris and for half-open",
    "connects": "new connections a second, of each attack",
    "pings": "bytes of pings a second on each port",
    "fragments": "bytes of fragments a second on each port",
    "downloads": "files a second",
    "deaf": "peers that never read, and as many pages",
    "joins": "joins in all",
    "uploads": "abandoned uploads a second",
    "updates": "updates to be rejected a second",
    "texts": "fetches of the text a second",
}


if __name__ == "__main__":
    main()
