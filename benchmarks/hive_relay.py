"""Is the model of hive_pays.py true? Real processes behind slow links, and the same hive simulated.

    python benchmarks/hive_relay.py
    python benchmarks/hive_relay.py --peers 2 4 --seconds 120 --link office

A coordinator and peers, each a process of its own with one thread, train GLTCH-2.7M. Every peer
reaches the coordinator through a relay in this process, which passes on so many bytes a second each
way, each later by the latency: the links of hive_pays.py. What the coordinator's own /api/state
says over `--seconds` is the first line. The second is the model: the same sessions in virtual time,
with steps as long as each of these peers measured. "Times" is what the hive does against the
fastest of its peers alone. Coordinator, relay and peers share this machine's cores, which the model
knows only from how long steps take: with more peers than cores minus one, evaluations and trials
of updates slow them down.
"""
from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Dict, List, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hive_pays import HOME, OFFICE, PARAMETERS, Device, Link, run
from hive_watched import Coordinator, PeerProcess, Program, all_stopped, prepare, until

from hive.learning.sync import SYNCS, USUAL

PIECE = 8192  # bytes that travel as one
HEAD = ("peers           a step takes  training  characters/s  times   bytes/parameter and step\n"
        "                                                                    up     down")


class Relay:
    """Listens on a port of its own, and passes on what comes as a slow line would."""

    def __init__(self, link: Link, port: int):
        self.link, self.to = link, port
        self.ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True).start()
        self.ready.wait()

    async def serve(self) -> None:
        server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        self.port: int = server.sockets[0].getsockname()[1]
        self.ready.set()
        await asyncio.Event().wait()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to)
        await asyncio.gather(self.carry(reader, far_writer, 1e6 * self.link.up),
                             self.carry(far_reader, writer, 1e6 * self.link.down))

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
                    rate: float) -> None:
        """One direction: each piece takes its time on the line, and arrives the latency later.
        What waits for the line stays with the sender."""
        on_its_way: asyncio.Queue[Any] = asyncio.Queue()
        arriving = asyncio.ensure_future(self.arrive(on_its_way, writer))
        free = 0.0  # when the line has passed on all that was read
        try:
            while True:
                piece = await reader.read(PIECE)
                free = max(free, time.monotonic()) + len(piece) / rate
                await asyncio.sleep(free - time.monotonic())
                on_its_way.put_nowait((free + self.link.latency, piece))
                if not piece:
                    break
        except ConnectionError:  # a side was stopped: its other end hears of it
            on_its_way.put_nowait((free, b""))
        await arriving

    @staticmethod
    async def arrive(on_its_way: asyncio.Queue[Any], writer: asyncio.StreamWriter) -> None:
        while True:
            at, piece = await on_its_way.get()
            await asyncio.sleep(at - time.monotonic())
            if not piece or writer.is_closing():
                return writer.close()
            writer.write(piece)


def state_of(port: int) -> Dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/state", timeout=30) as answer:
        state: Dict[str, Any] = json.load(answer)
    return state


def measured(peers: int, link: Link, arguments: argparse.Namespace) -> Dict[str, Any]:
    """The row of real processes, and how long a step of each takes."""
    programs: List[Program] = []
    with tempfile.TemporaryDirectory() as name, all_stopped(programs):
        folder = Path(name)
        prepare(folder, characters=100_000)
        coordinator = Coordinator(folder, [
            "--data", "text.txt", "--size", arguments.size, "--sync", arguments.sync,
            "--batch-size", str(arguments.batch_size), "--steps", "1000000",
            "--min-peers", str(peers)])
        programs.append(coordinator)
        coordinator.wait()
        door, page = coordinator.ports
        programs += [PeerProcess(folder, Relay(link, door).port, f"peer-{number}")
                     for number in range(peers)]

        def settled() -> bool:  # a speed is of the latest 20 updates
            state = state_of(page)
            return len(state["peers"]) == peers and all(
                peer["speed"] and peer["counted"] >= arguments.warm_up for peer in state["peers"])

        until(settled, lambda: "The hive does not get going:\n" + coordinator.last_words(),
              seconds=600, step=0.5)
        first = state_of(page)
        time.sleep(arguments.seconds)
        last = state_of(page)
    return row_of(first, last, arguments.batch_size)


def row_of(first: Dict[str, Any], last: Dict[str, Any], batch_size: int) -> Dict[str, Any]:
    def grown(name: str) -> float:
        return float(last[name] - first[name])

    characters, seconds = grown("tokens"), last["now"] - first["now"]
    speeds = [peer["speed"] for peer in last["peers"]]
    steps = characters / (batch_size * last["context"])  # of all peers
    return {"training": sum(peer["training"] for peer in last["peers"]) / len(speeds),
            "characters": characters / seconds, "times": characters / seconds / max(speeds),
            "up": grown("bytes_up") / last["parameters"] / steps,
            "down": grown("bytes_down") / last["parameters"] / steps,
            "steps": [batch_size * last["context"] / speed for speed in speeds]}


def simulated(steps: Sequence[float], link: Link, arguments: argparse.Namespace) -> Dict[str, Any]:
    devices = [Device("measured", 0.0, seconds, 0.0) for seconds in steps]
    row = run(devices, link, arguments.batch_size, sync=arguments.sync,
              minutes=arguments.seconds / 60, parameters=PARAMETERS)
    return {**row, "steps": steps}


def show(name: str, row: Dict[str, Any]) -> None:
    least, most = min(row["steps"]), max(row["steps"])
    print(f"{name:14}{f'{least:.3f} to {most:.3f} s':>17}{row['training']:>8.0%}"
          f"{row['characters']:>14,.0f}{row['times']:>8.2f}{row['up']:>10.3f}{row['down']:>9.3f}",
          flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--peers", type=int, nargs="+", default=[2, 4])
    add("--link", choices=("home", "office"), default="home")
    add("--sync", choices=list(SYNCS), default=USUAL)
    add("--size", default="2.7m", help="of the network (default: 2.7m)")
    add("--batch-size", type=int, default=16, help="sequences a step (default: 16)")
    add("--seconds", type=float, default=90.0, help="measured, after a warm-up (default: 90)")
    add("--warm-up", type=int, default=8, help="updates of each peer before that (default: 8)")
    arguments = parser.parse_args()
    link = {"home": HOME, "office": OFFICE}[arguments.link]
    if not math.isfinite(arguments.seconds) or arguments.seconds <= 0:
        parser.error("--seconds must be above 0.")
    print(f"{arguments.size}, {arguments.sync}, {arguments.batch_size} sequences a step, "
          f"{link.name}, {1000 * link.latency:.0f} ms one way\n{HEAD}")
    for peers in arguments.peers:
        real = measured(peers, link, arguments)
        show(f"{peers}, measured", real)
        show(f"{peers}, model", simulated(real["steps"], link, arguments))


if __name__ == "__main__":
    main()
