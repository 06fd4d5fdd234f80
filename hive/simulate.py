#!/usr/bin/env python3
"""A whole hive in one process and in virtual time: no sockets, and hundreds of peers in seconds.

    python -m hive.simulate --peers 200 --churn 0.3 --stragglers 0.2
    python -m hive.simulate --train real --size 1m --peers 8 --rounds 100 --data my.txt
    python -m hive.simulate --train real --lockstep --peers 4 --steps 250 --sync sparse

Rounds, outer step, codecs, error feedback and inner training are the hive's own; only sockets and
clocks are played. Each round prints a line of JSON, the last line sums up. The same arguments print
the same lines.

An event is a moment and what happens then. Every peer is a generator that follows `peer.py` word by
word and yields (seconds, kinds): wake me after so many seconds, or when such a message is there.
"""
from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import sys
from collections import OrderedDict, deque
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Generator,
    Iterable,
    List,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)

if __package__ in (None, ""):  # started as a script: the package is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import hive  # noqa: F401  (quiets what PyTorch says while it is imported)

import torch
from torch import Tensor

from gltch_2_7m import (
    GLTCH,
    PRESETS,
    Config,
    GltchError,
    Parser,
    Runtime,
    TrainConfig,
    evaluate,
    is_number,
    load_corpus,
    lr_factor,
    option,
    pick_device,
    pick_precision,
    require,
)
from hive.codec import CODECS, ErrorFeedback, digest, flatten, unflatten
from hive.job import Limits
from hive.outer import Outer, Rejected, apply_update
from hive.peer import MOST_FAILURES, Pending
from hive.protocol import name_of
from hive.rounds import ACCEPTED, LATE, REJECTED, Pace, Rounds, Verdict
from hive.session.coordinator_session import (
    REMEMBERED_UPDATES,
    finite,
    weighted_mean,
)
from hive.standing import believed_tokens
from hive.sync import SYNCS, Sync
from hive.worker import Work, Worker

STRAGGLING = 10.0  # times slower than the others
JITTER = 0.05  # by which a peer's speed differs from round to round (standard deviation, log)
UNNOTICED_SECONDS = 40.0  # until a connection that just falls silent is found dead
USUAL_PARAMETERS = 2_708_736  # whose transfers the default links are made for
MOST_REJECTED = 20  # updates per peer in one round, before the simulation gives up
ANYTHING = ("version", "commit", "train", "send", "verdict")


