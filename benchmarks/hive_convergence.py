"""Convergence: what a hive learns, against one peer alone and one process with all the batches.

    GLTCH_DATA=tinyshakespeare.txt python benchmarks/hive_convergence.py
    GLTCH_DATA=tinyshakespeare.txt python benchmarks/hive_convergence.py --steps 1500 --batch-size 8

All rows make the same number of steps on the same schedule. L1 is one peer alone, LN one process
with N times its batch; a hive of N peers captures (L1 - L) / (L1 - LN) of what N times the data can
give. Hives are simulated in lockstep (`hive/simulate.py`): real training, the hive's own rounds,
codecs and outer step, no sockets. Each row is a process; `--output` keeps finished rows, so that an
interrupted benchmark goes on.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

Row = Dict[str, Any]


def rows_for(args: argparse.Namespace) -> List[Row]:
    """What to run, the longest first."""
    common = {"steps": args.steps, "batch_size": args.batch_size, "dropout": args.dropout,
              "seed": args.seed}
    four = min(args.peers, key=lambda peers: abs(peers - 4))
    rows: List[Row] = [{"kind": "hive", "peers": peers} for peers in args.peers]
    rows += [{"kind": "one process", "times": times} for times in {1, four}]
    rows += [{"kind": "hive", "peers": four, **extra} for extra in args.extra]
    return sorted(({**row, **common} for row in rows),
                  key=lambda row: -row.get("peers", row.get("times", 1)))


def run_row(row: Row) -> Row:
    """In a process of its own: the row, with what came out."""
    import torch

    from gltch_2_7m import (
        Config,
        FastTrainer,
        TrainConfig,
        evaluate,
        load_corpus,
        start_runtime,
    )
    from hive.simulation.hive import simulate
    from hive.simulation.settings import Settings
    torch.set_num_threads(1)
    if row["kind"] == "hive":
        settings = {key: value for key, value in row.items()
                    if key not in ("kind", "batch_size", "seed")}
        summary = simulate(Settings(
            train="real", lockstep=True, eval_every=10**9, **{"sync": "diloco", **settings},
            recipe={"batch_size": row["batch_size"], "seed": row["seed"]}))
        return {**row, "loss": summary.val_loss, "rounds": summary.rounds,
                "up": summary.up_per_parameter, "down": summary.down_per_parameter}
    recipe = TrainConfig(steps=row["steps"], batch_size=row["batch_size"] * row["times"],
                         seed=row["seed"])
    corpus, runtime = load_corpus(), start_runtime(recipe)
    config = replace(Config(), vocab_size=len(corpus.vocabulary), dropout=row["dropout"])
    trainer = FastTrainer(config, recipe, corpus, runtime)
    while trainer.step < row["steps"]:
        trainer.train_step()
    return {**row, "loss": evaluate(trainer.model, corpus.validation, runtime)}


def in_process(row: Row) -> Row:
    done = subprocess.run([sys.executable, __file__, "--row", json.dumps(row)], check=True,
                          stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return dict(json.loads(done.stdout))


def report(rows: List[Row]) -> None:
    alone = next(row["loss"] for row in rows if row.get("times") == 1)
    times, together = next((row["times"], row["loss"]) for row in rows if row.get("times", 1) > 1)
    print(f"\nL1 = {alone:.4f}, L{times} = {together:.4f}\n")
    print(f"{'':34}  val loss  captured  against L{times}  rounds  bytes/param up, down")
    for row in sorted(rows, key=lambda row: (row.get("peers", 0), len(row))):
        if row["kind"] == "one process":
            continue
        extra = " ".join(str(row[key]) for key in ("sync", "codec", "inner_steps") if key in row)
        captured = (alone - row["loss"]) / (alone - together)
        print(f"{row['peers']} peers {extra:26}  {row['loss']:8.4f}  {captured:8.0%}  "
              f"{row['loss'] / together - 1:+10.1%}  {row['rounds']:6}  "
              f"{row['up']:.3f}, {row['down']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--steps", type=int, default=250)
    add("--batch-size", type=int, default=64, help="sequences per peer and step")
    add("--dropout", type=float, default=0.0)
    add("--seed", type=int, default=1337)
    add("--peers", type=int, nargs="+", default=[2, 4, 8])
    add("--extra", type=json.loads, nargs="*", default=[{"codec": "fp32"}], metavar="JSON",
        help='further hives, such as {"sync": "sparse"}')
    add("--jobs", type=int, default=os.cpu_count() or 1, help="rows at a time, one thread each")
    add("--output", type=Path, help="file of finished rows")
    add("--row", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print(json.dumps(run_row(args.row)))
        return
    wanted = rows_for(args)
    done: List[Row] = []
    if args.output and args.output.exists():
        done = [json.loads(line) for line in args.output.read_text().splitlines()]
    finished = [row for row in done if any(row.items() >= want.items() for want in wanted)]
    missing = [want for want in wanted if not any(
        row.items() >= want.items() and len(row) <= len(want) + 4 for row in finished)]
    with ThreadPoolExecutor(args.jobs) as pool:
        for future in as_completed(pool.submit(in_process, row) for row in missing):
            row = future.result()
            finished.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
            if args.output:
                with open(args.output, "a") as file:
                    file.write(json.dumps(row) + "\n")
    report(finished)


if __name__ == "__main__":
    main()
