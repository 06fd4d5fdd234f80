"""A run's books: the outer step and the journal, which advance together and restore each other."""
from __future__ import annotations

from typing import List, Optional

from gltch_2_7m import Config, outline
from hive.journal import KEPT_EVERY, Apply, Journal
from hive.learning.codec import CODECS, from_bytes, to_bytes
from hive.learning.fragments import Fragments
from hive.learning.outer import REMEMBERED, Committed, Outer, apply_update
from hive.session.job import Job
from hive.session.record import Record


class Books:
    """The outer step as it was when the newest round was written down, and what writes the next.
    `looking`: updates are compared with each other; the plain mean takes them as they come."""

    def __init__(self, job: Job, journal: Journal, secret: int = 0, looking: bool = True,
                 combination: str = "mean"):
        self.job, self.journal, self.looking = job, journal, looking
        version = journal.head()[0]
        usual = job.sync.inner_steps * job.recipe.batch_size * job.config.block_size
        weights = from_bytes(journal.weights_at(version, applying(job)))
        self.outer = Outer(weights, job.sync, usual, version, secret,
                           tensors_of(job.config, len(weights)), combination)
        known, state = journal.newest_extra()
        self.outer.recover(state, ((n, *journal.update(n)) for n in range(known + 1, version + 1)),
                           (weight for weight, _ in reversed(journal.recent_weights(REMEMBERED))))

    def update_bytes(self, number: int) -> int:
        """Bytes of what each peer sends for this round."""
        return CODECS[self.outer.sync.up].size(self.outer.fragments.values(number))

    def combine(self) -> Optional[Committed]:
        """The round's outer step; None if no update was added to it."""
        if self.looking:
            self.outer.judge()
        return self.outer.step() if self.outer.weight else None

    def undo(self, version: int) -> Committed:
        """The round that returns to an earlier version."""
        weights = from_bytes(self.journal.weights_at(version, applying(self.job)))
        return self.outer.back_to(version, weights)

    def keep(self, record: Record, committed: Committed) -> None:
        """The round is durable when this returns."""
        self.journal.commit(record)
        self.outer.accept(committed)

    def snapshot(self) -> None:
        outer = self.outer
        self.journal.snapshot(self.journal.last, to_bytes(outer.weights), outer.state(),
                              every=KEPT_EVERY * len(outer.fragments))


def tensors_of(config: Config, count: int) -> List[int]:
    """The sizes of a network's tensors, in order; a simulated vector counts as one tensor."""
    sizes = [parameter.numel() for parameter in outline(config).parameters()]
    return sizes if sum(sizes) == count else [count]


def applying(job: Job) -> Apply:
    """The function that applies a round of this job to the weights before it."""
    def apply(weights: bytes, codec: str, update: bytes, number: int) -> bytes:
        before = from_bytes(weights)
        part = Fragments(len(before), job.sync.fragments).of_round(number)
        return to_bytes(apply_update(before, codec, update, part))
    return apply