# --------------------------------------------------------------------------------------------------
# Settings
# --------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Settings:
    """One simulated run. Raises GltchError for a value that makes no sense."""

    peers: int = option(16, int, "how many take part")
    rounds: Optional[int] = option(None, int, "end after so many rounds")
    steps: Optional[int] = option(None, int, "end after so many steps")
    minutes: Optional[float] = option(None, float, "end after so much virtual time")
    target_loss: Optional[float] = option(None, float, "end when val_loss is this low")
    lockstep: bool = option(False, bool, "equal peers, no transfer times, every peer makes all "
                            "steps of every round: what the algorithm does, undisturbed")
    churn: float = option(0.0, float, "probability per round that a peer vanishes for a while")
    stragglers: float = option(0.0, float, "share of the peers that are ten times slower")
    spread: float = option(0.3, float, "of speeds and links (standard deviation of the logarithm)")
    step_seconds: float = option(0.5, float, "virtual time of a step on a middling peer")
    uplink: Optional[float] = option(None, float, "MB/s (default: 1; synthetic: as much less as "
                                     "its vector is smaller than GLTCH-2.7M)")
    downlink: Optional[float] = option(None, float, "MB/s (default: 5; synthetic: likewise)")
    latency: float = option(0.05, float, "seconds one way")
    commit_seconds: float = option(0.1, float, "that the coordinator takes to end a round")
    round_seconds: float = option(60.0, float, "the longest a round trains")
    min_peers: int = option(1, int, "wait for so many before a round")
    train: str = option("synthetic", str, "what is trained", ("synthetic", "real"))
    parameters: int = option(20_000, int, "of the synthetic vector")
    size: str = option("2.7m", str, "of the real network", tuple(PRESETS))
    dropout: Optional[float] = option(None, float, "of the real network")
    sync: str = option("diloco", str, "how peers stay together", tuple(SYNCS))
    codec: Optional[str] = option(None, str, "of the updates, both ways (default: by --sync)",
                                  tuple(CODECS))
    inner_steps: Optional[int] = option(None, int, "steps of every round; with "
                                        "--most-inner-steps, of the first rounds")
    most_inner_steps: Optional[int] = option(None, int, "steps of the last rounds")
    outer_lr: Optional[float] = option(None, float, "outer learning rate (default: by --sync)")
    outer_momentum: Optional[float] = option(None, float, "(default: by --sync)")
    beta: Optional[float] = option(None, float, "what error feedback keeps (default: by --sync)")
    eval_every: int = option(10, int, "rounds between evaluations")
    threads: int = option(1, int, "of PyTorch")
    data: Tuple[str, ...] = ()  # files of the real text
    recipe: Dict[str, Any] = field(default_factory=dict)  # what of the TrainConfig is not default
    network: Optional[Config] = None  # instead of a size

    def __post_init__(self) -> None:
        def must(name: str, holds: bool, what: str) -> None:
            value = getattr(self, name)
            require(value is None or is_number(value) and math.isfinite(value) and holds,
                    f"{name.replace('_', '-')} must be {what}, not {value!r}.")

        for name in ("peers", "rounds", "steps", "min_peers", "parameters", "inner_steps",
                     "most_inner_steps", "eval_every", "threads"):
            value = getattr(self, name)
            must(name, type(value) is int and value >= 1, "a whole number of at least 1")
        for name in ("minutes", "step_seconds", "uplink", "downlink", "round_seconds", "outer_lr"):
            must(name, (getattr(self, name) or 0) > 0, "a number above 0")
        for name in ("spread", "latency", "commit_seconds"):
            must(name, getattr(self, name) >= 0, "a number of at least 0")
        for name in ("churn", "stragglers"):
            must(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        must("outer_momentum", 0 <= (self.outer_momentum or 0) < 1, "at least 0 and below 1")
        must("beta", 0 <= (self.beta or 0) <= 1, "from 0 to 1")
        for f in fields(self):
            value, choices = getattr(self, f.name), f.metadata.get("choices")
            require(not choices or value is None or value in choices,
                    f"{f.name} must be one of {', '.join(choices or ())}, not {value!r}.")
        require(self.min_peers <= self.peers, f"With {self.peers} peers no round would ever begin: "
                f"min-peers is {self.min_peers}.")
        require(not self.lockstep or self.churn == self.stragglers == 0, "In lockstep all peers are"
                " equal and always there: leave out churn and stragglers, or lockstep.")

    def make_sync(self) -> Sync:
        """The preset with what was set by hand."""
        inner, most = self.inner_steps, self.most_inner_steps or self.inner_steps
        values: Dict[str, Any] = {"inner_steps": inner, "most_inner_steps": most,
                                  "up": self.codec, "down": self.codec, "beta": self.beta,
                                  "outer_lr": self.outer_lr, "outer_momentum": self.outer_momentum}
        given = {name: value for name, value in values.items() if value is not None}
        return replace(SYNCS[self.sync], **given)

    def make_pace(self) -> Pace:
        fixed = self.inner_steps is not None and self.most_inner_steps is None
        if self.lockstep:
            return Pace(seconds=1e9, fixed=True)
        return Pace(self.round_seconds, fixed=fixed)


# --------------------------------------------------------------------------------------------------
# What is trained
# --------------------------------------------------------------------------------------------------

class Task(NamedTuple):
    """What a `train` message says."""

    version: int
    weights: str
    step: int
    total: Optional[int]
    quota: int
    seconds: float
    window: int
    codec: str


def steps_that_fit(quota: int, seconds: float, step_seconds: float) -> int:
    """How many steps `Worker.train` will make of a task."""
    done = 1
    while done < quota and step_seconds * done * (done + 1) / done <= seconds:
        done += 1
    return done


class RealWorker(Worker):
    """The hive's own worker; its clock is told how long a step takes."""

    def work(self, task: Task, steps: int, step_seconds: float) -> Work:
        losses = self.trainer.losses
        losses.clear()
        return self.train(task.step, task.total, task.quota, task.seconds, task.window,
                          stop=lambda done: done >= steps,
                          clock=lambda: step_seconds * len(losses))


class RealTask:
    """A text and a network that learns it."""

    def __init__(self, settings: Settings):
        config, recipe, self.reference = PRESETS[settings.size]
        self.corpus = load_corpus(settings.data)
        self.config = replace(settings.network or config, vocab_size=len(self.corpus.vocabulary))
        if settings.dropout is not None:
            self.config = replace(self.config, dropout=settings.dropout)
        self.recipe = replace(recipe, **{"device": "cpu", **settings.recipe})
        device = pick_device(self.recipe.device)
        self.runtime = Runtime(device, pick_precision(self.recipe.precision, device))
        self.characters = self.config.block_size  # of a window
        torch.manual_seed(self.recipe.seed)
        self.model = GLTCH(self.config).to(device)
        self.start = flatten(self.model)

    def worker(self, noise_seed: int) -> RealWorker:
        return RealWorker(self.config, self.recipe, self.corpus, self.runtime, noise_seed)

    def measure(self, weights: Tensor) -> float:
        """The loss over the whole validation split."""
        unflatten(weights, self.model)
        return evaluate(self.model, self.corpus.validation, self.runtime)


class SyntheticTask:
    """Weights (P,) that noisy gradients pull to a hidden place, some strongly, some a tenth so.

    The loss is the mean of curvature / 2 * distance^2: what noise and other peers' moves add to it,
    averaging has to take away, as with a network.
    """

    reference, characters = 500, 1

    def __init__(self, settings: Settings):
        self.recipe = TrainConfig(**{"optimizer": "sgd", **settings.recipe})
        generator = torch.Generator().manual_seed(self.recipe.seed)
        count = settings.parameters
        self.place = torch.randn(count, generator=generator)
        self.curvature = torch.logspace(-1, 0, count)[torch.randperm(count, generator=generator)]
        self.noise = torch.randn(count + 1_000_003, generator=generator)  # each step sees a part
        self.noise *= (64 / self.recipe.batch_size) ** 0.5
        self.start = torch.zeros(count)

    def worker(self, noise_seed: int) -> SyntheticWorker:
        return SyntheticWorker(self, noise_seed)

    def measure(self, weights: Tensor) -> float:
        return float(torch.dot(self.curvature, (weights - self.place).square())) / len(weights) / 2


class SyntheticWorker:
    """Gradient descent on a `SyntheticTask`; outwardly a `RealWorker`."""

    def __init__(self, task: SyntheticTask, noise_seed: int):
        self.task, self.rng = task, random.Random(noise_seed)
        self.batch_size = task.recipe.batch_size
        self.load(task.start)

    def load(self, weights: Tensor) -> None:
        self.weights = weights.clone()

    def moved(self, base: Tensor) -> Tensor:
        return base - self.weights

    def work(self, task: Task, steps: int, step_seconds: float) -> Work:
        world, count, loss = self.task, len(self.weights), 0.0
        for step in range(task.step, task.step + steps):
            distance = self.weights - world.place
            slope = world.curvature * distance
            loss += float(torch.dot(slope, distance)) / count / 2
            begin = self.rng.randrange(len(world.noise) - count)
            slope.add_(world.noise[begin: begin + count])
            rate = world.recipe.matrix_learning_rate * lr_factor(step, task.total, world.recipe)
            self.weights.sub_(slope, alpha=rate)
        require(math.isfinite(loss), f"The loss became {loss}: use a lower --learning-rate.")
        return Work(steps, steps * self.batch_size, loss / steps, step_seconds * steps)


# --------------------------------------------------------------------------------------------------
# A peer
# --------------------------------------------------------------------------------------------------

Message = Dict[str, Any]
Wish = Tuple[float, Tuple[str, ...]]  # wake me after these seconds, or for these kinds of message
Doing = Generator[Wish, None, None]


class Gone(Exception):
    """The connection is lost, whatever the peer was doing."""


@dataclass
class Link:
    """A connection, as the coordinator sees it."""

    peer: Peer
    counted_at: float
    offer: Optional[Message] = None


class Peer:
    """One simulated peer over all its connections; the same words as in `peer.py`."""

    def __init__(self, hive: Simulation, number: int, slow: bool):
        settings = hive.settings
        self.hive, self.name = hive, f"peer-{number}"
        self.rng = random.Random(f"{hive.seed} {self.name}")
        spread = 0.0 if settings.lockstep else settings.spread
        usual = len(hive.task.start) / USUAL_PARAMETERS if settings.train == "synthetic" else 1.0
        links = (settings.uplink or 1.0 * usual, settings.downlink or 5.0 * usual)
        slower, *faster = (self.rng.lognormvariate(0, spread) for _ in range(3))
        self.step_seconds = settings.step_seconds * slower * (STRAGGLING if slow else 1.0)
        self.up, self.down = (1e6 * rate * more for rate, more in zip(links, faster))  # bytes/s
        self.latency, self.jitter = settings.latency, JITTER
        if settings.lockstep:
            self.up = self.down = math.inf
            self.latency = self.jitter = 0.0
        # what peer.py keeps
        self.worker = hive.task.worker(self.rng.randrange(2**31))
        self.feedback = ErrorFeedback(len(hive.task.start), hive.sync.beta)
        self.weights, self.version, self.hash = hive.task.start, 0, ""
        self.pending: Optional[Pending] = None
        self.carried = self.failures = 0
        self.inbox: Deque[Message] = deque()
        self.received = ("", 0)  # of an interrupted download: which, and how many bytes
        # what the simulation keeps
        self.link: Optional[Link] = None
        self.process = self.life()
        self.hears: Tuple[str, ...] = ()  # kinds of message that wake it
        self.turn = 0  # how often it was woken
        self.away = 0.0  # seconds, when it vanishes
        self.connected = 0.0  # seconds, until it last vanished
        self.since = 0.0  # when it last connected
        self.trained = self.lost = 0  # tokens
        self.seconds = 0.0  # spent training

    # Waiting

    def sleep(self, seconds: float) -> Doing:
        yield seconds, ()

    def expect(self, *kinds: str) -> Generator[Wish, None, Message]:
        while not self.has(kinds):
            yield math.inf, kinds
        said = next(said for said in self.inbox if said["type"] in kinds)
        self.inbox.remove(said)
        return said

    def has(self, kinds: Iterable[str]) -> bool:
        return any(said["type"] in kinds for said in self.inbox)

    def send(self, kind: str, **values: Any) -> None:
        self.hive.after(self.latency, self.hive.hear, self.link, {"type": kind, **values})

    # One connection after the other

    def life(self) -> Doing:
        while True:
            try:
                self.inbox.clear()
                yield from self.sleep(3 * self.latency)  # challenge, hello, welcome
                counted = self.hive.join(self)
                if self.pending and counted > self.pending.version:
                    self.settle(counted=True)
                yield from self.take_part()
            except Gone:
                yield from self.sleep(self.away)

    def take_part(self) -> Doing:
        if self.pending:
            self.make_offer()
        else:
            self.report()
        while True:
            said = yield from self.expect(*ANYTHING)
            yield from getattr(self, "on_" + said["type"])(said)

    def report(self) -> None:
        self.send("ready", version=self.version, weights=self.hash)

    def fetch(self, blob: str, way: str) -> Generator[Wish, None, Any]:
        """A blob, or the rest of one; None when the coordinator offers newer weights instead."""
        offset = self.received[1] if self.received[0] == blob else 0
        self.send("fetch", blob=blob)
        while True:
            said = yield from self.expect("blob", "version")
            if said["type"] == "version":
                self.inbox.appendleft(said)
                return None
            if said["blob"] == blob:  # not one that was given up for a newer version
                break
        began, size = self.hive.now, said["bytes"] - offset
        try:
            yield from self.sleep(size / self.down)
        except Gone:
            size = min(size, int((self.hive.now - began) * self.down))
            self.received = (blob, offset + size)
            raise
        finally:
            self.hive.bytes[way] += size
        self.received = ("", 0)
        return said["content"]

    def on_version(self, said: Message) -> Doing:
        content = yield from self.fetch(said["weights"], "weights")
        if content is None:
            return
        if self.pending and said["counted"] > self.pending.version:
            self.settle(counted=True)
        self.hold(content, said["version"], said["weights"])
        if self.pending:
            self.make_offer()

    def on_commit(self, said: Message) -> Doing:
        if said["version"] <= self.version:
            return
        if said["version"] != self.version + 1 or not self.hash:
            self.report()
            return
        update = yield from self.fetch(said["update"], "down")
        if update is None:
            return
        self.hive.commits_received += 1
        if said["counted"]:
            self.settle(counted=True)
        self.hold(apply_update(self.weights, said["codec"], update), said["version"],
                  said["weights"])

    def hold(self, weights: Tensor, version: int, expected: str) -> None:
        if digest(weights) != expected:
            self.hash = ""
            self.hive.disagreements += 1
        else:
            self.weights, self.version, self.hash = weights, version, expected
            self.worker.load(weights)
        if not self.pending:
            self.report()

    def on_train(self, said: Message) -> Doing:
        """Wait as long as the steps take, or until a commit ends the round; then make them."""
        task: Task = said["task"]
        if (task.version, task.weights) != (self.version, self.hash) or self.pending:
            return
        hive, began = self.hive, self.hive.now
        step_seconds = self.step_seconds * self.rng.lognormvariate(0, self.jitter)
        steps = steps_that_fit(task.quota, task.seconds, step_seconds)
        try:
            yield steps * step_seconds, ("commit",)
            if self.has(("commit",)):
                steps = min(steps, max(1, math.ceil((hive.now - began) / step_seconds)))
                yield from self.sleep(max(0.0, began + steps * step_seconds - hive.now))
            work = self.work(task, steps, step_seconds)
        except Gone:  # what was done of it is overwritten when the peer is back
            steps = int((hive.now - began) / step_seconds)
            if steps:
                self.lost += self.work(task, steps, step_seconds).tokens
            self.worker.load(self.weights)
            raise
        except GltchError as error:
            self.recover(error)
            return
        self.failures = 0
        update = self.feedback.encode(task.codec, self.worker.moved(self.weights))
        self.carried += work.tokens
        self.pending = Pending(self.version, self.hash, task.codec, update,
                               replace(work, tokens=self.carried))
        self.make_offer()

    def work(self, task: Task, steps: int, step_seconds: float) -> Work:
        work = self.worker.work(task, steps, step_seconds)
        self.trained += work.tokens
        self.seconds += work.seconds
        return work

    def recover(self, error: GltchError) -> None:
        self.failures += 1
        if self.failures >= MOST_FAILURES:
            raise error
        self.lost, self.carried = self.lost + self.carried, 0
        self.worker = self.hive.task.worker(self.rng.randrange(2**31))
        self.feedback = ErrorFeedback(len(self.weights), self.hive.sync.beta)
        self.hold(self.weights, self.version, self.hash)

    def make_offer(self) -> None:
        assert self.pending is not None
        self.send("offer", version=self.pending.version, weights=self.pending.weights,
                  codec=self.pending.codec, update=name_of(self.pending.update),
                  content=self.pending.update, work=self.pending.work)

    def on_send(self, said: Message) -> Doing:
        if not self.pending or said["blob"] != name_of(self.pending.update):
            return
        began, size = self.hive.now, len(self.pending.update) - said["offset"]
        try:
            yield from self.sleep(size / self.up)
        except Gone:
            size = min(size, int((self.hive.now - began) * self.up))
            self.hive.interrupted(self, said["blob"], said["offset"] + size)
            raise
        finally:
            self.hive.bytes["up"] += size
        self.send("content", blob=said["blob"])

    def on_verdict(self, said: Message) -> Doing:
        if said["verdict"] != ACCEPTED and self.pending:
            self.settle(counted=False)
            if said["verdict"] == REJECTED:
                self.feedback.residual.zero_()
                self.lost, self.carried = self.lost + self.carried, 0
            self.report()
        yield from ()

    def settle(self, counted: bool) -> None:
        self.feedback.settle(counted)
        self.pending = None
        if counted:
            self.carried = 0


# --------------------------------------------------------------------------------------------------
# The coordinator, and time
# --------------------------------------------------------------------------------------------------

class Row(NamedTuple):
    """A committed round, as it is printed."""

    round: int
    step: int
    seconds: float  # virtual, since the beginning
    counted: int  # updates
    late: int
    rejected: int
    loss: Optional[float]
    val_loss: Optional[float]  # None: not measured after this round
    bytes_up: int  # of updates and weights, in this round, all peers together
    bytes_down: int
    peers: int  # connected


class Summary(NamedTuple):
    """A whole run."""

    finished: str  # why it ended
    rounds: int
    step: int
    seconds: float  # virtual
    loss: Optional[float]  # of the last round
    val_loss: Optional[float]  # at the end
    start_loss: Optional[float]  # the same before the first round
    training: float  # share of the time that connected peers spent training
    up_per_parameter: float  # bytes, for each counted update
    down_per_parameter: float  # bytes, for each committed update that a peer received
    weights_bytes: int  # of whole weights, for peers that are new or were away for long
    updates: Dict[str, int]  # counted, and stale of these: of an earlier round; late, rejected
    tokens: Dict[str, int]  # trained = counted + carried (not yet counted) + lost
    interrupted: int  # uploads that broke off in the middle
    disagreements: int  # times a peer's weights had another hash than the hive's
    sync: Dict[str, Any]


class Simulation:
    """The queue of events, and the coordinator's side of the hive; the words of `coordinator.py`.

    `run` goes through a whole run. `peers`, `hashes` and the rest are there to look at in between.
    """

    def __init__(self, settings: Settings):
        torch.set_num_threads(settings.threads)
        self.settings, self.sync = settings, settings.make_sync()
        self.task: Union[RealTask, SyntheticTask] = (
            RealTask(settings) if settings.train == "real" else SyntheticTask(settings))
        self.seed = self.task.recipe.seed
        self.limits = Limits(settings.steps, settings.rounds, settings.minutes)
        if self.limits == Limits():
            self.limits = Limits(steps=settings.steps or self.task.reference)
        self.rng = random.Random(f"{self.seed} hive")
        self.now, self.order = 0.0, itertools.count()
        self.events: List[Tuple[float, int, Callable[..., None], Tuple[Any, ...]]] = []
        self.commit_seconds = 0.0 if settings.lockstep else settings.commit_seconds
        self.alarm = math.inf  # the deadline that there is an event for
        # what coordinator.py keeps
        usual = self.sync.inner_steps * self.task.recipe.batch_size * self.task.characters
        self.outer = Outer(self.task.start, self.sync, usual)
        self.rounds = Rounds(0, self.outer.hash, settings.make_pace(),
                             settings.peers if settings.lockstep else settings.min_peers)
        self.step = self.windows = 0
        self.seconds = 0.0
        self.links: Dict[str, Link] = {}
        self.partial: Dict[str, Tuple[str, int]] = {}  # uploads: which, how many bytes are there
        self.hashes = [self.outer.hash]  # of every version
        self.commits: Deque[Tuple[Message, bytes]] = deque(maxlen=REMEMBERED_UPDATES)
        self.blobs: OrderedDict[str, Tuple[int, Any]] = OrderedDict()  # bytes, content
        self.last_counted: Dict[str, int] = {}  # by peer: the round
        self.finished = ""
        # what is measured
        self.bytes = {"up": 0, "down": 0, "weights": 0}  # weights: as a whole
        self.before = dict(self.bytes)  # this round
        self.updates = {"counted": 0, "stale": 0, LATE: 0, REJECTED: 0}
        self.commits_received = self.disagreements = 0
        self.tokens_counted = self.breaks = 0
        self.loss = self.val_loss = math.nan
        self.start_loss = self.task.measure(self.task.start)
        self.rows: List[Row] = []
        self.begin_round()
        slow = set(self.rng.sample(range(settings.peers),
                                   round(settings.stragglers * settings.peers)))
        self.peers = [Peer(self, number, number in slow) for number in range(settings.peers)]

    # Time

    def at(self, moment: float, action: Callable[..., None], *values: Any) -> None:
        heapq.heappush(self.events, (moment, next(self.order), action, values))

    def after(self, seconds: float, action: Callable[..., None], *values: Any) -> None:
        self.at(self.now + seconds, action, *values)

    def run(self, on_round: Optional[Callable[[Row], None]] = None) -> Summary:
        """Until the run is over. Raises GltchError when training breaks down."""
        self.on_round = on_round
        for peer in self.peers:
            self.resume(peer)
        while not self.finished:
            assert self.events, "nothing is left to happen: the hive stands still"
            self.now, _, action, values = heapq.heappop(self.events)
            action(*values)
        return self.summary()

    def resume(self, peer: Peer, error: Optional[Exception] = None) -> None:
        """Let a peer go on until it waits again."""
        peer.turn += 1
        while True:
            seconds, kinds = peer.process.throw(error) if error else next(peer.process)
            error = None
            if not peer.has(kinds):
                break
        peer.hears = kinds
        if seconds < math.inf:
            self.after(seconds, self.wake, peer, peer.turn)

    def wake(self, peer: Peer, turn: int) -> None:
        if peer.turn == turn:
            self.resume(peer)

    def tell(self, link: Link, kind: str, **values: Any) -> None:
        self.after(link.peer.latency, self.arrive, link, {"type": kind, **values})

    def arrive(self, link: Link, said: Message) -> None:
        if link.peer.link is link:
            link.peer.inbox.append(said)
            if said["type"] in link.peer.hears:
                self.resume(link.peer)

    def vanish(self, peer: Peer, away: float) -> None:
        """The connection breaks, noticed at once by the peer and sometimes by the coordinator."""
        link = peer.link
        if link is None:
            return
        self.after(self.rng.choice((0.0, UNNOTICED_SECONDS)), self.leave, link)
        peer.link, peer.away = None, away
        peer.connected += self.now - peer.since
        self.resume(peer, Gone())

    # Rounds

    def begin_round(self) -> None:
        self.total = self.limits.total(self.step, self.rounds.version, self.seconds)
        self.rounds.open_round(self.rounds.version, self.outer.hash,
                               self.sync.quota(self.step, self.total, self.task.recipe),
                               self.total and max(1, self.total - self.step))
        self.contributions: List[Tuple[Peer, Work, float]] = []  # with their weight
        self.refused = {LATE: 0, REJECTED: 0}
        self.opened: Optional[float] = None

    def turn(self) -> None:
        """What the coordinator's loop does whenever something has happened."""
        while not self.finished:
            self.hand_out_tasks()
            if not self.rounds.close(self.now):
                break
            if self.commit_seconds:
                self.after(self.commit_seconds, self.finish_round)
                return
            self.commit()
        if self.now < self.rounds.deadline < math.inf and self.alarm != self.rounds.deadline:
            self.alarm = self.rounds.deadline
            self.at(self.alarm, self.turn)

    def finish_round(self) -> None:
        self.commit()
        self.turn()

    def hand_out_tasks(self) -> None:
        for name, task in self.rounds.tasks(self.now).items():
            self.opened = self.now if self.opened is None else self.opened
            self.tell(self.links[name], "train", task=Task(
                task.version, self.rounds.weights, self.step, self.total, task.quota, task.seconds,
                self.windows, self.sync.up))
            self.windows += task.quota * self.links[name].peer.worker.batch_size

    def commit(self) -> None:
        if not self.outer.weight:
            self.rounds.reopen()
            return
        committed = self.outer.step()
        self.outer.accept(committed)
        number, counted = self.rounds.version + 1, self.contributions
        self.loss = weighted_mean((work.loss, weight) for _, work, weight in counted)
        self.step += max(1, round(weighted_mean((work.steps, weight) for _, work, weight in counted)
                                  ))
        assert self.opened is not None
        length = self.now - self.opened
        self.seconds += min(length, self.rounds.longest)
        self.hashes.append(committed.result)
        blob = name_of(committed.update)
        self.remember(blob, len(committed.update), committed.update)
        said = {"version": number, "weights": committed.result, "codec": committed.codec,
                "update": blob}
        self.commits.append((said, committed.update))
        for peer, work, _ in counted:
            self.last_counted[peer.name] = number
            self.tokens_counted += work.tokens
        who = {peer.name for peer, _, _ in counted}
        for name, link in self.links.items():
            if name in who:
                link.counted_at = self.now
            self.tell(link, "commit", counted=name in who, **said)
        self.rounds.version = number
        self.finished = self.limits.reached(self.step, number, self.seconds)
        self.write_row(number, len(counted))
        self.begin_round()
        for peer in self.peers:
            if peer.link and self.rng.random() < self.settings.churn:
                away = length * self.rng.uniform(0.5, 3.0)
                self.after(self.rng.uniform(0.0, length), self.vanish, peer, away)

    def write_row(self, number: int, counted: int) -> None:
        measured = bool(self.finished) or number % self.settings.eval_every == 0
        if measured:
            self.val_loss = self.task.measure(self.outer.weights)
            target = self.settings.target_loss
            if target is not None and self.val_loss <= target and not self.finished:
                self.finished = f"the loss of {self.val_loss:.4f} is low enough"
        self.updates["counted"] += counted
        for verdict, times in self.refused.items():
            self.updates[verdict] += times
        up, down, weights = (self.bytes[way] - self.before[way] for way in self.bytes)
        self.before = dict(self.bytes)
        self.rows.append(Row(
            number, self.step, round(self.now, 3), counted, self.refused[LATE],
            self.refused[REJECTED], finite(self.loss), finite(self.val_loss) if measured else None,
            up, down + weights, sum(peer.link is not None for peer in self.peers)))
        if self.on_round:
            self.on_round(self.rows[-1])

    # Peers come and go

    def join(self, peer: Peer) -> int:
        """A handshake; returns in which round this peer's work last counted."""
        if peer.name in self.links:
            self.leave(self.links[peer.name])
        peer.link = self.links[peer.name] = Link(peer, self.now)
        peer.since = self.now
        self.rounds.join(peer.name)
        return self.last_counted.get(peer.name, 0)

    def leave(self, link: Link) -> None:
        if self.links.get(link.peer.name) is link:
            del self.links[link.peer.name]
            self.rounds.leave(link.peer.name)
            self.turn()

    # What they say

    def hear(self, link: Link, said: Message) -> None:
        if self.links.get(link.peer.name) is link:
            getattr(self, "on_" + said["type"])(link, said)

    def on_ready(self, link: Link, said: Message) -> None:
        version, weights = said["version"], said["weights"]
        if weights and self.rounds.ready(link.peer.name, version, weights):
            self.turn()
            return
        missed = [(commit, update) for commit, update in self.commits
                  if commit["version"] > version]
        if (weights == self.hashes[version] and 0 < len(missed) == self.rounds.version - version
                and sum(len(update) for _, update in missed) < 4 * len(self.outer.weights)):
            last = self.last_counted.get(link.peer.name, 0)
            for commit, update in missed:
                self.remember(commit["update"], len(update), update)
                self.tell(link, "commit", counted=last == commit["version"], **commit)
            return
        self.tell_version(link)

    def tell_version(self, link: Link) -> None:
        self.remember(self.outer.hash, 4 * len(self.outer.weights), self.outer.weights)
        self.tell(link, "version", version=self.rounds.version, weights=self.outer.hash,
                  counted=self.last_counted.get(link.peer.name, 0))

    def remember(self, blob: str, size: int, content: Any) -> None:
        self.blobs[blob] = size, content
        self.blobs.move_to_end(blob)
        while len(self.blobs) > REMEMBERED_UPDATES + 2:
            self.blobs.popitem(last=False)

    def on_fetch(self, link: Link, said: Message) -> None:
        if said["blob"] not in self.blobs:
            self.tell_version(link)
            return
        size, content = self.blobs[said["blob"]]
        self.tell(link, "blob", blob=said["blob"], bytes=size, content=content)

    def on_offer(self, link: Link, said: Message) -> None:
        if link.peer.name in self.rounds.delivered or (
                self.last_counted.get(link.peer.name, 0) > said["version"]):
            self.tell(link, "verdict", verdict=ACCEPTED)  # the commit says that it has counted
            return
        verdict = self.rounds.offer(link.peer.name, said["version"], said["weights"],
                                    said["work"].steps, self.now)
        if verdict.verdict != ACCEPTED:
            self.judge(link, verdict)
            return
        blob, offset = self.partial.get(link.peer.name, ("", 0))
        link.offer = said
        self.tell(link, "send", blob=said["update"], offset=offset if blob == said["update"] else 0)

    def interrupted(self, peer: Peer, blob: str, size: int) -> None:
        """An upload broke off; what has arrived of it is kept."""
        self.partial[peer.name] = blob, size
        self.breaks += 1

    def on_content(self, link: Link, received: Message) -> None:
        """The whole update is there."""
        said, link.offer = link.offer, None
        if said is None or said["update"] != received["blob"]:
            return
        self.partial.pop(link.peer.name, None)
        work: Work = said["work"]
        stale = self.rounds.version - said["version"]
        verdict = self.rounds.deliver(link.peer.name, said["version"], said["weights"], work.steps,
                                      self.now)
        if verdict.verdict != ACCEPTED:
            self.judge(link, verdict)
            return
        self.opened = self.now if self.opened is None else self.opened
        tokens = believed_tokens(work.tokens, self.now - link.counted_at, len(self.outer.weights))
        weight = tokens / (1 + stale)
        try:
            weight = self.outer.add(said["codec"], said["content"], weight, work.steps)
        except Rejected as error:
            self.rounds.reject(link.peer.name)
            self.judge(link, Verdict(REJECTED, str(error)))
        else:
            self.updates["stale"] += stale > 0
            self.contributions.append((link.peer, work, weight))
            self.tell(link, "verdict", verdict=ACCEPTED)
        self.turn()

    def judge(self, link: Link, verdict: Verdict) -> None:
        self.partial.pop(link.peer.name, None)
        self.refused[verdict.verdict] += 1
        require(self.refused[REJECTED] < MOST_REJECTED * len(self.peers), "No update can be used: "
                f"training breaks down on all peers; use a lower --learning-rate. {verdict.reason}")
        self.tell(link, "verdict", verdict=verdict.verdict)

    # The end

    def tokens(self) -> Dict[str, int]:
        """What became of every token that was trained on; the last three add up to the first."""
        carried = sum(peer.carried for peer in self.peers if not peer.pending
                      or self.last_counted.get(peer.name, 0) <= peer.pending.version)
        return {"trained": sum(peer.trained for peer in self.peers),
                "counted": self.tokens_counted, "carried": carried,
                "lost": sum(peer.lost for peer in self.peers)}

    def summary(self) -> Summary:
        count, total = len(self.outer.weights), self.bytes
        connected = sum(peer.connected + (self.now - peer.since if peer.link else 0.0)
                        for peer in self.peers)
        return Summary(
            self.finished, self.rounds.version, self.step, round(self.now, 3), finite(self.loss),
            finite(self.val_loss), finite(self.start_loss),
            sum(peer.seconds for peer in self.peers) / max(connected, 1e-9),
            total["up"] / count / max(1, self.updates["counted"]),
            total["down"] / count / max(1, self.commits_received), total["weights"], self.updates,
            self.tokens(), self.breaks, self.disagreements, asdict(self.sync))


def simulate(settings: Settings, on_round: Optional[Callable[[Row], None]] = None) -> Summary:
    """A whole run; `on_round` sees each committed round. Raises GltchError when it cannot go on."""
    return Simulation(settings).run(on_round)


# --------------------------------------------------------------------------------------------------
# Command line
# --------------------------------------------------------------------------------------------------

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
            if kind is Settings and f.default is not None:
                text += f" (default: {f.default})"
            parser.add_argument(flag, type=f.metadata["kind"], help=text,
                                choices=f.metadata["choices"],
                                metavar=None if f.metadata["choices"] else "X")
    parser.add_argument("--data", nargs="+", metavar="PATH", help="the real text")
    return parser


def settings_from(args: argparse.Namespace) -> Settings:
    given = {name: value for name, value in vars(args).items() if value is not None}
    recipe = {name: given.pop(name) for name in RECIPE_OPTIONS if name in given}
    return Settings(**{**given, "data": tuple(given.get("data", ()))}, recipe=recipe)


def main(argv: Optional[List[str]] = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        summary = simulate(settings_from(args), show)
        show(summary)
    except KeyboardInterrupt:
        print("simulate.py: stopped", file=sys.stderr)
        return 130
    except (GltchError, OSError) as error:
        print(f"simulate.py: error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
