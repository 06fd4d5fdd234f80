"""What --from gains: a small network on other texts, from scratch and from one trained before.

    python benchmarks/going_further.py my.txt other.txt

The network trained before learns the usual text (Tiny Shakespeare, or GLTCH_DATA) for 800 steps.
Then each text is learned for 100 and for 300 steps: from scratch, from that network at the usual
learning rates, and from it at 0.3 times those. Some 15 minutes on one core.
"""
from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import List, Optional, Tuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gltch_2_7m import (
    Config,
    Corpus,
    FastTrainer,
    Origin,
    Runtime,
    TrainConfig,
    in_the_numbers_of,
    learn,
    load_corpus,
)

SHAPE = Config(block_size=64, n_layer=3, n_head=4, n_embd=64, dropout=0.0)


def fit(corpus: Corpus, steps: int, scale: float = 1.0, origin: Optional[Origin] = None,
        ) -> Tuple[FastTrainer, List[float]]:
    """Train on a corpus; the trainer and its validation losses, at the beginning and four later."""
    recipe = TrainConfig(steps=steps, eval_every=steps // 4, batch_size=16, precision="fp32",
                         learning_rate=0.02 * scale, embedding_learning_rate=0.02 * scale,
                         head_learning_rate=0.003 * scale)
    if origin:
        corpus = in_the_numbers_of(origin.vocabulary, corpus)
    trainer = FastTrainer(replace(SHAPE, vocab_size=len(corpus.vocabulary)), recipe, corpus,
                          Runtime(torch.device("cpu")))
    if origin:
        trainer.begin_as(origin.network)
    return trainer, [loss for kind, loss in learn(trainer) if kind == "eval"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--steps", type=int, default=800, help="of the network trained before")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trainer, losses = fit(load_corpus(), arguments.steps)
    print("trained before:", *(f"{loss:.4f}" for loss in losses), flush=True)
    origin = Origin({}, trainer.ema, trainer.corpus.vocabulary)
    for text in arguments.texts:
        for steps in (100, 300):
            for name, scale, begin in (("scratch", 1.0, None), ("from, usual rates", 1.0, origin),
                                       ("from, 0.3 of them", 0.3, origin)):
                _, losses = fit(load_corpus([text]), steps, scale, begin)
                print(f"{text} {steps} steps, {name}:", *(f"{loss:.4f}" for loss in losses),
                      flush=True)


if __name__ == "__main__":
    main()
