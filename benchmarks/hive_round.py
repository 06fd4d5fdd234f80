"""A hive's rounds without training: seconds, bytes on the wire, load of the coordinator (Linux).

    python benchmarks/hive_round.py
    python benchmarks/hive_round.py --peers 2 --rounds 100
    python benchmarks/hive_round.py --peers 1000 --rounds 3 --seconds 10 --sync streaming

The coordinator is the real one, as a process of its own, and all peers are on this machine: so the
times are those of computing and copying, with links that cost nothing. Up to --real peers are real
ones too, a process each with one thread, which do all that a peer does (error feedback, encoding,
decoding, the SHA-256 of the weights) but train. More than that are light ones, all in one process:
each speaks the whole protocol over a connection of its own, but has its updates ready, which all
are one with its blocks in another order, and takes the commits undecoded; afterwards one of them
computes the weights of every round and compares. --seconds is how long each waits in place of
training, give or take a fifth: a round closes without those who are much slower than the others, so
where peers do not train at all it leaves many behind whose updates must queue.

A round lasts from one commit message to the next, as its peers see it. Bytes are counted by TCP, so
framing and control messages are among them. CPU seconds are all the coordinator's, shared out over
the updates that counted: with few peers most of them are the outer step's. It evaluates in a
hundredth of the time rather than in a quarter, which is not what is measured here; --evaluations
leaves it as it is.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import math
import os
import random
import re
import secrets
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any, Deque, Dict, Iterator, List, NamedTuple, Tuple, Union
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import hive.peer
from gltch_2_7m import (
    PRESETS,
    SHAKESPEARE_CHARACTERS,
    Interrupts,
    Runtime,
    TrainConfig,
    parameters_of,
    start_runtime,
)
from hive.journal import Journal
from hive.learning.codec import CODECS, digest, encode, from_bytes
from hive.learning.fragments import Fragments
from hive.learning.outer import apply_update
from hive.learning.worker import Crew, Worker
from hive.peer import Peer, Stopped
from hive.session import effects, protocol
from hive.session.effects import PeerEffect
from hive.session.job import Job
from hive.session.patience import Patience
from hive.session.protocol import pack, unpack
from hive.session.rounds import ACCEPTED
from hive.text import corpus_of

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 3  # rounds
MIB = 2**20
START = ("import sys; sys.path.insert(0, {root!r}); from hive import server; "
         "from hive.session import evaluation; "
         "evaluation.EVALUATION_SHARE = {share}; sys.exit(server.main())")


# --------------------------------------------------------------------------------------------------
# The coordinator, and what the system knows about it
# --------------------------------------------------------------------------------------------------

class Process:
    """What /proc says about a process."""

    def __init__(self, pid: int):
        self.folder = Path(f"/proc/{pid}")

    def cpu(self) -> float:
        """Seconds of all its threads so far, in steps of (usually) 10 ms."""
        values = (self.folder / "stat").read_text().rpartition(")")[2].split()
        return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, which: str) -> int:
        """Resident bytes: VmRSS now, VmHWM at the most."""
        found = re.search(rf"{which}:\s+(\d+) kB", (self.folder / "status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    def forget_peak(self) -> None:
        (self.folder / "clear_refs").write_text("5")


@contextlib.contextmanager
def coordinator(folder: Path, peers: int, arguments: argparse.Namespace) -> Iterator[
        Tuple[str, Process]]:
    """Its address and its process, once it has evaluated the first weights and is at rest."""
    letters = random.Random(0).choices(SHAKESPEARE_CHARACTERS, k=4000)
    (folder / "text.txt").write_text(SHAKESPEARE_CHARACTERS + "".join(letters))
    start = START.format(root=str(ROOT), share=0.25 if arguments.evaluations else 0.01)
    command = [sys.executable, "-c", start, "--port", "0", "--dashboard-port", "0", "--data",
               "text.txt", "--size", arguments.size, "--sync", arguments.sync, "--inner-steps", "1",
               "--steps", "1000000000", "--min-peers", str(peers)]
    log = folder / "log.txt"
    with open(log, "w") as output:
        process = subprocess.Popen(command, cwd=str(folder), stdout=output,
                                   stderr=subprocess.STDOUT, env=environment(folder))
    try:
        address, until = None, time.monotonic() + 120
        while not (address and (folder / "runs/hive/last.pt").exists()):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit("The coordinator did not start:\n" + log.read_text())
            time.sleep(0.1)
            address = re.search(r"--server ws://localhost:(\d+)", log.read_text())
        time.sleep(0.5)
        yield f"ws://127.0.0.1:{address[1]}", Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:  # it is still trying updates; the record is on the disk
            process.kill()
            process.wait()


def environment(folder: Path) -> Dict[str, str]:
    """For the processes: no key, no proxy, and nothing left behind in the user's cache."""
    kept = {name: value for name, value in os.environ.items() if name != "HIVE_KEY"}
    return {**kept, "XDG_CACHE_HOME": str(folder), "no_proxy": "127.0.0.1"}


