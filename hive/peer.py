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
import functools
import math
import os
import random
import secrets
import socket
import ssl
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Deque, Dict, List, NoReturn, Optional, Tuple

if __package__ in (None, ""):  # started as a script: the package is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import hive  # noqa: F401  (quiets what PyTorch says while it is imported)
if __name__ == "__main__":
    from hive import require_pytorch, say_loading
    require_pytorch("peer.py")
    say_loading()

import torch

from gltch_2_7m import (
    GltchError,
    Interrupts,
    Parser,
    Progress,
    Runtime,
    TrainConfig,
    by_command,
    called,
    load_corpus,
    parameters_of,
    require,
    say,
    start_runtime,
    typed,
)
from hive import cache
from hive.key import key_of
from hive.learning.codec import digest, flatten, from_bytes, to_bytes
from hive.learning.outer import apply_update
from hive.learning.worker import Crew, Learner, Worker
from hive.machine import device_kind, device_name, require_memory, require_websockets, size
from hive.network.sockets import Line
from hive.network.uplink import Uplink
from hive.session import effects, protocol
from hive.session.effects import Do, Moment, PeerEffect, Upload
from hive.session.job import Job
from hive.session.patience import Patience
from hive.session.peer_session import PeerSession
from hive.session.protocol import ProtocolError, pack, unpack
from hive.text import corpus_of

COMMAND = "gltch-peer", __file__
LISTEN_SECONDS = 0.25  # at a time, so that Ctrl-C is noticed
LEAVING = "Leaving"  # what Ctrl-C is answered with while no step is trained
MOST_AT_ONCE = 256  # messages that are read between two steps


class Stopped(Exception):
    """Ctrl-C."""


class Broken(Exception):
    """The conversation went wrong; a new connection begins it again."""


def now() -> Moment:
    return Moment(time.monotonic(), time.time())


