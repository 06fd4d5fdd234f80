"""The coordinator's rules, played by hand: no socket, no thread, and a clock that a test moves."""
import contextlib
import gc
import hashlib
import math
import weakref
from collections import deque
from dataclasses import replace
from types import SimpleNamespace

import pytest
from builders import make_job
from shapes import assert_fits

from gltch_2_7m import GltchError, Unwritable
from hive.journal import Journal
from hive.learning.outer import Brought
from hive.learning.probe import Change
from hive.learning.rules import Seen
from hive.learning.sync import SYNCS, UNDO
from hive.session import coordinator_session as rules
from hive.session import protocol, reception, snapshots
from hive.session.coordinator_session import CoordinatorSession
from hive.session.effects import (
    Close,
    Do,
    Event,
    Fail,
    Finish,
    Moment,
    Pause,
    Proved,
    Say,
    Send,
    SendBlob,
)
from hive.session.evaluation import EVALUATION_SHARE
from hive.session.intake import FASTER, LATELY
from hive.session.job import Limits
from hive.session.protocol import CHUNK_HEADER, name_of, pack, unpack
from hive.session.reply import LINES
from hive.session.rounds import AHEAD, Pace
from hive.session.run import MOST_WINDOWS
from hive.session.schema import EVENTS
from hive.session.supply import MOST_FETCHES, MOST_TRANSFERS, MOST_UNASKED
from hive.session.trust import Outcome, Tried
from hive.session.work import RETRY_SECONDS

PARAMETERS, UPDATE_BYTES = 1000, 8
IN_TWO_PARTS = replace(SYNCS["diloco"], fragments=2)
OVERLAP = replace(SYNCS["diloco"], overlap=True)
FULL = Unwritable("journal.db could not be used: database or disk is full.")


def sha(version):
    return hashlib.sha256(b"weights %d" % version).hexdigest()


def said(effect):
    """What an effect lets a peer hear."""
    if isinstance(effect, Close):
        return [effect.last] if effect.last else []
    return [effect.message] if isinstance(effect, Send) else []


class Committed:
    """What the outer step gave."""

    brought = ()


class Play:
    """A session whose host is the test. Slow work is done when the test says so."""

    def __init__(self, folder, limits=None, sync=SYNCS["diloco"],
                 update_bytes=lambda number: UPDATE_BYTES, **options):
        self.update = b""  # another one than usual
        self.brought = ()  # what is seen of updates
        self.journal = Journal(folder)
        self.job = make_job(limits=limits or Limits(steps=1000), sync=sync)
        if self.journal.run is None:
            self.journal.start(self.job.as_json(), b"weights 0")
        self.version, weights, _ = self.journal.head()
        self.steady, self.unix = 1000.0, 1.7e9
        self.effects = []  # all that there were, in order
        self.works = deque()
        self.added = 0
        self.tokens = 0
        self.session = CoordinatorSession(
            self.job, self.journal, self.version, weights, parameters=PARAMETERS,
            update_bytes=update_bytes, token=self.token,
            pack_weights=lambda n: b"weights %d" % n, text=lambda: b"text", **options)
        self.tell("begin")

    def token(self):
        self.tokens += 1
        return hashlib.sha256(b"token %d" % self.tokens).hexdigest()

    def tell(self, what, *values, **more):
        effects = getattr(self.session, what)(*values, Moment(self.steady, self.unix), **more)
        for effect in effects:
            if isinstance(effect, Do):
                self.works.append(effect)
            for message in said(effect):
                unpack(pack(message["type"], **message))  # it is a message of the protocol
            if isinstance(effect, Event) and effect.kind != "joined":  # the host completes that
                assert_fits(effect.fields, EVENTS[effect.kind], effect.kind)
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Proved):
                self.tell("admitted", effect.link)
        return effects

    def passes(self, seconds):
        """Time, with every call of `wake` that the session asks for."""
        until = self.steady + seconds
        while self.session.deadline <= until:
            self.unix += self.session.deadline - self.steady
            self.steady = self.session.deadline
            self.tell("wake")
            assert self.session.deadline > self.steady, "it would be woken for ever"
        self.unix += until - self.steady
        self.steady = until

    # Slow work

    def waiting(self):
        return [work.what for work in self.works]

    def take(self, what):
        """The next work of this kind, which must be the next in its lane."""
        work = next(work for work in self.works if work.what == what)
        assert work is next(other for other in self.works if other.lane == work.lane)
        self.works.remove(work)
        return work

    def do(self, what):
        """Do it, and tell the session."""
        work = self.take(what)
        return self.tell("done", work.ticket, getattr(self, "do_" + what)(*work.values))

    def fail(self, what, error):
        return self.tell("failed", self.take(what).ticket, error)

    def do_all(self):
        """All that is asked for, and what that leads to."""
        while self.works:
            self.do(self.works[0].what)

    def do_remember_peer(self, *values):
        self.journal.remember_peer(*values)

    def do_add(self, codec, content, weight, steps, by, late):
        self.added += 1
        return weight

    def do_undo(self, version):
        committed = Committed()
        committed.codec, committed.update = UNDO, str(version).encode()
        committed.base, committed.result = self.journal.head()[1], self.journal.at(version)[0]
        committed.weights = version
        return committed

    def do_combine(self):
        if not self.added:
            return None
        self.added = 0
        version = self.version + 1
        committed = Committed()
        committed.codec, committed.weights = "q4", version
        committed.update = self.update or b"update %d" % version
        committed.base, committed.result = sha(self.version), sha(version)
        committed.brought = self.brought
        self.committed = weakref.ref(committed)
        return committed

    def do_keep(self, record, committed):
        self.journal.commit(record)
        self.version = record.number

    def do_snapshot(self):
        pass

    def do_evaluate(self, weights, version, step):
        return 3.0, 0.1, "a sample", {"of": version}

    def do_keep_evaluation(self, version, loss, seconds, text):
        self.journal.add_evaluation(version, loss, seconds)

    def do_keep_checkpoint(self, state, names):
        pass

    # What was said

    def lines(self, kind=None):
        return [effect.text for effect in self.effects
                if isinstance(effect, Say) and kind in (None, effect.kind)]

    def events(self, kind):
        return [effect.fields for effect in self.effects
                if isinstance(effect, Event) and effect.kind == kind]

    def contributions(self, number):
        return {(one["name"], one["verdict"]) for one in
                self.journal.round(number)["contributions"]}


class Client:
    """The other end of a link, which says what a test wants."""

    numbers = iter(range(1, 10**9))

    def __init__(self, play, name, key="", process="a" * 64, token=None, address="192.0.2.1",
                 **changes):
        self.play, self.name, self.number, self.read = play, name, next(self.numbers), 0
        self.process, self.token = process, token
        play.tell("connected", self.number, address)
        nonce, own = self.hear("challenge")["nonce"], "b" * 64
        token_hash = hashlib.sha256((token or "").encode()).hexdigest()
        self.say("hello", **{
            "protocol": protocol.VERSION, "nonce": own, "name": name, "device": "CPU",
            "kind": "cpu",
            "proof": protocol.proof(key, "peer", nonce, own), "process": process,
            "token": token and protocol.possession(token_hash, nonce, own), "text": None,
            **changes})

    def enter(self):
        self.play.do("remember_peer")
        welcome = self.hear("welcome")
        self.peer, self.token = welcome["peer"], welcome["token"] or self.token
        self.name = welcome["name"]
        return self

    def say(self, kind, /, **values):
        return self.play.tell("heard", self.number, unpack(pack(kind, **values)))

    def send(self, content, blob=None, offset=0):
        start = bytes.fromhex(blob or name_of(content))[:8]
        return self.play.tell("chunk", self.number, CHUNK_HEADER.pack(start, offset) + content)

    @property
    def heard(self):
        """All that came on this link."""
        return [message for effect in self.play.effects for message in said(effect)
                if effect.link == self.number]

    def hear(self, *kinds):
        """The next message of these kinds since the last look."""
        for message in self.heard[self.read:]:
            self.read += 1
            if message["type"] in kinds:
                return message
        raise AssertionError(f"{self.name} did not hear {kinds}: {self.heard}")

    @property
    def closed(self):
        return next(((effect.code, effect.reason) for effect in self.play.effects
                     if isinstance(effect, Close) and effect.link == self.number), None)

    def lose(self):
        return self.play.tell("lost", self.number)

    def ready(self, version=None, weights=None):
        version = self.play.session.rounds.version if version is None else version
        self.say("ready", version=version, weights=weights or sha(version), batch_size=2)
        return self

    def offer(self, content=b"8 bytes.", **changes):
        self.read = len(self.heard)
        self.say_offer(content, **changes)
        return self.hear("send", "verdict", "refused")

    def say_offer(self, content=b"8 bytes.", **changes):
        version = changes.get("version", self.play.session.rounds.version)
        self.say("offer", **{
            "version": version, "base": version, "weights": sha(version), "codec": "q4",
            "update": name_of(content), "bytes": len(content), "steps": 1, "tokens": 32,
            "loss": 4.0, "seconds": 0.5, "batch_size": 2, "follows": False, **changes})

    def deliver(self, content=b"8 bytes.", **changes):
        """All but the adding."""
        assert self.offer(content, **changes)["type"] == "send"
        return self.send(content)


