"""Who contributed what, and how fast the hive is: sums over the journal's rounds, kept up to date.

Pure: it is fed with what the journal says at the start, and then with every committed round.
"""
from __future__ import annotations

from collections import deque
from typing import Any, Deque, Dict, Iterable, List, NamedTuple, Optional

from gltch_2_7m import Config, parameters_of
from hive.session.record import Record
from hive.session.rounds import LATE
from hive.session.schema import Contributed, Kind, Ranked

RECENT = 20  # rounds that speed and remaining time are taken from
FASTEST = 1e15  # floating point operations per second no single peer is believed to exceed
PAUSE_SECONDS = 10.0  # nobody there for longer than this: a pause, which slows nobody down


def flops_per_character(config: Config) -> int:
    """Floating point operations to train on one character: 6 per weight that multiplies, and the
    attention over the context (PaLM, arXiv 2204.02311, appendix B)."""
    looked_up = config.n_embd * (config.vocab_size + config.block_size)  # the embeddings
    return (6 * (parameters_of(config) - looked_up)
            + 12 * config.n_layer * config.n_embd * config.block_size)


def believed_tokens(claimed: int, seconds: float, parameters: int) -> int:
    """What a peer says it trained on, as far as that is possible in the time it had.

    A token costs 6 floating point operations per parameter (arXiv 2001.08361, section 2.1).
    """
    return max(1, min(claimed, int(FASTEST * seconds / (6 * parameters))))


def least_seconds(tokens: int, parameters: int) -> float:
    """Nobody is believed to train on that many tokens in less."""
    return 6 * parameters * tokens / FASTEST


class Lap(NamedTuple):
    """One round as it was: seconds until the next could begin, steps, counted characters."""

    seconds: float
    steps: int
    tokens: int


class Standing:
    """`contributors` as `Journal.contributors` returns them, `history` as `Journal.history`."""

    def __init__(self, contributors: Iterable[Dict[str, Any]], reasons: Dict[str, str],
                 history: List[Dict[str, Any]]):
        self.contributors: Dict[str, Contributed] = {row["peer"]: {
            "peer": row["peer"], "name": row["name"], "device": row["device"],
            "kind": row["kind"], "first_seen": row["first_seen"],
            "last_seen": row["last_seen"], "tokens": row["tokens"], "counted": row["rounds"],
            "late": row["late"], "rejected": row["rejected"], "bytes": row["bytes"],
            "reason": reasons.get(row["peer"], ""), "score": 1.0, "aside": "", "banned": False}
            for row in contributors}
        self.tokens = sum(row["tokens"] for row in history)
        self.started: Optional[float] = history[0]["opened"] if history else None
        self.step = self.committed = 0.0
        self.recent: Deque[Lap] = deque(maxlen=RECENT)
        for row in history[-RECENT - 1:]:
            self._add_round(row["opened"], row["committed"], row["step"], row["tokens"])

    def join(self, peer: str, name: str, device: str, kind: Kind, now: float) -> None:
        about = self.contributors.setdefault(peer, {
            "peer": peer, "name": name, "device": device, "kind": kind, "first_seen": now,
            "last_seen": now, "tokens": 0, "counted": 0, "late": 0, "rejected": 0, "bytes": 0,
            "reason": "", "score": 1.0, "aside": "", "banned": False})
        about.update({"name": name, "device": device, "kind": kind, "last_seen": now})

    def refuse(self, peer: str, verdict: str, reason: str, now: float) -> None:
        """An update came late, or was rejected. The journal notes that once a round, so after a
        restart there may be fewer of these."""
        about = self.contributors[peer]
        if verdict == LATE:
            about["late"] += 1
        else:
            about["rejected"] += 1
        about.update({"reason": reason, "last_seen": now})

    def count(self, record: Record) -> None:
        """A round was committed: what counted in it."""
        counted = sum(c.tokens for c in record.contributions if c.verdict == "counted")
        self.tokens += counted
        self.started = self.started or record.opened
        for c in record.contributions:
            about = self.contributors[c.peer]
            about["bytes"] += c.bytes
            about["last_seen"] = max(about["last_seen"], record.committed)
            if c.verdict == "counted":
                about["counted"] += 1
                about["tokens"] += c.tokens
        self._add_round(record.opened, record.committed, record.step, counted)

    def _add_round(self, opened: float, committed: float, step: int, tokens: int) -> None:
        waited = opened - self.committed
        began = self.committed if 0 <= waited <= PAUSE_SECONDS else opened  # or the clock was set
        made = max(0, step - int(self.step))  # or the run went back
        # It may have begun before a restart, nobody knows when: it says nothing of the speed.
        lap = Lap(committed - began, made, tokens) if committed > began else Lap(0.0, 0, 0)
        self.recent.append(lap)
        self.step, self.committed = step, committed

    # What follows from it

    def share(self, peer: str) -> float:
        """A peer's part of all characters that were ever counted."""
        return self.contributors[peer]["tokens"] / self.tokens if self.tokens else 0.0

    @property
    def speed(self) -> float:
        """Characters per second over the latest rounds, with all that is not training."""
        seconds = sum(lap.seconds for lap in self.recent)
        return sum(lap.tokens for lap in self.recent) / seconds if seconds else 0.0

    def remaining(self, steps: Optional[int]) -> Optional[float]:
        """Seconds for that many more steps, as fast as the latest ones were made."""
        made = sum(lap.steps for lap in self.recent)
        if steps is None or not made:
            return None
        return max(0, steps) * sum(lap.seconds for lap in self.recent) / made

    def ranking(self, most: int = 1000) -> List[Ranked]:
        """Who sent something, those with most characters first."""
        known = (about for about in self.contributors.values()
                 if about["counted"] + about["late"] + about["rejected"])
        ordered = sorted(known, key=lambda about: -about["tokens"])
        return [{**about, "share": self.share(about["peer"])} for about in ordered[:most]]
