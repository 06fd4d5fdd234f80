"""A peer's share of the training: inner steps from the hive's weights, over its own windows.

The training itself is the `Trainer` of `gltch_2_7m.py`, with its optimizer's state kept from round
to round; a peer under torchrun is a crew of processes that make every step together.
"""
from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from gltch_2_7m import Config, Corpus, GltchError, Runtime, TrainConfig, Trainer
from hive.learning.codec import (
    WHOLE,
    ErrorFeedback,
    flatten,
    from_bytes,
    replaced,
    to_bytes,
    unflatten,
)


@dataclass(frozen=True)
class Work:
    """What came out of a round on this peer."""

    steps: int
    tokens: int
    loss: float  # mean over the steps, nats per character
    seconds: float


class Worker:
    """Inner training on one peer. `noise_seed` makes its dropout its own."""

    def __init__(self, config: Config, recipe: TrainConfig, corpus: Corpus, runtime: Runtime,
                 noise_seed: int):
        self.trainer = Trainer(config, replace(recipe, steps=None, minutes=None), corpus, runtime)
        self.trainer.noise_seed = noise_seed % 2**31
        self.batch_size = recipe.batch_size
        self.anchor: Tensor  # (P,), from where on progress is not taken yet; `load` makes it

    def load(self, weights: Tensor) -> None:
        """Start from these weights (P,); the optimizer keeps its state."""
        unflatten(weights, self.trainer.model)
        self.anchor = weights

    def moved(self, base: Tensor, part: slice = WHOLE) -> Tensor:
        """The pseudo-gradient of a part: from where its weights are to where they were."""
        weights = flatten(self.trainer.model, part)
        return torch.sub(base[part], weights, out=weights)

    def take_progress(self, part: slice) -> Tensor:
        """The pseudo-gradient of a part since its progress was last taken. Training may go on: what
        it makes from now on is taken the next time."""
        made = self.moved(self.anchor, part)
        self.anchor = replaced(self.anchor, part, flatten(self.trainer.model, part))
        return made

    def rebase(self, weights: Tensor, part: slice) -> None:
        """Go on from the hive's new weights of a part, with the progress that is not taken yet."""
        unflatten(weights - self.moved(self.anchor, part), self.trainer.model, part)
        self.anchor = replaced(self.anchor, part, weights)

    def train(self, step: int, total: Optional[int], quota: int, seconds: float, window: int,
              stop: Callable[[int], bool], clock: Callable[[], float] = time.monotonic) -> Work:
        """Up to `quota` steps, at least one, as far as they fit into the seconds.

        `step` and `total` say where the whole run stands, `window` which windows of the text are
        this peer's. `stop(steps done)` may end it earlier. Raises GltchError when the loss is not
        finite.
        """
        trainer = self.trainer
        trainer.losses.clear()  # of the round before
        began = clock()
        losses: List[float] = []
        trainer.step, trainer.total = step, total
        trainer.first_window = window - step * self.batch_size
        while len(losses) < quota:
            losses.append(trainer.train_step())
            spent = clock() - began
            late = spent * (len(losses) + 1) / len(losses) > seconds
            over, = trainer.runtime.mean(float(late or stop(len(losses))))
            if over:
                break
        tokens = len(losses) * self.batch_size * trainer.model.config.block_size
        return Work(len(losses), tokens, sum(losses) / len(losses), clock() - began)


class Learner:
    """A worker, and what leaves the machine of what it learns: codec and error feedback."""

    def __init__(self, worker: Worker, codec: str, count: int, beta: float):
        self.worker, self.codec = worker, codec
        self.feedback = ErrorFeedback(count, beta)

    def train(self, task: Dict[str, Any], weights: Tensor, part: slice, stop: Callable[[int], bool]
              ) -> Tuple[Work, bytes]:
        """What came out of a task that starts from these weights (P,), and the update of a part."""
        work = self.worker.train(**task, stop=stop)
        return work, self.feedback.encode(self.codec, self.worker.moved(weights, part), part)


class Crew:
    """The processes of one peer. The first speaks with the coordinator, the others follow it."""

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
        """What all processes but the first do: as they are told, until they are told to stop."""
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
            elif kind == "train" and worker:
                with contextlib.suppress(GltchError):  # the first process found the same
                    worker.train(**order, stop=lambda steps: False)
