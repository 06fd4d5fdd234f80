#!/usr/bin/env python3
"""A peer of a hive: this machine helps to train the one model, for as long as you let it.

    python hive/peer.py --server ws://localhost:8765 --name my-node
    torchrun --nproc-per-node=2 hive/peer.py --server ws://localhost:8765     several GPUs, one peer

It only dials out. It gets the text and the weights from the coordinator, trains, sends what it
learned, and starts again from what all have learned. Ctrl-C says goodbye.
"""
from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
import os
import platform
import random
import socket
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any, Deque, Dict, List, NamedTuple, Optional

if __package__ in (None, ""):  # started as a script: the package is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import hive  # noqa: F401  (quiets what PyTorch says while it is imported)

import torch

from gltch_2_7m import (
    GltchError,
    Interrupts,
    Parser,
    Progress,
    Runtime,
    TrainConfig,
    cache_folder,
    load_corpus,
    require,
    say,
    start_runtime,
    write_atomically,
)
from hive import protocol
from hive.codec import CODECS, ErrorFeedback, digest, from_bytes, to_bytes
from hive.job import Job, nats
from hive.outer import apply_update
from hive.protocol import ProtocolError, Receiver, pack, shown, unpack
from hive.rounds import ACCEPTED, REJECTED
from hive.worker import Crew, Work, Worker

SILENCE_SECONDS = 45.0  # without a word from the coordinator: the connection is dead
PROGRESS_SECONDS = 1.0  # between two reports from within a round
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before the next attempt to connect
MOST_KEPT = 256  # messages that wait while this peer trains or fetches
LATER = ("version", "commit", "train", "send", "verdict", "status", "finished")  # may wait
REASON = 1000  # characters of what the coordinator gives as a reason, at most
MOST_FAILURES = 3  # rounds in a row whose loss was not finite


class Refused(GltchError):
    """The coordinator will not have this peer; trying again would change nothing."""


class Stopped(Exception):
    """Ctrl-C."""


class Broken(Exception):
    """The conversation went wrong; a new connection begins it again."""


class Pending(NamedTuple):
    """An update on its way: nobody knows yet whether it counts."""

    version: int  # of the weights it starts from
    weights: str  # their SHA-256
    codec: str
    update: bytes
    work: Work


