"""Training speed: this project's training step against a plain textbook transformer.

    python benchmarks/train_speed.py

The yardstick below is the usual first implementation: one module per attention head, fp32, eager
mode, AdamW, the same shapes and batch. Both take turns, so a change in the machine's speed meets
both; the ratio is what travels to other machines.
"""
from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gltch_2_7m import (
    SHAKESPEARE_CHARACTERS,
    Config,
    Corpus,
    FastTrainer,
    TrainConfig,
    Vocabulary,
    start_runtime,
)


class TextbookHead(nn.Module):
    """One head of causal self-attention."""

    def __init__(self, config: Config):
        super().__init__()
        size = config.n_embd // config.n_head
        self.key = nn.Linear(config.n_embd, size, bias=False)
        self.query = nn.Linear(config.n_embd, size, bias=False)
        self.value = nn.Linear(config.n_embd, size, bias=False)
        self.past: Tensor
        self.register_buffer("past", torch.tril(torch.ones(config.block_size, config.block_size)))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, hs)
        T, k = x.size(1), self.key(x)
        scores = self.query(x) @ k.transpose(-2, -1) * k.size(-1)**-0.5  # (B, T, T)
        scores = scores.masked_fill(self.past[:T, :T] == 0, float("-inf"))
        return self.dropout(F.softmax(scores, dim=-1)) @ self.value(x)


class TextbookBlock(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        C = config.n_embd
        self.heads = nn.ModuleList(TextbookHead(config) for _ in range(config.n_head))
        self.projection = nn.Sequential(nn.Linear(C, C), nn.Dropout(config.dropout))
        self.feed_forward = nn.Sequential(
            nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C), nn.Dropout(config.dropout))
        self.norm1, self.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.projection(torch.cat([head(normed) for head in self.heads], dim=-1))
        return x + self.feed_forward(self.norm2(x))


class Textbook(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.Sequential(*[TextbookBlock(config) for _ in range(config.n_layer)])
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.size(1), device=ids.device))
        logits = self.head(self.norm(self.blocks(x)))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def textbook_step(trainer: FastTrainer) -> Callable[[], float]:
    """A training step of the yardstick, on the trainer's own batches."""
    model = Textbook(trainer.model.config).to(trainer.runtime.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)

    def step() -> float:
        size = trainer.recipe.batch_size
        ids, targets = trainer.windows.batch(range(trainer.step * size, (trainer.step + 1) * size))
        loss = model(ids, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="timed turns of each")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()

    recipe = TrainConfig(steps=10_000, device=arguments.device)
    runtime = start_runtime(recipe)
    ids = torch.randint(len(SHAKESPEARE_CHARACTERS), (500_000,), dtype=torch.uint8)
    corpus = Corpus("random characters", ids, Vocabulary(SHAKESPEARE_CHARACTERS), "")
    trainer = FastTrainer(Config(), recipe, corpus, runtime)
    steps = {"textbook": textbook_step(trainer), "gltch": trainer.train_step}
    seconds: Dict[str, List[float]] = {name: [] for name in steps}
    for turn in range(arguments.rounds + 2):  # two turns to warm up
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - began)

    characters = recipe.batch_size * trainer.model.config.block_size
    for name, times in seconds.items():
        middle = statistics.median(times)
        precision = runtime.precision if name == "gltch" else "fp32"
        print(f"{name:9} {precision}  {1000 * middle:7.0f} ms/step  "
              f"{characters / middle:9,.0f} characters/s")
    ratios = [a / b for a, b in zip(seconds["textbook"], seconds["gltch"])]
    print(f"gltch is {statistics.median(ratios):.2f} times as fast "
          f"(turn by turn {min(ratios):.2f} to {max(ratios):.2f}; {runtime.device}, "
          f"{torch.get_num_threads()} threads, PyTorch {torch.__version__})")


if __name__ == "__main__":
    main()
