"""The dashboard of a run on one machine: `python gltch_2_7m.py --dashboard`.

The page is the hive's. Training goes on in the main thread and knows only that every point it logs
is also told to `Dashboard.watch`; everything else happens in a thread of its own. The program hands
over to `__main__.py` beside this file, which calls it again with the `Dashboard`.
"""
from __future__ import annotations

import asyncio
import errno
import math
import os
import secrets
import socket
import sys
import threading
import time
import webbrowser
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Dict, List, Optional

from torch import Tensor

from gltch_2_7m import GLTCH, FastTrainer, GltchError, Run, generate, parameters_of, require, say
from hive.dashboard.downloads import Snapshot
from hive.dashboard.web import Web, pages
from hive.dashboard.weights_file import header
from hive.learning.codec import digest, flatten, to_bytes, unflatten
from hive.machine import device_kind, device_name, require_websockets
from hive.session.events import Events
from hive.session.schema import Everybody, Fixed, Measured, Peer, State
from hive.session.standing import flops_per_character

MOST_SNAPSHOTS, MOST_BYTES = 24, 1 << 29  # kept in memory; the older, the fewer
STEP_SECONDS, MEASURED_SECONDS = 0.05, 1.0  # between two looks for the page's events
NODE = "this"  # the one peer's identifier


@dataclass
class Kept:
    """The averaged weights as they were at a step."""

    step: int
    val_loss: float  # NaN if it was not measured
    weights: Tensor  # (P,)
    sha256: str = ""

    @property
    def name(self) -> str:
        """Their SHA-256, computed once, when somebody asks."""
        self.sha256 = self.sha256 or digest(self.weights)
        return self.sha256


