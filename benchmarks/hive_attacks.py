"""Peers that harm: how well a hive learns with each kind of attacker in it, defended and not.

    GLTCH_DATA=tinyshakespeare.txt python benchmarks/hive_attacks.py
    GLTCH_DATA=tinyshakespeare.txt python benchmarks/hive_attacks.py --peers 8 --kinds flip noise
    GLTCH_DATA=tinyshakespeare.txt python benchmarks/hive_attacks.py --real --kinds flip noise

Hives are simulated (`hive/simulate.py`): real training of a small network on a real text, the
hive's own sessions, rules and probes, no sockets. The measure is the validation loss at the end, as
a percentage above that of a run in which only the honest peers of the same hive take part. `mean`
is the same hive undefended. `honest aside` are honest peers that were ever set aside, `caught` the
attackers. Messy hives have churn, stragglers, and honest newcomers: one peer in eight comes for the
first time when the others have made some rounds. `--output` keeps finished rows, so that an
interrupted benchmark goes on, and `--show` prints the table of those that are there.

With `--real` the hive is a real coordinator with four real peers that are honest and one that
attacks (two that collude); its network is the smallest size that is offered, and the run as short
as it can be on one machine.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

import hive.peer
from gltch_2_7m import Config
from hive.journal import Journal
from hive.learning.sync import SYNCS, USUAL
from hive.peer import Peer
from hive.session.effects import PeerEffect, Tell
from hive.session.job import Job
from hive.simulation.attackers import Attacker, Companions, Work
from hive.simulation.hive import Simulation
from hive.simulation.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
Row = Dict[str, Any]
KINDS = ("flip", "flip3", "noise", "push", "drift", "copy", "shirk", "inflate", "nan", "collude")
MESSY = 0.2  # churn a round, and share of stragglers
NEWCOMERS = 8  # one peer in this many of a messy hive


def rows_for(args: argparse.Namespace) -> List[Row]:
    """The most telling first: each seed for all kinds, before the next one."""
    rows: List[Row] = []
    for seed in range(1, args.seeds + 1):
        for share in args.shares:
            for peers in args.peers:
                for messy in (False, True) if args.messy else (False,):
                    common = {"peers": peers, "share": share, "seed": seed, "steps": args.steps,
                              "messy": messy, "sync": args.sync}
                    rows.append({**common, "kind": "none", "undefended": False})
                    rows += [{**common, "kind": kind, "undefended": undefended}
                             for kind in args.kinds for undefended in (False, True)]
    return rows


def run_row(row: Row) -> Row:
    """The row, with what came out."""
    bad = round(row["share"] * row["peers"])
    honest = row["kind"] == "none"  # only the others take part
    settings = Settings(
        peers=row["peers"] - bad if honest else row["peers"], steps=row["steps"], train="real",
        network=Config(block_size=32, n_layer=1, n_head=2, n_embd=32, dropout=0.0),
        attackers=() if honest else (f"{row['kind']}:{row['share']}",), eval_every=10**9,
        sync=row["sync"],
        undefended=row["undefended"], recipe={"batch_size": 8, "seed": row["seed"]},
        churn=MESSY if row["messy"] else 0.0, stragglers=MESSY if row["messy"] else 0.0,
        newcomers=row["peers"] // NEWCOMERS if row["messy"] else 0)
    simulated = Simulation(settings)
    summary = simulated.run()
    session = simulated.coordinator.session
    attack = {peer.name: peer.attack for peer in simulated.peers}
    caught = [number for name, number in summary.aside.items() if attack.get(name)]
    return {**row, "loss": summary.val_loss, "rounds": summary.rounds,
            "honest": sum(not kind for kind in attack.values()), "attackers": bad,
            "honest_aside": sorted(name for name in summary.aside if not attack.get(name)),
            "caught": len(caught), "caught_by": statistics.median(caught) if caught else None,
            "rollbacks": len(session.oversight.undone),
            "newcomers": [peer.name for peer in simulated.peers[:settings.newcomers]
                          if peer.account.trained]}


# --------------------------------------------------------------------------------------------------
# Real processes
# --------------------------------------------------------------------------------------------------

HONEST, ROUNDS = 4, 40  # peers, besides the one that attacks; rounds of a step
SERVE = ["--sync", "diloco", "--size", "1m", "--batch-size", "8", "--rounds", str(ROUNDS),
         "--inner-steps", "1", "--warmup", "5", "--dropout", "0", "--port", "0",
         "--dashboard-port", "0"]


class Accomplices(Companions):
    """The same among processes: what is agreed is a file in this folder."""

    def agree(self, work: Work) -> Tensor:
        path = Path(f"agreed-{work.round}-{len(work.honest)}")
        mine = path.with_suffix(f".{os.getpid()}")
        torch.save(super().agree(work), mine)
        with contextlib.suppress(FileExistsError):
            os.link(mine, path)  # the first decides
        agreed: Tensor = torch.load(path)
        return agreed


class Liar(Peer):
    """A real peer that attacks. Like an honest one it hears what the hive committed."""

    kind = ""
    attacker: Optional[Attacker] = None

    def begin(self, job: Job, content: bytes) -> int:
        count = super().begin(job, content)
        assert self.learner
        self.attacker = self.learner.worker = Attacker(self.learner.worker, self.kind,
                                                       Accomplices(1), os.getpid())
        return count

    def apply(self, weights: Tensor, codec: str, update: bytes, part: slice) -> Tuple[Tensor, str]:
        after, name = super().apply(weights, codec, update, part)
        if self.attacker:
            self.attacker.saw(self.session.held.version + 1, part, weights[part] - after[part])
        return after, name

    def carry_out(self, asked: List[PeerEffect]) -> None:
        super().carry_out([
            effect._replace(message=self.attacker.says(effect.message))
            if self.attacker and isinstance(effect, Tell) else effect for effect in asked])


def be_a_peer(address: str, name: str, kind: str) -> int:
    """A real peer; of a kind, one that attacks."""
    Liar.kind = kind
    with mock.patch.object(hive.peer, "Peer", Liar if kind else Peer):
        return hive.peer.main(["--server", address, "--name", name, "--device", "cpu"])


def run_real(kind: str, folder: Path) -> Row:
    """A hive of processes in this folder, with an attacker of this kind; none: only the honest."""
    begin = partial(subprocess.Popen, cwd=folder, stdout=subprocess.PIPE, encoding="utf-8",
                    stderr=subprocess.STDOUT, env={
                        **os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder)})
    liars = 2 if kind == "collude" else 1 if kind else 0
    peers = [(f"peer-{number}", "") for number in range(HONEST)] + [
        (f"liar-{number}", kind) for number in range(liars)]
    server = begin([sys.executable, str(ROOT / "hive" / "server.py"), *SERVE, "--min-peers",
                    str(len(peers))])
    try:
        address = next(line.split("--server ")[1].split()[0] for line in server.stdout or ()
                       if "--server " in line)
        others = [begin([sys.executable, __file__, "--one", address, *peer]) for peer in peers]
        heard = [program.communicate()[0] for program in (server, *others)]
    finally:
        server.kill()
    statuses = [program.returncode for program in (server, *others)]
    if any(statuses[:HONEST + 1]):
        sys.exit("\n".join(heard))
    journal = Journal(folder / "runs" / "hive", read_only=True)
    names = {one["peer"]: one["name"] for one in journal.contributors()}
    aside = {names[one["peer"]]: f"in round {number}, as {one['reason']}"
             for number in range(1, journal.last + 1) for one in journal.judgements(number)
             if one["kind"] == "aside"}
    loss = [loss for _, loss in journal.evaluations()][-1]
    journal.close()
    return {"kind": kind or "none", "loss": loss, "aside": aside}


def real_table(kinds: Sequence[str]) -> None:
    print(f"{HONEST} honest peers and one that attacks (two that collude), {ROUNDS} rounds\n\n"
          "| attacker | val loss | set aside |\n|---|---|---|")
    for kind in ("", *kinds):
        with tempfile.TemporaryDirectory() as folder:
            row = run_real(kind, Path(folder))
        aside = "; ".join(f"{name}: {reason}" for name, reason in row["aside"].items())
        print(f"| {row['kind']} | {row['loss']:.4f} | {aside or 'nobody'} |", flush=True)


# --------------------------------------------------------------------------------------------------
# Rows
# --------------------------------------------------------------------------------------------------

def key(row: Row) -> str:
    names = ("kind", "peers", "share", "seed", "steps", "messy", "undefended", "sync")
    return json.dumps([row[name] for name in names])


def table(rows: List[Row]) -> str:
    """Means over the seeds that are there, and the worst of them."""
    known = {key(row): row for row in rows}
    groups: Dict[Any, List[Row]] = {}
    for row in rows:
        clean = known.get(key({**row, "kind": "none", "undefended": False}))
        if row["kind"] != "none" and clean:
            over = 100 * ((row["loss"] or float("inf")) / clean["loss"] - 1)
            at = row["share"], row["peers"], row["messy"], row["kind"]
            groups.setdefault(at, []).append({**row, "over": over})
    lines = ["| attackers | of peers | kind | seeds | defended | worst seed | mean "
             "| caught (round) | honest aside | undone |", "|---" * 10 + "|"]
    for (share, peers, messy, kind), found in sorted(groups.items()):
        ours = [row for row in found if not row["undefended"]]
        plain = [row["over"] for row in found if row["undefended"]]
        if not ours:
            continue
        by = [row["caught_by"] for row in ours if row["caught_by"] is not None]
        lines.append(
            f"| {share:.0%}{' with churn, stragglers, newcomers' if messy else ''} | {peers} "
            f"| {kind} | {len(ours)} | {statistics.mean(row['over'] for row in ours):+.1f}% "
            f"| {max(row['over'] for row in ours):+.1f}% "
            f"| {f'{statistics.mean(plain):+.1f}%' if plain else '-'} "
            f"| {sum(row['caught'] for row in ours)} of {sum(row['attackers'] for row in ours)}"
            f"{f' ({statistics.median(by):g})' if by else ''} "
            f"| {sum(len(row['honest_aside']) for row in ours)} of "
            f"{sum(row['honest'] for row in ours)} "
            f"| {sum(row['rollbacks'] for row in ours)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", nargs="+", type=int, default=[8, 16])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25, 0.4])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--sync", choices=list(SYNCS), default=USUAL)
    parser.add_argument("--messy", action="store_true",
                        help="also with churn, stragglers and newcomers")
    parser.add_argument("--output", type=Path, default=Path("hive_attacks.jsonl"))
    parser.add_argument("--show", action="store_true", help="only what is there")
    parser.add_argument("--real", action="store_true", help="with real processes instead")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return be_a_peer(*args.one)
    if args.real:
        real_table(args.kinds)
        return 0
    lines = args.output.read_text().splitlines() if args.output.exists() else []
    rows = [json.loads(line) for line in lines]
    done = set(map(key, rows))
    missing = [row for row in rows_for(args) if key(row) not in done]
    for row in [] if args.show else missing:
        rows.append(run_row(row))
        with args.output.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(json.dumps(rows[-1]), flush=True)
    print(table([row for row in rows if row["sync"] == args.sync]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