@pytest.fixture
def stage(tmp_path):
    """Makes plays."""
    with contextlib.ExitStack() as held:
        def begin(limits=None, **options):
            play = Play(tmp_path, limits, **options)
            held.callback(play.journal.close)
            return play
        yield begin


@pytest.fixture
def play(stage):
    return stage()


def enter(play, *names):
    return [Client(play, name).enter() for name in names]


def start(play, *names):
    """They are there and have their tasks."""
    clients = enter(play, *names)
    for client in clients:
        client.ready()
    play.do_all() if play.works else None  # the evaluation
    return clients


def two_in_a_round(stage, **options):
    play = stage(least=2, **options)
    clients = start(play, "ann", "bob")
    for client in clients:
        client.hear("train")
    play.passes(1.0)
    return (play, *clients)


def make_a_round(play, *clients):
    for client in clients:
        client.deliver()
        play.do("add")
    play.do("combine")
    play.do("keep")


def positions(effects, *tests):
    """Where in the effects each of these is first."""
    return [next(number for number, effect in enumerate(effects) if test(effect))
            for test in tests]


# --- A round, from its start to its end -----------------------------------------------------------

def test_a_round_by_hand(stage):
    play, ann, bob = two_in_a_round(stage)
    for client in (ann, bob):
        client.deliver(loss=2.0)
        play.do("add")
        assert client.hear("verdict")["verdict"] == "accepted"
    play.do("combine")
    play.do("keep")
    for client in (ann, bob):
        commit = client.hear("commit")
        assert (commit["version"], commit["weights"], commit["counted"]) == (1, sha(1), True)
        client.say("fetch", blob=commit["update"], offset=0)
        blob = play.effects[-1]
        assert isinstance(blob, SendBlob) and blob.content == b"update 1"
        client.ready()
    assert [client.hear("train")["version"] for client in (ann, bob)] == [1, 1]
    assert play.journal.head() == (1, sha(1), 1)
    assert play.contributions(1) == {("ann", "counted"), ("bob", "counted")}
    assert play.session.run.loss == 2.0 and play.session.standing.tokens == 64
    assert [len(play.events(kind)) for kind in ("opened", "closed", "committed")] == [2, 1, 1]


def test_a_peer_is_of_the_kind_it_says_also_when_it_is_gone(play):
    tab = Client(play, "ann", kind="tab").enter()
    play.tell("lost", tab.number)
    joined, = play.events("joined")
    assert joined["peer"]["kind"] == play.journal.contributors()[0]["kind"] == "tab"
    again = Client(play, "ann", token=tab.token, kind="cuda").enter()
    assert again.peer == tab.peer and play.session.standing.contributors[tab.peer]["kind"] == "cuda"


def test_it_is_measured_how_a_peer_spends_its_time(stage):
    play, ann, bob = two_in_a_round(stage)
    about = play.session.about
    link, other = (play.session.links.peers[client.peer] for client in (ann, bob))
    assert (about(link)["training"], about(link)["limit"]) == (None, "")
    play.passes(9.0)  # ten since they joined
    assert ann.offer(seconds=2.0)["type"] == "send"
    assert bob.offer(seconds=9.5)["type"] == "send"
    bob.send(b"8 bytes.")
    play.do("add")
    play.passes(10.0)
    ann.send(b"8 bytes.")
    play.do("add")
    assert (about(link)["training"], about(link)["limit"]) == (pytest.approx(0.1), "uplink")
    assert (about(other)["training"], about(other)["limit"]) == (pytest.approx(0.95), "device")


def test_nobody_hears_of_a_commit_before_it_is_on_the_disk(stage):
    play, ann, bob = two_in_a_round(stage)
    ann.deliver(), bob.deliver()
    play.do("add"), play.do("add"), play.do("combine")
    told = [effect for effect in play.effects if isinstance(effect, Send)
            and effect.message["type"] == "commit"]
    assert play.waiting() == ["keep"] and not told and not play.events("committed")
    play.passes(60.0)
    assert "commit" not in [message["type"] for message in ann.heard]
    effects = play.do("keep")
    assert play.journal.last == 1
    first, committed = positions(
        effects, lambda effect: isinstance(effect, Send) and effect.message["type"] == "commit",
        lambda effect: isinstance(effect, Event) and effect.kind == "committed")
    assert first < committed


def test_a_peer_that_is_behind_while_a_round_is_written_is_not_led_past_the_others(stage):
    """The round is on the disk and the session has not heard that: a peer that was told of it
    already would be offered the weights of before."""
    play, ann, bob = two_in_a_round(stage)
    make_a_round(play, ann, bob)
    for client in (ann, bob):
        client.ready()
        client.deliver()
        play.do("add")
    play.do("combine")
    work = play.take("keep")
    play.do_keep(*work.values)
    assert play.journal.last == 2
    late = Client(play, "cid").enter()
    late.read = len(late.heard)
    late.ready(0)
    assert [said["version"] for said in late.heard[late.read:]] == [1]
    play.tell("done", work.ticket, None)
    assert [said["version"] for said in late.heard[late.read:]
            if said["type"] == "commit"] == [1, 2]


def test_a_round_is_combined_only_when_all_that_was_delivered_is_added(stage):
    """Whatever order the work ends in."""
    play, ann, bob = two_in_a_round(stage)
    ann.deliver(), bob.deliver()
    play.passes(1.0)
    assert play.waiting() == ["add", "add"]
    first, second = play.take("add"), play.take("add")
    play.tell("done", second.ticket, play.do_add(*second.values))
    assert play.events("closed") and play.waiting() == []
    play.tell("done", first.ticket, play.do_add(*first.values))
    assert play.waiting() == ["combine"]
    play.do("combine"), play.do("keep")
    assert play.contributions(1) == {("ann", "counted"), ("bob", "counted")}


def test_what_a_round_was_made_of_is_not_held_any_longer_than_it_has_to(stage):
    """Its vectors are as large as the weights; cycles of references held those of many rounds."""
    play, ann, bob = two_in_a_round(stage)
    gc.disable()
    try:
        make_a_round(play, ann, bob)
        play.effects.clear()
        assert play.committed() is None
    finally:
        gc.enable()


def test_an_update_that_comes_while_a_round_is_written_is_late(stage):
    play, ann, bob = two_in_a_round(stage)
    ann.deliver()
    play.do("add")
    play.passes(70.0)
    assert play.waiting() == ["combine"]
    assert bob.offer()["verdict"] == "late"
    play.do("combine"), play.do("keep")
    assert not bob.hear("commit")["counted"]
    assert bob.offer(version=0, weights=sha(0))["type"] == "send"  # to the next round it may come
    assert play.contributions(1) == {("ann", "counted"), ("bob", "late")}


def out_of_step(stage):
    """Bob came a round late, so that no round waits for him; now the third is being written."""
    play, ann, bob = two_in_a_round(stage)
    ann.deliver()
    play.do("add")
    play.passes(70.0)
    play.do("combine"), play.do("keep")
    ann.ready()
    bob.deliver(version=0)
    ann.deliver(b"another.", version=1)
    play.do_all()
    assert play.contributions(2) == {("ann", "counted"), ("bob", "counted")}
    ann.ready(), bob.ready()
    ann.deliver(version=2)
    play.do("add"), play.do("combine")
    assert play.session.rounds.closed
    return play, ann, bob


def test_of_whom_no_round_waits_for_an_update_waits_for_the_next_round(stage):
    """Otherwise a peer that is always ready while a round is written would be late for ever."""
    play, ann, bob = out_of_step(stage)
    assert bob.offer(b"of bob's", version=2)["type"] == "send"
    bob.send(b"of bob's")
    bob.say_offer(b"of bob's", version=2)  # he asks again, after a while
    assert play.waiting() == ["keep"] and bob.heard[-1]["type"] == "send"
    play.do("keep")
    assert bob.hear("commit")["counted"] is False
    play.do("add")
    assert bob.hear("verdict")["verdict"] == "accepted"
    ann.ready()
    ann.deliver(version=3)
    play.do("add")
    play.do("combine")
    play.do("keep")
    assert play.contributions(4) == {("ann", "counted"), ("bob", "counted")}
    assert bob.hear("commit")["counted"] is True


def test_it_counts_in_the_same_round_if_that_goes_on_because_nothing_was_usable(stage):
    play, ann, bob = out_of_step(stage)
    bob.deliver(version=2)
    work = play.take("keep")  # instead of the end of `combine`, which found nothing
    play.session.intake.committing = True
    play.session._keep(None)
    play.tell("wake")
    assert work and play.waiting() == ["add"]


def test_what_waits_for_the_next_round_is_dropped_when_its_peer_leaves(stage):
    play, ann, bob = out_of_step(stage)
    bob.deliver(version=2)
    bob.lose()
    assert not play.session.intake.early
    play.do("keep")
    assert "add" not in play.waiting()


