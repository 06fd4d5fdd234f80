"""What a simulated hive trains: a network on a real text, or a vector that costs next to nothing.

Their workers are outwardly the same.
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
from hive.learning.codec import WHOLE, flatten, replaced, unflatten
from hive.learning.probe import TextGround
from hive.learning.worker import Worker

PIECES = 8  # of a vector


class RealTask:
    """A text and a network that learns it."""

    def __init__(self, size: str, data: Sequence[str], recipe: Dict[str, Any],
                 network: Optional[Config] = None, dropout: Optional[float] = None):
        config, usual, self.reference = PRESETS[size]
        self.corpus = load_corpus(data)
        self.alphabet = self.corpus.vocabulary.characters
        self.config = replace(network or config, vocab_size=len(self.alphabet))
        if dropout is not None:
            self.config = replace(self.config, dropout=dropout)
        self.recipe = replace(usual, **{"device": "cpu", **recipe})
        device = pick_device(self.recipe.device)
        self.runtime = Runtime(device, pick_precision(self.recipe.precision, device))
        torch.manual_seed(self.recipe.seed)
        self.model = GLTCH(self.config).to(device)
        self.start = flatten(self.model)

    def worker(self, noise_seed: int) -> Worker:
        return Worker(self.config, self.recipe, self.corpus, self.runtime, noise_seed)

    def ground(self) -> TextGround:
        """Where updates are tried."""
        return TextGround(self.config, self.corpus.train, self.corpus.validation, self.recipe.seed)

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
    alphabet = "ab"

    def __init__(self, count: int, recipe: Dict[str, Any], noise: int = 1_000_003):
        self.recipe = TrainConfig(**{"optimizer": "sgd", **recipe})
        generator = torch.Generator().manual_seed(self.recipe.seed)
        self.place = torch.randn(count, generator=generator)
        self.curvature = torch.logspace(-1, 0, count)[torch.randperm(count, generator=generator)]
        self.noise = torch.randn(count + noise, generator=generator)  # each step sees a part
        self.noise *= (64 / self.recipe.batch_size) ** 0.5
        self.start = torch.zeros(count)

    def worker(self, noise_seed: int) -> SyntheticWorker:
        return SyntheticWorker(self, noise_seed)

    def ground(self) -> SyntheticTask:
        return self

    def held_out(self, weights: Tensor) -> Tensor:
        """The loss in each of some pieces of the vector, which stand for windows of a text."""
        losses = self.curvature * (weights - self.place).square() / 2
        return torch.stack([piece.mean() for piece in losses.tensor_split(PIECES)])

    def windows(self, weights: Tensor, indices: Sequence[int]) -> Tensor:
        """There is no text of which somebody could know more than others: nothing differs."""
        return torch.zeros(PIECES)

    def measure(self, weights: Tensor) -> float:
        return float(torch.dot(self.curvature, (weights - self.place).square())) / len(weights) / 2


class SyntheticWorker:
    """Gradient descent on a `SyntheticTask`; outwardly a `Worker`."""

    def __init__(self, task: SyntheticTask, noise_seed: int):
        self.task, self.rng = task, random.Random(noise_seed)
        self.tokens = task.recipe.batch_size
        self.count, self.shifts = len(task.start), len(task.noise) - len(task.start)
        self.load(task.start)
        self.begin(0, None, 0)

    def load(self, weights: Tensor) -> None:
        self.weights = self.anchor = weights  # neither is ever changed in place

    def moved(self, base: Tensor, part: slice = WHOLE) -> Tensor:
        return base[part] - self.weights[part]

    def take_progress(self, part: slice, ahead: float = 0.0) -> Tensor:
        made = self.moved(self.anchor, part)
        if ahead:
            self.weights = replaced(self.weights, part, self.weights[part] - ahead * made)
        self.anchor = replaced(self.anchor, part, self.weights[part])
        return made

    def rebase(self, weights: Tensor, part: slice) -> None:
        self.weights = replaced(self.weights, part, weights - self.moved(self.anchor, part))
        self.anchor = replaced(self.anchor, part, weights)

    def begin(self, step: int, total: Optional[int], window: int) -> None:
        self.number, self.total = step, total

    def step(self) -> float:
        world, count = self.task, self.count
        distance = self.weights - world.place
        slope = world.curvature * distance
        loss = float(torch.dot(slope, distance)) / count / 2
        require(math.isfinite(loss), f"The loss became {loss}: use a lower --learning-rate.")
        begin = self.rng.randrange(self.shifts)
        slope.add_(world.noise[begin: begin + count])
        factor = lr_factor(self.number, self.total, world.recipe)
        self.weights = torch.sub(self.weights, slope,
                                 alpha=world.recipe.matrix_learning_rate * factor, out=distance)
        self.number += 1
        return loss
