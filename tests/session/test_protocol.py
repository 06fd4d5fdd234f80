"""The protocol: what is said is understood to the letter, and nothing else is ever accepted."""
import json
import math
import tracemalloc
import unicodedata
from unittest import mock

import pytest
from builders import anything, make_token, values_of
from hypothesis import given, settings
from hypothesis import strategies as st

from hive.session import protocol
from hive.session.protocol import (
    BLOB_BYTES,
    CHUNK_BYTES,
    CHUNK_HEADER,
    MESSAGE_BYTES,
    MESSAGES,
    NAME_LENGTH,
    VERSION,
    Digest,
    Flag,
    Maybe,
    Number,
    Object,
    OneOf,
    ProtocolError,
    Receiver,
    Several,
    Text,
    Whole,
    check_hello,
    check_versions,
    check_welcome,
    chunks,
    clean_name,
    name_of,
    pack,
    proof,
    unpack,
)

quick = settings(deadline=None, max_examples=50)
every_type = pytest.mark.parametrize("kind", list(MESSAGES))
every_field = pytest.mark.parametrize("kind, name", [
    (kind, name) for kind, fields in MESSAGES.items() for name in fields])
HASH = "0123456789abcdef" * 4
KEY, NONCE, OWN = "the key of this hive", make_token(), make_token()


def sentence(error):
    """What the person reads: one line that ends with a full stop."""
    text = str(error.value)
    assert text.isprintable() and text[0].isupper() and text.endswith(".") and len(text) < 500
    return text


def refused(message):
    text = message if isinstance(message, str) else json.dumps(message)
    with pytest.raises(ProtocolError) as error:
        unpack(text)
    return sentence(error)


# --- Control messages -----------------------------------------------------------------------------

def wrong_for(field):
    """One of each sort of thing that a field may not hold."""
    if isinstance(field, Maybe):
        return [value for value in wrong_for(field.kind) if value is not None]
    if isinstance(field, Several):
        right = smallest(field.kind)
        return [None, right, {}, "", [right] * (field.most + 1),
                *([right, value] for value in wrong_for(field.kind))]
    if isinstance(field, Text):
        return [None, True, 5, [], {}, ["a"], "x" * (field.longest + 1)]
    if isinstance(field, OneOf):
        return [None, True, 5, [], {}, list(field.words), "", field.words[0].upper(), "gpu"]
    if isinstance(field, (Number, Whole)):
        wrong = [None, True, False, "1", [], {}, math.nan, math.inf, -math.inf, 10**400,
                 field.least - 1, field.most + 1]
        return wrong + [1.0, 1.5] if isinstance(field, Whole) else wrong
    return {Flag: [None, 0, 1, "true", []], Object: [None, True, 1, "{}", []],
            Digest: [None, True, 5, [], list(HASH), "", HASH[1:], HASH + "0", HASH.upper(),
                     "g" + HASH[1:], "\u0661" + HASH[1:]]}[type(field)]


def smallest(field):
    return {Text: lambda f: "", Flag: lambda f: False, Object: lambda f: {},
            Digest: lambda f: HASH, OneOf: lambda f: f.words[0], Maybe: lambda f: None,
            Several: lambda f: [], Number: lambda f: f.least,
            Whole: lambda f: f.least}[type(field)](field)


def example(kind):
    """A message of a type in which every field has its smallest value."""
    return {"type": kind, **{name: smallest(field) for name, field in MESSAGES[kind].items()}}


@every_type
@quick
@given(data=st.data())
def test_every_message_comes_out_as_it_went_in(kind, data):
    values = {name: data.draw(values_of(field)) for name, field in MESSAGES[kind].items()}
    text = pack(kind, **values)
    assert isinstance(text, str) and unpack(text) == {"type": kind, **values}


@every_type
def test_an_extra_field_is_refused(kind):
    assert unpack(json.dumps(example(kind))) == example(kind)
    assert f"The message {kind} of version" in refused({**example(kind), "more": 1})


@every_field
def test_a_missing_field_is_refused(kind, name):
    message = example(kind)
    del message[name]
    said = refused(message)
    assert f"The message {kind} of version" in said and name in said


@every_field
def test_a_field_with_a_wrong_value_is_refused_by_name(kind, name):
    for value in wrong_for(MESSAGES[kind][name]):
        said = refused({**example(kind), name: value})
        assert f"field {name} of the message {kind}" in said