def test_a_round_of_which_nothing_can_be_used_goes_on(stage):
    play, ann, bob = two_in_a_round(stage)
    for client in (ann, bob):
        client.deliver()
    for client in (ann, bob):
        play.passes(70.0)
        play.fail("add", GltchError("It is not finite."))
        assert client.hear("verdict")["verdict"] == "rejected"
    assert play.events("closed")
    play.do("combine")
    assert not play.works and not play.events("committed") and play.session.rounds.version == 0
    make_a_round(play, ann)
    assert play.contributions(1) == {("ann", "counted"), ("ann", "rejected"), ("bob", "rejected")}


def test_the_tasks_of_a_round_are_for_what_its_peers_hold(stage):
    play = stage()
    ann, = enter(play, "ann")
    assert ann.ready(0, sha(5)).hear("version")["weights"] == sha(0)
    ann.say("fetch", blob=sha(0), offset=3)
    assert play.effects[-1] == SendBlob(ann.number, "weights", sha(0), b"weights 0", 3)
    task = ann.ready().hear("train")
    assert (task["version"], task["weights"]) == (0, sha(0))


# --- What cannot be written -----------------------------------------------------------------------

def test_a_round_that_cannot_be_written_is_tried_again_and_nobody_hears_of_it_before(stage):
    play, ann, bob = two_in_a_round(stage)
    ann.deliver(), bob.deliver()
    play.do("add"), play.do("add"), play.do("combine")
    for _ in range(3):
        work = play.works[0]
        play.fail("keep", FULL)
        assert "disk is full" in play.session.work.unwritten["round"]
        assert not play.works
        play.passes(RETRY_SECONDS)
        assert [(again.what, again.values) for again in play.works] == [("keep", work.values)]
        assert play.works[0].ticket != work.ticket
    assert "commit" not in [message["type"] for message in ann.heard]
    play.do("keep")
    assert ann.hear("commit")["counted"] and bob.hear("commit")["counted"]
    assert not play.session.work.unwritten
    assert len(play.lines("waiting")) == 1 and play.lines("goes on") == ["the round is written"]


def test_a_damaged_journal_still_ends_the_run(stage):
    play, ann, bob = two_in_a_round(stage)
    ann.deliver(), bob.deliver()
    play.do("add"), play.do("add"), play.do("combine")
    error = GltchError("journal.db is damaged.")
    assert play.fail("keep", error) == [Fail(error)]
    assert play.session.deadline == math.inf


def test_a_snapshot_that_cannot_be_written_is_tried_again_and_ends_nothing(stage, monkeypatch):
    """"Too many open files" ended the run."""
    monkeypatch.setattr(snapshots, "SNAPSHOT_EVERY", 3)
    play, *both = two_in_a_round(stage)
    due = []
    for number in range(1, 7):
        make_a_round(play, *both)
        if "snapshot" in play.waiting():
            due.append(number)
            play.fail("snapshot", FULL) if number == 3 else play.do("snapshot")
        for client in both:
            client.ready()
    assert due == [3, 4, 6]
    assert "The next round tries again." in play.lines("snapshot")[0]


def test_with_the_weights_in_parts_snapshots_come_after_whole_passes(stage, monkeypatch):
    monkeypatch.setattr(snapshots, "SNAPSHOT_EVERY", 2)
    play, *both = two_in_a_round(stage, sync=IN_TWO_PARTS)
    due = []
    for number in range(1, 9):
        make_a_round(play, *both)
        if "snapshot" in play.waiting():
            due.append(number)
            play.do("snapshot")
        for client in both:
            client.ready()
    assert due == [4, 8]


def test_an_update_has_the_size_of_the_part_that_its_round_changes(stage):
    play = stage(sync=IN_TWO_PARTS, update_bytes=lambda number: 8 if number % 2 else 7)
    ann, = start(play, "ann")
    sizes = {1: b"8 bytes.", 2: b"7 bytes"}
    for number in range(1, 5):
        right, wrong = sizes[2 - number % 2], sizes[1 + number % 2]
        said = ann.offer(wrong)
        assert (said["type"], said["verdict"]) == ("verdict", "rejected")
        assert f"{len(right)} bytes, not {len(wrong)}" in said["reason"]
        ann.ready()
        ann.deliver(right)
        play.do_all()
        assert play.version == number
        ann.ready()


def test_an_update_of_one_part_does_not_come_late_into_a_round_of_another(stage):
    play = stage(least=2, sync=IN_TWO_PARTS)
    ann, bob = start(play, "ann", "bob")
    ann.deliver(), bob.deliver()
    play.do_all()
    ann.ready(), bob.ready()
    said = bob.offer(b"another.", version=0, weights=sha(0))
    assert said["verdict"] == "accepted", "one of round 1 was counted; the commit tells"
    cyd, = enter(play, "cyd")
    said = cyd.offer(b"cyd's 8.", version=0, weights=sha(0))
    assert said["verdict"] == "late" and "another part" in said["reason"]


def test_an_evaluation_that_cannot_be_written_is_tried_again(play):
    play.do("evaluate")
    play.fail("keep_evaluation", FULL)
    play.passes(RETRY_SECONDS)
    play.do("keep_evaluation")
    play.fail("keep_checkpoint", FULL)
    play.passes(RETRY_SECONDS)
    play.do("keep_checkpoint")
    assert play.session.evaluation.evaluated == 0 and play.session.evaluation.best == 3.0
    assert play.lines("goes on") == ["the evaluation is written", "the checkpoint is written"]


def test_an_identity_that_cannot_be_written_is_not_told(play):
    client = Client(play, "ann")
    play.fail("remember_peer", FULL)
    assert client.closed == (1013, "The coordinator's disk takes nothing just now.")
    assert not play.session.links.proved and not play.events("joined")
    assert [message["type"] for message in client.heard] == ["challenge"]


def test_nobody_is_turned_away_who_has_already_left(play):
    client = Client(play, "ann")
    client.lose()
    assert play.fail("remember_peer", FULL) == []


def test_a_journal_that_cannot_be_read_just_now_turns_a_peer_away(play, monkeypatch):
    ann, = enter(play, "ann")

    def unreadable(peer):
        raise FULL

    monkeypatch.setattr(play.journal, "counted", unreadable)
    ann.ready(0, sha(5))
    assert ann.closed == (1013, "The coordinator's disk takes nothing just now.")


# --- A link that is lost, at each step ------------------------------------------------------------

def lose_before_hello(play):
    play.tell("connected", 0, "192.0.2.1")
    return SimpleNamespace(number=0)


def lose_before_welcome(play):
    return Client(play, "lost")


def lose_after_welcome(play):
    return Client(play, "lost").enter()


def lose_with_a_task(play):
    return lose_after_welcome(play).ready()


def lose_after_the_offer(play):
    client = lose_with_a_task(play)
    assert client.offer()["type"] == "send"
    return client


def lose_in_the_middle(play):
    client = lose_after_the_offer(play)
    client.send(b"8 by", name_of(b"8 bytes."))
    return client


def lose_while_it_is_added(play):
    client = lose_with_a_task(play)
    client.deliver()
    return client


def lose_while_it_is_rejected(play):
    client = lose_while_it_is_added(play)
    client.rejected = True
    return client


@pytest.mark.parametrize("step", [
    lose_before_hello, lose_before_welcome, lose_after_welcome, lose_with_a_task,
    lose_after_the_offer, lose_in_the_middle, lose_while_it_is_added, lose_while_it_is_rejected])
def test_a_link_may_be_lost_at_any_step_and_the_round_is_made_without_it(stage, step):
    play = stage(least=2)
    ann, = start(play, "ann")
    lost = step(play)
    before = len(play.effects)
    play.tell("lost", lost.number)
    play.tell("lost", lost.number)
    if getattr(lost, "rejected", False):
        play.fail("add", GltchError("It is not finite."))
    play.do_all()
    if step in (lose_before_hello, lose_before_welcome, lose_after_welcome):
        bob, = enter(play, "bob")
        bob.ready()
    ann.deliver()
    play.passes(70.0)
    play.do_all()
    play.passes(70.0)
    play.do_all()
    assert ann.hear("commit")["version"] == 1
    said = [effect for effect in play.effects[before:]
            if isinstance(effect, (Send, SendBlob, Close)) and effect.link == lost.number]
    assert not said
    assert set(play.session.links.peers) == set(play.session.rounds.members)
    counted = ("lost", "counted") in play.contributions(1)
    assert counted == (step is lose_while_it_is_added)


def test_nobody_waits_for_who_has_left(stage):
    play, ann, bob = two_in_a_round(stage)
    ann.deliver()
    play.do("add")
    assert play.waiting() == []
    bob.lose()
    assert play.waiting() == ["combine"]


