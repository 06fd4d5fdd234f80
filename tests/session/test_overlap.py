"""A peer that goes on training while its update travels, and takes what the round made of it."""
from dataclasses import replace

import pytest
from builders import make_job
from hand import HASH, JOB, PARAMETERS, SIZE, TEXT, WEIGHTS, Hand, applied, kinds

from hive.learning.codec import CODECS
from hive.learning.fragments import Fragments
from hive.session import effects, protocol
from hive.session.peer_session import SILENCE_SECONDS
from hive.session.rounds import AHEAD

OVERLAP = make_job(TEXT.decode(), sync=replace(JOB.sync, overlap=True))
FIRST = b"\1" * SIZE  # the peer's first update, and what the round makes of it
SECOND, ROUND = b"\2" * SIZE, b"\3" * SIZE
NEXT = protocol.name_of(applied(WEIGHTS, ROUND))


@pytest.fixture
def hand():
    """It holds the weights of version 0."""
    hand = Hand()
    hand.hold(OVERLAP)
    hand.learned.clear()
    return hand


def offer(hand, update=FIRST, ahead=0):
    """A task, its steps, and `ahead` more while the update travels; the offer."""
    hand.will_make(update)
    hand.train(quota=4)
    told = [said for _ in range(4) for said in hand.step()]
    for _ in range(ahead):
        told += hand.step()
    return [said for said in told if said["type"] == "offer"][0]


def uploads(hand):
    return [one for one in hand.effects() if isinstance(one, effects.Upload)]


def reconnect(hand, **welcome):
    hand.lose()
    hand.meet()
    return hand.welcome(OVERLAP, **welcome)


# --- While an update travels ----------------------------------------------------------------------

def test_an_update_goes_out_along_with_its_offer_and_training_goes_on(hand):
    assert offer(hand)["follows"] is True
    assert uploads(hand) == [effects.Upload(hand.update, FIRST, 0)]
    assert hand.session.training
    hand.step(), hand.step()
    assert hand.session.progress.steps == 2 and hand.session.offers.updates[0].work.steps == 4
    assert not uploads(hand), "one at a time"


def test_an_update_that_came_along_is_sent_again_when_it_had_to_wait(hand):
    offer(hand)
    hand.effects()
    hand.hear("send", blob=hand.update, offset=0)
    assert uploads(hand) == [effects.Upload(hand.update, FIRST, 0)]
    hand.hear("send", blob=hand.update, offset=0)
    assert not uploads(hand), "once is enough"


def test_the_next_update_waits_until_the_last_one_is_settled(hand):
    offer(hand, ahead=6)
    assert hand.session.offers.updates[0].blob == protocol.name_of(FIRST)
    hand.commit(update=ROUND, counted=True, follows=True)
    hand.give(ROUND)
    hand.will_make(SECOND)
    told = hand.train(version=1, weights=NEXT, quota=4)
    assert kinds(told) == ["offer"], "its steps are made already"
    assert (told[0]["version"], told[0]["update"]) == (1, protocol.name_of(SECOND))
    assert told[0]["steps"] == 6 and hand.session.training


# --- The commit -----------------------------------------------------------------------------------

def test_a_commit_whose_content_follows_is_not_asked_for_and_leads_to_the_next_task(hand):
    offer(hand, ahead=2)
    assert hand.commit(update=ROUND, counted=True, follows=True) == []
    assert hand.give(ROUND) == []
    assert hand.learned == ["counted", "rebase"]
    assert hand.session.held[:2] == (1, NEXT)
    assert not hand.session.offers.updates and hand.session.carried == 0
    assert hand.session.progress.steps == 2, "what was made meanwhile belongs to the next update"
    hand.train(version=1, weights=NEXT, quota=4)
    assert hand.step() == [] and kinds(hand.step()) == ["offer"]


