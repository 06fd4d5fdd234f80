"""What the owner of a hive orders, on the coordinator's machine only: a ban, a pardon, or that the
run goes back to an earlier round.

On a stopped run it is written down at once, as a round of its own. A running coordinator finds
a file in `orders/`, a folder in the run's own that only its owner may enter; it takes the order and
removes the file. Nothing of this can be reached over the network.
"""
from __future__ import annotations

import json
import math
import os
import secrets
import stat
import sys
import time
from pathlib import Path
from typing import Iterator, List, NamedTuple, Union

from gltch_2_7m import require, writing
from hive.journal import InUse, Journal
from hive.learning.sync import UNDO
from hive.session.record import Judgement, Record
from hive.session.trust import BANNED, PARDONED, WANTED

FOLDER = "orders"
LONGEST = 4096  # bytes of an order
ANSWER_SECONDS = 30.0  # for a running coordinator to take it


class Order(NamedTuple):
    kind: str  # "ban", "pardon" or "rollback"
    value: Union[str, int]  # a peer's name, or a round


def carry_out(folder: Path, order: Order) -> str:
    """Returns what came of it, in words. Raises GltchError if it makes no sense for this run."""
    try:
        journal = Journal(folder)
    except InUse:
        return hand_over(folder, order)
    try:
        return write_down(journal, order)
    finally:
        journal.close()


def peers_of(journal: Journal, order: Order) -> List[str]:
    """Whom it is about. Raises GltchError if that is nobody, or no round."""
    if order.kind == "rollback":
        require(0 <= int(order.value) < journal.last, f"The run has {journal.last} rounds: it can "
                f"go back to one from 0 to {journal.last - 1}, not to {order.value}.")
        return []
    return peers_called(journal, str(order.value))


def peers_called(journal: Journal, name: str) -> List[str]:
    """All peers of this name. Raises GltchError if there never was one."""
    require(journal.run is not None, f"There is no run in {journal.folder}: choose another --name.")
    known = journal.contributors()
    peers = [one["peer"] for one in known if one["name"] == name]
    require(bool(peers), f"No peer called {name!r} was ever in this run; known are: "
            f"{', '.join(sorted({one['name'] for one in known})[:20]) or 'none yet'}.")
    return peers


def write_down(journal: Journal, order: Order) -> str:
    """As a round that changes nothing else. Raises GltchError for a pardon that nobody needs."""
    peers, (last, base, step), now = peers_of(journal, order), journal.head(), time.time()
    trusted = journal.trusted()
    scores = {peer: score for peer, score, *_ in trusted}
    target, result = last, base
    if order.kind == "rollback":
        target = int(order.value)
        result, step = journal.at(target)
        found = [Judgement("", "undone", last + 1, 1.0, WANTED, {})]
    elif order.kind == "ban":
        found = [Judgement(peer, "banned", last, scores.get(peer, 1.0), BANNED, {})
                 for peer in peers]
    else:
        out = {peer for peer, _, kind, _ in trusted if kind in ("aside", "banned")}
        require(not out.isdisjoint(peers), f"No peer called {order.value!r} is set aside or banned:"
                " there is nothing to pardon.")
        found = [Judgement(peer, "pardoned", last, 1.0, PARDONED, {}) for peer in peers]
    journal.commit(Record(last + 1, base, result, UNDO, str(target).encode(), step, math.nan, now,
                          now, (), tuple(found)))
    return f"Written down as round {last + 1}."


def hand_over(folder: Path, order: Order) -> str:
    """To the coordinator that runs; it writes it down with its next round."""
    journal = Journal(folder, read_only=True)
    try:
        peers_of(journal, order)
    finally:
        journal.close()
    path = folder / FOLDER / f"{time.time_ns()}-{secrets.token_hex(4)}"
    with writing(path):
        handle = os.open(path.with_suffix(".part"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(json.dumps(order).encode())
        path.with_suffix(".part").rename(path.with_suffix(".json"))
    until = time.monotonic() + ANSWER_SECONDS
    while path.with_suffix(".json").exists():
        require(time.monotonic() < until, "The coordinator that runs here did not take the order; "
                f"it is in {path.with_suffix('.json')}.")
        time.sleep(0.1)
    return ("The coordinator has taken the order, and writes it down with its next round; if it is "
            "stopped before that, order it again.")


def make_place(folder: Path) -> None:
    """Where a running coordinator looks for orders; those of before are not its own."""
    place = folder / FOLDER
    with writing(place):
        place.mkdir(mode=0o700, exist_ok=True)
        place.chmod(0o700)
        for path in place.iterdir():
            path.unlink()


def taken(folder: Path) -> Iterator[Order]:
    """The orders that are there, each once. What its owner did not write, or nobody can read, is
    removed and none."""
    for path in sorted((folder / FOLDER).glob("*.json")):
        content = path.read_bytes()[: LONGEST + 1] if is_mine(path) else b""
        path.unlink()
        try:
            kind, value = json.loads(content)
        except (ValueError, TypeError):
            continue
        whole = type(value) is int
        if kind in ("ban", "pardon") and type(value) is str or kind == "rollback" and whole:
            yield Order(kind, value)


def is_mine(path: Path) -> bool:
    """Is it a file that nobody but this user may write?"""
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        return False
    return sys.platform == "win32" or about.st_uid == os.getuid() and not about.st_mode & 0o022