def test_an_interrupted_upload_goes_on_where_it_stopped_and_counts_once(stage):
    play, ann, bob = two_in_a_round(stage)
    ann.offer()
    ann.send(b"8 by", name_of(b"8 bytes."))
    ann.lose()
    again = Client(play, "ann", token=ann.token).enter()
    assert again.peer == ann.peer
    assert again.offer()["offset"] == 4
    again.send(b"tes.", name_of(b"8 bytes."), 4)
    assert play.works[0].values[1] == b"8 bytes."
    play.do("add")
    assert again.hear("verdict")["verdict"] == "accepted"
    assert again.offer() == {"type": "verdict", "version": 0, "verdict": "accepted", "reason": ""}
    bob.deliver()
    play.do("add"), play.do("combine"), play.do("keep")
    assert len(play.journal.round(1)["contributions"]) == 2


def test_who_reconnects_while_its_update_is_added_hears_the_verdict_that_it_gets(stage):
    """It was told "accepted" before anybody knew."""
    play, ann, bob = two_in_a_round(stage)
    ann.deliver()
    again = Client(play, "ann", token=ann.token)
    play.works.rotate(-1)
    work = play.works.popleft()
    play.tell("done", work.ticket, play.do_remember_peer(*work.values))
    again.say_offer()
    assert "verdict" not in [message["type"] for message in again.heard]
    play.fail("add", GltchError("It is not finite."))
    assert again.hear("verdict")["verdict"] == "rejected"
    assert "verdict" not in [message["type"] for message in ann.heard]


def test_an_update_that_has_counted_does_not_count_again(stage):
    play, ann, bob = two_in_a_round(stage)
    make_a_round(play, ann, bob)
    ann.lose()
    again = Client(play, "ann", token=ann.token).enter()
    assert again.offer(version=0, weights=sha(0))["verdict"] == "accepted"
    assert "add" not in play.waiting()


# --- Peers that train on while updates travel -----------------------------------------------------

def kinds_since(client):
    """What came on this link since the last look, with what travels."""
    before, client.seen = getattr(client, "seen", 0), len(client.play.effects)
    return [effect.message["type"] if isinstance(effect, Send) else "content"
            for effect in client.play.effects[before:]
            if isinstance(effect, (Send, SendBlob)) and effect.link == client.number]


def bring(client, content=b"8 bytes.", **changes):
    """The update comes along with its offer."""
    client.say_offer(content, follows=True, **changes)
    client.send(content)


def test_an_update_that_comes_along_is_not_asked_for(stage):
    play, ann, _ = two_in_a_round(stage, sync=OVERLAP)
    kinds_since(ann)
    bring(ann)
    play.do("add")
    assert kinds_since(ann) == ["verdict"]
    assert ann.heard[-1]["verdict"] == "accepted"


def test_who_is_in_step_gets_the_commit_with_its_content_and_the_next_task_at_once(stage):
    play = stage(sync=OVERLAP)
    ann, bob = start(play, "ann", "bob")
    ann.hear("train"), bob.hear("train")
    bring(ann)
    play.do("add")
    play.passes(70.0)
    kinds_since(ann), kinds_since(bob)
    play.do("combine"), play.do("keep")
    for one, counted in ((ann, True), (bob, False)):  # both held the weights of this round
        assert kinds_since(one) == ["commit", "blob", "content", "train"]
        commit = one.hear("commit")
        assert (commit["counted"], commit["follows"]) == (counted, True)
        content = SendBlob(one.number, "update", commit["update"], b"update 1", 0)
        assert content in play.effects
        assert one.hear("train")["version"] == 1


def test_without_overlap_nothing_comes_unasked(stage):
    play, ann, bob = two_in_a_round(stage)
    make_a_round(play, ann, bob)
    assert not ann.hear("commit")["follows"]
    assert not any(isinstance(effect, SendBlob) for effect in play.effects)


def test_who_asks_for_what_it_missed_is_in_step_from_then_on(stage):
    """It listens between two steps, and would be behind again before it could ask for more."""
    play, ann, bob = two_in_a_round(stage, sync=OVERLAP)
    cid = Client(play, "cid").enter()
    bring(ann), bring(bob)
    play.do("add"), play.do("add"), play.do("combine"), play.do("keep")
    kinds_since(cid)
    cid.ready(0)
    assert kinds_since(cid) == ["commit", "blob", "content", "train"]
    cid.ready(0)  # it asks once more: the content is on its way
    assert kinds_since(cid) == ["commit"] and not cid.heard[-1]["follows"]
    for client in (ann, bob):
        bring(client, b"another.", version=1, weights=sha(1))
        play.do("add")
    play.passes(70.0)
    kinds_since(cid)
    play.do("combine"), play.do("keep")
    assert kinds_since(cid) == ["commit", "blob", "content", "train"]


def test_who_delivers_too_late_is_in_step_all_the_same(stage):
    play, ann, bob = two_in_a_round(stage, sync=OVERLAP)
    bring(ann)
    play.do("add")
    play.passes(70.0)
    play.do("combine"), play.do("keep")
    assert bob.hear("commit")["version"] == 1
    bring(bob, version=0, weights=sha(0))
    play.do("add")
    bring(ann, b"another.")
    play.do("add")
    play.passes(70.0)
    play.do("combine"), play.do("keep")
    assert play.contributions(2) == {("ann", "counted"), ("bob", "counted")}
    commit = bob.hear("commit")
    assert (commit["version"], commit["counted"], commit["follows"]) == (2, True, True)
    assert ann.hear("commit") and ann.hear("commit")["follows"]


def test_who_says_nothing_for_many_rounds_has_to_ask_again(stage):
    play, ann, bob = two_in_a_round(stage, sync=OVERLAP)
    follows = []
    for number in range(MOST_UNASKED + 2):
        bring(ann, b"round %02d" % number, version=number, weights=sha(number))
        play.do("add")
        play.passes(70.0)
        play.do("combine"), play.do("keep")
        follows.append(bob.hear("commit")["follows"])
        for what in list(play.waiting()):
            play.do(what)
    assert follows == [True] * MOST_UNASKED + [False] * 2


def test_who_reconnected_after_it_delivered_asks_for_the_commit(stage):
    play, ann, bob = two_in_a_round(stage, sync=OVERLAP)
    bring(ann)
    play.do("add")
    again = Client(play, "ann", token=ann.token).enter()
    bring(bob)
    play.do("add"), play.do("combine"), play.do("keep")
    commit = again.hear("commit")
    assert (commit["counted"], commit["follows"]) == (True, False)


def test_the_chunks_of_an_update_that_cannot_count_are_dropped_and_the_peer_stays(stage):
    play, ann, bob = two_in_a_round(stage, sync=OVERLAP)
    bring(ann)
    play.do("add")
    play.passes(70.0)
    kinds_since(bob)
    bob.say_offer(follows=True)
    bob.send(b"8 by", blob=name_of(b"8 bytes."))
    bob.send(b"tes.", blob=name_of(b"8 bytes."), offset=4)
    assert kinds_since(bob) == ["verdict"] and bob.heard[-1]["verdict"] == "late"
    assert bob.closed is None
    play.do("combine"), play.do("keep")
    assert play.contributions(1) == {("ann", "counted"), ("bob", "late")}


def test_a_late_update_counts_in_the_next_round_and_the_record_says_how_late(stage):
    play, ann, bob = two_in_a_round(stage)
    bob.lose()
    ann.deliver()
    play.passes(70.0)
    play.do("add"), play.do("combine"), play.do("keep")
    bob = Client(play, "bob", token=bob.token).enter()
    bob.deliver(version=0, weights=sha(0))
    play.do("add")
    ann.ready()
    ann.deliver()
    play.do("add"), play.do("combine"), play.do("keep")
    record = {one["name"]: one for one in play.journal.round(2)["contributions"]}
    assert (record["bob"]["verdict"], record["bob"]["reason"]) == ("counted", "1 round late")


@pytest.mark.parametrize("content, offset, reason", [
    (b"tes.", 4, "does not continue a transfer"), (b"8 bytes!", 0, "its SHA-256 differs")])
def test_an_upload_with_a_gap_or_damage_ends_its_connection_with_a_sentence(
        stage, content, offset, reason):
    play, ann, bob = two_in_a_round(stage)
    assert ann.offer()["offset"] == 0
    ann.send(content, name_of(b"8 bytes."), offset)
    assert reason in ann.hear("refused")["reason"] and ann.closed == (1008, "")
    assert "add" not in play.waiting()
    bring(bob)
    play.do("add"), play.passes(70.0), play.do("combine"), play.do("keep")
    assert play.contributions(1) == {("bob", "counted")}


def test_no_more_is_dropped_than_was_announced(stage):
    play, ann, bob = two_in_a_round(stage, sync=OVERLAP)
    ann.say_offer(follows=True, steps=10**6)
    assert ann.heard[-1]["verdict"] == "rejected"
    ann.send(b"8 bytes.")
    assert ann.closed is None
    ann.send(b"8 bytes.")
    assert "belongs to no transfer" in ann.hear("refused")["reason"]
    bob.say_offer(follows=True, steps=10**6)
    for _ in range(8):
        bob.send(b"", blob=name_of(b"8 bytes."))
    bob.send(b"", blob=name_of(b"8 bytes."))
    assert "belongs to no transfer" in bob.hear("refused")["reason"]


