"""The peer's side of the conversation, without sockets: a coordinator's words by hand."""
import math
import re
from dataclasses import replace

import pytest
from builders import make_job as make
from hand import COMMITTED, HASH, JOB, PARAMETERS, SIZE, TEXT, WEIGHTS, Hand, applied, kinds

from gltch_2_7m import GltchError
from hive.learning.codec import CODECS
from hive.learning.fragments import Fragments
from hive.session import effects, protocol
from hive.session.about import Identity
from hive.session.conversation import MOST_KEPT
from hive.session.peer_session import MOST_FAILURES, SILENCE_SECONDS
from hive.session.rounds import AHEAD

ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202egnorw\u200b\x00\nline"


@pytest.fixture
def hand():
    return Hand()


# --- A round --------------------------------------------------------------------------------------


def test_a_whole_round_word_by_word(hand):
    hello = hand.meet()
    assert (hello["type"], hello["name"], hello["token"]) == ("hello", "ada", None)
    assert hello["proof"] == protocol.proof("", "peer", hand.nonce, hello["nonce"])
    token = "9" * 64
    fetch, = hand.welcome(token=token, name="ada-2")
    assert fetch == {"type": "fetch", "blob": JOB.text, "offset": 0}
    assert hand.last() == effects.Keep(token, "ada-2")
    ready, = hand.give(TEXT)
    assert ready == {"type": "ready", "version": 0, "weights": None,
                     "batch_size": JOB.recipe.batch_size}
    network, joined = hand.effects()
    assert f"{PARAMETERS:,} parameters" in network.text
    assert joined == effects.Say("joined", "the hive as ada-2")

    fetch, = hand.hear("version", version=0, weights=HASH, step=0, counted=[])
    assert (fetch["type"], fetch["blob"]) == ("fetch", HASH)
    assert hand.settled == 1
    ready, = hand.give(WEIGHTS)
    assert (ready["version"], ready["weights"]) == (0, HASH)

    assert hand.train() == [] and hand.session.training
    assert hand.task == {"step": 4, "total": None, "window": 7}
    assert hand.step(loss=5.0) == [{"type": "progress", "version": 0, "steps": 1}]
    assert hand.session.figures.loss == 5.0

    update = b"\1" * SIZE
    offer, = hand.trained(update)
    assert hand.part == slice(0, PARAMETERS) and not hand.session.training
    assert offer == {"type": "offer", "version": 0, "base": 0, "weights": HASH, "codec": "q4",
                     "update": protocol.name_of(update), "bytes": SIZE, "steps": 4, "tokens": 256,
                     "seconds": 2.0, "loss": 3.5, "batch_size": JOB.recipe.batch_size,
                     "follows": False}
    assert hand.hear("send", blob=hand.update, offset=0) == []
    assert hand.last() == effects.Upload(hand.update, update, 0)
    hand.act(hand.session.uploaded(hand.update, hand.now))
    assert hand.hear("verdict", version=0, verdict="accepted", reason="") == []

    fetch, = hand.commit(counted=True)
    assert fetch["blob"] == protocol.name_of(COMMITTED)
    ready, = hand.give(COMMITTED)
    after = protocol.name_of(applied(WEIGHTS, COMMITTED))
    assert (ready["version"], ready["weights"]) == (1, after)
    assert hand.learned == ["begin", "load", "counted", "rebase"]
    assert hand.session.carried == 0 and not hand.session.offers.updates
    assert hand.effects() == []


def test_a_text_that_was_here_before_is_not_fetched_again(hand):
    assert kinds(hand.join()) == ["ready"]


def test_a_batch_size_of_its_own_is_told():
    ready, = Hand(batch_size=3).join()
    assert ready["batch_size"] == 3


def test_how_far_it_is_is_told_now_and_then(hand):
    hand.hold()
    hand.train(quota=41)
    told = []
    for _ in range(40):
        hand.wait(0.1)
        told += hand.step()
    assert kinds(told) == ["progress"] * 4 and told[0]["steps"] == 1


def test_a_loss_that_is_not_finite_is_offered_as_none(hand):
    assert hand.offering(loss=math.inf)[0]["loss"] is None


def test_a_task_for_other_weights_is_nobodys(hand):
    hand.hold()
    hand.train(version=3)
    hand.train(weights="0" * 64)
    assert hand.task is None and not hand.session.training


