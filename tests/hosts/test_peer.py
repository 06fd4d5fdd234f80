"""The peer against what answers it: false coordinators, floods, proxies, certificates."""
import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from builders import make_job as make
from builders import make_token
from hive_processes import LIMIT, ON_CPU, free_ports
from websockets.sync.server import serve

from gltch_2_7m import GLTCH, Runtime, TrainConfig, parameters_of
from hive import machine, peer
from hive.learning.codec import encode, flatten, to_bytes
from hive.learning.sync import SYNCS
from hive.learning.worker import Worker
from hive.network import dial
from hive.network.uplink import Uplink
from hive.network.words import shown
from hive.session import peer_session, protocol

TEXT = "To be, or not to be, that is the question. " * 40
ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b2J\x1bc\r\n\u202egnorw\u200b\x00 \ud800"
HARMLESS = re.compile(r"[\x20-\x7e\n━─]*")


class FalseCoordinator:
    """Listens like a coordinator; what it says on each connection is the test's business."""

    def __init__(self, converse, **settings):
        self.visits = []  # when
        self.heard = []  # every hello

        def serve_one(connection):
            self.visits.append(time.monotonic())
            with contextlib.suppress(Exception):  # the peer may go at any time
                converse(self, connection)

        self.server = serve(serve_one, "127.0.0.1", 0, compression=None, **settings)
        self.port = self.server.socket.getsockname()[1]
        self.address = f"ws://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def greet(self, connection, **challenge):
        """The challenge, and the hello that answers it."""
        self.nonce = make_token()
        connection.send(protocol.pack("challenge", **{
            "protocol": protocol.VERSION, "hive": "false", "nonce": self.nonce, "locked": False,
            **challenge}))
        self.heard.append(protocol.unpack(connection.recv(60)))
        return self.heard[-1]

    def welcome(self, connection, job, **values):
        """Take a peer in, give it the text, and hear which weights it has."""
        hello = self.greet(connection)
        connection.send(protocol.pack("welcome", **{
            "proof": protocol.proof("", "coordinator", self.nonce, hello["nonce"]), "peer": "p",
            "name": hello["name"], "token": make_token(), "counted": [],
            "job": job.as_json(), **values}))
        return hello

    def hear(self, connection, *kinds):
        while True:
            message = connection.recv(60)
            said = protocol.unpack(message) if isinstance(message, str) else {"type": "chunk"}
            if said["type"] in kinds:
                return said

    def give(self, connection, content):
        blob = self.hear(connection, "fetch")["blob"]
        connection.send(protocol.pack("blob", blob=blob, bytes=len(content), offset=0))
        for chunk in protocol.chunks(blob, content):
            connection.send(chunk)

    def prepare(self, connection, job, last_word=True):
        """All the way to a peer that waits for a task; the name of its weights."""
        self.welcome(connection, job)
        self.give(connection, TEXT.encode())
        self.hear(connection, "ready")
        torch.manual_seed(1)
        weights = to_bytes(flatten(GLTCH(job.config)))
        name = protocol.name_of(weights)
        connection.send(protocol.pack("version", version=0, weights=name, step=0, counted=[]))
        self.give(connection, weights)
        if last_word:
            self.hear(connection, "ready")
        return name

    def put_to_work(self, connection, job, **task):
        """All the way to a peer that trains."""
        name = self.prepare(connection, job)
        connection.send(protocol.pack("train", **{
            "version": 0, "weights": name, "step": 0, "total": None, "quota": 10**6,
            "seconds": 1e6, "window": 0, **task}))
        self.hear(connection, "progress")


@pytest.fixture
def false():
    """Start false coordinators; they stop when the test ends."""
    servers = []

    def start(converse, **settings):
        servers.append(FalseCoordinator(converse, **settings))
        return servers[-1]

    yield start
    for one in servers:
        one.server.shutdown()


STATUS = {"version": 0, "peers": 1, "loss": None, "val_loss": None}


# --- What is shown --------------------------------------------------------------------------------


@pytest.mark.parametrize("text, clean", [
    ("plain words, naïve 漢字 🙂", "plain words, naïve 漢字 🙂"),
    ("a\x1b[31mb\x1b[0mc", "abc"), ("a\x1b]0;title\x07b", "ab"), ("a\x1b]8;;http://x\x1b\\b", "ab"),
    ("a\x9b2Jb", "ab"), ("a\x1bcb", "ab"), ("a\x1b", "a"), ("", ""), ("\ud800x", "x"),
    ("two\r\nlines\u2028here", "two lines here"), ("a\u202eb\u2066c\u200bd\ufeff", "abcd"),
    ("a\x00\x07\x7f\x85b", "a b"),
    ("x" * 300, "x" * 197 + "..."), ("\x1b[1m" * 10**6, "")])