@every_field
def test_a_message_with_a_wrong_value_is_never_sent(kind, name):
    for value in wrong_for(MESSAGES[kind][name]):
        fields = {**example(kind), name: value}
        del fields["type"]
        with pytest.raises((ProtocolError, ValueError)):
            pack(kind, **fields)


def test_a_hello_of_an_older_version_hears_which_fields_which_version_has():
    older = {**example("hello"), "protocol": VERSION - 1}
    del older["kind"]
    assert f"The message hello of version {VERSION} of the protocol" in refused(older)


def test_a_job_that_json_cannot_carry_is_never_sent():
    fields = {**example("welcome"), "job": {"rate": math.nan}}
    del fields["type"]
    with pytest.raises(ValueError):
        pack("welcome", **fields)


@pytest.mark.parametrize("kind", ["", "shutdown", "Hello", "hello ", "__class__", 5, None, True,
                                  ["hello"], {"hello": 1}, "\x1b[2J\n" * 9, "x" * 100_000])
def test_an_unknown_type_is_refused(kind):
    assert f"in version {VERSION} of the protocol" in refused({"type": kind})


@pytest.mark.parametrize("text, reason", [
    ("", "not JSON"), ("hello", "not JSON"), ('{"type":"goodbye"', "not JSON"),
    ('{"type":"goodbye"}{}', "not JSON"), ("\ud800", "not JSON"), ("\0", "not JSON"),
    ("[]", "not a JSON object"), ("5", "not a JSON object"), ("null", "not a JSON object"),
    ('"goodbye"', "not a JSON object"), ('["type"]', "not a JSON object"), ("{}", "no message"),
    ('{"type":"goodbye"}' + " " * MESSAGE_BYTES, "too long"),
])
def test_what_is_no_message_is_refused_with_the_reason(text, reason):
    assert reason in refused(text)


@quick
@given(st.text() | st.text('{}[]":,0123456789eE.-+ typ\\u\n'))
def test_no_text_at_all_does_harm(text):
    with pytest.raises(ProtocolError):
        unpack(text)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([*MESSAGES, "other"]), st.data())
def test_no_json_at_all_does_harm(kind, data):
    message = example(kind) if kind in MESSAGES else {"type": kind}
    for name in data.draw(st.lists(st.sampled_from([*message, "extra"]), max_size=2, unique=True)):
        message[name] = data.draw(anything)
    try:
        assert set(unpack(json.dumps(message))) == {"type", *MESSAGES[message["type"]]}
    except ProtocolError as error:
        assert str(error).endswith(".")


@pytest.mark.parametrize("opening, closing", ["[]", ['{"a":', "}"]])
@pytest.mark.parametrize("before, after", [
    ("", ""), ('{"type":', "}"), ('{"type":"refused","reason":', "}"),
    ('{"type":"welcome","proof":"","peer":"","name":"","token":"","counted":[],"job":{"a":', "}}"),
])
def test_no_depth_of_nesting_does_harm(opening, closing, before, after):
    for depth in [*range(900, 1010), 100_000]:
        with pytest.raises(ProtocolError):
            unpack(before + opening * depth + "1" + closing * depth + after)


# --- Blobs ----------------------------------------------------------------------------------------


def receive(content, messages):
    receiver = Receiver(name_of(content), len(content))
    for message in messages:
        assert not receiver.complete
        receiver.add(message)
    return receiver


@quick
@given(st.binary(max_size=500), st.integers(1, 64))
def test_a_blob_in_chunks_of_any_size_arrives_whole(content, size):
    with mock.patch.object(protocol, "CHUNK_BYTES", size):
        messages = list(chunks(name_of(content), content))
    receiver = receive(content, messages)
    assert receiver.complete and receiver.result() == content
    assert len(messages) == math.ceil(len(content) / size)


@quick
@given(st.binary(min_size=1, max_size=500), st.integers(1, 64), st.lists(st.integers(0, 9)))
def test_a_transfer_goes_on_where_it_stopped_however_often_it_is_interrupted(content, size, stops):
    receiver = Receiver(name_of(content), len(content))
    with mock.patch.object(protocol, "CHUNK_BYTES", size):
        for stop in [*stops, len(content)]:  # messages that pass before the connection breaks
            sending = chunks(name_of(content), content, len(receiver.content))
            for _, message in zip(range(stop), sending):
                receiver.add(message)
    assert receiver.complete and receiver.result() == content


