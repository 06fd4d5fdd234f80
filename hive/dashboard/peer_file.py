"""The one file with which a machine joins: /peer.pyz, a zipapp of exactly this version.

It has gltch_2_7m.py and those files of the Hive that a peer needs, and nobody else's code. The
same files always give the same bytes: sorted names, no times, nothing compressed (what
compresses differs between machines), and the same ends of lines.
"""
from __future__ import annotations

import ast
import io
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Dict, Iterator, Optional

ROOT = Path(__file__).resolve().parents[2]
FIRST_LINE = b"#!/usr/bin/env python3\n"
MAIN = """\
import sys

from hive import require_pytorch

require_pytorch("peer.pyz")

from hive import peer

peer.COMMAND = "gltch-peer", sys.argv[0]
peer.leave(peer.main())
"""


def file_of(module: str) -> Optional[Path]:
    """None: it is somebody else's."""
    path = ROOT.joinpath(*module.split("."))
    return next(filter(Path.is_file, (path.with_suffix(".py"), path / "__init__.py")), None)


def imported(path: Path) -> Iterator[str]:
    """What a file imports, also inside functions; of `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def needed(module: str) -> Dict[str, Path]:
    """A module's own file and all of ours that it leads to, by their names in the archive."""
    found: Dict[str, Path] = {}
    names = [module]
    while names:
        name = names.pop()
        path = file_of(name) if name else None
        if path and path not in found.values():
            found[path.relative_to(ROOT).as_posix()] = path
            names += [*imported(path), name.rpartition(".")[0]]
    return found


@lru_cache(maxsize=None)
def peer_file() -> bytes:
    """Made once; it takes a moment."""
    contents = {name: path.read_bytes() for name, path in needed("hive.peer").items()}
    contents["__main__.py"] = MAIN.encode()
    archive = io.BytesIO()
    archive.write(FIRST_LINE)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as file:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name)  # from 1 January 1980
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # as on Unix, everywhere
            file.writestr(entry, contents[name].replace(b"\r\n", b"\n"))
    return archive.getvalue()