@pytest.mark.parametrize("seconds, steps", [(0.001, 1), (39.0, 1), (40.0, 2), (60.0, 3), (1e9, 4)])
def test_a_task_ends_with_its_steps_or_when_another_would_not_fit_into_its_time(
        hand, seconds, steps):
    hand.hold()
    hand.train(quota=4, seconds=seconds)
    told = []
    while hand.session.training:
        hand.wait(20.0)
        told += hand.step()
    assert kinds(told) == ["progress"] * (steps - 1) + ["offer"] and told[-1]["steps"] == steps


# --- What comes while it trains -------------------------------------------------------------------


def test_a_commit_that_arrives_while_training_ends_it_and_is_taken_afterwards(hand):
    hand.hold()
    hand.train()
    hand.step()
    offer, fetch = hand.commit()
    assert not hand.session.training
    assert (offer["type"], offer["version"], fetch["type"]) == ("offer", 0, "fetch")
    assert (offer["steps"], offer["tokens"]) == (1, 64)
    assert hand.give(COMMITTED) == []  # first it hears what becomes of its update
    assert hand.session.held.version == 1
    ready, = hand.hear("verdict", version=0, verdict="late", reason="")
    assert (ready["type"], ready["version"]) == ("ready", 1)


def test_a_round_that_was_over_before_its_task_was_read_is_given_up_after_a_step(hand):
    hand.join()
    hand.hear("version", version=0, weights=HASH, step=0, counted=[])
    hand.train()
    hand.commit()
    hand.effects()
    hand.give(WEIGHTS)  # now it reads the task
    assert hand.session.training and hand.effects() == []
    assert kinds(hand.step()) == ["offer", "fetch"] and not hand.session.training


def test_what_is_said_while_training_is_answered_in_order_afterwards(hand):
    hand.hold()
    hand.train()
    for peers in range(1, 1000):
        hand.hear("status", version=0, peers=peers, loss=None, val_loss=2.5)
    assert len(hand.session.talk.inbox) == 1  # the newest
    hand.hear("finished", reason="enough")
    assert hand.effects() == []
    hand.step()
    assert hand.effects() == [effects.End("enough")] and not hand.session.training
    assert (hand.session.figures.peers, hand.session.figures.val_loss) == (999, 2.5)


def test_chunks_arrive_while_something_else_takes_time(hand):
    """Training and transfers need not exclude each other."""
    hand.hold()
    hand.commit()
    hand.train(version=1, weights="1" * 64)
    hand.hear("verdict", version=0, verdict="accepted", reason="")
    assert kinds(hand.give(COMMITTED)) == ["ready"] and not hand.session.talk.inbox


def test_an_update_is_not_offered_any_more_when_the_run_is_over(hand):
    hand.hold()
    hand.train()
    hand.hear("finished", reason="")
    assert hand.step() == [] and hand.session.offers.updates
    assert hand.effects() == [effects.End("")]


def test_who_trains_on_while_its_update_travels_rests_after_so_many_steps(hand):
    hand.hold(make(TEXT.decode(), sync=replace(JOB.sync, overlap=True)))
    hand.train(quota=4)
    told = [said for _ in range(4) for said in hand.step()]
    assert kinds(told) == ["progress", "offer"] and told[-1]["steps"] == 4
    steps = 0
    while hand.session.training:
        steps += 1
        assert hand.step() == []
    assert steps == hand.session.progress.steps == 4 + AHEAD
    assert hand.session.offers.updates[0].work.steps == 4


def test_who_rested_because_its_update_travelled_long_goes_on_with_the_next_task(hand):
    hand.hold(make(TEXT.decode(), sync=replace(JOB.sync, overlap=True)))
    hand.train(quota=4)
    while hand.session.training:
        hand.step()
    hand.answers()
    hand.commit(counted=True)
    ready, = hand.give(COMMITTED)
    assert (ready["type"], ready["version"]) == ("ready", 1)
    offer, = hand.train(version=1, weights=ready["weights"], quota=4)
    assert (offer["type"], offer["version"]) == ("offer", 1) and hand.session.training


# --- Connections break ----------------------------------------------------------------------------