def test_what_is_shown_is_one_short_line_that_no_terminal_obeys(text, clean):
    assert shown(text) == clean


def refusing(self, connection):
    self.greet(connection)
    connection.send(protocol.pack("refused", reason=ESCAPES * 9))


def closing(self, connection):
    self.greet(connection)
    connection.close(1008, "\x1b[31mred\x9b2J\x1bc\u202e")


def describing(**changes):
    def converse(self, connection):
        self.welcome(connection, make(TEXT, **changes))
        with contextlib.suppress(TimeoutError):
            self.give(connection, TEXT.encode())
        self.hear(connection, "ready")
        connection.send(protocol.pack("finished", reason="that was all"))
    return converse


def naming(self, connection):
    self.welcome(connection, make(TEXT), name=ESCAPES[:32])
    self.give(connection, TEXT.encode())
    self.hear(connection, "ready")
    connection.send(protocol.pack("finished", reason=ESCAPES))


def unknown_fields(self, connection):
    job = make(TEXT).as_json()
    job["config"][ESCAPES] = 1
    self.welcome(connection, SimpleNamespace(as_json=lambda: job))


def judging(self, connection):
    self.put_to_work(connection, make(TEXT), quota=40)
    self.hear(connection, "offer")
    connection.send(protocol.pack("verdict", version=0, verdict="rejected", reason=ESCAPES))
    self.hear(connection, "ready")
    connection.send(protocol.pack("refused", reason=ESCAPES))
    connection.close(1008, "\x1b[31mred")


def calling_itself(self, connection):
    self.greet(connection, hive="\ud800\x1b[31m")
    connection.send(protocol.pack("refused", reason="no " + ESCAPES))


PLACES = {"refused": refusing, "close": closing, "size": describing(size=ESCAPES),
          "mode": describing(mode=ESCAPES), "name and finished": naming, "fields": unknown_fields,
          "hive": calling_itself, "verdict, refused and close later": judging}


@pytest.mark.parametrize("where", PLACES)
def test_nothing_that_a_coordinator_says_reaches_the_terminal_as_it_came(here, false, where):
    hive = false(PLACES[where])
    program = here.peer(hive, "guest", environment={"NO_COLOR": "1"})
    program.hears("waiting", or_end=True)
    said = program.said()
    assert HARMLESS.fullmatch(said), ascii(said)
    assert hive.visits and len(said) < 5000


class Answering:
    """Answers every connection with the same bytes, as a proxy or a web server would."""

    def __init__(self, *answers):
        self.listener, self.times = socket.create_server(("127.0.0.1", 0)), []
        self.address = f"ws://127.0.0.1:{self.listener.getsockname()[1]}"
        self.answers = list(answers)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.times.append(time.monotonic())
                with contextlib.suppress(OSError), connection:
                    connection.recv(4096)
                    connection.sendall(self.answers[min(len(self.times), len(self.answers)) - 1])
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(4096)


def http(status, *headers):
    lines = [f"HTTP/1.1 {status}", "Content-Length: 0", *headers]
    return "".join(line + "\r\n" for line in lines).encode("latin-1") + b"\r\n"


@pytest.fixture
def answering():
    servers = []

    def start(*answers):
        servers.append(Answering(*answers))
        return servers[-1]

    yield start
    for one in servers:
        one.listener.close()


@pytest.mark.parametrize("answer", [
    http("404 \x1b[31mred\x9b2J"), http("302 Found", "Location: ws://\x1b[31mred\x9b2J"),
    http("101 Switching", "Upgrade: \x1b[31mred\x9b2J"), b"\x1b[31mred\x9b2J\x1bc\r\n\r\n",
    http("503 Busy", "Retry-After: \x1b[31m")])
def test_nothing_that_a_web_server_answers_reaches_the_terminal_as_it_came(
        here, answering, answer):
    program = here.peer(answering(answer), "guest")
    program.hears("waiting", or_end=True)
    assert HARMLESS.fullmatch(program.said()), ascii(program.said())


