"""What travels between coordinator and peers, as pure data: no sockets, no clocks, no tensors.

Control messages are JSON objects with a `type`, checked field by field against `MESSAGES`. Large
things (text, weights, updates) are blobs named by their SHA-256 and cut into chunks, each a binary
message of its own: so pings never queue behind megabytes, and an interrupted transfer goes on where
it stopped. `docs/hive.md` shows who says what when.
"""
from __future__ import annotations

import hashlib
import hmac
import json
import struct
import unicodedata
from typing import Any, Dict, Iterator, NamedTuple, Optional, Protocol, Tuple, get_args

from gltch_2_7m import GltchError
from hive.network.words import INVISIBLE
from hive.session.messages import Hello, Kind, Welcome
from hive.session.record import LATELY

VERSION = 3
CHUNK_BYTES = 96 * 1024  # of content in one binary message
MESSAGE_BYTES = 1 << 20  # the longest message of either kind
BLOB_BYTES = 1 << 31  # the largest blob anyone accepts
PONG_SECONDS = 120.0  # to answer a ping, behind a slow uplink or a long step
NAME_LENGTH = 32  # characters
Message = Dict[str, Any]  # a control message, as `unpack` gives it
HEXADECIMAL = frozenset("0123456789abcdef")
CHUNK_HEADER = struct.Struct(">8sQ")  # start of the blob's SHA-256, offset of this chunk


class ProtocolError(GltchError):
    """The other side broke the protocol; the message says how, and the connection ends."""


def demand(condition: bool, sentence: str) -> None:
    if not condition:
        raise ProtocolError(sentence)


# --------------------------------------------------------------------------------------------------
# Control messages
# --------------------------------------------------------------------------------------------------

class Field(Protocol):
    """What a field of a message may be."""

    def holds(self, value: Any) -> bool: ...


class Text(NamedTuple):
    longest: int = 200

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and len(value) <= self.longest


class OneOf(NamedTuple):
    words: Tuple[str, ...]

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.words


class Number(NamedTuple):
    least: float
    most: float

    def holds(self, value: Any) -> bool:
        return type(value) in (int, float) and self.least <= value <= self.most  # so it is finite


class Whole(NamedTuple):
    least: int = 0
    most: int = 2**53

    def holds(self, value: Any) -> bool:
        return type(value) is int and self.least <= value <= self.most


class Flag(NamedTuple):
    def holds(self, value: Any) -> bool:
        return type(value) is bool


class Object(NamedTuple):
    """A JSON object whose contents the receiver checks."""

    def holds(self, value: Any) -> bool:
        return isinstance(value, dict)


class Digest(NamedTuple):
    """Hexadecimal digits of a SHA-256, an HMAC or a random token."""

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and len(value) == 64 and HEXADECIMAL.issuperset(value)


class Maybe(NamedTuple):
    kind: Field

    def holds(self, value: Any) -> bool:
        return value is None or self.kind.holds(value)


class Several(NamedTuple):
    kind: Field
    most: int

    def holds(self, value: Any) -> bool:
        return (isinstance(value, list) and len(value) <= self.most
                and all(map(self.kind.holds, value)))


SECONDS = Number(0, 1e9)
LOSS = Maybe(Number(-1e6, 1e6))  # None: not measured, or not finite