def test_training_goes_on_while_a_commit_arrives(hand, monkeypatch):
    monkeypatch.setattr(protocol, "CHUNK_BYTES", SIZE // 2)
    offer(hand)
    hand.commit(update=ROUND, counted=True, follows=True)
    hand.hear("blob", blob=protocol.name_of(ROUND), bytes=SIZE, offset=0)
    for chunk in protocol.chunks(protocol.name_of(ROUND), ROUND):
        assert hand.session.training
        hand.step()
        hand.chunk(chunk)
    assert hand.session.held.version == 1 and hand.session.progress.steps == 2


def test_no_update_is_made_of_a_base_that_is_about_to_change(hand):
    """The commit is being applied: what would be made now would start from old weights."""
    hand.train(quota=4)
    hand.commit(update=ROUND)
    hand.slow.add("apply")
    hand.give(ROUND)
    told = [said for _ in range(5) for said in hand.step()]
    assert "offer" not in kinds(told)
    assert kinds(hand.catch_up()) == ["ready"]


def test_who_missed_the_round_fetches_the_commit_and_says_that_it_is_ready(hand):
    hand.train(quota=4)
    hand.step(), hand.step()
    fetch, = hand.commit(update=ROUND)
    assert (fetch["type"], fetch["blob"]) == ("fetch", protocol.name_of(ROUND))
    assert hand.session.training
    ready, = hand.give(ROUND)
    assert (ready["type"], ready["version"], ready["weights"]) == ("ready", 1, NEXT)
    assert hand.learned == ["rebase"] and hand.session.progress.steps == 2
    assert "offer" not in kinds([said for _ in range(4) for said in hand.step()]), "no task yet"
    hand.will_make(FIRST)
    told, = hand.train(version=1, weights=NEXT, quota=4)
    assert (told["version"], told["steps"]) == (1, 6)


def test_a_commit_rebases_the_part_that_its_round_changed():
    job = make_job(TEXT.decode(), sync=replace(JOB.sync, overlap=True, fragments=3))
    parts, rebased = Fragments(PARAMETERS, 3), []
    hand = Hand()
    hand.do_rebase = lambda weights, part: rebased.append(part)
    hand.hold(job)
    weights = WEIGHTS
    for number in (1, 2, 3, 4):
        hand.train(version=number - 1, weights=protocol.name_of(weights), quota=1)
        update = bytes([number]) * CODECS["q4"].size(parts.values(number))
        hand.will_make(update)
        hand.step()
        weights = applied(weights, update)
        hand.commit(number, update, protocol.name_of(weights), counted=True, follows=True)
        hand.give(update)
        assert hand.part == rebased[-1] == parts.of_round(number)
    assert hand.session.held.version == 4


def test_weights_that_came_out_otherwise_are_told_even_if_a_task_was_to_follow(hand):
    offer(hand)
    hand.spoilt = True
    hand.commit(update=ROUND, counted=True, follows=True)
    ready, = hand.give(ROUND)
    assert (ready["type"], ready["weights"]) == ("ready", None)


# --- An update that does not count ----------------------------------------------------------------

def test_a_late_update_stays_in_the_error_feedback_and_its_part_is_as_the_hive_has_it(hand):
    offer(hand, ahead=1)
    ready, = hand.hear("verdict", version=0, verdict="late", reason="")
    assert ready["type"] == "ready"
    assert hand.learned == ["not counted", "rebase"]
    assert not hand.session.offers.updates and hand.session.progress.steps == 1
    hand.will_make(SECOND)
    hand.train(quota=4)
    told = [said for _ in range(3) for said in hand.step()]
    assert told[-1]["tokens"] == (4 + 4) * 64, "those of the late update come along"


def test_a_rejected_update_never_comes_again(hand):
    offer(hand)
    ready, = hand.hear("verdict", version=0, verdict="rejected", reason="no")
    assert ready["type"] == "ready"
    assert "forget" in hand.learned and hand.session.carried == 0


# --- Connections break ----------------------------------------------------------------------------

def test_a_broken_connection_loses_neither_the_update_nor_what_was_made_meanwhile(hand):
    offer(hand, ahead=3)
    again, = reconnect(hand)
    assert (again["type"], again["update"], again["follows"]) == ("offer", hand.update, False)
    assert not hand.session.training
    hand.effects()
    hand.hear("send", blob=hand.update, offset=7)
    assert uploads(hand) == [effects.Upload(hand.update, FIRST, 7)]
    hand.commit(update=ROUND, counted=True)
    assert kinds(hand.give(ROUND)) == ["ready"]
    hand.will_make(SECOND)
    hand.train(version=1, weights=NEXT, quota=4)
    told, = hand.step()
    assert (told["steps"], told["tokens"]) == (4, 4 * 64)


def test_steps_of_a_broken_connection_come_with_the_next_update(hand):
    hand.train(quota=4)
    hand.step(), hand.step(loss=5.0)
    assert kinds(reconnect(hand)) == ["ready"] and hand.part is None, "none was made of them"
    hand.will_make(FIRST)
    hand.train(quota=4)
    told = [said for _ in range(2) for said in hand.step()]
    assert (told[-1]["steps"], told[-1]["tokens"], told[-1]["loss"]) == (4, 256, 3.5)


def test_an_update_that_counted_while_the_connection_was_broken_is_not_offered_again(hand):
    offer(hand, ahead=1)
    assert kinds(reconnect(hand, counted=[1])) == ["ready"]
    assert hand.learned == ["counted"] and hand.session.progress.steps == 1


def test_after_a_long_absence_the_whole_weights_come_and_what_was_made_stays(hand):
    """Its host keeps the progress when it loads the weights: `Learner.load` absorbs it."""
    offer(hand, ahead=2)
    reconnect(hand)
    whole = b"\7" * len(WEIGHTS)
    name = protocol.name_of(whole)
    hand.hear("version", version=90, weights=name, step=9, counted=[1])
    assert [(said["type"], said["version"]) for said in hand.give(whole)] == [("ready", 90)]
    assert hand.learned == ["counted", "load"] and hand.session.carried == 0
    hand.will_make(SECOND)
    hand.train(version=90, weights=name, quota=3)
    told, = hand.step()
    assert (told["version"], told["steps"], told["tokens"]) == (90, 3, 3 * 64)


# --- What else may happen -------------------------------------------------------------------------

def test_an_update_on_its_way_may_count_although_training_broke_down_behind_it(hand):
    offer(hand, ahead=1)
    assert hand.break_down() == [], "it hears first what becomes of that update"
    assert hand.learned == ["begin", "load"] and not hand.session.training
    assert hand.session.carried == 4 * 64 and hand.session.progress.steps == 0
    assert hand.commit(update=ROUND, counted=True, follows=True) == []
    assert hand.give(ROUND) == [] and hand.session.held[:2] == (1, NEXT)
    assert not hand.session.offers.updates and hand.session.carried == 0


def test_what_did_not_count_is_lost_when_training_broke_down_behind_it(hand):
    """The error feedback that kept it began anew."""
    offer(hand, ahead=1)
    hand.break_down()
    ready, = hand.hear("verdict", version=0, verdict="late", reason="")
    assert (ready["type"], ready["version"], ready["weights"]) == ("ready", 0, HASH)
    assert not hand.session.offers.updates and hand.session.carried == 0
    hand.will_make(SECOND)
    hand.train(quota=4)
    told = [said for _ in range(4) for said in hand.step()]
    assert (told[-1]["update"], told[-1]["tokens"]) == (hand.update, 4 * 64)


def test_after_a_breakdown_no_update_is_taken_for_the_one_before(hand):
    """The coordinator does not know of the breakdown, and a commit names no update: there must not
    be two of the same part at once."""
    offer(hand)
    hand.break_down()
    hand.train(quota=4)
    assert not hand.session.training
    hand.commit(update=ROUND, counted=True, follows=True)
    hand.give(ROUND)
    assert hand.session.carried == hand.session.progress.tokens == 0, "the first one counted"
    hand.will_make(SECOND)
    hand.train(version=1, weights=NEXT, quota=4)
    told = [said for _ in range(4) for said in hand.step()]
    assert (told[-1]["version"], told[-1]["update"]) == (1, hand.update)


def test_who_loses_its_connection_after_a_breakdown_still_knows_its_updates_and_weights(hand):
    offer(hand)
    hand.slow.add("text")
    hand.break_down()
    hand.lose()
    hand.meet()
    hand.slow.clear()
    again, = hand.welcome(OVERLAP)
    assert (again["type"], again["update"]) == ("offer", hand.update)
    assert hand.learned == ["begin", "load"] and hand.session.held[:2] == (0, HASH)
    assert kinds(reconnect(hand, counted=[1])) == ["ready"]
    assert hand.learned == ["begin", "load", "counted"] and hand.session.carried == 0


def test_what_is_fetched_comes_first_when_training_breaks_down(hand):
    """The text may have to be fetched, too, and a peer fetches one thing at a time."""
    hand.train(quota=4)
    fetch, = hand.commit(update=ROUND)
    hand.cache.clear()
    assert hand.break_down() == []
    fetch, = hand.give(ROUND)
    assert (fetch["type"], fetch["blob"]) == ("fetch", OVERLAP.text)
    ready, = hand.give(TEXT)
    assert (ready["version"], ready["weights"]) == (1, NEXT)


def test_silence_is_noticed_while_training(hand):
    hand.train(quota=10**6)
    assert hand.session.deadline == hand.now.steady + SILENCE_SECONDS
    for _ in range(9):
        hand.wait(SILENCE_SECONDS / 10)
        hand.step()
        hand.act(hand.session.wake(hand.now))
    assert hand.session.training
    hand.wait(SILENCE_SECONDS / 10)
    hand.effects()
    hand.act(hand.session.wake(hand.now))
    assert hand.last() == effects.Leave("the coordinator has gone silent")
    assert not hand.session.training and hand.session.progress.steps == 9


def test_who_hears_nothing_of_its_update_rests_and_goes_on_with_the_verdict(hand):
    offer(hand, ahead=AHEAD)
    assert hand.session.progress.steps == AHEAD and hand.session.training
    for _ in range(4):
        hand.step()
    assert not hand.session.training
    hand.hear("verdict", version=0, verdict="late", reason="")
    hand.will_make(SECOND)
    told = hand.train(quota=4)
    assert kinds(told) == ["offer"] and told[0]["steps"] == AHEAD + 4 and hand.session.training


def test_the_run_ends_in_the_middle_of_training(hand):
    offer(hand, ahead=1)
    hand.effects()
    hand.hear("finished", reason="enough")
    assert hand.effects() == [effects.End("enough")] and not hand.session.training


def test_who_never_stops_training_notices_silence_between_two_steps(hand):
    """Such a peer never waits, so nothing wakes it."""
    hand.train(quota=10**6)
    hand.wait(SILENCE_SECONDS - 1)
    hand.step()
    assert hand.session.training
    hand.effects()
    hand.wait(1)
    hand.step()
    assert hand.last() == effects.Leave("the coordinator has gone silent")
    assert not hand.session.training


# --- Several updates at once ----------------------------------------------------------------------

SEVERAL = make_job(TEXT.decode(), sync=replace(JOB.sync, overlap=True, fragments=3, in_flight=2))
PARTS = Fragments(PARAMETERS, 3)


def of_part(number, value):
    """An update of the part that a round changes."""
    return bytes([value]) * CODECS["q4"].size(PARTS.values(number))


@pytest.fixture
def pair():
    """Two updates of it are on their way, one step each: of rounds 1 and 2."""
    hand = Hand()
    hand.hold(SEVERAL)
    hand.learned.clear()
    hand.will_make(of_part(1, 1))
    hand.train(quota=1)
    hand.offers = hand.step()
    assert hand.part == PARTS.of_round(1)
    hand.will_make(of_part(2, 2))
    hand.offers += hand.step()
    assert hand.part == PARTS.of_round(2)
    hand.offers = [said for said in hand.offers if said["type"] == "offer"]
    hand.blobs = [said["update"] for said in hand.offers]
    return hand


def come_back(hand, **welcome):
    hand.lose()
    hand.meet()
    hand.effects()
    return hand.welcome(SEVERAL, **welcome)


def test_the_next_update_goes_out_while_the_commit_of_the_last_is_awaited(pair):
    told = [(said["version"], said["base"], said["weights"], said["steps"]) for said in pair.offers]
    assert told == [(0, 0, HASH, 1), (1, 0, HASH, 1)]
    assert [one.content for one in uploads(pair)] == [of_part(1, 1), of_part(2, 2)]
    assert pair.step() == [] and pair.session.training, "no third one"
    assert pair.session.carried == 2 * 64


def test_a_commit_settles_the_update_of_its_part_and_makes_room_for_the_next(pair):
    pair.step()
    update = of_part(1, 9)
    weights = protocol.name_of(applied(WEIGHTS, update))
    pair.commit(update=update, weights=weights, counted=True, follows=True)
    pair.give(update)
    assert pair.learned == ["counted", "rebase"]
    assert [one.blob for one in pair.session.offers.updates] == pair.blobs[1:]
    pair.will_make(of_part(3, 3))
    told, = pair.train(version=1, weights=weights, quota=1)
    assert (told["version"], told["base"], told["weights"]) == (2, 1, weights)
    assert (told["steps"], told["tokens"]) == (1, 64) and pair.part == PARTS.of_round(3)


def test_one_of_two_updates_may_come_late(pair):
    ready, = pair.hear("verdict", version=0, verdict="late", reason="")
    assert ready["type"] == "ready" and pair.learned == ["not counted", "rebase"]
    assert [one.blob for one in pair.session.offers.updates] == pair.blobs[1:]
    assert pair.session.carried == 2 * 64, "it comes with the next one"


def test_of_two_updates_one_may_be_rejected_and_only_the_other_is_kept(pair):
    forgotten = []
    pair.do_forget = forgotten.extend
    pair.hear("verdict", version=0, verdict="rejected", reason="no")
    assert forgotten == [PARTS.of_round(1), PARTS.of_round(3)]
    assert pair.session.carried == 64


def test_a_round_that_an_update_missed_gets_another_although_that_of_the_next_is_there(pair):
    """Or nobody brings one for it, and those for the next one wait for ever."""
    pair.hear("verdict", version=0, verdict="late", reason="the coordinator began again")
    pair.effects()
    pair.will_make(of_part(1, 3))
    told, = [*pair.train(quota=1), *pair.step()]
    assert (told["type"], told["version"], told["steps"]) == ("offer", 0, 1)
    assert told["tokens"] == 2 * 64, "with the work of the one that was late"
    assert [one.version for one in pair.session.offers.updates] == [0, 1]
    pair.lose()
    pair.meet()
    first, = [said for said in pair.welcome(SEVERAL) if said["type"] == "offer"]
    assert first["version"] == 0, "they go in order"


def test_after_a_break_the_second_update_is_offered_when_the_first_is_on_the_wire(pair):
    told, = come_back(pair)
    assert (told["update"], told["follows"]) == (pair.blobs[0], False)
    told, = pair.hear("send", blob=pair.blobs[0], offset=5)
    assert (told["update"], told["follows"]) == (pair.blobs[1], True)
    assert [(one.blob, one.offset) for one in uploads(pair)] == [(pair.blobs[0], 5),
                                                                 (pair.blobs[1], 0)]


def test_after_a_break_the_second_update_is_offered_when_the_first_is_there_already(pair):
    come_back(pair)
    told, = pair.hear("verdict", version=0, verdict="accepted", reason="")
    assert told["update"] == pair.blobs[1]


def test_an_update_that_had_to_wait_is_followed_again_by_those_after_it(pair):
    pair.effects()
    told, = pair.hear("send", blob=pair.blobs[0], offset=0)
    assert (told["update"], told["follows"]) == (pair.blobs[1], True)
    assert [one.blob for one in uploads(pair)] == pair.blobs


@pytest.mark.parametrize("counted, left", [([], [0, 1]), ([1], [1]), ([2], [0]), ([1, 2], [])])
def test_a_welcome_says_of_each_update_whether_it_counted(pair, counted, left):
    told = come_back(pair, counted=counted)
    assert [one.blob for one in pair.session.offers.updates] == [pair.blobs[i] for i in left]
    assert pair.learned.count("counted") == len(counted)
    assert [said["update"] for said in told if said["type"] == "offer"] == [
        pair.blobs[i] for i in left[:1]]


def test_who_has_only_updates_of_later_rounds_on_their_way_says_that_it_is_there(pair):
    """Otherwise a round would begin without it, and one that it is alone in never would."""
    told = come_back(pair, counted=[1])
    assert [said["type"] for said in told] == ["offer", "ready"]
