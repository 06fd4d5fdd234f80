"""The dashboard in Chromium: frames with many peers, characters per second of the chat, history.

    python benchmarks/dashboard.py
    python benchmarks/dashboard.py --peers 500

The page and its server are the real ones; what they show is a simulated hive, in a process of its
own, whose peers train, upload and download in rounds of two seconds, in pieces of 96 KiB as the
protocol cuts them. Three things are measured, one after the other: the time the script takes for a
frame of the network and the time from frame to frame, what the network writes in the visitor's
browser (size 2.7m, random weights: the arithmetic is the same) while "Look inside" is closed and
while it follows the writing (of four texts the first warms up), and how long /api/history takes
over a journal of many rounds. Headless Chromium draws without a GPU, on the same machine.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from gltch_2_7m import GLTCH, PRESETS, SHAKESPEARE_CHARACTERS
from hive.dashboard.downloads import Snapshot
from hive.dashboard.web import Web, pages
from hive.dashboard.weights_file import header
from hive.journal import Journal
from hive.learning.codec import flatten, to_bytes
from hive.session.events import Events
from hive.session.messages import Kind
from hive.session.protocol import CHUNK_BYTES
from hive.session.schema import Everybody, Measured, Peer, State

ROUND_SECONDS, QUOTA = 2.0, 10
PIECE, PIECES = CHUNK_BYTES, 8  # bytes; of an update, each way
KINDS: Dict[Kind, str] = {
    "cuda": "NVIDIA T4", "mps": "Apple arm64", "cpu": "CPU x86_64, 8 cores", "tab": "Firefox"}


class Simulated:
    """A `Source` whose peers only seem to be there."""

    def __init__(self, peers: int, folder: Path):
        self.events, self.folder = Events("benchmark", time.time), folder
        rng = random.Random(1)
        self.peers_there = {f"{n:04}": self.peer(n, rng) for n in range(peers)}
        self.version = 0
        config = PRESETS["2.7m"][0]
        torch.manual_seed(1)
        self.config, weights = config, flatten(GLTCH(config))
        self.weights = torch.where(weights == 0, 0.02 * torch.randn(len(weights)), weights)

    def peer(self, number: int, rng: random.Random) -> Peer:
        kind = rng.choice(list(KINDS))
        return {"peer": f"{number:04}", "name": f"peer-{number}", "device": KINDS[kind],
                "kind": kind, "state": "training", "steps": 0, "quota": QUOTA,
                "speed": rng.uniform(1e4, 1e6), "training": rng.uniform(0.1, 1.0),
                "limit": rng.choice(("device", "uplink", "round")), "bytes_up": 0,
                "bytes_down": 0, "latency": 0.03, "joined": time.time(),
                "tokens": rng.randrange(10**6), "share": 1e-3,
                "counted": 1, "late": 0, "rejected": 0, "reason": "",
                "score": 1.0, "aside": ""}

    def state(self) -> State:
        return {
            "session": self.events.session, "seq": self.events.seq, "now": time.time(),
            "mode": "hive", "unit": "round", "run": "simulated", "hive": "simulated",
            "size": "2.7m", "sync": "diloco", "parameters": len(self.weights), "context": 128,
            "vocabulary": 65, "snapshots": None, "started": time.time(), "loss": 1.5,
            "val_loss": 1.6, "best_val_loss": 1.6, "evaluated": 0, "undone": [], "set_aside": 0,
            "finished": "",
            "updates": {"counted": 0, "late": 0, "rejected": 0},
            "join": {"port": 8765, "locked": False, "colab": None, "browsers": False,
                     "network": {"layers": 6, "heads": 6, "width": 192}, "peer_sha256": ""},
            **self.measured(),
            "peers": list(self.peers_there.values())}

    def measured(self) -> Measured:
        return {"phase": "training", "paused": "", "version": self.version, "step": 0,
                "total": None, "round": None, "seconds": 0.0, "remaining": None, "tokens": 10**9,
                "speed": 1e7, "flops": 1e14, "fastest": None, "speedup": None,
                "bytes_up": 0, "bytes_down": 0}

    def peers(self) -> Everybody:
        return {"peers": list(self.peers_there.values()), "contributors": []}

    def history(self, first: Optional[int], last: Optional[int], points: int) -> Dict[str, Any]:
        with contextlib.closing(Journal(self.folder, read_only=True)) as journal:
            return journal.curve(first or 0, last or journal.last, points)

    def samples(self, limit: int) -> Dict[str, Any]:
        return {"samples": [], "first": None}

    def round(self, number: int) -> Dict[str, Any]:
        return {}

    def snapshot(self, version: Optional[int]) -> Snapshot:
        return Snapshot("simulated", lambda: header(
            self.config, vocabulary=SHAKESPEARE_CHARACTERS, text="", hive="simulated", round=0,
            step=0) + to_bytes(self.weights))

    async def live(self) -> None:
        """Rounds without end: every peer trains, uploads, and downloads, at its own moment."""
        rng, began = random.Random(2), time.monotonic()
        while True:
            plan = []  # (seconds into the round, event)
            for peer in self.peers_there:
                start = rng.uniform(0, 0.3)
                for step in range(1, QUOTA + 1):
                    plan.append((start + step * 0.1, "peer", {
                        "peer": peer, "state": "training", "steps": step, "quota": QUOTA}))
                plan += [(moment + piece * 0.05, "transfer", {
                    "peer": peer, "direction": way, "content": "update", "bytes": PIECE})
                    for way, moment in (("up", start + 1.1), ("down", start + 1.4))
                    for piece in range(PIECES)]
            for moment, kind, values in sorted(plan, key=lambda item: item[0]):
                await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
                self.events.add(kind, **values)
            began += ROUND_SECONDS
            self.version += 1
            self.events.add("committed", version=self.version, step=self.version, total=None,
                            loss=1.5, opened=time.time() - 2, committed=time.time(),
                            contributions=[{"peer": peer, "name": peer, "steps": QUOTA,
                                            "tokens": 1, "loss": 1.5, "bytes": 1, "reason": "",
                                            "verdict": "counted"} for peer in self.peers_there])
            self.events.add("measured", **self.measured(), peers={
                peer: {"speed": about["speed"], "bytes_up": 1, "bytes_down": 1, "latency": 0.03,
                       "tokens": about["tokens"], "counted": 1, "late": 0, "rejected": 0}
                for peer, about in self.peers_there.items()})
            await asyncio.sleep(max(0.0, began - time.monotonic()))


async def serve(peers: int, folder: Path) -> None:
    """The other process: prints its port, then lives until it is killed."""
    source = Simulated(peers, folder)
    async with pages(Web(source), host="127.0.0.1", port=0) as port:
        print(port, flush=True)
        await source.live()


def long_journal(folder: Path, rounds: int) -> None:
    """A journal with this many rounds, written without its usual care, which is slow."""
    with contextlib.closing(Journal(folder)) as journal:
        journal.start({}, b"\0" * 4)
    with contextlib.closing(sqlite3.connect(str(folder / "journal.db"))) as db, db:
        text = "0" * 64  # as long as a SHA-256
        db.executemany("INSERT INTO versions VALUES (?,?,?,?,?,?,?,?,?,?,?)", (
            (n, text, text, "q4", 4 * n, 1.5 + 3 / n, 2.0 * n, 2.0 * n + 2, text, 1, text)
            for n in range(1, rounds + 1)))
        db.executemany("INSERT INTO evaluations VALUES (?,?,?)", (
            (n, 1.6 + 3 / n, 1.0) for n in range(1, rounds + 1, 20)))


WATCH = """async (seconds) => {
  const { network } = page, intervals = [];
  const [frames, transfers, began] = [network.frames, network.transfers, performance.now()];
  let last = began;
  while (performance.now() - began < 1000 * seconds) {
    const now = await new Promise(requestAnimationFrame);
    intervals.push(now - last);
    last = now;
  }
  const drawn = Math.min(network.frames - frames, network.frameMilliseconds.length);
  const times = Array.from({ length: drawn }, (_, i) => network.frameMilliseconds[
    (network.frames - 1 - i) % network.frameMilliseconds.length]);
  return { intervals: intervals.slice(1), times, seconds: (performance.now() - began) / 1000,
    transfers: network.transfers - transfers };
}"""
WRITE = """async ([characters, times, open]) => {
  const { chat, inside } = page, speeds = [];
  inside.setFollowing(open);
  chat.length.value = characters;
  for (let turn = 0; turn < times; turn++) {
    chat.clear.click();
    chat.prompt.value = "ROMEO:";
    chat.send();
    while (chat.doing) await new Promise((resolve) => setTimeout(resolve, 20));
    speeds.push(parseFloat(chat.meter.textContent.replace(",", "")));
  }
  inside.shut();
  return speeds;
}"""


def percentile(values: List[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@contextlib.contextmanager
def browser(port: int) -> Iterator[Any]:
    """A page of the dashboard on that port."""
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"http://localhost:{port}")
        time.sleep(5)  # until all are in their places
        yield page
        chromium.close()


def history(port: int) -> float:
    """Milliseconds of one question about the whole run."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/api/history?points=800")
    connection.getresponse().read()
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=8.0, help="of watching frames")
    parser.add_argument("--rounds", type=int, default=100_000, help="in the journal")
    parser.add_argument("--characters", type=int, default=1000, help="of each text")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.peers, Path(arguments.serve)))
        return
    with tempfile.TemporaryDirectory() as folder:
        long_journal(Path(folder), arguments.rounds)
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve", folder, "--peers", str(arguments.peers)],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            with browser(port) as page:
                seen = page.evaluate(WATCH, arguments.seconds)
                speeds = {name: page.evaluate(WRITE, [arguments.characters, 4, is_open])[1:]
                          for name, is_open in (("closed", False), ("open", True))}
            asked = [history(port) for _ in range(10)]
        finally:
            server.kill()
    times, intervals = seen["times"], seen["intervals"]
    print(f"{arguments.peers} peers, {seen['transfers'] / seen['seconds']:.0f} transfers/s")
    print(f"drawing a frame, ms       mean {statistics.mean(times):6.2f}   "
          f"95% {percentile(times, 0.95):6.2f}   99% {percentile(times, 0.99):6.2f}")
    print(f"from frame to frame, ms   mean {statistics.mean(intervals):6.2f}   "
          f"95% {percentile(intervals, 0.95):6.2f}   99% {percentile(intervals, 0.99):6.2f}   "
          f"{1000 / statistics.mean(intervals):.1f} frames/s")
    for name, found in speeds.items():
        print(f"chat, characters/s, panel {name:6}   median {statistics.median(found):.0f}   "
              f"least {min(found):.0f}")
    print(f"/api/history, {arguments.rounds:,} rounds, ms   median {statistics.median(asked):.0f}"
          f"   most {max(asked):.0f}")


if __name__ == "__main__":
    main()
