"""Coordinators and peers as real processes, and a peer that does exactly what a test says."""
import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import deque

import forks
import pytest
import torch
from builders import make_token
from conftest import ENVIRONMENT, PROGRAM

from gltch_2_7m import Config
from hive.journal import Journal
from hive.learning.codec import encode
from hive.session import protocol
from hive.session.job import parameters_of

pytest.importorskip("websockets")
connect = pytest.importorskip("websockets.sync.client").connect

HIVE = PROGRAM.parent / "hive"
TINY = ("--size", "1m", "--batch-size", "2", "--dropout", "0", "--warmup", "2",
        "--inner-steps", "1")
ON_CPU = ("--device", "cpu", "--dtype", "fp32")
LIMIT = 120  # seconds; only a broken program takes so long

# --------------------------------------------------------------------------------------------------
# Processes and their words
# --------------------------------------------------------------------------------------------------

def until(condition, what):
    """Wait for a condition and return what it gave, by asking again and again: only for what
    nothing announces, such as the insides of a server. What a program says, `hears` waits for;
    what a hive does, `Coordinator.until`."""
    deadline = time.monotonic() + LIMIT
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.05)


def free_ports(count):
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(socket.create_server(("127.0.0.1", 0)))
                     for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def begin(command, folder, environment, output, nice):
    """Start a Python program; its words go into a pipe if there is no file for them."""
    if forks.POSSIBLE and command[0].endswith(".py"):
        return forks.Fork(command, folder, environment, output, nice)
    last = ["nice", "-n", str(nice)] if nice and os.name == "posix" else []
    return subprocess.Popen(
        [*last, sys.executable, *command], cwd=folder, stdin=subprocess.DEVNULL,
        stdout=output or subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)


class Program:
    """A process whose words are heard. Its cache is its own: it stands for a machine. With a `log`
    it writes them into this file, on a disk that the test may fill. One that `yields` gets what
    others leave of the processor: it may train for ever beside other tests."""

    def __init__(self, folder, name, *command, machine=None, environment=None, log=None,
                 yields=False):
        self.folder, self.name = folder, name
        self.words, self.silent, self.heard = b"", False, threading.Condition()
        settings = {**os.environ, **ENVIRONMENT, "HIVE_KEY": None, **(environment or {}),
                    "XDG_CACHE_HOME": str(folder / "machines" / (machine or name))}
        given = {name: value for name, value in settings.items() if value is not None}
        with contextlib.ExitStack() as files:
            output = files.enter_context(open(log, "ab")) if log else None
            self.process = begin([str(word) for word in command], str(folder), given, output,
                                 19 if yields else 0)
        self.listener = threading.Thread(target=self.listen, daemon=True, args=[
            self.written(log) if log else self.spoken()])
        self.listener.start()

    def spoken(self):
        with self.process.stdout as pipe:
            yield from iter(lambda: os.read(pipe.fileno(), 1 << 16), b"")

    def written(self, log):
        """What comes into a file, which announces nothing."""
        with open(log, "rb") as file:
            over = False
            while not over:
                over = self.process.poll() is not None
                yield file.read()
                time.sleep(0.05)

    def listen(self, words):
        for more in words:
            with self.heard:
                self.words += more
                self.heard.notify_all()
        with self.heard:
            self.silent = True
            self.heard.notify_all()

    def said(self):
        return self.words.decode("utf-8", "replace")

    def hears(self, *texts, times=1, or_end=False):
        """Wait until it has said one of these that many times, or, if it may, has ended."""
        def there():
            return max(map(self.said().count, texts)) >= times

        with self.heard:
            self.heard.wait_for(lambda: there() or self.silent, LIMIT)
        if not (there() or or_end and self.silent):
            pytest.fail(f"{self.name} {'ended and ' * self.silent}never said {' or '.join(texts)!r}"
                        f":\n{self.said()}", pytrace=False)

    def end(self):
        """Exit status, once it is over by itself."""
        try:
            status = self.process.wait(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.name} does not end:\n{self.said()}", pytrace=False)
        self.listener.join(LIMIT)  # until its last word
        return status

    def kill(self):
        self.process.kill()
        self.process.wait(timeout=LIMIT)
        self.listener.join(10)  # its children may hold the pipe open for longer

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        return self.end()


