"""Does the Hive pay? What a hive does against one of its peers alone, in virtual time.

    python benchmarks/hive_pays.py
    GLTCH_DATA=tinyshakespeare.txt python benchmarks/hive_pays.py --learn --minutes 5
    GLTCH_DATA=tinyshakespeare.txt python benchmarks/hive_pays.py --learn --network small \\
        --minutes 5 --peers 2 4 8 16 --shares 0.7 0.5 0.35

The sessions, rounds, codecs and outer step are the hive's own; how long a step takes and what a
link carries is a model, whose numbers are below. The first command trains a vector that costs next
to nothing, links scaled to its size: what share of the time peers train, and how many characters
they get through. The others train for real and say how much sooner a hive has the loss that its
fastest peer alone has after those minutes: GLTCH-2.7M, which takes hours, or a network of 351,744
parameters, links scaled likewise. Its ideal rows are one process that makes steps of all the peers'
sequences in the time of one peer's step: the same devices in one box, and nothing to send.
`--output` keeps finished rows.
"""
from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from gltch_2_7m import Config, FastTrainer, TrainConfig, load_corpus, start_runtime
from hive.learning.sync import USUAL
from hive.simulation.hive import USUAL_PARAMETERS, PeerHost, Simulation
from hive.simulation.settings import Settings

Row = Dict[str, Any]

PARAMETERS = 20_000  # of the vector
SMALL = {"block_size": 64, "n_layer": 3, "n_head": 3, "n_embd": 96}  # 351,744 parameters


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
LINKS = {"home": HOME, "office": OFFICE}
DEVICES = {"cpu": CPU, "t4": T4, "laptop": LAPTOP, "fast": FAST}
MIXED = [FAST, LAPTOP, LAPTOP, CPU, CPU, CPU, CPU, CPU]


class Group(Simulation):
    """A hive of these devices, all behind links of one kind."""

    def __init__(self, settings: Settings, devices: Sequence[Device], link: Link):
        self.devices, self.link = devices, link
        super().__init__(settings)

    def make_peer(self, number: int, slow: bool) -> PeerHost:
        peer = super().make_peer(number, slow)
        size = len(self.task.start) / USUAL_PARAMETERS
        peer.up, peer.down = 1e6 * self.link.up * size, 1e6 * self.link.down * size
        peer.latency = self.link.latency
        peer.step_seconds = self.devices[number].step_seconds(self.task.recipe.batch_size)
        return peer


def run(devices: Sequence[Device], link: Link, batch_size: int, **more: Any) -> Row:
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


def alone(config: Config, batch_size: int, step_seconds: float, minutes: float,
          changes: Row) -> Row:
    """One process without a hive, with its own schedule, for `minutes` of its own time."""
    corpus = load_corpus()
    steps = math.floor(60 * minutes / step_seconds)
    recipe = TrainConfig(**{**changes, "steps": steps, "batch_size": batch_size, "device": "cpu"})
    config = replace(config, vocab_size=len(corpus.vocabulary))
    trainer = FastTrainer(config, recipe, corpus, start_runtime(recipe))
    while trainer.step < steps:
        trainer.train_step()
    return {"seconds": steps * step_seconds, "loss": trainer.validate(), "step": steps}


def wanted_rows(args: argparse.Namespace) -> Iterator[Row]:
    """What each row to be measured is of."""
    for seed in args.seeds:
        about = {"device": args.device, "network": args.network, "minutes": args.minutes,
                 "batch_size": args.batch_size, "seed": seed, **args.recipe}
        yield {**about, "kind": "alone", "peers": 1, "share": 1.0}
        for peers, share in itertools.product(args.peers, args.shares):
            yield {**about, "kind": "ideal", "peers": peers, "share": share}
            for link in args.links:
                yield {**about, "kind": "hive", "peers": peers, "share": share, "link": link,
                       "sync": args.sync, **args.settings}


