"""What the dashboard of a hive may know: the coordinator as it is now, and its journal.

The journal is read through a connection of its own that cannot write.
"""
from __future__ import annotations

import asyncio
import hashlib
import math
import re
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from torch import Tensor

from gltch_2_7m import require
from hive.books import applying
from hive.coordinator import Coordinator, now
from hive.dashboard.downloads import Snapshot
from hive.dashboard.peer_file import peer_file
from hive.dashboard.weights_file import header
from hive.journal import Journal
from hive.learning.codec import to_bytes
from hive.session.schema import (
    Everybody,
    Fixed,
    Measured,
    Peer,
    PeerNumbers,
    PeerState,
    Phase,
    State,
)
from hive.session.standing import flops_per_character

ROOT = Path(__file__).resolve().parents[2]
PEER_SECONDS, MEASURED_SECONDS = 0.05, 1.0  # between two looks for the page's events
NUMBERS = frozenset(PeerNumbers.__annotations__)  # of a peer, that `measured` tells
COLAB = "https://colab.research.google.com/github/{}/blob/HEAD/hive/join_colab.ipynb"


class HiveFacts:
    """The `Source` of a coordinator. `port` is where its peers join, and `browsers` whether tabs of
    the page may."""

    def __init__(self, coordinator: Coordinator, port: int, browsers: bool):
        self.coordinator, self.folder = coordinator, coordinator.folder
        self.events = coordinator.events
        self.journal = Journal(coordinator.folder, read_only=True)
        self.archive = Journal(coordinator.folder, read_only=True)  # never busy with long questions
        job, config = coordinator.job, coordinator.job.config
        self.fixed: Fixed = {
            "session": self.events.session, "mode": "hive", "unit": "round",
            "run": coordinator.folder.name, "hive": job.hive, "size": job.size, "sync": job.mode,
            "parameters": coordinator.session.run.parameters, "context": config.block_size,
            "vocabulary": len(job.characters),
            "join": {"port": port, "locked": bool(coordinator.key), "colab": colab_link(),
                     "browsers": browsers, "network": {
                         "layers": config.n_layer, "heads": config.n_head,
                         "width": config.n_embd},
                     "peer_sha256": hashlib.sha256(peer_file()).hexdigest()}}

    def state(self) -> State:
        """What the dashboard shows: measured, never invented."""
        session = self.coordinator.session
        contributors, evaluation = session.standing.contributors.values(), session.evaluation
        return {
            **self.fixed, "seq": self.events.seq, "now": time.time(), **self.measured(),
            "finished": session.run.finished, "started": session.standing.started,
            "loss": session.run.loss, "val_loss": evaluation.val_loss,
            "best_val_loss": evaluation.best, "evaluated": evaluation.evaluated,
            "undone": session.oversight.undone, "snapshots": None,
            "set_aside": sum(bool(about["aside"]) for about in contributors),
            "updates": {"counted": sum(about["counted"] for about in contributors),
                        "late": sum(about["late"] for about in contributors),
                        "rejected": sum(about["rejected"] for about in contributors)},
            "peers": self.there()}

    def there(self) -> List[Peer]:
        peers = self.coordinator.session.links.peers.values()
        return [self.coordinator.about(link) for link in peers]

    def measured(self) -> Measured:
        """The numbers of the run that change all the time."""
        session = self.coordinator.session
        peers = session.links.peers
        standing, rounds, run = session.standing, session.rounds, session.run
        speed = standing.speed if peers else 0.0
        plan = rounds.plan if peers else None  # without peers the round waits
        paused = session.work.unwritten.get("round", "")
        phase: Phase = ("paused" if paused else "finished" if run.finished
                 else "committing" if rounds.closed else "training" if plan else "waiting")
        fastest = max(peers.values(), key=lambda link: link.speed, default=None)
        if fastest and not fastest.speed:  # nobody has delivered yet
            fastest = None
        left = rounds.train_until - now().steady
        steps = run.total and run.total - run.step
        return {
            "phase": phase, "paused": paused, "version": rounds.version, "step": run.step,
            "total": run.total,
            "round": plan and {"quota": plan.quota, "seconds": plan.seconds,
                               "left": max(0.0, left)},
            "seconds": run.seconds, "tokens": standing.tokens, "speed": speed,
            "remaining": standing.remaining(steps) if plan and not paused else None,
            "flops": speed * flops_per_character(session.job.config),
            "fastest": {"name": fastest.identity.name, "speed": fastest.speed} if fastest else None,
            "speedup": speed / fastest.speed if fastest else None, **self.coordinator.transferred()}

    async def publish(self) -> None:
        """Tell the pages what peers do when it changes, and once a second what was measured."""
        session = self.coordinator.session
        told: Dict[str, Tuple[PeerState, int, int]] = {}
        before: Dict[str, Peer] = {}
        measured = -math.inf
        while True:
            doing = {peer: session.doing(link) for peer, link in session.links.peers.items()}
            for peer, (state, steps, quota) in doing.items():
                if told.get(peer) != doing[peer]:
                    self.events.add("peer", peer=peer, state=state, steps=steps, quota=quota)
            told = doing
            if time.monotonic() - measured >= MEASURED_SECONDS:
                measured = time.monotonic()
                there = {one["peer"]: one for one in self.there()}
                self.events.add("measured", **self.measured(), peers=news(before, there))
                before = there
            await asyncio.sleep(PEER_SECONDS)

    def peers(self) -> Everybody:
        there = self.coordinator.session.links.peers
        return {"peers": self.there(),
                "contributors": [{**about, "connected": about["peer"] in there}
                                 for about in self.coordinator.session.standing.ranking()]}

    # From the journal

    def history(self, first: Optional[int], last: Optional[int], points: int) -> Dict[str, Any]:
        newest = self.journal.last
        last = newest if last is None else min(last, newest)
        return self.journal.curve(0 if first is None else first, last, points)

    def samples(self, limit: int) -> Dict[str, Any]:
        first = self.journal.samples(1, oldest=True)
        return {"samples": self.journal.samples(limit), "first": first[0] if first else None}

    def round(self, number: int) -> Dict[str, Any]:
        newest = self.journal.last
        require(0 < number <= newest, f"The hive has made {newest} rounds so far; there is no "
                f"round {number}.")
        return self.journal.round(number)

    def snapshot(self, version: Optional[int]) -> Snapshot:
        session = self.coordinator.session
        newest = session.rounds.version
        number = newest if version is None else version
        require(number <= newest, f"The hive has made {newest} rounds so far; there is no round "
                f"{number}.")
        result, step = self.archive.at(number)
        job, val_loss = session.job, self.archive.evaluation(number)
        about = {"vocabulary": job.characters, "text": job.source, "hive": job.hive,
                 "round": number, "step": step}
        if val_loss is not None:
            about["val_loss"] = val_loss
        weights: Optional[Tensor] = session.run.weights if number == newest else None

        def content() -> bytes:
            flat = (self.archive.weights_at(number, applying(job)) if weights is None
                    else to_bytes(weights))
            return header(job.config, **about) + flat

        return Snapshot(f"{result}-{number}", content)


def news(before: Mapping[str, Peer], there: Mapping[str, Peer]) -> Dict[str, Dict[str, object]]:
    """Those numbers of each peer that have changed; all of them for a new connection."""
    changed = {}
    for name, peer in there.items():
        old: Mapping[str, object] = before.get(name, {})
        if old.get("joined") != peer["joined"]:
            old = {}
        numbers = {field: value for field, value in peer.items()
                   if field in NUMBERS and (field not in old or old[field] != value)}
        if numbers:
            changed[name] = numbers
    return changed


def colab_link() -> Optional[str]:
    """The notebook that joins a hive, in Colab, if this is a clone from GitHub."""
    try:
        found = subprocess.run(["git", "-C", str(ROOT), "config", "--get", "remote.origin.url"],
                               capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    name = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(\.git)?\s*$", found.stdout)
    return COLAB.format(name.group(1)) if name else None