def test_an_update_that_came_along_and_had_to_wait_is_asked_for_later(stage):
    play, ann, bob = two_in_a_round(stage, sync=OVERLAP, places=1)
    ann.say_offer(follows=True)
    kinds_since(bob)
    bring(bob, b"another.")
    assert kinds_since(bob) == [], "there was no place for it"
    ann.send(b"8 bytes.")
    play.do("add")
    assert kinds_since(bob) == ["send"]
    bob.send(b"another.")
    play.do("add"), play.do("combine"), play.do("keep")
    assert play.contributions(1) == {("ann", "counted"), ("bob", "counted")}


def test_what_is_asked_for_while_it_still_comes_along_is_taken_from_its_second_copy(stage):
    """On a slow line the first is not all there when its turn comes."""
    play, ann, bob = two_in_a_round(stage, sync=OVERLAP, places=1)
    ann.say_offer(follows=True)
    bob.say_offer(b"another.", follows=True)
    name = name_of(b"another.")
    bob.send(b"anot", blob=name)
    ann.send(b"8 bytes.")
    play.do("add")
    assert bob.hear("send") == {"type": "send", "blob": name, "offset": 0}
    bob.send(b"her.", blob=name, offset=4)
    bob.send(b"anot", blob=name)
    bob.send(b"her.", blob=name, offset=4)
    assert bob.closed is None
    play.do("add"), play.do("combine"), play.do("keep")
    assert play.contributions(1) == {("ann", "counted"), ("bob", "counted")}


def test_steps_made_while_updates_travel_count_up_to_a_limit(stage):
    play, ann, bob = two_in_a_round(stage, sync=OVERLAP)
    quota = [said for said in ann.heard if said["type"] == "train"][-1]["quota"]
    bring(ann, steps=quota + AHEAD)
    play.do("add")
    assert ann.hear("verdict")["verdict"] == "accepted"
    bob.say_offer(follows=True, steps=quota + AHEAD + 1)
    assert "more than anybody was asked for" in bob.hear("verdict")["reason"]


def test_nobody_counts_for_more_characters_than_its_steps_ahead_make(stage):
    play, ann, bob = two_in_a_round(stage, sync=OVERLAP)
    play.passes(1e4)
    steps = [said for said in ann.heard if said["type"] == "train"][-1]["quota"] + AHEAD
    bring(ann, steps=steps, tokens=2**40)
    play.do("add"), play.do("combine"), play.do("keep")
    contribution, = play.journal.round(1)["contributions"]
    assert contribution["tokens"] == steps * 2 * play.job.config.block_size


# --- Who comes ------------------------------------------------------------------------------------

def test_who_says_nothing_for_too_long_is_not_waited_for(play):
    play.tell("connected", 0, "192.0.2.1")
    assert play.session.deadline <= play.steady + reception.HANDSHAKE_SECONDS
    play.passes(reception.HANDSHAKE_SECONDS)
    assert Close(0, 1008, "The handshake took too long.") in play.effects
    assert not play.session.reception.strangers


def test_a_wrong_key_is_refused_and_leaves_nothing_behind(stage):
    play = stage(key="right")
    client = Client(play, "eve", key="wrong")
    assert "The key is wrong or missing" in client.hear("refused")["reason"]
    assert client.closed == (1008, "")
    assert "192.0.2.1: eve: The key is wrong" in play.lines("refused")[0]
    assert not any(isinstance(effect, Proved) for effect in play.effects)
    assert play.waiting() == ["evaluate"] and not play.session.links.proved
    assert Client(play, "ann", key="right").enter().peer in play.session.links.peers


def test_a_peer_is_written_down_before_it_is_welcome(play):
    client = Client(play, "ann")
    assert [message["type"] for message in client.heard] == ["challenge"]
    assert not play.session.links.peers and not play.events("joined")
    client.enter()
    assert [name for name, _ in play.journal.identities("ann")] == [client.peer]


def test_who_found_no_place_is_not_written_down(play, monkeypatch):
    monkeypatch.setattr(play.session, "admitted", play.session.lost)
    Client(play, "ann")
    assert "remember_peer" not in play.waiting() and not play.session.links.proved


def test_a_peer_waits_for_its_welcome(play):
    client = Client(play, "hasty")
    client.say("goodbye")
    assert "waits for its welcome" in client.hear("refused")["reason"]
    play.do("remember_peer")
    assert not play.session.links.peers


def test_a_new_connection_of_a_process_replaces_the_old_one(play):
    ann, = start(play, "ann")
    again = Client(play, "ann", token=ann.token).enter()
    assert (again.peer, again.name) == (ann.peer, "ann")
    assert ann.closed == (1000, "")
    assert list(play.session.links.peers.values()) == [play.session.links.proved[again.number]]
    before = len(play.effects)
    ann.say("progress", version=0, steps=3)
    ann.send(b"late")
    ann.lose()
    assert play.effects[before:] == [] and play.session.links.peers[again.peer].steps == 0


def test_another_process_with_the_same_token_becomes_another_peer(play):
    ann, = enter(play, "ann")
    other = Client(play, "ann", token=ann.token, process="c" * 64).enter()
    assert other.peer != ann.peer and other.name == "ann-2" and other.token != ann.token
    assert ann.closed is None


def test_two_that_come_at_once_with_one_name_are_two(play):
    first, second = Client(play, "ann"), Client(play, "ann", process="c" * 64)
    first.enter(), second.enter()
    assert (first.name, second.name) == ("ann", "ann-2")
    third = Client(play, "bob", token=first.token)
    assert third.enter().peer not in (first.peer, second.peer)


def test_whose_updates_are_all_rejected_is_barred_for_a_while(play):
    ann, = start(play, "ann")
    for _ in range(reception.MOST_REJECTED):
        ann.ready()
        ann.deliver()
        play.fail("add", GltchError("It is not finite."))
    assert f"{reception.MOST_REJECTED} updates in a row" in ann.hear("refused")["reason"]
    assert ann.closed == (1008, "") and not play.session.links.peers
    again = Client(play, "ann", token=ann.token)
    assert "may come back in 10 minutes" in again.hear("refused")["reason"]
    play.passes(reception.BARRED_SECONDS)
    assert Client(play, "ann", token=ann.token).enter().peer == ann.peer


def test_one_good_update_makes_up_for_the_rejected_ones(stage):
    play, ann, bob = two_in_a_round(stage)
    for _ in range(2):
        for _ in range(reception.MOST_REJECTED - 1):
            ann.deliver()
            play.fail("add", GltchError("It is not finite."))
        make_a_round(play, ann, bob)
        ann.ready(), bob.ready()
        play.passes(1.0)
    assert ann.closed is None and play.journal.last == 2


TURNED_AWAY = (1013, "Too many new peers come just now.")


def test_one_address_cannot_invent_new_peers_without_end(play, monkeypatch):
    monkeypatch.setattr(reception, "NEW_PER_ADDRESS", 8)
    first, *_ = enter(play, *(f"peer-{number}" for number in range(8)))
    assert Client(play, "one-more").closed == TURNED_AWAY
    assert Client(play, "somebody", address="192.0.2.2").closed is None
    assert Client(play, "peer-0", token=first.token).closed is None
    play.passes(1.0)
    assert Client(play, "one-more").closed is None


def test_new_peers_come_in_turns_from_wherever_they_come_and_those_who_were_here_at_once(
        stage, monkeypatch):
    """A thousand of them, each from an address of its own, made the page answer after seconds."""
    monkeypatch.setattr(reception, "NEW_PEERS", 8)
    play = stage()
    first, *_ = [Client(play, f"peer-{number}", address=f"192.0.2.{number}").enter()
                 for number in range(8)]
    assert Client(play, "one-more", address="198.51.100.7").closed == TURNED_AWAY
    assert Client(play, "peer-0", address="198.51.100.7", token=first.token).closed is None
    play.passes(1.0)
    assert Client(play, "one-more", address="198.51.100.7").closed is None


def test_of_many_addresses_the_latest_are_remembered(play, monkeypatch):
    monkeypatch.setattr(reception, "MOST_ADDRESSES", 8)
    for number in range(10):
        Client(play, f"peer-{number}", address=f"192.0.2.{number}")
    assert list(play.session.reception.newcomers_of) == [f"192.0.2.{n}" for n in range(2, 10)]


def test_the_addresses_of_one_household_are_one(play, monkeypatch):
    """With IPv6 everybody has 2^64 of them."""
    monkeypatch.setattr(reception, "NEW_PER_ADDRESS", 8)
    for number in range(8):
        assert Client(play, f"peer-{number}", address=f"2001:db8::{number:x}").closed is None
    assert Client(play, "one-more", address="2001:db8::8").closed == TURNED_AWAY
    assert Client(play, "somebody", address="2001:db8:1::1").closed is None


