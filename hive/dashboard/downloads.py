"""Large answers: files of a known size, read in pieces, and the weights that were made lately.

Weights are computed when somebody asks and then kept in files without a name, in the run's folder,
as long as they are among the latest or on their way. Nothing here knows sockets.
"""
from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import IO, Callable, NamedTuple

from hive.network.answers import PIECE_BYTES

KEPT_BYTES = 1 << 30  # of weights in files, kept and travelling; one set may always be there


class Snapshot(NamedTuple):
    """Weights that can be downloaded. `content` makes the file; it may take seconds."""

    name: str  # another name, another content
    content: Callable[[], bytes]


class Stored:
    """A file that closes itself once nobody uses it any more."""

    def __init__(self, file: IO[bytes]):
        self.file, self.size = file, file.seek(0, 2)
        self.turn = threading.Lock()  # several downloads share its one position
        weakref.finalize(self, file.close)

    def piece(self, start: int) -> bytes:
        with self.turn:
            self.file.seek(start)
            return self.file.read(min(PIECE_BYTES, self.size - start))


def open_stored(path: Path) -> Stored:
    """A file as it is now, even if another one replaces it meanwhile."""
    with contextlib.ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(open(path, "rb"))
        if sys.platform == "win32":  # where an open file cannot be replaced: a copy
            copy = tempfile.TemporaryFile(dir=str(path.parent))
            shutil.copyfileobj(file, copy)
            return Stored(copy)
        stack.pop_all()
        return Stored(file)


class Full(Exception):
    """Too much is on its way: there is no room for other weights."""


class Shelf:
    """The weights that were asked for lately. Belongs to one thread, which makes them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.kept: OrderedDict[str, Stored] = OrderedDict()  # the latest last
        self.alive: weakref.WeakSet[Stored] = weakref.WeakSet()  # also those only on their way

    @property
    def used(self) -> int:
        return sum(stored.size for stored in list(self.alive))

    def find(self, snapshot: Snapshot) -> Stored:
        """Raises GltchError when they cannot be made, OSError when they cannot be written, and Full
        when there is no room."""
        if snapshot.name not in self.kept:
            self.store(snapshot.name, snapshot.content())
        self.kept.move_to_end(snapshot.name)
        return self.kept[snapshot.name]

    def store(self, name: str, content: bytes) -> None:
        while self.kept and self.used + len(content) > KEPT_BYTES:
            self.kept.popitem(last=False)
        if self.alive and self.used + len(content) > KEPT_BYTES:
            raise Full
        file = tempfile.TemporaryFile(dir=str(self.folder))
        try:
            file.write(content)
            stored = Stored(file)
        except OSError:
            with contextlib.suppress(OSError):  # it may fail to write what it still holds, again
                file.close()
            raise
        self.kept[name] = stored
        self.alive.add(stored)