def learned(about: Row, args: argparse.Namespace) -> Row:
    """What comes out where peers learn a text."""
    peers, minutes = about["peers"], about["minutes"] * about["share"]
    mixed = about["device"] == "mixed"
    devices = MIXED if mixed else [DEVICES[about["device"]]] * peers
    changes = {"seed": about["seed"], **args.recipe}
    config = Config(**{"dropout": changes.pop("dropout", Config.dropout),
                       **(SMALL if about["network"] == "small" else {})})
    seconds = [device.step_seconds(args.batch_size) for device in devices]
    if about["kind"] == "hive":
        return run(devices, LINKS[about["link"]], args.batch_size, sync=args.sync, train="real",
                   minutes=minutes, network=config, recipe=changes, **args.settings)
    sequences = args.batch_size * (sum(min(seconds) / s for s in seconds) if mixed else peers)
    return alone(config, round(sequences) if about["kind"] == "ideal" else args.batch_size,
                 min(seconds), minutes, changes)


def seconds_to(loss: float, points: List[Tuple[float, float]]) -> Optional[float]:
    """Where the line through (seconds, loss) first comes down to this loss; None: it never does,
    or every point is below."""
    for (before, above), (after, below) in zip(sorted(points), sorted(points)[1:]):
        if above >= loss >= below:
            part = (above - loss) / max(above - below, 1e-9)
            return before * math.exp(part * math.log(after / before))
    return None


def sooner(rows: List[Row], args: argparse.Namespace) -> None:
    """How much sooner each group has the loss that one alone has at the end; means of the seeds."""
    def mean(peers: int, kind: str, link: Optional[str] = None) -> List[Tuple[float, float]]:
        """Seconds and loss of each share."""
        found = [row for row in rows if row["peers"] == peers and row["kind"] == kind
                 and row.get("link") == link]
        shares = sorted({row["share"] for row in found})
        groups = [[row for row in found if row["share"] == share] for share in shares]
        return [(statistics.mean(row["seconds"] for row in group),
                 statistics.mean(row["loss"] for row in group)) for group in groups]

    def words(points: List[Tuple[float, float]]) -> Tuple[Optional[float], str]:
        needed = seconds_to(goal, points)
        if needed is None:
            return None, "not within these shares"
        return long / needed, f"{needed:.0f} s, {long / needed:.2f} times"

    (long, goal), = mean(1, "alone")
    print(f"\nOne alone ({args.device}, {args.batch_size} sequences a step): {goal:.4f} after "
          f"{long:.0f} s. The same loss:\n\n| peers | link | in a hive | ideally | of the ideal |\n"
          "|---|---|---|---|---|")
    for peers, link in itertools.product(args.peers, args.links):
        hive, hive_words = words(mean(peers, "hive", link))
        ideal, ideal_words = words(mean(peers, "ideal"))
        share = f"{hive / ideal:.0%}" if hive and ideal else ""
        print(f"| {peers} | {link} | {hive_words} | {ideal_words} | {share} |")


def learn(args: argparse.Namespace, kept: List[Row]) -> None:
    """Loss after `minutes` alone, and of hives that take a part of that time."""
    torch.set_num_threads(1)
    rows = []
    for about in wanted_rows(args):
        row = next((row for row in kept if about.items() <= row.items()), None)
        if row is None:
            row = {**learned(about, args), **about}
            print(json.dumps(row), file=sys.stderr, flush=True)
            if args.output:
                with open(args.output, "a") as file:
                    file.write(json.dumps(row) + "\n")
        rows.append(row)
    sooner(rows, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--sync", default=USUAL, help=f"how peers stay together (default: {USUAL})")
    add("--batch-size", type=int, help="sequences a step (default: 64, with --learn 16)")
    add("--minutes", type=float, default=3.0, help="virtual, of a row (default: 3)")
    add("--learn", action="store_true", help="train for real, on GLTCH_DATA")
    add("--network", default="2.7m", choices=("2.7m", "small"))
    add("--device", default="cpu", choices=(*DEVICES, "mixed"))
    add("--links", nargs="+", default=["home"], choices=tuple(LINKS))
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
    args.peers = [len(MIXED)] if args.device == "mixed" else args.peers
    if args.learn:
        kept = args.output.read_text().splitlines() if args.output and args.output.exists() else []
        learn(args, [json.loads(line) for line in kept])
    else:
        table(args.sync, args.batch_size, args.minutes)


if __name__ == "__main__":
    main()