class Coordinator(Program):
    """A coordinator, once it listens. Unless a test names another way to synchronize, a round is of
    all weights and peers wait for it: what comes of it is then known."""

    def __init__(self, folder, *options, run="hive", **settings):
        if "--sync" not in options:
            options = "--sync", "diloco", *options
        super().__init__(folder, f"server-{run}", HIVE / "server.py", "--name", run, *options,
                         **settings)
        self.hears("--name my-node")
        lines = self.said().splitlines()
        # The command it printed; a peer that was waiting may already have joined.
        self.join = next(line for line in lines if "--name my-node" in line).split()
        self.port = int(self.join[self.join.index("--server") + 1].rsplit(":", 1)[1])
        self.page = int(next(line for line in lines if "dashboard" in line).rsplit(":", 1)[1])
        self.key = self.join[self.join.index("--key") + 1] if "--key" in self.join else ""
        self.address = f"ws://localhost:{self.port}"
        self.run = folder / "runs" / run

    def ask(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.page, timeout=LIMIT)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def state(self):
        return json.loads(self.ask("/api/state")[2])

    def until(self, condition, what=""):
        """Wait for a condition and return what it gave; it is looked at whenever something happens
        in the hive."""
        return at_events(self.page, condition, lambda: f"{what}\n{self.said()}")

    def reaches(self, version):
        self.until(lambda: self.state()["version"] >= version, f"version {version} never came")

    def joined(self, name):
        return self.until(lambda: self.member(name), f"{name} never came")

    def left(self, name):
        self.until(lambda: not self.member(name), f"{name} never left")

    def goes_on(self):
        self.reaches(self.state()["version"] + 1)

    def member(self, name):
        """What the dashboard knows of a connected peer, None when it is not there."""
        return next((one for one in self.state()["peers"] if one["name"] == name), None)

    def journal(self):
        return contextlib.closing(Journal(self.run, read_only=True))

    def contributor(self, name):
        with self.journal() as journal:
            rows = [row for row in journal.contributors() if row["name"] == name]
        assert len(rows) == 1, rows
        return rows[0]

    def contributions(self, number):
        """(name, verdict, tokens, reason) of a round, by name."""
        with contextlib.closing(sqlite3.connect(str(self.run / "journal.db"))) as db:
            return sorted(db.execute("SELECT name, verdict, tokens, reason FROM contributions "
                                     "WHERE number = ?", (number,)).fetchall())

    def counted(self, number):
        return [name for name, verdict, *_ in self.contributions(number) if verdict == "counted"]


class Place:
    """A folder for one test, or for several that share a hive. In the end nothing is left. With
    `logs` the words of its coordinators go into files there."""

    def __init__(self, folder, text, logs=False):
        self.folder, self.text, self.logs = folder, text, logs
        self.programs, self.clients = [], []

    def coordinator(self, *options, **settings):
        ports = () if "--port" in options else ("--port", "0", "--dashboard-port", "0")
        log = self.folder / "server.log" if self.logs else None
        self.programs.append(Coordinator(self.folder, "--data", self.text, *TINY, *ports,
                                         *options, log=log, **settings))
        return self.programs[-1]

    def peer(self, hive, name, *options, **settings):
        self.programs.append(Program(
            self.folder, name, HIVE / "peer.py", "--server", hive.address, "--name",
            name, *ON_CPU, *options, **settings))
        return self.programs[-1]

    def program(self, name, *command, **settings):
        self.programs.append(Program(self.folder, name, *command, **settings))
        return self.programs[-1]

    def paste(self, command, *options, name):
        """Start what the coordinator printed, in the folder where a clone would be."""
        python, *words = command
        assert python == "python"
        words[words.index("hive/peer.py")] = HIVE / "peer.py"
        words[words.index("my-node")] = name
        self.programs.append(Program(self.folder, name, *words, *options))
        return self.programs[-1]

    def client(self, hive, name, **hello):
        self.clients.append(Client(hive, name, **hello))
        return self.clients[-1]

    def pair(self, hive, *names):
        """Clients that have the same task."""
        both = [self.client(hive, name).enter() for name in names]
        for client in both:
            client.ready()
        for client in both:
            client.hear("train")
        return both

    def clean(self):
        for client in self.clients:
            client.vanish()
        for program in self.programs:
            program.kill()
        for program in self.programs:
            assert "Traceback" not in program.said(), program.said()


# --------------------------------------------------------------------------------------------------
# A peer that does exactly what a test says
# --------------------------------------------------------------------------------------------------

def open_socket(port, path="", **settings):
    """A WebSocket past any proxy."""
    return connect(f"ws://localhost:{port}{path}", compression=None, **settings,
                   sock=socket.create_connection(("127.0.0.1", port)))


