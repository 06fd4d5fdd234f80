"""How good the hive's weights are: their validation loss, what they write, the checkpoints."""
from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch
from torch import Tensor

from gltch_2_7m import (
    GLTCH,
    Corpus,
    GltchError,
    Runtime,
    Unwritable,
    evaluate,
    generate,
    pick_precision,
    save_checkpoint,
)
from hive.journal import Journal
from hive.learning.codec import decode, unflatten
from hive.learning.fragments import Fragments
from hive.learning.probe import Ground, Probe
from hive.session.job import Job
from hive.session.trust import Outcome, Trial, Tried
from hive.text import TEXT


class Evaluator:
    def __init__(self, job: Job, journal: Journal, corpus: Corpus, folder: Path):
        self.job, self.journal, self.corpus, self.folder = job, journal, corpus, folder
        self.model = GLTCH(job.config)
        device = torch.device("cpu")
        self.runtime = Runtime(device, pick_precision("auto", device))

    def evaluate(self, weights: Tensor, version: int, step: int
                 ) -> Tuple[float, float, str, Dict[str, Any]]:
        """Validation loss, seconds it took, a sample, a checkpoint."""
        began = time.monotonic()
        unflatten(weights, self.model)
        self.model.eval()
        loss = evaluate(self.model, self.corpus.validation, self.runtime)
        seconds = time.monotonic() - began
        text = "".join(generate(self.model, self.job.vocabulary, "", 200, seed=version))
        return loss, seconds, text, checkpoint(self.job, self.model, step, loss, self.folder)

    def keep_evaluation(self, version: int, loss: float, seconds: float, text: str) -> None:
        self.journal.add_evaluation(version, loss, seconds)
        self.journal.add_sample(version, text)

    def keep_checkpoint(self, state: Dict[str, Any], names: List[str]) -> None:
        for name in names:
            try:
                save_checkpoint(self.folder / name, state)
            except GltchError as error:  # on Windows also while somebody reads it
                raise Unwritable(str(error)) from error


class Prober:
    """Tries updates; `clock` tells the seconds that this takes, of one core. Once it is `stopped`,
    by another thread, the rest is left out: nobody waits for that any more."""

    def __init__(self, ground: Ground, fragments: Fragments, clock: Callable[[], float]):
        self.ground, self.fragments, self.clock = ground, fragments, clock
        self.stopped = False

    def probe(self, number: int, before: Tensor, after: Tensor, trials: Sequence[Trial]
              ) -> Outcome:
        """Of the round that led from the weights before to those after."""
        began, part = self.clock(), self.fragments.of_round(number)
        probe = Probe(self.ground, before, part)
        fall, count = probe.after(after), self.fragments.values(number)
        tried = [
            Tried(one.peer, *probe.tried(decode(one.codec, one.content, count), one.given,
                                         one.others), one.late)
            for one in trials if not self.stopped]
        return Outcome(number, probe.loss, probe.loss - fall.mean, tried, self.clock() - began)


def core_seconds() -> float:
    """As if all cores that PyTorch may use worked all the time."""
    return time.monotonic() * torch.get_num_threads()


def checkpoint(job: Job, model: GLTCH, step: int, val_loss: float,
               folder: Path) -> Dict[str, Any]:
    """A finished network that `gltch_2_7m.py sample` and the others open."""
    return {"config": asdict(job.config), "recipe": asdict(job.recipe),
            "vocabulary": job.characters, "text": job.source,
            "paths": [str((folder / TEXT).resolve())], "step": step, "val_loss": val_loss,
            "ema": model.state_dict()}