class Sample(NamedTuple):
    """What a peer sees when a commit message arrives."""

    seconds: float
    cpu: float  # seconds of the coordinator
    up: int
    down: int  # bytes on this peer's connection, by TCP


def sample(server: Process, connection: socket.socket) -> Sample:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    up, down = struct.unpack_from("QQ", info, 120)  # tcpi_bytes_acked, tcpi_bytes_received
    return Sample(time.monotonic(), server.cpu(), up, down)


# --------------------------------------------------------------------------------------------------
# Light peers
# --------------------------------------------------------------------------------------------------

class Updates:
    """As many updates as there are blocks in one, of each part of the weights, that have nothing in
    common: one random update, whose blocks stand in other places each time."""

    def __init__(self, job: Job, parameters: int):
        self.codec, self.fragments = CODECS[job.sync.up], Fragments(parameters, job.sync.fragments)
        self.first = [encode(job.sync.up, 1e-3 * torch.randn(part.stop - part.start))
                      for part in self.fragments.parts]

    def __call__(self, round_number: int, turn: int) -> bytes:
        content = self.first[self.fragments.index(round_number)]
        blocks = -(-self.fragments.values(round_number) // self.codec.block)
        moved, begin = b"", 0
        for size in self.codec.planes:
            here, end = begin + turn % blocks * size, begin + blocks * size
            moved, begin = moved + content[here:end] + content[begin:here], end
        return moved


@functools.lru_cache(1)
def prepared(job: str) -> Tuple[Job, Updates]:
    """What the light peers of a hive share."""
    told = Job.from_json(json.loads(job))
    return told, Updates(told, parameters_of(told.config))


class LightPeer:
    """Speaks like a peer, but waits in place of training. With `keep` it keeps what it receives, so
    that it can be checked."""

    def __init__(self, address: str, server: Process, number: int, seconds: float, keep: bool):
        self.address, self.server, self.keep = address, server, keep
        self.turn, self.seconds = number, seconds
        self.patience = Patience()
        self.samples: List[Sample] = []
        self.weights = b""  # of the version it joined with
        self.commits: List[Tuple[Dict[str, Any], bytes]] = []
        self.socket: Any = None
        self.due = math.inf  # when its training ends
        self.blob = ""  # its update that is on its way; empty: it knows what became of the last
        self.update = b""
        self.coming: Deque[Dict[str, Any]] = deque()  # commits whose content is to come
        self.arriving, self.left = "", 0  # what arrives, and bytes of it that are still to come
        self.parts: List[bytes] = []
        self.told = -1  # version of which the coordinator knows, or will, that this peer has it

    async def send(self, kind: str, /, **values: Any) -> None:
        await self.socket.send(pack(kind, **values))

    # It joins

    async def join(self) -> None:
        """Also when the coordinator tells some newcomers to come later, or strangers have to give
        way to others at its door."""
        from websockets.exceptions import ConnectionClosed, InvalidHandshake
        while True:
            try:
                return await self.enter()
            except (ConnectionClosed, InvalidHandshake):
                await asyncio.sleep(self.patience.next(random.uniform))

    async def enter(self) -> None:
        from websockets.asyncio.client import connect
        self.socket = await connect(self.address, compression=None, open_timeout=120,
                                    max_size=protocol.MESSAGE_BYTES, ping_interval=None)
        challenge, nonce = await self.expect("challenge"), secrets.token_hex(32)
        await self.send("hello", protocol=protocol.VERSION, nonce=nonce, name="light",
                        proof=protocol.proof("", "peer", challenge["nonce"], nonce),
                        device="none", kind="cpu", process=secrets.token_hex(32), token=None,
                        text=None)
        self.job, self.updates = prepared(json.dumps((await self.expect("welcome"))["job"]))
        await self.send("ready", version=0, weights=None, batch_size=1)
        self.held = await self.expect("version")
        await self.send("fetch", blob=self.held["weights"], offset=0)
        self.left = (await self.expect("blob"))["bytes"]
        while self.left:
            self.take(await self.socket.recv())
        self.weights, self.parts = b"".join(self.parts), []

    async def expect(self, kind: str) -> Dict[str, Any]:
        """The next message of this kind; others are none of a light peer's business."""
        while True:
            message = await self.socket.recv()
            if isinstance(message, str) and understood(message)["type"] == kind:
                return unpack(message)

    # Its rounds

    async def take_part(self, rounds: int) -> List[Sample]:
        """Until this many commits have come. Returns what it saw at each."""
        while len(self.samples) < rounds or self.coming:
            await self.report()
            try:
                # without a limit it costs less
                message = await (self.socket.recv() if self.due == math.inf else asyncio.wait_for(
                    self.socket.recv(), max(0.0, self.due - time.monotonic())))
            except asyncio.TimeoutError:
                await self.offer()
            else:
                await self.hear(message)
        return self.samples

    async def report(self) -> None:
        """Which weights it has, when it has nothing else to do."""
        if not (self.blob or self.coming or self.due < math.inf
                or self.told == self.held["version"]):
            self.told = self.held["version"]
            await self.send("ready", version=self.told, weights=self.held["weights"], batch_size=1)

    async def hear(self, message: Union[str, bytes]) -> None:
        if isinstance(message, bytes):
            self.take(message)
            if not self.left:
                await self.arrived(b"".join(self.parts))
            return
        said = understood(message)
        kind = said["type"]
        if kind == "train" and self.due == math.inf and not self.blob:
            self.base = self.held
            self.due = time.monotonic() + self.seconds * random.uniform(0.8, 1.2)
        elif kind == "send" and said["blob"] == self.blob:
            await self.upload()
        elif kind == "verdict" and said["verdict"] != ACCEPTED:
            self.blob, self.told = "", -1
        elif kind == "commit" and said["version"] > self.newest:
            await self.on_commit(said)
        elif kind == "blob":
            self.arriving, self.left, self.parts = said["blob"], said["bytes"], []
        elif kind in ("gone", "version"):
            raise SystemExit("A light peer fell too far behind.")

    @property
    def newest(self) -> int:
        """Version that it has heard of."""
        last = self.coming[-1] if self.coming else self.held
        return int(last["version"])

    async def offer(self) -> None:
        """Its training is done."""
        self.due, overlap = math.inf, self.job.sync.overlap
        base = self.held if overlap else self.base
        self.turn += 1  # nobody brings what it, or somebody else in this round, has brought
        self.update = self.updates(base["version"] + 1, self.turn)
        self.blob = protocol.name_of(self.update)
        await self.send("offer", version=base["version"], base=base["version"],
                        weights=base["weights"], codec=self.job.sync.up, update=self.blob,
                        bytes=len(self.update), steps=1, tokens=self.job.config.block_size,
                        loss=1.0, seconds=max(0.001, self.seconds), batch_size=1, follows=overlap)
        if overlap:
            await self.upload()

    async def upload(self) -> None:
        for chunk in protocol.chunks(self.blob, self.update):
            await self.socket.send(chunk)

    async def on_commit(self, said: Dict[str, Any]) -> None:
        connection = self.socket.transport.get_extra_info("socket")
        self.samples.append(sample(self.server, connection))
        self.coming.append(said)
        if said["counted"]:
            self.blob = ""
        if said["follows"]:
            self.told = said["version"]
        elif len(self.coming) == 1:
            await self.send("fetch", blob=said["update"], offset=0)

    def take(self, message: Union[str, bytes]) -> None:
        """A piece of what was asked for."""
        if isinstance(message, bytes):
            self.left -= len(message) - protocol.CHUNK_HEADER.size
            if self.keep:
                self.parts.append(message[protocol.CHUNK_HEADER.size:])

    async def arrived(self, content: bytes) -> None:
        """All of a commit, unless that was told twice."""
        if not self.coming or self.coming[0]["update"] != self.arriving:
            return
        self.held = self.coming.popleft()
        if self.keep:
            self.commits.append((self.held, content))
        if self.coming and not self.coming[0]["follows"]:
            await self.send("fetch", blob=self.coming[0]["update"], offset=0)

    # It leaves

    async def leave(self) -> None:
        await self.send("goodbye")
        await self.socket.close()
        if self.keep:
            self.check()

    def drop(self) -> None:
        """Whatever happened, leave nothing behind."""
        if self.socket:
            self.socket.transport.abort()

    def check(self) -> None:
        """Do the updates lead to the weights that the coordinator has?"""
        weights = from_bytes(self.weights)
        for said, update in self.commits:
            part = self.updates.fragments.of_round(said["version"])
            weights = apply_update(weights, said["codec"], update, part)
            assert digest(weights) == said["weights"], f"round {said['version']} differs"


def understood(message: str) -> Dict[str, Any]:
    """What the coordinator says, unless it is the last."""
    said = unpack(message)
    if said["type"] in ("refused", "finished"):
        raise SystemExit(f"The coordinator ended it: {said['reason']}")
    return said


# --------------------------------------------------------------------------------------------------
# Real peers
# --------------------------------------------------------------------------------------------------

class Untrained(Worker):
    """Instead of training, the weights move by the same random vector in every round."""

    def __init__(self, *values: Any, **named: Any):
        super().__init__(*values, **named)
        self.walk = [1e-3 * torch.randn_like(p) for p in self.trainer.model.parameters()]

    @torch.no_grad()
    def step(self) -> float:
        for parameter, walk in zip(self.trainer.model.parameters(), self.walk):
            parameter.add_(walk)
        return 1.0


def untrained(job: Job, content: bytes, recipe: Dict[str, Any], runtime: Runtime) -> Untrained:
    return Untrained(job.config, replace(job.recipe, **recipe), corpus_of(job, content), runtime,
                     noise_seed=0)


class RealPeer(Peer):
    """A peer that tells its parent process when it has joined and what it saw, and then waits."""

    def __init__(self, server: Process, rounds: int, *values: Any):
        super().__init__(*values)
        self.watched, self.left = server, rounds
        self.samples: List[Sample] = []
        self.joined = False

    def tell(self, values: List[Any]) -> None:
        print(json.dumps(values), flush=True)
        if not sys.stdin.readline():  # the parent says to go on, or is no more
            raise Stopped

    def carry_out(self, asked: List[PeerEffect]) -> None:
        for effect in asked:
            said = effect.message if isinstance(effect, effects.Tell) else {"type": ""}
            if said["type"] == "ready" and said["weights"] and not self.joined:
                self.joined = True
                self.tell([])
            elif isinstance(effect, effects.Do) and effect.what == "apply":  # it got a commit
                line: Any = self.socket  # the measure is taken beneath the WebSocket
                self.samples.append(sample(self.watched, line.socket))
                self.left -= 1
                if not self.left:
                    self.tell(self.samples)
                    raise Stopped
        super().carry_out(asked)


def be_a_peer(address: str, pid: int, rounds: int) -> None:
    torch.set_num_threads(1)
    runtime = start_runtime(TrainConfig(device="cpu"))
    options = argparse.Namespace(server=address, name="real", data=None)
    with mock.patch.object(hive.peer, "make_worker", untrained), Interrupts(runtime) as interrupts:
        with contextlib.suppress(Stopped):
            RealPeer(Process(pid), rounds, Crew(runtime), {"device": "cpu"}, options, "",
                     interrupts).run()


class RealPeerProcess:
    """The same as a LightPeer, from outside."""

    def __init__(self, folder: Path, address: str, server: Process, rounds: int):
        self.environment, self.log = environment(folder), folder / "peers.txt"
        self.command = [sys.executable, __file__, "--one", address, server.folder.name, str(rounds)]
        self.process: Any = None

    async def hear(self) -> List[Any]:
        """The next thing it tells."""
        line = await self.process.stdout.readline()
        if not line:
            raise SystemExit("A peer ended early:\n" + self.log.read_text())
        told: List[Any] = json.loads(line)
        return told

    async def join(self) -> None:
        with open(self.log, "a") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, env=self.environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, limit=MIB)
        await self.hear()

    async def take_part(self, rounds: int) -> List[Sample]:
        self.process.stdin.write(b"\n")
        return [Sample(*values) for values in await self.hear()]

    async def leave(self) -> None:
        self.process.stdin.write(b"\n")
        await self.process.wait()

    def drop(self) -> None:
        if self.process and self.process.returncode is None:
            self.process.kill()


