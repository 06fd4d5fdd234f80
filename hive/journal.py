"""The journal: the durable record of a run, from which any version of the weights can be rebuilt.

Version 0 is the initial weights, and the n-th committed round produces version n. A round is
written whole or not at all: the encoded update, exactly as it was broadcast, together with who
contributed what. Initial weights and updates are all it takes to compute every later version
again; snapshots only shorten the way.

Nobody can change the record unseen. Every round carries a link, a SHA-256 over the link before it
and over everything the round recorded, so a changed byte breaks this round and all that follow:

    link 0 = SHA-256(canonical JSON of [run description, SHA-256 of the initial weights])
    link n = SHA-256(link n-1 + canonical JSON of record n, without update + SHA-256 of update n)

Links and hashes are joined as hexadecimal text. What is said about the rounds later (evaluations,
samples, peers) is no part of the chain.

    folder/journal.db                 everything, in SQLite
    folder/snapshots/00000100.bin     the weights of version 100
    folder/snapshots/00000100.extra   what the coordinator needs besides: its outer optimizer
    folder/lock                       held by the one coordinator that may write
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import sqlite3
import sys
import tempfile
import threading
from dataclasses import fields
from pathlib import Path
from typing import (
    Any,
    BinaryIO,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

from gltch_2_7m import GltchError, Unwritable, opened, require, write_atomically, writing
from hive.learning.sync import UNDO
from hive.session.record import LATELY, Contribution, Judgement, Made, Record

FORMAT = 2  # of journal.db; kept in its user_version
OLDER = 1  # without judgements and kinds of peers; a coordinator that goes on adds them
WEIGHTS, EXTRA = ".bin", ".extra"  # names of snapshots end like this
DIGEST = hashlib.sha256().digest_size  # bytes

# The updates have a table of their own, so that reading the history never touches their pages.
SCHEMA = """
CREATE TABLE run (description TEXT NOT NULL);
CREATE TABLE versions (
    number INTEGER PRIMARY KEY, base TEXT, result TEXT NOT NULL, codec TEXT, step INTEGER NOT NULL,
    loss REAL, opened REAL, committed REAL, update_sha256 TEXT, update_bytes INTEGER,
    link TEXT NOT NULL);
CREATE TABLE updates (number INTEGER PRIMARY KEY REFERENCES versions, content BLOB NOT NULL);
CREATE TABLE peers (
    peer TEXT PRIMARY KEY, name TEXT NOT NULL, token_hash TEXT UNIQUE, device TEXT NOT NULL,
    first_seen REAL NOT NULL, last_seen REAL NOT NULL);
CREATE TABLE contributions (
    number INTEGER NOT NULL REFERENCES versions, position INTEGER NOT NULL,
    peer TEXT NOT NULL REFERENCES peers, name TEXT NOT NULL, steps INTEGER NOT NULL,
    tokens INTEGER NOT NULL, loss REAL, weight REAL, bytes INTEGER NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('counted', 'late', 'rejected')), reason TEXT NOT NULL,
    PRIMARY KEY (number, position)) WITHOUT ROWID;
CREATE INDEX contributions_of_a_peer ON contributions (peer, verdict, number, tokens, bytes);
CREATE TABLE evaluations (
    number INTEGER PRIMARY KEY REFERENCES versions, val_loss REAL, seconds REAL NOT NULL);
CREATE TABLE samples (
    id INTEGER PRIMARY KEY, number INTEGER NOT NULL REFERENCES versions, text TEXT NOT NULL)
"""
SINCE_2 = """
ALTER TABLE peers ADD COLUMN kind TEXT NOT NULL DEFAULT '';
CREATE TABLE judgements (
    position INTEGER NOT NULL, number INTEGER NOT NULL REFERENCES versions, peer TEXT NOT NULL,
    kind TEXT NOT NULL, version INTEGER NOT NULL, score REAL NOT NULL, reason TEXT NOT NULL,
    numbers TEXT NOT NULL, PRIMARY KEY (number, position)) WITHOUT ROWID;
