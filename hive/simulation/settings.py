"""What can be chosen of a simulated run."""
from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from gltch_2_7m import PRESETS, Config, is_number, require
from hive.learning.codec import CODECS
from hive.learning.sync import SYNCS, USUAL, Sync
from hive.session.rounds import Pace
from hive.simulation.attackers import Share, attackers_of
from hive.simulation.tasks import RealTask, SyntheticTask


def option(default: Any, kind: Callable[[str], Any], text: str, choices: Any = None) -> Any:
    """A setting that is also a command line option: the help stands beside the value."""
    return field(default=default, metadata={"kind": kind, "help": text, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """One simulated run. Raises GltchError for a value that makes no sense."""

    peers: int = option(16, int, "how many take part")
    rounds: Optional[int] = option(None, int, "end after this many rounds")
    steps: Optional[int] = option(None, int, "end after this many steps")
    minutes: Optional[float] = option(None, float, "end after this many virtual minutes")
    target_loss: Optional[float] = option(None, float, "end when val_loss is this low")
    lockstep: bool = option(False, bool, "equal peers, no transfer times, every peer makes all "
                            "steps of every round: what the algorithm does, undisturbed")
    churn: float = option(0.0, float, "probability per round that a peer vanishes for a while")
    stragglers: float = option(0.0, float, "share of the peers that are ten times slower")
    newcomers: int = option(0, int, "of the peers that come for the first time later: one each "
                            "four rounds")
    attackers: Tuple[str, ...] = option((), str, "peers that harm, like flip:0.25 noise:0.1 "
                                        "(kinds: simulation/attackers.py)")
    undefended: bool = option(False, bool, "the plain mean of what peers send: no update is "
                              "compared with others or tried, and nobody set aside")
    spread: float = option(0.3, float, "of speeds and links (standard deviation of the logarithm)")
    step_seconds: float = option(0.5, float, "virtual time of a step on a middling peer")
    uplink: Optional[float] = option(None, float, "MB/s (default: 1; synthetic: as much less as "
                                     "its vector is smaller than GLTCH-2.7M)")
    downlink: Optional[float] = option(None, float, "MB/s (default: 5; synthetic: likewise)")
    latency: float = option(0.05, float, "seconds one way")
    commit_seconds: float = option(0.1, float, "that the coordinator takes to end a round")
    round_seconds: float = option(60.0, float, "the longest a round trains")
    min_peers: int = option(1, int, "peers to wait for before a round")
    train: str = option("synthetic", str, "what is trained: a network on the text of --data, or a "
                        "vector that noisy gradients pull to a hidden place; its loss is the mean "
                        "squared distance left (weighted), not nats of text", ("synthetic", "real"))
    parameters: int = option(20_000, int, "of the synthetic vector")
    size: str = option("2.7m", str, "of the real network", tuple(PRESETS))
    dropout: Optional[float] = option(None, float, "of the real network")
    sync: str = option(USUAL, str, "how peers stay together", tuple(SYNCS))
    codec: Optional[str] = option(None, str, "of the updates, both ways (default: by --sync)",
                                  tuple(CODECS))
    fragments: Optional[int] = option(None, int, "parts of the weights; each round changes one")
    overlap: bool = option(False, bool, "peers go on training while updates travel")
    in_flight: Optional[int] = option(None, int, "updates of a peer that travel at once")
    inner_steps: Optional[int] = option(None, int, "steps of every round; with "
                                        "--most-inner-steps, of the first rounds")
    most_inner_steps: Optional[int] = option(None, int, "steps of the last rounds")
    outer_lr: Optional[float] = option(None, float, "outer learning rate (default: by --sync)")
    outer_momentum: Optional[float] = option(None, float, "(default: by --sync)")
    beta: Optional[float] = option(None, float, "what error feedback keeps (default: by --sync)")
    eval_every: int = option(10, int, "rounds between evaluations")
    threads: int = option(1, int, "of PyTorch")
    data: Tuple[str, ...] = ()  # files of the real text
    recipe: Dict[str, Any] = field(default_factory=dict)  # what of the TrainConfig is not default
    network: Optional[Config] = None  # instead of a size

    def __post_init__(self) -> None:
        def must(name: str, holds: bool, what: str) -> None:
            value = getattr(self, name)
            require(value is None or is_number(value) and math.isfinite(value) and holds,
                    f"{name.replace('_', '-')} must be {what}, not {value!r}.")

        for name in ("peers", "rounds", "steps", "min_peers", "parameters", "fragments",
                     "in_flight", "inner_steps", "most_inner_steps", "eval_every", "threads"):
            value = getattr(self, name)
            must(name, type(value) is int and value >= 1, "a whole number of at least 1")
        for name in ("minutes", "step_seconds", "uplink", "downlink", "round_seconds", "outer_lr"):
            must(name, (getattr(self, name) or 0) > 0, "a number above 0")
        for name in ("spread", "latency", "commit_seconds"):
            must(name, getattr(self, name) >= 0, "a number of at least 0")
        for name in ("churn", "stragglers"):
            must(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        must("newcomers", type(self.newcomers) is int and 0 <= self.newcomers < self.peers,
             "a whole number from 0 to one less than all peers")
        must("outer_momentum", 0 <= (self.outer_momentum or 0) < 1, "at least 0 and below 1")
        must("beta", 0 <= (self.beta or 0) <= 1, "from 0 to 1")
        for f in fields(self):
            value, choices = getattr(self, f.name), f.metadata.get("choices")
            require(not choices or value is None or value in choices,
                    f"{f.name} must be one of {', '.join(choices or ())}, not {value!r}.")
        first = self.peers - self.newcomers
        require(self.min_peers <= first, f"With {first} peers no round would ever begin: "
                f"min-peers is {self.min_peers}.")
        attackers_of(self.attacks, self.peers)
        require(not self.lockstep or self.churn == self.stragglers == self.newcomers == 0, "In "
                "lockstep all peers are equal and always there: leave out churn, stragglers and "
                "newcomers, or lockstep.")

    @property
    def attacks(self) -> List[Share]:
        return [Share.parse(text) for text in self.attackers]

    def make_sync(self) -> Sync:
        """The preset with what was set by hand."""
        inner, most = self.inner_steps, self.most_inner_steps or self.inner_steps
        values: Dict[str, Any] = {"inner_steps": inner, "most_inner_steps": most,
                                  "up": self.codec, "down": self.codec, "beta": self.beta,
                                  "outer_lr": self.outer_lr, "outer_momentum": self.outer_momentum,
                                  "fragments": self.fragments, "overlap": self.overlap or None,
                                  "in_flight": self.in_flight}
        given = {name: value for name, value in values.items() if value is not None}
        return replace(SYNCS[self.sync], **given)

    def make_task(self) -> Union[RealTask, SyntheticTask]:
        if self.train == "real":
            return RealTask(self.size, self.data, self.recipe, self.network, self.dropout)
        return SyntheticTask(self.parameters, self.recipe)

    def make_pace(self) -> Pace:
        fixed = self.inner_steps is not None and self.most_inner_steps is None
        if self.lockstep:
            return Pace(seconds=1e9, fixed=True)
        return Pace(self.round_seconds, fixed=fixed)