class Peer:
    """One peer over all its connections."""

    def __init__(self, crew: Crew, recipe: Dict[str, Any], options: argparse.Namespace, key: str,
                 certificates: Any = None):
        self.crew, self.recipe, self.key = crew, recipe, key
        self.server, self.certificates = options.server, certificates
        self.name = self.asked_name = options.name
        self.text = load_corpus(options.data).digest if options.data else None
        self.process = protocol.make_token()
        self.token: Optional[str] = None
        self.wait = FIRST_WAIT  # before the next attempt to connect
        self.hive = ""
        self.job: Optional[Job] = None
        self.version, self.hash = 0, ""  # of the weights this peer holds
        self.pending: Optional[Pending] = None
        self.carried = 0  # tokens whose update has not counted yet
        self.failures = 0
        self.moved = False  # the network's weights are no longer those of the hive
        self.offered, self.sent = 0.0, False  # when the pending update was, and whether it went
        self.told = 0.0  # when the coordinator last heard how far training is
        self.inbox: Deque[Dict[str, Any]] = deque()
        self.receiver: Optional[Receiver] = None  # a download, also an interrupted one
        self.up = self.down = 0  # bytes
        self.peers, self.loss, self.val_loss, self.speed = 1, math.nan, math.nan, 0.0
        self.progress = Progress()
        self.socket: Any = None

    # One connection after the other

    def run(self, interrupts: Interrupts) -> None:
        """Until the run is over or somebody presses Ctrl-C. Raises Refused, Stopped."""
        from websockets.exceptions import WebSocketException

        from hive.dial import Answered, Distrusted, describe, open_connection
        self.interrupts = interrupts
        while True:
            asked = 0.0  # seconds, by who answered
            try:
                with open_connection(self.server, self.certificates) as self.socket:
                    self.handshake()
                    self.progress.say(f"finished  {self.take_part()}")
                    return
            except Answered as answer:
                # Before a coordinator that is starting again, a proxy may know no such page.
                restarting = answer.status == 404 and self.job is not None
                require(answer.passing or restarting, answer.sentence(self.server))
                asked = answer.wait
                self.progress.say(f"waiting   {self.server} has no place for this peer now "
                                  f"({answer}); trying again")
            except Distrusted as error:
                require(self.job is not None, str(error))
                self.progress.say(f"waiting   {error}")
            except (OSError, EOFError, WebSocketException, Broken) as error:
                doubt = "" if self.job else "; is it running, and is the address right?"
                self.progress.say(f"waiting   no connection to {self.server} ({describe(error)}); "
                                  f"trying again{doubt}")
            self.sleep(max(asked, self.wait * random.uniform(0.5, 1.5)))  # not all at once
            self.wait = min(2 * self.wait, LONGEST_WAIT)

    def sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.interrupts.signal:
                raise Stopped
            self.crew.order(do="wait")
            time.sleep(0.1)

    def handshake(self) -> None:
        """Show that both sides have the key, learn what is trained, get the text."""
        self.inbox.clear()
        challenge = self.expect("challenge")
        nonce = protocol.make_token()
        if challenge["hive"] != self.hive:
            self.remember(challenge["hive"])
        require(challenge["locked"] or not self.key, "This hive needs no key: leave it out, or "
                "check that this is the hive you meant.")
        self.send("hello", protocol=protocol.VERSION, nonce=nonce, name=self.name,
                  proof=protocol.proof(self.key, "peer", challenge["nonce"], nonce),
                  device=device_name(self.crew.runtime), process=self.process,
                  token=self.token and protocol.possession(
                      protocol.name_of(self.token.encode()), challenge["nonce"], nonce),
                  text=self.text)
        protocol.check_versions(protocol.VERSION, challenge["protocol"])
        welcome = self.expect("welcome")
        protocol.check_welcome(welcome, self.key, challenge["nonce"], nonce)
        self.name = protocol.clean_name(welcome["name"], self.name)
        if welcome["token"]:  # a new identity; otherwise this peer is the one it was
            self.keep(welcome["token"])
        if self.job is None or self.job.as_json() != welcome["job"]:
            self.begin(Job.from_json(welcome["job"]))
        if self.pending and welcome["counted"] > self.pending.version:
            self.settle(counted=True)
        self.progress.say(f"joined    {self.server} as {self.name}")

    def begin(self, job: Job) -> None:
        """Build the network and the optimizer, in all processes of this peer."""
        require_memory(job, replace(job.recipe, **self.recipe), self.crew.runtime)
        content = self.fetch_text(job)
        self.build(job, content)

    def build(self, job: Job, content: bytes) -> None:
        self.crew.order(do="begin", job=job.as_json())
        self.crew.share(content)
        self.worker = make_worker(job, content, self.recipe, self.crew.runtime)
        count = sum(p.numel() for p in self.worker.trainer.model.parameters())
        self.job, self.hash, self.pending, self.carried = job, "", None, 0
        self.feedback = ErrorFeedback(count, job.sync.beta)
        say(f"network   {shown(job.size, 20)}: {count:,} parameters; {shown(job.mode, 20)}, "
            f"{self.worker.batch_size} sequences a step")

    # Words

    def send(self, kind: str, **values: Any) -> None:
        message = pack(kind, **values)
        self.up += len(message)
        self.socket.send(message)

    def receive(self, seconds: float) -> Optional[Dict[str, Any]]:
        """The next control message, None when there is none in time. Chunks go where they belong.

        Raises Stopped after Ctrl-C, Refused when the coordinator says so."""
        return self.inbox.popleft() if self.inbox else self.listen(seconds)

    def listen(self, seconds: float) -> Optional[Dict[str, Any]]:
        """The same, from the socket only."""
        until = time.monotonic() + seconds
        while True:
            if self.interrupts.signal:
                raise Stopped
            left = until - time.monotonic()
            try:
                message = self.socket.recv(max(0.0, min(left, 0.25)))
            except TimeoutError:
                if left <= 0:
                    return None
                continue
            self.down += len(message)
            if isinstance(message, bytes):
                protocol.demand(self.receiver is not None, "A chunk came that nobody asked for.")
                assert self.receiver is not None
                self.receiver.add(message)
                return {"type": "chunk"}
            said = unpack(message)
            if said["type"] == "refused":
                raise Refused(shown(said["reason"], REASON))
            return said

    def keep_for_later(self, said: Dict[str, Any]) -> None:
        """Of what is said while this peer is busy, the newest status and not too much else."""
        protocol.demand(said["type"] in LATER,
                        f"A coordinator does not send {said['type']} messages now.")
        if said["type"] == "status":
            self.inbox = deque(one for one in self.inbox if one["type"] != "status")
        self.inbox.append(said)
        protocol.demand(len(self.inbox) <= MOST_KEPT, "The coordinator says more than it hears.")

    def expect(self, *kinds: str) -> Dict[str, Any]:
        """Wait for one of these kinds of message; others are kept for later."""
        for said in self.inbox:
            if said["type"] in kinds:
                self.inbox.remove(said)
                return said
        while True:
            heard = self.listen(SILENCE_SECONDS)
            if heard is None:
                raise TimeoutError("the coordinator has gone silent")
            if heard["type"] in kinds:
                return heard
            if heard["type"] != "chunk":
                self.keep_for_later(heard)

    # Blobs

    def fetch(self, blob: str, limit: int) -> Optional[bytes]:
        """Ask for a blob, or for the rest of one that was interrupted; None when the coordinator
        no longer has it."""
        offset = 0
        if self.receiver and self.receiver.blob == blob:
            offset = len(self.receiver.content)
        self.send("fetch", blob=blob, offset=offset)
        said = self.expect("blob", "gone")
        protocol.demand(said["blob"] == blob, "The coordinator answers another question.")
        if said["type"] == "gone":
            return None
        if not offset:
            self.receiver = Receiver(blob, said["bytes"], limit)
        assert self.receiver is not None
        while not self.receiver.complete:
            self.expect("chunk")
        receiver, self.receiver = self.receiver, None
        self.offered = time.monotonic()  # while fetching, nothing else could arrive
        return receiver.result()

    def fetch_text(self, job: Job) -> bytes:
        """The text of the run, from the cache if it was here before."""
        path = cache_folder() / "hive" / f"{job.text}.txt"
        if path.exists():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == job.text:
                return content
        content = self.fetch(job.text, job.text_bytes) or b""
        try:
            write_atomically(path, lambda file: file.write(content))
        except GltchError as error:
            say(f"text      not kept for next time: {error}")
        return content

    def identity_file(self, name: str) -> Path:
        known_as = hashlib.sha256(f"{self.hive} {name}".encode(errors="replace")).hexdigest()
        return cache_folder() / "hive" / f"{known_as[:16]}.token"

    def remember(self, hive: str) -> None:
        """What lets this peer come back as the one it was: its token, and the name it got."""
        self.hive, self.name, self.token = hive, self.asked_name, None
        path = self.identity_file(self.name)
        token, _, name = (path.read_text("utf-8").strip() if path.exists() else "").partition(" ")
        if protocol.Digest().holds(token):
            self.token, self.name = token, name or self.name

    def keep(self, token: str) -> None:
        """For a new process of the name this one was started with, unless another one has it."""
        path = self.identity_file(self.asked_name)
        if path.exists() and self.name != self.asked_name:
            path = self.identity_file(self.name)
        self.token = token
        try:
            write_atomically(path, lambda file: file.write(f"{token} {self.name}\n".encode()))
            path.chmod(0o600)
        except GltchError as error:
            say(f"identity  not kept for next time: {error}")

    # Taking part

    def take_part(self) -> str:
        """Answer what the coordinator says until the run is over; returns why it is."""
        try:
            if self.pending:
                self.make_offer()
            else:
                self.report()  # which weights are here, if any
            return self.answer()
        except (ProtocolError, Refused) as error:  # it was welcome once: a new start may do
            raise Broken(str(error)) from error
        except Stopped:
            self.send("goodbye")
            raise

    def answer(self) -> str:
        answers = {"version": self.on_version, "commit": self.on_commit, "train": self.on_train,
                   "send": self.on_send, "verdict": self.on_verdict, "status": self.on_status}
        heard = time.monotonic()
        while True:
            said = self.receive(1.0)
            if said is None:
                self.crew.order(do="wait")
                if time.monotonic() - heard > SILENCE_SECONDS:
                    raise TimeoutError("the coordinator has gone silent")
                continue
            heard = time.monotonic()
            if said["type"] == "finished":
                return shown(said["reason"], REASON)
            if said["type"] != "status":  # there is something to do: this connection is a good one
                self.wait = FIRST_WAIT
            protocol.demand(said["type"] in answers,
                            f"A coordinator does not send {said['type']} messages now.")
            answers[said["type"]](said)

    def report(self) -> None:
        """Tell which weights this peer holds; the coordinator sends a task or what is missing."""
        self.send("ready", version=self.version, weights=self.hash or None,
                  batch_size=self.worker.batch_size)

    def on_version(self, said: Dict[str, Any]) -> None:
        """The weights as a whole: at the start, or after too long an absence."""
        content = self.fetch(said["weights"], 4 * len(self.feedback.residual))
        if content is None:
            self.report()  # there are newer ones
            return
        protocol.demand(len(content) == 4 * len(self.feedback.residual),
                        "The weights have another size than the network.")
        if self.pending and said["counted"] > self.pending.version:
            self.settle(counted=True)
        self.hold(from_bytes(content), said["version"], said["weights"])
        if self.pending:
            self.make_offer()

    def on_commit(self, said: Dict[str, Any]) -> None:
        """A round is over: take its update, and tell that it is in."""
        if said["version"] <= self.version:
            return
        if said["version"] != self.version + 1 or not self.hash:
            self.report()  # something was missed
            return
        protocol.demand(said["codec"] in CODECS, "The coordinator uses an unknown codec.")
        update = self.fetch(said["update"], CODECS[said["codec"]].size(len(self.weights)))
        if update is None:
            self.report()
            return
        if said["counted"]:
            self.settle(counted=True)
        weights = apply_update(self.weights, said["codec"], update)
        self.hold(weights, said["version"], said["weights"])

    def hold(self, weights: torch.Tensor, version: int, expected: str) -> None:
        """From now on these are the weights, if they are bit for bit what they should be."""
        if digest(weights) != expected:
            self.hash = ""  # never train from weights that nobody else has
        else:
            self.weights, self.version, self.hash = weights, version, expected
            self.load()
        if not self.pending:  # otherwise first hear what becomes of the last update
            self.report()

    def load(self) -> None:
        """Put the hive's weights into the network, in all processes of this peer."""
        self.crew.order(do="load")
        self.crew.share(to_bytes(self.weights) if self.crew.runtime.world > 1 else b"")
        self.worker.load(self.weights)
        self.moved = False

    def on_train(self, task: Dict[str, Any]) -> None:
        """Train from the weights of this round and offer what came out."""
        if (task["version"], task["weights"]) != (self.version, self.hash) or self.pending:
            return
        if self.moved:  # the connection broke while training: these steps are not counted
            self.load()
        self.moved = True
        order = {name: task[name] for name in ("step", "total", "quota", "seconds", "window")}
        self.crew.order(do="train", **order)
        try:
            work = self.worker.train(**order, stop=self.interrupted)
        except GltchError as error:
            self.recover(error)
            return
        self.failures, self.loss, self.speed = 0, work.loss, work.tokens / max(work.seconds, 1e-9)
        assert self.job is not None
        codec = self.job.sync.up
        update = self.feedback.encode(codec, self.worker.moved(self.weights))
        self.carried += work.tokens
        self.pending = Pending(self.version, self.hash, codec, update,
                               replace(work, tokens=self.carried))
        if self.interrupts.signal:
            raise Stopped
        if not any(word["type"] == "finished" for word in self.inbox):
            self.make_offer()

    def interrupted(self, steps: int) -> bool:
        """Between two steps: show where we are, listen, and say whether to stop training."""
        self.show(steps)
        try:
            for _ in range(MOST_KEPT):
                said = self.listen(0.0)
                if said is None:
                    break
                self.keep_for_later(said)
        except Stopped:
            return True
        over = any(word["type"] in ("commit", "finished") for word in self.inbox)
        if not over and time.monotonic() - self.told > PROGRESS_SECONDS:
            self.told = time.monotonic()
            self.send("progress", version=self.version, steps=steps)
        return over

    def recover(self, error: GltchError) -> None:
        """Training broke down: begin again from the hive's weights, a few times."""
        self.failures += 1
        if self.failures >= MOST_FAILURES:
            raise error
        say(f"trouble   {error} Starting again from the hive's weights.")
        job = self.job
        assert job is not None
        self.build(job, self.fetch_text(job))
        self.hold(self.weights, self.version, digest(self.weights))

    def make_offer(self) -> None:
        assert self.pending is not None
        self.offered, self.sent = time.monotonic(), False
        version, weights, codec, update, work = self.pending
        self.send("offer", version=version, weights=weights, codec=codec,
                  update=protocol.name_of(update), bytes=len(update), steps=work.steps,
                  tokens=work.tokens, seconds=work.seconds,
                  loss=work.loss if math.isfinite(work.loss) else None)

    def on_send(self, said: Dict[str, Any]) -> None:
        """Upload the offered update, from where an interrupted transfer stopped."""
        if not self.pending or said["blob"] != protocol.name_of(self.pending.update) or self.sent:
            return
        self.sent = True
        for chunk in protocol.chunks(said["blob"], self.pending.update, said["offset"]):
            self.up += len(chunk)
            self.socket.send(chunk)
            self.offered = time.monotonic()
            if self.interrupts.signal:
                raise Stopped

    def on_verdict(self, said: Dict[str, Any]) -> None:
        """An accepted update counts with the commit; a late one comes again with the next."""
        if said["verdict"] == ACCEPTED or not self.pending:
            return
        self.settle(counted=False)
        if said["verdict"] == REJECTED:
            say(f"rejected  {shown(said['reason'], REASON)}")
            self.feedback.residual.zero_()
            self.carried = 0
        self.report()

    def settle(self, counted: bool) -> None:
        self.feedback.settle(counted)
        self.pending = None
        if counted:
            self.carried = 0

    def on_status(self, said: Dict[str, Any]) -> None:
        if self.pending and time.monotonic() - self.offered > SILENCE_SECONDS:
            self.make_offer()  # nobody ever said what became of it
        self.peers = said["peers"]
        self.val_loss = math.nan if said["val_loss"] is None else said["val_loss"]
        if self.hash:
            self.show(0)

    def show(self, steps: int) -> None:
        trainer = self.worker.trainer
        total = trainer.total
        done = f"{trainer.step:,}/{total:,}" if total else f"{trainer.step:,}"
        loss = trainer.losses[-1] if trainer.losses else self.loss
        del trainer.losses[:-1]
        self.progress.line(
            trainer.step / total if total else 0.0,
            f"round {self.version + 1:,}  step {done}  loss {nats(loss)}  "
            f"val {nats(self.val_loss)}  {self.speed:,.0f} chars/s  peers {self.peers}  "
            f"up {size(self.up)}  down {size(self.down)}")