@pytest.mark.process
@pytest.mark.parametrize("program", ["peer.py", "server.py"])
def test_the_first_line_comes_before_pytorch_is_loaded_but_not_before_the_help(
        program, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('PyTorch was asked for')")
    script = str(Path(peer.__file__).with_name(program))
    path = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for arguments, said in (([], "loading   PyTorch\n"), (["--help"], "")):
        done = subprocess.run([sys.executable, script, *arguments], env=path,
                              stderr=subprocess.PIPE, timeout=LIMIT, text=True)
        assert done.stderr == said + "PyTorch was asked for\n"


def test_before_a_first_step_the_line_shows_no_loss(false, waits, capsys):
    def wait(self, connection):
        self.prepare(connection, make(TEXT))
        connection.send(protocol.pack("status", **{**STATUS, "peers": 2}))
        connection.send(protocol.pack("finished", reason="that was all"))

    assert join(false(wait)) == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if "in round 1 " in line)
    assert re.fullmatch(r"in round 1  step 0  0 chars/s  peers \d  up .* down .*", line)


def test_the_reason_is_heard_when_it_came_before_the_line_broke(
        false, waits, monkeypatch, capsys):
    """The coordinator says why it closes, while the peer still has something to send."""
    said, send = threading.Event(), Uplink.send

    def refuse(self, connection):
        if len(self.visits) == 1:
            self.prepare(connection, make(TEXT), last_word=False)
        connection.send(protocol.pack("status", **STATUS))
        connection.send(protocol.pack("refused", reason="This hive is for friends."))
        said.set()
        connection.recv(60)

    def fail(uplink, message):
        if '"ready"' in message and '"weights":null' not in message:
            said.wait(60)
            uplink.error = OSError("broken pipe")
        else:
            send(uplink, message)

    monkeypatch.setattr(Uplink, "send", fail)
    join(false(refuse))
    assert "(This hive is for friends.); trying again" in capsys.readouterr().err


@pytest.mark.parametrize("during, answer", [
    ("a pause", "\nLeaving; a second"),
    ("a step", "\nFinishing this step and leaving; a second")])
def test_ctrl_c_is_answered_with_what_it_waits_for(false, capfd, monkeypatch, during, answer):
    training, step = threading.Event(), Worker.step

    def interrupted(worker):
        if training.is_set():
            signal.raise_signal(signal.SIGINT)
        return step(worker)

    def converse(self, connection):
        if during == "a step":
            self.put_to_work(connection, make(TEXT))
            training.set()
        else:
            self.prepare(connection, make(TEXT))
            signal.raise_signal(signal.SIGINT)
        self.hear(connection, "goodbye")

    monkeypatch.setattr(Worker, "step", interrupted)
    assert join(false(converse)) == 130
    said = capfd.readouterr().err
    assert answer in said and said.endswith("Left the hive.\n")


# --- Waiting --------------------------------------------------------------------------------------


@pytest.fixture
def waits(monkeypatch):
    """The peer's pauses, which end at once; the list says how long they would have been."""
    pauses = []

    def sleep(self, seconds):
        pauses.append(seconds)
        if len(pauses) >= 8:
            raise peer.Stopped

    monkeypatch.setattr(peer.Peer, "sleep", sleep)
    monkeypatch.setattr(peer.random, "uniform", lambda low, high: 1.0)
    return pauses


def join(server, *options):
    return peer.main(["--server", server.address, *ON_CPU, "--name", "guest", *options])


WAITS = [0.5, 0.5, 0.5, 0.5, 0.5, 0.625, 0.78125, 0.9765625]  # a quarter of all before


def test_a_coordinator_that_drops_its_peers_at_once_is_asked_less_and_less(false, waits):
    def drop(self, connection):
        self.welcome(connection, make(TEXT))
        if len(self.visits) == 1:
            self.give(connection, TEXT.encode())
        self.hear(connection, "ready")
        connection.send(protocol.pack("status", **STATUS))

    assert join(false(drop)) == 128
    assert waits == WAITS


def test_after_a_connection_that_led_to_work_the_peer_is_back_soon(false, waits):
    def work_then_drop(self, connection):
        if len(self.visits) % 3:
            return
        hello = self.welcome(connection, make(TEXT))
        assert hello["name"] == "guest"
        if len(self.visits) == 3:
            self.give(connection, TEXT.encode())
        self.hear(connection, "ready")
        connection.send(protocol.pack("version", version=0, weights="0" * 64, step=0, counted=[]))
        self.hear(connection, "fetch")

    assert join(false(work_then_drop)) == 128
    assert waits == [0.5] * 8


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 530])
def test_who_is_asked_to_come_later_comes_later(answering, waits, status):
    assert join(answering(http(f"{status} Later"))) == 128
    assert waits == WAITS


