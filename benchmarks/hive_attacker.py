"""The other side of hive_flood.py: one process that attacks a hive's two ports as it is ordered to.

It reads orders from stdin, a JSON object a line, and answers each with one: what came of it. All it
does is bounded in count, rate and time, and goes to this machine's own loopback addresses only.
Frames are written by hand and masked with zeros, which is as cheap as an attacker can have it: what
this process spends of the processor is missing to the honest peers. `--sink` is what it attacks for
comparison: it takes everything and answers with the least that keeps an attacker going.
"""
from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import secrets
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, List, NamedTuple, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hive.learning.codec import CODECS
from hive.session import protocol

UPGRADE = ("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\n"
           "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
           "Sec-WebSocket-Version: 13\r\n\r\n")
TEXT, BINARY, PING, FINAL = 1, 2, 9, 128
MASK = bytes(4)
TICK = 0.05  # seconds between two blocks of a stream
TRICKLE = 2.0  # ... and between two bytes of a slow one
SMALL = 4096  # bytes of receive buffer, where nothing is read


class Rates(NamedTuple):
    """How much of everything; of all clients of an attack together where it says a second."""

    idle: int = 500  # connections on each port: slow-loris, half-open
    connects: float = 300.0  # new connections a second, of each attack
    pings: float = 250_000.0  # bytes a second on each port
    fragments: float = 250_000.0  # bytes a second on each port
    downloads: float = 20.0  # files a second
    deaf: int = 20  # peers, and as many pages
    joins: int = 1000
    uploads: float = 30.0  # abandoned ones a second
    updates: float = 100.0  # rejected ones a second
    texts: float = 200.0  # fetches of the text a second


class Order(NamedTuple):
    attacks: List[str]
    seconds: float
    peers: int  # port
    page: int  # port
    sources: List[str]  # addresses to come from
    key: str
    parameters: int
    text: str  # its SHA-256
    rates: Rates


def frame(kind: int, content: bytes = b"", final: bool = True) -> bytes:
    length = len(content)
    head = bytes([kind | FINAL * final])
    if length < 126:
        head += bytes([128 | length])
    elif length < 1 << 16:
        head += struct.pack(">BH", 128 | 126, length)
    else:
        head += struct.pack(">BQ", 128 | 127, length)
    return head + MASK + content


class Cut(Exception):
    """The other side ended the connection, or refused it."""


