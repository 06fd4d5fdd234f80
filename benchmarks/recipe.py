"""Recipes compared: validation loss after the same number of characters, several seeds each.

    GLTCH_DATA=tinyshakespeare.txt python benchmarks/recipe.py batch_size=64 batch_size=16
    GLTCH_DATA=tinyshakespeare.txt python benchmarks/recipe.py --characters 6600000 \\
        "batch_size=16" "batch_size=16 dropout=0.15"

A row is what it changes of the recipe (`TrainConfig`) or of the network's `dropout`; `""` changes
nothing. All rows see the same text in the same order. Every row and seed is a process with one
thread; `--output` keeps what is finished, so that an interrupted comparison goes on.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

Row = Dict[str, Any]


def changes(text: str) -> Row:
    """`batch_size=16 optimizer=adamw` as a dictionary; raises ValueError for another form."""
    row: Row = {}
    for part in text.split():
        name, value = part.split("=")
        try:
            row[name] = json.loads(value)
        except ValueError:
            row[name] = value
    return row


def run_row(row: Row) -> Row:
    """In a process of its own: the row, with what came out."""
    import torch

    from gltch_2_7m import Config, FastTrainer, TrainConfig, load_corpus, start_runtime
    torch.set_num_threads(1)
    changed, corpus = changes(row["changes"]), load_corpus()
    config = Config(len(corpus.vocabulary), dropout=changed.pop("dropout", Config.dropout))
    recipe = TrainConfig(**{"seed": row["seed"], "device": "cpu", **changed})
    steps = round(row["characters"] / (recipe.batch_size * config.block_size))
    trainer = FastTrainer(config, replace(recipe, steps=steps), corpus, start_runtime(recipe))
    while trainer.step < steps:
        trainer.train_step()
    last = trainer.losses[-max(1, steps // 20):]
    return {**row, "steps": steps, "loss": trainer.validate(), "train": sum(last) / len(last)}


def in_process(row: Row) -> Row:
    done = subprocess.run([sys.executable, __file__, "--row", json.dumps(row)], check=True,
                          stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return dict(json.loads(done.stdout))


def report(rows: List[Row], order: List[str]) -> None:
    print("| changes | steps | training loss | validation loss | of each seed |\n"
          "|---|---|---|---|---|")
    for name in order:
        found = sorted((row for row in rows if row["changes"] == name), key=lambda r: r["seed"])
        losses = [row["loss"] for row in found]
        train = statistics.mean(row["train"] for row in found)
        print(f"| {name or 'none'} | {found[0]['steps']:,} | {train:.3f} "
              f"| {statistics.mean(losses):.4f} | {', '.join(f'{x:.4f}' for x in losses)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("rows", nargs="*", default=[""], help="name=value ... of each row")
    add("--characters", type=int, default=1_228_800, help="to train on (default: 1228800)")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--jobs", type=int, default=os.cpu_count() or 1, help="rows at a time, one thread each")
    add("--output", type=Path, help="file of finished rows")
    add("--row", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print(json.dumps(run_row(args.row)))
        return
    wanted: List[Row] = [{"changes": row, "characters": args.characters, "seed": seed}
                         for seed in args.seeds for row in args.rows]
    kept: List[Row] = []
    if args.output and args.output.exists():
        kept = [json.loads(line) for line in args.output.read_text().splitlines()]
    done = [row for row in kept if any(row.items() >= want.items() for want in wanted)]
    missing = [want for want in wanted if not any(row.items() >= want.items() for row in done)]
    with ThreadPoolExecutor(args.jobs) as pool:
        for future in as_completed([pool.submit(in_process, row) for row in missing]):
            row = future.result()
            done.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
            if args.output:
                with open(args.output, "a") as file:
                    file.write(json.dumps(row) + "\n")
    report(done, args.rows)


if __name__ == "__main__":
    main()