@pytest.mark.parametrize("asked, pause", [("7", 7), ("99999999", 300), ("0", 0.5), ("-7", 0.5),
                                          ("Wed, 21 Oct 2099 07:28:00 GMT", 0.5), ("9" * 400, 0.5)])
def test_who_says_how_long_to_wait_is_believed_within_reason(answering, waits, asked, pause):
    assert join(answering(http("429 Too Many Requests", f"Retry-After: {asked}"))) == 128
    assert waits[0] == pause


@pytest.mark.parametrize("status", [400, 401, 403, 404, 426])
def test_what_is_no_hive_is_not_asked_again(answering, waits, capsys, status):
    server = answering(http(f"{status} No"))
    assert join(server) == 2 and len(server.times) == 1
    assert f"is no hive (HTTP {status}): peers join at" in capsys.readouterr().err


def test_a_proxy_that_forgets_a_restarting_coordinator_for_a_moment_is_asked_again(
        false, waits, capsys):
    def answer(connection, request):
        if hive.visits:
            return connection.respond(404, "nothing here")

    hive = false(lambda self, connection: (
        self.welcome(connection, make(TEXT)), self.give(connection, TEXT.encode()),
        self.hear(connection, "ready")), process_request=answer)
    assert join(hive) == 128
    assert "has no place for this peer now (HTTP 404); trying again" in capsys.readouterr().err


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(answering, false, waits, capsys, status):
    elsewhere = false(refusing)
    server = answering(http(f"{status} Moved", f"Location: {elsewhere.address}/hive"))
    assert join(server) == 2
    assert not elsewhere.visits and len(server.times) == 1
    said = capsys.readouterr().err
    assert f"sends its callers on to '{elsewhere.address}/hive'" in said
    assert "give the coordinator's own address" in said


# --- Floods ---------------------------------------------------------------------------------------


