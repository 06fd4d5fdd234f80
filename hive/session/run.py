"""How far a run is, and what is left of it."""
from __future__ import annotations

import math
from typing import Any, Dict, List, Optional

from hive.session.job import Job
from hive.session.record import Record

MOST_WINDOWS = 1 << 40  # then the peers' windows begin again at the first


class Run:
    """`weights` are the newest ones, which a session never looks into; `past` is what the ledger
    tells of all rounds so far, and `tokens` what was trained on in them."""

    def __init__(self, job: Job, weights: Any, parameters: int, step: int,
                 past: List[Dict[str, Any]], tokens: int):
        self.job, self.weights, self.parameters, self.step = job, weights, parameters, step
        self.seconds = sum(row["committed"] - row["opened"] for row in past)  # spent training
        self.loss = past[-1]["loss"] if past else math.nan
        self.windows = tokens // job.config.block_size % MOST_WINDOWS
        self.total: Optional[int] = None  # steps, as far as it can be told
        self.rest = 0.0  # steps that were made and not told, or told before they are made
        self.finished = ""  # why, in words, once it is
        self.announced = False  # that it is finished

    def stand_at(self, version: int) -> None:
        """`version` rounds are made."""
        self.total = self.job.limits.total(self.step, version, self.seconds)
        self.finish(self.job.limits.reached(self.step, version, self.seconds))

    def advance(self, record: Record, weights: Any) -> None:
        self.weights, self.step = weights, record.step
        self.seconds += record.committed - record.opened
        self.stand_at(record.number)

    def whole_steps(self, steps: float) -> int:
        """Of a round; what is rounded away here is made up for by the next ones."""
        whole = max(1, round(steps + self.rest))
        self.rest += steps - whole
        return whole

    def finish(self, reason: str) -> None:
        """If there is one; the first counts."""
        self.finished = self.finished or reason

    @property
    def quota(self) -> int:
        """Inner steps of the next round."""
        return self.job.sync.quota(self.step, self.total, self.job.recipe)

    @property
    def left(self) -> Optional[int]:
        """Steps."""
        return self.total and max(1, self.total - self.step)

    def give_windows(self, count: int) -> int:
        """The first of `count` windows of the text that nobody else gets."""
        first = self.windows
        self.windows = (first + count) % MOST_WINDOWS
        return first
