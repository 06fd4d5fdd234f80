"""What a hive trains: one description that the coordinator keeps and every peer receives."""
from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Dict, Optional

from gltch_2_7m import (
    Config,
    GltchError,
    TrainConfig,
    Vocabulary,
    is_number,
    parameters_of,
    require,
)
from hive.learning.codec import CODECS
from hive.learning.sync import Sync
from hive.network.words import shown
from hive.session.protocol import BLOB_BYTES, Digest, Whole

LARGEST = {"vocab_size": 0x110000, "block_size": 1 << 16, "n_layer": 256, "n_head": 256,
           "n_embd": 1 << 14}  # what a peer agrees to build
MOST_PARAMETERS = 1 << 30


@dataclass(frozen=True)
class Limits:
    """What ends a run, whichever comes first. None: does not end it."""

    steps: Optional[int] = None
    rounds: Optional[int] = None
    minutes: Optional[float] = None
    target_loss: Optional[float] = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value, whole = getattr(self, f.name), f.name in ("steps", "rounds")
            require(value is None or (type(value) is int if whole else is_number(value))
                    and 0 < value <= 1e15, f"{f.name} must be a {'whole ' if whole else ''}number "
                    f"above 0, not {value!r}.")

    def or_steps(self, usual: int) -> Limits:
        """These; and the usual steps, when nothing ends the run for certain: a loss may never be
        reached."""
        endless = replace(self, target_loss=None) == Limits()
        return replace(self, steps=usual) if endless else self

    def total(self, step: int, version: int, seconds: float) -> Optional[int]:
        """Length of the whole run in steps, as far as it can be told so far: the learning rate and
        the inner steps follow it. `version` rounds and `seconds` led to `step`."""
        totals = [self.steps] if self.steps else []
        parts = [version / self.rounds] if self.rounds else []
        parts += [seconds / (60 * self.minutes)] if self.minutes else []
        if step:
            totals += [max(step, round(step / part)) for part in parts if part > 0]
        return min(totals, default=None)

    def reached(self, step: int, version: int, seconds: float) -> str:
        """Why the run is over, in words; empty while it is not."""
        if self.steps and step >= self.steps:
            return f"all {step:,} steps are done"
        if self.rounds and version >= self.rounds:
            return f"all {version:,} rounds are done"
        if self.minutes and seconds >= 60 * self.minutes:
            return f"the {self.minutes:g} minutes are over"
        return ""


def nats(loss: float) -> str:
    """A loss for people; a dash while nothing has been measured."""
    return "-" if math.isnan(loss) else f"{loss:.3f}"


@dataclass(frozen=True)
class Job:
    """Network, recipe, way of synchronizing, text and end of a run."""

    hive: str  # random identifier of this run
    size: str
    mode: str  # name of the sync preset
    config: Config
    recipe: TrainConfig
    sync: Sync
    limits: Limits
    characters: str  # the vocabulary
    text: str  # SHA-256 of the text that peers get, in UTF-8
    text_bytes: int  # of that
    whole_text: str = ""  # SHA-256 of the text with what is held out; empty: peers get all of it

    @property
    def source(self) -> str:
        """SHA-256 of the text that the run is about."""
        return self.whole_text or self.text

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.characters)

    def as_json(self) -> Dict[str, Any]:
        """Without what a run without fragments and overlap, or of before a part of the text was
        held out, need not say, so that it is described as it ever was."""
        described = asdict(self)
        if not self.whole_text:
            del described["whole_text"]
        for name, usual in (("fragments", 1), ("overlap", False), ("in_flight", 1)):
            if described["sync"][name] == usual:
                del described["sync"][name]
        return described

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> Job:
        """Raises GltchError for anything that is not a job this machine should take on."""
        try:
            parts: Dict[str, Any] = {"config": Config, "recipe": TrainConfig, "sync": Sync,
                                     "limits": Limits}
            job = cls(**{**value, **{name: build(kind, value[name])
                                     for name, kind in parts.items()}})
            require(len(job.vocabulary) == job.config.vocab_size, "the vocabulary does not fit")
            require(all(type(getattr(job, name)) is str for name in
                        ("hive", "size", "mode", "characters")) and Digest().holds(job.text)
                    and (job.whole_text == "" or Digest().holds(job.whole_text))
                    and Whole(0, BLOB_BYTES).holds(job.text_bytes), "a field has the wrong type")
            require({job.sync.up, job.sync.down} <= set(CODECS), "there is no such codec")
        except (GltchError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise GltchError(f"The coordinator's description of the run cannot be used "
                             f"({shown(error).rstrip('.')}): it may be of another version."
                             ) from error
        for name, most in LARGEST.items():
            given = getattr(job.config, name)
            require(given <= most, "The hive's network is larger than this peer agrees to build: "
                    f"{name} is {shown(f'{given:,}', 40)}.")
        require(parameters_of(job.config) <= MOST_PARAMETERS, f"The hive's network has "
                f"{parameters_of(job.config):,} parameters; a peer takes {MOST_PARAMETERS:,}.")
        return job


def build(kind: Any, values: Dict[str, Any]) -> Any:
    """A dataclass from its fields; a missing one takes its default."""
    known = {f.name for f in fields(kind)}
    require(set(values) <= known, f"unknown: {', '.join(sorted(set(values) - known))}")
    return kind(**values)
