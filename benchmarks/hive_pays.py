"""Does the Hive pay? What a hive does against one of its peers alone, in virtual time.

    python benchmarks/hive_pays.py
    GLTCH_DATA=tinyshakespeare.txt python benchmarks/hive_pays.py --learn --minutes 5

The sessions, rounds, codecs and outer step are the hive's own; how long a step takes and what a
link carries is a model, whose numbers are below. The first command trains a vector that costs next
to nothing, links scaled to its size: what share of the time peers train, and how many characters
they get through. The second trains GLTCH-2.7M for real and says how much sooner a hive of equal
peers has the loss that one alone has in the end; that takes hours. Its ideal rows are one process
that makes steps of all the peers' sequences in the time of one peer's step: the same devices in one
box, and nothing to send. `--output` keeps finished rows.
"""
from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hive.learning.sync import USUAL
from hive.simulation.hive import USUAL_PARAMETERS, PeerHost, Simulation
from hive.simulation.settings import Settings

PARAMETERS = 20_000  # of the vector


class Device(NamedTuple):
    """A step takes `least` seconds, or `fixed` and a bit for each sequence."""

    name: str
    least: float
    fixed: float
    sequence: float

    def step_seconds(self, batch_size: int) -> float:
        return max(self.least, self.fixed + self.sequence * batch_size)


class Link(NamedTuple):
    name: str
    up: float  # MB/s
    down: float
    latency: float  # seconds one way


# Two CPU cores as measured with 64, 32, 16 and 8 sequences (643, 347, 199 and 126 ms); the GPUs are
# bound by launches below some batch, and by the batch above.
CPU = Device("two CPU cores", 0.0, 0.052, 0.0092)
LAPTOP = Device("a laptop's GPU", 0.020, 0.0, 0.050 / 64)
T4 = Device("a T4", 0.030, 0.0, 0.100 / 64)
FAST = Device("a fast GPU", 0.010, 0.0, 0.010 / 64)
COMMIT = 0.03  # seconds to combine a fragment and write it down; 10 to 44 ms without the disk
HOME = Link("home, 10/50 Mbit/s", 1.25, 6.25, 0.025)
OFFICE = Link("office, 100/100 Mbit/s", 12.5, 12.5, 0.005)
MIXED = [FAST, LAPTOP, LAPTOP, CPU, CPU, CPU, CPU, CPU]


class Group(Simulation):
    """A hive of these devices, all behind links of one kind."""

    def __init__(self, settings: Settings, devices: Sequence[Device], link: Link):
        self.devices, self.link = devices, link
        super().__init__(settings)

    def make_peer(self, number: int, slow: bool) -> PeerHost:
        peer = super().make_peer(number, slow)
        size = len(self.task.start) / USUAL_PARAMETERS if self.settings.train == "synthetic" else 1
        peer.up, peer.down = 1e6 * self.link.up * size, 1e6 * self.link.down * size
        peer.latency = self.link.latency
        peer.step_seconds = self.devices[number].step_seconds(self.task.recipe.batch_size)
        return peer


def run(devices: Sequence[Device], link: Link, batch_size: int, **more: Any) -> Dict[str, Any]:
    """A row: what one peer alone would do, and what these do together."""
    recipe = {"batch_size": batch_size, "seed": 1, **more.pop("recipe", {})}
    settings = Settings(peers=len(devices), spread=0.0, latency=link.latency, recipe=recipe,
                        eval_every=more.pop("eval_every", 10**6), commit_seconds=COMMIT, **more)
    hive = Group(settings, devices, link)
    summary = hive.run()
    count, block = len(hive.task.start), hive.task.config.block_size
    characters = summary.tokens["counted"] / summary.seconds
    fastest = min(device.step_seconds(batch_size) for device in devices)
    return {"peers": len(devices), "training": summary.training,
            "characters": characters * (128 if settings.train == "synthetic" else 1),
            "times": characters / (batch_size * block / fastest), "seconds": summary.seconds,
            "up": hive.bytes["up"] / count / len(devices) / summary.step,
            "down": hive.bytes["down"] / count / len(devices) / summary.step,
            "step": summary.step, "rounds": summary.rounds, "loss": summary.val_loss}