class Peer:
    """One peer over all its connections: sockets, processes and files around its session."""

    def __init__(self, crew: Crew, recipe: Dict[str, Any], options: argparse.Namespace, key: str,
                 interrupts: Interrupts, certificates: Optional[ssl.SSLContext] = None):
        from websockets.exceptions import WebSocketException
        self.lost = OSError, EOFError, WebSocketException
        self.crew, self.recipe, self.interrupts = crew, recipe, interrupts
        self.server, self.certificates = options.server, certificates
        self.session = PeerSession(
            options.name, token=functools.partial(secrets.token_hex, 32), key=key,
            device=device_name(crew.runtime), kind=device_kind(crew.runtime),
            text=load_corpus(options.data).digest if options.data else None,
            batch_size=recipe.get("batch_size"), server=self.server,
            recall=lambda hive: cache.recall(hive, options.name))
        self.works: Dict[effects.Work, Callable[..., Any]] = {
            "text": self.text, "begin": self.begin, "whole": self.whole, "apply": self.apply}
        self.learner: Optional[Learner] = None  # made for a job, with more work that can be done
        self.cached = False  # the text of the run
        self.patience = Patience()
        self.up = self.down = 0  # bytes, on earlier connections
        self.progress = Progress()
        # this connection
        self.socket: Line  # made when it connects
        self.uplink: Uplink
        self.to_do: Deque[Do] = deque()
        self.trouble: Optional[Exception] = None  # what ends it
        self.end: Optional[effects.End] = None

    # One connection after another

    def run(self) -> None:
        """Until the run is over. Raises Stopped after Ctrl-C, GltchError when nothing helps."""
        from hive.network.dial import Answered, Misdirected, describe, open_connection
        while True:
            asked = 0.0  # seconds, by who answered
            try:
                with open_connection(self.server, self.certificates,
                                     max_size=protocol.MESSAGE_BYTES,
                                     ping_timeout=protocol.PONG_SECONDS) as self.socket:
                    with Uplink(self.socket) as self.uplink:
                        self.progress.say(f"finished  {self.converse()}")
                        return
            except Answered as answer:
                # Before a coordinator that is starting again, a proxy may know no such page.
                restarting = answer.status == 404 and self.session.talk.joined
                require(answer.passing or restarting, answer.sentence(self.server))
                asked = answer.wait
                self.progress.say(f"waiting   {self.server} has no place for this peer now "
                                  f"({answer}); trying again")
            except Misdirected as error:
                require(self.session.talk.joined, str(error))
                self.progress.say(f"waiting   {error}")
            except (*self.lost, Broken) as error:
                doubt = "" if self.session.talk.joined else (
                    "; is it running, and is the address right?")
                self.progress.say(f"waiting   no connection to {self.server} ({describe(error)}); "
                                  f"trying again{doubt}")
            self.sleep(max(asked, self.patience.next(random.uniform)))

    def sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.interrupts.signal:
                raise Stopped
            self.crew.order(do="wait")
            time.sleep(0.1)

    def converse(self) -> str:
        """One connection, from its first word to its last. Returns why the run is over; raises what
        else ended it."""
        self.trouble = None
        self.carry_out(self.session.connected(now()))
        while self.to_do or not (self.trouble or self.end):
            self.look_at_uplink()
            if self.interrupts.signal:
                self.carry_out(self.session.stop(now()))
                raise Stopped
            if not self.to_do:
                self.carry_out(self.session.caught_up(now()))
            if self.to_do:
                self.work(self.to_do.popleft())
            elif self.learner and self.session.training:
                self.step(self.learner)
            elif not self.listen(LISTEN_SECONDS):
                self.crew.order(do="wait")
                self.carry_out(self.session.wake(now()))
        self.up += self.uplink.bytes
        self.carry_out(self.session.lost(now()))
        if self.end:
            return self.end.reason
        assert self.trouble is not None
        raise self.trouble

    def carry_out(self, asked: List[PeerEffect]) -> None:
        """What takes long waits for its turn."""
        for effect in asked:
            if isinstance(effect, effects.Tell):
                said = dict(effect.message)
                self.uplink.send(pack(said["type"], **said))
            elif isinstance(effect, Upload):
                blob, content, offset = effect
                self.uplink.send_blob(blob, protocol.chunks(blob, content, offset))
            elif isinstance(effect, Do):
                self.to_do.append(effect)
            elif isinstance(effect, effects.Say):
                self.progress.say(f"{effect.kind:<10}{effect.text}")
            elif isinstance(effect, effects.Keep):
                cache.keep_identity(self.session.hive, self.session.about.name, *effect)
            elif isinstance(effect, effects.Settled):
                self.patience = Patience()
            elif isinstance(effect, effects.Leave):
                self.trouble = Broken(effect.reason)
            elif isinstance(effect, effects.Refuse):
                self.trouble = GltchError(effect.reason)
            else:
                self.end = effect

    def look_at_uplink(self) -> None:
        """What has gone out, and whether it still does."""
        while self.uplink.sent:
            self.carry_out(self.session.uploaded(self.uplink.sent.popleft(), now()))
        if self.uplink.error and not self.trouble:
            while self.listen(LISTEN_SECONDS):
                pass  # what came before the line broke is still read: perhaps the reason
            self.trouble = self.trouble or self.uplink.error

    def listen(self, seconds: float) -> bool:
        """Pass on the next message; False when none came in time, or none can come any more."""
        try:
            message = self.socket.recv(seconds)
        except TimeoutError:
            return False
        except self.lost as error:
            self.trouble = error
            return False
        self.down += len(message)
        try:
            asked = (self.session.chunk(message, now()) if isinstance(message, bytes)
                     else self.session.heard(unpack(message), now()))
        except ProtocolError as error:
            asked = self.session.broken(error, now())
        self.carry_out(asked)
        self.show()
        return self.trouble is None

    def catch_up(self) -> None:
        """Read what arrived during a step. What a message asks for is done before the next is read:
        the content of a round may come right behind that of the round before."""
        for _ in range(MOST_AT_ONCE):
            if not self.listen(0.0):
                break
            while self.to_do and not (self.trouble or self.interrupts.signal):
                self.work(self.to_do.popleft())
        self.look_at_uplink()
        self.carry_out(self.session.wake(now()))

    # Work

    def work(self, do: Do) -> None:
        try:
            result = self.works[do.what](*do.values)
        except GltchError as error:
            asked = self.session.failed(do.ticket, error, now())
        else:
            asked = self.session.done(do.ticket, result, now())
        if not self.interrupts.signal:  # otherwise it leaves
            self.carry_out(asked)

    def text(self, job: Job) -> Optional[bytes]:
        """From the cache. Raises GltchError when the job takes more memory than there is."""
        require_memory(job, replace(job.recipe, **self.recipe), self.crew.runtime)
        content = cache.read_text(job.text)
        self.cached = content is not None
        return content

    def begin(self, job: Job, content: bytes) -> int:
        """Build the network and the optimizer, in all processes of this peer."""
        self.crew.order(do="begin", job=job.as_json())
        self.crew.share(content)
        worker = make_worker(job, content, self.recipe, self.crew.runtime)
        if not self.cached:
            cache.keep_text(job.text, content)
        count = parameters_of(job.config)
        learner = self.learner = Learner(worker, job.sync, count)
        moving = functools.partial(self.move, learner)
        self.works.update({
            "load": functools.partial(moving, learner.load),
            "rebase": functools.partial(moving, learner.rebase),
            "take": functools.partial(moving, learner.take),
            "task": functools.partial(self.task, learner),
            "settle": learner.feedback.settle, "forget": learner.feedback.forget})
        return count

    def whole(self, content: bytes) -> Tuple[torch.Tensor, str]:
        weights = from_bytes(content)
        return weights, digest(weights)

    def apply(self, weights: torch.Tensor, codec: str, update: bytes, part: slice
              ) -> Tuple[torch.Tensor, str]:
        weights = apply_update(weights, codec, update, part)
        return weights, digest(weights)

    def move(self, learner: Learner, how: Callable[..., Any], *values: Any) -> Any:
        """What changes the network's weights; the other processes of this peer get them."""
        result = how(*values)
        if self.crew.runtime.world > 1:
            self.crew.order(do="load")
            self.crew.share(to_bytes(flatten(learner.worker.trainer.model)))
        return result

    def task(self, learner: Learner, step: int, total: Optional[int], window: int) -> None:
        self.crew.order(do="task", step=step, total=total, window=window)
        learner.worker.begin(step, total, window)

    def step(self, learner: Learner) -> None:
        """One step of training, in all processes of this peer."""
        self.crew.order(do="step")
        self.interrupts.then, began = "Finishing this step and leaving", time.monotonic()
        try:
            loss = learner.worker.step()
        except GltchError as error:
            asked = self.session.broke_down(error, now())
        else:
            asked = self.session.stepped(learner.worker.tokens, loss, time.monotonic() - began,
                                         now())
        self.interrupts.then = LEAVING
        if not self.interrupts.signal:
            self.carry_out(asked)
        self.catch_up()
        self.show()

    # What is shown

    def show(self) -> None:
        if self.learner is None or not self.session.held.hash:
            return
        trainer, figures = self.learner.worker.trainer, self.session.figures
        total = trainer.total
        done = f"{trainer.step:,}/{total:,}" if total else f"{trainer.step:,}"
        self.progress.line(
            trainer.step / total if total else 0.0,
            f"in round {self.session.held.version + 1:,}  step {done}  "
            + measured("loss", figures.loss) + measured("val", figures.val_loss)
            + f"{figures.speed:,.0f} chars/s  peers {figures.peers}  "
            f"up {size(self.up + self.uplink.bytes)}  down {size(self.down)}")


