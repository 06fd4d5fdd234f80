#!/usr/bin/env python3
"""The coordinator of a hive: it keeps the one model that all peers train.

    python server.py                              on this machine, for peers on this machine
    python server.py --host 0.0.0.0               for peers anywhere; makes a key
    python server.py --data my.txt --size 10m     another text, another network
    python server.py --ban NAME                   keep a peer out (also --pardon, --rollback N)
    python server.py --why NAME                   why a peer was set aside, by the record
    python server.py --verify                     replay the record of the run and check it

This file is the command line; `coordinator.py` is what it starts.
"""
from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import math
import os
import secrets
import shutil
import signal
import socket
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

if __package__ in (None, ""):  # started as a script: the package is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import hive  # noqa: F401  (quiets what PyTorch says while it is imported)
if __name__ == "__main__":
    from hive import require_pytorch, say_loading
    require_pytorch("server.py")
    say_loading()

import torch

from gltch_2_7m import (
    DATA_HELP,
    FROM_HELP,
    GLTCH,
    PRESETS,
    Corpus,
    GltchError,
    Origin,
    Parser,
    TrainConfig,
    Windows,
    by_command,
    called,
    in_the_numbers_of,
    load_corpus,
    origin_of,
    require,
    same_shape,
    save_checkpoint,
    say,
    size_of,
    take_over,
    text_of,
    typed,
    write_whole,
)
from hive.books import applying
from hive.coordinator import Coordinator
from hive.dashboard.facts import HiveFacts
from hive.dashboard.peer_file import peer_file
from hive.dashboard.web import Web, pages
from hive.evaluator import checkpoint
from hive.journal import Journal
from hive.key import LOCAL, key_for
from hive.learning.codec import CODECS, flatten, from_bytes, to_bytes, unflatten
from hive.learning.robust import COMBINATIONS
from hive.learning.sync import SYNCS, USUAL
from hive.machine import require_websockets
from hive.network import tls
from hive.network.door import Door, file_limit, trusted
from hive.orders import Order, carry_out
from hive.reasons import explanation
from hive.session import protocol
from hive.session.job import Job, Limits
from hive.session.reception import HANDSHAKE_SECONDS, require_announceable
from hive.session.rounds import Pace
from hive.text import TEXT, corpus_of, training_bytes, whole_bytes

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "gltch-hive", __file__
PORT, DASHBOARD_PORT = 8765, 8080
BATCH_SIZE = 16  # sequences of a peer's step: those of all peers make up a batch
COMPLAINT_SECONDS = 10.0  # between two that there are too many connections


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog=called(*COMMAND), allow_abbrev=False)
    examples = (__doc__ or "").split("\n\n")[1]
    parser.lead = examples.replace("python server.py", typed(*COMMAND)) + "\n\n"
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=int, default=PORT, help=f"for peers (default: {PORT}; 0: any)")
    add("--dashboard-port", type=int, default=DASHBOARD_PORT,
        help=f"for the dashboard, and for peers at /hive (default: {DASHBOARD_PORT}; 0: any)")
    add("--allow-host", nargs="+", default=[], metavar="NAME", help="names the dashboard may be "
        "called, besides localhost and addresses in digits (.example.org: all below it)")
    add("--no-browsers", action="store_true", help="let no web browser train along")
    add("--tls-cert", metavar="FILE", help="certificate (PEM): both ports speak TLS, https and wss")
    add("--tls-key", metavar="FILE", help="its key (default: in the same file)")
    add("--trusted-proxy", nargs="+", default=[], metavar="ADDRESS", help="where a proxy or tunnel "
        "connects from: limits are for the addresses it forwards (X-Forwarded-For)")
    add("--name", default="hive", help="the run's folder under runs/ (default: hive)")
    add("--key-file", metavar="FILE", help="file with the key that peers must have (or HIVE_KEY)")
    add("--data", nargs="+", metavar="PATH", help=DATA_HELP)
    add("--from", metavar="RUN", help=FROM_HELP)
    add("--size", choices=list(PRESETS), help="size of the network (default: 2.7m)")
    add("--dropout", type=float, help="dropout on the residual branches")
    add("--sync", choices=list(SYNCS), help=f"how peers stay together (default: {USUAL})")
    add("--codec", choices=list(CODECS),
        help="format of the updates, both ways (default: what --sync brings)")
    add("--combine", choices=list(COMBINATIONS), default="mean", help="what a round makes of its "
        "updates: mean; trimmed: of each value the mean without a quarter of the updates at either "
        "end; clipped: centred clipping, each no further from the momentum than their median. "
        "The last two bound what a few can do, keep all updates of a round in memory as they came, "
        "and take seconds where many send large ones (default: mean)")
    add("--inner-steps", type=int, help="steps of every round (default: what --sync "
        "brings: with diloco few at first, more as the learning rate falls or the links are slow)")
    add("--round-seconds", type=float, default=60.0,
        help="the longest a round trains (default: 60)")
    add("--min-peers", type=int, default=1, help="wait for this many before a round (default: 1)")
    add("--steps", type=int, help="end after this many steps (default: the full run of the size)")
    add("--rounds", type=int, help="end after this many rounds")
    add("--minutes", type=float, help="end after this much training time")
    add("--target-loss", type=float, help="end when the validation loss is this low")
    for f in fields(TrainConfig):
        if f.name in RECIPE_OPTIONS:
            add("--" + f.name.replace("_", "-"), type=f.metadata["kind"], default=None,
                choices=f.metadata["choices"], help=HELP.get(f.name, f.metadata["help"]),
                metavar=None if f.metadata["choices"] else "X")
    add("--verify", action="store_true", help="replay the journal of the run, check it, and exit")
    add("--at-round", type=int, metavar="N", help="write the network as it was after N rounds")
    add("--ban", metavar="NAME", help="peers of this name have to leave the run, and may not come "
        "back; also while its coordinator runs")
    add("--pardon", metavar="NAME", help="peers of this name are no longer set aside or banned")
    add("--why", metavar="NAME", help="print what was found of the peers of this name, and why "
        "they were set aside; also while the coordinator runs")
    add("--rollback", type=int, metavar="N", help="the run goes back to round N, in a new round")
    add("--output", metavar="FILE", help="where --at-round writes (default: round-N.pt)")
    return parser