def table(sync: str, batch_size: int, minutes: float) -> None:
    """What share of the time is training, and how much gets done."""
    print(f"{sync}, {batch_size} sequences a step; bytes are per parameter and inner step\n")
    print("| device | link | peers | training | characters/s | of the fastest alone | up | down |\n"
          "|---|---|---|---|---|---|---|---|")
    groups = [(device.name, [device] * peers) for device in (CPU, T4, LAPTOP, FAST)
              for peers in (1, 2, 4, 8, 16)]
    groups.append(("one fast GPU, two laptops, five CPUs", MIXED))
    for link in (HOME, OFFICE):
        for name, devices in groups:
            row = run(devices, link, batch_size, sync=sync, minutes=minutes, parameters=PARAMETERS)
            print(f"| {name} | {link.name} | {row['peers']} | {row['training']:.0%} "
                  f"| {row['characters']:,.0f} | {row['times']:.2f} | {row['up']:.3f} "
                  f"| {row['down']:.3f} |", flush=True)


def alone(batch_size: int, step_seconds: float, minutes: float, dropout: float,
          changes: Dict[str, Any]) -> Dict[str, Any]:
    """One process without a hive, with its own schedule, for `minutes` of its own time."""
    from gltch_2_7m import Config, FastTrainer, TrainConfig, load_corpus, start_runtime
    corpus = load_corpus()
    steps = math.floor(60 * minutes / step_seconds)
    recipe = TrainConfig(**{**changes, "steps": steps, "batch_size": batch_size, "device": "cpu"})
    config = Config(len(corpus.vocabulary), dropout=dropout)
    trainer = FastTrainer(config, recipe, corpus, start_runtime(recipe))
    while trainer.step < steps:
        trainer.train_step()
    return {"minutes": minutes, "loss": trainer.validate(), "step": steps}


def learn(args: argparse.Namespace, rows: List[Dict[str, Any]]) -> None:
    """Loss after `minutes` alone, and of hives that take a part of that time."""
    import torch

    from gltch_2_7m import Config
    torch.set_num_threads(1)
    device = {"cpu": CPU, "t4": T4, "laptop": LAPTOP, "fast": FAST}[args.device]
    wanted: List[Dict[str, Any]] = [{"peers": 1, "share": 1.0, "ideal": False}]
    wanted += [{"peers": peers, "share": share, "ideal": ideal} for peers in args.peers
               for share in args.shares for ideal in (False, True)]
    for seed in args.seeds:
        for want in wanted:
            about = {**want, "device": args.device, "minutes": args.minutes, "seed": seed,
                     "batch_size": args.batch_size, "sync": args.sync, **args.settings,
                     **args.recipe}
            if any(about.items() <= row.items() for row in rows):
                continue
            minutes = args.minutes * want["share"]
            recipe = {"seed": seed, **args.recipe}
            dropout = recipe.pop("dropout", Config.dropout)
            if want["peers"] == 1 or want["ideal"]:
                found = alone(want["peers"] * args.batch_size,
                              device.step_seconds(args.batch_size), minutes, dropout, recipe)
            else:
                found = run([device] * want["peers"], HOME, args.batch_size, sync=args.sync,
                            minutes=minutes, train="real", dropout=dropout, recipe=recipe,
                            **args.settings)
            rows.append({**found, **about})
            print(json.dumps(rows[-1]), flush=True)
            if args.output:
                with open(args.output, "a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--sync", default=USUAL, help=f"how peers stay together (default: {USUAL})")
    add("--batch-size", type=int, help="sequences a step (default: 64, with --learn 16)")
    add("--minutes", type=float, default=3.0, help="virtual, of a row (default: 3)")
    add("--learn", action="store_true", help="train for real, on GLTCH_DATA")
    add("--device", default="cpu", choices=("cpu", "t4", "laptop", "fast"))
    add("--peers", type=int, nargs="+", default=[4])
    add("--shares", type=float, nargs="+", default=[0.5], help="of the minutes, for the hives")
    add("--seeds", type=int, nargs="+", default=[1])
    add("--settings", type=json.loads, default={}, help="of the simulated hives, as JSON: "
        '{"fragments": 4}')
    add("--recipe", type=json.loads, default={}, help="of all who learn, as JSON: "
        '{"cooldown": 0.6, "dropout": 0.1}')
    add("--output", type=Path, help="file of finished rows")
    args = parser.parse_args()
    args.batch_size = args.batch_size or (16 if args.learn else 64)
    if args.learn:
        kept = args.output.read_text().splitlines() if args.output and args.output.exists() else []
        learn(args, [json.loads(line) for line in kept])
    else:
        table(args.sync, args.batch_size, args.minutes)


if __name__ == "__main__":
    main()