def at_events(page, condition, what):
    """Look at a condition whenever the dashboard on this port tells of something, until it holds;
    returns what it gave. Once a second it tells what was measured."""
    from websockets.exceptions import ConnectionClosed
    deadline = time.monotonic() + LIMIT
    # Before websockets 14 a closing client waited for unread messages to be read.
    with open_socket(page, "/api/events", close_timeout=0.1) as events:
        while True:
            value = condition()
            if value:
                return value
            try:
                events.recv(timeout=max(0.0, deadline - time.monotonic()))
            except (TimeoutError, ConnectionClosed) as error:
                pytest.fail(f"{error!r}: {what()}", pytrace=False)


class Client:
    """Speaks the protocol word by word, also when it lies."""

    def __init__(self, hive, name="client", *, key="", token=None, shows=None, process=None,
                 **hello):
        self.closing, self.later = contextlib.ExitStack(), deque()
        self.socket = self.closing.enter_context(open_socket(hive.port))
        self.name, self.process = name, process or make_token()
        challenge, nonce = self.hear("challenge"), make_token()
        self.token = token
        if token:
            shows = protocol.possession(protocol.name_of(token.encode()), challenge["nonce"], nonce)
        self.hello = {
            "protocol": protocol.VERSION, "nonce": nonce, "name": name, "device": "a test",
            "kind": "cpu", "proof": protocol.proof(key, "peer", challenge["nonce"], nonce),
            "process": self.process, "token": shows, "text": None, **hello}
        self.say("hello", **self.hello)

    def enter(self):
        """Get in, and learn which weights are the newest."""
        welcome = self.hear("welcome")
        self.identity, self.token = welcome["peer"], welcome["token"] or self.token
        self.parameters = parameters_of(Config(**welcome["job"]["config"]))
        self.say("ready", version=0, weights=None, batch_size=2)
        self.hold(self.hear("version"))
        return self

    def hold(self, said):
        self.version, self.weights = said["version"], said["weights"]

    def say(self, kind, /, **values):
        self.socket.send(protocol.pack(kind, **values))

    def hear(self, *kinds):
        """The next message of these kinds; others wait until they are asked for."""
        for said in self.later:
            if said["type"] in kinds:
                self.later.remove(said)
                return said
        while True:
            message = self.socket.recv(timeout=LIMIT)
            said = {"type": "chunk", "content": message} if isinstance(message, bytes) else (
                protocol.unpack(message))
            if said["type"] in kinds:
                return said
            assert said["type"] != "refused", said
            self.later.append(said)

    def ready(self):
        self.say("ready", version=self.version, weights=self.weights, batch_size=2)

    def start(self):
        """Get a task, from the newest weights."""
        while True:
            self.ready()
            said = self.hear("train", "commit")
            if said["type"] == "train":
                return
            self.hold(said)

    def update(self, size=1e-4):
        return encode("q4", size * torch.randn(self.parameters))

    def offer(self, update, **changes):
        self.say("offer", **{
            "version": self.version, "base": changes.get("version", self.version),
            "weights": self.weights, "codec": "q4", "steps": 1,
            "batch_size": 1, "follows": False,
            "update": protocol.name_of(update), "bytes": len(update), "tokens": 256, "loss": 3.5,
            "seconds": 0.5, **changes})
        return self.hear("send", "verdict", "refused")

    def deliver(self, update, **changes):
        """Offer and upload; returns the last word on it."""
        said = self.offer(update, **changes)
        if said["type"] != "send":
            return said
        for chunk in protocol.chunks(said["blob"], update, said["offset"]):
            self.socket.send(chunk)
        return self.hear("verdict", "refused")

    def begin(self, hive, update):
        """Upload the first chunk and no more."""
        assert self.offer(update)["offset"] == 0
        self.socket.send(next(protocol.chunks(protocol.name_of(update), update)))
        hive.until(lambda: hive.member(self.name)["bytes_up"] > protocol.CHUNK_BYTES,
                   "no chunk came")

    def fetch(self, blob):
        self.say("fetch", blob=blob, offset=0)
        size, content = self.hear("blob")["bytes"], b""
        while len(content) < size:
            content += self.hear("chunk")["content"][protocol.CHUNK_HEADER.size:]
        return content

    def vanish(self):
        """The end of a process that was killed: no word, no closing handshake."""
        with contextlib.suppress(OSError):
            self.socket.socket.shutdown(socket.SHUT_RDWR)
        self.closing.close()

    def train_on(self):
        """Contribute to one round after the other, until the connection ends."""
        from websockets.exceptions import ConnectionClosed
        update = self.update()
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.ready()
                said = self.hear("train", "commit")
                if said["type"] == "train":
                    self.deliver(update)
                    said = self.hear("commit")
                self.hold(said)
                time.sleep(0.4)  # others should keep up, also on a busy machine
