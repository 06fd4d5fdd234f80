"""Peers that harm: what they send instead of what they trained, and what they claim.

Each has the key and knows what a member knows: the weights, its own work, the updates that the hive
committed, and what its companions are up to. What an honest peer in its place would have sent is
called honest here.
"""
from __future__ import annotations

import math
import random
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

from gltch_2_7m import require
from hive.session.protocol import Message

CLAIMED = 1000  # times as many characters as it trained on, where claims are inflated
DRIFT = 0.5  # of an honest update's length, always in the same direction
NOW_AND_THEN = 0.25  # of its updates hold NaN


class Work(NamedTuple):
    """What an attacker has at hand for its next update of a part, and for which round that is."""

    honest: Tensor  # (n,) what it trained
    committed: Tensor  # (n,) what the hive last committed of this part; zeros: nothing yet
    round: int


class Companions:
    """What the attackers of one hive share."""

    def __init__(self, seed: int):
        self.seed = seed
        self.agreed: Dict[Tuple[int, int], Tensor] = {}  # what colluders send, by round and length

    def direction(self, count: int) -> Tensor:
        """One for all of them, and always the same: (n,), of length 1."""
        return unit(torch.randn(count, generator=torch.Generator().manual_seed(self.seed)))

    def agree(self, work: Work) -> Tensor:
        """The first decides, the others send the same."""
        key = work.round, len(work.honest)
        if key not in self.agreed:
            self.agreed.clear()
            self.agreed[key] = -3 * work.honest
        return self.agreed[key]


def unit(vector: Tensor) -> Tensor:
    return vector / max(float(vector.norm()), 1e-30)


class Attacker:
    """In the place of a peer's worker, which goes on training: everything else is left to it."""

    def __init__(self, worker: Any, kind: str, companions: Companions, seed: int):
        self.worker, self.kind, self.companions = worker, kind, companions
        self.dice = random.Random(f"attacker {seed}")
        self.generator = torch.Generator().manual_seed(seed)
        self.committed: Dict[int, Tensor] = {}  # by where the part begins
        self.rounds = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.worker, name)

    def take_progress(self, part: slice, ahead: float = 0.0) -> Tensor:
        """What goes into its next update."""
        honest = self.worker.take_progress(part, ahead)
        committed = self.committed.get(part.start or 0, torch.zeros_like(honest))
        return KINDS[self.kind](self, Work(honest, committed, self.rounds))

    def step(self) -> float:
        """A peer that shirks tells some loss, and has not trained at all."""
        if self.kind != "shirk":
            return float(self.worker.step())
        return 2.0 + self.dice.random()

    def saw(self, number: int, part: slice, committed: Tensor) -> None:
        """A round is over."""
        self.rounds, self.committed[part.start or 0] = number, committed

    def says(self, message: Message) -> Message:
        if self.kind == "inflate" and message["type"] == "offer":
            return {**message, "tokens": CLAIMED * message["tokens"],
                    "batch_size": min(1 << 20, CLAIMED * message["batch_size"])}
        if self.kind == "inflate" and message["type"] == "ready":
            return {**message, "batch_size": min(1 << 20, CLAIMED * message["batch_size"])}
        return message

    def noise(self, like: Tensor) -> Tensor:
        return unit(torch.randn(len(like), generator=self.generator)) * float(like.norm())

    # Kinds of attack: what is sent

    def flip(self, work: Work) -> Tensor:
        return -work.honest

    def flip3(self, work: Work) -> Tensor:
        return -3 * work.honest

    def make_noise(self, work: Work) -> Tensor:
        """As long as what it trained, which is as long as the others'."""
        return self.noise(work.honest)

    def push(self, work: Work) -> Tensor:
        """Always the same."""
        return self.companions.direction(len(work.honest)) * float(work.honest.norm())

    def drift(self, work: Work) -> Tensor:
        """What it trained, and a little of something else each time."""
        away = self.companions.direction(len(work.honest)) * float(work.honest.norm())
        return work.honest + DRIFT * away

    def copy(self, work: Work) -> Tensor:
        """What the hive committed last."""
        return work.committed if work.committed.any() else work.honest

    def shirk(self, work: Work) -> Tensor:
        """Something random, as long as updates usually are."""
        like = work.committed if work.committed.any() else torch.full_like(work.honest, 1e-3)
        return self.noise(like)

    def inflate(self, work: Work) -> Tensor:
        return work.honest

    def nan(self, work: Work) -> Tensor:
        broken = self.dice.random() < NOW_AND_THEN
        return torch.full_like(work.honest, math.nan) if broken else work.honest

    def collude(self, work: Work) -> Tensor:
        return self.companions.agree(work)


KINDS: Dict[str, Callable[[Attacker, Work], Tensor]] = {
    "flip": Attacker.flip, "flip3": Attacker.flip3, "noise": Attacker.make_noise,
    "push": Attacker.push, "drift": Attacker.drift, "copy": Attacker.copy,
    "shirk": Attacker.shirk, "inflate": Attacker.inflate, "nan": Attacker.nan,
    "collude": Attacker.collude}


class Share(NamedTuple):
    """This share of the peers attacks in this way."""

    kind: str
    share: float

    @classmethod
    def parse(cls, text: str) -> Share:
        """`flip:0.25`. Raises GltchError for anything else."""
        kind, _, number = text.partition(":")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        require(kind in KINDS and 0 <= share <= 1, f"An attack is called like flip:0.25, with a "
                f"share from 0 to 1 and one of {', '.join(KINDS)}, not {text!r}.")
        return cls(kind, share)


def attackers_of(shares: Sequence[Share], peers: int) -> List[str]:
    """The kind of each attacker; they are the last of the peers."""
    kinds = [share.kind for share in shares for _ in range(round(share.share * peers))]
    require(len(kinds) < peers, "With that many attackers no peer is left that is honest.")
    return kinds
