"""The coordinator's host: what happens reaches the session, and what it answers is done."""
import asyncio
import contextlib
import time
from typing import get_args

import pytest
import torch
from builders import make_token
from hive_processes import TINY

from gltch_2_7m import GltchError, load_corpus
from hive import server
from hive.coordinator import Coordinator
from hive.journal import Journal
from hive.learning.codec import encode
from hive.learning.sync import SYNCS
from hive.network import outbox
from hive.session import coordinator_session, effects, reception
from hive.session.protocol import VERSION, pack, proof, unpack
from hive.session.trust import Trial

exceptions = pytest.importorskip("websockets.exceptions")


class Socket:
    """A peer's end of a connection in this process."""

    address, latency = "192.0.2.1", 0.0

    def __init__(self, full=False, takes=1000):
        self.full, self.takes = full, takes
        self.said, self.heard, self.closed = asyncio.Queue(), [], None
        self.asked = asyncio.Event()  # for a place
        self.news = asyncio.Event()  # something was heard

    def proved(self):
        self.asked.set()
        if self.full:
            raise exceptions.ConnectionClosedError(None, None)

    async def send(self, message):
        self.heard.append(message)
        self.news.set()
        if len(self.heard) > self.takes:
            await asyncio.sleep(1000)  # it reads no more

    async def close(self, code=1000, reason=""):
        self.closed = code, reason
        self.said.put_nowait(None)

    async def __aiter__(self):
        while True:
            message = await self.said.get()
            if message is None:
                return
            yield message

    async def hear(self, kind):
        """The first message of this kind."""
        while True:
            for message in self.heard:
                if isinstance(message, str) and unpack(message)["type"] == kind:
                    return unpack(message)
            self.news.clear()
            await self.news.wait()

    async def hello(self, **changes):
        nonce, own = (await self.hear("challenge"))["nonce"], make_token()
        self.say("hello", **{
            "protocol": VERSION, "nonce": own, "name": "ann", "device": "CPU", "kind": "cpu",
            "process": make_token(),
            "proof": proof("", "peer", nonce, own), "token": None, "text": None, **changes})

    def say(self, kind, /, **values):
        self.said.put_nowait(pack(kind, **values))


@pytest.fixture
def coordinator(tmp_path, text_file):
    args = server.build_parser().parse_args([*TINY, "--data", str(text_file), "--rounds", "10"])
    with contextlib.closing(Journal(tmp_path)) as journal:
        job, corpus = server.start_run(args, journal, tmp_path)
        yield Coordinator(job, journal, corpus, tmp_path)


@pytest.mark.parametrize("options, mode, batch_size", [
    ([], "streaming", 16), (["--sync", "diloco", "--batch-size", "3"], "diloco", 3)])
def test_peers_train_on_with_small_steps_unless_the_options_say_otherwise(
        text_file, options, mode, batch_size):
    args = server.build_parser().parse_args(["--data", str(text_file), *options])
    job = server.new_job(args, load_corpus([str(text_file)]), None)
    assert job.mode == mode and job.sync == SYNCS[mode]
    assert job.recipe.batch_size == batch_size and job.limits.steps == 3000


@pytest.mark.parametrize("options, sentence", [
    (["--verify", "--rollback", "2"], "--verify and --rollback: give one of them at a time."),
    (["--at-round", "2", "--why", "ann"], "--at-round and --why: give one of them at a time."),
    (["--ban", "ann", "--pardon", "ann"], "--ban and --pardon: give one of them at a time."),
    (["--port", "9000", "--dashboard-port", "9000"], "--port and --dashboard-port are both 9000:")])
