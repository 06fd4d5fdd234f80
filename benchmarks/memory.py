"""Memory: peak resident memory of one training step, with and without --low-memory.

    python benchmarks/memory.py --size 10m

Each measurement is a process of its own (Linux and macOS).
"""
from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def measure(size: str, low_memory: bool) -> None:
    """Two training steps (the second has all the optimizer's state), then print the peak."""
    import torch

    from gltch_2_7m import (
        PRESETS,
        SHAKESPEARE_CHARACTERS,
        Corpus,
        FastTrainer,
        Vocabulary,
        start_runtime,
    )

    config, recipe, _ = PRESETS[size]
    recipe = replace(recipe, device="cpu", low_memory=low_memory, steps=100)
    ids = torch.randint(len(SHAKESPEARE_CHARACTERS), (100_000,), dtype=torch.uint8)
    corpus = Corpus("random characters", ids, Vocabulary(SHAKESPEARE_CHARACTERS), "")
    trainer = FastTrainer(config, recipe, corpus, start_runtime(recipe))
    for _ in range(2):
        trainer.train_step()
    unit = 1 if sys.platform == "darwin" else 1024
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="2.7m")
    parser.add_argument("--one", choices=("normal", "low"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.size, arguments.one == "low")
        return
    peaks = {}
    for one in ("normal", "low"):
        command = [sys.executable, __file__, "--size", arguments.size, "--one", one]
        peaks[one] = float(subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(f"{arguments.size:5} {'--low-memory' if one == 'low' else '':13} "
              f"{peaks[one]:7,.0f} MiB")
    print(f"low memory takes {peaks['low'] / peaks['normal']:.2f} of the normal peak")


if __name__ == "__main__":
    main()