CREATE INDEX judgements_of_a_peer ON judgements (peer, kind, number, position)
"""

# What SQLite says when a disk is full, gone or read-only, or too many files are open: room may be
# made. Its numbers for errors reach Python only since 3.11; its words have been these since 2004.
FOR_NOW = ("database or disk is full", "disk I/O error", "unable to open database file",
           "attempt to write a readonly database", "database is locked")

# (weights, codec, update, number of the round) -> new weights
Apply = Callable[[bytes, str, bytes, int], bytes]
KEPT_EVERY = 100  # rounds; the snapshots of these are kept


OF_A_ROUND = [f.name for f in fields(Record)
              if f.name not in ("update", "contributions", "judgements")]
OF_A_CONTRIBUTION = [f.name for f in fields(Contribution)]
OF_A_JUDGEMENT = [f.name for f in fields(Judgement)]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


PLAIN = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(value: Any) -> str:
    """The one way to write a value as JSON: sorted keys, no spaces, ASCII, NaN as null.

    An infinity is written as the text "inf" or "-inf", so that it differs from NaN."""
    try:
        return PLAIN.encode(value)
    except ValueError:  # it holds what JSON cannot: seldom, and looking for it takes long
        return PLAIN.encode(recorded(value))


def recorded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: recorded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [recorded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def first_link(run: Dict[str, Any], weights_sha256: str) -> str:
    return sha256(canonical([run, weights_sha256]).encode())


def next_link(link: str, record: Dict[str, Any], update_sha256: str) -> str:
    """`record` is a Record as a dictionary, without the update."""
    return sha256((link + canonical(record) + update_sha256).encode())


def number_or_nan(value: Optional[float]) -> float:
    return math.nan if value is None else value  # SQLite keeps NaN as NULL


def columns(names: Sequence[str], rows: List[Tuple[Any, ...]]) -> Dict[str, List[Any]]:
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def worth_keeping(numbers: Iterable[int], every: int = KEPT_EVERY) -> Set[int]:
    """Which of these snapshots to keep: version 0, one of `every` rounds and the newest three."""
    ordered = sorted(numbers)
    return {number for number in ordered if number % every == 0} | set(ordered[-3:])


def file_of(number: int, suffix: str) -> str:
    return f"{number:08d}{suffix}"


def insert(db: sqlite3.Connection, table: str, row: Dict[str, Any]) -> None:
    places = ", ".join("?" * len(row))
    db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", tuple(row.values()))


class InUse(GltchError):
    """A coordinator works in the folder."""


class Folder:
    """Where snapshots lie: small names, contents that are read, written and removed as a whole."""

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> List[str]:
        return [path.name for path in self.path.glob("*")]

    def read(self, name: str) -> Optional[bytes]:
        """None if it is not there, or if the disk does not give it back."""
        try:
            return (self.path / name).read_bytes()
        except OSError:
            return None

    def write(self, name: str, *parts: bytes) -> None:
        write_atomically(self.path / name, lambda file: file.writelines(parts))

    def remove(self, name: str) -> None:
        path = self.path / name
        with writing(path):
            if path.exists():
                path.unlink()


class Memory:
    """The same for as long as this process lives."""

    def __init__(self) -> None:
        self.files: Dict[str, bytes] = {}

    def names(self) -> List[str]:
        return list(self.files)

    def read(self, name: str) -> Optional[bytes]:
        return self.files.get(name)

    def write(self, name: str, *parts: bytes) -> None:
        self.files[name] = b"".join(parts)

    def remove(self, name: str) -> None:
        self.files.pop(name, None)


@contextlib.contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turns what a damaged file leads to into a sentence, and a full disk into Unwritable."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # a mistake in the program
    except sqlite3.OperationalError as error:
        kind = Unwritable if str(error) in FOR_NOW else GltchError
        raise kind(f"{path} could not be used: {error}.") from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # even its complaint is damaged
        raise GltchError(f"{path} is damaged ({error}): restore the folder from a copy.") from error


@contextlib.contextmanager
def naming(round_or_version: str) -> Iterator[None]:
    """Turns whatever reading a damaged row leads to into a sentence that says which one it is."""
    try:
        yield
    except (GltchError, TypeError, ValueError) as error:
        raise GltchError(f"{round_or_version} is broken: {error}") from error


# The operating system drops the lock with the process that held it, however that ended.
if sys.platform == "win32":
    import msvcrt

    def lock(file: BinaryIO, shared: bool = False) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def lock(file: BinaryIO, shared: bool = False) -> None:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def open_locked(path: Path, shared: bool = False) -> BinaryIO:
    """Locked until it is closed, `shared` with other readers. Raises GltchError if another process,
    or object, holds it."""
    with writing(path):
        file = opened(path) if shared else open(path, "ab")
        try:
            lock(file, shared)
        except (BlockingIOError, PermissionError) as error:  # POSIX, Windows
            file.close()
            raise InUse(f"Another coordinator works in {path.parent}: stop it, or choose "
                        "another folder.") from error
        except OSError:
            file.close()
            raise
    return file


def connect(path: Path, options: str = "") -> sqlite3.Connection:
    return sqlite3.connect(path.resolve().as_uri() + options, uri=True, timeout=30,
                           isolation_level=None, check_same_thread=False)


class Journal:
    """Opens the journal in a folder, or creates it, and keeps every other coordinator out. Without
    a folder it is kept in memory and gone with the object, everything else being the same.

    With `read_only` an existing journal is opened without the lock and never changed, also while
    its coordinator runs, and also where nothing can be written. Methods may be called from any
    thread. Raises GltchError if another coordinator works in the folder, if there is nothing to
    read, or if journal.db is damaged."""

    def __init__(self, folder: Optional[Path], *, read_only: bool = False):
        self.folder, self.read_only = Path(folder or ":memory:"), read_only
        self.path, self.snapshots = self.folder / "journal.db", self.folder / "snapshots"
        self.files: Union[Folder, Memory] = Folder(self.snapshots) if folder else Memory()
        self._mutex = threading.RLock()  # around every use of the connection
        self._open = contextlib.ExitStack()
        with contextlib.ExitStack() as held:  # lets go again if anything fails
            if read_only:
                require(self.path.is_file(), f"There is no run of a hive in {self.folder}: choose "
                        "another --name.")
            elif folder:
                with writing(self.snapshots):
                    self.snapshots.mkdir(parents=True, exist_ok=True)
                held.enter_context(open_locked(self.folder / "lock"))
            with usable(self.path):
                self._db = held.enter_context(contextlib.closing(self._connect(held)))
                self._prepare()
            self.run: Optional[Dict[str, Any]] = self._description()
            self._counted: Dict[str, Dict[int, int]] = {}  # rounds, by peer and number % LATELY
            self._note_counted(self._query(
                "SELECT peer, max(number) FROM contributions WHERE verdict = 'counted' "
                f"GROUP BY peer, number % {LATELY}"))
            self._open = held.pop_all()

    def _connect(self, held: contextlib.ExitStack) -> sqlite3.Connection:
        if isinstance(self.files, Memory):
            return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        if not self.read_only:
            return connect(self.path)
        db = connect(self.path, "?mode=ro")
        try:
            db.execute("PRAGMA user_version")  # the first look at the file
            return db
        except sqlite3.OperationalError as error:
            db.close()
            if str(error) not in FOR_NOW:
                raise
        return self._connect_unwritable(held)

    def _connect_unwritable(self, held: contextlib.ExitStack) -> sqlite3.Connection:
        """Even to read, SQLite makes files next to the journal, unless it knows that nobody
        writes. The lock of the coordinator, held until the end, sees to that; a copy of the folder
        without that file has no coordinator. Rounds that are only in the write-ahead log of a
        coordinator that was killed are read from a copy of both files."""
        if (self.folder / "lock").exists():
            held.enter_context(open_locked(self.folder / "lock", shared=True))
        log = self.path.with_name("journal.db-wal")
        if not log.exists() or log.stat().st_size == 0:
            return connect(self.path, "?mode=ro&immutable=1")
        copies = Path(held.enter_context(tempfile.TemporaryDirectory()))
        with writing(copies):
            for path in (self.path, log):
                shutil.copyfile(path, copies / path.name)
        return connect(copies / self.path.name, "?mode=ro")

    def _prepare(self) -> None:
        if not self.read_only:
            for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._db.execute(f"PRAGMA {setting}")
            missing = {0: SCHEMA + ";" + SINCE_2, OLDER: SINCE_2}.get(self._format())
            if missing:
                with self._transaction() as db:
                    for statement in missing.split(";"):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {FORMAT}")
            for name in self.files.names():
                if name.startswith(".") and name.endswith(".tmp"):  # a kill amid a write
                    self.files.remove(name)
        self.newest = self._format() == FORMAT  # or it is an older one that is only read
        require(self._format() in (OLDER, FORMAT),
                f"{self.path} is no journal that this version of the program can read.")

    def _format(self) -> int:
        return int(self._query("PRAGMA user_version")[0][0])

    def close(self) -> None:
        """Let go of the files and of the lock."""
        with self._mutex:
            self._open.close()

    # ---- The one way to read, the one way to write

    def _query(self, sql: str, *values: Any) -> List[Tuple[Any, ...]]:
        with self._mutex, usable(self.path):
            return self._db.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All that happens inside is kept when it ends, or nothing if an exception ends it."""
        self._require_writable()
        with self._mutex, usable(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _unhurried(self) -> Iterator[None]:
        """What is written inside reaches the disk with the next round."""
        with self._mutex:
            self._query("PRAGMA synchronous = NORMAL")
            try:
                yield
            finally:
                self._query("PRAGMA synchronous = FULL")

    def _require_writable(self) -> None:
        require(not self.read_only, f"The journal in {self.folder} was opened for reading only.")

    # ---- The run and its rounds

    def _description(self) -> Optional[Dict[str, Any]]:
        rows = self._query("SELECT description FROM run")
        try:
            return json.loads(rows[0][0]) if rows else None
        except (TypeError, ValueError) as error:
            raise GltchError(f"{self.path} is damaged: the description of the run cannot be "
                             "read.") from error

    def start(self, run: Dict[str, Any], weights: bytes) -> None:
        """Begin a run with its description (plain JSON) and the initial weights (flat fp32).

        Raises GltchError if the journal already holds a run."""
        require(self.run is None, f"The journal in {self.folder} already holds a run.")
        self._require_writable()
        run = json.loads(canonical(run))  # as it will be read
        digest = sha256(weights)
        self._write_snapshot(0, weights, b"")
        with self._transaction() as db:
            db.execute("INSERT INTO run VALUES (?)", (canonical(run),))
            db.execute("INSERT INTO versions (number, result, step, link) VALUES (0, ?, 0, ?)",
                       (digest, first_link(run, digest)))
        self.run = run

    def commit(self, record: Record) -> None:
        """Write a round, durably, in one transaction.

        Raises GltchError if the round does not follow the last one, and Unwritable if the disk is
        full; nothing is written then, and the same round can be committed later."""
        with self._mutex:
            last, result, _ = self.head()
            require(record.number == last + 1,
                    f"Round {record.number} cannot be committed: the next one is {last + 1}.")
            require(record.base == result, f"Round {record.number} cannot be committed: it was "
                                           f"not computed from version {last}.")
            with self._transaction() as db:
                self._insert(db, record)
                # The link covers what was stored rather than what was given, because the two may
                # differ (1 and 1.0, NaN and NULL) and only the former can be checked later.
                (link,), = self._query("SELECT link FROM versions WHERE number = ?", last)
                link = next_link(link, self._record(record.number), sha256(record.update))
                db.execute("UPDATE versions SET link = ? WHERE number = ?", (link, record.number))
            self._note_counted((one.peer, record.number) for one in record.contributions
                               if one.verdict == "counted")

    def _insert(self, db: sqlite3.Connection, record: Record) -> None:
        row = {**{name: getattr(record, name) for name in OF_A_ROUND}, "link": "",
               "update_sha256": sha256(record.update), "update_bytes": len(record.update)}
        insert(db, "versions", row)
        insert(db, "updates", {"number": record.number, "content": record.update})
        for position, contribution in enumerate(record.contributions):
            # A peer that remember_peer() was never told about is known by its contribution.
            db.execute("INSERT OR IGNORE INTO peers VALUES (?, ?, NULL, '', ?, ?, '')",
                       (contribution.peer, contribution.name, record.committed, record.committed))
            insert(db, "contributions", {
                "number": record.number, "position": position,
                **{name: getattr(contribution, name) for name in OF_A_CONTRIBUTION}})
        for position, judgement in enumerate(record.judgements):
            row = {name: getattr(judgement, name) for name in OF_A_JUDGEMENT}
            insert(db, "judgements", {"number": record.number, "position": position, **row,
                                      "numbers": canonical(judgement.numbers)})

    def _record(self, number: int) -> Dict[str, Any]:
        """A round as a dictionary, without its update: what its link covers. Without judgements it
        is what it was before there were any."""
        rows = self._query(f"SELECT {', '.join(OF_A_ROUND)} FROM versions WHERE number = ?", number)
        require(bool(rows), f"{self.path} holds no version {number}.")
        contributions = self._query(f"SELECT {', '.join(OF_A_CONTRIBUTION)} FROM contributions "
                                    "WHERE number = ? ORDER BY position", number)
        judgements = self.judgements(number)
        return {**dict(zip(OF_A_ROUND, rows[0])),
                "contributions": [dict(zip(OF_A_CONTRIBUTION, row)) for row in contributions],
                **({"judgements": judgements} if judgements else {})}

    def judgements(self, number: int) -> List[Dict[str, Any]]:
        """What a round wrote down of peers, in order: the fields of `Judgement`."""
        rows = self._query(f"SELECT {', '.join(OF_A_JUDGEMENT)} FROM judgements WHERE number = ? "
                           "ORDER BY position", number) if self.newest else []
        *names, _ = OF_A_JUDGEMENT
        return [{**dict(zip(names, row)), "numbers": json.loads(row[-1])} for row in rows]

    def trusted(self) -> List[Tuple[str, float, str, str]]:
        """(peer, its latest score, the kind and reason of what was last decided about it)."""
        if not self.newest:
            return []
        latest = """SELECT {} FROM judgements AS one WHERE one.peer = peers.peer {}
                    ORDER BY number DESC, position DESC LIMIT 1"""
        decided = "AND kind IN ('aside', 'back', 'banned', 'pardoned')"
        return self._query(f"""
            SELECT peer, score, coalesce(kind, ''), coalesce(reason, '') FROM (
                SELECT peer, ({latest.format("score", "")}) AS score,
                       ({latest.format("kind", decided)}) AS kind,
                       ({latest.format("reason", decided)}) AS reason
                FROM peers) WHERE score IS NOT NULL ORDER BY peer""")

    def undone(self) -> List[Tuple[int, int]]:
        """(round, version to which it returned) of all rollbacks."""
        rows = self._query("SELECT number, content FROM versions JOIN updates USING (number) "
                           "WHERE codec = ? ORDER BY number", UNDO)
        returns = [(number, self._target(number, content)) for number, content in rows]
        return [(number, target) for number, target in returns if target < number - 1]

    def _target(self, number: int, update: bytes) -> int:
        """The version to which a round returns."""
        target = int(update) if update.isdigit() else number
        require(target < number, f"round {number} returns to a version that is not before it.")
        return target

    @property
    def last(self) -> int:
        """The newest committed version, 0 right after start(). Raises GltchError before it."""
        return self.head()[0]

    def head(self) -> Tuple[int, str, int]:
        """The newest version, the SHA-256 of its weights and its global step.

        Raises GltchError before start()."""
        rows = self._query(
            "SELECT number, result, step FROM versions ORDER BY number DESC LIMIT 1")
        require(bool(rows), f"The journal in {self.folder} holds no run yet.")
        number, result, step = rows[0]
        return number, result, step

    def update(self, number: int) -> Tuple[str, bytes]:
        """The codec and the encoded update that produced a version.

        Raises GltchError if there is no such round, or if its update is damaged."""
        rows = self._query("SELECT codec, update_sha256, content FROM versions "
                           "JOIN updates USING (number) WHERE number = ?", number)
        require(bool(rows), f"{self.path} holds no round {number}.")
        codec, digest, content = rows[0]
        require(isinstance(content, bytes) and sha256(content) == digest,
                f"{self.path} is damaged: the update of round {number} was changed.")
        return codec, content

    def updates_since(self, number: int) -> List[Made]:
        """The rounds after `number`, in order."""
        rows = self._query(
            "SELECT number, codec, result, update_sha256, update_bytes, step FROM versions "
            "WHERE number > max(?, 0) ORDER BY number", number)
        return [Made(*row) for row in rows]

    # ---- Snapshots, and the weights of any version

    def at(self, number: int) -> Tuple[str, int]:
        """SHA-256 of the weights of a version, and its global step."""
        rows = self._query("SELECT result, step FROM versions WHERE number = ?", number)
        require(bool(rows), f"{self.path} holds no version {number}.")
        return rows[0]

    def hashes(self, first: int) -> Dict[int, str]:
        """SHA-256 of the weights of all versions from this one on."""
        return dict(self._query("SELECT number, result FROM versions WHERE number >= ?", first))

    def snapshot(self, number: int, weights: bytes, extra: bytes = b"",
                 every: int = KEPT_EVERY) -> None:
        """Keep the weights of a version as a file, then remove the snapshots no longer needed: see
        `worth_keeping`.

        Of `extra`, the state of the outer optimizer, only the newest is kept. Raises GltchError
        if these are not the weights of that version, and Unwritable, with the snapshots of before
        still there, if the disk is full."""
        self._require_writable()
        require(sha256(weights) == self.at(number)[0],
                f"The snapshot of version {number} was not taken: these are other weights.")
        with writing(self.snapshots):  # to list them takes a file as well, and may be one too many
            self._write_snapshot(number, weights, extra)
            self._prune(every)

    def _write_snapshot(self, number: int, weights: bytes, extra: bytes) -> None:
        name = file_of(number, EXTRA)
        new = name not in self.files.names()
        if extra:  # its SHA-256 in front, so that the two are replaced together
            self.files.write(name, hashlib.sha256(extra).digest(), extra)
        else:
            self.files.remove(name)
        try:
            self.files.write(file_of(number, WEIGHTS), weights)
        except Unwritable:
            if new:  # half a snapshot would only take room
                self.files.remove(name)
            raise

    def _present(self, suffix: str) -> List[int]:
        """The versions that have a file with this suffix."""
        names = [name[: -len(suffix)] for name in self.files.names() if name.endswith(suffix)]
        return [int(name) for name in names if name.isdecimal()]

    def _prune(self, every: int) -> None:
        last, present = self.last, set(self._present(WEIGHTS))
        # Snapshots beyond the last version: this journal.db was restored from an older copy.
        kept = worth_keeping((number for number in present if number <= last), every)
        for number in present - kept:
            self.files.remove(file_of(number, WEIGHTS))
        for number in set(self._present(EXTRA)) - {max(kept)}:
            self.files.remove(file_of(number, EXTRA))

    def extra(self, number: int) -> Optional[bytes]:
        """What snapshot() was given besides the weights of exactly this version, if it is still
        there and intact."""
        content = self.files.read(file_of(number, EXTRA)) or b""
        digest, extra = content[:DIGEST], content[DIGEST:]
        return extra if hashlib.sha256(extra).digest() == digest else None

    def newest_extra(self) -> Tuple[int, bytes]:
        """The newest version with an intact extra, and the extra; (0, b"") if there is none."""
        for number in sorted(self._present(EXTRA), reverse=True):
            extra = self.extra(number) if number <= self.last else None
            if extra is not None:
                return number, extra
        return 0, b""

    def _intact_snapshot(self, number: int) -> Optional[bytes]:
        weights = self.files.read(file_of(number, WEIGHTS))
        intact = weights is not None and sha256(weights) == self.at(number)[0]
        return weights if intact else None

    def weights_at(self, number: int, apply: Apply) -> bytes:
        """The weights of any version, equal to the last bit: the nearest intact snapshot, and the
        updates since. Raises GltchError for an unknown version or a broken record."""
        expected = self.at(number)[0]
        start, weights, rounds = self._way_to(number)
        for following in rounds:
            weights = apply(weights, *self.update(following), following)
        require(sha256(weights) == expected,
                f"{self.path} is damaged: rounds {start + 1} to {number} do not lead to the "
                f"weights of version {number}.")
        return weights

    def _way_to(self, number: int) -> Tuple[int, bytes, List[int]]:
        """An earlier version with an intact snapshot, its weights, and the rounds that lead from
        it to this version: what was undone in between is left out."""
        version, present = number, set(self._present(WEIGHTS))
        rounds: List[int] = []
        while True:
            weights = self._intact_snapshot(version) if version in present else None
            if weights is not None:
                return version, weights, rounds[::-1]
            require(version > 0, f"{self.snapshots} holds no intact snapshot of version {number} "
                                 "or of an earlier one: restore the folder from a copy.")
            codec, update = self.update(version)
            if codec == UNDO:
                version = self._target(version, update)
            else:
                rounds.append(version)
                version -= 1

    def verify(self, apply: Apply) -> Iterator[int]:
        """Compute the whole run again, from version 0, and compare it with the record.

        Yields each version once it has been verified, 0 included. Raises GltchError that names
        the first broken round."""
        last = self.last
        with naming("Version 0"):
            link, weights = self._verify_start()
        yield 0
        for number in range(1, last + 1):
            with naming(f"Round {number}"):
                link, record, update = self._verify_link(number, link)
                require(record["base"] == sha256(weights), "it began with other weights.")
            try:
                weights = self._after(weights, record["codec"], update, number, apply)
            except GltchError as error:
                raise GltchError(f"Round {number} is broken: {error}") from error
            require(record["result"] == sha256(weights),
                    f"Round {number} is broken: its update does not lead to its result.")
            yield number

    def _after(self, weights: bytes, codec: str, update: bytes, number: int,
               apply: Apply) -> bytes:
        """The weights after a round; one may change nothing and only write something down."""
        if codec != UNDO:
            return apply(weights, codec, update, number)
        target = self._target(number, update)
        return weights if target == number - 1 else self.weights_at(target, apply)

    def _verify_start(self) -> Tuple[str, bytes]:
        """Link and weights of version 0."""
        weights = self._intact_snapshot(0)
        if weights is None:
            raise GltchError("the snapshot of the initial weights is damaged or missing.")
        link = first_link(self._description() or {}, sha256(weights))
        require([(link,)] == self._query("SELECT link FROM versions WHERE number = 0"),
                "the description of the run or the initial weights were changed.")
        return link, weights

    def _verify_link(self, number: int, link: str) -> Tuple[str, Dict[str, Any], bytes]:
        """Link of a round, the round as a dictionary, its update."""
        record, (_, update) = self._record(number), self.update(number)
        link = next_link(link, record, sha256(update))
        stored = self._query("SELECT link, update_bytes FROM versions WHERE number = ?", number)
        require([(link, len(update))] == stored, "its record was changed.")
        return link, record, update

    # ---- What is said about the versions

    def add_evaluation(self, number: int, val_loss: float, seconds: float) -> None:
        """The validation loss of a version, in nats per character; the last word counts.

        Raises GltchError for an unknown version."""
        self.at(number)[0]
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?)",
                       (number, val_loss, seconds))

    def evaluations(self) -> List[Tuple[int, float]]:
        """(version, validation loss), in order."""
        rows = self._query("SELECT number, val_loss FROM evaluations ORDER BY number")
        return [(number, number_or_nan(val_loss)) for number, val_loss in rows]

    def evaluation(self, number: int) -> Optional[float]:
        """The validation loss of a version, None while there is none."""
        rows = self._query("SELECT val_loss FROM evaluations WHERE number = ?", number)
        return rows[0][0] if rows else None

    def add_sample(self, number: int, text: str) -> None:
        """Something that a version wrote. Raises GltchError for an unknown version."""
        self.at(number)[0]
        with self._transaction() as db:
            insert(db, "samples", {"number": number, "text": text})

    def samples(self, limit: int = 20, oldest: bool = False) -> List[Dict[str, Any]]:
        """What was written, newest (or oldest) first: round (the version), step, val_loss (None if
        there is none) and text."""
        rows = self._query(f"""
            SELECT number, step, val_loss, text FROM samples JOIN versions USING (number)
            LEFT JOIN evaluations USING (number) ORDER BY id {"" if oldest else "DESC"}
            LIMIT ?""", limit)
        return [dict(zip(("round", "step", "val_loss", "text"), row)) for row in rows]

    def curve(self, first: int, last: int, points: int) -> Dict[str, Any]:
        """The losses from round `first` to `last` in at most `points` points, each for `every`
        rounds in a row; evaluations alike, of several in one point the last. docs/api.md says what
        the lists hold."""
        every = max(1, math.ceil((last - first + 1) / points))
        rows = self._query("""
            SELECT max(number), max(step), avg(loss), min(loss), max(loss), max(committed)
            FROM versions WHERE number BETWEEN max(?1, 1) AND ?2
            GROUP BY (number - ?1) / ?3 ORDER BY number""", first, last, every)
        evaluations = self._query("""
            SELECT max(number), step, val_loss FROM evaluations JOIN versions USING (number)
            WHERE number BETWEEN ?1 AND ?2
            GROUP BY (number - ?1) / ?3 ORDER BY number""", first, last, every)
        names = ("rounds", "steps", "loss", "low", "high", "committed")
        return {"first": first, "last": last, "every": every, **columns(names, rows),
                "evaluations": columns(("rounds", "steps", "val_loss"), evaluations)}

    def round(self, number: int) -> Dict[str, Any]:
        """Everything recorded about a round but its update. Raises GltchError for an unknown
        one."""
        rows = self._query("""
            SELECT update_sha256, update_bytes, link, val_loss FROM versions
            LEFT JOIN evaluations USING (number) WHERE number = ?""", number)
        require(bool(rows) and number > 0, f"{self.path} holds no round {number}.")
        names = ("update_sha256", "update_bytes", "link", "val_loss")
        return {**self._record(number), "judgements": self.judgements(number),
                **dict(zip(names, rows[0]))}

    def history(self) -> List[Dict[str, Any]]:
        """One dictionary per committed round, in order: number, step, loss (may be NaN), val_loss
        (None if not evaluated), peers and tokens (of the counted contributions), bytes (uploaded,
        counted or not), update_bytes, opened, committed."""
        names = ("number", "step", "loss", "val_loss", "peers", "tokens", "bytes", "update_bytes",
                 "opened", "committed")
        rows = self._query("""
            SELECT versions.number, step, versions.loss, val_loss,
                   sum(CASE verdict WHEN 'counted' THEN 1 ELSE 0 END),
                   sum(CASE verdict WHEN 'counted' THEN tokens ELSE 0 END),
                   coalesce(sum(bytes), 0), update_bytes, opened, committed,
                   evaluations.number IS NOT NULL
            FROM versions LEFT JOIN contributions ON contributions.number = versions.number
                 LEFT JOIN evaluations ON evaluations.number = versions.number
            WHERE versions.number > 0 GROUP BY versions.number ORDER BY versions.number""")
        rounds = []
        for *values, evaluated in rows:
            one = dict(zip(names, values))
            one["loss"] = number_or_nan(one["loss"])
            one["val_loss"] = number_or_nan(one["val_loss"]) if evaluated else None
            require(all(isinstance(value, (int, float)) for name, value in one.items()
                        if name != "val_loss"),
                    f"{self.path} is damaged: round {one['number']} does not hold numbers.")
            rounds.append(one)
        return rounds

    # ---- Peers

    def remember_peer(self, peer: str, name: str, token_hash: str, device: str, kind: str,
                      now: float) -> None:
        """Note who a peer is, and that it was seen now (unix seconds). It outlives the process; it
        may be lost with the power, which is not worth waiting for the disk."""
        with self._unhurried(), self._transaction() as db:
            db.execute("""
                INSERT INTO peers VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (peer) DO UPDATE
                SET name = excluded.name, token_hash = excluded.token_hash, kind = excluded.kind,
                    device = excluded.device, last_seen = excluded.last_seen""",
                       (peer, name, token_hash, device, now, now, kind))

    def identities(self, name: str) -> List[Tuple[str, str]]:
        """(peer, token hash) of the peers of this name, those seen last first, at most 64."""
        return self._query("SELECT peer, token_hash FROM peers WHERE name = ? "
                           "AND token_hash IS NOT NULL ORDER BY last_seen DESC, peer LIMIT 64",
                           name)

    def counted(self, peer: str) -> List[int]:
        """The latest rounds in which updates of this peer counted, all of the last 64 among them.
        Kept in memory, so that nobody waits for a disk."""
        return sorted(self._counted.get(peer, {}).values())

    def _note_counted(self, rounds: Iterable[Tuple[str, int]]) -> None:
        for peer, number in rounds:
            self._counted.setdefault(peer, {})[number % LATELY] = number

    def recent_weights(self, count: int = 64) -> List[Tuple[float, int]]:
        """(weight, tokens) of the latest `count` counted contributions, newest first."""
        rows = self._query("SELECT weight, tokens FROM contributions WHERE verdict = 'counted' "
                           "ORDER BY number DESC, position DESC LIMIT ?", count)
        return [(number_or_nan(weight), tokens) for weight, tokens in rows]

    def contributors(self) -> List[Dict[str, Any]]:
        """One dictionary per peer, over the whole run: peer, name, device, kind, first_seen,
        last_seen, tokens and rounds (counted), late, rejected, bytes (uploaded, counted or not);
        most tokens first."""
        names = ("peer", "name", "device", "kind", "first_seen", "last_seen", "tokens", "rounds",
                 "late", "rejected", "bytes")
        rows = self._query(f"""
            SELECT peers.peer, peers.name, device, {"kind" if self.newest else "''"}, first_seen,
                   max(last_seen, coalesce((SELECT committed FROM versions WHERE number = (
                       SELECT max(number) FROM contributions WHERE peer = peers.peer)), 0)),
                   sum(CASE verdict WHEN 'counted' THEN tokens ELSE 0 END) AS counted_tokens,
                   sum(CASE verdict WHEN 'counted' THEN 1 ELSE 0 END),
                   sum(CASE verdict WHEN 'late' THEN 1 ELSE 0 END),
                   sum(CASE verdict WHEN 'rejected' THEN 1 ELSE 0 END), coalesce(sum(bytes), 0)
            FROM peers LEFT JOIN contributions ON contributions.peer = peers.peer
            GROUP BY peers.peer ORDER BY counted_tokens DESC, peers.peer""")
        return [dict(zip(names, row)) for row in rows]

    def reasons(self) -> Dict[str, str]:
        """By peer, why its latest contribution that did not count did not."""
        return dict(self._query("SELECT peer, reason FROM contributions "
                                "WHERE verdict != 'counted' ORDER BY number, position"))
