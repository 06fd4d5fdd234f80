"""The dashboard's port over real sockets: what it answers, to whom, and how much at a time."""
import asyncio
import base64
import concurrent.futures
import contextlib
import gc
import http.client
import json
import re
import socket
import threading
import time
from collections import Counter
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import urljoin, urlsplit

import pytest
from conftest import PROGRAM
from hive_processes import HIVE, LIMIT, open_socket, until

from gltch_2_7m import GltchError, require
from hive.dashboard import downloads as downloads_module
from hive.dashboard import web as web_module
from hive.dashboard.metrics import metrics
from hive.dashboard.peer_file import peer_file
from hive.dashboard.web import FILES, MOST_DOWNLOADS, MOST_PAGES, Snapshot, Web, pages
from hive.network import guest as guest_module
from hive.network.answers import HEADERS
from hive.network.door import Door
from hive.session.events import Events

CONTRACT = (PROGRAM.parent / "docs" / "api.md").read_text(encoding="utf-8")
STATE = {
    "mode": "hive", "unit": "round", "run": "first light", "size": "2.7m", "version": 3,
    "step": 40, "tokens": 8192, "seconds": 12.5, "bytes_up": 1000, "bytes_down": 2000,
    "loss": 2.5, "val_loss": None, "speed": 655.36, "flops": 1.5e9, "finished": "",
    "updates": {"counted": 7, "late": 2, "rejected": 1},
    "undone": [{"round": 2, "to": 1}], "set_aside": 3,
    "peers": [{"peer": "p1", "kind": "cuda", "state": "training", "aside": ""},
              {"peer": "p2", "kind": "tab", "state": "training",
               "aside": "its updates bring little"},
              {"peer": "p3", "kind": "tab", "state": "uploading", "aside": ""}]}
NEWEST = 12


class Facts:
    """A source of which a test knows everything. No weights are made while `gate` is closed."""

    def __init__(self, folder):
        self.folder, self.events = folder, Events("session", keep=50, clock=lambda: 7.5)
        self.gate, self.asked, self.made, self.bytes = threading.Event(), [], Counter(), 1000
        self.gate.set()

    def state(self):
        return {**STATE, "session": self.events.session, "seq": self.events.seq}

    def peers(self):
        return {"peers": STATE["peers"], "contributors": []}

    def history(self, first, last, points):
        self.asked.append((first, last, points))
        return {"first": first, "last": last, "every": 1, "loss": [float("nan"), 2.5]}

    def samples(self, limit):
        self.asked.append(limit)
        return {"samples": [{"round": 3, "step": 40, "val_loss": None, "text": "O, \0 é\n"}],
                "first": None}

    def round(self, number):
        require(number <= NEWEST, f"There is no round {number}.")
        return {"number": number}

    def snapshot(self, version):
        version = NEWEST if version is None else version
        require(version <= NEWEST, f"There is no round {version}.")

        def content():
            assert self.gate.wait(LIMIT)
            self.made[version] += 1
            return bytes([version]) * self.bytes

        return Snapshot(f"weights-{version}", content)


