"""A disk that is full for a while: for the journal's database and for its snapshots."""
from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any, List, Optional, Tuple, Union

from gltch_2_7m import Unwritable
from hive.journal import FOR_NOW, Folder, Journal, Memory
from hive.simulation.trouble import Trouble

OPENING = ["PRAGMA", "journal_mode"]  # the first statement: SQLite makes its files
WRITING = ("the opening", "BEGIN", "INSERT", "UPDATE", "COMMIT")


class Disk:
    """Without a folder it is played too, and what is on it outlives the coordinator."""

    def __init__(self, trouble: Trouble, folder: Optional[Path] = None):
        self.trouble, self.folder = trouble, folder
        self.full_until = self.fullness = 0.0

    def fill(self, seconds: float, fullness: float) -> None:
        """`fullness`: the share of rows that there is no room for."""
        self.full_until, self.fullness = self.trouble.clock.now + seconds, fullness
        self.trouble.until(self.full_until)

    @property
    def full(self) -> bool:
        """Has it no room for a file? It may have for a row now and then."""
        return self.trouble.clock.now < self.full_until

    def open_journal(self) -> Journal:
        return self.may_fail(OnDisk(self))

    def opened_again(self, journal: Journal) -> Journal:
        """What a process that was started again finds: what was written, and nothing remembered.
        Raises Unwritable while there is no room even to open it."""
        if self.folder:
            journal.close()
            return self.open_journal()
        return self.may_fail(Reopened(self, journal))

    def may_fail(self, journal: Journal) -> Journal:
        journal.files = Shelf(self, journal.files)  # type: ignore[assignment]
        return journal


class Database:
    """The journal's SQLite connection, any of whose statements that write may fail."""

    def __init__(self, disk: Disk, real: sqlite3.Connection):
        self.disk, self.real = disk, real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def execute(self, sql: str, values: Tuple[Any, ...] = ()) -> sqlite3.Cursor:
        if self.disk.full:
            words, trouble = sql.split(None, 2), self.disk.trouble
            where = "the opening" if words[:2] == OPENING else words[0]
            if where in WRITING and trouble.dice.random() < self.disk.fullness:
                trouble.cover(f"disk full at {where}")
                raise sqlite3.OperationalError(trouble.dice.choice(FOR_NOW[:2]))
        return self.real.execute(sql, values)


class OnDisk(Journal):
    """Finds the disk full from its first statement on."""

    def __init__(self, disk: Disk):
        self.disk = disk
        super().__init__(disk.folder)

    def _connect(self, held: contextlib.ExitStack) -> sqlite3.Connection:
        return Database(self.disk, super()._connect(held))  # type: ignore[return-value]


class Reopened(OnDisk):
    """With what another journal in memory has written."""

    def __init__(self, disk: Disk, before: Journal):
        self.before = before
        super().__init__(disk)
        before.close()
        self.files = before.files.real if isinstance(before.files, Shelf) else before.files

    def _connect(self, held: contextlib.ExitStack) -> sqlite3.Connection:
        db = super()._connect(held)
        self.before._db.backup(db.real)  # type: ignore[attr-defined]
        return db


class Shelf:
    """Where snapshots lie: full from some file on, as long as the disk is."""

    def __init__(self, disk: Disk, real: Union[Folder, Memory]):
        self.disk, self.real = disk, real

    def names(self) -> List[str]:
        return self.real.names()

    def read(self, name: str) -> Optional[bytes]:
        return self.real.read(name)

    def write(self, name: str, *parts: bytes) -> None:
        if self.disk.full and self.disk.trouble.dice.random() < 0.5:
            self.disk.trouble.cover("disk full at a snapshot")
            raise Unwritable("The disk is full.")
        self.real.write(name, *parts)

    def remove(self, name: str) -> None:
        if self.disk.full and name in self.names():
            self.disk.trouble.cover("a snapshot could not be removed")
            raise Unwritable("The disk is gone.")
        self.real.remove(name)