# --------------------------------------------------------------------------------------------------
# Measuring
# --------------------------------------------------------------------------------------------------

class Row(NamedTuple):
    name: str
    peers: int
    seconds: List[float]  # of every round, as every peer saw it
    up: float
    down: float  # bytes per parameter
    cpu: float  # seconds of the coordinator per update
    before: int
    joined: int  # resident bytes of the coordinator, before and after all have joined
    joining: int
    peak: int  # at most: while they joined, and in the rounds
    missed: int  # updates that did not count in their round

    def show(self) -> str:
        spread = f"({min(self.seconds):.3f} to {max(self.seconds):.3f})"
        growth = (self.joined - self.before) / self.peers
        return (f"{self.name}  {statistics.median(self.seconds):6.3f} {spread:18}"
                f"{self.up:7.4f}{self.down:8.4f}{1000 * self.cpu:8.1f}{self.before / MIB:8,.0f}"
                f"{growth / MIB:9.2f}{self.joining / MIB:9,.0f}{self.peak / MIB:8,.0f}")


HEAD = ("             seconds per round        bytes/parameter  CPU ms    MiB of the coordinator\n"
        "      peers  median (min to max)          up    down /update   alone    /peer  joining"
        "  rounds")


async def measure(peers: int, parameters: int, arguments: argparse.Namespace) -> Row:
    rounds = WARM_UP + arguments.rounds
    real = peers <= arguments.real
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        with coordinator(folder, peers, arguments) as (address, server):
            if real:
                all_peers: List[Any] = [RealPeerProcess(folder, address, server, rounds)
                                        for _ in range(peers)]
            else:
                all_peers = [LightPeer(address, server, number, arguments.seconds, not number)
                             for number in range(peers)]
            try:
                before = server.memory("VmRSS")
                server.forget_peak()
                await asyncio.gather(*(peer.join() for peer in all_peers))
                await asyncio.sleep(0.5)
                joined, joining = server.memory("VmRSS"), server.memory("VmHWM")
                server.forget_peak()
                seen = await asyncio.gather(*(peer.take_part(rounds) for peer in all_peers))
                peak = server.memory("VmHWM")
                await asyncio.gather(*(peer.leave() for peer in all_peers))
            finally:
                for peer in all_peers:
                    peer.drop()
        journal = Journal(folder / "runs" / "hive", read_only=True)
        missed = sum(peers - row["peers"] for row in journal.history())
        updates = sum(row["peers"] for row in journal.history()[WARM_UP: rounds])
        journal.close()
    kept = [samples[WARM_UP - 1:] for samples in seen]
    times = [b.seconds - a.seconds for samples in kept for a, b in zip(samples, samples[1:])]
    up, down = (sum(getattr(samples[-1], way) - getattr(samples[0], way) for samples in kept)
                / arguments.rounds / peers / parameters for way in ("up", "down"))
    cpu = (kept[0][-1].cpu - kept[0][0].cpu) / updates
    return Row(f"{peers:5,} {'real ' if real else 'light'}", peers, times, up, down, cpu, before,
               joined, joining, peak, missed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers", type=int, nargs="+", default=[2, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds of each")
    parser.add_argument("--real", type=int, default=2, help="up to this many peers are real ones")
    parser.add_argument("--size", choices=list(PRESETS), default="2.7m")
    parser.add_argument("--sync", choices=("diloco", "streaming"), default="diloco")
    parser.add_argument("--seconds", type=float, default=0.0, help="of a light peer's training")
    parser.add_argument("--evaluations", action="store_true", help="as many as there usually are")
    parser.add_argument("--folder", help="where the coordinator writes (default: the system's "
                        "folder for temporary files); its disk is part of what is measured")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("This benchmark reads /proc and counts bytes with TCP_INFO: it needs Linux.")
    try:
        import websockets
    except ImportError:
        sys.exit("The Hive needs the package websockets: pip install websockets")
    if arguments.one:
        address, pid, rounds = arguments.one
        be_a_peer(address, int(pid), int(rounds))
        return
    os.environ["no_proxy"] = "127.0.0.1"
    config = replace(PRESETS[arguments.size][0], vocab_size=len(SHAKESPEARE_CHARACTERS))
    parameters = parameters_of(config)
    version = getattr(websockets, "__version__", "?")
    print(f"{parameters:,} parameters, {arguments.rounds} rounds after {WARM_UP} to warm up; "
          f"{os.cpu_count()} cores, PyTorch {torch.__version__}, websockets {version}\n{HEAD}")
    for peers in arguments.peers:
        limit = 300 + peers * (WARM_UP + arguments.rounds)  # seconds
        row = asyncio.run(asyncio.wait_for(measure(peers, parameters, arguments), limit))
        late = f"  ({row.missed} updates came too late for their round)" if row.missed else ""
        print(row.show() + late, flush=True)


if __name__ == "__main__":
    main()