RECIPE_OPTIONS = ("batch_size", "optimizer", "learning_rate", "embedding_learning_rate",
                  "head_learning_rate", "weight_decay", "warmup", "cooldown", "seed")
HELP = {"batch_size": f"sequences per step of each peer (default: {BATCH_SIZE})"}
FIXED = ("data", "from", "size", "dropout", "sync", "codec", "inner_steps", "steps", "rounds",
         "minutes", "target_loss", *RECIPE_OPTIONS)  # options that a run keeps from its start


def runs_folder() -> Path:
    """runs/ where the program was started, but of the clone when that is its hive/."""
    return Path("..", "runs") if Path.cwd() == ROOT / "hive" else Path("runs")


def sampling(checkpoint: Path) -> str:
    """The command that lets a checkpoint write."""
    return f"  {typed()} sample --checkpoint {checkpoint}"


def check_options(args: argparse.Namespace) -> None:
    """Raises GltchError for options that make no sense."""
    for name in ("steps", "rounds", "inner_steps", "min_peers"):
        value = getattr(args, name)
        require(value is None or value >= 1, f"--{name.replace('_', '-')} must be at least 1, not "
                f"{value}.")
    for name in ("minutes", "target_loss", "round_seconds"):
        value = getattr(args, name)
        require(value is None or 0 < value <= 1e6,
                f"--{name.replace('_', '-')} must be above 0 and at most 1000000, not {value}.")
    for name in ("port", "dashboard_port"):
        require(0 <= getattr(args, name) < 2**16, f"--{name.replace('_', '-')} must be from 0 to "
                f"65535, not {getattr(args, name)}.")
    require(args.port != args.dashboard_port or args.port == 0, "--port and --dashboard-port are "
            f"both {args.port}: choose another number for one of them.")
    wanted = [name for name in ("verify", "at_round", "why", "ban", "pardon", "rollback")
              if getattr(args, name) not in (None, False)]
    require(wanted in ([], ["verify", "at_round"], ["ban", "rollback"]) or len(wanted) == 1,
            f"--{' and --'.join(wanted).replace('_', '-')}: give one of them at a time.")
    trusted(args.trusted_proxy)
    tls.load(args.tls_cert, args.tls_key)


def text_to_learn(args: argparse.Namespace, origin: Optional[Origin]) -> Corpus:
    """What --data names, or the text of the origin, in its numbers."""
    if origin is None:
        return load_corpus(args.data or ())
    return in_the_numbers_of(origin.vocabulary, load_corpus(args.data or text_of(origin.state)))


def first_weights(job: Job, origin: Optional[Origin]) -> bytes:
    """Version 0: random, but for what an origin brings."""
    torch.manual_seed(job.recipe.seed)
    model = GLTCH(job.config)
    if origin:
        take_over(model, origin.network)
    return to_bytes(flatten(model))


