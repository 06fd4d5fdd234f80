"""A peer's share of the training: inner steps from the hive's weights, over its own windows.

The training itself is the `FastTrainer` of `gltch_2_7m.py`, with its optimizer's state kept from
round to round; a peer under torchrun is a crew of processes that make every step together.
"""
from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any, Callable, Dict, Optional

import torch
from torch import Tensor

from gltch_2_7m import Config, Corpus, FastTrainer, GltchError, Runtime, TrainConfig
from hive.learning.codec import (
    WHOLE,
    ErrorFeedback,
    flatten,
    from_bytes,
    replaced,
    to_bytes,
    unflatten,
)
from hive.learning.sync import Sync


class Worker:
    """Inner training on one peer. `noise_seed` makes its dropout its own."""

    def __init__(self, config: Config, recipe: TrainConfig, corpus: Corpus, runtime: Runtime,
                 noise_seed: int):
        self.batch_size = recipe.batch_size
        self.first_step = self.first_window = 0  # of the task
        self.trainer = FastTrainer(config, replace(recipe, steps=None, minutes=None), corpus,
                                   runtime, batch_of=self.windows, noise_seed=noise_seed % 2**31)
        self.anchor = flatten(self.trainer.model)  # (P,): progress since then is not taken yet

    def load(self, weights: Tensor) -> None:
        """Start from these weights (P,); the optimizer keeps its state."""
        unflatten(weights, self.trainer.model)
        self.anchor = weights

    def moved(self, base: Tensor, part: slice = WHOLE) -> Tensor:
        """The pseudo-gradient of a part: from where its weights are to where they were."""
        weights = flatten(self.trainer.model, part)
        return torch.sub(base[part], weights, out=weights)

    def take_progress(self, part: slice, ahead: float = 0.0) -> Tensor:
        """The pseudo-gradient of a part since its progress was last taken. Training may go on, from
        `ahead` times that further on; what it gains from now on is taken the next time."""
        weights = flatten(self.trainer.model, part)
        made = self.anchor[part] - weights
        if ahead:
            unflatten(weights.sub_(made, alpha=ahead), self.trainer.model, part)
        self.anchor = replaced(self.anchor, part, weights)
        return made

    def rebase(self, weights: Tensor, part: slice) -> None:
        """Go on from the hive's new weights of a part, with the progress that is not taken yet."""
        unflatten(weights - self.moved(self.anchor, part), self.trainer.model, part)
        self.anchor = replaced(self.anchor, part, weights)

    def begin(self, step: int, total: Optional[int], window: int) -> None:
        """Go on with this step of a run of `total`, at this window of the text."""
        self.trainer.step, self.trainer.total = step, total
        self.first_step, self.first_window = step, window

    def windows(self, step: int) -> range:
        """Those that a step of the task learns from."""
        begin = self.first_window + (step - self.first_step) * self.batch_size
        return range(begin, begin + self.batch_size)

    def step(self) -> float:
        """The loss of one step. Raises GltchError when it is not finite."""
        self.trainer.losses.clear()  # of the step before
        return self.trainer.train_step()

    @property
    def tokens(self) -> int:
        """In a step."""
        return self.batch_size * self.trainer.model.config.block_size


class Learner:
    """A worker, with codec and error feedback for what it sends."""

    def __init__(self, worker: Any, sync: Sync, count: int):
        self.worker, self.sync = worker, sync
        self.feedback = ErrorFeedback(count, sync.beta)

    def load(self, weights: Tensor) -> None:
        """Go on from these weights (P,). Progress that was not taken comes with later updates."""
        self.feedback.absorb(self.worker.moved(self.worker.anchor))
        self.worker.load(weights)

    def rebase(self, weights: Tensor, part: slice) -> None:
        """A part is again as in these weights (P,), but for progress that was not taken."""
        self.worker.rebase(weights[part], part)

    def take(self, part: slice, steps: int) -> bytes:
        """The update of a part, `steps` after the update before."""
        made = self.worker.take_progress(part, self.sync.ahead(steps))
        return self.feedback.encode(self.sync.up, made, part)


class Crew:
    """The processes of one peer. The first talks to the coordinator, the others follow it."""

    def __init__(self, runtime: Runtime):
        self.runtime = runtime

    def share(self, content: bytes = b"") -> bytes:
        """The first process's bytes, in every process."""
        if self.runtime.world == 1:
            return content
        size = torch.tensor([len(content)], device=self.runtime.device)
        torch.distributed.broadcast(size, 0)
        values = torch.empty(int(size), dtype=torch.uint8, device=self.runtime.device)
        if self.runtime.rank == 0:
            values.copy_(from_bytes(content, torch.uint8))
        torch.distributed.broadcast(values, 0)
        return to_bytes(values.cpu())

    def order(self, **order: Any) -> None:
        self.share(json.dumps(order).encode())

    def stop(self) -> None:
        """Let the others go, and wait until they have heard it."""
        self.order(do="stop")
        if self.runtime.world > 1:
            torch.distributed.barrier()

    def follow(self, begin: Callable[[Dict[str, Any], bytes], Worker]) -> None:
        """What all processes but the first do: follow orders until one says to stop."""
        worker: Optional[Worker] = None
        while True:
            order = json.loads(self.share())
            kind = order.pop("do")
            if kind == "stop":
                torch.distributed.barrier()
                return
            if kind == "begin":
                worker = begin(order["job"], self.share())
            elif kind == "load" and worker:
                worker.load(from_bytes(self.share()))
            elif kind == "task" and worker:
                worker.begin(**order)
            elif kind == "step" and worker:
                with contextlib.suppress(GltchError):  # the first process found the same
                    worker.step()
