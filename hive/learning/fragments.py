"""Which part of the weights a round changes: one fragment after the other, then the first again.

Nothing of this travels or is written down: it follows from the number of the round and the job.
"""
from __future__ import annotations

from typing import List

from hive.learning.codec import BLOCK


class Fragments:
    """A vector of `count` values in `number` nearly equal parts, or fewer if there are not enough
    blocks. The borders are between blocks of the codecs."""

    def __init__(self, count: int, number: int):
        blocks = -(-count // BLOCK)
        number = max(1, min(number, blocks))
        borders = [min(count, BLOCK * (blocks * i // number)) for i in range(number + 1)]
        self.parts: List[slice] = [slice(*ends) for ends in zip(borders, borders[1:])]

    def __len__(self) -> int:
        return len(self.parts)

    def index(self, number: int) -> int:
        """Which part changes in the round that makes version `number`, from 1 on."""
        return (number - 1) % len(self.parts)

    def of_round(self, number: int) -> slice:
        return self.parts[self.index(number)]

    def values(self, number: int) -> int:
        """How many values that round changes."""
        part = self.of_round(number)
        return int(part.stop - part.start)