def test_the_more_updates_were_rejected_the_longer_until_a_peer_is_heard(play):
    ann, = start(play, "ann")
    for _ in range(3):
        ann.ready()
        ann.deliver()
        play.fail("add", GltchError("It is not finite."))
    pauses = [effect for effect in play.effects if isinstance(effect, Pause)]
    assert pauses == [Pause(ann.number, reception.COOLING_SECONDS * count) for count in (1, 2, 3)]


def test_too_many_lines_of_one_kind_are_counted_and_not_written(play):
    """24,642 bad offers wrote 1.8 MB of log."""
    ann, = start(play, "ann")
    for number in range(10_000):
        play.tell("connected", 0, "192.0.2.1")
        play.tell("broken", 0, f"nonsense {number}")
    assert len(play.lines("refused")) == LINES
    assert play.lines("joined")
    play.passes(10.0)
    play.tell("connected", 0, "192.0.2.1")
    play.tell("broken", 0, "at last")
    assert f"and {10_000 - LINES:,} more" in play.lines("refused")[-1]


def test_who_asks_for_more_than_it_reads_has_to_leave(play):
    ann, bob = enter(play, "ann", "bob")
    bob.ready(0, sha(5))
    unknown, weights = ({"type": "fetch", "blob": blob, "offset": 0} for blob in ("0" * 64, sha(0)))
    play.tell("heard", ann.number, unknown, waiting=rules.MOST_WAITING - 1)
    play.tell("heard", bob.number, weights, blobs=MOST_TRANSFERS - 1)
    assert ann.closed is None and bob.closed is None
    play.tell("heard", ann.number, unknown, waiting=rules.MOST_WAITING)
    play.tell("heard", bob.number, weights, blobs=MOST_TRANSFERS)
    for client in (ann, bob):
        assert "asks for more than it takes" in client.hear("refused")["reason"]


def test_the_same_is_not_sent_again_and_again(play):
    ann, = enter(play, "ann")
    ann.ready(0, sha(5))
    for _ in range(MOST_FETCHES):
        ann.say("fetch", blob=sha(0), offset=0)
    assert ann.closed is None
    ann.say("fetch", blob=sha(0), offset=0)
    assert "again and again" in ann.hear("refused")["reason"]


def test_an_update_that_is_the_same_as_an_earlier_one_may_be_fetched_again(stage):
    play, ann, bob = two_in_a_round(stage)
    play.update = b"nothing has moved"
    for number in range(1, MOST_FETCHES + 2):
        make_a_round(play, ann, bob)
        ann.say("fetch", blob=protocol.name_of(play.update), offset=0)
        ann.ready(number, sha(number)), bob.ready(number, sha(number))
        play.passes(1.0)
    assert ann.closed is None


def test_who_says_goodbye_leaves(play):
    ann, = enter(play, "ann")
    ann.say("goodbye")
    assert ann.closed == (1000, "") and not play.session.links.proved
    assert play.lines("left") == ["ann; nobody is left, the run waits"]


# --- What is due ----------------------------------------------------------------------------------

def test_everybody_hears_from_time_to_time_how_it_goes(play):
    ann, bob = enter(play, "ann", "bob")
    play.passes(3 * rules.STATUS_SECONDS)
    assert [message["type"] for message in ann.heard].count("status") == 3
    assert bob.hear("status") == {"type": "status", "version": 0, "peers": 2, "loss": None,
                                  "val_loss": None}


def test_who_waits_with_an_update_sends_it_when_another_has_stalled(stage):
    play = stage(least=2, places=1)
    ann, bob = start(play, "ann", "bob")
    ann.offer()
    ann.read = len(ann.heard)
    bob.say_offer()
    assert "send" not in [message["type"] for message in bob.heard]
    play.passes(40.0)
    assert bob.hear("send")["offset"] == 0


@pytest.mark.parametrize("end", ["added", "rejected"])
def test_an_update_keeps_its_place_until_it_is_added(stage, end):
    """What is complete is in memory until then, and a thousand peers send faster than one adds."""
    play, ann, bob = two_in_a_round(stage, places=1)
    ann.deliver()
    bob.say_offer()
    assert "send" not in [message["type"] for message in bob.heard]
    if end == "added":
        play.do("add")
    else:
        play.fail("add", GltchError("It is not finite."))
    assert bob.hear("send")["offset"] == 0


def test_evaluations_take_no_more_than_a_share_of_the_time(stage):
    play = stage()
    play.steady += 3.0
    for what in ("evaluate", "keep_evaluation", "keep_checkpoint"):
        play.do(what)
    ann, = start(play, "ann")
    make_a_round(play, ann)
    assert play.waiting() == []
    pause = 3.0 * (1 / EVALUATION_SHARE - 1)
    play.passes(0.9 * pause)
    assert play.waiting() == []
    play.passes(0.2 * pause)
    assert play.waiting() == ["evaluate"]


def test_evaluations_by_rounds(stage):
    play = stage(eval_every=2)
    ann, = start(play, "ann")
    measured = []
    for number in range(1, 6):
        make_a_round(play, ann)
        measured += [number] * ("evaluate" in play.waiting())
        play.do_all()
        ann.ready()
    assert measured == [2, 4]


def test_a_machine_that_slept_did_not_train(stage):
    """A minute's sleep counted as training, and so did an hour by which the clock was set."""
    play = stage(limits=Limits(minutes=10), pace=Pace())
    ann, = start(play, "ann")
    longest = play.session.rounds.longest
    play.steady += 3600.0
    play.unix += 1e6
    make_a_round(play, ann)
    assert play.session.run.seconds == pytest.approx(longest) and longest < 130


def test_the_counter_of_windows_never_leaves_the_protocol(play):
    play.session.run.windows = MOST_WINDOWS - 1
    ann, = start(play, "ann")
    assert ann.hear("train")["window"] == MOST_WINDOWS - 1
    assert 0 <= play.session.run.windows < MOST_WINDOWS


# --- The end --------------------------------------------------------------------------------------

def kinds_of(effects):
    return [effect.kind if isinstance(effect, Event) else effect.message["type"]
            if isinstance(effect, Send) else type(effect).__name__ for effect in effects]


def test_a_run_ends_with_an_evaluation_a_snapshot_and_a_farewell(stage):
    play, ann, bob = two_in_a_round(stage, limits=Limits(rounds=1))
    make_a_round(play, ann, bob)
    ann.ready()
    assert "train" not in kinds_of(play.effects[-3:])  # nothing new begins
    assert play.waiting() == ["evaluate"]
    play.do("evaluate"), play.do("keep_evaluation")
    assert not play.events("finished")
    play.do("keep_checkpoint")
    assert play.waiting() == ["snapshot"] and play.events("finished")
    play.do("snapshot")
    for client in (ann, bob):
        assert client.hear("finished")["reason"] == "all 1 rounds are done"
    ann.lose()
    assert not any(isinstance(effect, Finish) for effect in play.effects)
    assert bob.lose()[-1] == Finish("all 1 rounds are done")
    assert play.session.deadline == math.inf


def test_a_peer_that_stays_does_not_hold_up_the_end(stage):
    play, *both = two_in_a_round(stage, limits=Limits(rounds=1))
    make_a_round(play, *both)
    play.do_all()
    play.passes(rules.FAREWELL_SECONDS)
    assert play.effects[-1] == Finish("all 1 rounds are done")


def test_a_run_ends_when_the_loss_is_low_enough_but_not_in_the_middle_of_a_commit(stage):
    play = stage(limits=Limits(target_loss=3.0), least=1)
    ann, = enter(play, "ann")
    ann.ready()
    ann.deliver()
    play.do("add"), play.do("combine")
    for what in ("evaluate", "keep_evaluation", "keep_checkpoint"):
        play.do(what)
    assert "is reached" in play.session.run.finished
    assert play.waiting() == ["keep"]
    play.do("keep")
    assert ann.hear("commit")["counted"] and play.waiting() == ["evaluate"]
    play.do_all()
    assert ann.hear("finished")
    assert play.journal.evaluations()[-1][0] == 1


def test_who_stops_a_run_keeps_what_is_written(stage):
    play, ann, bob = two_in_a_round(stage)
    ann.deliver()
    play.do("add")
    effects = play.tell("stop")
    assert kinds_of(effects) == ["Do"] and play.waiting() == ["snapshot"]
    assert play.do("snapshot") == [Finish("")]
    assert play.session.deadline == math.inf


def test_a_session_goes_on_where_the_journal_ends(stage):
    play, ann, bob = two_in_a_round(stage)
    make_a_round(play, ann, bob)
    tokens = play.session.standing.tokens
    play.journal.close()
    play = stage(least=2)
    assert (play.session.rounds.version, play.session.run.step) == (1, 1)
    assert play.session.standing.tokens == tokens
    again = Client(play, "ann", token=ann.token).enter()
    assert again.heard[-1]["counted"] == [1]
    commit = again.ready(0, sha(0)).hear("commit")
    assert commit["version"] == 1 and commit["counted"]
    again.say("fetch", blob=commit["update"], offset=0)
    assert play.effects[-1].content == b"update 1"