class RunFacts:
    """The `Source` of a run on one machine. A "round" is a step of the optimizer.

    `log` may be called from any thread; all else belongs to the web's thread."""

    def __init__(self, trainer: FastTrainer, run: Run):
        self.trainer, self.run, self.folder = trainer, run, run.folder
        self.events = Events(secrets.token_hex(8), time.time)
        self.config = trainer.model.config
        self.fixed: Fixed = {
            "session": self.events.session, "mode": "single", "unit": "step",
            "run": run.folder.name, "hive": "", "size": "", "sync": "",
            "parameters": parameters_of(self.config), "context": self.config.block_size,
            "vocabulary": self.config.vocab_size, "join": None}
        self.device = device_name(trainer.runtime)
        self.began = time.time() - trainer.seconds  # if it had never been interrupted
        self.kept: List[Kept] = []  # at evaluations
        self.newest: Optional[Kept] = None
        self.written: List[Dict[str, Any]] = []  # samples, oldest first
        self.finished = ""
        self.loss = self.val_loss = self.speed = math.nan
        self.best, self.evaluated = math.inf, -1
        self.writer = GLTCH(self.config).eval()
        self.writing = ThreadPoolExecutor(1, "samples")
        for point in run.points:  # of a run that is resumed
            self.note(point)
        self.speed = math.nan  # that was another process, perhaps another machine

    # What training says

    def note(self, point: Dict[str, Any]) -> None:
        if point["kind"] == "train":
            self.loss, self.speed = point["loss"], float(point["characters_per_second"])
        elif point["kind"] == "eval":
            self.val_loss, self.evaluated = point["loss"], point["step"]
            self.best = min(self.best, self.val_loss)

    def hear(self, point: Dict[str, Any], weights: Optional[Tensor]) -> None:
        """A point was logged; the averaged weights as they are now, if they were worth a copy."""
        self.note(point)
        step = point["step"]
        if point["kind"] == "train":
            self.newest = self.newest if weights is None else Kept(step, math.nan, weights)
            self.events.add(
                "committed", version=step, step=step, total=self.trainer.total,
                loss=point["loss"], opened=self.began, committed=self.began + point["seconds"],
                undone=None, contributions=[], snapshots=self.steps_kept())
        elif weights is not None:
            self.newest = Kept(step, point["loss"], weights)
            self.kept = thinned([*self.kept, self.newest])
            self.writing.submit(self.write, self.newest, asyncio.get_running_loop())

    def write(self, kept: Kept, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own: a sample from these weights."""
        unflatten(kept.weights, self.writer)
        text = "".join(generate(self.writer, self.trainer.corpus.vocabulary, "", 200,
                                seed=kept.step))
        loop.call_soon_threadsafe(self.wrote, kept, text)

    def wrote(self, kept: Kept, text: str) -> None:
        self.written.append({"round": kept.step, "step": kept.step, "val_loss": kept.val_loss,
                             "text": text})
        self.events.add("evaluated", version=kept.step, step=kept.step, val_loss=kept.val_loss,
                        best_val_loss=self.best, text=text, snapshots=self.steps_kept())

    async def publish(self) -> None:
        """Tell the pages each step, and once a second what was measured."""
        told, measured = -1, -math.inf
        while True:
            if self.trainer.step != told:
                told = self.trainer.step
                self.tell_step(self.node())
            now = time.monotonic()
            if now - measured >= MEASURED_SECONDS:
                measured = now
                self.tell()
            await asyncio.sleep(STEP_SECONDS)

    def finish(self, reason: str) -> None:
        self.finished = reason
        self.tell()
        self.events.add("finished", reason=reason)

    def tell(self) -> None:
        node = self.node()
        self.events.add("measured", **self.measured(), peers={
            NODE: {"speed": node["speed"], "tokens": node["tokens"]}})
        self.tell_step(node)

    def tell_step(self, node: Peer) -> None:
        self.events.add("peer", peer=NODE, state=node["state"], steps=node["steps"],
                        quota=node["quota"])

    # What the pages ask

    def steps_kept(self) -> List[int]:
        return [kept.step for kept in self.all_kept()]

    def all_kept(self) -> List[Kept]:
        newest = self.newest
        return self.kept if newest is None or newest.step == self.evaluated else [
            *self.kept, newest]

    def node(self) -> Peer:
        """This machine, as the one peer."""
        every, step = self.trainer.recipe.log_every, self.trainer.step
        return {
            "peer": NODE, "name": socket.gethostname(), "device": self.device,
            "kind": device_kind(self.trainer.runtime),
            "state": "delivered" if self.finished else "training",
            "steps": step % every, "quota": every, "speed": self.speed,
            "training": 1.0, "limit": "device", "bytes_up": 0, "bytes_down": 0, "latency": None,
            "joined": self.began, "tokens": self.tokens(step),
            "share": 1.0, "counted": 0, "late": 0, "rejected": 0, "reason": "",
            "score": 1.0, "aside": ""}

    def tokens(self, step: int) -> int:
        return step * self.trainer.recipe.batch_size * self.config.block_size

    def measured(self) -> Measured:
        trainer = self.trainer
        step, total = trainer.step, trainer.total
        remaining = (total - step) * trainer.seconds / step if total and step else None
        if remaining is not None and trainer.recipe.minutes:
            remaining = max(0.0, min(remaining, 60 * trainer.recipe.minutes - trainer.seconds))
        return {
            "phase": "finished" if self.finished else "training", "paused": "", "version": step,
            "step": step, "total": total, "round": None, "seconds": trainer.seconds,
            "remaining": remaining, "tokens": self.tokens(step), "speed": self.speed,
            "flops": self.speed * flops_per_character(self.config),
            "fastest": None, "speedup": None, "bytes_up": 0, "bytes_down": 0}

    def state(self) -> State:
        return {
            **self.fixed, "seq": self.events.seq, "now": time.time(), **self.measured(),
            "finished": self.finished, "started": self.began, "loss": self.loss,
            "val_loss": self.val_loss, "best_val_loss": self.best, "evaluated": self.evaluated,
            "undone": [], "set_aside": 0, "snapshots": self.steps_kept(),
            "updates": {"counted": 0, "late": 0, "rejected": 0},
            "peers": [self.node()]}

    def peers(self) -> Everybody:
        return {"peers": [self.node()], "contributors": []}

    def history(self, first: Optional[int], last: Optional[int], points: int) -> Dict[str, Any]:
        """Points of the log between two steps, some joined to one if there are too many."""
        step = self.trainer.step
        first, last = first or 0, step if last is None else min(last, step)
        log = [point for point in list(self.run.points) if first <= point["step"] <= last]
        curve = [point for point in log if point["kind"] == "train"]
        every = max(1, math.ceil(len(curve) / points))
        groups = [curve[start: start + every] for start in range(0, len(curve), every)]
        measured = [point for point in log if point["kind"] == "eval"]
        together = max(1, math.ceil(len(measured) / points))
        shown = [measured[start: start + together][-1]
                 for start in range(0, len(measured), together)]
        losses = [[point["loss"] for point in group] for group in groups]
        steps = [group[-1]["step"] for group in groups]
        return {
            "first": first, "last": last, "every": every * self.trainer.recipe.log_every,
            "rounds": steps, "steps": steps,
            "loss": [sum(part) / len(part) for part in losses],
            "low": [min(part) for part in losses], "high": [max(part) for part in losses],
            "committed": [self.began + group[-1]["seconds"] for group in groups],
            "evaluations": {"rounds": [point["step"] for point in shown],
                            "steps": [point["step"] for point in shown],
                            "val_loss": [point["loss"] for point in shown]}}

    def samples(self, limit: int) -> Dict[str, Any]:
        return {"samples": self.written[::-1][:limit],
                "first": self.written[0] if self.written else None}

    def round(self, number: int) -> Dict[str, Any]:
        points = [point for point in list(self.run.points) if point["step"] == number]
        require(bool(points), f"Nothing was logged at step {number}.")
        return {"number": number, "points": points}

    def snapshot(self, version: Optional[int]) -> Snapshot:
        found = [kept for kept in self.all_kept() if version is None or kept.step == version]
        require(bool(found), "There are no weights of that step: only of "
                + (", ".join(map(str, self.steps_kept())) or "none yet") + ".")
        kept, corpus = found[-1], self.trainer.corpus

        def content() -> bytes:
            return header(
                self.config, vocabulary=corpus.vocabulary.characters, text=corpus.digest,
                hive="", round=kept.step, step=kept.step, val_loss=kept.val_loss,
            ) + to_bytes(kept.weights)

        return Snapshot(f"{kept.name}-{kept.step}", content)


def thinned(kept: List[Kept]) -> List[Kept]:
    """When there are too many, leave out every other one, but never the first or the newest."""
    size = 4 * len(kept[0].weights)
    if len(kept) <= min(MOST_SNAPSHOTS, max(2, MOST_BYTES // size)):
        return kept
    return kept[:-1:2] + kept[-1:]


class Page:
    """The page of a run, open in a thread of its own until it is closed."""

    def __init__(self, listening: socket.socket, trainer: FastTrainer, run: Run):
        self.listening, self.trainer = listening, trainer
        self.facts = RunFacts(trainer, run)
        self.web = Web(self.facts)
        self.loop = asyncio.new_event_loop()
        self.over: asyncio.Future[None] = self.loop.create_future()
        opened = threading.Event()
        self.thread = threading.Thread(target=self.serve, args=(opened,), daemon=True)
        self.thread.start()
        opened.wait()

    def hear(self, point: Dict[str, Any]) -> None:
        """In the training thread."""
        asked_for = point["kind"] == "eval" or self.web.pages  # somebody is watching
        weights = flatten(self.trainer.ema) if asked_for else None
        self.loop.call_soon_threadsafe(self.facts.hear, point, weights)

    def serve(self, opened: threading.Event) -> None:
        try:
            self.loop.run_until_complete(self.show(opened))
        finally:
            opened.set()  # also when it could not be

    async def show(self, opened: threading.Event) -> None:
        async with pages(self.web, sock=self.listening):
            publishing = asyncio.ensure_future(self.facts.publish())
            opened.set()
            await self.over
            publishing.cancel()

    def finish(self, reason: str) -> None:
        self.facts.writing.submit(  # behind the last sample
            self.loop.call_soon_threadsafe, self.facts.finish, reason)

    def close(self) -> None:
        self.facts.writing.shutdown()
        self.loop.call_soon_threadsafe(self.over.set_result, None)
        self.thread.join()


class Dashboard:
    """A context that keeps the page open, from the run it watches until its own end."""

    def __init__(self, port: int):
        require(0 <= port < 2**16, f"--dashboard must be a port from 0 to 65535, not {port}.")
        require_websockets("--dashboard")
        try:
            self.socket = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise GltchError(f"Port {port} is in use, perhaps by another dashboard: choose another "
                             f"one, for example --dashboard {port + 1}.") from None
        self.page: Optional[Page] = None

    def __enter__(self) -> Dashboard:
        return self

    def watch(self, trainer: FastTrainer, run: Run) -> None:
        """Open the page for a run, and follow its log."""
        self.page = Page(self.socket, trainer, run)
        run.watch = self.page.hear
        address = f"http://localhost:{self.socket.getsockname()[1]}"
        say(f"dashboard {address}")
        if sys.stdout.isatty() and (sys.platform in ("win32", "darwin") or os.environ.get(
                "DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):  # no browser in the terminal
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    def finish(self, reason: str) -> None:
        """Training is over. The page stays until the program ends."""
        if self.page:
            self.page.finish(reason)

    def __exit__(self, *error: object) -> None:
        if self.page:
            self.page.close()
        else:
            self.socket.close()