def test_options_that_exclude_each_other_are_a_sentence(tmp_path, capsys, options, sentence):
    assert server.main(options) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def play(coordinator, story):
    """Run it together with the coordinator, until the story ends or the run does."""
    async def together():
        running = asyncio.ensure_future(coordinator.run())
        telling = asyncio.ensure_future(story())
        await asyncio.wait([running, telling], return_when=asyncio.FIRST_COMPLETED, timeout=100)
        for task in (telling, running):
            if not task.done():
                task.cancel()
        for outcome in await asyncio.gather(telling, running, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    asyncio.run(together())


def test_it_does_all_slow_work_that_its_session_may_ask_for(coordinator):
    assert set(coordinator.tasks) == set(get_args(effects.CoordinatorWork))


def test_a_peer_is_served_from_its_hello_to_its_goodbye(coordinator):
    async def story():
        socket = Socket()
        serving = asyncio.ensure_future(coordinator.serve(socket))
        await socket.hello()
        welcome = await socket.hear("welcome")
        socket.say("ready", version=0, weights=coordinator.session.rounds.weights, batch_size=2)
        await socket.hear("train")
        socket.say("goodbye")
        await serving
        assert socket.closed == (1000, "")
        assert coordinator.journal.identities("ann")[0][0] == welcome["peer"]
        assert not coordinator.connections and not coordinator.session.links.proved
        assert coordinator.bytes_up and coordinator.bytes_down

    play(coordinator, story)


def test_nobody_waits_for_trials_when_the_coordinator_ends(coordinator):
    async def nothing():
        await asyncio.sleep(0)

    prober, outer = coordinator.prober, coordinator.books.outer
    update = encode(outer.sync.up, torch.ones(outer.fragments.values(1)))
    trials = 3 * [Trial("ann", outer.sync.up, update, None, ())]
    assert len(prober.probe(1, outer.weights, outer.weights, trials).tried) == 3
    play(coordinator, nothing)
    assert not prober.probe(1, outer.weights, outer.weights, trials).tried


def test_a_mistake_of_ours_costs_one_connection_and_is_told(coordinator, monkeypatch, capfd):
    def mistaken(*values, **more):
        raise KeyError("what nobody thought of")

    async def story():
        socket = Socket()
        with monkeypatch.context() as patch:
            patch.setattr(coordinator.session, "heard", mistaken)
            serving = asyncio.ensure_future(coordinator.serve(socket))
            await socket.hello()
            with pytest.raises(KeyError):
                await serving
        assert not coordinator.connections and not coordinator.session.links.proved
        another = Socket()
        serving = asyncio.ensure_future(coordinator.serve(another))
        await another.hello()
        assert await another.hear("welcome")
        another.say("goodbye")
        await serving

    play(coordinator, story)
    assert "KeyError: 'what nobody thought of'" in capfd.readouterr().err


@pytest.mark.parametrize("seconds, speed", [(8.0, "  64 chars/s"), (0.0, "")])
def test_its_line_shows_a_speed_only_of_a_round_whose_beginning_is_known(
        coordinator, capfd, seconds, speed):
    coordinator.show({
        "version": 3, "step": 12, "total": None, "loss": 2.5, "opened": 1000.0 - seconds,
        "committed": 1000.0, "contributions": [{"verdict": "counted", "tokens": 512}]})
    assert capfd.readouterr().err == (
        f"after round 3  step 12  loss 2.500  val -{speed}  1 of 0 peers\n")


def test_what_waits_is_not_sent_any_more_when_a_connection_ends_but_the_reason_is(coordinator):
    async def story():
        socket = Socket(takes=2)  # the challenge, the welcome
        serving = asyncio.ensure_future(coordinator.serve(socket))
        await socket.hello()
        text = (await socket.hear("welcome"))["job"]["text"]
        for _ in range(2):
            socket.say("fetch", blob=text, offset=0)
        await socket.hear("blob")
        socket.takes = 1000
        socket.said.put_nowait("nonsense")
        await serving
        assert "not JSON" in (await socket.hear("refused"))["reason"]
        assert socket.closed == (1008, "")
        kinds = [unpack(message)["type"] for message in socket.heard if isinstance(message, str)]
        assert kinds == ["challenge", "welcome", "blob", "refused"]

    play(coordinator, story)


def test_who_does_not_take_the_last_words_is_closed_without_them(coordinator, monkeypatch):
    monkeypatch.setattr(outbox, "LAST_SECONDS", 0.01)

    async def story():
        socket = Socket(takes=1)
        serving = asyncio.ensure_future(coordinator.serve(socket))
        await socket.hear("challenge")
        socket.takes = 0
        socket.said.put_nowait("nonsense")
        await serving
        assert socket.closed == (1008, "")

    play(coordinator, story)


def test_who_finds_no_place_is_not_written_down(coordinator, monkeypatch):
    lost = coordinator.session.lost

    async def story():
        left = asyncio.Event()
        monkeypatch.setattr(coordinator.session, "lost", lambda *values: (
            left.set(), lost(*values))[1])
        socket = Socket(full=True)
        serving = asyncio.ensure_future(coordinator.serve(socket))
        await socket.hello()
        await socket.asked.wait()
        await left.wait()
        assert not coordinator.session.links.proved
        await socket.close()
        await serving
        assert coordinator.journal.identities("ann") == []

    play(coordinator, story)


def test_who_never_says_hello_is_sent_away(coordinator, monkeypatch):
    """Over pings that are answered, it would stay for ever."""
    monkeypatch.setattr(reception, "HANDSHAKE_SECONDS", 0.01)

    async def story():
        socket = Socket()
        await coordinator.serve(socket)
        assert socket.closed == (1008, "The handshake took too long.")

    play(coordinator, story)


def test_a_peer_that_asks_and_does_not_read_is_not_kept_in_memory(coordinator, monkeypatch):
    monkeypatch.setattr(coordinator_session, "MOST_WAITING", 20)

    async def story():
        socket = Socket()
        serving = asyncio.ensure_future(coordinator.serve(socket))
        await socket.hello()
        await socket.hear("welcome")
        socket.takes = 0
        for _ in range(100):
            socket.say("fetch", blob="0" * 64, offset=0)
        await serving
        socket.takes = 1000
        assert "asks for more than it takes" in (await socket.hear("refused"))["reason"]
        assert len(socket.heard) < 30

    play(coordinator, story)


def test_a_peer_that_was_rejected_is_not_heard_for_a_while(coordinator):
    async def story():
        socket = Socket()
        serving = asyncio.ensure_future(coordinator.serve(socket))
        await socket.hello()
        await socket.hear("welcome")
        number, = coordinator.connections
        coordinator.pause(number, 0.2)
        began = coordinator.connections[number].deaf_until - 0.2
        socket.say("fetch", blob="0" * 64, offset=0)
        await socket.hear("gone")
        assert time.monotonic() >= began + 0.2
        await socket.close()
        await serving

    play(coordinator, story)


@pytest.mark.parametrize("error", [GltchError("journal.db is damaged."), ZeroDivisionError("bug")])
def test_what_goes_wrong_in_slow_work_ends_the_run(coordinator, error):
    async def story():
        await asyncio.sleep(1000)

    def break_down(*_):
        raise error

    coordinator.tasks["evaluate"] = break_down
    with pytest.raises(type(error), match=str(error)):
        play(coordinator, story)


def test_a_run_that_is_stopped_keeps_a_snapshot(coordinator, monkeypatch):
    async def story():
        measured = asyncio.Event()
        monkeypatch.setitem(coordinator.doing, effects.Event, lambda kind, fields: (
            kind == "evaluated" and measured.set()))
        await measured.wait()
        assert coordinator.session.evaluation.evaluated == 0

    kept = []
    coordinator.tasks["snapshot"] = lambda: kept.append("snapshot")
    play(coordinator, story)
    assert kept == ["snapshot"]
