"""What a simulated hive trains: a network on a real text, or a vector that costs next to nothing.

A worker is outwardly the hive's own, but for `work`, which is told how many steps to make, and how
long they take in virtual time.
"""
from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any, Dict, Optional, Sequence

import torch
from torch import Tensor

from gltch_2_7m import (
    GLTCH,
    PRESETS,
    Config,
    Runtime,
    TrainConfig,
    evaluate,
    load_corpus,
    lr_factor,
    pick_device,
    pick_precision,
    require,
)
from hive.learning.codec import WHOLE, flatten, unflatten
from hive.learning.worker import Work, Worker
from hive.session.protocol import name_of


def steps_that_fit(quota: int, seconds: float, step_seconds: float) -> int:
    """How many steps `Worker.train` will make of a task."""
    done = 1
    while done < quota and step_seconds * done * (done + 1) / done <= seconds:
        done += 1
    return done


class RealWorker(Worker):
    """The hive's own worker; its clock is told how long a step takes."""

    def work(self, task: Dict[str, Any], steps: int, step_seconds: float) -> Work:
        losses = self.trainer.losses
        losses.clear()
        return self.train(**task, stop=lambda done: done >= steps,
                          clock=lambda: step_seconds * len(losses))


class RealTask:
    """A text and a network that learns it."""

    def __init__(self, size: str, data: Sequence[str], recipe: Dict[str, Any],
                 network: Optional[Config] = None, dropout: Optional[float] = None):
        config, usual, self.reference = PRESETS[size]
        self.corpus = load_corpus(data)
        self.alphabet, self.text = self.corpus.vocabulary.characters, self.corpus.digest
        self.config = replace(network or config, vocab_size=len(self.alphabet))
        if dropout is not None:
            self.config = replace(self.config, dropout=dropout)
        self.recipe = replace(usual, **{"device": "cpu", **recipe})
        device = pick_device(self.recipe.device)
        self.runtime = Runtime(device, pick_precision(self.recipe.precision, device))
        torch.manual_seed(self.recipe.seed)
        self.model = GLTCH(self.config).to(device)
        self.start = flatten(self.model)

    def worker(self, noise_seed: int) -> RealWorker:
        return RealWorker(self.config, self.recipe, self.corpus, self.runtime, noise_seed)

    def measure(self, weights: Tensor) -> float:
        """The loss over the whole validation split."""
        unflatten(weights, self.model)
        return evaluate(self.model, self.corpus.validation, self.runtime)


class SyntheticTask:
    """Weights (P,) that noisy gradients pull to a hidden place, some strongly, some a tenth so.

    The loss is the mean of curvature / 2 * distance^2: what noise and other peers' moves add to it,
    averaging has to take away, as with a network.
    """

    reference = 500  # steps
    config = Config(vocab_size=2, block_size=1, n_layer=1, n_head=1, n_embd=2)  # as good as any
    alphabet, text = "ab", name_of(b"")

    def __init__(self, count: int, recipe: Dict[str, Any], noise: int = 1_000_003):
        self.recipe = TrainConfig(**{"optimizer": "sgd", **recipe})
        generator = torch.Generator().manual_seed(self.recipe.seed)
        self.place = torch.randn(count, generator=generator)
        self.curvature = torch.logspace(-1, 0, count)[torch.randperm(count, generator=generator)]
        self.noise = torch.randn(count + noise, generator=generator)  # each step sees a part
        self.noise *= (64 / self.recipe.batch_size) ** 0.5
        self.start = torch.zeros(count)
        self.latest = self.start, self.start - self.place

    def worker(self, noise_seed: int) -> SyntheticWorker:
        return SyntheticWorker(self, noise_seed)

    def distance(self, weights: Tensor) -> Tensor:
        """From the hidden place, not to be changed: peers that hold the same weights share it."""
        if self.latest[0] is not weights:
            self.latest = weights, weights - self.place
        return self.latest[1]

    def measure(self, weights: Tensor) -> float:
        return float(torch.dot(self.curvature, (weights - self.place).square())) / len(weights) / 2


class SyntheticWorker:
    """Gradient descent on a `SyntheticTask`; outwardly a `RealWorker`."""

    def __init__(self, task: SyntheticTask, noise_seed: int):
        self.task, self.rng = task, random.Random(noise_seed)
        self.batch_size = task.recipe.batch_size
        self.load(task.start)

    def load(self, weights: Tensor) -> None:
        self.distance = self.task.distance(weights)

    def moved(self, base: Tensor, part: slice = WHOLE) -> Tensor:
        return self.task.distance(base)[part] - self.distance[part]

    def work(self, task: Dict[str, Any], steps: int, step_seconds: float) -> Work:
        world, loss = self.task, 0.0
        self.distance = distance = self.distance.clone()
        count, slope = len(distance), torch.empty_like(distance)
        begins, fastest = len(world.noise) - count, world.recipe.matrix_learning_rate
        for step in range(task["step"], task["step"] + steps):
            torch.mul(world.curvature, distance, out=slope)
            loss += float(torch.dot(slope, distance)) / count / 2
            begin = self.rng.randrange(begins)
            slope.add_(world.noise[begin: begin + count])
            distance.sub_(slope, alpha=fastest * lr_factor(step, task["total"], world.recipe))
        require(math.isfinite(loss), f"The loss became {loss}: use a lower --learning-rate.")
        return Work(steps, steps * self.batch_size, loss / steps, step_seconds * steps)
