"""How peers stay together: how far they walk alone, what they send, how the walks are combined."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, Optional

from gltch_2_7m import TrainConfig, is_number, lr_factor, require

UNDO = "undo"  # in place of a codec: a round's update is the number of an earlier version
MOST_FRAGMENTS = 64
MOST_IN_FLIGHT = 8
AHEAD = 0.3  # of what a peer sent after one step: how much further it trains on


@dataclass(frozen=True)
class Sync:
    """One way to synchronize. Its defaults do least: exact values, plain averaging, every step."""

    inner_steps: int = 1  # at the full learning rate; more as it falls
    most_inner_steps: int = 1
    up: str = "fp32"  # codec of what a peer sends
    down: str = "fp32"  # codec of the committed update
    beta: float = 1.0  # what a peer's error feedback keeps from round to round
    outer_lr: float = 1.0
    outer_momentum: float = 0.0
    fragments: int = 1  # of the weights; each round changes one
    overlap: bool = False  # peers go on training while updates travel
    in_flight: int = 1  # updates of a peer that travel at once, each of another fragment

    def __post_init__(self) -> None:
        for name in ("inner_steps", "most_inner_steps"):
            value = getattr(self, name)
            require(type(value) is int and 1 <= value < 2**31,
                    f"{name} must be a whole number of at least 1, not {value!r}.")
        require(type(self.fragments) is int and 1 <= self.fragments <= MOST_FRAGMENTS, "fragments "
                f"must be a whole number from 1 to {MOST_FRAGMENTS}, not {self.fragments!r}.")
        require(type(self.overlap) is bool,
                f"overlap must be true or false, not {self.overlap!r}.")
        most = min(MOST_IN_FLIGHT, self.fragments) if self.overlap else 1
        require(type(self.in_flight) is int and 1 <= self.in_flight <= most, "in_flight must be a "
                f"whole number from 1 to {most} (with overlap as many as there are fragments, at "
                f"most {MOST_IN_FLIGHT}), not {self.in_flight!r}.")
        for name, least, most in [("beta", 0, 1), ("outer_lr", 1e-3, 100),
                                  ("outer_momentum", 0, 1)]:
            value = getattr(self, name)
            require(is_number(value) and least <= value <= most,
                    f"{name} must be a number from {least:g} to {most}, not {value!r}.")

    def ahead(self, steps: int) -> float:
        """How much further in the direction of its update a peer goes until the hive's answer,
        with `steps` between two updates.

        The answer will be a longer step than the update, because of the outer momentum. A peer that
        trains on expects some of that; otherwise it does again what the answer is about to do (a
        guess at what will come, as in eager updates, arXiv 2502.12996). Of a long walk more is its
        own way alone."""
        return AHEAD / steps if self.overlap else 0.0

    def quota(self, step: int, total: Optional[int], recipe: TrainConfig) -> int:
        """Inner steps of the round that begins at a global step.

        The further the learning rate has fallen, the slower the weights move and the longer peers
        may walk alone (post-local SGD, arXiv 1808.07217; quadratic rule, 2310.14423).
        """
        factor = max(lr_factor(step, total, replace(recipe, warmup=0)), 1e-9)
        steps = min(self.most_inner_steps, int(self.inner_steps / factor))
        return max(1, steps if total is None else min(steps, total - step))


# docs/experiments.md says why these values.
SYNCS: Dict[str, Sync] = {
    "streaming": Sync(up="q2", down="q4", outer_momentum=0.5, fragments=4, overlap=True,
                      in_flight=2),
    "diloco": Sync(inner_steps=4, most_inner_steps=20, up="q4", down="q4", outer_momentum=0.5),
    "sparse": Sync(inner_steps=4, most_inner_steps=20, up="top64", down="q4", beta=0.95),
    "every-step": Sync(up="q4", down="q4"),
}
USUAL = "streaming"
