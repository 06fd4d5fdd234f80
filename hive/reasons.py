"""Why a peer is believed as it is, from the record of its run alone: what was found of its updates,
round by round, and what followed."""
from __future__ import annotations

from typing import Any, Dict, Iterator, List

from hive.journal import Journal
from hive.orders import peers_called

DECISIONS = {"aside": "set aside", "back": "counts again", "banned": "banned",
             "pardoned": "pardoned"}
FINDINGS = {"seen": "beside the others", "probed": "tried by itself"}
NUMBERS = {  # what is told of those that were measured, by the kind of finding
    "seen": {"cosine": "agrees with the others by", "usual": "they with each other by"},
    "probed": {"gain": "the loss fell by", "doubt": "give or take"}}


def explanation(journal: Journal, name: str) -> Iterator[str]:
    """Lines for a person about all peers of a name. Raises GltchError if there never was one."""
    found: Dict[str, List[Dict[str, Any]]] = {peer: [] for peer in peers_called(journal, name)}
    for number in range(1, journal.last + 1):
        for one in journal.judgements(number):
            if one["peer"] in found:
                found[one["peer"]].append(one)
    for peer, judgements in found.items():
        yield heading(name, peer, judgements)
        yield from map(line, judgements)


def heading(name: str, peer: str, judgements: List[Dict[str, Any]]) -> str:
    """How it stands with it now."""
    if not judgements:
        return f"{name} ({peer[:8]}): nothing was found of it yet"
    latest = [one for one in judgements if one["kind"] in DECISIONS][-1:]
    state = "".join(f"; {DECISIONS[one['kind']]}: {one['reason']}" for one in latest)
    return f"{name} ({peer[:8]}): score {judgements[-1]['score']:.2f}{state}"


def line(one: Dict[str, Any]) -> str:
    """A finding, or what followed from it."""
    kind, numbers = one["kind"], one["numbers"]
    told = ", ".join(f"{words} {numbers[key]:.4g}" for key, words in NUMBERS.get(kind, {}).items()
                     if numbers.get(key) is not None)
    what = DECISIONS[kind].upper() if kind in DECISIONS else FINDINGS.get(kind, kind)
    return (f"  round {one['version']:>5}  score {one['score']:.2f}  {what}"
            + f": {one['reason']}" * bool(one["reason"]) + f" ({told})" * bool(told))