class Wire:
    """A connection, and a WebSocket over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer

    async def send(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()

    async def upgrade(self, path: str, port: int) -> None:
        await self.send(UPGRADE.format(path=path, port=port).encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise Cut

    async def say(self, kind: str, /, **values: Any) -> None:
        await self.send(frame(TEXT, json.dumps({"type": kind, **values}).encode()))

    async def next(self) -> Any:
        """The next message: an object, or the bytes of a chunk."""
        while True:
            kind, length = await self.reader.readexactly(2)
            if length == 126:
                length = int.from_bytes(await self.reader.readexactly(2), "big")
            elif length == 127:
                length = int.from_bytes(await self.reader.readexactly(8), "big")
            content = await self.reader.readexactly(length)
            if kind & 15 == TEXT:
                return json.loads(content)
            if kind & 15 == BINARY:
                return content
            if kind & 15 == 8:  # close
                raise Cut

    async def hear(self, *kinds: str) -> Dict[str, Any]:
        while True:
            said = await self.next()
            if isinstance(said, dict) and said["type"] in kinds:
                return said
            if isinstance(said, dict) and said["type"] in ("refused", "finished"):
                raise Cut

    async def ignore(self) -> None:
        """Read and ignore everything until the other side closes."""
        while await self.reader.read(1 << 18):
            pass
        raise Cut


class Attack:
    """An order being carried out."""

    def __init__(self, order: Order):
        self.order, self.rates = order, order.rates
        self.counts: Dict[str, Counter[str]] = {name: Counter() for name in order.attacks}
        self.wires: List[Wire] = []
        self.next_connect = dict.fromkeys(order.attacks, 0.0)

    async def run(self, stop: asyncio.Future[str]) -> Dict[str, Any]:
        """Until the time is over, or somebody says to stop."""
        began = time.process_time()
        clients = [asyncio.ensure_future(client) for name in self.order.attacks
                   for client in ATTACKS[name](self, name)]
        try:
            await asyncio.wait([stop], timeout=self.order.seconds)
        finally:
            broken = [client for client in clients if client.done()]
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            for wire in self.wires:
                wire.writer.transport.abort()
        for client in broken:
            client.result()  # a mistake in here is not to pass for a hive that holds
        return {"cpu": time.process_time() - began, **self.counts}

    # Means

    async def every(self, rate: float) -> AsyncIterator[None]:
        """Go on this many times a second, and never faster to catch up."""
        moment = time.monotonic()
        while True:
            yield
            moment = max(moment + 1 / rate, time.monotonic() - 1 / rate)
            await asyncio.sleep(max(0.0, moment - time.monotonic()))

    @contextlib.asynccontextmanager
    async def connected(self, name: str, port: int, path: Optional[str] = None,
                        buffer: Optional[int] = None) -> AsyncIterator[Wire]:
        """A connection, and a WebSocket with a path; those of an attack are opened in turn."""
        now = time.monotonic()
        turn = max(now, self.next_connect[name] + 1 / self.rates.connects)
        self.next_connect[name] = turn
        await asyncio.sleep(turn - now)
        one = socket.socket()
        one.setblocking(False)
        wire: Optional[Wire] = None
        try:
            if buffer:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            one.bind((random.choice(self.order.sources), 0))
            await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
            wire = Wire(*await asyncio.open_connection(sock=one, limit=buffer or 1 << 18))
            self.wires.append(wire)
            if path is not None:
                await wire.upgrade(path, port)
            self.counts[name]["opened"] += 1
            yield wire
        finally:
            if wire:
                wire.writer.transport.abort()
                with contextlib.suppress(ValueError):
                    self.wires.remove(wire)
            else:
                one.close()

    async def again(self, name: str, once: Callable[..., Awaitable[None]], *values: Any) -> None:
        """Once, and again whenever the other side ends it."""
        while True:
            try:
                await once(name, *values)
            except (OSError, EOFError, Cut, asyncio.LimitOverrunError):
                self.counts[name]["cut"] += 1
                await asyncio.sleep(0.2)

    def joined(self, name: str, buffer: Optional[int] = None) -> Any:
        return self.connected(name, self.order.peers, "/", buffer)

    async def join(self, wire: Wire) -> None:
        """As a peer that has the key and a new identity."""
        challenge, nonce = await wire.hear("challenge"), secrets.token_hex(32)
        await wire.say("hello", protocol=protocol.VERSION, nonce=nonce, name="attacker",
                       proof=protocol.proof(self.order.key, "peer", challenge["nonce"], nonce),
                       device="none", kind="cpu", process=secrets.token_hex(32), token=None,
                       text=None)
        await wire.hear("welcome")

    async def newest(self, wire: Wire) -> Dict[str, Any]:
        await wire.say("ready", version=0, weights=None, batch_size=1)
        return await wire.hear("version")

    async def offer(self, wire: Wire, at: Dict[str, Any], blob: str, size: int) -> None:
        await wire.say("offer", version=at["version"], weights=at["weights"], codec="q4",
                       update=blob, bytes=size, steps=1, tokens=128, loss=3.5, seconds=0.5,
                       batch_size=1, follows=False)

    # Attacks: each gives its clients

    def idle(self, name: str, once: Callable[..., Awaitable[None]]) -> List[Any]:
        return [self.again(name, once, port) for _ in range(self.rates.idle)
                for port in (self.order.peers, self.order.page)]

    def loris(self, name: str) -> List[Any]:
        return self.idle(name, self.trickle)

    async def trickle(self, name: str, port: int) -> None:
        async with self.connected(name, port) as wire:
            closed = asyncio.ensure_future(wire.ignore())
            try:
                for byte in UPGRADE.format(path="/", port=port).encode():
                    await wire.send(bytes([byte]))
                    await asyncio.wait([closed], timeout=TRICKLE)
                    if closed.done():
                        closed.result()
            finally:
                closed.cancel()

    def half_open(self, name: str) -> List[Any]:
        return self.idle(name, self.silent)

    async def silent(self, name: str, port: int) -> None:
        async with self.connected(name, port) as wire:
            await wire.ignore()

    def pings(self, name: str) -> List[Any]:
        block = frame(PING) * 4096
        return [self.again(name, self.stream, port, path, b"", block, self.rates.pings)
                for port, path in self.both()]

    def fragments(self, name: str) -> List[Any]:
        """Messages that never end, of pieces with one byte and with none."""
        begin, rate = frame(TEXT, final=False), self.rates.fragments / 2
        return [self.again(name, self.stream, port, path, begin, block, rate)
                for port, path in self.both()
                for block in (frame(0, b" ", final=False) * 4096, frame(0, final=False) * 4096)]

    def both(self) -> List[Any]:
        return [(self.order.peers, "/"), (self.order.page, "/api/events")]

    async def stream(self, name: str, port: int, path: str, begin: bytes, block: bytes,
                     rate: float) -> None:
        """Whole frames at this many bytes a second."""
        one = len(block) // 4096
        piece = block[: max(1, int(rate * TICK / one)) * one]
        async with self.connected(name, port, path) as wire:
            closed = asyncio.ensure_future(wire.ignore())
            try:
                await wire.send(begin)
                async for _ in self.every(1 / TICK):
                    await wire.send(piece)
                    self.counts[name]["bytes"] += len(piece)
                    if closed.done():
                        closed.result()
            finally:
                closed.cancel()

    def downloads(self, name: str) -> List[Any]:
        return [self.again(name, self.download, number) for number in range(8)]

    async def download(self, name: str, number: int) -> None:
        files = ("/last.pt", "/model.safetensors")
        async for _ in self.every(self.rates.downloads / 8):
            number += 1
            async with self.connected(name, self.order.page) as wire:
                await wire.send(f"GET {files[number % 2]} HTTP/1.1\r\nHost: localhost\r\n\r\n"
                                .encode())
                while True:
                    content = await wire.reader.read(1 << 18)
                    if not content:
                        break
                    self.counts[name]["bytes"] += len(content)

    def deaf(self, name: str) -> List[Any]:
        return [self.again(name, once) for _ in range(self.rates.deaf)
                for once in (self.deaf_peer, self.deaf_page)]

    async def deaf_peer(self, name: str) -> None:
        async with self.joined(name, SMALL) as wire:
            await self.join(wire)
            at = await self.newest(wire)
            for number in range(100):
                blob = at["weights"] if number % 2 else self.order.text
                await wire.say("fetch", blob=blob, offset=0)
            await self.hold(wire)

    async def deaf_page(self, name: str) -> None:
        async with self.connected(name, self.order.page, "/api/events", SMALL) as wire:
            await self.hold(wire)

    async def hold(self, wire: Wire) -> None:
        """Neither read nor write."""
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(self.order.seconds)

    def joins(self, name: str) -> List[Any]:
        return [self.one_join(name) for _ in range(self.rates.joins)]

    async def one_join(self, name: str) -> None:
        with contextlib.suppress(OSError, EOFError, Cut):
            async with self.joined(name, SMALL) as wire:
                await self.join(wire)
                self.counts[name]["joined"] += 1
                await self.hold(wire)
        self.counts[name]["cut"] += 1

    def uploads(self, name: str) -> List[Any]:
        return [self.again(name, self.abandon, number) for number in range(8)]

    async def abandon(self, name: str, number: int) -> None:
        """All but the end of an update: of the right size, and of the largest there ever was."""
        count = self.order.parameters
        async for _ in self.every(self.rates.uploads / 8):
            number += 1
            size = 4 * count + 1024 if number % 2 else CODECS["q4"].size(count)
            blob = secrets.token_hex(32)
            async with self.joined(name) as wire:
                await self.join(wire)
                await self.offer(wire, await self.newest(wire), blob, size)
                await wire.hear("send")
                for chunk in protocol.chunks(blob, bytes(size - 1)):
                    await wire.send(frame(BINARY, chunk))
                    self.counts[name]["bytes"] += len(chunk)
            self.counts[name]["abandoned"] += 1

    def updates(self, name: str) -> List[Any]:
        return [self.again(name, self.reject) for _ in range(4)]

    async def reject(self, name: str) -> None:
        """Updates whose values are not numbers, one after another."""
        update = b"\xff" * CODECS["q4"].size(self.order.parameters)
        blob = hashlib.sha256(update).hexdigest()
        async with self.joined(name) as wire:
            await self.join(wire)
            at = await self.newest(wire)
            async for _ in self.every(self.rates.updates / 4):
                await self.offer(wire, at, blob, len(update))
                said = await wire.hear("send", "verdict", "commit")
                while said["type"] == "commit":
                    at, said = said, await wire.hear("send", "verdict", "commit")
                if said["type"] == "send":
                    for chunk in protocol.chunks(blob, update):
                        await wire.send(frame(BINARY, chunk))
                    said = await wire.hear("verdict", "commit")
                while said["type"] == "commit":
                    at, said = said, await wire.hear("verdict", "commit")
                self.counts[name][said["verdict"]] += 1

    def texts(self, name: str) -> List[Any]:
        return [self.again(name, self.fetch) for _ in range(4)]

    async def fetch(self, name: str) -> None:
        async with self.joined(name) as wire:
            await self.join(wire)
            async for _ in self.every(self.rates.texts / 4):
                await wire.say("fetch", blob=self.order.text, offset=0)
                left = (await wire.hear("blob"))["bytes"]
                while left > 0:
                    said = await wire.next()
                    if isinstance(said, bytes):
                        left -= len(said) - protocol.CHUNK_HEADER.size
                        self.counts[name]["bytes"] += len(said)


ATTACKS: Dict[str, Callable[[Attack, str], List[Any]]] = {
    "slow-loris": Attack.loris, "half-open": Attack.half_open, "pings": Attack.pings,
    "fragments": Attack.fragments, "downloads": Attack.downloads, "deaf": Attack.deaf,
    "joins": Attack.joins, "abandoned": Attack.uploads, "rejected": Attack.updates,
    "text": Attack.texts}
KEYED = ("deaf", "joins", "abandoned", "rejected", "text")  # these attackers have the key


# --------------------------------------------------------------------------------------------------
# The sink
# --------------------------------------------------------------------------------------------------

class Sink(asyncio.Protocol):
    """Takes everything. Attackers mask with zeros, so their words can be found as they are."""

    file = b""
    answers: Dict[bytes, bytes] = {}
    challenge = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.transport.get_write_buffer_size() > 1 << 20:
            return
        if data.startswith(b"GET ") and b"Upgrade" in data:
            self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            if data.startswith(b"GET / "):
                self.transport.write(self.challenge)
        elif data.startswith(b"GET /"):
            self.transport.write(self.file)
            self.transport.close()
        else:
            for word, answer in self.answers.items():
                self.transport.write(answer * min(data.count(word), 8))


def unmasked(kind: int, content: bytes) -> bytes:
    return bytes([kind | FINAL, 127]) + struct.pack(">Q", len(content)) + content


def words(kind: str, **values: Any) -> bytes:
    return unmasked(TEXT, json.dumps({"type": kind, **values}).encode())


async def sink(parameters: int, text_bytes: int) -> None:
    Sink.file = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(4 * parameters)
    Sink.challenge = words("challenge", nonce="0" * 64)
    text = bytes(text_bytes)
    Sink.answers = {
        b'"hello"': words("welcome"), b'"ready"': words("version", version=0, weights="0" * 64),
        b'"offer"': words("send") + words("verdict", verdict="rejected"),
        b'"fetch"': words("blob", bytes=text_bytes) + b"".join(
            unmasked(BINARY, chunk) for chunk in protocol.chunks("0" * 64, text))}
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Sink, "127.0.0.1", 0, backlog=1024) for _ in range(2)]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # until the benchmark is over


# --------------------------------------------------------------------------------------------------
# Orders
# --------------------------------------------------------------------------------------------------

def raise_limit() -> None:
    """As many open files as this process may have."""
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def serve() -> None:
    """One order after another; a line that says stop ends the current one."""
    loop = asyncio.get_running_loop()

    def listen() -> Any:
        return loop.run_in_executor(None, sys.stdin.readline)

    line = await listen()
    while line:
        following = listen()
        if line.strip() != "stop":  # which may come just too late
            values = json.loads(line)
            order = Order(**{**values, "rates": Rates(**values["rates"])})
            print(json.dumps(await Attack(order).run(following)), flush=True)
        line = await following


def main() -> None:
    raise_limit()
    if sys.argv[1:2] == ["--sink"]:
        asyncio.run(sink(int(sys.argv[2]), int(sys.argv[3])))
    else:
        asyncio.run(serve())


if __name__ == "__main__":
    main()
