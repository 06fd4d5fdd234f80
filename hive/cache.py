"""What a peer keeps for its next process: the texts of hives, and its identity in each."""
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Optional

from gltch_2_7m import GltchError, cache_folder, say, write_atomically
from hive.session import protocol
from hive.session.about import Identity


def keep(path: Path, content: bytes, what: str) -> None:
    """Write a file that a peer can do without: if that fails, it says so and goes on."""
    try:
        write_atomically(path, lambda file: file.write(content))
        path.chmod(0o600)
    except GltchError as error:
        say(f"{what:<10}not kept for next time: {error}")


def text_file(digest: str) -> Path:
    return cache_folder() / "hive" / f"{digest}.txt"


def read_text(digest: str) -> Optional[bytes]:
    """The text with this SHA-256, if it was here before."""
    path = text_file(digest)
    content = path.read_bytes() if path.exists() else b""
    return content if hashlib.sha256(content).hexdigest() == digest else None


def keep_text(digest: str, content: bytes) -> None:
    keep(text_file(digest), content, "text")


def identity_file(hive: str, name: str) -> Path:
    known_as = hashlib.sha256(f"{hive} {name}".encode(errors="replace")).hexdigest()
    return cache_folder() / "hive" / f"{known_as[:16]}.token"


def recall(hive: str, asked: str) -> Optional[Identity]:
    """What lets a peer that was started with this name come back as the one it was: its token, and
    the name it got."""
    path = identity_file(hive, asked)
    token, _, name = (path.read_text("utf-8").strip() if path.exists() else "").partition(" ")
    return Identity(token, name or asked) if protocol.Digest().holds(token) else None


def keep_identity(hive: str, asked: str, token: str, name: str) -> None:
    """For a new process of the name this one was started with, unless another one has it."""
    path = identity_file(hive, asked)
    if path.exists() and name != asked:
        path = identity_file(hive, name)
    keep(path, f"{token} {name}\n".encode(), "identity")