@quick
@given(st.binary(min_size=1, max_size=500), st.data())
def test_chunks_from_an_offset_carry_the_rest(content, data):
    offset = data.draw(st.integers(0, len(content)))
    with mock.patch.object(protocol, "CHUNK_BYTES", 16):
        messages = list(chunks(name_of(content), content, offset))
    assert b"".join(message[CHUNK_HEADER.size:] for message in messages) == content[offset:]


def test_a_large_blob_never_becomes_a_large_message():
    content = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"rest"
    messages = list(chunks(name_of(content), content))
    assert [len(message) for message in messages] == [CHUNK_HEADER.size + length for length in
                                                      (CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, 4)]
    assert max(map(len, messages)) <= MESSAGE_BYTES / 2
    assert receive(content, messages).result() == content


def test_an_empty_blob_is_there_at_once():
    assert list(chunks(name_of(b""), b"")) == []
    receiver = Receiver(name_of(b""), 0)
    assert receiver.complete and receiver.result() == b""


CONTENT = bytes(range(100))
START = bytes.fromhex(name_of(CONTENT))[:8]


def chunk(offset, content, start=START):
    return CHUNK_HEADER.pack(start, offset) + content


@pytest.mark.parametrize("message", [
    chunk(0, CONTENT[:40]), chunk(39, CONTENT[39:]), chunk(41, CONTENT[41:]),
    chunk(2**64 - 1, CONTENT[40:]),
], ids=["again", "overlapping", "with a gap", "far away"])
def test_a_chunk_out_of_order_is_refused(message):
    receiver = receive(CONTENT, [chunk(0, CONTENT[:40])])
    with pytest.raises(ProtocolError, match="40 of 100 bytes") as error:
        receiver.add(message)
    assert sentence(error)
    receiver.add(chunk(40, CONTENT[40:]))
    assert receiver.result() == CONTENT


@pytest.mark.parametrize("message, reason", [
    (chunk(0, CONTENT, b"another!"), "belongs to no transfer"),
    (chunk(0, CONTENT + b"!"), "does not continue"),
    (chunk(0, b""), "does not continue"),
    (chunk(0, b"")[:-1], "too short"),
    (b"", "too short"),
], ids=["of another blob", "too long", "empty", "half a header", "nothing"])
def test_a_chunk_that_is_none_is_refused_and_changes_nothing(message, reason):
    receiver = Receiver(name_of(CONTENT), 100)
    with pytest.raises(ProtocolError, match=reason) as error:
        receiver.add(message)
    assert sentence(error)
    receiver.add(chunk(0, CONTENT))
    assert receiver.result() == CONTENT


def test_a_chunk_after_the_last_is_refused():
    receiver = receive(CONTENT, [chunk(0, CONTENT)])
    with pytest.raises(ProtocolError):
        receiver.add(chunk(100, b"!"))


@quick
@given(st.binary(max_size=60))
def test_no_binary_message_at_all_does_harm(message):
    receiver = Receiver(name_of(CONTENT), 100)
    with pytest.raises(ProtocolError):
        receiver.add(message)


