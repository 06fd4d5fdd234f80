"""Whatever is said to a hive, in whatever order, is understood or refused, and it goes on."""
import base64
import contextlib
import json
import os
import re
import socket
import struct
from pathlib import Path

import pytest
from builders import anything, make_job, values_of
from fuzzing import changes, damage, end, fuzz, memory_at_most
from hive_processes import LIMIT, Client, Place
from hypothesis import strategies as st

from gltch_2_7m import GltchError
from hive.books import applying
from hive.session import protocol
from hive.session.job import LARGEST, MOST_PARAMETERS, Job, parameters_of
from hive.session.protocol import (
    CHUNK_HEADER,
    MESSAGE_BYTES,
    MESSAGES,
    NAME_LENGTH,
    ProtocolError,
    Receiver,
    clean_name,
    name_of,
    pack,
    unpack,
)
from hive.text import TEXT

ConnectionClosed = pytest.importorskip("websockets.exceptions").ConnectionClosed
FAIR = 64  # bytes of memory for a byte of JSON: a list of lists needs that many

# --------------------------------------------------------------------------------------------------
# Control messages
# --------------------------------------------------------------------------------------------------

HOSTILE = [
    "1e400", "-1e400", "9" * 4300, "9" * 10_000, "-0", "1.0", "1e0", "NaN", "Infinity", "-Infinity",
    '"\\ud800"', '"\\udfff\\ud800"', "\ud800", '"\0"', "[" * 200 + "]" * 200, "[" * 100_000,
    '{"a":' * 200 + "1" + "}" * 200, "null", "true", '"' + "x" * 5000 + '"', '{"type":"goodbye"}',
    '"type":"goodbye",', '"type":"hello",', ",", "}", "{", "\\", '"', "\ufeff", "\u0661", "/* */"]


@st.composite
def messages(draw, kinds=tuple(MESSAGES)):
    """A valid control message."""
    kind = draw(st.sampled_from(kinds))
    return {"type": kind,
            **{name: draw(values_of(field)) for name, field in MESSAGES[kind].items()}}


def understood(text):
    """What `unpack` says, once that is known to be a valid message or None; nothing else."""
    try:
        message = unpack(text)
    except ProtocolError as error:
        said = str(error)
        assert said.isprintable() and said.endswith(".") and len(said) < 500
        return None
    fields = MESSAGES[message["type"]]
    assert set(message) == {"type", *fields}
    assert all(field.holds(message[name]) for name, field in fields.items())
    if message["type"] != "welcome":  # what its job holds is checked where it is used
        assert json.dumps(message, allow_nan=False)
    return message


@fuzz(100, message=messages(), indent=st.none() | st.integers(0, 3), ascii_only=st.booleans())
def test_a_valid_message_is_understood_however_it_is_written(message, indent, ascii_only):
    text = json.dumps(message, indent=indent, ensure_ascii=ascii_only)
    assert understood(text) == message
    assert understood(pack(message["type"], **message))


@fuzz(300, message=messages(), edits=st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 30), st.sampled_from(HOSTILE) | st.text(max_size=5)),
    min_size=1, max_size=3))
def test_a_message_with_changed_text_is_a_valid_one_or_refused(message, edits):
    text = json.dumps(message)
    for place, length, inserted in edits:
        at = int(place * len(text))
        text = text[:at] + inserted + text[at + length:]
    understood(text)


@fuzz(300, message=messages(), data=st.data())
def test_a_message_with_changed_values_is_a_valid_one_or_refused(message, data):
    parts = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in message.items()]
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from([*message, "another"]))
        value = data.draw(st.sampled_from(HOSTILE) | anything.map(json.dumps))
        place = data.draw(st.integers(0, len(parts)))
        parts[place: place + data.draw(st.integers(0, 1))] = [f'"{name}":{value}']  # or twice
    understood("{" + ",".join(parts) + "}")


