"""Who may come in: counts and addresses, then both ports of a real coordinator under siege."""
import base64
import contextlib
import errno
import json
import re
import socket
import ssl
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from builders import make_token
from hive_processes import HIVE, LIMIT, TINY, Client, Place, Program, at_events, open_socket
from hypothesis import given
from hypothesis import strategies as st

from gltch_2_7m import GltchError
from hive import server
from hive.network import door as door_module
from hive.network import guest as guest_module
from hive.network.address import household
from hive.network.door import Door, Places, file_limit, trusted
from hive.network.throttle import Bucket
from hive.session import protocol
from hive.session.supply import MOST_FETCHES

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
HERE, THERE, ELSEWHERE = "127.0.0.1", "192.0.2.1", "198.51.100.7"


# ---- The bucket


def test_a_bucket_gives_what_is_in_it_and_fills_again_but_never_over():
    bucket = Bucket(10, 2)
    assert all(bucket.take(1, 100.0) for _ in range(10))
    assert not bucket.take(1, 100.0)
    assert bucket.take(2, 101.5)
    assert not bucket.take(3, 102.0)  # two are there
    assert sum(bucket.take(1, 10_000.0) for _ in range(100)) == 10


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 50)), max_size=60))
def test_nobody_gets_more_than_the_bucket_and_its_rate(asked):
    bucket, now, given_ = Bucket(100, 10), 0.0, 0.0
    for later, count in asked:
        now += later
        given_ += count if bucket.take(count, now) else 0
        assert given_ <= 100 + 10 * now + 1e-6


def test_a_clock_that_goes_back_fills_no_bucket():
    bucket = Bucket(1, 1000)
    assert bucket.take(1, 50.0) and not bucket.take(1, 10.0)


# ---- The door


def test_there_is_always_room_for_a_stranger_and_the_oldest_of_the_fullest_address_goes():
    door = Door(10_000)
    few = [("few", n) for n in range(20)]
    for guest in few:
        assert door.come(guest, ELSEWHERE) == []
    gone = []
    for n in range(3000):
        gone += door.come(n, HERE)
    assert gone == list(range(len(gone))), "not the oldest"
    assert len(gone) == 3000 - door.share(door.most_strangers, HERE)
    assert all(guest in door.homes for guest in few)
    assert door.come("honest", THERE) == [] and "honest" in door.homes


def test_from_many_addresses_none_keeps_the_others_out():
    door = Door(10_000)
    for n in range(5000):
        door.come(n, f"10.{n >> 8 & 255}.{n & 255}.1")
        assert len(door.homes) <= door.most_strangers
    assert door.come("honest", THERE) == [3976] and "honest" in door.homes


def test_visitors_leave_peers_their_places_and_each_address_the_others_theirs():
    door = Door(1024)
    there = sum(door.visit(("there", n), THERE) for n in range(1000))
    here = sum(door.visit(("here", n), HERE) for n in range(1000))
    assert there == door.visitors.most // 4 and here == 3 * door.visitors.most // 4
    assert not door.visit("one more", ELSEWHERE)
    peers = sum(door.join(("peer", n), ELSEWHERE) for n in range(1000))
    assert peers == door.peers.most // 4 > 0
    door.leave(("there", 0))
    assert door.visit("one more", ELSEWHERE)


def test_a_stranger_for_whom_there_is_no_room_stays_one():
    """So it can still be sent away, and is still counted."""
    door = Door(64)
    for n in range(100):
        door.visit(n, HERE)
        door.visit(n, THERE)
    door.come("late", ELSEWHERE)
    assert not door.visit("late", HERE) and "late" in door.homes


@given(st.integers(16, 20_000), st.lists(st.tuples(
    st.sampled_from(["come", "visit", "join", "leave"]), st.integers(0, 40),
    st.sampled_from([HERE, THERE, ELSEWHERE, "::1", "2001:db8::5"])), max_size=300))