def new_job(args: argparse.Namespace, corpus: Corpus, origin: Optional[Origin]) -> Job:
    size = size_of(origin.network.config) if origin else args.size or "2.7m"
    config, recipe, reference = PRESETS[size or "2.7m"]
    config = replace(origin.network.config if origin else config, vocab_size=len(corpus.vocabulary))
    if args.dropout is not None:
        config = replace(config, dropout=args.dropout)
    given = {name: getattr(args, name) for name in RECIPE_OPTIONS
             if getattr(args, name) is not None}
    recipe = replace(recipe, **{"batch_size": BATCH_SIZE, **given})
    sync = SYNCS[args.sync or USUAL]
    if args.codec:
        sync = replace(sync, up=args.codec, down=args.codec)
    if args.inner_steps is not None:
        sync = replace(sync, inner_steps=args.inner_steps, most_inner_steps=args.inner_steps)
    limits = Limits(args.steps, args.rounds, args.minutes, args.target_loss).or_steps(reference)
    given_text = training_bytes(corpus)
    return Job(secrets.token_hex(8), size or "another size", args.sync or USUAL, config, recipe,
               sync, limits, corpus.vocabulary.characters, protocol.name_of(given_text),
               len(given_text), corpus.digest)


def start_run(args: argparse.Namespace, journal: Journal, folder: Path) -> Tuple[Job, Corpus]:
    """A new run: its text, its description, its first weights."""
    origin = origin_of(args, runs_folder())
    corpus = text_to_learn(args, origin)
    job = new_job(args, corpus, origin)
    Windows(corpus.train, job.config.block_size, job.recipe.seed)  # says when it is too short
    require_announceable(job)
    say(f"text      {corpus.source}: {len(corpus.ids):,} characters, "
        f"{len(corpus.vocabulary)} different")
    if origin:
        say(origin.introduce(corpus))
    write_whole(folder / TEXT, whole_bytes(corpus))
    journal.start(job.as_json(), first_weights(job, origin))
    return job, corpus


def go_on(args: argparse.Namespace, journal: Journal, folder: Path) -> Tuple[Job, Corpus]:
    """The run in the folder. The options that started it may be given again."""
    job = Job.from_json(journal.run or {})
    given = {name: getattr(args, name) for name in FIXED if getattr(args, name) is not None}
    if "data" in given:
        given["data"] = load_corpus(given["data"]).digest
    before = settings_of(job)
    if "from" in given:
        given["from"] = first_version(job, origin_of(args, runs_folder()))
        before["from"], _ = journal.at(0)
    for name, value in given.items():
        require(value == before[name], f"The run in {folder} was started with another "
                f"--{name.replace('_', '-')}: leave it out to go on, or start another run with "
                "--name.")
    return job, corpus_of(job, (folder / TEXT).read_bytes())


def first_version(job: Job, origin: Optional[Origin]) -> str:
    """SHA-256 of the weights with which this job begins from an origin, "" if it cannot."""
    fits = origin is None or (same_shape(origin.network.config, job.config)
                              and job.characters.startswith(origin.vocabulary.characters))
    return protocol.name_of(first_weights(job, origin)) if fits else ""


def settings_of(job: Job) -> Dict[str, Any]:
    return {**asdict(job.recipe), **asdict(job.limits), "data": job.source, "size": job.size,
            "sync": job.mode, "dropout": job.config.dropout, "codec": job.sync.up,
            "inner_steps": job.sync.inner_steps}


