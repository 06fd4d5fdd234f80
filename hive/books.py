"""A run's books: the outer step and the journal, which go on together and bring each other back."""
from __future__ import annotations

from typing import Optional

from hive.journal import Journal
from hive.learning.codec import from_bytes, to_bytes
from hive.learning.outer import REMEMBERED, Committed, Outer, apply_update
from hive.session.job import Job
from hive.session.record import Record


class Books:
    """The outer step as it was when the newest round was written down, and what writes the next."""

    def __init__(self, job: Job, journal: Journal):
        self.journal = journal
        version = journal.head()[0]
        usual = job.sync.inner_steps * job.recipe.batch_size * job.config.block_size
        self.outer = Outer(from_bytes(journal.weights_at(version, apply_bytes)), job.sync, usual)
        known, state = journal.newest_extra()
        self.outer.recover(state, (journal.update(n) for n in range(known + 1, version + 1)),
                           (weight for weight, _ in reversed(journal.recent_weights(REMEMBERED))))

    def combine(self) -> Optional[Committed]:
        """The round's outer step; None if no update was added to it."""
        return self.outer.step() if self.outer.weight else None

    def keep(self, record: Record, committed: Committed) -> None:
        """The round is durable when this returns."""
        self.journal.commit(record)
        self.outer.accept(committed)

    def snapshot(self) -> None:
        self.journal.snapshot(self.journal.last, to_bytes(self.outer.weights), self.outer.state())


def apply_bytes(weights: bytes, codec: str, update: bytes) -> bytes:
    return to_bytes(apply_update(from_bytes(weights), codec, update))
