"""What a coordinator's session reads of the record of its run; `hive.journal.Journal` has it all.

Nothing is written through it: what has to be kept is an effect, and the host says when it is kept.
"""
from __future__ import annotations

from typing import Any, Dict, List, Protocol, Tuple

from hive.session.record import Made


class Ledger(Protocol):
    def head(self) -> Tuple[int, str, int]:
        """Version, SHA-256 of its weights, step."""

    def at(self, number: int) -> Tuple[str, int]:
        """SHA-256 of the weights and step after a round."""

    def hashes(self, first: int) -> Dict[int, str]:
        """SHA-256 of the weights of all versions from this one on."""

    def update(self, number: int) -> Tuple[str, bytes]:
        """Codec and content of the update that a round committed."""

    def updates_since(self, number: int) -> List[Made]:
        """The rounds after this one."""

    def history(self) -> List[Dict[str, Any]]:
        """All rounds, in short."""

    def evaluations(self) -> List[Tuple[int, float]]:
        """(version, validation loss)."""

    def identities(self, name: str) -> List[Tuple[str, str]]:
        """(peer, SHA-256 of its token) of all that were given this name."""

    def counted(self, peer: str) -> List[int]:
        """The latest rounds in which updates of this peer counted, at most 64, and all of the last
        64 rounds."""

    def contributors(self) -> List[Dict[str, Any]]:
        """Every peer that was ever there, and what it brought."""

    def trusted(self) -> List[Tuple[str, float, str, str]]:
        """(peer, its latest score, the kind and reason of what was last decided about it)."""

    def undone(self) -> List[Tuple[int, int]]:
        """(round, version to which it returned) of all rollbacks."""

    def reasons(self) -> Dict[str, str]:
        """By peer: why its latest update that did not count did not."""