def memory_of(process):
    with open(f"/proc/{process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
STATE = protocol.pack("status", **STATUS)
FLOODS = {
    "status": STATE,
    "commit": protocol.pack("commit", version=9, weights="0" * 64, codec="q4", update="0" * 64,
                            bytes=10, step=1, counted=False, follows=False),
    "verdict": protocol.pack("verdict", version=9, verdict="late", reason="x" * 1000),
    "train": protocol.pack("train", version=9, weights="0" * 64, step=0, total=None, quota=1,
                           seconds=1, window=0),
    "welcome": protocol.pack("welcome", proof="0" * 64, peer="", name="", token=None, counted=[],
                             job={"x": "y" * 10**6}),
}


@linux
@pytest.mark.parametrize("when", ["training", "fetching"])
@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_takes_no_memory(here, false, kind, when):
    flooded, count = threading.Event(), 64 if kind == "welcome" else 30_000
    frames = 1000 * (b"\x81" + bytes([len(STATE)]) + STATE.encode())  # quicker than one by one

    def flood(self, connection):
        if len(self.visits) > 1:
            return
        if when == "training":
            self.put_to_work(connection, make(TEXT))
        else:
            self.welcome(connection, make(TEXT))
            self.hear(connection, "fetch")
        self.before = memory_of(program.process)
        try:
            for _ in range(150 if kind == "status" else 0):
                connection.socket.sendall(frames)
            for _ in range(count):
                connection.send(FLOODS[kind])
        finally:
            flooded.set()

    hive = false(flood)
    program = here.peer(hive, "guest")
    assert flooded.wait(100), program.said()
    assert program.process.poll() is None or when == "fetching", program.said()
    if program.process.poll() is None:
        assert memory_of(program.process) - hive.before < 40e6  # 813 MB without a bound
    if kind != "status" and when == "training":
        program.hears("waiting")  # it was too much, and said so


def test_a_message_of_endless_empty_pieces_ends_the_connection(here, false):
    def fragments(self, connection):
        if len(self.visits) > 1:
            return
        self.greet(connection)
        connection.socket.sendall(b"\x01\x00" + b"\x00\x00" * 2 * dial.FRAGMENTS)
        connection.recv(60)

    program = here.peer(false(fragments), "guest")
    program.hears("waiting")
    assert "gone silent" not in program.said()  # it was the number of pieces


def test_who_takes_a_connection_and_says_nothing_is_given_up(waits, monkeypatch, capsys):
    monkeypatch.setattr(dial, "OPEN_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert join(SimpleNamespace(address=f"ws://127.0.0.1:{mute.getsockname()[1]}")) == 128
    assert "timed out" in capsys.readouterr().err and len(waits) == 8


def test_a_coordinator_that_falls_silent_is_given_up(false, waits, monkeypatch, capsys):
    """Its machine still answers pings, or seems to."""
    monkeypatch.setattr(peer_session, "SILENCE_SECONDS", 0.3)
    assert join(false(lambda self, connection: connection.recv(60))) == 128
    assert "the coordinator has gone silent" in capsys.readouterr().err


def test_weights_that_break_every_training_are_one_sentence_after_a_few_times(false, capsys):
    def spoil(self, connection):
        job = make(TEXT)
        weights = to_bytes(torch.full_like(flatten(GLTCH(job.config)), float("nan")))
        name = protocol.name_of(weights)
        self.welcome(connection, job)
        self.give(connection, TEXT.encode())
        self.hear(connection, "ready")
        connection.send(protocol.pack("version", version=0, weights=name, step=0, counted=[]))
        self.give(connection, weights)
        while self.hear(connection, "ready"):
            connection.send(protocol.pack("train", version=0, weights=name, step=0, total=None,
                                          quota=5, seconds=60.0, window=0))

    assert join(false(spoil)) == 2
    said = capsys.readouterr().err
    assert said.count("Starting again from the hive's weights") == peer_session.MOST_FAILURES - 1
    assert "peer.py: error: The loss became nan" in said


def test_rounds_that_end_during_one_step_are_taken_one_after_the_other(false, capsys):
    """Their contents come unasked, while the update before is not applied yet."""
    def hurry(self, connection):
        job = make(TEXT, sync=replace(SYNCS["streaming"], fragments=1, in_flight=1))
        name = self.prepare(connection, job)
        connection.send(protocol.pack("train", version=0, weights=name, step=0, total=None,
                                      quota=10**6, seconds=1e6, window=0))
        self.hear(connection, "progress")
        update = encode("q4", torch.zeros(parameters_of(job.config)))
        blob, size = protocol.name_of(update), len(update)
        for version in range(1, 9) if len(self.visits) == 1 else ():
            connection.send(protocol.pack(
                "commit", version=version, weights=name, codec="q4", update=blob, bytes=size,
                step=version, counted=False, follows=True))
            connection.send(protocol.pack("blob", blob=blob, bytes=size, offset=0))
            for chunk in protocol.chunks(blob, update):
                connection.send(chunk)
        connection.send(protocol.pack("finished", reason="eight rounds are made"))
        connection.recv(60)

    assert join(false(hurry)) == 0
    said = capsys.readouterr().err
    assert "eight rounds are made" in said and "trying again" not in said


# --- Several processes ----------------------------------------------------------------------------


def test_a_peer_of_two_processes_survives_a_connection_that_breaks_while_it_trains(here, false):
    again = threading.Event()

    def break_off(self, connection):
        if len(self.visits) == 1:
            self.put_to_work(connection, make(TEXT))
            connection.socket.shutdown(socket.SHUT_RDWR)
            return
        self.welcome(connection, make(TEXT), token=None)
        self.hear(connection, "offer")  # what it had trained until then
        again.set()
        connection.send(protocol.pack("finished", reason="that was all"))
        connection.recv(60)

    hive, port = false(break_off), free_ports(1)[0]
    crew = [here.peer(hive, "crew", environment={
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
        "RANK": str(rank), "LOCAL_RANK": str(rank), "USE_LIBUV": "0"}) for rank in range(2)]
    assert again.wait(100), crew[0].said()
    assert [one.end() for one in crew] == [0, 0], crew[0].said()


# --- Memory ---------------------------------------------------------------------------------------

CPU = Runtime(torch.device("cpu"))
BIG = make(TEXT, config=replace(make(TEXT).config, n_layer=200, n_embd=512, n_head=8,
                                block_size=512))


def test_a_job_larger_than_the_free_memory_is_refused_before_anything_is_fetched(
        false, monkeypatch, capsys):
    asked = []

    def offer(self, connection):
        self.welcome(connection, BIG)
        asked.append(self.hear(connection, "fetch"))

    monkeypatch.setattr(machine, "free_memory", lambda device: 2 * 10**9)
    assert join(false(offer)) == 2
    said = capsys.readouterr().err
    need = machine.size(sum(machine.memory_of(BIG, BIG.recipe, CPU)))
    assert f"takes about {need} of memory, and 2.0 GB are free: use a smaller --batch-size" in said
    assert "--low-memory, or another machine" in said and not asked


def test_where_nobody_can_tell_how_much_memory_is_free_none_is_missed(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda device: None)
    machine.require_memory(BIG, BIG.recipe, CPU)


def test_the_options_that_the_sentence_names_help():
    at_once = TrainConfig(batch_size=64)
    full = machine.memory_of(BIG, at_once, CPU).training
    assert machine.memory_of(BIG, replace(at_once, batch_size=1), CPU).training < full
    assert machine.memory_of(BIG, replace(at_once, low_memory=True), CPU).training < full


def test_a_text_that_would_fill_the_memory_is_part_of_the_count():
    small = make(TEXT)
    large = replace(small, text_bytes=2**31)
    assert (machine.memory_of(large, large.recipe, CPU).holding
            - machine.memory_of(small, small.recipe, CPU).holding) >= 2 * (2**31 - small.text_bytes)


@linux
def test_the_free_memory_of_this_machine_is_known():
    assert 10**6 < machine.free_memory(torch.device("cpu")) < 10**15


# --- Identity -------------------------------------------------------------------------------------


def identity(job, name="guest", token=None):
    """Join by raw words; the welcome."""
    def converse(self, connection):
        self.welcome(connection, job, name=name, token=token or make_token())
    return converse


def test_the_session_token_never_travels_to_a_coordinator(false, waits):
    token = make_token()
    hive = false(identity(make(TEXT), token=token))
    assert join(hive) == 128
    first, *others = [hello["token"] for hello in hive.heard]
    assert first is None and len(others) >= 3 and len(set(others)) == len(others)
    assert token not in others and protocol.name_of(token.encode()) not in others


def test_a_peer_that_got_another_name_comes_back_under_that_name(here):
    """Two machines whose user types the same name; the second is killed and starts again."""
    hive = here.coordinator("--rounds", 100_000)
    here.peer(hive, "twin", machine="first")
    hive.joined("twin")
    second = here.peer(hive, "twin", machine="second")
    hive.joined("twin-2")
    who = hive.member("twin-2")["peer"]
    second.hears("joined")  # it has kept who it is
    second.kill()
    hive.left("twin-2")
    here.peer(hive, "twin", machine="second")
    hive.joined("twin-2")
    assert hive.member("twin-2")["peer"] == who


def test_a_recorded_hello_brings_nobody_back(here):
    hive = here.coordinator("--rounds", 100_000)
    first = here.client(hive, "ada").enter()
    first.vanish()
    hive.left("ada")
    back = here.client(hive, "ada", token=first.token, process=first.process).enter()
    assert back.identity == first.identity
    overheard = back.hello["token"]
    back.vanish()
    hive.left("ada")
    thief = here.client(hive, "ada", shows=overheard, process=first.process).enter()
    assert thief.identity != first.identity


# --- TLS ------------------------------------------------------------------------------------------


def test_a_peer_that_speaks_tls_to_a_coordinator_without_it_is_told_so(here, waits, capsys):
    hive = here.coordinator()
    assert join(SimpleNamespace(address=f"wss://localhost:{hive.port}")) == 128
    assert "nobody speaks TLS there, does the address begin with ws://?" in capsys.readouterr().err


@pytest.fixture(scope="module")
def certificate(processes, tmp_path_factory):
    """(certificate, key) for localhost, signed by itself."""
    if not shutil.which("openssl"):
        pytest.skip("makes its certificate with openssl, which is not here")
    folder = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout",
         "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost"], cwd=str(folder), capture_output=True)
    assert made.returncode == 0, made.stderr
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def secure(false, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    hive = false(describing(), ssl=context)
    hive.address = f"wss://localhost:{hive.port}"
    return hive


def test_a_certificate_of_ones_own_is_trusted_when_it_is_given(secure, certificate, capsys):
    assert join(secure, "--tls-ca", str(certificate[0])) == 0
    said = capsys.readouterr().err
    assert "finished  that was all" in said and "readable" not in said


def test_a_certificate_nobody_vouches_for_is_not_trusted(secure, capsys):
    assert join(secure) == 2
    said = capsys.readouterr().err
    assert "cannot be trusted (self" in said and "give it with --tls-ca FILE" in said
    assert not secure.heard


def test_a_certificate_for_another_name_is_not_trusted(secure, certificate, capsys):
    secure.address = secure.address.replace("localhost", "127.0.0.1")
    assert join(secure, "--tls-ca", str(certificate[0])) == 2
    assert "cannot be trusted (IP address mismatch" in capsys.readouterr().err


@pytest.mark.parametrize("server, content, sentence", [
    ("wss://localhost:1", None, "cannot be read: No such file"),
    ("wss://localhost:1", "", "holds no certificates"),
    ("wss://localhost:1", "BEGIN nothing", "holds no certificates"),
    ("ws://localhost:1", "", "--tls-ca is for an address that begins with wss://")])
def test_a_certificate_that_is_none_is_a_sentence(place, capsys, server, content, sentence):
    if content is not None:
        (place / "ca.pem").write_text(content)
    assert peer.main(["--server", server, "--tls-ca", "ca.pem", *ON_CPU]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("server, host", [
    ("ws://example.org:8765", "example.org"), ("ws://192.168.1.2:8765", "192.168.1.2"),
    ("ws://[2001:db8::1]:8765/hive", "2001:db8::1")])
def test_what_others_could_read_is_warned_of(server, host):
    assert f"travel to {host} readable" in dial.in_clear(server)
    assert "use wss://" in dial.in_clear(server)


@pytest.mark.parametrize("server", [
    "ws://localhost:8765", "ws://127.0.0.1:1", "ws://127.9.9.9", "ws://[::1]:8765",
    "ws://a.localhost", "wss://example.org/hive"])
def test_what_nobody_else_can_read_is_not_warned_of(server):
    assert dial.in_clear(server) == ""


def test_an_address_that_is_none_is_a_sentence(capsys):
    for server in ("ws://[::1", "ws://host:99999", "ws://", "ws://host:port"):
        assert peer.main(["--server", server, *ON_CPU]) == 2
        assert "): write it like ws://host:8765." in capsys.readouterr().err


@pytest.fixture
def nameless(monkeypatch):
    """Looking up a name that is not in digits fails, with this code, once the switch is on."""
    switch, look_up = SimpleNamespace(on=True, code=socket.EAI_NONAME), socket.getaddrinfo

    def fail(host, *arguments, **more):
        if switch.on and host[0].isalpha():
            raise socket.gaierror(switch.code, "what the system says")
        return look_up(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    for proxy in ("HTTPS_PROXY", "https_proxy"):  # which would be given the name
        monkeypatch.delenv(proxy, raising=False)
    return switch


def test_a_name_that_nobody_knows_is_one_sentence(nameless, waits, capsys):
    assert join(SimpleNamespace(address="ws://wrong-host:8765")) == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert said.endswith("error: Nobody knows the name in ws://wrong-host:8765: "
                         "check how it is written, and that this machine is online.")
    assert waits == []


def test_where_names_cannot_be_looked_up_just_now_a_peer_says_so_and_goes_on(
        nameless, waits, capsys):
    nameless.code = socket.EAI_AGAIN
    assert join(SimpleNamespace(address="ws://wrong-host:8765")) == 128
    assert "its name cannot be looked up now: check" in capsys.readouterr().err
    assert waits == WAITS


def test_a_peer_that_was_in_the_hive_goes_on_when_its_network_knows_no_names(
        nameless, false, waits, capsys):
    def leave(self, connection):
        self.welcome(connection, make(TEXT))
        self.give(connection, TEXT.encode())
        self.hear(connection, "ready")
        nameless.on = True

    nameless.on = False
    port = false(leave).address.rpartition(":")[2]
    assert join(SimpleNamespace(address=f"ws://localhost:{port}")) == 128
    assert "waiting   Nobody knows the name in ws://localhost" in capsys.readouterr().err


def test_nobody_listens_there_is_a_sentence_and_the_peer_goes_on(waits, capsys):
    port, = free_ports(1)
    assert join(SimpleNamespace(address=f"ws://127.0.0.1:{port}")) == 128
    assert "is it running, and is the address right?" in capsys.readouterr().err
    assert waits == WAITS
