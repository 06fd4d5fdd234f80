"""What the dashboard's port answers: a fixed list of pages, facts as JSON, weights, live events.

Read-only: all it knows comes from a `Source`, and nothing that is asked here can change the run.
docs/api.md lists the addresses. Whatever takes longer than a moment runs in a worker thread.
"""
from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import re
import socket
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import (
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Dict,
    Iterable,
    List,
    NamedTuple,
    Optional,
    Protocol,
    Set,
    Tuple,
)
from urllib.parse import parse_qs

from gltch_2_7m import GltchError
from hive.events import Events, finite

HERE = Path(__file__).resolve().parent
FILES = {  # address: file and content type
    "/": ("index.html", "text/html"), "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/join_colab.ipynb": ("join_colab.ipynb", "application/json"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in (
        "hive", "dom", "format", "network", "layout", "picture", "chart", "history", "plot",
        "scale", "chat", "model")}}
EVENTS, PEERS = "/api/events", "/hive"  # WebSockets
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
                               "form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}
REASONS = {200: "OK", 304: "Not Modified", 400: "Bad Request", 403: "Forbidden",
           404: "Not Found", 421: "Misdirected Request", 426: "Upgrade Required",
           500: "Internal Server Error", 503: "Service Unavailable"}
REQUEST_SECONDS = 20.0  # for a request to arrive
DOWNLOAD_SECONDS, SLOWEST = 1800.0, 50_000  # for an answer to leave; bytes per second expected
MOST_CONNECTIONS, MOST_PAGES, MOST_DOWNLOADS = 512, 64, 8  # at a time
PER_ADDRESS, DOWNLOADS_PER_ADDRESS = 128, 3  # ... but this machine's own addresses may take all
MOST_WAITING = 64  # requests for the worker thread
EVENTS_SECONDS = 0.05  # between two messages with events
FAREWELL_SECONDS = 2.0  # for the pages to hear how it ended
MOST = 10**15  # of any number that is asked for
KEPT_FILES = 4  # weights that were asked for lately, ready to send


class Snapshot(NamedTuple):
    """Weights that can be downloaded. `content` makes the file; it may take seconds."""

    name: str  # another name, another content
    content: Callable[[], bytes]


class Source(Protocol):
    """Where the facts come from. `state`, `peers` and `snapshot` are asked in the event loop and
    answer at once, the others in a worker thread. Each raises GltchError for what is not there."""

    events: Events
    folder: Path

    def state(self) -> Dict[str, Any]: ...
    def peers(self) -> Dict[str, Any]: ...
    def snapshot(self, version: Optional[int]) -> Snapshot: ...
    def history(self, first: Optional[int], last: Optional[int], points: int
                ) -> Dict[str, Any]: ...
    def samples(self, limit: int) -> Dict[str, Any]: ...
    def round(self, number: int) -> Dict[str, Any]: ...