def test_a_reconnect_in_the_middle_of_a_download_goes_on_where_it_stopped(hand, monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK_BYTES", len(TEXT) // 3)
    hand.meet()
    hand.welcome(token="9" * 64)
    hand.hear("blob", blob=JOB.text, bytes=len(TEXT), offset=0)
    hand.chunk(next(protocol.chunks(JOB.text, TEXT)))
    hand.lose()
    hello = hand.meet()
    assert hello["token"] == protocol.possession(
        protocol.name_of(b"9" * 64), hand.nonce, hello["nonce"])
    fetch, = hand.welcome()
    assert fetch == {"type": "fetch", "blob": JOB.text, "offset": len(TEXT) // 3}
    assert kinds(hand.give(TEXT, fetch["offset"])) == ["ready"]


def test_another_blob_makes_an_interrupted_one_forgotten(hand, monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK_BYTES", 100)
    hand.hold()
    hand.commit()
    hand.hear("blob", blob=protocol.name_of(COMMITTED), bytes=SIZE, offset=0)
    hand.chunk(next(protocol.chunks(protocol.name_of(COMMITTED), COMMITTED)))
    hand.lose()
    hand.meet()
    hand.welcome()
    fetch, = hand.hear("version", version=9, weights="1" * 64, step=0, counted=[])
    assert fetch["offset"] == 0 and hand.session.download.partial is None


@pytest.mark.parametrize("offset", [0, 100, SIZE])
def test_a_reconnect_in_the_middle_of_an_upload_goes_on_where_it_stopped(hand, offset):
    first, = hand.offering()
    hand.hear("send", blob=hand.update, offset=0)
    hand.effects()
    hand.lose()
    hand.meet()
    again, = hand.welcome()
    assert again == first
    hand.effects()
    hand.hear("send", blob=hand.update, offset=offset)
    assert hand.last() == effects.Upload(hand.update, b"\1" * SIZE, offset)


def test_an_upload_is_not_begun_twice(hand):
    hand.offering()
    hand.hear("send", blob=hand.update, offset=0)
    hand.effects()
    hand.hear("send", blob=hand.update, offset=0)
    hand.hear("send", blob="0" * 64, offset=0)
    assert hand.effects() == []


@pytest.mark.parametrize("counted, answer", [([], "offer"), ([1], "ready")])
def test_a_welcome_says_whether_the_last_update_counted(hand, counted, answer):
    hand.offering()
    hand.lose()
    hand.meet()
    assert kinds(hand.welcome(counted=counted)) == [answer]
    assert ("counted" in hand.learned) == bool(counted)
    assert hand.session.carried == (0 if counted else 256)


def test_an_update_of_another_identity_is_given_up(hand):
    """Offered by a peer that did not make it, it might count twice."""
    hand.offering()
    hand.lose()
    hand.meet()
    assert kinds(hand.welcome(token="9" * 64, counted=[])) == ["ready"]
    assert not hand.session.offers.updates and "counted" not in hand.learned
    assert any(one.kind == "given up" for one in hand.effects() if isinstance(one, effects.Say))


def test_what_counted_before_says_nothing_about_the_last_update(hand):
    hand.hold()
    hand.commit()
    held = hand.give(COMMITTED)[0]["weights"]
    hand.train(version=1, weights=held)
    hand.trained()
    hand.lose()
    hand.meet()
    assert kinds(hand.welcome(counted=[1])) == ["offer"]  # that was the one before


@pytest.mark.parametrize("order", [
    "made, then back", "back, then made", "made in between"])
def test_what_was_trained_when_the_connection_broke_is_offered_on_the_next(hand, order):
    hand.hold()
    hand.train()
    hand.step()
    hand.step()
    hand.will_make(b"\1" * SIZE)
    hand.slow.add("take")
    hand.lose()
    assert not hand.session.training and hand.effects() == []
    work, = hand.waiting  # an update of what there is
    assert work.what == "take"
    if order == "made, then back":
        assert hand.catch_up() == []  # to nobody
        hand.meet()
        offer, = hand.welcome()
    elif order == "made in between":
        hand.meet()
        assert hand.catch_up() == []
        offer, = hand.welcome()
    else:
        hand.meet()
        assert kinds(hand.welcome()) == ["ready"]
        assert hand.train() == []  # in its turn
        offer, = hand.catch_up()
    assert (offer["type"], offer["tokens"], offer["update"]) == ("offer", 128, hand.update)
    assert offer["steps"] == 2
    assert not hand.session.training and hand.session.carried == 128


def test_a_connection_that_breaks_before_the_first_step_leaves_no_update(hand):
    hand.hold()
    hand.train()
    hand.lose()
    assert not hand.session.training and hand.part is None
    hand.meet()
    assert kinds(hand.welcome()) == ["ready"] and not hand.session.offers.updates


@pytest.mark.parametrize("quota", [1, 2])
def test_a_step_that_ends_after_its_connection_is_part_of_the_next_update(hand, quota):
    hand.hold()
    hand.train()
    hand.will_make(b"\1" * SIZE)
    hand.lose()
    assert hand.step() == []
    hand.meet()
    assert kinds(hand.welcome()) == ["ready"]
    told = hand.train(quota=quota)
    while hand.session.training:
        told += hand.step()
    assert told[-1]["type"] == "offer"
    assert (told[-1]["steps"], told[-1]["tokens"]) == (quota, 64 * quota)


def test_what_is_done_for_a_connection_that_is_gone_is_not_said_to_the_next(hand):
    hand.hold()
    hand.commit()
    works = []
    hand.do = works.append  # from now on work takes its time
    hand.give(COMMITTED)
    hand.lose()
    hand.meet()
    del hand.do
    for work in works:
        hand.do(work)
    assert hand.answers() == [] and hand.session.held.version == 1
    ready, = hand.welcome()
    assert ready["version"] == 1


def test_a_network_that_was_being_built_when_the_connection_broke_is_built_anew(hand):
    hand.cache[JOB.text] = TEXT
    hand.meet()
    works = []
    hand.do = works.append
    hand.welcome()
    hand.lose()
    del hand.do
    hand.do(works[0])
    assert hand.learned == [] and hand.answers() == []
    assert kinds(hand.join()) == ["ready"] and hand.learned == ["begin"]


def test_a_run_that_was_over_when_the_connection_broke_is_over(hand):
    """A coordinator that has finished goes; that its peer was busy changes nothing."""
    hand.hold()
    hand.commit()
    hand.hear("finished", reason="all " + ESCAPES)
    assert hand.effects() == []
    hand.lose()
    assert hand.last() == effects.End("all redgnorw line")


def test_after_a_connection_nothing_is_answered(hand):
    hand.hold()
    hand.lose()
    hand.train()
    hand.chunk(b"")
    hand.act(hand.session.broken(protocol.ProtocolError("x"), hand.now))
    hand.act(hand.session.stop(hand.now))
    assert hand.answers() == [] and hand.effects() == [] and not hand.session.training
    assert hand.session.deadline == math.inf


def test_another_hive_at_the_same_address_is_met_as_a_stranger_and_trained_from_nothing():
    known = {"h": None, "other": None}
    hand = Hand(recall=lambda hive: known[hive])
    hand.offering()
    hand.lose()
    assert hand.meet(hive="other")["token"] is None
    other = {**JOB.as_json(), "hive": "other"}
    ready, = hand.welcome(job=other, token="5" * 64, counted=[9])
    assert ready["weights"] is None and not hand.session.offers.updates and not hand.session.carried
    assert hand.learned.count("begin") == 2 and "counted" not in hand.learned


def test_who_was_here_before_comes_back_as_who_it_was():
    hand = Hand(recall=lambda hive: Identity("7" * 64, f"ada of {hive}"))
    hello = hand.meet()
    assert hello["name"] == "ada of h" and hello["token"] == protocol.possession(
        protocol.name_of(b"7" * 64), hand.nonce, hello["nonce"])


# --- Verdicts -------------------------------------------------------------------------------------


def test_an_update_whose_verdict_never_came_is_offered_again(hand):
    first, = hand.offering()
    status = {"version": 0, "peers": 1, "loss": None, "val_loss": None}
    hand.wait(SILENCE_SECONDS)
    assert hand.hear("status", **status) == []
    hand.wait(1)
    assert hand.hear("status", **status) == [first]
    hand.hear("send", blob=hand.update, offset=0)
    hand.wait(10 * SILENCE_SECONDS)  # a slow link
    assert hand.hear("status", **status) == []
    hand.act(hand.session.uploaded(hand.update, hand.now))
    assert hand.hear("status", **status) == []
    hand.wait(SILENCE_SECONDS + 1)
    assert hand.hear("status", **status) == [first]


def test_the_time_that_a_fetch_takes_is_not_counted_as_silence_about_an_update(hand):
    hand.offering()
    hand.commit()
    hand.wait(2 * SILENCE_SECONDS)
    hand.give(COMMITTED)
    assert hand.hear("status", version=1, peers=1, loss=None, val_loss=None) == []


def test_a_late_update_comes_again_with_the_next(hand):
    hand.offering()
    ready, = hand.hear("verdict", version=0, verdict="late", reason="")
    assert ready["type"] == "ready" and hand.learned[-2:] == ["not counted", "rebase"]
    hand.train()
    offer, = hand.trained(b"\2" * SIZE)
    assert offer["tokens"] == 2 * 256
    hand.commit(counted=True)
    hand.give(COMMITTED)
    assert hand.session.carried == 0 and hand.learned[-2:] == ["counted", "rebase"]


def test_a_rejected_update_is_forgotten(hand):
    hand.offering()
    ready, = hand.hear("verdict", version=0, verdict="rejected", reason="no " + ESCAPES)
    assert ready["type"] == "ready"
    assert hand.learned[-3:] == ["not counted", "rebase", "forget"]
    assert hand.effects() == [effects.Say("rejected", "no redgnorw line")]
    hand.train()
    assert hand.trained()[0]["tokens"] == 256


def test_a_verdict_on_an_earlier_update_says_nothing_about_this_one(hand):
    hand.offering()
    assert hand.hear("verdict", version=7, verdict="rejected", reason="") == []
    assert hand.session.offers.updates and hand.learned == ["begin", "load"]


def test_an_update_that_did_not_count_in_the_round_stays_on_its_way(hand):
    hand.offering()
    hand.commit(counted=False)
    assert hand.give(COMMITTED) == []
    assert hand.session.offers.updates and "counted" not in hand.learned


@pytest.mark.parametrize("counted", [[], [1]])
def test_weights_as_a_whole_say_whether_the_last_update_counted(hand, counted):
    hand.offering()
    weights = b"\3" * len(WEIGHTS)
    hand.hear("version", version=5, weights=protocol.name_of(weights), step=9, counted=counted)
    assert kinds(hand.give(weights)) == (["ready"] if counted else ["offer"])
    assert ("counted" in hand.learned) == bool(counted)


# --- Weights --------------------------------------------------------------------------------------


def test_from_weights_that_nobody_else_has_it_never_trains(hand):
    hand.hold()
    hand.spoilt = True
    hand.commit()
    ready, = hand.give(COMMITTED)
    assert ready["weights"] is None and hand.learned == ["begin", "load"]
    hand.train()
    hand.train(version=1, weights=protocol.name_of(applied(WEIGHTS, COMMITTED)))
    assert hand.task is None and not hand.session.training
    assert kinds(hand.hear("version", version=1, weights=HASH, step=9, counted=[])) == ["fetch"]
    assert hand.give(WEIGHTS)[0]["weights"] == HASH


def test_who_missed_a_round_says_what_it_has(hand):
    hand.hold()
    ready, = hand.commit(version=2)
    assert (ready["type"], ready["version"], ready["weights"]) == ("ready", 0, HASH)


def test_a_commit_that_is_known_is_not_taken_twice(hand):
    hand.hold()
    hand.commit()
    hand.give(COMMITTED)
    assert hand.commit() == []


def interrupted(hand):
    """A download whose connection broke after its first chunk, and the question on the next."""
    hand.commit()
    hand.hear("blob", blob=protocol.name_of(COMMITTED), bytes=SIZE, offset=0)
    first, *more = protocol.chunks(protocol.name_of(COMMITTED), COMMITTED)
    hand.chunk(first)
    hand.lose()
    hand.meet()
    hand.welcome()
    fetch, = hand.commit()
    assert fetch["offset"] == 100 and len(more) > 1
    return more


def test_what_is_gone_takes_no_memory(hand, monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK_BYTES", 100)
    hand.hold()
    interrupted(hand)
    hand.hear("gone", blob=protocol.name_of(COMMITTED))
    assert hand.session.download.partial is None


def test_an_interrupted_download_goes_on_only_when_the_coordinator_says_so(hand, monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK_BYTES", 100)
    hand.hold()
    hand.chunk(interrupted(hand)[0])
    assert "nobody asked for" in hand.last().reason


def test_what_the_coordinator_no_longer_has_is_not_waited_for(hand):
    hand.hold()
    hand.commit()
    ready, = hand.hear("gone", blob=protocol.name_of(COMMITTED))
    assert (ready["type"], ready["version"]) == ("ready", 0)
    hand.hear("version", version=5, weights="1" * 64, step=0, counted=[])
    assert kinds(hand.hear("gone", blob="1" * 64)) == ["ready"]


def test_of_several_answers_only_the_newest_is_followed(hand):
    """While it fetched, it was told of newer weights, twice, and of a round that it cannot take."""
    hand.hold()
    assert kinds(hand.hear("version", version=5, weights="1" * 64, step=0, counted=[])) == ["fetch"]
    hand.commit(version=6)
    for version in (6, 7):
        hand.hear("version", version=version, weights=str(version) * 64, step=0, counted=[])
    fetch, = hand.hear("gone", blob="1" * 64)  # another question would make an end of these, too
    assert (fetch["type"], fetch["blob"]) == ("fetch", "7" * 64)


# --- Training breaks down -------------------------------------------------------------------------


def test_training_that_broke_down_begins_again_from_the_hives_weights_a_few_times(hand):
    hand.hold()
    for failure in range(1, MOST_FAILURES + 1):
        hand.train()
        hand.step()
        told = hand.break_down()
        assert not hand.session.training
        if failure < MOST_FAILURES:
            ready, = told
            assert (ready["version"], ready["weights"]) == (0, HASH)
            assert hand.learned[-2:] == ["begin", "load"]
            assert [one.kind for one in hand.effects()] == ["trouble", "network"]
    assert hand.last() == effects.Refuse("The loss became nan.") and told == []
    assert hand.part is None  # none of it is ever sent


def test_a_round_that_went_well_forgives_earlier_failures(hand):
    hand.hold()
    for _ in range(MOST_FAILURES):
        hand.train()
        hand.break_down()
        hand.train()
        hand.trained()
        hand.hear("verdict", version=0, verdict="late", reason="")
    assert not any(isinstance(one, effects.Refuse) for one in hand.effects())


# --- A coordinator that lies ----------------------------------------------------------------------

LIES = {
    "a codec nobody knows": lambda hand: hand.commit(codec="zip"),
    "an update that is too large": lambda hand: (hand.commit(), hand.hear(
        "blob", blob=protocol.name_of(COMMITTED), bytes=SIZE + 1, offset=0)),
    "an update that is too small": lambda hand: (hand.commit(update=b"12"), hand.give(b"12")),
    "weights of another size": lambda hand: (
        hand.hear("version", version=3, weights=protocol.name_of(b"1234"), step=0, counted=[]),
        hand.give(b"1234")),
    "weights that are too large": lambda hand: (
        hand.hear("version", version=3, weights="1" * 64, step=0, counted=[]),
        hand.hear("blob", blob="1" * 64, bytes=2**31, offset=0)),
    "another blob": lambda hand: (hand.commit(), hand.hear(
        "blob", blob="0" * 64, bytes=SIZE, offset=0)),
    "another blob that is gone": lambda hand: (hand.commit(), hand.hear("gone", blob="0" * 64)),
    "a damaged blob": lambda hand: (
        hand.commit(),
        hand.hear("blob", blob=protocol.name_of(COMMITTED), bytes=SIZE, offset=0),
        hand.chunk(next(protocol.chunks(protocol.name_of(COMMITTED), b"\7" * SIZE)))),
    "an empty blob": lambda hand: (hand.commit(), hand.hear(
        "blob", blob=protocol.name_of(COMMITTED), bytes=0, offset=0)),
    "a chunk that nobody asked for": lambda hand: hand.chunk(
        next(protocol.chunks(HASH, WEIGHTS))),
    "a chunk before its blob": lambda hand: (hand.commit(), hand.chunk(
        next(protocol.chunks(protocol.name_of(COMMITTED), COMMITTED)))),
    "half a chunk": lambda hand: (
        hand.commit(),
        hand.hear("blob", blob=protocol.name_of(COMMITTED), bytes=SIZE, offset=0),
        hand.chunk(b"\0" * 9)),
    "a message it should get itself": lambda hand: hand.hear("goodbye"),
    "a second welcome": lambda hand: hand.welcome(),
    "a blob without a question": lambda hand: hand.hear("blob", blob=HASH, bytes=4, offset=0),
    "no message": lambda hand: hand.act(
        hand.session.broken(protocol.ProtocolError("It is no message."), hand.now)),
    "a refusal": lambda hand: hand.hear("refused", reason="go " + ESCAPES),
    "too many words": lambda hand: [hand.commit(version=n) for n in range(1, MOST_KEPT + 3)],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_ends_the_conversation_with_one_clean_sentence_and_another_may_begin(hand, lie):
    hand.hold()
    LIES[lie](hand)
    effect = hand.last()
    assert isinstance(effect, effects.Leave)
    assert re.fullmatch(r"[\x20-\x7e]{5,200}", effect.reason)
    assert hand.session.held.version == 0 and len(hand.session.talk.inbox) <= MOST_KEPT
    hand.answers()
    assert hand.train() == [] and not hand.session.training  # it is over
    hand.lose()
    hand.meet()
    assert kinds(hand.welcome()) == ["ready"]


@pytest.mark.parametrize("kind", ["commit", "train"])
def test_a_flood_while_training_ends_the_training_and_the_conversation(hand, kind):
    hand.hold()
    hand.train()
    hand.step()
    for version in range(1, MOST_KEPT + 3):
        getattr(hand, kind)(version=version)
    assert hand.last() == effects.Leave("The coordinator says more than it hears.")
    assert not hand.session.training and hand.session.offers.updates[0].work.steps == 1


def test_an_interrupted_download_that_changes_its_size_begins_anew(hand, monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK_BYTES", 100)
    hand.hold()
    blob = protocol.name_of(COMMITTED)
    hand.commit()
    hand.hear("blob", blob=blob, bytes=SIZE - 1, offset=0)
    hand.chunk(next(protocol.chunks(blob, COMMITTED)))
    for offset in (100, 0):
        hand.lose()
        hand.meet()
        hand.welcome()
        fetch, = hand.commit()
        assert fetch["offset"] == offset
        if offset:
            hand.hear("blob", blob=blob, bytes=SIZE, offset=offset)
            assert isinstance(hand.effects()[-1], effects.Leave)
    assert kinds(hand.give(COMMITTED)) == ["ready"]


# --- Being refused --------------------------------------------------------------------------------

REFUSALS = {
    "the coordinator's word": (lambda hand: (hand.meet(), hand.hear("refused", reason="no "
                                             + ESCAPES)), "no redgnorw line"),
    "its word before any other": (lambda hand: (hand.act(hand.session.connected(hand.now)),
                                                hand.hear("refused", reason="no")), "no"),
    "another version": (lambda hand: hand.meet(protocol=protocol.VERSION + 1),
                        "update the peer"),
    "a wrong proof": (lambda hand: (hand.meet(), hand.welcome(proof="0" * 64)), "another hive"),
    "a job of another kind": (lambda hand: (hand.meet(), hand.welcome(job={"x": 1})),
                              "cannot be used"),
    "a wrong order": (lambda hand: (hand.meet(), hand.hear("gone", blob="0" * 64)),
                      "does not send gone messages now"),
    "a damaged text": (lambda hand: (hand.meet(), hand.welcome(), hand.give(TEXT[1:])),
                       "answers another question"),
    "too large a text": (lambda hand: (hand.meet(), hand.welcome(), hand.hear(
        "blob", blob=JOB.text, bytes=2**30, offset=0)), "at most"),
}


@pytest.mark.parametrize("how", REFUSALS)
def test_what_goes_wrong_before_the_peer_is_in_is_final(hand, how):
    talk, sentence = REFUSALS[how]
    talk(hand)
    refuse = [one for one in hand.effects() if not isinstance(one, effects.Keep)][-1]
    assert isinstance(refuse, effects.Refuse) and sentence in refuse.reason
    assert re.fullmatch(r"[\x20-\x7e]+", refuse.reason)


def test_a_key_for_a_hive_without_one_is_questioned_before_it_is_shown():
    hand = Hand(key="secret")
    assert hand.meet() is None
    assert "needs no key" in hand.last().reason


def test_a_machine_that_is_too_small_says_so_before_anything_is_fetched(hand):
    def too_small(work):
        assert work.what == "text" and work.values == (JOB,)
        hand.act(hand.session.failed(work.ticket, GltchError("It takes too much."), hand.now))

    hand.do = too_small
    hand.meet()
    assert hand.welcome() == []
    assert hand.last() == effects.Refuse("It takes too much.")


# --- Silence, and leaving -------------------------------------------------------------------------


def test_a_coordinator_that_says_nothing_is_left(hand):
    hand.hold()
    assert hand.session.deadline == hand.now.steady + SILENCE_SECONDS
    hand.wait(SILENCE_SECONDS - 1)
    hand.act(hand.session.wake(hand.now))
    assert hand.effects() == []
    hand.hear("status", version=0, peers=1, loss=None, val_loss=None)
    hand.wait(SILENCE_SECONDS - 1)
    hand.act(hand.session.wake(hand.now))
    assert hand.effects() == []
    hand.wait(1)
    hand.act(hand.session.wake(hand.now))
    assert hand.last() == effects.Leave("the coordinator has gone silent")


def test_a_silent_coordinator_is_left_during_the_handshake_too(hand):
    hand.act(hand.session.connected(hand.now))
    hand.wait(SILENCE_SECONDS)
    hand.act(hand.session.wake(hand.now))
    assert hand.last() == effects.Leave("the coordinator has gone silent")


def test_who_trains_does_not_mind_silence(hand):
    hand.hold()
    hand.train()
    hand.wait(100 * SILENCE_SECONDS)
    assert hand.session.deadline == math.inf
    hand.act(hand.session.wake(hand.now))
    assert kinds(hand.trained()) == ["offer"] and hand.effects() == []
    assert hand.session.deadline == hand.now.steady + SILENCE_SECONDS


def test_only_who_takes_part_says_goodbye(hand):
    hand.meet()
    hand.act(hand.session.stop(hand.now))
    assert hand.answers() == []
    hand.lose()
    hand.join()
    hand.act(hand.session.stop(hand.now))
    assert kinds(hand.answers()) == ["goodbye"]


def test_a_connection_is_a_good_one_once_there_is_something_to_do(hand):
    hand.join()
    hand.hear("status", version=0, peers=1, loss=None, val_loss=None)
    assert hand.settled == 0
    hand.train()
    hand.train()
    assert hand.settled == 1


def test_a_process_is_the_same_one_on_all_its_connections(hand):
    first = hand.meet()["process"]
    hand.lose()
    assert hand.meet()["process"] == first


# --- Parts of the weights -------------------------------------------------------------------------

def test_each_round_trains_and_takes_its_own_part_of_the_weights():
    job = make(TEXT.decode(), sync=replace(JOB.sync, fragments=3))
    parts = Fragments(PARAMETERS, 3)
    hand = Hand()
    hand.meet()
    hand.welcome(job)
    hand.give(TEXT)
    hand.hear("version", version=0, weights=HASH, step=0, counted=[])
    hand.give(WEIGHTS)
    weights = WEIGHTS
    for number in range(1, 6):
        hand.train(version=number - 1, weights=protocol.name_of(weights))
        update = bytes(CODECS["q4"].size(parts.values(number)))
        hand.trained(update)
        assert (hand.part, hand.walked) == (parts.of_round(number), 4)
        weights = applied(weights, update)
        hand.hear("commit", version=number, weights=protocol.name_of(weights), codec="q4",
                  step=number, update=protocol.name_of(update), bytes=len(update), counted=True,
                  follows=False)
        ready, = hand.give(update)
        assert (ready["version"], ready["weights"]) == (number, protocol.name_of(weights))


def test_an_update_as_long_as_that_of_another_part_is_refused():
    hand = Hand()
    hand.meet()
    hand.welcome(make(TEXT.decode(), sync=replace(JOB.sync, fragments=3)))
    hand.give(TEXT)
    hand.hear("version", version=0, weights=HASH, step=0, counted=[])
    hand.give(WEIGHTS)
    update = bytes(SIZE)
    hand.hear("commit", version=1, weights=HASH, codec="q4", step=1,
              update=protocol.name_of(update), bytes=SIZE, counted=False, follows=False)
    hand.hear("blob", blob=protocol.name_of(update), bytes=SIZE, offset=0)
    assert isinstance(hand.last(), effects.Leave)