MESSAGES: Dict[str, Dict[str, Field]] = {
    # The handshake. Each side proves that it has the key without showing it.
    "challenge": {"protocol": Whole(), "hive": Text(64), "nonce": Digest(), "locked": Flag()},
    "hello": {"protocol": Whole(), "nonce": Digest(), "proof": Digest(), "name": Text(),
              "device": Text(), "kind": OneOf(get_args(Kind)), "process": Digest(),
              "token": Maybe(Digest()), "text": Maybe(Digest())},
    "welcome": {"proof": Digest(), "peer": Text(64), "name": Text(NAME_LENGTH),
                "token": Maybe(Digest()), "counted": Several(Whole(), LATELY),
                "job": Object()},
    "refused": {"reason": Text(1000)},
    # What the weights are now, and what to do with them.
    "ready": {"version": Whole(), "weights": Maybe(Digest()), "batch_size": Whole(1, 1 << 20)},
    "version": {"version": Whole(), "weights": Digest(), "step": Whole(),
                "counted": Several(Whole(), LATELY)},
    "train": {"version": Whole(), "weights": Digest(), "step": Whole(), "total": Maybe(Whole(1)),
              "quota": Whole(1, 2**31), "seconds": SECONDS, "window": Whole()},
    "commit": {"version": Whole(1), "weights": Digest(), "codec": Text(16), "update": Digest(),
               "bytes": Whole(0, BLOB_BYTES), "step": Whole(), "counted": Flag(),
               "follows": Flag()},
    "status": {"version": Whole(), "peers": Whole(), "loss": LOSS, "val_loss": LOSS},
    "finished": {"reason": Text(1000)},
    # Transfers: the peer offers or asks, the coordinator answers with where to begin.
    "offer": {"version": Whole(), "base": Whole(), "weights": Digest(), "codec": Text(16),
              "update": Digest(), "bytes": Whole(0, BLOB_BYTES), "steps": Whole(1, 2**31),
              "tokens": Whole(1), "loss": Maybe(Number(0, 1e6)), "seconds": SECONDS,
              "batch_size": Whole(1, 1 << 20), "follows": Flag()},
    "send": {"blob": Digest(), "offset": Whole(0, BLOB_BYTES)},
    "verdict": {"version": Whole(), "verdict": Text(16), "reason": Text(1000)},
    "fetch": {"blob": Digest(), "offset": Whole(0, BLOB_BYTES)},
    "blob": {"blob": Digest(), "bytes": Whole(0, BLOB_BYTES), "offset": Whole(0, BLOB_BYTES)},
    "gone": {"blob": Digest()},
    "progress": {"version": Whole(), "steps": Whole()},
    "goodbye": {},
}


def pack(kind: str, /, **values: Any) -> str:
    """A control message; fails at home rather than at the other end when it is not a valid one."""
    message = {"type": kind, **values}
    text = json.dumps(message, separators=(",", ":"), allow_nan=False)
    demand(len(text) <= MESSAGE_BYTES, "A control message is too long.")
    check_message(message)
    return text


def unpack(text: str) -> Message:
    """The fields of a control message. Raises ProtocolError for anything else."""
    demand(len(text) <= MESSAGE_BYTES, "A control message is too long.")
    try:
        message: Message = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError("A control message is not JSON.") from None
    demand(isinstance(message, dict), "A control message is not a JSON object.")
    check_message(message)
    return message


def check_message(message: Message) -> None:
    """Raises ProtocolError where its type or a field is not what the protocol says."""
    kind = str(message.get("type"))
    demand(kind in MESSAGES,
           f"There is no message type {kind[:40]!r} in version {VERSION} of the protocol.")
    fields = MESSAGES[kind]
    if message.keys() != {"type", *fields}:
        raise ProtocolError(f"The message {kind} of version {VERSION} of the protocol has the "
                            f"fields {', '.join(fields) or 'none'}; this one differs.")
    for name, field in fields.items():
        if not field.holds(message[name]):  # the sentence costs more than the question
            raise ProtocolError(f"The field {name} of the message {kind} must be {field}, "
                                f"not {str(message[name])[:60]!r}.")


# --------------------------------------------------------------------------------------------------
# Blobs
# --------------------------------------------------------------------------------------------------

def name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def chunks(blob: str, content: bytes, offset: int = 0) -> Iterator[bytes]:
    """The binary messages that carry a blob from an offset on."""
    view, start = memoryview(content), bytes.fromhex(blob)[:8]
    for begin in range(offset, len(content), CHUNK_BYTES):
        yield CHUNK_HEADER.pack(start, begin) + view[begin: begin + CHUNK_BYTES]


def belongs(chunk: bytes, blob: str) -> bool:
    """Is it a chunk of this blob?"""
    return chunk[:8] == bytes.fromhex(blob)[:8]