class Refusal(Exception):
    """The answer is no: an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Reply(NamedTuple):
    kind: str  # content type
    content: bytes
    status: int = 200
    headers: Dict[str, str] = {}


class Web:
    """The dashboard's port. `names` are the hosts it may be called besides the obvious ones, and
    `peers` takes over a WebSocket at /hive."""

    def __init__(self, source: Source, names: Iterable[str] = (),
                 peers: Optional[Callable[[Any], Awaitable[None]]] = None):
        self.source, self.serve_peer = source, peers
        own = socket.gethostname().lower()
        self.names = {"localhost", own, f"{own}.local", *(name.lower() for name in names)}
        self.pages: Dict[Any, int] = {}  # and the number of the last event each was sent
        self.connections: Set[Any] = set()
        self.downloads: Set[Any] = set()
        self.waiting = 0  # requests
        self.files: OrderedDict[str, bytes] = OrderedDict()  # weights, the latest last
        self.reading = ThreadPoolExecutor(1, "web")
        self.making = ThreadPoolExecutor(1, "weights")

    # One request

    async def answer(self, connection: Any, request: Any) -> Any:
        """For websockets' `process_request`: a response, or None to open a WebSocket."""
        from websockets.datastructures import Headers
        from websockets.http11 import Response
        try:
            reply = await self.find(connection, request)
        except Refusal as error:
            again = {"Retry-After": "2"} if error.status == 503 else {}
            reply = as_json({"error": str(error)}, error.status, again)
        if reply is None:
            return None
        # It bounds how long the answer may take.
        connection.close_timeout = REQUEST_SECONDS + len(reply.content) / SLOWEST
        headers = {**HEADERS, "Content-Type": reply.kind,
                   "Content-Length": str(len(reply.content)), **reply.headers}
        return Response(reply.status, REASONS[reply.status], Headers(headers), reply.content)

    async def find(self, connection: Any, request: Any) -> Optional[Reply]:
        path, _, fields = request.path.partition("?")
        query, origin = Query(fields), the_only(request.headers, "Origin")
        if path == PEERS and self.serve_peer:
            demand(origin is None, 403, "Peers join here, not web pages.")
            return None
        host = the_only(request.headers, "Host") or ""
        demand(self.knows(host), 421, f"This dashboard is not known as {host[:100]!r}: start it "
               "with --allow-host and that name if it should be.")
        if path == EVENTS:
            demand(origin in (None, f"http://{host}", f"https://{host}"), 403,
                   "The events are not for pages of other sites.")
            demand((the_only(request.headers, "Upgrade") or "").lower() == "websocket", 426,
                   "The events come over a WebSocket.")
            query.number("since", 0)  # says when it makes no sense
            demand(len(self.pages) < MOST_PAGES, 503, "Too many pages are open; try again later.")
            return None
        answers = {"/api/state": self.state, "/api/history": self.history,
                   "/api/peers": self.peers, "/api/samples": self.samples,
                   "/metrics": self.metrics, "/healthz": self.health}
        if path in answers:
            return await answers[path](query)
        if path.startswith("/api/rounds/"):
            return await self.round(path[len("/api/rounds/"):])
        if path == "/model.safetensors":
            known = the_only(request.headers, "If-None-Match") or ""
            return await self.weights(connection, query, known)
        if path in ("/last.pt", "/best.pt"):
            return await self.checkpoint(connection, self.source.folder / path[1:])
        demand(path in FILES, 404, "There is nothing here.")
        name, kind = FILES[path]
        return Reply(f"{kind}; charset=utf-8", await self.read((HERE / name).read_bytes))

    def knows(self, host: str) -> bool:
        """Is this one of our names? Against pages whose own name was made to point to us (DNS
        rebinding); an address in digits is no name."""
        found = re.fullmatch(r"(\[[^][]*\]|[^][:]*)(:\d*)?", host)
        name = found.group(1).strip("[]").rstrip(".").lower() if found else ""
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return name in self.names or any(
                name.endswith(known) for known in self.names if known.startswith("."))

    async def read(self, task: Callable[..., Any], *values: Any) -> Any:
        """Off the event loop. What is not there becomes a 404."""
        demand(self.waiting < MOST_WAITING, 503, "Too many ask at once; try again in a moment.")
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.reading, task, *values)
        except GltchError as error:
            raise Refusal(404, str(error)) from None
        except FileNotFoundError:
            raise Refusal(404, "There is nothing here yet.") from None
        finally:
            self.waiting -= 1

    # The addresses

    async def state(self, query: Query) -> Reply:
        return as_json(self.source.state())

    async def peers(self, query: Query) -> Reply:
        return as_json(self.source.peers())

    async def history(self, query: Query) -> Reply:
        first, last = query.number("from", 0), query.number("to", 0)
        points = query.number("points", 1, 5000)
        return as_json(await self.read(self.source.history, first, last, points or 600))

    async def samples(self, query: Query) -> Reply:
        limit = query.number("limit", 1, 100) or 20
        return as_json(await self.read(self.source.samples, limit))

    async def round(self, number: str) -> Reply:
        demand(number.isdecimal() and len(number) < 16, 404, "A round has a number.")
        return as_json(await self.read(self.source.round, int(number)))

    async def health(self, query: Query) -> Reply:
        return Reply("text/plain; charset=utf-8", b"ok\n")

    async def metrics(self, query: Query) -> Reply:
        return Reply("text/plain; version=0.0.4; charset=utf-8", metrics(self.source.state()))

    async def weights(self, connection: Any, query: Query, known: str) -> Reply:
        try:
            snapshot = self.source.snapshot(query.number("round", 0))
        except GltchError as error:
            raise Refusal(404, str(error)) from None
        tag = {"ETag": f'W/"{snapshot.name}"'}  # weak: the validation loss may still be added
        if f'"{snapshot.name}"' in known:
            return Reply("application/octet-stream", b"", 304, tag)
        self.begin_download(connection)
        try:
            content = await asyncio.get_running_loop().run_in_executor(
                self.making, self.make, snapshot, connection)
        except GltchError as error:
            raise Refusal(500, str(error)) from None
        return Reply("application/octet-stream", content, headers=tag)

    def make(self, snapshot: Snapshot, connection: Any) -> bytes:
        """In the worker thread; whoever waited behind the same weights finds them made."""
        demand(connection in self.downloads, 503, "Nobody waits for this any more.")
        content = self.files.pop(snapshot.name, None) or snapshot.content()
        self.files[snapshot.name] = content  # as the latest
        while len(self.files) > KEPT_FILES:
            self.files.popitem(last=False)
        return content

    async def checkpoint(self, connection: Any, path: Path) -> Reply:
        self.begin_download(connection)
        return Reply("application/octet-stream", await self.read(path.read_bytes))

    def begin_download(self, connection: Any) -> None:
        of_this = sum(address_of(other) == address_of(connection) for other in self.downloads)
        most = MOST_DOWNLOADS if is_local(connection) else DOWNLOADS_PER_ADDRESS
        demand(len(self.downloads) < MOST_DOWNLOADS and of_this < most, 503,
               "Others are downloading just now; try again in a moment.")
        self.downloads.add(connection)
        over = asyncio.ensure_future(connection.wait_closed())
        over.add_done_callback(lambda _: self.downloads.discard(connection))

    async def stop(self) -> None:
        """Pages hear how it ended; whoever still downloads will not hold it up."""
        patience = time.monotonic() + FAREWELL_SECONDS
        while time.monotonic() < patience and any(
                seq < self.source.events.seq for seq in self.pages.values()):
            await asyncio.sleep(EVENTS_SECONDS)
        for connection in list(self.downloads):
            connection.transport.abort()

    # WebSockets

    async def converse(self, connection: Any) -> None:
        path, _, fields = connection.request.path.partition("?")
        if path == EVENTS:
            await self.follow(connection, Query(fields))
        elif self.serve_peer:
            await self.serve_peer(connection)

    async def follow(self, page: Any, query: Query) -> None:
        """Tell a page everything that happens, until it leaves."""
        from websockets.exceptions import ConnectionClosed
        if len(self.pages) >= MOST_PAGES:  # many came at once
            await page.close(1013, "Too many pages are open.")
            return
        session, seq = query.text("session"), query.number("since", 0)
        listening = asyncio.ensure_future(page.recv())
        self.pages[page] = -1
        try:
            while not listening.done():
                events = self.source.events
                batch = events.since(session, -1 if seq is None else seq)
                if batch is None:
                    batch = self.state_event(events)
                session, seq = events.session, events.seq
                if batch != "[]":
                    await page.send(batch)
                self.pages[page] = seq
                await asyncio.wait([listening], timeout=EVENTS_SECONDS)
            if not listening.exception():
                await page.close(1008, "A page only listens.")
        except ConnectionClosed:
            pass  # it left
        finally:
            del self.pages[page]
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    def state_event(self, events: Events) -> str:
        state = {"seq": events.seq, "at": events.clock(), "type": "state", **self.source.state()}
        return f"[{json.dumps(finite(state), allow_nan=False)}]"