def full(opening, item, closing):
    """A message as long as one may be, of one thing over and over."""
    return opening + item * ((MESSAGE_BYTES - len(opening) - len(closing)) // len(item)) + closing


@pytest.mark.parametrize("opening", ['{"type":"refused","reason":', '{"type":', ""])
@pytest.mark.parametrize("before, item, after", [
    ("[", "{},", "0]"), ("[", "9" * 4300 + ",", "0]"), ("[", '"\\u0100",', "0]"),
    ("{", '"":0,', '"":0}'),
    ('"', "\\u0000", '"'), ('"', "\U0001f480", '"'), ("", "9", ""), ("", "[", ""),
    ("", '{"":', ""),
], ids=repr)
def test_no_message_takes_more_memory_than_its_length_explains(opening, before, item, after):
    text = full(opening + before, item, after + ("}" if opening else ""))
    with memory_at_most(FAIR * len(text)):
        assert understood(text) is None


@pytest.mark.parametrize("depth", range(1, 1200, 7))
def test_no_depth_in_any_field_does_harm(depth):
    nested = "[" * depth + "]" * depth
    for text in (f'{{"type":{nested}}}', f'{{"type":"gone","blob":{nested}}}',
                 f'{{"type":"gone","blob":{{"a":{nested}}}}}'):
        assert understood(text) is None


# --------------------------------------------------------------------------------------------------
# Blobs
# --------------------------------------------------------------------------------------------------

CONTENT = bytes(range(100))
START = bytes.fromhex(name_of(CONTENT))[:8]
places = st.integers(0, 101) | st.sampled_from([2**31, 2**63, 2**64 - 1])


@fuzz(200, size=st.integers(0, 120), sent=st.lists(st.one_of(
    st.tuples(st.just("next"), st.integers(0, 60), st.booleans()),
    st.tuples(st.just("at"), places, st.integers(0, 60)),
    st.tuples(st.just("raw"), st.binary(max_size=40), st.booleans())), max_size=12))
def test_a_transfer_holds_exactly_what_continued_it(size, sent):
    """Against the plainest receiver there is: bytes, and whether the next ones fit."""
    receiver, arrived = Receiver(name_of(CONTENT), size), b""
    for kind, what, how in sent:
        if kind == "raw":
            message = (START if how else b"") + what
        else:
            offset, length = (len(arrived), what) if kind == "next" else (what, how)
            start = START if kind == "at" or how else START[::-1]
            message = CHUNK_HEADER.pack(start, offset) + (CONTENT * 3)[offset % 100:][:length]
        header, piece = message[:16], message[16:]
        fits = header == CHUNK_HEADER.pack(START, len(arrived)) and (
            0 < len(piece) <= size - len(arrived))
        try:
            receiver.add(message)
            assert fits
            arrived += piece
        except ProtocolError:
            assert not fits
        assert receiver.content == arrived and receiver.complete == (len(arrived) == size)
    try:
        assert receiver.result() == CONTENT == arrived
    except ProtocolError:
        assert arrived != CONTENT


def test_many_small_chunks_take_no_more_memory_than_they_carry():
    receiver = Receiver(name_of(CONTENT), protocol.BLOB_BYTES)
    with memory_at_most(100_000):
        for offset in range(20_000):
            receiver.add(CHUNK_HEADER.pack(START, offset) + b"x")


# --------------------------------------------------------------------------------------------------
# Names
# --------------------------------------------------------------------------------------------------

@fuzz(300, name=st.text(max_size=100) | st.text(st.characters(categories=["M", "Z", "C", "Lo"])),
      known=[{"name": "a" * 31 + " b"}, {"name": "\U0001f480" * 40}, {"name": "\ufdfa" * 40}])
def test_any_name_is_shown_on_one_line_of_bounded_length(name):
    shown = clean_name(name, "peer")
    assert 1 <= len(shown) <= NAME_LENGTH and shown.isprintable() and shown == shown.strip()
    assert clean_name(shown, "other") == shown  # it means the same to everybody
    assert pack("welcome", proof="0" * 64, peer="p", name=shown, token="0" * 64, counted=[], job={})


INVISIBLE = ("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\ufe00\ufe0f\uffa0"
             "\U0001d159\U000e0100\U000e01ef")  # letters, marks and signs without a shape


@pytest.mark.parametrize("letter", INVISIBLE, ids=ascii)
def test_a_name_of_letters_without_a_shape_is_replaced(letter):
    assert clean_name(letter, "peer") == "peer"
    assert clean_name(f"{letter} {letter}\n", "peer") == "peer"
    assert clean_name(f"Ada{letter}", "peer").startswith("Ada")


# --------------------------------------------------------------------------------------------------
# Descriptions of a run
# --------------------------------------------------------------------------------------------------

JOB = make_job().as_json()
parts = [(), ("config",), ("recipe",), ("sync",), ("limits",)]


@fuzz(250, edits=st.lists(st.tuples(
    st.sampled_from(parts), st.integers(0, 30), anything | st.sampled_from(
        [10**4000, 2**31, 1e308, "q4", "fp32", "cuda", {}, {"n_embd": 1}, ["n_embd"]])),
    min_size=1, max_size=3), added=st.none() | st.text(max_size=9))
def test_a_description_is_a_job_within_the_limits_or_a_sentence(edits, added):
    described = json.loads(json.dumps(JOB))
    for path, number, value in edits:
        part = described
        for name in path:
            part = part.get(name) if isinstance(part, dict) else None
        if isinstance(part, dict) and part:
            part[list(part)[number % len(part)]] = value
            if added is not None:
                part[added] = value
    job_or_none(described)


@fuzz(100, value=anything | st.dictionaries(st.sampled_from(list(JOB)), anything))
def test_anything_at_all_is_a_job_within_the_limits_or_a_sentence(value):
    job_or_none(value)


def job_or_none(described):
    try:
        job = Job.from_json(described)
    except GltchError:
        return
    assert all(1 <= getattr(job.config, name) <= most for name, most in LARGEST.items())
    assert parameters_of(job.config) <= MOST_PARAMETERS
    assert len(job.vocabulary) == job.config.vocab_size
    assert 1 <= job.sync.quota(0, job.limits.total(0, 0, 0.0), job.recipe) < 2**31
    assert unpack(pack("welcome", proof="0" * 64, peer="p", name="Ada", token="0" * 64, counted=[],
                       job=job.as_json()))["job"] == job.as_json()


@pytest.mark.parametrize("path", [("config", "n_embd"), ("recipe", "optimizer"), ("sync", "up"),
                                  ("limits", "steps"), ("hive",)])
def test_a_description_of_any_depth_is_a_sentence(path):
    for depth in range(800, 1000):
        described = json.loads(json.dumps(JOB))
        part, nested = described, []
        for _ in range(depth):
            nested = [nested]
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = nested
        with pytest.raises(GltchError):
            Job.from_json(described)


@pytest.mark.parametrize("part, name, value", [
    ("config", "\x1b[2J\n", 1), ("config", "n_embd", "x" * 500_000), ("config", "y" * 500_000, 1),
    ("recipe", "optimizer", ["\x1b"] * 100_000), ("config", "n_layer", 10**4000)],
    ids=["escape sequence", "long value", "long name", "long list", "long number"])
def test_what_is_wrong_with_a_description_is_one_short_line(part, name, value):
    described = json.loads(json.dumps(JOB))
    described[part][name] = value
    with pytest.raises(GltchError) as error:
        Job.from_json(described)
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


# --------------------------------------------------------------------------------------------------
# Frames, on both ports of a coordinator
# --------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def hive(processes, tmp_path_factory, text_file):
    """A coordinator that has to bear all that follows. In the end it has said no traceback."""
    place = Place(tmp_path_factory.mktemp("fuzz"), text_file)
    try:
        hive = place.coordinator("--rounds", "1000000", "--round-seconds", "1")
        honest(hive, "before")
        hive.memory = most_memory(hive)
        yield hive
    finally:
        place.clean()


def most_memory(hive):
    """The most that the coordinator ever took, in bytes."""
    status = Path(f"/proc/{hive.process.pid}/status")
    if not status.exists():
        return 0  # only Linux tells
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text()).group(1))