def size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit != "MB" else f"{count:.1f} MB"
        count /= 1000
    return f"{count:.1f} GB"


def device_name(runtime: Runtime) -> str:
    if runtime.device.type == "cuda":
        name = torch.cuda.get_device_name(runtime.device)
    elif runtime.device.type == "mps":
        name = f"Apple {platform.machine()}"
    else:
        name = f"CPU {platform.machine()}, {os.cpu_count()} cores"
    return name if runtime.world == 1 else f"{runtime.world} x {name}"


def make_worker(job: Job, content: bytes, recipe: Dict[str, Any], runtime: Runtime) -> Worker:
    return Worker(job.config, replace(job.recipe, **recipe), job.corpus(content), runtime,
                  noise_seed=random.SystemRandom().randrange(2**31))


def free_memory(device: torch.device) -> Optional[int]:
    """Bytes that are free on a device, or at least all it has; None where that cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass  # not Linux
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def require_memory(job: Job, recipe: TrainConfig, runtime: Runtime) -> None:
    """Raises GltchError when the job would take more memory than there is."""
    training, holding = job.memory(recipe, runtime)
    main, needs = torch.device("cpu"), {}
    if runtime.device.type == "cuda":
        needs[runtime.device], needs[main] = training, holding
    else:
        needs[main] = training + holding
    for device, need in needs.items():
        if device == main:
            need *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        free = free_memory(device)
        require(free is None or need <= free, f"To train this hive's network with "
                f"{recipe.batch_size:,} sequences a step takes about {size(need)} of memory, and "
                f"{size(free or 0)} are free: use a smaller --batch-size, --low-memory, or another "
                "machine.")


# --------------------------------------------------------------------------------------------------
# Command line
# --------------------------------------------------------------------------------------------------

def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="peer.py", allow_abbrev=False)
    parser.lead = (__doc__ or "").split("\n\n")[1] + "\n\n"
    add = parser.add_argument
    add("--server", default="ws://localhost:8765", metavar="URL",
        help="the hive: ws://host:8765, or wss://host/hive (default: ws://localhost:8765)")
    add("--name", default=socket.gethostname(), help="shown to all (default: this machine's name)")
    add("--key", help="key of the hive (better: --key-file, or HIVE_KEY in the environment)")
    add("--key-file", metavar="FILE", help="file that holds the key of the hive")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    add("--dtype", default="auto", choices=("auto", "fp32", "bf16", "fp16"),
        help="of the matrix products (default: auto)")
    add("--batch-size", type=int, help="sequences per step (default: what the hive says)")
    add("--low-memory", action="store_true", help="less memory, slower")
    add("--tls-ca", metavar="FILE", help="certificate to trust besides the system's, for wss://")
    add("--data", nargs="+", metavar="PATH", help="make sure that the hive trains on this text")
    return parser


def read_key(name: str) -> str:
    """The key in a file. Raises GltchError when there is none."""
    require(Path(name).is_file(), f"There is no key file {name!r}.")
    try:
        key = Path(name).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise GltchError(f"The key file {name!r} is not text.") from None
    require(bool(key), f"The key file {name!r} is empty: put the key into it, or remove it.")
    return key


def key_of(args: argparse.Namespace) -> str:
    if args.key_file:
        return read_key(args.key_file)
    return args.key or os.environ.get("HIVE_KEY", "")


def run(args: argparse.Namespace) -> int:
    try:
        import websockets  # noqa: F401
    except ImportError:
        raise GltchError("The Hive needs the package websockets: pip install websockets") from None
    require(args.server.startswith(("ws://", "wss://")), f"--server must begin with ws:// or "
            f"wss://, for example ws://localhost:8765, not {args.server!r}.")
    from hive.dial import in_clear, trusted_certificates
    certificates = trusted_certificates(args.server, args.tls_ca)
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = direct + ",localhost,127.0.0.1,::1"  # no proxy can reach these
    recipe: Dict[str, Any] = {"device": args.device, "precision": args.dtype,
                              "low_memory": args.low_memory}
    if args.batch_size is not None:
        recipe["batch_size"] = args.batch_size
    runtime = start_runtime(TrainConfig(**recipe))
    say(f"device    {device_name(runtime)}, {runtime.precision}")
    if in_clear(args.server):
        say(f"warning   {in_clear(args.server)}")
    crew = Crew(runtime)
    with Interrupts(runtime, "leaving") as interrupts:
        if runtime.rank:
            crew.follow(lambda job, content: make_worker(Job.from_json(job), content, recipe,
                                                         runtime))
            return 130 if interrupts.signal else 0
        try:
            Peer(crew, recipe, args, key_of(args), certificates).run(interrupts)
        except Stopped:
            say("\nLeft the hive.")
            return 128 + interrupts.signal
        finally:
            with contextlib.suppress(RuntimeError):  # the others may be gone
                crew.stop()
    return 0


def main(argv: Optional[List[str]] = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return run(args)
    except KeyboardInterrupt:
        say("\nStopped.")
        return 130
    except (GltchError, OSError) as error:
        say(f"peer.py: error: {error}")
        return 2


if __name__ == "__main__":
    status = main()
    if "WORLD_SIZE" in os.environ:
        # Nothing is left to do, and taking Gloo apart while others leave can abort the process.
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
