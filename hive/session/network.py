"""What a peer trains."""
from __future__ import annotations

from typing import NamedTuple, Optional

from hive.learning.fragments import Fragments
from hive.network.words import shown
from hive.session.job import Job


class Network(NamedTuple):
    job: Optional[Job] = None  # None: nothing yet
    built: bool = False  # otherwise it has to be, and anew if training broke down
    parameters: int = 0
    sequences: int = 0  # in a step of this peer
    fragments: Fragments = Fragments(0, 1)  # of its weights
    in_flight: int = 1  # updates at once
    codec: str = ""  # of these
    overlap: bool = False  # training goes on while they travel

    @classmethod
    def of(cls, job: Job, parameters: int, sequences: int) -> Network:
        sync, fragments = job.sync, Fragments(parameters, job.sync.fragments)
        return cls(job, True, parameters, sequences, fragments,
                   min(sync.in_flight, len(fragments)), sync.up, sync.overlap)

    def __str__(self) -> str:
        job = self.job
        return "" if job is None else (
            f"{shown(job.size, 20)}: {self.parameters:,} parameters; {shown(job.mode, 20)}, "
            f"{self.sequences} sequences a step")

    def part_of(self, version: int) -> slice:
        """What the round changes that starts from this version."""
        return self.fragments.of_round(version + 1)