def goes_on(hive):
    assert hive.process.poll() is None, hive.said()
    assert hive.ask("/healthz")[0] == 200


def honest(hive, name):
    """A peer can join and what it delivers counts."""
    client = Client(hive, name).enter()
    try:
        client.start()
        assert client.deliver(client.update())["verdict"] == "accepted", hive.said()
        client.hear("commit")
    finally:
        client.vanish()


def key():
    return base64.b64encode(os.urandom(16)).decode()


def upgrade(path="/", **headers):
    fields = {"Host": "localhost", "Upgrade": "websocket", "Connection": "Upgrade",
              "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key(), **headers}
    return (f"GET {path} HTTP/1.1\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n").encode()


def frame(first, content, mask=b"\1\2\3\4", announced=None, wide=False):
    """A WebSocket frame, also one that must not be. `first`: FIN, three reserved bits, opcode."""
    length = len(content) if announced is None else announced
    if length > 0xffff or wide:
        second, more = 127, struct.pack(">Q", length)
    else:
        second, more = (126, struct.pack(">H", length)) if length > 125 else (length, b"")
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(content)) if mask else content
    return bytes([first, second | (0x80 if mask else 0)]) + more + mask + masked


frames = st.one_of(
    st.builds(frame, st.sampled_from([0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8a])
              | st.integers(0, 255),
              st.binary(max_size=200) | st.just(b"x" * 70_000)
              | messages().map(lambda m: json.dumps(m).encode()),
              st.sampled_from([b"\1\2\3\4", b"\1\2\3\4", b"\0\0\0\0", b""]),
              st.none() | st.sampled_from([0, 1, 126, 2**16, 2**20, 2**20 + 1, 2**31, 2**63,
                                           2**64 - 1]), st.booleans()),
    st.binary(max_size=50))