@contextlib.asynccontextmanager
async def pages(web: Web, **settings: Any) -> AsyncIterator[int]:
    """Open the dashboard's port. Gives its number."""
    from websockets.asyncio.server import ServerConnection, serve
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # we say ourselves what matters

    class Visitor(ServerConnection):
        """The time limit of websockets covers request and answer; ours differ."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(REQUEST_SECONDS, self.hurry)
            alike = sum(address_of(other) == address_of(self) for other in web.connections)
            if len(web.connections) >= MOST_CONNECTIONS or (
                    alike >= PER_ADDRESS and not is_local(self)):
                transport.abort()
            web.connections.add(self)

        def connection_lost(self, error: Optional[Exception]) -> None:
            super().connection_lost(error)
            web.connections.discard(self)

        def hurry(self) -> None:
            if self.request is None:
                self.transport.abort()

    async with serve(web.converse, process_request=web.answer,
                     create_connection=Visitor, open_timeout=DOWNLOAD_SECONDS,
                     **settings) as server:
        try:
            yield list(server.sockets)[0].getsockname()[1]
        finally:
            await web.stop()


class Query:
    """What follows the question mark. Raises Refusal for what makes no sense."""

    def __init__(self, text: str):
        try:
            self.values = parse_qs(text, max_num_fields=10)
        except ValueError:
            raise Refusal(400, "There are too many fields after the question mark.") from None

    def text(self, name: str) -> str:
        return self.values.get(name, [""])[0]

    def number(self, name: str, least: int, most: int = MOST) -> Optional[int]:
        """A whole number, None when it is not there."""
        text = self.text(name)
        if not text:
            return None
        good = text.isascii() and text.isdecimal() and len(text) < 17
        known = f"from {least} to {most}" if most < MOST else f"of at least {least}"
        demand(good and least <= int(text) <= most, 400, f"{name} must be a whole number {known}.")
        return int(text)


def the_only(headers: Any, name: str) -> Optional[str]:
    values = headers.get_all(name)
    demand(len(values) <= 1, 400, f"There is more than one {name} header.")
    return values[0] if values else None


def address_of(connection: Any) -> str:
    return (connection.remote_address or ("?",))[0]


def is_local(connection: Any) -> bool:
    return address_of(connection) in ("127.0.0.1", "::1", "?")


def demand(condition: bool, status: int, sentence: str) -> None:
    if not condition:
        raise Refusal(status, sentence)


def as_json(value: Any, status: int = 200, headers: Optional[Dict[str, str]] = None) -> Reply:
    content = json.dumps(finite(value), allow_nan=False, separators=(",", ":")).encode()
    return Reply("application/json", content, status, headers or {})


def metrics(state: Dict[str, Any]) -> bytes:
    """The state in the text format of Prometheus."""
    lines: List[str] = []

    def add(name: str, kind: str, text: str, *values: Tuple[Dict[str, str], Optional[float]]
            ) -> None:
        lines.extend([f"# HELP {name} {text}", f"# TYPE {name} {kind}"])
        for labels, value in values:
            if value is not None:
                inside = ",".join(f'{key}="{escaped(label)}"' for key, label in labels.items())
                lines.append(f"{name}{{{inside}}} {value}" if inside else f"{name} {value}")

    about = {name: str(state[name]) for name in ("run", "size", "mode")}
    add("gltch_info", "gauge", "The run.", (about, 1))
    for name, kind, field, text in METRICS:
        add(name, kind, text, ({}, state[field]))
    add("gltch_finished", "gauge", "1 when the run is over.", ({}, int(bool(state["finished"]))))
    add("gltch_updates_total", "counter", "Updates of peers, by what became of them.",
        *(({"verdict": verdict}, count) for verdict, count in state["updates"].items()))
    states = [peer["state"] for peer in state["peers"]]
    add("gltch_peers", "gauge", "Connected peers, by what they are doing.",
        *(({"state": name}, states.count(name)) for name in sorted(STATES)))
    add("process_start_time_seconds", "gauge", "When the process began, in unix seconds.",
        ({}, PROCESS_STARTED))
    add("process_cpu_seconds_total", "counter", "Processor time of the process.",
        ({}, time.process_time()))
    return ("\n".join(lines) + "\n").encode()


def escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


METRICS = [
    ("gltch_rounds_total", "counter", "version", "Rounds committed."),
    ("gltch_steps_total", "counter", "step", "Steps made."),
    ("gltch_characters_total", "counter", "tokens", "Characters trained on in counted updates."),
    ("gltch_training_seconds_total", "counter", "seconds", "Time spent in rounds."),
    ("gltch_received_bytes_total", "counter", "bytes_up", "Bytes from peers."),
    ("gltch_sent_bytes_total", "counter", "bytes_down", "Bytes to peers."),
    ("gltch_train_loss_nats", "gauge", "loss", "Training loss of the last round."),
    ("gltch_validation_loss_nats", "gauge", "val_loss", "Validation loss, latest."),
    ("gltch_characters_per_second", "gauge", "speed", "Characters counted per second, lately."),
    ("gltch_flops", "gauge", "flops", "Floating point operations per second, lately."),
]
STATES = {"joining", "waiting", "ready", "training", "uploading", "delivered", "lagging"}
PROCESS_STARTED = time.time()  # give or take what loading PyTorch took