class Receiver:
    """Collects the chunks of one blob, in order, and checks the whole.

    Memory grows with what has arrived, not with what was announced.
    """

    def __init__(self, blob: str, size: int, limit: int = BLOB_BYTES):
        demand(size <= limit, f"A transfer of {size:,} bytes was announced; at most {limit:,} are "
               "accepted.")
        self.blob, self.size = blob, size
        self.content = bytearray()
        self.complete = size == 0

    def add(self, message: bytes) -> None:
        """Raises ProtocolError when the chunk is not the next one of this blob."""
        demand(len(message) >= CHUNK_HEADER.size, "A binary message is too short for a chunk.")
        start, offset = CHUNK_HEADER.unpack_from(message)
        length = len(message) - CHUNK_HEADER.size
        demand(start == bytes.fromhex(self.blob)[:8], "A chunk belongs to no transfer.")
        if offset != len(self.content) or not 0 < length <= self.size - offset:
            raise ProtocolError(f"A chunk at {offset} with {length} bytes does not continue a "
                                f"transfer of which {len(self.content)} of {self.size} bytes are "
                                "there.")
        self.content += memoryview(message)[CHUNK_HEADER.size:]
        self.complete = len(self.content) == self.size

    def result(self) -> bytes:
        """The whole blob. Raises ProtocolError when it is not what was announced."""
        content = bytes(self.content)
        demand(name_of(content) == self.blob, "A transfer arrived damaged: its SHA-256 differs.")
        return content


# --------------------------------------------------------------------------------------------------
# The handshake
# --------------------------------------------------------------------------------------------------

def proof(key: str, role: str, first: str, second: str) -> str:
    """HMAC over both nonces: shows that one has the key, for this connection and role only."""
    return hmac.new(key.encode(), f"gltch-hive {role} {first} {second}".encode(),
                    hashlib.sha256).hexdigest()


def possession(token_hash: str, first: str, second: str) -> str:
    """HMAC over both nonces: shows that one has the session token without showing it. The key is
    the token's SHA-256, so the coordinator need not keep the token either."""
    return hmac.new(token_hash.encode(), f"gltch-hive token {first} {second}".encode(),
                    hashlib.sha256).hexdigest()


def check_versions(peer: int, coordinator: int) -> None:
    """Raises ProtocolError with a sentence that says which side is behind."""
    demand(peer == coordinator, f"The peer speaks version {peer} of the protocol, the coordinator "
           f"version {coordinator}: update the {'peer' if peer < coordinator else 'coordinator'} "
           "(git pull).")


def check_hello(hello: Hello, key: str, nonce: str) -> None:
    """The coordinator's side. Raises ProtocolError for another version or a wrong key."""
    check_versions(hello["protocol"], VERSION)
    expected = proof(key, "peer", nonce, hello["nonce"])
    demand(hmac.compare_digest(expected, hello["proof"]), "The key is wrong or missing: paste the "
           "join command that the coordinator printed.")


def check_welcome(welcome: Welcome, key: str, nonce: str, own_nonce: str) -> None:
    """The peer's side. Raises ProtocolError when the coordinator does not know the key."""
    expected = proof(key, "coordinator", nonce, own_nonce)
    demand(hmac.compare_digest(expected, welcome["proof"]),
           "The coordinator does not have the key: this is another hive than the one to join.")


def clean_name(name: str, otherwise: str) -> str:
    """A name fit to be shown: printable, on one line, of limited length, in one direction, and with
    something to see."""
    kept = "".join(c for c in name if unicodedata.category(c)[0] in "LNPSM" and c not in INVISIBLE
                   or c == " ")
    short = " ".join(kept.split())[:NAME_LENGTH].strip()
    seen = any(unicodedata.category(c)[0] not in "MZ" for c in short)  # marks need a letter
    return short if seen else otherwise


def told(value: float) -> Optional[float]:
    """As messages tell it: None if it is not finite, or larger than any loss."""
    return value if abs(value) <= 1e6 else None
