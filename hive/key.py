"""The key of a hive, which lets its holder join, and where each side gets it."""
from __future__ import annotations

import argparse
import os
import secrets
from pathlib import Path

from gltch_2_7m import GltchError, require, write_atomically

LOCAL = ("127.0.0.1", "::1", "localhost")


def read_key(name: str) -> str:
    """The key in a file. Raises GltchError when there is none."""
    require(Path(name).is_file(), f"There is no key file {name!r}: check --key-file.")
    try:
        key = Path(name).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise GltchError(f"The key file {name!r} is not text: a key is a line of it.") from None
    require(bool(key), f"The key file {name!r} is empty: put the key into it, or remove it.")
    return key


def key_of(args: argparse.Namespace) -> str:
    """The key that a peer has."""
    if args.key_file:
        return read_key(args.key_file)
    return args.key or os.environ.get("HIVE_KEY", "")


def key_for(args: argparse.Namespace, folder: Path) -> str:
    """The key peers must have: given, or made once for a hive that others can reach."""
    if args.key_file:
        return read_key(args.key_file)
    if os.environ.get("HIVE_KEY"):
        return os.environ["HIVE_KEY"]
    if args.host in LOCAL:
        return ""
    path = folder / "key"
    if not path.exists():
        key = secrets.token_hex(16).encode()
        write_atomically(path, lambda file: file.write(key), mode=0o600)  # for nobody else to read
    return read_key(str(path))  # which refuses an empty one: the hive would be open to everybody
