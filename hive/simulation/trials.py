"""Many runs under faults, by seed, and what a failure tells."""
from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import FrozenSet, Optional, Sequence

from hive.simulation.faults import Trial

ON_DISK = 10  # one run in this many has its journal in a real folder, the others in memory

EXPECTED = (  # to have happened in a thousand runs
    "a peer suspended for an hour", "a peer suspended for minutes",
    "a peer's cache could not be written", "a while between the end of work and its news",
    "a second process came as the first lost its connection", "all back at once",
    "an event while an early update waits",
    "all peers suspended for an hour", "all peers suspended for minutes", "an update of nonsense",
    "bit flipped in a chunk", "bit flipped in a message",
    "clock of a peer set by a day", "clock of the coordinator set by a day", "coordinator killed",
    *(f"cut, noticed after {peer:g} s by the peer, {coordinator:g} s by the coordinator"
      for peer in (0, 45) for coordinator in (0, 45)),
    "cut amid a message or chunk", "cut, one direction first",
    "disk full at BEGIN", "disk full at COMMIT", "disk full at INSERT", "disk full at UPDATE",
    "disk full at the opening",
    "disk full at a checkpoint", "disk full at a snapshot",
    "killed after the round was written, before anybody heard", "no place for a peer",
    "out of order", "peer killed",
    "peer killed without its cache", "peer suspended for some rounds", "peer turned away",
    "second connection of a peer", "some peers suspended for an hour",
    "some peers suspended for minutes", "text fetched by a peer",
    "text that broke off on its way", "training broke down", "twice",
    "two processes with one token", "update that came rounds late")


class Failure(Exception):
    """What went wrong with a seed, as text."""


def play(seed: int, without: FrozenSet[str] = frozenset(), folder: Optional[Path] = None,
         attackers: Sequence[str] = ()) -> Trial:
    """With the journal in a folder that is empty, or where the seed says. Raises Failure."""
    with contextlib.ExitStack() as opened:
        if folder is None and seed % ON_DISK == 0:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        trial = Trial(seed, without, folder, attackers)
        opened.callback(lambda: trial.truth.journal.close())  # the one that is open at the end
        try:
            trial.play()
        except Exception as error:
            last = f"seed {seed}: {type(error).__name__}: {error}"
            raise Failure("\n".join([*trial.trouble.story(), last])) from error
    return trial


def smallest(seed: int, attackers: Sequence[str]) -> FrozenSet[str]:
    """The kinds of fault without which a seed that fails still does."""
    without: FrozenSet[str] = frozenset()
    for kind in sorted(Trial(seed).kinds):
        try:
            play(seed, without | {kind}, attackers=attackers)
        except Failure:
            without |= {kind}
    return without


def explain(seed: int, failure: Failure, attackers: Sequence[str]) -> str:
    """The last events of the smallest mixture that fails."""
    without = smallest(seed, attackers)
    kinds = Trial(seed).kinds - without
    try:
        play(seed, without, attackers=attackers)
    except Failure as smaller:
        failure = smaller
    return f"{failure}\nsmallest mixture: {', '.join(sorted(kinds)) or 'no fault at all'}"


def main(first: int, count: int, attackers: Sequence[str] = ()) -> int:
    """Raises GltchError where these attackers cannot be."""
    began, covered = time.process_time(), Counter[str]()
    for seed in range(first, first + count):
        try:
            covered += play(seed, attackers=attackers).trouble.covered
        except Failure as failure:
            print(explain(seed, failure, attackers))
            return 1
    print(json.dumps({"seeds": [first, first + count - 1], "covered": dict(sorted(
        covered.items())), "seconds": round(time.process_time() - began, 1)}))
    return 0