def measured(name: str, loss: float) -> str:
    """Nothing before there is something to tell: in a new process, or in a new hive."""
    return "" if math.isnan(loss) else f"{name} {loss:.3f}  "


def make_worker(job: Job, content: bytes, recipe: Dict[str, Any], runtime: Runtime) -> Worker:
    return Worker(job.config, replace(job.recipe, **recipe), corpus_of(job, content), runtime,
                  noise_seed=random.SystemRandom().randrange(2**31))


# --------------------------------------------------------------------------------------------------
# Command line
# --------------------------------------------------------------------------------------------------

def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog=called(*COMMAND), allow_abbrev=False)
    one, several = (__doc__ or "").split("\n\n")[1].splitlines()
    program = "-m hive.peer" if by_command() else typed(*COMMAND).split(" ", 1)[1]
    parser.lead = (one.replace("python hive/peer.py", typed(*COMMAND)) + "\n"
                   + several.replace("hive/peer.py", program) + "\n\n")
    add = parser.add_argument
    add("--server", default="ws://localhost:8765", metavar="URL",
        help="the hive: ws://host:8765, or wss://host/hive (default: ws://localhost:8765)")
    add("--name", default=socket.gethostname(), help="shown to all (default: this machine's name)")
    add("--key", help="key of the hive (better: --key-file, or HIVE_KEY in the environment)")
    add("--key-file", metavar="FILE", help="file that holds the key of the hive")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    add("--dtype", default="auto", choices=("auto", "fp32", "bf16", "fp16"),
        help="number format of the matrix products (default: auto)")
    add("--batch-size", type=int, help="sequences per step (default: what the hive says)")
    add("--low-memory", action="store_true", help="less memory, slower")
    add("--tls-ca", metavar="FILE", help="certificate to trust besides the system's, for wss://")
    add("--data", nargs="+", metavar="PATH", help="make sure that the hive trains on this text")
    return parser


def run(args: argparse.Namespace) -> int:
    require_websockets("The Hive")
    require(args.server.startswith(("ws://", "wss://")), f"--server must begin with ws:// or "
            f"wss://, for example ws://localhost:8765, not {args.server!r}.")
    from hive.network.dial import in_clear, trusted_certificates
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
    with Interrupts(runtime, LEAVING) as interrupts:
        if runtime.rank:
            crew.follow(lambda job, content: make_worker(Job.from_json(job), content, recipe,
                                                         runtime))
            return 130 if interrupts.signal else 0
        try:
            Peer(crew, recipe, args, key_of(args), interrupts, certificates).run()
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
        say(f"{called(*COMMAND)}: error: {error}")
        return 2


def leave(status: int) -> NoReturn:
    """The end of the process."""
    if "WORLD_SIZE" in os.environ:
        # Nothing is left to do, and taking Gloo apart while others leave can abort the process.
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    leave(main())