class Port:
    """A dashboard's port, open in a thread of its own until it is closed."""

    def __init__(self, source, names=(), peers=None, door=None, **settings):
        self.source, self.web = source, Web(source, names, peers, door, **settings)
        self.loop, opened = asyncio.new_event_loop(), threading.Event()
        self.thread = threading.Thread(
            target=lambda: self.loop.run_until_complete(self.show(opened)), daemon=True)
        self.thread.start()
        assert opened.wait(LIMIT)

    async def show(self, opened):
        self.over = asyncio.Event()
        async with pages(self.web, host="127.0.0.1", port=0) as self.number:
            opened.set()
            await self.over.wait()

    def close(self):
        self.source.gate.set()
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(LIMIT)
        assert not self.thread.is_alive(), "the port does not close"

    def add(self, kind, **values):
        """Something happens, in the event loop like everything else."""
        done = concurrent.futures.Future()

        def happen():
            self.source.events.add(kind, **values)
            done.set_result(self.source.events.seq)

        self.loop.call_soon_threadsafe(happen)
        return done.result(LIMIT)

    def ask(self, path, host="localhost", method="GET", **headers):
        """Status, headers and content. `host` None: the request names none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.number, timeout=LIMIT)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in {**({} if host is None else {"Host": host}), **headers}.items():
                connection.putheader(name.strip("_").replace("_", "-"), value)
            connection.endheaders()
            answer = connection.getresponse()
            return SimpleNamespace(status=answer.status, headers=answer.headers,
                                   content=answer.read())

    def json(self, path):
        answer = self.ask(path)
        assert answer.status == 200, answer.content
        assert answer.headers["Content-Type"] == "application/json"
        return parse(answer.content)

    def knock(self, path, host=None, **headers):
        """The answer to a request for a WebSocket."""
        return self.ask(path, host or f"localhost:{self.number}", **{
            **UPGRADE, "Sec_WebSocket_Key": base64.b64encode(bytes(16)).decode(), **headers})

    def listen(self, query="", **settings):
        return open_socket(self.number, "/api/events" + query, **settings)


UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}


def parse(content):
    """JSON as browsers read it."""
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")
    return json.loads(content.decode("utf-8") if isinstance(content, bytes) else content,
                      parse_constant=refuse)


def assert_refused(answer, status, *words):
    """One sentence as JSON, for a person."""
    assert answer.status == status, answer.content
    assert answer.headers["Content-Type"] == "application/json"
    told = parse(answer.content)
    assert list(told) == ["error"] and told["error"].endswith((".", "be."))
    for word in words:
        assert word in told["error"]


@pytest.fixture
def source(place):
    return Facts(place)


@pytest.fixture
def opened():
    ports = []

    def open_port(*arguments, **settings):
        ports.append(Port(*arguments, **settings))
        return ports[-1]

    yield open_port
    for port in ports:
        port.close()


@pytest.fixture
def port(opened, source):
    return opened(source)


# ---- What is asked for


def test_state_peers_rounds_and_health_are_what_the_source_says(port, source):
    assert port.json("/api/state") == source.state()
    assert port.json("/api/peers") == source.peers()
    assert port.json("/api/rounds/7") == {"number": 7}
    health = port.ask("/healthz")
    assert (health.status, health.content) == (200, b"ok\n")
    assert health.headers["Content-Type"].startswith("text/plain")


def test_history_is_asked_for_the_part_and_the_points_that_the_address_says(port, source):
    assert port.json("/api/history") == {"first": None, "last": None, "every": 1,
                                         "loss": [None, 2.5]}
    for query in ("from=2&to=9&points=50", "from=0&to=0&points=1", "points=5000", "to=&from="):
        port.json(f"/api/history?{query}")
    assert source.asked == [(None, None, 600), (2, 9, 50), (0, 0, 1), (None, None, 5000),
                            (None, None, 600)]


def test_samples_come_as_many_as_were_asked_for(port, source):
    told = port.json("/api/samples")
    assert told == source.samples(20)
    port.json("/api/samples?limit=1")
    port.json("/api/samples?limit=100")
    assert source.asked == [20, 20, 1, 100]


def test_the_checkpoints_of_the_run_can_be_downloaded_once_they_are_there(port, place):
    assert_refused(port.ask("/best.pt"), 404)
    (place / "best.pt").write_bytes(b"best" * 1000)
    (place / "last.pt").write_bytes(b"last" * 1000)
    for name in ("best", "last"):
        answer = port.ask(f"/{name}.pt")
        assert (answer.status, answer.content) == (200, name.encode() * 1000)
        assert answer.headers["Content-Length"] == "4000"


@pytest.mark.parametrize("path", [
    "/api/history?from=-1", "/api/history?from=x", "/api/history?to=1.5", "/api/history?to=1e3",
    "/api/history?from=%C2%B2", "/api/history?from=%D9%A3", "/api/history?from=+1",
    "/api/history?from=1_0", "/api/history?to=10000000000000000", "/api/history?points=0",
    "/api/history?points=5001", "/api/samples?limit=0", "/api/samples?limit=101",
    "/api/samples?limit=all", "/model.safetensors?round=-1", "/model.safetensors?round=newest",
    "/api/history?" + "&".join(f"a{n}=1" for n in range(11))])
def test_a_question_that_makes_no_sense_is_refused_with_a_sentence(port, source, path):
    assert_refused(port.ask(path), 400)
    assert source.asked == [] and not source.made


@pytest.mark.parametrize("query", ["session=session&since=x", "session=session&since=-1",
                                   "&".join(f"a{n}=1" for n in range(11))])
def test_so_is_one_for_events(port, query):
    assert_refused(port.knock(f"/api/events?{query}"), 400)


@pytest.mark.parametrize("path", [
    "/nothing", "/api", "/api/", "/api/state/", "/api/statement", "/index.html", "/hive",
    "/web.py", "/hive/web.py", "/journal.db", "/text.txt", "/favicon.ico", "/api/rounds/",
    "/api/rounds/13", "/api/rounds/x", "/api/rounds/-1", "/api/rounds/1.5", "/api/rounds/7/",
    "/api/rounds/" + "9" * 30])
def test_what_is_not_there_is_a_404_with_a_sentence(port, path):
    assert_refused(port.ask(path), 404)


@pytest.mark.parametrize("path", [
    "/../journal.db", "/../../etc/passwd", "/%2e%2e/journal.db", "/..%2fjournal.db",
    "/..\\journal.db", "//", "//journal.db", "/./journal.db", "/style.css/../journal.db",
    "/%2e%2e/last.pt", "/../last.pt", "/hive.js%00", "/last.pt%00", "../last.pt", "last.pt",
    "//localhost/%2e%2e/last.pt", "/style.css;"])
def test_no_way_leads_out_of_the_list_of_files(port, place, path):
    (place.parent / "journal.db").write_bytes(b"secret")
    (place / "journal.db").write_bytes(b"secret")
    (place / "last.pt").write_bytes(b"secret")
    assert_refused(port.ask(path), 404)


# ---- Who asks


@pytest.mark.parametrize("host", [
    "127.0.0.1", "127.0.0.1:8080", "192.168.1.7:80", "8.8.8.8", "[::1]", "[::1]:8080",
    "[fe80::1]:8080", "localhost", "localhost:8080", "LocalHost:8080", "localhost.",
    socket.gethostname(), socket.gethostname().upper() + ":8080", socket.gethostname() + ".local",
    "dash.example.org", "DASH.example.org:443", "attic.lan", "a.b.lan:8080"])
def test_the_port_answers_to_its_own_names(opened, source, host):
    port = opened(source, ["Dash.Example.org", ".lan"])
    assert port.ask("/healthz", host).content == b"ok\n"


@pytest.mark.parametrize("host", [
    "evil.org", "evil.org:8080", "dash.example.org", "attic.lan", "localhost.evil.org",
    "127.0.0.1.evil.org", "xlocalhost", "127.0.0", "", None])
def test_it_does_not_answer_to_the_names_of_others(opened, source, host):
    """A page at evil.org may have its own name point to this machine (DNS rebinding)."""
    port = opened(source, ["other.example.org", ".land"])
    for path in ("/", "/api/state", "/model.safetensors", "/nothing"):
        assert_refused(port.ask(path, host), 421, "--allow-host")
    assert_refused(port.knock("/api/events", host or "evil.org"), 421)


def test_events_are_for_pages_of_this_port_and_for_programs(port):
    own = f"localhost:{port.number}"
    assert port.knock("/api/events").status == 101
    assert port.knock("/api/events", Origin=f"http://{own}").status == 101
    assert port.knock("/api/events", "127.0.0.1:7", Origin="http://127.0.0.1:7").status == 101
    for origin in ("https://evil.org", "http://localhost", f"http://localhost:{port.number + 1}",
                   "null", "", f"http://{own}.evil.org"):
        assert_refused(port.knock("/api/events", Origin=origin), 403, "other sites")


@pytest.mark.parametrize("path, headers", [
    ("//[", {}), ("//[::1/api/state", {}), ("/", {"host": "["}), ("/", {"host": "[::1"}),
    ("/", {"host": "]"}), ("/", {"host": "localhost", "host_": "localhost"}),
    ("/api/events", {"Origin": "http://["}), ("/api/events", {"Origin": "http://[::1"})])
def test_what_nobody_can_have_meant_is_refused_like_everything_else(port, path, headers):
    answer = port.ask(path, **headers)
    assert 400 <= answer.status < 500, answer.content
    assert_refused(answer, answer.status)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_peers_join_by_any_name_but_of_web_pages_only_its_own(opened, source):
    joined = threading.Event()

    async def serve_peer(connection):
        joined.set()
        await connection.send("welcome")

    port = opened(source, peers=serve_peer)
    own = f"localhost:{port.number}"
    for host, origin in ((own, "https://evil.org"), (own, "http://localhost"), (own, "null"),
                         (own, ""), ("evil.org", "http://evil.org")):
        assert_refused(port.knock("/hive", host, Origin=origin), 403, "Peers join here")
    assert not joined.is_set()
    assert port.knock("/hive", own, Origin=f"http://{own}").status == 101
    assert port.knock("/hive", "hive.example.org").status == 101
    with open_socket(port.number, "/hive") as peer:
        assert peer.recv(timeout=LIMIT) == "welcome"


def test_the_file_to_join_with_is_that_of_this_version(port):
    answer = port.ask("/peer.pyz")
    assert (answer.status, answer.content) == (200, peer_file())
    assert answer.headers["Content-Type"] == "application/zip"


def test_no_browsers_means_not_even_its_own_page(opened, source):
    async def serve_peer(connection):
        await connection.send("welcome")

    port = opened(source, peers=serve_peer, browsers=False)
    own = f"localhost:{port.number}"
    assert_refused(port.knock("/hive", own, Origin=f"http://{own}"), 403, "no browsers")
    assert port.knock("/hive", own).status == 101


def test_only_the_scripts_of_workers_may_compile_the_kernels(port):
    scripts = [path for path, (_, kind) in FILES.items() if kind == "text/javascript"]
    compile_ = [path for path in scripts if "'wasm-unsafe-eval'" in port.ask(path).headers[
        "Content-Security-Policy"]]
    assert sorted(compile_) == ["/page/peer/training_worker.js", "/page/peer/worker.js"]
    assert b"\0asm" == port.ask("/page/peer/kernels.wasm").content[:4]


@pytest.mark.parametrize("path, status, headers", [
    *((path, 200, {}) for path in ("/", "/hive.js", "/api/state", "/metrics", "/healthz",
                                   "/model.safetensors", "/api/history")),
    ("/model.safetensors", 304, {"If_None_Match": '"weights-12"'}),
    ("/api/history?from=x", 400, {}), ("/nothing", 404, {}), ("/api/rounds/13", 404, {}),
    ("/best.pt", 404, {}), ("/api/state", 421, {"host": "evil.org"}),
    ("/api/events", 403, {"Origin": "https://evil.org"})])
def test_every_answer_tells_browsers_to_be_careful(port, path, status, headers):
    answer = port.ask(path, **headers)
    assert answer.status == status
    for name, value in HEADERS.items():
        assert answer.headers.get_all(name) == [value]
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Length"] == str(len(answer.content))


def test_a_page_that_has_not_asked_for_a_websocket_is_not_given_one(port):
    answer = port.ask("/api/events")
    assert 400 <= answer.status < 500 and not port.web.pages


# ---- Weights


def test_weights_of_any_round_and_without_one_the_newest(port):
    for query, version in (("", NEWEST), ("?round=", NEWEST), ("?round=0", 0), ("?round=5", 5)):
        answer = port.ask("/model.safetensors" + query)
        assert (answer.status, answer.content) == (200, bytes([version]) * 1000)
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["ETag"] == f'W/"weights-{version}"'


def test_weights_of_an_unknown_round_are_a_sentence(port, source):
    assert_refused(port.ask("/model.safetensors?round=13"), 404, "There is no round 13.")
    assert not source.made


def test_a_browser_that_has_the_weights_downloads_nothing(port, source):
    tag = port.ask("/model.safetensors").headers["ETag"]
    for known in (tag, "W/" + tag, f'"other", {tag}'):
        answer = port.ask("/model.safetensors", If_None_Match=known)
        assert (answer.status, answer.content, answer.headers["ETag"]) == (304, b"", tag)
    for other in ('"weights-1"', '"other"', "weights-12"):
        assert port.ask("/model.safetensors", If_None_Match=other).status == 200
    assert port.ask("/model.safetensors?round=1", If_None_Match=tag).status == 200


def test_weights_that_were_asked_for_lately_are_not_made_again(port, source):
    for version in (1, 2, 1, 1, 2, 1):
        assert port.ask(f"/model.safetensors?round={version}").content[:1] == bytes([version])
    assert source.made == {1: 1, 2: 1}


def test_weights_are_kept_in_files_up_to_a_number_of_bytes(port, source, monkeypatch):
    monkeypatch.setattr(downloads_module, "KEPT_BYTES", 2500)
    for version in range(1, NEWEST + 1):
        assert port.ask(f"/model.safetensors?round={version}").status == 200
        until(lambda: not port.web.downloads, "they never end")
        assert port.web.shelf.used <= 2500
    assert port.ask("/model.safetensors").content == bytes([NEWEST]) * 1000
    assert source.made[NEWEST] == 1
    source.bytes = 5000  # more than is ever kept: one may be there all the same
    assert len(port.ask("/model.safetensors?round=0").content) == 5000


def test_weights_for_which_there_is_no_room_are_a_sentence(port, source, monkeypatch):
    """What is on its way cannot be taken back, and takes room until it has arrived."""
    source.bytes = BIG
    slow, _ = begin_download(port)
    with contextlib.closing(slow):
        monkeypatch.setattr(downloads_module, "KEPT_BYTES", BIG + 100)
        assert_refused(port.ask("/model.safetensors?round=1"), 503, "no room")
    until(lambda: port.ask("/model.safetensors?round=1").status == 200, "there is never room")


def test_a_full_disk_is_a_sentence(port, source, monkeypatch):
    def full(**where):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(downloads_module.tempfile, "TemporaryFile", full)
    assert_refused(port.ask("/model.safetensors"), 503, "No space left on device")
    monkeypatch.undo()
    assert port.ask("/model.safetensors").status == 200


def share_here(port, most):
    """How many of these one address of this machine may have; others have the rest."""
    share = port.web.door.share(most, "127.0.0.1")
    assert 0 < share < most
    return share


def downloading(port, threads, *paths):
    return [threads.submit(port.ask, path) for path in paths]


def test_those_who_waited_behind_the_same_weights_find_them_made(port, source):
    source.gate.clear()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        answers = downloading(port, threads, *["/model.safetensors?round=4"] * 4)
        until(lambda: port.web.making._work_queue.qsize() == 3, "they do not wait")
        source.gate.set()
        assert [answer.result().content for answer in answers] == [b"\4" * 1000] * 4
    assert source.made == {4: 1}


def test_weights_that_cannot_be_made_are_a_sentence(port, source, monkeypatch):
    """For example when the journal was damaged; the next one may be intact."""
    def damaged():
        raise GltchError("The record is damaged.")
    monkeypatch.setattr(source, "snapshot", lambda version: Snapshot("damaged", damaged))
    answer = port.ask("/model.safetensors")
    assert_refused(answer, answer.status, "The record is damaged.")
    monkeypatch.undo()
    assert port.ask("/model.safetensors").status == 200


def test_one_download_too_many_is_asked_to_come_again(port, source, place):
    (place / "last.pt").write_bytes(b"last")
    source.gate.clear()
    most = share_here(port, MOST_DOWNLOADS)
    with concurrent.futures.ThreadPoolExecutor(most) as threads:
        answers = downloading(port, threads, *(f"/model.safetensors?round={n}"
                                               for n in range(most)))
        until(lambda: len(port.web.downloads) == most, "they do not come")
        for path in ("/model.safetensors", "/model.safetensors?round=0", "/last.pt"):
            refused = port.ask(path)
            assert_refused(refused, 503, "downloading")
            assert int(refused.headers["Retry-After"]) > 0
        assert port.ask("/model.safetensors", If_None_Match='"weights-12"').status == 304
        assert port.ask("/healthz").status == 200
        source.gate.set()
        assert [answer.result().content[:1] for answer in answers] == [
            bytes([n]) for n in range(most)]
    until(lambda: not port.web.downloads, "they never end")
    assert port.ask("/model.safetensors").status == 200


BIG = 24 << 20  # bytes: more than fits into the buffers of a connection


def begin_download(port, path="/model.safetensors"):
    """A connection on which a long answer has begun, of which nothing more is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    connection.settimeout(LIMIT)
    connection.connect(("127.0.0.1", port.number))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection, connection.recv(1000)