def exchange(port, parts, wait=True):
    """Send the parts one by one and, politely, wait until the other side has had enough."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as connection:
        with contextlib.suppress(ConnectionError):  # it may hang up in the middle
            for part in parts:
                connection.sendall(part)
            if wait:
                end(connection)
                while connection.recv(1 << 16):
                    pass


ports = st.sampled_from([("port", "/"), ("page", "/hive"), ("page", "/api/events")])


@fuzz(40, where=ports, parts=st.lists(
    st.binary(max_size=100) | st.sampled_from([b"\r\n", b"GET ", b"/ HTTP/1.1\r\n", b"\0" * 9000,
                                               b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"])
    | st.just(upgrade()).flatmap(lambda good: changes.map(lambda how: damage(good, how))),
    min_size=1, max_size=4), wait=st.booleans())
def test_bytes_before_the_handshake_do_no_harm(hive, where, parts, wait):
    exchange(getattr(hive, where[0]), parts, wait)
    goes_on(hive)


@fuzz(80, where=ports, parts=st.lists(frames, max_size=6), wait=st.booleans())
def test_frames_of_any_kind_do_no_harm(hive, where, parts, wait):
    exchange(getattr(hive, where[0]), [upgrade(where[1]), *parts], wait)
    goes_on(hive)


# --------------------------------------------------------------------------------------------------
# A peer that has the key and says anything
# --------------------------------------------------------------------------------------------------

FROM_PEERS = ("ready", "offer", "fetch", "progress", "goodbye")


@st.composite
def sayings(draw):
    """Something a peer may say, often about the weights and updates that there are: those marks
    are replaced when it is said."""
    said = draw(messages(kinds=draw(st.sampled_from([FROM_PEERS, tuple(MESSAGES)]))))
    said = {name: value[:200] if isinstance(value, str) else value for name, value in said.items()}
    for name, marks in {"version": ("current", "next", "before"), "weights": ("weights",),
                        "blob": ("weights", "text", "update"), "update": ("update",),
                        "bytes": ("size",), "codec": ("q4", "fp32"), "steps": (1,)}.items():
        if name in said and draw(st.booleans()):
            said[name] = ("mark", draw(st.sampled_from(marks)))
    return said


pieces = st.tuples(st.just("chunk"), st.integers(0, 2), st.sampled_from([1, 100, 300_000])
                   ) | st.binary(max_size=60)


@fuzz(40, said=st.lists(sayings() | pieces, max_size=8), wait=st.booleans())
def test_a_peer_may_say_anything_and_the_hive_goes_on(hive, said, wait):
    client = Client(hive, "talker").enter()
    update = client.update()
    marks = {"current": client.version, "next": client.version + 1, "size": len(update),
             "before": max(0, client.version - 1), "weights": client.weights,
             "text": name_of((hive.run / TEXT).read_bytes()), "update": name_of(update)}

    def written(what):
        if isinstance(what, bytes):
            return what
        if isinstance(what, tuple):
            _, number, length = what
            ready = list(protocol.chunks(name_of(update), update))
            return ready[min(number, len(ready) - 1)][:length]
        return json.dumps({name: marks.get(value[1], value[1]) if isinstance(value, tuple)
                           else value for name, value in what.items()})

    with contextlib.suppress(ConnectionClosed):
        for what in said:
            client.socket.send(written(what))
    if wait:
        client.socket.close()
    client.vanish()
    goes_on(hive)


def test_after_all_that_honest_peers_join_and_count_and_little_memory_was_taken(hive):
    hive.until(lambda: not hive.state()["peers"], "the talkers never left")
    honest(hive, "after")
    with hive.journal() as journal:
        assert max(journal.verify(applying(Job.from_json(journal.run or {})))) == journal.last
    assert most_memory(hive) < hive.memory + 150e6