# --- Several updates of a peer at once ------------------------------------------------------------

SEVERAL = replace(OVERLAP, fragments=3, in_flight=2)


def two_ahead(stage):
    """Of two peers, the first has sent its updates for the open round and for the next one."""
    play, ann, bob = two_in_a_round(stage, sync=SEVERAL)
    bring(ann)
    play.do("add")
    ann.say_offer(b"of later", follows=True, version=1, base=0, weights=sha(0))
    ann.send(b"of later")
    return play, ann, bob


def test_an_early_update_waits_for_its_round(stage):
    play, ann, bob = two_ahead(stage)
    assert play.waiting() == [], "its round is not open"
    bring(bob)
    play.do("add"), play.do("combine"), play.do("keep")
    assert play.contributions(1) == {("ann", "counted"), ("bob", "counted")}
    play.do("add")
    bring(bob)
    play.do("add"), play.do("combine"), play.do("keep")
    assert play.contributions(2) == {("ann", "counted"), ("bob", "counted")}
    assert ann.hear("commit")["counted"] and ann.hear("commit")["counted"]


def test_an_early_update_does_not_end_the_open_round(stage):
    play, ann, bob = two_in_a_round(stage, sync=SEVERAL)
    ann.say_offer(b"of later", follows=True, version=1, base=0, weights=sha(0))
    ann.send(b"of later")
    bring(bob)
    play.do("add")
    assert play.waiting() == [], "the first of its updates is still to come"
    assert play.session.rounds.members[ann.peer].state == "training"


def test_an_early_update_of_a_peer_that_left_is_forgotten_and_may_be_offered_again(stage):
    play, ann, bob = two_ahead(stage)
    ann.lose()
    again = Client(play, "ann", token=ann.token).enter()
    assert not play.session.intake.early
    again.say_offer(b"of later", version=1, base=0, weights=sha(0))
    assert again.hear("send")["offset"] == 0


def test_an_early_update_that_is_offered_again_is_not_taken_twice(stage):
    play, ann, bob = two_ahead(stage)
    kinds_since(ann)
    ann.say_offer(b"of later", follows=True, version=1, base=0, weights=sha(0))
    ann.send(b"of later")
    assert kinds_since(ann) == [] and ann.closed is None
    assert [*play.session.intake.early[ann.peer]] == [1]


@pytest.mark.parametrize("changes, reason", [
    ({"version": 2, "base": 0, "weights": sha(0)}, "nobody makes an update of round 3"),
    ({"version": 0, "base": 1, "weights": sha(0)}, "weights that this hive never had"),
    ({"version": 1, "base": 0, "weights": sha(5)}, "weights that this hive never had"),
    ({"version": 1, "base": 0, "weights": sha(0), "steps": 10**6}, "more than anybody was asked"),
    ({"version": 1, "base": 0, "weights": sha(0), "bytes": 9}, "has 8 bytes")])
def test_an_early_update_is_checked_when_it_is_offered(stage, changes, reason):
    play, ann, bob = two_in_a_round(stage, sync=SEVERAL)
    ann.say_offer(b"of later", **changes)
    assert reason in ann.hear("verdict")["reason"]


def test_after_a_restart_an_update_that_was_made_ahead_still_counts(stage):
    play, ann, bob = two_ahead(stage)
    bring(bob)
    play.do("add"), play.do("combine"), play.do("keep")
    play.journal.close()
    again = stage(sync=SEVERAL)
    ann = Client(again, "ann", token=ann.token).enter()
    assert ann.offer(b"of later", version=1, base=0, weights=sha(0))["type"] == "send"
    ann.send(b"of later")
    again.do_all()
    assert again.contributions(2) == {("ann", "counted")}


def test_a_round_whose_tasks_were_given_out_before_a_restart_has_no_length(stage):
    play, ann, _ = two_in_a_round(stage)
    play.journal.close()
    again = stage()
    ann = Client(again, "ann", token=ann.token).enter()
    assert ann.offer()["type"] == "send"
    ann.send(b"8 bytes.")
    again.steady += 3.0  # to be added
    again.do_all()
    committed, = again.events("committed")
    assert committed["contributions"] and committed["opened"] == committed["committed"]
    assert again.session.standing.speed == 0.0


def test_there_is_an_end_of_room_for_early_updates(stage, monkeypatch):
    play, ann, bob = two_in_a_round(stage, sync=SEVERAL)
    monkeypatch.setattr("hive.session.intake.BUDGET_BYTES", 15)
    for one in (ann, bob):
        one.say_offer(b"of later", follows=True, version=1, base=0, weights=sha(0))
        one.send(b"of later")
    assert "no room" in bob.hear("verdict")["reason"] and bob.heard[-1]["verdict"] == "late"
    assert [*play.session.intake.early] == [ann.peer]


def test_the_second_update_of_a_peer_waits_until_the_first_has_a_place(stage):
    play, ann, bob = two_in_a_round(stage, sync=SEVERAL, places=1)
    ann.say_offer(follows=True)
    bring(bob, b"another.")
    kinds_since(bob)
    bob.say_offer(b"of later", follows=True, version=1, base=0, weights=sha(0))
    bob.send(b"of later")
    assert kinds_since(bob) == [] and bob.closed is None
    ann.send(b"8 bytes.")
    play.do("add")
    assert bob.hear("send")["blob"] == name_of(b"another.")
    bob.send(b"another.")
    play.do("add")
    bob.say_offer(b"of later", follows=True, version=1, base=0, weights=sha(0))
    bob.send(b"of later")
    play.do_all()
    assert play.contributions(1) == {("ann", "counted"), ("bob", "counted")}


def test_an_early_update_counts_for_the_characters_it_was_trained_on(stage):
    """Its round has only just begun, but its peer had the time since its update before."""
    play, ann, bob = two_in_a_round(stage, sync=SEVERAL)
    play.passes(5.0)
    bring(ann)
    play.passes(5.0)
    ann.say_offer(b"of later", follows=True, version=1, base=0, weights=sha(0), tokens=32)
    ann.send(b"of later")
    play.do("add")
    bring(bob)
    play.do("add"), play.do("combine"), play.do("keep"), play.do("add")
    bring(bob)
    play.do("add"), play.do("combine"), play.do("keep")
    tokens = {one["name"]: one["tokens"] for one in play.journal.round(2)["contributions"]}
    assert tokens["ann"] == 32


def test_steps_are_not_rounded_away_round_after_round(stage):
    """Of four peers one makes two steps in each round: that is five steps in four rounds."""
    play = stage(least=4)
    peers = start(play, "ann", "bob", "cyd", "dan")
    for number in range(8):
        for place, one in enumerate(peers):
            one.deliver(b"update %d" % number, steps=1 + (place == 0), tokens=64)
            play.do("add")
        play.do("combine"), play.do("keep")
        for one in peers:
            one.ready()
    assert play.session.run.step == 10


def test_a_long_update_does_not_make_the_run_go_faster_where_training_never_stops(stage):
    """Its weight is of more tokens, but all peers make as many steps in the end."""
    play = stage(least=2, sync=OVERLAP)
    peers = start(play, "ann", "bob")
    for number in range(8):
        for place, one in enumerate(peers):
            steps = 2 if place == number % 2 else 1
            bring(one, b"update %d" % number, version=number, weights=sha(number), steps=steps,
                  tokens=32 * steps)
            play.do("add")
        play.do("combine"), play.do("keep")
    assert play.session.run.step == 12


# --- Whom it believes -----------------------------------------------------------------------------

AGAINST = Seen(-0.5, 0.5, 1.0, 1.0, 0.1, 0, "points the other way than those of the others", True)


def combine(play, *brought):
    """What these brought was looked at: (client, weight, what was seen)."""
    play.brought = tuple(Brought(client.peer, "q4", b"8 bytes.", weight, 1.0, False, None, seen)
                         for client, weight, seen in brought)
    play.do("combine"), play.do("keep")
    play.brought = ()


def both_deliver(play, first, second):
    first.deliver(), second.deliver(b"8 other."), play.do("add"), play.do("add")


def set_aside(play, client):
    """As the session found it in earlier rounds."""
    known = play.session.oversight.trust.of(client.peer)
    known.score, known.aside = 0.2, "its updates bring little"


def test_an_update_weighs_its_characters_times_the_score_of_its_peer(play):
    ann, bob = start(play, "ann", "bob")
    play.session.oversight.trust.of(ann.peer).score = 0.5
    ann.deliver(), bob.deliver(b"8 other.")
    first, second = (work.values for work in play.works if work.what == "add")
    assert second[2] == 2 * first[2] > 0
    assert (first[4:], second[4:]) == ((ann.peer, False), (bob.peer, False))