def test_the_door_never_counts_more_than_may_be_open_and_ends_empty(files, happens):
    door, there = Door(files), {}
    for what, guest, address in happens:
        if what == "leave":
            door.leave(guest)
            there.pop(guest, None)
        elif what == "come" and guest not in there:
            there[guest] = "stranger"
            for other in door.come(guest, address):
                del there[other]
        elif there.get(guest) == "stranger" and what in ("visit", "join"):
            there[guest] = what if getattr(door, what)(guest, address) else "stranger"
        assert len(door.homes) + len(door.visitors) + len(door.peers) == len(there)
        assert len(there) <= max(3, files - min(door_module.FILES_KEPT, files // 2))
    for guest in there:
        door.leave(guest)
    assert not (door.homes or door.strangers or door.visitors.total or door.peers.total
                or door.visitors.of or door.peers.of)


def test_a_thousand_peers_from_one_machine_when_the_system_allows_it():
    door = Door(4096)
    assert all(door.join(n, HERE) for n in range(1000))


def test_even_the_smallest_limit_lets_everybody_in():
    for files in range(1, 300):
        door = Door(files)
        assert door.visit("a", HERE) and door.join("b", THERE) and door.come("c", HERE) == []
        assert files < 4 or (door.most_strangers + door.visitors.most + door.peers.most) < files


def test_bytes_are_places_too():
    budget = Places(Door(1024), 1000)
    assert budget.take("a", THERE, 250) and not budget.take("b", THERE, 1)
    assert budget.take("b", HERE, 750) and not budget.take("c", ELSEWHERE, 1)
    budget.free("a")
    budget.free("a")
    assert budget.total == 750 and budget.take("c", ELSEWHERE, 250)


@pytest.mark.parametrize("one, other, same", [
    ("192.0.2.1", "192.0.2.2", False), ("192.0.2.1", "::ffff:192.0.2.1", True),
    ("2001:db8::1", "2001:db8::ffff:1", True), ("2001:db8::1", "2001:db8:0:1::1", False),
    ("fe80::1%eth0", "fe80::2%eth1", True), ("?", "?", True), ("?", "127.0.0.1", False)])
def test_what_counts_as_one_address(one, other, same):
    assert (household(one) == household(other)) is same


@pytest.mark.parametrize("proxies, address, forwarded, who", [
    ((), "127.0.0.1", "192.0.2.1", "127.0.0.1"),
    (["127.0.0.1"], "127.0.0.1", "192.0.2.1", "192.0.2.1"),
    (["127.0.0.1"], "::1", "192.0.2.1", "::1"),
    (["127.0.0.1"], "198.51.100.7", "192.0.2.1", "198.51.100.7"),
    (["127.0.0.1"], "::ffff:127.0.0.1", "192.0.2.1", "192.0.2.1"),
    (["127.0.0.1"], "127.0.0.1", "203.0.113.9, 192.0.2.1", "192.0.2.1"),
    (["127.0.0.1", "10.0.0.0/8"], "127.0.0.1", "203.0.113.9, 192.0.2.1,10.1.2.3", "192.0.2.1"),
    (["127.0.0.1"], "127.0.0.1", "2001:db8::1", "2001:db8::1"),
    *((["127.0.0.1"], "127.0.0.1", nonsense, "127.0.0.1") for nonsense in (
        "", "unknown", "192.0.2.1, unknown", "_hidden", ",", "192.0.2.1,", "127.0.0.1",
        "1.2.3.4.5", "\x1b[2J", "9" * 500)),
])
def test_only_a_trusted_proxy_says_who_comes(proxies, address, forwarded, who):
    assert Door(1024, trusted(proxies)).who(address, forwarded) == who


@pytest.mark.parametrize("value", ["localhost", "10.0.0.1/8", "10.0.0.0/33", "", "1.2.3", "*"])
def test_a_proxy_that_is_no_address_is_one_sentence(value, capsys):
    with pytest.raises(GltchError, match="addresses in digits"):
        trusted([value])
    assert server.main(["--trusted-proxy", value]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--trusted-proxy" in error


@pytest.mark.process
@posix
def test_the_system_is_asked_for_more_open_files_and_its_answer_is_kept_to():
    code = ("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, {}); "
            "from hive.network.door import file_limit; "
            "print(file_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])")

    def limits(soft, hard):
        return [int(word) for word in subprocess.run(
            [sys.executable, "-c", code.format((soft, hard))], cwd=str(HIVE.parent),
            capture_output=True, check=True, text=True).stdout.split()]

    assert limits(256, 1024) == [1024, 1024]
    assert limits(64, 64) == [64, 64]
    assert limits(256, 20_000)[0] == door_module.FILES_WANTED
    assert 0 < file_limit() <= door_module.FILES_WANTED


def test_where_the_system_does_not_say_how_many_files_may_be_open_a_number_is_assumed(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert file_limit() == door_module.FILES_UNKNOWN


def test_too_many_open_files_are_said_once_in_a_while(capsys):
    now, others = [100.0], []
    loop = SimpleNamespace(time=lambda: now[0], default_exception_handler=others.append)
    complaints = server.Complaints()
    for _ in range(1000):
        complaints.hear(loop, {"exception": OSError(errno.EMFILE, "Too many open files")})
    now[0] += server.COMPLAINT_SECONDS + 1
    complaints.hear(loop, {"exception": OSError(errno.EMFILE, "Too many open files")})
    complaints.hear(loop, {"exception": ValueError()})
    assert capsys.readouterr().err.count("too many files are open") == 2
    assert len(others) == 1


# ---- Both ports of a real coordinator


def raw(port, words=b"", timeout=LIMIT):
    connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    connection.sendall(words)
    return connection


def upgrade(path="/", host="localhost", key=bytes(16)):
    return (f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(key).decode()}"
            "\r\n\r\n").encode()


def read_to_the_end(connection):
    parts = []
    with contextlib.suppress(ConnectionError):
        while not parts or parts[-1]:
            parts.append(connection.recv(1 << 16))
    return b"".join(parts)


def frame(opcode, content, fin=True):
    """Masked with zeros."""
    assert len(content) < 126
    return bytes([0x80 * fin | opcode, 0x80 | len(content)]) + bytes(4) + content


PING, TEXT, MORE = 9, 1, 0


@pytest.fixture(scope="module")
def quiet(processes, tmp_path_factory, text_file):
    """A coordinator that may open only 256 files, which waits for a peer that never comes."""
    place = Place(tmp_path_factory.mktemp("siege"), text_file)
    limited = ("import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); "
               "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])")
    words = ("-c", limited) if sys.platform != "win32" else ()
    program = Program(place.folder, "server", *words, HIVE / "server.py", "--data", text_file,
                      *TINY, "--port", "0", "--dashboard-port", "0", "--min-peers", "99")
    place.programs.append(program)
    program.hears("--name my-node")
    said = program.said()
    yield SimpleNamespace(
        program=program, page=int(re.search(r"http://localhost:(\d+)", said).group(1)),
        port=int(re.search(r"ws://localhost:(\d+)", said).group(1)), run=place.folder / "runs")
    place.clean()


def asks(hive, path="/healthz"):
    with raw(hive.page, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()) as visitor:
        return read_to_the_end(visitor)


def enter(connection):
    """The handshake of a peer; what the coordinator says to its hello."""
    challenge = protocol.unpack(connection.recv(timeout=LIMIT))
    nonce = make_token()
    connection.send(protocol.pack(
        "hello", protocol=protocol.VERSION, nonce=nonce, name="honest", device="a test", kind="cpu",
        proof=protocol.proof("", "peer", challenge["nonce"], nonce),
        process=make_token(), token=None, text=None))
    return protocol.unpack(connection.recv(timeout=LIMIT))["type"]


def joins(port, path=""):
    with open_socket(port, path) as connection:
        return enter(connection)


@posix
@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "],
                         ids=["silent", "slow"])
def test_connections_that_prove_nothing_keep_nobody_out_and_end_nothing(quiet, words):
    """Of 256 files that may be open, 800 connections to both ports take none that is needed."""
    with contextlib.ExitStack() as held:
        for _ in range(400):
            for port in (quiet.port, quiet.page):
                held.enter_context(raw(port, words))
        assert b"200 OK" in asks(quiet)
        assert joins(quiet.port) == "welcome"
        assert joins(quiet.page, "/hive") == "welcome"
        assert asks(quiet, "/model.safetensors").startswith(b"HTTP/1.1 200")
    assert quiet.program.process.poll() is None
    assert "Traceback" not in quiet.program.said()


@posix
@pytest.mark.parametrize("path", ["/hive", None], ids=["dashboard", "peers"])
def test_websockets_that_never_prove_the_key_keep_nobody_out(quiet, path):
    port = quiet.page if path else quiet.port
    with contextlib.ExitStack() as held:
        for _ in range(300):
            held.enter_context(raw(port, upgrade(path or "/")))
        assert joins(port, path or "") == "welcome"
        assert b"200 OK" in asks(quiet)


@posix
def test_a_peer_for_whom_there_is_no_room_is_told_to_come_again(quiet):
    from websockets.exceptions import ConnectionClosed
    with contextlib.ExitStack() as held:
        door = Door(256)
        room = door.share(door.peers.most, HERE)
        for _ in range(room):
            assert enter(held.enter_context(open_socket(quiet.port))) == "welcome"
        with pytest.raises(ConnectionClosed) as caught:
            joins(quiet.port)
        assert caught.value.rcvd.code == 1013 and "no place" in caught.value.rcvd.reason
        assert b"200 OK" in asks(quiet)


@posix
def test_a_peer_with_the_key_may_not_flood_either(quiet):
    with contextlib.ExitStack() as over:
        peer = over.enter_context(open_socket(quiet.port))
        assert enter(peer) == "welcome"
        with contextlib.suppress(OSError):
            for _ in range(200):
                peer.socket.sendall(frame(PING, bytes(100)) * 1000)
            pytest.fail("200,000 pings were taken", pytrace=False)
    assert b"200 OK" in asks(quiet)


def test_a_peer_with_the_key_may_not_send_a_message_in_endless_pieces(quiet):
    """More of them than it would be seen off for as a flood of small messages."""
    from websockets.exceptions import ConnectionClosed
    pieces = guest_module.MOST_FRAGMENTS + 10
    assert pieces < guest_module.PEER_FRAMES
    with open_socket(quiet.port) as peer:
        assert enter(peer) == "welcome"
        with contextlib.suppress(OSError):
            peer.socket.sendall(frame(TEXT, b"x", fin=False)
                                + frame(MORE, b"x", fin=False) * pieces)
        with pytest.raises(ConnectionClosed) as caught:
            peer.recv(timeout=LIMIT)
        assert "too many pieces" in caught.value.rcvd.reason


def test_a_peer_that_reads_nothing_may_not_even_send_a_few_pings(quiet):
    """Their answers would pile up in memory behind what it does not read."""
    peer = Client(quiet, "deaf").enter()
    with contextlib.ExitStack() as over:
        over.callback(peer.vanish)
        peer.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        before = -1
        for _ in range(MOST_FETCHES):
            peer.say("fetch", blob=peer.weights, offset=0)
            time.sleep(0.2)
            while before != sent_to(quiet, "deaf"):  # until nothing more fits on its way
                before = sent_to(quiet, "deaf")
                time.sleep(0.3)
        assert before < MOST_FETCHES * 4 * peer.parameters, "all of it fits"
        with contextlib.suppress(OSError):
            peer.socket.socket.sendall(frame(PING, b"") * 100)
        at_events(quiet.page, lambda: sent_to(quiet, "deaf") is None, lambda: "it stays")


def sent_to(hive, name):
    """Bytes that went to a peer, None when it is not there."""
    state = json.loads(asks(hive, "/api/state").partition(b"\r\n\r\n")[2])
    return next((one["bytes_down"] for one in state["peers"] if one["name"] == name), None)


@pytest.fixture
def impatient(processes, tmp_path, text_file):
    """A coordinator that sends a ping every fifth of a second and waits one for the answer."""
    hurried = ("import functools; from hive import server; from hive.network import guest; "
               "from hive.session import protocol; "
               "protocol.PONG_SECONDS = 1.0; "
               "guest.serve = functools.partial(guest.serve, ping_interval=0.2); "
               "import sys; sys.exit(server.main(sys.argv[1:]))")
    place = Place(tmp_path, text_file)
    program = Program(place.folder, "server", "-c", hurried, "--data", text_file, *TINY, "--port",
                      "0", "--dashboard-port", "0", environment={"PYTHONPATH": str(HIVE.parent)})
    place.programs.append(program)
    program.hears("--name my-node")
    yield int(re.search(r"ws://localhost:(\d+)", program.said()).group(1))
    place.clean()


def test_who_answers_no_ping_is_given_up(impatient):
    with raw(impatient, upgrade()) as deaf:
        assert b"keepalive ping timeout" in read_to_the_end(deaf)


@pytest.mark.parametrize("path", ["/hive", "/api/events", None])
def test_a_stranger_does_not_fill_the_memory_with_a_message_that_never_ends(quiet, path):
    with raw(quiet.page if path else quiet.port, upgrade(path or "/")) as stranger:
        assert stranger.recv(12) == b"HTTP/1.1 101"
        with contextlib.suppress(ConnectionError):
            stranger.sendall(bytes([0x82, 0xFF]) + (1 << 20).to_bytes(8, "big") + bytes(4)
                             + bytes(600_000))
        assert b"more than a stranger has to say" in read_to_the_end(stranger)


@pytest.mark.parametrize("words, pieces", [
    (frame(PING, b""), 40_000), (frame(PING, bytes(125)), 3000),
    (frame(TEXT, b"", fin=False) + frame(MORE, b"", fin=False) * 20_000, 1),
    (frame(TEXT, b"x", fin=False) + frame(MORE, b"x", fin=False) * 20_000, 1)],
    ids=["pings", "long pings", "empty pieces", "pieces of one byte"])
@pytest.mark.parametrize("path", ["/hive", "/api/events", None])
def test_a_flood_of_small_frames_ends_its_connection(quiet, words, pieces, path):
    with raw(quiet.page if path else quiet.port, upgrade(path or "/")) as flood:
        assert flood.recv(12) == b"HTTP/1.1 101"
        with contextlib.suppress(ConnectionError, socket.timeout):
            flood.settimeout(10)
            flood.sendall(words * pieces)
        flood.settimeout(LIMIT)
        told = read_to_the_end(flood)
    assert len(told) < 1 << 16 and told.count(b"\x8a") <= 4 * guest_module.STRANGER_FRAMES + 700
    assert b"200 OK" in asks(quiet)


def test_what_an_honest_peer_sends_is_no_flood():
    """Forty rounds a second, on the fastest network: some small messages, large ones for free."""
    bucket, now = Bucket(guest_module.PEER_FRAMES, guest_module.PEER_RATE), 0.0
    for _ in range(40 * 600):
        now += 1 / 40
        assert all(bucket.take(1, now) for _ in range(10))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE", "OPTIONS", "PATCH", "BREW"])
@pytest.mark.parametrize("body", [b"", b"Content-Length: 5\r\n"])
def test_only_get_and_head_are_answered_on_both_ports(quiet, method, body):
    for port in (quiet.page, quiet.port):
        with raw(port, method.encode() + b" /api/state HTTP/1.1\r\nHost: localhost\r\n" + body
                 + b"\r\n" + (b"12345" if body else b"")) as connection:
            answer = read_to_the_end(connection)
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 405 ") and b"\r\nAllow: GET, HEAD" in head
        assert content == b'{"error":"Only GET and HEAD are answered."}'


@pytest.mark.parametrize("words, status", [
    (b"nonsense\r\n\r\n", 400), (b"\0\1\2\r\n\r\n", 400), (b"GET /\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\n\r\n", 400), (b"\r\n\r\n", 400), (b"\x16\x03\x01", 400),
    (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, 431)])
def test_what_is_no_request_is_refused(quiet, words, status):
    for port in (quiet.page, quiet.port):
        with raw(port, words) as connection:
            assert read_to_the_end(connection).startswith(f"HTTP/1.1 {status} ".encode())


# ---- TLS


@pytest.fixture(scope="module")
def certificate(processes, tmp_path_factory):
    """Self-signed, for localhost; and another key that does not belong to it."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=str(folder), check=True, capture_output=True)

    try:
        (folder / "openssl.cnf").write_text(
            "[req]\ndistinguished_name=name\nx509_extensions=more\nprompt=no\n"
            "[name]\nCN=localhost\n[more]\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out",
                "cert.pem", "-days", "9", "-config", "openssl.cnf")
        openssl("genrsa", "-out", "other.pem", "2048")
        openssl("rsa", "-aes256", "-passout", "pass:x", "-in", "key.pem", "-out", "locked.pem")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"there is no openssl here to make a certificate with: {error}")
    (folder / "both.pem").write_text((folder / "cert.pem").read_text()
                                     + (folder / "key.pem").read_text())
    return folder


@pytest.fixture(scope="module")
def secure(processes, tmp_path_factory, text_file, certificate):
    place = Place(tmp_path_factory.mktemp("secure"), text_file)
    program = Program(place.folder, "server", HIVE / "server.py", "--data", text_file, *TINY,
                      "--port", "0", "--dashboard-port", "0", "--min-peers", "99",
                      "--tls-cert", certificate / "both.pem")
    place.programs.append(program)
    program.hears("--name my-node")
    said = program.said()
    context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))

    def connect(port):
        return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=LIMIT),
                                   server_hostname="localhost")

    yield SimpleNamespace(
        program=program, connect=connect, said=said, context=context,
        page=int(re.search(r"https://localhost:(\d+)", said).group(1)),
        port=int(re.search(r"wss://localhost:(\d+)", said).group(1)))
    place.clean()


def test_with_a_certificate_the_page_comes_over_https_and_nothing_without(secure):
    with secure.connect(secure.page) as visitor:
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, _, content = read_to_the_end(visitor).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and content == (HIVE / "index.html").read_bytes()
    with secure.connect(secure.page) as visitor:
        visitor.sendall(b"GET /model.safetensors HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, _, content = read_to_the_end(visitor).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(content)}".encode() in head and len(content) > 4_000_000
    for port in (secure.page, secure.port):
        with raw(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") as plain:
            assert b"HTTP" not in read_to_the_end(plain)


def test_peers_join_over_wss_on_both_ports(secure):
    from websockets.sync.client import connect
    for port, path in ((secure.port, ""), (secure.page, "/hive")):
        with connect(f"wss://localhost:{port}{path}", ssl=secure.context, compression=None,
                     sock=socket.create_connection(("127.0.0.1", port))) as peer:
            assert protocol.unpack(peer.recv(timeout=LIMIT))["type"] == "challenge"


def test_events_over_https_are_for_the_page_itself(secure):
    for origin, status in (("https://localhost", b"101"), ("https://evil.org", b"403")):
        with secure.connect(secure.page) as page:
            page.sendall(upgrade("/api/events")[:-2] + f"Origin: {origin}\r\n\r\n".encode())
            assert page.recv(12) == b"HTTP/1.1 " + status


def test_who_never_finishes_the_handshake_of_tls_keeps_nobody_out(secure):
    with contextlib.ExitStack() as held:
        for _ in range(1100):
            held.enter_context(raw(secure.port, b"\x16\x03\x01\x02\x00\x01"))
        with secure.connect(secure.port) as peer:
            peer.sendall(upgrade())
            assert peer.recv(12) == b"HTTP/1.1 101"


def test_what_is_printed_says_how_to_trust_the_certificate(secure):
    join = next(line for line in secure.said.splitlines() if "--name my-node" in line)
    assert "wss://localhost" in join and "--tls-ca" in join and "both.pem" in join
    assert "Nothing here is encrypted" not in secure.said


@pytest.mark.parametrize("cert, key, words", [
    (None, "key.pem", "--tls-cert"), ("nothing.pem", None, "cannot be read"),
    ("cert.pem", "nothing.pem", "cannot be read"), (".", None, "cannot be read"),
    ("cert.pem", "other.pem", "is not the key"), ("cert.pem", None, "--tls-key"),
    ("key.pem", "key.pem", "no certificate"), ("openssl.cnf", None, "no certificate"),
    ("cert.pem", "locked.pem", "passphrase")])
def test_a_certificate_that_cannot_be_used_is_one_sentence(certificate, capsys, cert, key, words):
    options = [*(["--tls-cert", str(certificate / cert)] if cert else []),
               *(["--tls-key", str(certificate / key)] if key else [])]
    assert server.main(options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


@pytest.mark.parametrize("tls", [False, True])
def test_what_would_be_readable_on_the_way_is_said_in_words(tmp_path, text_file, certificate, tls):
    place = Place(tmp_path, text_file)
    options = ("--tls-cert", certificate / "both.pem") if tls else ()
    with contextlib.ExitStack() as over:
        over.callback(place.clean)
        program = Program(place.folder, "server", HIVE / "server.py", "--data", text_file, *TINY,
                          "--port", "0", "--dashboard-port", "0", "--host", "0.0.0.0", *options)
        place.programs.append(program)
        program.hears("--name my-node")
        assert ("Nothing here is encrypted" in program.said()) is not tls


# ---- A trusted proxy, on both ports


@pytest.mark.process
def test_behind_a_trusted_proxy_each_address_has_its_own_places(tmp_path, text_file):
    """One takes all pages it may have; another still gets one, as the first does not any more."""
    place = Place(tmp_path, text_file)
    with contextlib.ExitStack() as over:
        over.callback(place.clean)
        hive = place.coordinator("--min-peers", 99, "--trusted-proxy", "127.0.0.1")

        def page(address):
            connection = over.enter_context(raw(hive.page, upgrade("/api/events")[:-2]
                                                + f"X-Forwarded-For: {address}\r\n\r\n".encode()))
            return connection.recv(12)

        heard = [page(THERE) for _ in range(20)]
        assert heard == [b"HTTP/1.1 101"] * 16 + [b"HTTP/1.1 503"] * 4
        assert page(f"{THERE}, {ELSEWHERE}") == b"HTTP/1.1 101"
        wrong = over.enter_context(raw(hive.port, upgrade()[:-2] + (
            f"X-Forwarded-For: {THERE}\r\n\r\n").encode() + b""))
        assert wrong.recv(12) == b"HTTP/1.1 101"
        wrong.sendall(frame(TEXT, b"[]"))
        hive.hears(f"refused   {THERE}:")