def reachable_address(host: str) -> str:
    """What peers elsewhere can call this machine, when it listens on all its addresses."""
    if host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; the system picks the way out
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def require_free(host: str, option: str, port: int) -> None:
    """Can we listen there? Asked before anything is written. Raises GltchError."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        require(error.errno != errno.EADDRINUSE, f"Port {port} is in use, perhaps by another "
                f"coordinator: choose another one with {option}.")
        raise GltchError(f"--host {host!r} is no address of this machine, or {option} {port} is not"
                         f" allowed: {error.strerror or error}.") from None


async def serve(coordinator: Coordinator, args: argparse.Namespace) -> int:
    """Open both ports and run to the end. Returns the signal that ended it early, or 0."""
    from hive.network.guest import listen
    loop, received = asyncio.get_running_loop(), [0]
    loop.set_exception_handler(Complaints().hear)
    await loop.run_in_executor(None, peer_file)  # so that it is there when somebody asks
    runner = asyncio.ensure_future(coordinator.run())

    def stop(number: int) -> None:
        received[0] = number
        runner.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt
            loop.add_signal_handler(number, stop, number)
    door = Door(file_limit(), trusted(args.trusted_proxy))
    secure = tls.load(args.tls_cert, args.tls_key)
    settings: Dict[str, Any] = {"host": args.host, "tls": secure and secure.context,
                                "max_size": protocol.MESSAGE_BYTES,
                                "ping_timeout": protocol.PONG_SECONDS}
    names = [args.host, *args.allow_host, *(
        name.replace("*.", ".", 1) for name in (secure.names if secure else ()))]
    try:
        async with listen(coordinator.serve, door, port=args.port, origins=[None],
                          open_timeout=HANDSHAKE_SECONDS, **settings) as port:
            facts = HiveFacts(coordinator, port, not args.no_browsers)
            publishing = asyncio.ensure_future(facts.publish())
            coordinator.watch(publishing)
            web = Web(facts, names, coordinator.serve, door, not args.no_browsers)
            async with pages(web, port=args.dashboard_port, **settings) as page:
                announce(coordinator, args, port, page, secure)
                try:
                    await runner
                except asyncio.CancelledError:
                    received[0] = received[0] or signal.SIGINT  # Windows has no handlers here
                finally:
                    publishing.cancel()
                return received[0]
    finally:
        runner.cancel()


class Complaints:
    """What goes wrong in the event loop itself; the loop goes on."""

    def __init__(self) -> None:
        self.said = -math.inf

    def hear(self, loop: asyncio.AbstractEventLoop, context: Dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
            loop.default_exception_handler(context)
        elif loop.time() > self.said + COMPLAINT_SECONDS:
            self.said = loop.time()
            say("busy      no more connections can be accepted now: too many files are open")


def how_to_join(options: str) -> str:
    """First the way in which this program was started itself."""
    clone = f"  python hive/peer.py {options}"
    if by_command():
        return f"join with\n  gltch-peer {options}\nor, in a clone, with\n{clone}"
    return f"join with (or gltch-peer, where it is installed)\n{clone}"


def announce(coordinator: Coordinator, args: argparse.Namespace, port: int, page: int,
             secure: Optional[tls.Tls]) -> None:
    """Where the dashboard is and how to join, without repeating a key that the user made."""
    address = reachable_address(args.host)
    address = "localhost" if address in LOCAL else address
    hint = ""
    if secure:
        if address not in secure.names and secure.names:
            address = secure.names[0].replace("*.", "my-hive.", 1)
        if not secure.trusted_as(address):
            hint = f" --tls-ca {args.tls_cert}"
    key = ""
    if args.key_file:
        key = f" --key-file {args.key_file}"
    elif os.environ.get("HIVE_KEY"):
        key = " (with HIVE_KEY set to the key)"
    elif coordinator.key:
        key = f" --key {coordinator.key}"
    job, session = coordinator.job, coordinator.session
    version = session.rounds.version
    say(f"run       {coordinator.folder}: {job.size}, {session.run.parameters:,} parameters, "
        f"{job.mode}, " + (f"after round {version}, step {session.run.step:,}" if version
                           else "from the beginning"))
    if not secure and args.host not in LOCAL:
        say("warning   Nothing here is encrypted: anybody between this machine and a peer can read "
            "and change the text, the weights and the token that stands for a peer's identity (the "
            "key itself is never sent). Use --tls-cert, or let only a proxy or tunnel with TLS "
            "reach the hive (--host 127.0.0.1).")
    if hint:
        say("warning   No peer trusts this certificate by itself: take the file to each and pass it"
            " with --tls-ca, as below. Browsers will ask.")
    web, socket_ = ("https", "wss") if secure else ("http", "ws")
    say(f"dashboard {web}://{address}:{page}")
    say(how_to_join(f"--server {socket_}://{address}:{port} --name my-node{hint}{key}"))
    if not args.no_browsers:
        how = " (type the key there, or put it behind the address: #key=...)"
        say(f"or in a browser, under Join{how if coordinator.key else ''}\n"
            f"  {web}://{address}:{page}/")


def replay(args: argparse.Namespace, folder: Path) -> int:
    """--verify and --at-round: read the journal, change nothing."""
    with contextlib.closing(Journal(folder, read_only=True)) as journal:
        return replay_journal(args, journal, folder)


def replay_journal(args: argparse.Namespace, journal: Journal, folder: Path) -> int:
    require(journal.run is not None, f"The journal in {folder} is empty.")
    job = Job.from_json(journal.run or {})
    if args.verify:
        rounds = max(journal.verify(applying(job)))
        say(f"All {rounds:,} rounds in {folder} are as they were committed; the weights after the "
            f"last have the SHA-256\n{journal.head()[1]}")
    if args.at_round is not None:
        number = args.at_round
        require(0 <= number <= journal.last, f"The run in {folder} has {journal.last} rounds: "
                f"--at-round must be from 0 to {journal.last}, not {number}.")
        model = GLTCH(job.config)
        unflatten(from_bytes(journal.weights_at(number, applying(job))), model)
        output = Path(args.output or f"round-{number}.pt")
        losses = dict(journal.evaluations())
        save_checkpoint(output, checkpoint(job, model, journal.at(number)[1],
                                           losses.get(number, math.nan), folder))
        say(f"Wrote the network after round {number} to {output}; let it write:\n"
            + sampling(output))
    return 0


def explain(name: str, folder: Path) -> int:
    """--why: read the journal, change nothing."""
    with contextlib.closing(Journal(folder, read_only=True)) as journal:
        for line in explanation(journal, name):
            print(line)
    return 0


def start_over(journal: Journal, folder: Path) -> Journal:
    """Replace a journal without a single round by an empty one."""
    journal.close()
    for path in folder.glob("journal.db*"):
        path.unlink()
    shutil.rmtree(folder / "snapshots")
    return Journal(folder)


def prepare(args: argparse.Namespace, folder: Path) -> Coordinator:
    """The run in this folder, new or old. One that cannot begin leaves no folder behind."""
    new = not folder.exists()
    journal = Journal(folder)  # from here on the folder is ours alone
    with contextlib.ExitStack() as undo:
        if new:
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
        if journal.run is not None and journal.last == 0:  # it never got to a first round
            journal = start_over(journal, folder)
        undo.callback(journal.close)
        job, corpus = (start_run if journal.run is None else go_on)(args, journal, folder)
        pace = Pace(args.round_seconds, fixed=args.inner_steps is not None)
        coordinator = Coordinator(job, journal, corpus, folder, key=key_for(args, folder),
                                  pace=pace, least=args.min_peers, combination=args.combine)
        undo.pop_all()
    return coordinator


def run(args: argparse.Namespace) -> int:
    require(args.name == Path(args.name).name and args.name not in ("", ".", ".."),
            f"--name is a folder's name under runs/, not {args.name!r}.")
    check_options(args)
    folder = runs_folder() / args.name
    if args.verify or args.at_round is not None:
        return replay(args, folder)
    if args.why is not None:
        return explain(args.why, folder)
    ordered = [Order(kind, getattr(args, kind)) for kind in ("ban", "pardon", "rollback")
               if getattr(args, kind) is not None]
    if ordered:
        require((folder / "journal.db").is_file(), f"There is no run of a hive in "
                f"{folder}: choose another --name.")
        for order in ordered:
            say(carry_out(folder, order))
        return 0
    require_websockets("The Hive")
    require_free(args.host, "--port", args.port)
    require_free(args.host, "--dashboard-port", args.dashboard_port)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # peers may train on this machine
    alone = (folder / "last.pt").exists() and not (folder / "journal.db").exists()
    require(not alone, f"{folder} is a run of one machine, which a hive would write over: choose "
            f"another --name (from that network with --from {folder}).")
    coordinator = prepare(args, folder)
    session, done = coordinator.session, coordinator.session.run
    with contextlib.closing(coordinator.journal):
        require(not done.finished, f"The run in {folder} is complete: {done.finished}. "
                f"Start another with --name (from this network with --from {folder}), or let it "
                f"write:\n{sampling(folder)}")
        ended_by = asyncio.run(serve(coordinator, args))
    if ended_by:
        say(f"\nStopped after round {session.rounds.version}; the same command goes on.")
        return 128 + ended_by
    say(f"The run is over: {done.finished}. Validation loss {session.evaluation.val_loss:.4f} "
        f"nats per character. Let it write:\n{sampling(folder)}")
    return 0


def main(argv: Optional[List[str]] = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return run(args)
    except KeyboardInterrupt:
        say("\nStopped.")
        return 130
    except GltchError as error:
        sentence = str(error)
    except OSError as error:
        sentence = f"{error.filename or 'The port'} cannot be used: {error.strerror or error}."
    say(f"{called(*COMMAND)}: error: {sentence}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