def test_what_points_the_other_way_is_left_out_of_the_round_and_its_peer_hears_why(play):
    ann, bob = start(play, "ann", "bob")
    both_deliver(play, ann, bob)
    combine(play, (ann, 0.0, AGAINST), (bob, 32.0, Seen()))
    assert play.contributions(1) == {("ann", "rejected"), ("bob", "counted")}
    verdict = [said for said in ann.heard if said["type"] == "verdict"][-1]
    assert verdict["verdict"] == "rejected" and "the other way" in verdict["reason"]
    assert not ann.hear("commit")["counted"]
    found = play.journal.judgements(1)
    assert [one["kind"] for one in found] == ["seen", "seen"] and found[0]["score"] == 0.7


def test_who_is_set_aside_goes_on_sending_without_weight_and_nobody_waits_for_it(play):
    ann, bob = start(play, "ann", "bob")
    set_aside(play, ann)
    ann.deliver()
    work = play.take("add")
    assert work.values[2] == 0.0
    play.tell("done", work.ticket, 0.0)
    verdict = ann.hear("verdict")
    assert verdict["verdict"] == "rejected"
    assert "set aside: its updates bring little" in verdict["reason"]
    ann.ready()
    assert ann.heard[-1]["type"] != "train", "no second task in the same round"
    bob.deliver(b"8 other."), play.do("add")
    combine(play, (ann, 0.0, Seen()), (bob, 32.0, Seen()))
    assert play.contributions(1) == {("ann", "rejected"), ("bob", "counted")}
    bob.ready(), ann.ready()
    bob.deliver(b"8 again."), play.do("add")
    assert "combine" in play.waiting(), "the round closed without ann"


def test_good_work_lets_it_count_again(play):
    ann, bob = start(play, "ann", "bob")
    set_aside(play, ann)
    for version in range(3):
        assert play.session.oversight.trust.of(ann.peer).aside
        play.session.oversight.trust.see(version, ann.peer, Seen(0.5, 0.5, 1.0, 1.0, 0.1, 0))
    ann.deliver()
    assert play.take("add").values[2] > 0


def test_a_restart_remembers_who_was_set_aside(stage):
    play = stage()
    ann, bob = start(play, "ann", "bob")
    for _ in range(3):
        play.session.oversight.trust.see(1, ann.peer, AGAINST)
    both_deliver(play, bob, ann)
    combine(play)
    play.journal.close()
    again = stage()
    assert again.session.oversight.trust.weight(ann.peer) == 0.0
    assert again.session.standing.contributors[ann.peer]["aside"]


def test_what_is_tried_delays_no_commit_and_counts_from_then_on(stage):
    play = stage(probing=True)
    clients = start(play, "ann", "bob", "cy", "dee")
    liar = clients[0].peer
    for version in range(4):
        for client in clients:
            client.deliver(b"by " + client.name.ljust(5).encode()), play.do("add")
        combine(play, *((client, 32.0, Seen()) for client in clients))
        assert play.session.rounds.version == version + 1, "written before anything is tried"
        work = play.take("probe")
        number, before, after, trials = work.values
        assert (before, after) == (number - 1, number)
        assert all(len(one.given) == 2 for one in trials), "two windows in a step"
        tried = [Tried(one.peer, Change(-0.01 if one.peer == liar else 0.01, 0.001), 1.0, math.nan)
                 for one in trials]
        play.tell("done", work.ticket, Outcome(number, 3.0, 2.9, tried, 0.0))
        for client in clients:
            client.ready()
    assert play.session.oversight.trust.of(liar).aside
    assert play.lines("aside") == ["ann: its updates raise the loss on text that no peer has"]


def jumps(play):
    """The loss does, with the round that was made."""
    play.tell("done", play.take("probe").ticket, Outcome(1, 3.0, 9.0, [], 0.0))


def test_a_loss_that_jumps_is_undone_by_a_round_that_everybody_gets(stage):
    play = stage(probing=True)
    ann, bob = start(play, "ann", "bob")
    both_deliver(play, ann, bob)
    combine(play, (ann, 32.0, Seen()), (bob, 32.0, Seen()))
    ann.ready(), bob.ready()
    ann.read = len(ann.heard)
    jumps(play)
    play.do("undo"), play.do("keep")
    version = ann.hear("version")
    assert (version["version"], version["weights"]) == (2, sha(0))
    assert play.journal.undone() == [(2, 0)]
    assert play.session.oversight.undone == [{"round": 2, "to": 0}]
    committed = play.events("committed")[-1]
    assert committed["undone"] == 0 and committed["step"] == 0
    ann.ready(2, sha(0))
    assert ann.hear("train")["version"] == 2
    bob.read = len(bob.heard)
    bob.ready(0, sha(0))  # it missed everything, and no update leads to these weights
    assert bob.hear("version")["version"] == 2


def test_what_was_delivered_in_a_round_that_is_given_up_may_come_again(stage):
    play = stage(probing=True)
    ann, bob = start(play, "ann", "bob")
    both_deliver(play, ann, bob)
    combine(play, (ann, 32.0, Seen()), (bob, 32.0, Seen()))
    ann.ready(), bob.ready()
    ann.deliver(b"8 second"), play.do("add")
    jumps(play)
    assert "undo" not in play.waiting(), "not before the round is over"
    bob.deliver(b"8 third."), play.do("add")
    play.do("undo"), play.do("keep")
    assert play.contributions(2) == {("ann", "late"), ("bob", "late")}
    assert ann.offer(b"8 second", version=1)["type"] == "send"


# --- The owner's hand -----------------------------------------------------------------------------

def test_who_is_banned_has_to_leave_and_stays_away_until_it_is_pardoned(play):
    ann, bob = start(play, "ann", "bob")
    play.tell("ordered", "ban", "ann")
    assert "banned" in ann.hear("refused")["reason"] and ann.closed
    again = Client(play, "ann", token=ann.token)
    assert "banned" in again.hear("refused")["reason"]
    play.tell("ordered", "pardon", "ann")
    assert Client(play, "ann", token=ann.token).enter().peer == ann.peer
    bob.deliver(), play.do("add"), play.do("combine"), play.do("keep")
    assert [one["kind"] for one in play.journal.judgements(1)] == ["banned", "pardoned"]


def test_an_order_is_written_down_at_once_where_nobody_makes_rounds(play):
    ann, = start(play, "ann")
    play.tell("ordered", "ban", "ann")
    play.do("undo"), play.do("keep")
    assert [one["kind"] for one in play.journal.judgements(1)] == ["banned"]
    assert play.journal.at(1) == play.journal.at(0) and play.journal.undone() == []


def test_an_owner_may_go_back_and_nobody_waits_for_a_round(play):
    ann, = start(play, "ann")
    for _ in range(3):
        ann.deliver(), play.do("add"), play.do("combine"), play.do("keep")
        ann.ready()
    ann.read = len(ann.heard)
    play.tell("ordered", "rollback", 1)
    play.do("undo"), play.do("keep")
    assert play.journal.undone() == [(4, 1)] and play.journal.at(4) == play.journal.at(1)
    assert ann.hear("version")["weights"] == sha(1)
    assert "owner of this hive wants that" in play.journal.judgements(4)[0]["reason"]


@pytest.mark.parametrize("kind, value", [
    ("ban", "nobody"), ("pardon", "nobody"), ("rollback", 0), ("rollback", 7)])
def test_an_order_that_fits_nobody_changes_nothing(play, kind, value):
    ann, = start(play, "ann")
    play.tell("ordered", kind, value)
    assert "undo" not in play.waiting() and ann.closed is None


def weight_added(play):
    return next(work for work in play.works if work.what == "add").values[2]


def weights_of_claims(play, claims):
    """In rounds of two seconds of which each takes a batch of this size."""
    ann, = start(play, "ann")
    weights = []
    for number, batch in enumerate(claims):
        play.passes(2.0)
        ann.deliver(tokens=batch * 16, batch_size=batch)
        weights.append(weight_added(play))
        play.do_all()
        following = claims[min(number + 1, len(claims) - 1)]
        ann.say("ready", version=number + 1, weights=sha(number + 1), batch_size=following)
    return weights


def test_a_claim_weighs_no_more_than_there_was_time_for_at_the_speed_shown_before(play):
    weights = weights_of_claims(play, [2] * 4 + [200] * 4)
    assert weights[:4] == [32] * 4
    assert all(32 < weight <= FASTER * 32 * 1.01 for weight in weights[4:7])
    assert weights[7] <= FASTER * FASTER * 32 * 1.01, "what it claimed makes it no faster"


def test_a_peer_that_really_becomes_faster_soon_has_its_full_weight(play):
    """Other programs on its machine have ended."""
    weights = weights_of_claims(play, [2] * 8 + [8] * 5)
    assert weights[8] == pytest.approx(FASTER * 32, rel=0.01)
    assert weights[8 + LATELY // 2 + 1:] == [8 * 16] * 2


def test_a_few_slow_rounds_cost_a_peer_no_weight(play):
    """It waited for others."""
    ann, = start(play, "ann")
    for number, seconds in enumerate([2, 2, 2, 20, 20, 2, 2, 2, 20, 2]):
        play.passes(seconds)
        ann.deliver()
        assert weight_added(play) == 32
        play.do_all()
        ann.say("ready", version=number + 1, weights=sha(number + 1), batch_size=2)