def read_to_the_end(connection):
    parts = []
    with contextlib.suppress(ConnectionError):
        while not parts or parts[-1]:
            parts.append(connection.recv(1 << 20))
    return b"".join(parts)


def test_a_slow_download_is_not_cut_off(port, source, monkeypatch):
    """The time limit is for the request to arrive; a silent visitor meanwhile meets it."""
    source.bytes = BIG
    monkeypatch.setattr(guest_module, "REQUEST_SECONDS", 0.2)
    slow, head = begin_download(port)
    with contextlib.closing(slow):
        for words in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\n"):
            with socket.create_connection(("127.0.0.1", port.number), timeout=LIMIT) as silent:
                silent.sendall(words)
                assert read_to_the_end(silent) == b""  # sent away without an answer
        head, _, start = (head + read_to_the_end(slow)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and start == bytes([NEWEST]) * BIG


def test_weights_that_take_long_to_make_are_waited_for(port, source, monkeypatch):
    monkeypatch.setattr(guest_module, "REQUEST_SECONDS", 0.2)
    source.gate.clear()
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        answer, = downloading(port, threads, "/model.safetensors")
        until(lambda: port.web.downloads, "it does not come")
        with socket.create_connection(("127.0.0.1", port.number), timeout=LIMIT) as silent:
            assert read_to_the_end(silent) == b""  # so long did it take
        source.gate.set()
        assert answer.result().status == 200


def test_a_visitor_who_still_downloads_does_not_hold_up_the_end(source):
    source.bytes = BIG
    port = Port(source)
    slow, head = begin_download(port)
    with contextlib.closing(slow), port.listen() as page:
        page.recv(timeout=LIMIT)
        port.close()
        assert len(head + read_to_the_end(slow)) < BIG
        assert page_ends(page) == 1001


def test_a_slow_reader_costs_a_piece_of_the_file_and_locks_nobody_out(port, source, place):
    source.bytes = BIG
    (place / "last.pt").write_bytes(b"last" * (BIG // 4))
    with contextlib.ExitStack() as held:
        for path in ("/model.safetensors", "/last.pt") * 4:
            slow, head = begin_download(port, path)
            held.callback(slow.close)
            assert head.startswith(b"HTTP/1.1 200")
        until(lambda: len(port.web.downloads) == 8 and all(
            guest.paused for guest in list(port.web.downloads.taken)), "they are all read")
        travelling = [guest.transport.get_write_buffer_size()
                      for guest in list(port.web.downloads.taken)]
        assert max(travelling) <= 2 * downloads_module.PIECE_BYTES
        assert source.made == {NEWEST: 1} and port.web.shelf.used == BIG
        assert port.ask("/last.pt").content == b"last" * (BIG // 4)
    until(lambda: not port.web.downloads, "they never end")


def test_a_download_that_is_too_slow_is_cut_off(port, source, monkeypatch):
    source.bytes = BIG
    monkeypatch.setattr(web_module, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(web_module, "SLOWEST", 1e12)
    slow, head = begin_download(port)
    with contextlib.closing(slow):
        until(lambda: not port.web.downloads, "it goes on for ever")
        assert len(head + read_to_the_end(slow)) < BIG


def test_no_answer_takes_longer_than_a_download_may(opened, source, monkeypatch):
    source.bytes = BIG
    monkeypatch.setattr(web_module, "DOWNLOAD_SECONDS", 0.5)
    port = opened(source)
    slow, head = begin_download(port)
    with contextlib.closing(slow):
        assert head.startswith(b"HTTP/1.1 200")
        until(lambda: not port.web.downloads, "it goes on for ever")
        assert len(head + read_to_the_end(slow)) < BIG


def test_a_page_that_reads_nothing_does_not_hold_up_the_end(source, monkeypatch):
    monkeypatch.setattr(web_module, "FAREWELL_SECONDS", 0.2)
    port = Port(source)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        deaf.settimeout(LIMIT)
        deaf.connect(("127.0.0.1", port.number))
        lines = ["GET /api/events HTTP/1.1", "Host: localhost", *(
            f"{name.replace('_', '-')}: {value}" for name, value in UPGRADE.items()),
            f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}"]
        deaf.sendall("".join(line + "\r\n" for line in (*lines, "")).encode())
        assert deaf.recv(12) == b"HTTP/1.1 101"
        until(lambda: list(port.web.pages.values()) == [0], "it does not listen")
        port.add("closed", version=1, padding="x" * BIG)
        port.close()
        assert not port.web.pages


def test_nothing_is_left_of_a_connection_that_is_gone(port, source, monkeypatch):
    """A timer that outlives it would keep it and its answer in memory."""
    monkeypatch.setattr(guest_module, "REQUEST_SECONDS", 10 * LIMIT)
    from websockets.asyncio.server import ServerConnection
    source.bytes = 1 << 20
    for _ in range(20):
        assert port.ask("/model.safetensors").status == 200
        assert port.ask("/api/state").status == 200

    def alive():
        gc.collect()
        return sum(issubclass(type(one), ServerConnection) for one in gc.get_objects())

    until(lambda: alive() == 0, lambda: f"{alive()} connections are still in memory")


def test_answers_in_memory_are_bounded_for_each_address(port):
    size = len(port.ask("/api/state").content)
    port.web.travelling.most = 2 * size - 2  # three quarters of it are for this machine
    port.source.gate.clear()
    assert port.ask("/api/state").status == 200
    until(lambda: not port.web.travelling.total, "it never arrives")
    port.web.travelling.most = size
    assert_refused(port.ask("/api/state"), 503, "try again")
    assert port.ask("/healthz").status == 200


def test_a_state_that_takes_long_to_describe_is_told_again_for_a_while(port, source, monkeypatch):
    asked = []

    def slowly():
        asked.append(time.sleep(0.3))
        return {"version": len(asked)}

    monkeypatch.setattr(source, "state", slowly)
    assert [port.json("/api/state")["version"] for _ in range(3)] == [1, 1, 1]
    until(lambda: port.json("/api/state")["version"] == 2, "the page hears nothing new")


def stalled(port, source, monkeypatch, count):
    """A number of visitors wait for the worker thread."""
    begun = threading.Semaphore(0)

    def wait(limit):
        begun.release()
        assert source.gate.wait(LIMIT)
        return {"samples": []}

    source.gate.clear()
    monkeypatch.setattr(source, "samples", wait)
    held = contextlib.ExitStack()
    for _ in range(count):
        visitor = held.enter_context(
            socket.create_connection(("127.0.0.1", port.number), timeout=LIMIT))
        visitor.sendall(b"GET /api/samples HTTP/1.1\r\nHost: localhost\r\n\r\n")
    until(lambda: len(port.web.waiting) == count, "they do not come")
    return held


def test_one_address_does_not_take_all_places_before_the_worker(port, source, monkeypatch):
    with stalled(port, source, monkeypatch, share_here(port, web_module.MOST_WAITING)):
        assert_refused(port.ask("/api/samples"), 503, "Too many ask at once")
        assert port.ask("/api/state").status == 200
        source.gate.set()
    until(lambda: not port.web.waiting, "they wait for ever")
    assert port.ask("/api/samples").status == 200


def test_visitors_leave_room_for_peers(opened, source, monkeypatch):
    async def serve_peer(connection):
        connection.proved()
        await connection.send("welcome")
        await connection.wait_closed()

    port = opened(source, peers=serve_peer, door=Door(64))
    share = share_here(port, port.web.door.visitors.most)
    with stalled(port, source, monkeypatch, share), contextlib.ExitStack() as peers:
        assert_refused(port.ask("/healthz"), 503, "Too many ask at once")
        for _ in range(share_here(port, port.web.door.peers.most)):
            peer = peers.enter_context(open_socket(port.number, "/hive"))
            assert peer.recv(timeout=LIMIT) == "welcome"
        source.gate.set()


def test_a_visitor_who_says_nothing_does_not_hold_up_the_end(source):
    port = Port(source)
    with contextlib.ExitStack() as held:
        for words in (b"", b"GET / HTTP/1.1\r\n", b"G"):
            silent = held.enter_context(
                socket.create_connection(("127.0.0.1", port.number), timeout=LIMIT))
            silent.sendall(words)
        until(lambda: len(port.web.door.homes) == 3, "they do not come")
        port.close()
    assert not port.web.door.homes


@pytest.mark.parametrize("path", ["/", "/api/state", "/last.pt", "/model.safetensors", "/nothing",
                                  "/healthz"])
def test_head_is_get_without_the_content(port, place, path):
    (place / "last.pt").write_bytes(b"last")
    whole, head = port.ask(path), port.ask(path, method="HEAD")
    assert (head.status, head.content) == (whole.status, b"")
    assert list(head.headers.items()) == list(whole.headers.items())
    assert head.headers["Content-Length"] == str(len(whole.content))


# ---- Events


def hear(page, count):
    """The next `count` events."""
    events = []
    while len(events) < count:
        events += parse(page.recv(timeout=LIMIT))
    assert len(events) == count
    return events


def page_ends(page):
    """The code with which the server closes."""
    from websockets.exceptions import ConnectionClosed
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            page.recv(timeout=LIMIT)
    return caught.value.rcvd.code


def closed(number):
    return {"seq": number, "at": 7.5, "type": "closed", "version": number}


def happen(port, count):
    """`count` more things happen; their events."""
    return [closed(port.add("closed", version=port.source.events.seq + 1)) for _ in range(count)]


def test_a_page_is_told_the_state_and_then_everything_that_happens(port, source):
    happen(port, 3)
    with port.listen() as page:
        state, = hear(page, 1)
        assert state == {"at": 7.5, "type": "state", **source.state()}
        assert state["seq"] == 3
        expected = happen(port, 40)
        assert hear(page, 40) == expected
        until(lambda: len(port.web.pages) == 1, "the page is not counted")
    until(lambda: not port.web.pages, "the page is still counted")


@pytest.mark.parametrize("since", [0, 1, 7, 30])
def test_a_reconnecting_page_misses_nothing(port, since):
    expected = happen(port, 30)
    with port.listen(f"?session=session&since={since}") as page:
        expected += happen(port, 2)
        assert hear(page, 32 - since) == expected[since:]


def test_a_page_that_reconnects_again_and_again_hears_everything_once(port):
    heard, done = [], threading.Event()

    def go_on():
        while not done.is_set():
            happen(port, 1)
            done.wait(0.005)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        while len(heard) < 150:
            since = heard[-1]["seq"] if heard else 0
            with port.listen(f"?session=session&since={since}") as page:
                heard += parse(page.recv(timeout=LIMIT)) + parse(page.recv(timeout=LIMIT))
    finally:
        done.set()
        thread.join()
    assert heard == [closed(number) for number in range(1, len(heard) + 1)]


@pytest.mark.parametrize("query", [
    "", "?since=70", "?session=session", "?session=of+another+life&since=70",
    "?session=session&since=29", "?session=session&since=81"])
def test_a_page_that_cannot_be_told_what_it_missed_is_told_the_state(port, query):
    """80 things have happened, of which the latest 50 are known."""
    happen(port, 80)
    with port.listen(query) as page:
        state, = hear(page, 1)
        assert (state["type"], state["seq"], state["session"]) == ("state", 80, "session")
        assert happen(port, 1) == hear(page, 1)


@pytest.mark.parametrize("words", ["hello", b"\0", "[]"])
def test_a_page_that_sends_something_is_disconnected(port, words):
    with port.listen() as page, port.listen() as other:
        hear(page, 1)
        hear(other, 1)
        page.send(words)
        assert page_ends(page) == 1008
        assert happen(port, 1) == hear(other, 1)
        until(lambda: len(port.web.pages) == 1, "the page is still counted")


def test_one_page_too_many_is_asked_to_come_again(port):
    request = "GET /api/events HTTP/1.1\r\nHost: localhost\r\n" + "".join(
        f"{name.replace('_', '-')}: {value}\r\n" for name, value in UPGRADE.items())
    request += f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n\r\n"
    with contextlib.ExitStack() as all_:
        listeners = []
        most = share_here(port, MOST_PAGES)
        for _ in range(most):
            listeners.append(all_.enter_context(
                socket.create_connection(("127.0.0.1", port.number), timeout=LIMIT)))
            listeners[-1].sendall(request.encode())
            assert listeners[-1].recv(100).startswith(b"HTTP/1.1 101")
        until(lambda: len(port.web.pages) == most, "they do not come")
        refused = port.knock("/api/events")
        assert_refused(refused, 503, "Too many pages")
        assert int(refused.headers["Retry-After"]) > 0
        assert port.ask("/api/state").status == 200
        listeners[0].close()
        until(lambda: len(port.web.seats) < most, "it never leaves")
        with port.listen() as page:
            hear(page, 1)


# ---- Metrics


SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\[\\"n])*)"(?:,|$)')
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}  # there are no others


def read_metrics(content):
    """Prometheus text, strictly: {(name, labels): value} and {name: kind}."""
    *lines, last = content.decode("utf-8").split("\n")
    assert last == "", "the last line must end"
    values, kinds, helps = {}, {}, set()
    for line in lines:
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in helps
            helps.add(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name in helps and name not in kinds and kind in ("counter", "gauge")
            assert (kind == "counter") == name.endswith("_total")
            kinds[name] = kind
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            name, inside, value = match.groups()
            assert name == list(kinds)[-1], "samples stand below their type"
            labels, place = {}, 0
            while inside and place < len(inside):
                label = LABEL.match(inside, place)
                assert label and label.group(1) not in labels, inside
                labels[label.group(1)] = re.sub(
                    r"\\.", lambda escape: ESCAPES[escape.group()], label.group(2))
                place = label.end()
            key = name, tuple(sorted(labels.items()))
            assert key not in values, line
            values[key] = float(value)
    return values, kinds


def test_the_metrics_are_the_state_in_the_words_of_prometheus(port):
    answer = port.ask("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    values, _ = read_metrics(answer.content)
    plain = {name: value for (name, labels), value in values.items() if not labels}
    assert plain.pop("process_start_time_seconds") > 1.6e9
    assert plain.pop("process_cpu_seconds_total") > 0
    assert plain == {
        "gltch_rounds_total": 3, "gltch_steps_total": 40, "gltch_characters_total": 8192,
        "gltch_received_bytes_total": 1000, "gltch_sent_bytes_total": 2000,
        "gltch_train_loss_nats": 2.5, "gltch_characters_per_second": 655.36,
        "gltch_flops": 1.5e9, "gltch_training_seconds_total": 12.5, "gltch_finished": 0,
        "gltch_peers_set_aside": 3, "gltch_rollbacks_total": 1}
    labelled = {key: value for key, value in values.items() if key[1]}
    info = (("mode", "hive"), ("run", "first light"), ("size", "2.7m"))
    states = {"joining": 0, "waiting": 0, "ready": 0, "training": 2, "uploading": 1,
              "delivered": 0, "lagging": 0}
    kinds = {"cuda": 1, "mps": 0, "cpu": 0, "tab": 2}
    assert labelled == {
        ("gltch_info", info): 1,
        **{("gltch_updates_total", (("verdict", verdict),)): count
           for verdict, count in STATE["updates"].items()},
        **{("gltch_peers", (("state", state),)): count for state, count in states.items()},
        **{("gltch_peers_by_kind", (("kind", kind),)): count for kind, count in kinds.items()}}


def test_the_metrics_are_those_of_the_contract(port):
    promised = re.findall(r"`((?:gltch|process)_[a-z_]+[a-z])(?:\{([a-z,]+)\})?`",
                          CONTRACT.partition("## /metrics")[2])
    assert len(promised) > 10
    values, kinds = read_metrics(port.ask("/metrics").content)
    assert set(kinds) == {name for name, _ in promised}
    labels = {name: ",".join(sorted(label for label, _ in pairs)) for name, pairs in values}
    assert all(labels[name] == ",".join(sorted(filter(None, inside.split(","))))
               for name, inside in promised if name in labels)


@pytest.mark.parametrize("name", [
    'quoted "name"', "back\\slash", "a\nnew line", "\\n", "\\", '"', 'a="b",c="d"} 5', "},{", "é",
    "Bienenstock 🐝", "a\ttab", "\x7f"])
def test_any_name_survives_the_metrics(name):
    values, _ = read_metrics(metrics({**STATE, "run": name}))
    info = next(dict(labels) for family, labels in values if family == "gltch_info")
    assert info == {"run": name, "size": "2.7m", "mode": "hive"}


def test_what_was_not_measured_yet_is_left_out_and_the_end_is_told():
    state = {**STATE, "loss": None, "speed": None, "flops": None, "finished": "all steps are done"}
    values, _ = read_metrics(metrics(state))
    assert values["gltch_finished", ()] == 1
    assert not {"gltch_train_loss_nats", "gltch_characters_per_second", "gltch_flops",
                "gltch_validation_loss_nats"} & {name for name, _ in values}


def test_a_loss_that_is_not_finite_does_not_break_the_metrics():
    values, _ = read_metrics(metrics({**STATE, "loss": float("nan"), "speed": float("inf")}))
    assert values["gltch_steps_total", ()] == 40


# ---- The page


class Page(HTMLParser):
    """Everything in a page that a browser would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.inline, self.identities = [], [], []
        self.tag = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes, self.tag = dict(attributes), tag
        self.inline += [name for name in attributes if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag in ("style", "base", "iframe", "object", "embed") else []
        self.inline += [tag] if tag == "script" and "src" not in attributes else []
        self.addresses += [attributes[name] for name in ("href", "src", "action", "srcset", "data")
                           if name in attributes]
        self.identities += [attributes["id"]] if "id" in attributes else []

    def handle_data(self, text):
        if self.tag == "script" and text.strip():
            self.inline.append(text)

    def handle_endtag(self, tag):
        self.tag = ""


def page_source():
    return (HIVE / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES)
def test_every_file_of_the_page_is_there_and_says_what_it_is(port, path):
    name, kind = FILES[path]
    answer = port.ask(path)
    assert (answer.status, answer.content) == (200, (HIVE / name).read_bytes())
    assert answer.headers["Content-Type"] == f"{kind}; charset=utf-8"


def test_the_page_refers_only_to_what_is_served_here(port):
    page = Page(page_source())
    assert len(page.addresses) > 10
    for address in page.addresses:
        parts = urlsplit(urljoin("http://localhost/", address))
        assert (parts.scheme, parts.netloc) == ("http", "localhost"), address
        assert "localhost" not in address and port.ask(parts.path).status == 200, address
        assert not parts.fragment or parts.fragment in page.identities, address


def test_the_page_needs_nothing_that_its_policy_forbids():
    assert Page(page_source()).inline == []
    assert not re.search(r"https?:|//", re.sub(r"<!--.*?-->", "", page_source(), flags=re.S))


def test_the_modules_import_only_what_is_served():
    imports = re.compile(
        r"""(?:\bfrom|\bimport|\bimport\(|new Worker\(|new URL\()\s*["']([^"']+)""")
    found = Counter()
    for path, (name, kind) in FILES.items():
        if kind == "text/javascript":
            source = (HIVE / name).read_text(encoding="utf-8")
            code = re.sub(r"/\*.*?\*/", "", source, flags=re.S)  # types are imported in comments
            for address in imports.findall(code):
                assert urljoin(path, address) in FILES, f"{name} imports {address}"
                found[name] += 1
    assert found["page/page.js"] > 2


def test_every_script_of_the_page_is_served():
    scripts = {path.relative_to(HIVE).as_posix() for path in HIVE.rglob("*.js")}
    assert scripts <= {name for name, _ in FILES.values()}


def test_every_file_of_the_page_is_installed_with_the_package():
    project = (PROGRAM.parent / "pyproject.toml").read_text(encoding="utf-8")
    data = project.split("[tool.setuptools.package-data]")[1]
    patterns = json.loads(re.search(r"^hive = (\[.*\])$", data, flags=re.M).group(1))
    installed = {path.relative_to(HIVE).as_posix() for pattern in patterns
                 for path in HIVE.glob(pattern)}
    assert {name for name, _ in FILES.values()} <= installed
