"""Writing speed: the cached decoder against a full forward pass per character.

    python benchmarks/decode_speed.py

Both write the same number of characters past a full context, one thread, batch 1, taking turns.
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
from torch import Tensor, nn

from gltch_2_7m import GLTCH, Config, generate_ids


@torch.inference_mode()
def write_naively(model: GLTCH, ids: Tensor, length: int) -> None:
    for _ in range(length):
        logits = model(ids[:, -model.config.block_size:])[:, -1]
        new = torch.multinomial(logits.softmax(-1), 1)
        ids = torch.cat([ids, new], dim=1)


def seconds_per_character(write: Callable[[int], object], length: int) -> float:
    began = time.perf_counter()
    write(length)
    return (time.perf_counter() - began) / length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="timed turns of each")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GLTCH(Config()).eval()
    for parameter in model.parameters():  # zeroed weights would make the work easier
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.05)
    ids = torch.randint(model.config.vocab_size, (1, model.config.block_size))
    writers = {
        "full forward": (lambda n: write_naively(model, ids, n), 40),
        "cached, re-encode": (lambda n: list(generate_ids(model, ids, n)), 400),
        "cached, exact": (lambda n: list(generate_ids(model, ids, n, overflow="exact")), 40),
    }
    seconds: Dict[str, List[float]] = {name: [] for name in writers}
    for turn in range(arguments.rounds + 1):  # one turn to warm up
        for name, (write, length) in writers.items():
            spent = seconds_per_character(write, length)
            if turn:
                seconds[name].append(spent)
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(seconds["full forward"], times)]
        print(f"{name:18} {1000 * statistics.median(times):6.2f} ms per character, "
              f"{statistics.median(ratios):5.1f} times as fast as a full forward "
              f"({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