@quick
@given(st.integers(0, 799))
def test_a_single_damaged_bit_is_noticed(bit):
    damaged = bytearray(CONTENT)
    damaged[bit // 8] ^= 1 << bit % 8
    receiver = receive(CONTENT, [chunk(0, bytes(damaged))])
    assert receiver.complete
    with pytest.raises(ProtocolError, match="damaged") as error:
        receiver.result()
    assert sentence(error)


def test_half_a_blob_is_not_given_out():
    receiver = receive(CONTENT, [chunk(0, CONTENT[:50])])
    assert not receiver.complete
    with pytest.raises(ProtocolError):
        receiver.result()


def test_memory_is_taken_for_what_arrives_not_for_what_was_announced():
    tracemalloc.start()
    try:
        receiver = Receiver(name_of(CONTENT), BLOB_BYTES)
        receiver.add(chunk(0, CONTENT))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size, limit", [(BLOB_BYTES + 1, BLOB_BYTES), (101, 100), (1, 0)])
def test_a_transfer_announced_as_too_large_is_refused(size, limit):
    with pytest.raises(ProtocolError) as error:
        Receiver(name_of(CONTENT), size, limit)
    assert f"{size:,}" in sentence(error) and f"{limit:,}" in str(error.value)
    assert not Receiver(name_of(CONTENT), limit + 1, limit + 1).complete


# --- The handshake --------------------------------------------------------------------------------


def hello(key=KEY, role="peer", first=NONCE, second=OWN, version=VERSION):
    return {"protocol": version, "nonce": OWN, "proof": proof(key, role, first, second)}


def welcome(key=KEY, role="coordinator", first=NONCE, second=OWN):
    return {"proof": proof(key, role, first, second)}


@pytest.mark.parametrize("key", [KEY, "", "5f" * 32, "schlüssel 🔑"])
def test_with_the_same_key_both_sides_agree(key):
    check_hello(hello(key), key, NONCE)
    check_welcome(welcome(key), key, NONCE, OWN)


CHEATS = {"another key": {"key": "another"}, "no key": {"key": ""},
          "a longer key": {"key": KEY + "0"}, "the proof of the other side": {},
          "another nonce": {"first": make_token()}, "its own other nonce": {"second": make_token()},
          "swapped nonces": {"first": OWN, "second": NONCE}}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_peer_without_the_key_is_refused(cheat):
    change = CHEATS[cheat] or {"role": "coordinator"}
    with pytest.raises(ProtocolError, match="key is wrong or missing") as error:
        check_hello(hello(**change), KEY, NONCE)
    assert KEY not in sentence(error)


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_coordinator_without_the_key_is_refused(cheat):
    change = CHEATS[cheat] or {"role": "peer"}
    with pytest.raises(ProtocolError, match="does not have the key") as error:
        check_welcome(welcome(**change), KEY, NONCE, OWN)
    assert KEY not in sentence(error)


def test_a_proof_overheard_opens_no_second_connection():
    overheard = hello()
    check_hello(overheard, KEY, NONCE)
    with pytest.raises(ProtocolError):
        check_hello(overheard, KEY, make_token())


def test_the_key_itself_never_travels():
    said = [pack("challenge", protocol=VERSION, hive="h", nonce=NONCE, locked=True),
            pack("hello", **hello(), name="Ada", device="a laptop", kind="cpu",
                 process=make_token(), token=None, text=None),
            pack("welcome", **welcome(), peer="p1", name="Ada", token=make_token(), counted=[],
                 job={})]
    for text in said:
        assert KEY not in text and name_of(KEY.encode()) not in text


@pytest.mark.parametrize("peer, coordinator, behind", [(1, 2, "peer"), (3, 2, "coordinator")])
def test_of_two_versions_the_older_side_is_told_to_update(peer, coordinator, behind):
    check_versions(coordinator, coordinator)
    with pytest.raises(ProtocolError) as error:
        check_versions(peer, coordinator)
    assert f"update the {behind} " in sentence(error)
    assert f"version {peer}" in str(error.value) and f"version {coordinator}" in str(error.value)


def test_a_peer_of_another_version_hears_that_before_anything_about_keys():
    with pytest.raises(ProtocolError, match="update the coordinator"):
        check_hello(hello(key="another", version=VERSION + 1), KEY, NONCE)


# --- Names ----------------------------------------------------------------------------------------

BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
INVISIBLE = "\n\r\t\0\x1b\x7f\x85\u2028\u2029\u00a0\u200b\u200d\ufeff\ud800\U000e0001 "


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=80) | st.text(st.sampled_from(BIDI + INVISIBLE)
                                         | st.characters(), max_size=80))
def test_a_name_becomes_short_printable_and_one_line_whatever_was_sent(name):
    shown = clean_name(name, "peer")
    assert 1 <= len(shown) <= NAME_LENGTH and Text(NAME_LENGTH).holds(shown)
    assert shown.isprintable() and not set(shown) & set(BIDI)
    assert not any(unicodedata.category(c)[0] == "C" for c in shown)
    assert shown == " ".join(shown.split()) == clean_name(shown, "other")
    assert set(shown) <= set(name) or shown == "peer"
    assert shown.encode()


@pytest.mark.parametrize("name, shown", [
    ("Ada", "Ada"), ("  Ada \t\n Lovelace  ", "Ada Lovelace"), ("Zoë 🎭 生存", "Zoë 🎭 生存"),
    ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),
    ("\u202eevil\u202c", "evil"), ("\x1b[31mred\x1b[0m", "[31mred[0m"), ("x" * 100, "x" * 32),
    ("x" * 31 + " and more", "x" * 31),
])
def test_names_are_shown_like_this(name, shown):
    assert clean_name(name, "peer") == shown


@pytest.mark.parametrize("name", ["", " ", "\n", BIDI, "\0\x1b", "\ud800", "\u00a0\u2003"])
def test_a_name_of_nothing_visible_is_replaced(name):
    assert clean_name(name, "peer") == "peer"
