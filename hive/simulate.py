#!/usr/bin/env python3
"""A whole hive in one process and in virtual time: no sockets, and hundreds of peers in seconds.

    python -m hive.simulate --peers 200 --churn 0.3 --stragglers 0.2
    python -m hive.simulate --peers 16 --attackers flip:0.25 noise:0.1 --churn 0.2
    python -m hive.simulate --train real --size 1m --peers 8 --rounds 100 --data my.txt
    python -m hive.simulate --train real --lockstep --peers 4 --steps 250 --sync sparse

Each round prints a line of JSON, the last line sums up. The same arguments print the same lines.
"""
from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import List, Optional, Union

if __package__ in (None, ""):  # started as a script: the package is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import hive  # noqa: F401  (quiets what PyTorch says while it is imported)
if __name__ == "__main__":
    from hive import require_pytorch
    require_pytorch("simulate.py")

from gltch_2_7m import GltchError, Parser, TrainConfig, require
from hive.simulation import trials
from hive.simulation.hive import simulate
from hive.simulation.settings import Settings
from hive.simulation.table import Row, Summary

RECIPE_OPTIONS = ("batch_size", "optimizer", "learning_rate", "embedding_learning_rate",
                  "head_learning_rate", "weight_decay", "warmup", "cooldown", "seed", "device",
                  "precision")


def show(result: Union[Row, Summary]) -> None:
    values = result._asdict()
    print(json.dumps(values if isinstance(result, Row) else {"summary": values}), flush=True)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="simulate.py", allow_abbrev=False)
    parser.lead = (__doc__ or "").split("\n\n")[1] + "\n\n"
    for kind in (Settings, TrainConfig):
        for f in fields(kind):
            if not f.metadata or kind is TrainConfig and f.name not in RECIPE_OPTIONS:
                continue
            flag, text = "--" + f.name.replace("_", "-"), f.metadata["help"]
            if f.metadata["kind"] is bool:
                parser.add_argument(flag, action="store_true", help=text)
                continue
            if kind is Settings and f.default not in (None, ()):
                text += f" (default: {f.default})"
            parser.add_argument(flag, type=f.metadata["kind"], help=text,
                                nargs="+" if f.default == () else None,
                                choices=f.metadata["choices"],
                                metavar=None if f.metadata["choices"] else "X")
    parser.add_argument("--data", nargs="+", metavar="PATH", help="the real text")
    parser.add_argument("--faults", action="store_true",
                        help="instead: break the hive in every way, by --seed; also --attackers")
    parser.add_argument("--seeds", type=int, default=1, metavar="X",
                        help="with --faults: this many runs, from --seed on (default: 1)")
    return parser


def settings_from(args: argparse.Namespace) -> Settings:
    given = {name: value for name, value in vars(args).items()
             if value is not None and name not in ("faults", "seeds")}
    recipe = {name: given.pop(name) for name in RECIPE_OPTIONS if name in given}
    several = {name: tuple(given.get(name, ())) for name in ("data", "attackers")}
    return Settings(**{**given, **several}, recipe=recipe)


def main(argv: Optional[List[str]] = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        if args.faults:
            others = sorted("--" + name.replace("_", "-") for name, value in vars(args).items()
                            if value and name not in ("faults", "seed", "seeds", "attackers"))
            require(not others, f"With --faults the seed decides: leave out {', '.join(others)}.")
            return trials.main(args.seed or 0, args.seeds, args.attackers or ())
        show(simulate(settings_from(args), show))
    except KeyboardInterrupt:
        print("simulate.py: stopped", file=sys.stderr)
        return 130
    except (GltchError, OSError) as error:
        print(f"simulate.py: error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
