"""Rounds: each update counts once or not at all, nobody waits for ever, all start from the same."""
import copy
import math
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from hive.session.rounds import (
    ACCEPTED,
    BUSY,
    FASTEST_STEP,
    LATE,
    LEAST_PATIENCE,
    REJECTED,
    STALEST,
    Pace,
    Rounds,
)

NOW = 1000.0


def hash_of(version):
    return f"weights-{version}"


def make_rounds(*peers, version=0, least=1, quota=4, **pace):
    """An open round in which these members are ready."""
    rounds = Rounds(version, hash_of(version), Pace(**{"seconds": 60.0, **pace}), least)
    rounds.open_round(version, hash_of(version), quota)
    for peer in peers:
        arrive(rounds, peer)
    return rounds


def arrive(rounds, peer):
    rounds.join(peer)
    assert rounds.ready(peer, rounds.version, rounds.weights)


def offer(rounds, peer, *, now=NOW, version=None, weights=None, steps=4):
    version = rounds.version if version is None else version
    return rounds.offer(peer, version, weights or hash_of(version), steps, now).verdict


def deliver(rounds, peer, now, *, version=None, weights=None, steps=4):
    version = rounds.version if version is None else version
    return rounds.deliver(peer, version, weights or hash_of(version), steps, now).verdict


def commit(rounds, quota=4):
    rounds.open_round(rounds.version + 1, hash_of(rounds.version + 1), quota)


def finish_round(rounds, now, *peers):
    """These peers train and deliver at this moment; the next round begins."""
    for peer in peers:
        rounds.ready(peer, rounds.version, rounds.weights)
    rounds.tasks(now)
    for peer in peers:
        assert deliver(rounds, peer, now + 2) == ACCEPTED
    assert rounds.close(max(now + 2, rounds.deadline))
    commit(rounds)


# --------------------------------------------------------------------------------------------------
# A round from its beginning to its end
# --------------------------------------------------------------------------------------------------

def test_a_round_closes_as_soon_as_all_have_delivered():
    rounds = make_rounds("a", "b")
    assert set(rounds.tasks(NOW)) == {"a", "b"}
    assert offer(rounds, "a") == ACCEPTED
    assert deliver(rounds, "a", NOW + 1) == ACCEPTED
    assert not rounds.close(NOW + 1)
    assert deliver(rounds, "b", NOW + 2) == ACCEPTED
    assert rounds.close(NOW + 2)


def test_a_round_closes_at_its_deadline_without_those_who_are_missing():
    rounds = make_rounds("a", "b")
    rounds.tasks(NOW)
    deliver(rounds, "a", NOW + 1)
    assert not rounds.close(rounds.deadline - 0.01)
    assert rounds.close(rounds.deadline)


def test_a_round_never_closes_without_an_update():
    rounds = make_rounds("a")
    rounds.tasks(NOW)
    assert not rounds.close(NOW + 1e9)
    rounds.leave("a")
    assert not rounds.close(NOW + 2e9)


def test_a_round_closes_once():
    rounds = make_rounds("a")
    rounds.tasks(NOW)
    deliver(rounds, "a", NOW + 1)
    assert [rounds.close(NOW + 1), rounds.close(NOW + 1), rounds.close(NOW + 1e6)] == [
        True, False, False]


def test_a_closed_round_takes_nothing_and_gives_no_tasks():
    rounds = make_rounds("a", "b")
    rounds.tasks(NOW)
    deliver(rounds, "a", NOW + 1)
    assert rounds.close(rounds.deadline)
    arrive(rounds, "c")
    assert offer(rounds, "b") == deliver(rounds, "b", rounds.deadline) == LATE
    assert rounds.tasks(rounds.deadline) == {}
    assert rounds.delivered == ["a"]


def test_a_round_of_which_nothing_could_be_used_goes_on():
    rounds = make_rounds("a")
    rounds.tasks(NOW)
    deliver(rounds, "a", NOW + 1)
    assert rounds.close(NOW + 1)
    rounds.reject("a")
    rounds.reopen()
    assert not rounds.close(NOW + 1e6)
    assert rounds.ready("a", 0, hash_of(0))
    later = rounds.tasks(NOW + 1e6)
    assert later["a"].seconds > 0
    assert deliver(rounds, "a", NOW + 1e6 + 1) == ACCEPTED
    assert rounds.close(NOW + 1e6 + 1)


def test_a_round_begins_only_when_enough_are_ready():
    rounds = make_rounds("a", "b", least=3)
    assert rounds.tasks(NOW) == {}
    arrive(rounds, "c")
    assert set(rounds.tasks(NOW + 5)) == {"a", "b", "c"}
    rounds.leave("b")
    arrive(rounds, "d")
    assert set(rounds.tasks(NOW + 6)) == {"d"}, "the round is open: enough were there"


def test_each_member_gets_its_task_once():
    rounds = make_rounds("a", "b")
    assert len(rounds.tasks(NOW)) == 2
    assert rounds.tasks(NOW + 1) == {}


def test_who_comes_in_the_middle_trains_as_long_as_the_others():
    rounds = make_rounds("a", seconds=10.0)
    first = rounds.tasks(NOW)["a"]
    arrive(rounds, "b")
    second = rounds.tasks(NOW + 4)["b"]
    assert (first.seconds, second.seconds) == (10, 6)
    assert first.quota == second.quota and first.version == second.version == 0
    arrive(rounds, "c")
    assert rounds.tasks(NOW + 11)["c"].seconds == 0, "there is still time for a transfer"


def test_when_all_who_had_a_task_are_gone_the_next_gets_the_whole_time():
    rounds = make_rounds("a", seconds=10.0)
    rounds.tasks(NOW)
    rounds.leave("a")
    arrive(rounds, "b")
    assert rounds.tasks(NOW + 100)["b"].seconds == 10
    assert rounds.deadline > NOW + 110


# --------------------------------------------------------------------------------------------------
# Which weights, which updates
# --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("version, weights", [(2, hash_of(2)), (4, hash_of(4)), (3, hash_of(2))])
def test_only_members_with_the_weights_of_the_round_are_ready(version, weights):
    rounds = make_rounds(version=3)
    rounds.join("a")
    assert not rounds.ready("a", version, weights)
    assert rounds.tasks(NOW) == {}
    assert rounds.members["a"].state == "joining"


def test_an_update_from_other_weights_is_rejected():
    rounds = make_rounds("a", version=3)
    rounds.tasks(NOW)
    assert offer(rounds, "a", weights="something else") == REJECTED
    assert deliver(rounds, "a", NOW + 1, weights="something else") == REJECTED
    assert offer(rounds, "a", version=4) == REJECTED, "a version that is not there yet"
    finish_round(rounds, NOW, "a")
    assert offer(rounds, "a", version=3, weights="something else") == REJECTED
    assert rounds.delivered == []


def test_an_update_counts_once_in_a_round():
    rounds = make_rounds("a", "b")
    rounds.tasks(NOW)
    assert deliver(rounds, "a", NOW + 1) == ACCEPTED
    assert deliver(rounds, "a", NOW + 1) == offer(rounds, "a") == REJECTED
    assert rounds.delivered == ["a"]


def test_more_steps_than_anybody_was_asked_for_are_rejected():
    rounds = make_rounds("a", quota=80, longest=50)
    rounds.tasks(NOW)
    assert offer(rounds, "a", steps=80) == ACCEPTED
    assert offer(rounds, "a", steps=81) == REJECTED


def test_more_steps_than_that_very_round_asked_for_are_rejected():
    """Found by an attacker: 50 steps were believed in a round of 4, so the run was soon over."""
    rounds = make_rounds("a", "slow", quota=4)
    rounds.tasks(NOW)
    assert offer(rounds, "a", steps=5) == REJECTED
    finish_round(rounds, NOW, "a")
    commit(rounds, quota=20)
    arrive(rounds, "a")
    rounds.tasks(NOW + 100)
    assert offer(rounds, "a", steps=20) == ACCEPTED
    assert offer(rounds, "slow", version=0, steps=20) == REJECTED
    assert offer(rounds, "slow", version=0, steps=4) == ACCEPTED


@pytest.mark.parametrize("stale", range(1, STALEST + 1))
def test_an_update_that_missed_its_round_counts_in_a_later_one(stale):
    rounds = make_rounds("fast", "slow")
    rounds.tasks(NOW)
    for number in range(stale):
        finish_round(rounds, NOW + 100 * number, "fast")
    assert rounds.version == stale
    assert deliver(rounds, "slow", NOW + 1000, version=0) == ACCEPTED
    assert "slow" in rounds.delivered


def test_an_update_that_is_far_too_late_does_not_count_but_is_no_offence():
    rounds = make_rounds("fast", "slow")
    rounds.tasks(NOW)
    for number in range(STALEST + 1):
        finish_round(rounds, NOW + 100 * number, "fast")
    assert offer(rounds, "slow", version=0) == deliver(rounds, "slow", NOW, version=0) == LATE


def test_after_a_restart_the_update_of_the_open_round_can_still_be_delivered():
    rounds = make_rounds(version=7)
    rounds.join("a")  # a new coordinator: it has handed out no task
    assert offer(rounds, "a", version=7, steps=20) == ACCEPTED
    assert deliver(rounds, "a", NOW, version=7, steps=20) == ACCEPTED
    assert rounds.close(NOW)
    assert offer(rounds, "a", version=5) == LATE, "those hashes are not known any more"


def test_after_a_restart_the_first_to_deliver_does_not_make_a_round_alone():
    rounds = make_rounds("ann", least=2)
    assert deliver(rounds, "ann", NOW) == ACCEPTED
    assert not rounds.close(NOW)
    rounds.join("bob")
    assert deliver(rounds, "bob", NOW + 1) == ACCEPTED
    assert rounds.close(NOW + 1)


def test_who_is_set_aside_keeps_no_round_from_beginning():
    """It delivered before anybody had a task, and has no other one before the next round."""
    rounds = make_rounds("ann", least=2)
    arrive(rounds, "liar")
    assert deliver(rounds, "liar", NOW) == ACCEPTED
    rounds.set_apart("liar")
    assert set(rounds.tasks(NOW)) == {"ann"}


def test_whose_update_waits_for_a_round_to_come_is_there_and_takes_part_in_this_one():
    """Otherwise they wait for each other: the round for enough peers, and it for its round."""
    rounds = Rounds(0, hash_of(0), Pace(), least=2, fragments=4, overlap=True, in_flight=2)
    for peer in ("ann", "bob"):
        arrive(rounds, peer)
    rounds.tasks(NOW)
    for _ in range(3):
        commit(rounds)
    rounds.members["bob"].prompt = False
    assert rounds.keeps("bob", 2) and offer(rounds, "bob", version=2) == ACCEPTED
    assert rounds.members["bob"].state != "uploading", "its update is not of this round"
    rounds.members["bob"].state = "lagging"  # and says nothing before it hears of its update
    assert rounds.ready("ann", 3, hash_of(3))
    assert rounds.tasks(NOW) == {}
    assert set(rounds.tasks(NOW, early=["bob"])) == {"ann"}


def test_the_last_round_makes_no_more_steps_than_are_left():
    rounds = Rounds(7, hash_of(7), Pace(overheads=deque([30.0] * 5)), 1)
    rounds.open_round(7, hash_of(7), quota=3, most=3)
    arrive(rounds, "ann")
    rounds.members["ann"].step_seconds = 0.1
    assert rounds.tasks(NOW)["ann"].quota == 3


def test_after_a_restart_the_delivery_of_one_does_not_make_the_round_wait_for_ever():
    rounds = make_rounds("b", version=7, least=2)
    rounds.join("a")
    deliver(rounds, "a", NOW)
    assert not rounds.close(NOW), "b is ready"
    assert math.isfinite(rounds.deadline)
    assert rounds.close(rounds.deadline)


# --------------------------------------------------------------------------------------------------
# Peers come and go, fast and slow
# --------------------------------------------------------------------------------------------------

def test_nobody_waits_for_one_who_left():
    rounds = make_rounds("a", "b")
    rounds.tasks(NOW)
    deliver(rounds, "a", NOW + 1)
    rounds.leave("b")
    assert rounds.close(NOW + 1)


def test_what_was_delivered_counts_after_its_sender_has_left():
    rounds = make_rounds("a", "b")
    rounds.tasks(NOW)
    deliver(rounds, "a", NOW + 1)
    rounds.leave("a")
    assert rounds.delivered == ["a"]
    deliver(rounds, "b", NOW + 2)
    assert rounds.close(NOW + 2)


def test_who_comes_back_after_delivering_waits_for_the_next_round():
    rounds = make_rounds("a", "b")
    rounds.tasks(NOW)
    deliver(rounds, "a", NOW + 1)
    rounds.leave("a")
    arrive(rounds, "a")
    assert rounds.members["a"].state == "delivered"
    assert rounds.tasks(NOW + 2) == {}


def test_a_rejected_peer_may_deliver_again():
    rounds = make_rounds("a", "b")
    rounds.tasks(NOW)
    deliver(rounds, "a", NOW + 1)
    rounds.reject("a")
    assert rounds.ready("a", 0, hash_of(0))
    assert set(rounds.tasks(NOW + 2)) == {"a"}
    assert deliver(rounds, "a", NOW + 3) == ACCEPTED


def test_nobody_waits_for_a_peer_whose_update_was_rejected():
    rounds = make_rounds("a", "b")
    rounds.tasks(NOW)
    deliver(rounds, "b", NOW + 1)
    rounds.reject("b")
    rounds.ready("b", 0, hash_of(0))
    rounds.tasks(NOW + 1)
    deliver(rounds, "a", NOW + 2)
    assert rounds.close(NOW + 2)


def test_a_rejected_peer_that_left_is_forgotten():
    rounds = make_rounds("a", "b")
    rounds.tasks(NOW)
    deliver(rounds, "a", NOW + 1)
    rounds.leave("a")
    rounds.reject("a")
    assert rounds.delivered == []
    assert not rounds.close(NOW + 1e6)


def test_a_slow_peer_is_waited_for_once_and_then_no_more_but_its_work_still_counts():
    rounds = make_rounds("fast", "slow")
    rounds.tasks(NOW)
    deliver(rounds, "fast", NOW + 1)
    assert not rounds.close(NOW + 2), "nobody knows yet that it is slow"
    assert rounds.close(rounds.deadline)
    commit(rounds)
    assert rounds.members["slow"].state == "lagging"

    rounds.ready("fast", 1, hash_of(1))
    rounds.tasks(NOW + 100)
    assert offer(rounds, "slow", version=0) == ACCEPTED
    assert deliver(rounds, "fast", NOW + 101) == ACCEPTED
    assert rounds.close(NOW + 101), "the slow one is still uploading"
    commit(rounds)
    assert deliver(rounds, "slow", NOW + 102, version=0) == ACCEPTED
    assert rounds.delivered == ["slow"]
    assert not rounds.close(NOW + 102), "the fast one is waited for"


def test_a_slow_peer_that_was_in_time_is_waited_for_again():
    rounds = make_rounds("fast", "slow")
    rounds.tasks(NOW)
    finish_round(rounds, NOW, "fast")
    finish_round(rounds, NOW + 100, "fast", "slow")
    assert rounds.members["slow"].prompt
    for peer in ("fast", "slow"):
        rounds.ready(peer, rounds.version, rounds.weights)
    rounds.tasks(NOW + 200)
    deliver(rounds, "fast", NOW + 201)
    assert not rounds.close(NOW + 201)


def test_when_all_are_slow_they_are_waited_for():
    rounds = make_rounds("a", "b", "gone")
    rounds.tasks(NOW)
    finish_round(rounds, NOW, "gone")
    rounds.leave("gone")
    for peer in ("a", "b"):
        assert rounds.ready(peer, 1, hash_of(1))
    rounds.tasks(NOW + 100)
    deliver(rounds, "a", NOW + 101)
    rounds.members["a"].prompt = False
    assert not rounds.close(NOW + 101)
    assert rounds.close(rounds.deadline)


# --------------------------------------------------------------------------------------------------
# How long a round is
# --------------------------------------------------------------------------------------------------

POSITIVE = st.floats(1e-3, 1e3)


@settings(deadline=None)
@given(st.integers(1, 200), st.lists(POSITIVE, max_size=9), st.lists(POSITIVE, max_size=5),
       st.integers(1, 100), POSITIVE, st.booleans())
def test_a_plan_keeps_its_limits(quota, step_seconds, overheads, longest, seconds, fixed):
    pace = Pace(seconds, longest=longest, fixed=fixed)
    pace.overheads.extend(overheads)
    plan = pace.plan(quota, step_seconds)
    assert 0 < plan.seconds <= seconds
    assert quota <= plan.quota <= max(quota, longest)
    if fixed or not overheads:
        assert plan.quota == quota
    if step_seconds:
        median = sorted(step_seconds)[(len(step_seconds) - 1) // 2]
        assert plan.seconds <= pace.slack * plan.quota * median * (1 + 1e-9)


def test_stragglers_do_not_make_a_round_longer():
    pace = Pace(60.0)
    prompt = pace.plan(8, [0.5] * 5)
    assert pace.plan(8, [0.5] * 5 + [50.0] * 4) == prompt
    assert prompt.seconds == pytest.approx(1.5 * 8 * 0.5)


def test_slow_transfers_make_a_round_longer_up_to_a_limit():
    pace = Pace(600.0, share=0.6, longest=50)
    pace.overheads.extend([6.0, 6.0, 600.0])  # one bad link of three
    assert pace.plan(4, [0.5]).quota == 18, "9 of 15 seconds train"
    pace.overheads.extend([600.0] * 16)
    assert pace.plan(4, [0.5]).quota == 50
    pace.fixed = True
    assert pace.plan(4, [0.5]).quota == 4


def test_transfers_have_as_much_time_as_they_lately_took_but_no_more_than_training():
    pace = Pace()
    assert pace.grace(60) == 2
    pace.overheads.extend([4.0, 5.0, 6.0])
    assert pace.grace(60) == 15
    assert pace.grace(10) == 10
    assert pace.grace(0.1) == 2


def test_nobody_is_planned_for_as_infinitely_fast_or_endlessly_slow():
    pace = Pace(60.0)
    assert pace.plan(4, [0.0]).seconds == pytest.approx(1.5 * 4 * FASTEST_STEP)
    assert pace.plan(4, [1e9]).seconds == 60


def test_speed_and_transfers_are_measured_here_and_not_asked_for():
    rounds = make_rounds("a", "b")
    rounds.tasks(NOW)
    assert offer(rounds, "a", now=NOW + 2) == ACCEPTED
    assert offer(rounds, "a", now=NOW + 6) == ACCEPTED, "after a reconnect"
    deliver(rounds, "a", NOW + 10, steps=4)
    assert rounds.members["a"].step_seconds == 0.5
    assert list(rounds.pace.overheads) == [8.0]


def test_a_late_update_says_nothing_about_transfers():
    rounds = make_rounds("fast", "slow")
    rounds.tasks(NOW)
    finish_round(rounds, NOW, "fast")
    before = list(rounds.pace.overheads)
    deliver(rounds, "slow", NOW + 500, version=0)
    assert list(rounds.pace.overheads) == before


# --- Members that dawdle on purpose ---------------------------------------------------------------

def play(rounds, count, honest, new=()):
    """Seconds of `count` rounds. Honest members train four steps of half a second and upload for a
    second; `new` are strangers, one for each round, that never deliver; all others deliver in the
    very last moment."""
    now, lengths = NOW, []
    for number in range(count):
        for peer in rounds.members:
            rounds.ready(peer, rounds.version, rounds.weights)
        if new:
            arrive(rounds, new[number])
        tasks, began = rounds.tasks(now), now
        honest_words = [(now + 2, offer), (now + 3, deliver)]
        lazy = [peer for peer in tasks if peer not in honest and peer not in new]
        while not rounds.close(now):
            last_moment = rounds.deadline - 1e-3 if lazy else rounds.deadline
            now = min([last_moment, *(moment for moment, _ in honest_words)])
            while honest_words and honest_words[0][0] <= now:
                _, word = honest_words.pop(0)
                for peer in honest:
                    assert word(rounds, peer, now=now) == ACCEPTED
            if now == last_moment:
                for peer in lazy:
                    assert deliver(rounds, peer, now, steps=1) == ACCEPTED
                lazy = []
        lengths.append(now - began)
        commit(rounds)
    return lengths


@pytest.mark.parametrize("honest, others", [(1, 1), (4, 4), (5, 3)])
def test_half_of_the_members_can_at_most_double_a_round(honest, others):
    """Found by an attacker: a peer that delivered at the deadline made each next round longer."""
    crew = [f"honest-{number}" for number in range(honest)]
    dawdlers = [f"dawdler-{number}" for number in range(others)]
    assert play(make_rounds(*crew), 20, crew) == [3.0] * 20
    slowed = play(make_rounds(*crew, *dawdlers), 20, crew)
    assert 3.0 < max(slowed[1:]) <= 6.0, "the first round waits for all: nobody is known"


def test_however_fast_half_of_the_members_are_the_others_get_a_moment():
    rounds = make_rounds("a", "b")
    rounds.tasks(NOW)
    finish_round(rounds, NOW, "a", "b")
    for peer in ("a", "b"):
        rounds.ready(peer, 1, hash_of(1))
    rounds.members["a"].step_seconds = rounds.members["b"].step_seconds = FASTEST_STEP
    rounds.pace.overheads.clear()
    rounds.tasks(NOW + 100)
    deliver(rounds, "a", NOW + 100.001)
    assert not rounds.close(NOW + 100.001)
    assert not rounds.close(NOW + 100 + LEAST_PATIENCE)
    assert rounds.close(NOW + 100.01 + LEAST_PATIENCE)


def test_new_members_that_never_deliver_make_one_round_of_three_half_as_long_again():
    """Found by an attacker: rounds became five times as long."""
    crew = ["a", "b", "c", "d"]
    slowed = play(make_rounds(*crew), 13, crew, [f"new-{number}" for number in range(13)])
    assert sorted(slowed[1:]) == [3.0] * 8 + [4.5] * 4


def test_a_round_that_only_new_members_began_waits_for_all_of_them():
    rounds = make_rounds("a", "b")
    rounds.tasks(NOW)
    finish_round(rounds, NOW, "a", "b")
    for peer in ("a", "b"):
        rounds.leave(peer)
    for peer in ("c", "d"):
        arrive(rounds, peer)
    rounds.tasks(NOW + 100)
    deliver(rounds, "c", NOW + 102)
    assert not rounds.close(NOW + 102)
    assert deliver(rounds, "d", NOW + 102.9) == ACCEPTED
    assert rounds.close(NOW + 102.9)


def test_a_new_member_that_delivers_soon_after_the_others_is_waited_for():
    rounds = make_rounds("a", "b")
    rounds.tasks(NOW)
    finish_round(rounds, NOW, "a", "b")
    arrive(rounds, "new")
    for peer in ("a", "b"):
        rounds.ready(peer, 1, hash_of(1))
    rounds.tasks(NOW + 100)
    deliver(rounds, "a", NOW + 102)
    deliver(rounds, "b", NOW + 102)
    assert not rounds.close(NOW + 102)
    assert deliver(rounds, "new", NOW + 102.9) == ACCEPTED
    assert rounds.close(NOW + 102.9) and rounds.members["new"].prompt


def test_a_new_member_whose_updates_always_come_while_a_round_is_written_counts_in_the_next():
    """Told that it is late it was ready again, as if it had not begun, and new for ever."""
    rounds = make_rounds("a")
    rounds.tasks(NOW)
    finish_round(rounds, NOW, "a")
    arrive(rounds, "new")
    rounds.ready("a", 1, hash_of(1))
    rounds.tasks(NOW + 100)
    deliver(rounds, "a", NOW + 102)
    assert rounds.close(rounds.deadline)
    assert offer(rounds, "new", now=NOW + 106) == LATE
    assert rounds.ready("new", 1, hash_of(1))
    commit(rounds)
    for peer in ("a", "new"):
        rounds.ready(peer, 2, hash_of(2))
    rounds.tasks(NOW + 110)
    deliver(rounds, "a", NOW + 112)
    assert rounds.close(NOW + 112), "nobody waits for it any more"
    assert offer(rounds, "new", now=NOW + 116) == ACCEPTED and rounds.keeps("new", 2)


def test_a_member_that_fell_out_of_step_but_is_fast_enough_is_waited_for_again():
    rounds = make_rounds("a")
    rounds.tasks(NOW)
    finish_round(rounds, NOW, "a")
    arrive(rounds, "b")
    rounds.ready("a", 1, hash_of(1))
    rounds.tasks(NOW + 100)
    deliver(rounds, "a", NOW + 102)
    assert rounds.close(max(NOW + 102, rounds.deadline)), "b had begun, and is not there"
    commit(rounds)
    assert rounds.members["b"].prompt is False
    offer(rounds, "b", now=NOW + 102.5, version=1)
    rounds.ready("a", 2, hash_of(2))
    rounds.tasks(NOW + 110)
    assert deliver(rounds, "b", NOW + 111, version=1) == ACCEPTED
    assert rounds.members["b"].prompt is None


# --------------------------------------------------------------------------------------------------
# Whatever happens, in whatever order
# --------------------------------------------------------------------------------------------------

class Update:
    """What a peer made of a task: it may count in one round."""

    def __init__(self, version, weights, steps):
        self.version, self.weights, self.steps = version, weights, steps
        self.counted_in = None
        self.refused = False


class Model:
    """A peer as it behaves, honest or not."""

    def __init__(self):
        self.task = None  # (version, steps)
        self.pending = None
        self.offered = False  # and may send it


NAMES = st.sampled_from(["a", "b", "c", "d"])


class Life(RuleBasedStateMachine):
    @initialize(least=st.integers(1, 2), fixed=st.booleans(), version=st.integers(0, 2))
    def begin(self, least, fixed, version):
        self.pace, self.least = Pace(10.0, fixed=fixed), least
        self.now = 0.0
        self.peers = {name: Model() for name in "abcd"}
        self.delivered = {}  # in the open round, by peer
        self.closed = False
        self.first = version
        self.rounds = Rounds(version, hash_of(version), self.pace, least)

    # The peers

    @rule(name=NAMES)
    def join(self, name):
        self.rounds.join(name)  # also: a new connection of one who is there
        self.peers[name].task, self.peers[name].offered = None, False

    @rule(name=NAMES)
    def leave(self, name):
        self.rounds.leave(name)
        self.peers[name].task, self.peers[name].offered = None, False

    @rule(name=NAMES, behind=st.integers(0, 2), honest=st.booleans())
    def ready(self, name, behind, honest):
        if name not in self.rounds.members or self.peers[name].pending:
            return
        version = self.rounds.version - behind
        right = self.rounds.ready(name, version, hash_of(version) if honest else "wrong")
        assert right == (honest and behind == 0)

    @rule(name=NAMES)
    def arrive(self, name):
        """A fresh member with the right weights gets a task if the round is open."""
        if name in self.rounds.members or self.peers[name].pending or name in self.delivered:
            return
        self.join(name)
        assert self.rounds.ready(name, self.rounds.version, self.rounds.weights)
        ready = [m for m in self.rounds.members.values() if m.state == "ready"]
        enough = self.rounds.plan is not None or len(ready) >= self.least
        assert (name in self.hand_out()) == (enough and not self.closed)

    @rule()
    def hand_out_tasks(self):
        self.hand_out()

    def hand_out(self):
        tasks = self.rounds.tasks(self.now)
        assert not (tasks and self.closed)
        for name, task in tasks.items():
            assert task.version == self.rounds.version, "a task for other weights"
            assert 1 <= task.quota and 0 <= task.seconds <= self.pace.seconds + 1e-6
            assert name not in self.delivered
            self.peers[name].task = task.version, task.quota
        return tasks

    @rule(name=NAMES, part=st.floats(0, 1))
    def train(self, name, part):
        peer = self.peers[name]
        if peer.task and not peer.pending:
            version, quota = peer.task
            peer.task = None
            peer.pending = Update(version, hash_of(version), max(1, round(part * quota)))

    @rule(name=NAMES, lie=st.sampled_from(["", "", "", "hash", "future", "steps"]))
    def offer(self, name, lie):
        peer, update = self.peers[name], self.peers[name].pending
        if name not in self.rounds.members or not update:
            return
        if name in self.delivered:
            return  # the coordinator knows it already
        version, weights, steps = update.version, update.weights, update.steps
        if lie:
            version += 100 * (lie == "future")
            weights, steps = weights + (lie == "hash") * "?", steps + 1000 * (lie == "steps")
        verdict = self.rounds.offer(name, version, weights, steps, self.now).verdict
        self.check(verdict, update, honest=not lie)
        if verdict == ACCEPTED:
            peer.offered = True
        elif not lie:
            self.refuse(peer)

    def check(self, verdict, update, honest):
        stale = self.rounds.version - update.version
        known = update.version >= self.first and stale <= STALEST
        if not honest:
            assert verdict != ACCEPTED
        elif self.closed or not known:
            assert verdict == LATE
        else:
            assert verdict == ACCEPTED

    def refuse(self, peer):
        peer.pending.refused, peer.pending, peer.offered = True, None, False

    @rule(name=NAMES)
    def deliver(self, name):
        peer, update = self.peers[name], self.peers[name].pending
        if name not in self.rounds.members or not update or not peer.offered:
            return
        verdict = self.rounds.deliver(name, update.version, update.weights, update.steps,
                                      self.now).verdict
        if name in self.delivered:
            assert verdict != ACCEPTED, "the same update twice in a round"
            return
        self.check(verdict, update, honest=True)
        if verdict == ACCEPTED:
            self.delivered[name] = update
        else:
            self.refuse(peer)

    @rule(name=NAMES)
    def reject(self, name):
        """The update turns out to be unusable."""
        if name in self.delivered:
            self.rounds.reject(name)
            self.delivered.pop(name)
            self.refuse(self.peers[name])

    # The coordinator

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def close(self):
        if self.rounds.close(self.now):
            assert not self.closed and self.delivered
            self.closed = True

    @precondition(lambda self: self.closed)
    @rule(quota=st.integers(1, 30))
    def commit(self, quota):
        if not self.delivered:
            self.rounds.reopen()
            self.closed = False
            return
        number = self.rounds.version + 1
        for name, update in self.delivered.items():
            assert update.counted_in is None, "counted in two rounds"
            assert not update.refused, "counted after it was refused"
            assert update.weights == hash_of(update.version), "made from other weights"
            assert 0 <= self.rounds.version - update.version <= STALEST
            update.counted_in = number
            self.peers[name].pending, self.peers[name].offered = None, False
        self.delivered, self.closed = {}, False
        self.rounds.open_round(number, hash_of(number), quota)

    @rule()
    def restart(self):
        """The coordinator dies: what was delivered but not committed comes again."""
        version = self.rounds.version
        self.rounds = Rounds(version, hash_of(version), self.pace, self.least)
        self.first, self.delivered, self.closed = version, {}, False
        for peer in self.peers.values():
            peer.task, peer.offered = None, False

    # Always

    @invariant()
    def both_sides_agree_on_what_was_delivered(self):
        assert sorted(self.rounds.delivered) == sorted(self.delivered)
        assert self.rounds.closed == self.closed

    @invariant()
    def no_round_waits_for_ever(self):
        if self.closed or not self.delivered:
            return
        assert math.isfinite(self.rounds.deadline)
        assert copy.deepcopy(self.rounds).close(max(self.now, self.rounds.deadline))
        members = self.rounds.members.values()
        if not any(member.state in BUSY for member in members):
            assert copy.deepcopy(self.rounds).close(self.now), "all have delivered"
        if any(member.prompt for member in members) and not any(
                member.state in BUSY for member in members if member.prompt is not False):
            assert copy.deepcopy(self.rounds).close(self.now), "only slow ones are missing"


Life.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
TestLife = Life.TestCase


# --- Parts of the weights -------------------------------------------------------------------------

@pytest.mark.parametrize("fragments", [1, 2, 3])
def test_a_late_update_counts_only_in_a_round_that_changes_the_same_part(fragments):
    rounds = Rounds(0, hash_of(0), Pace(seconds=60.0), 1, fragments)
    arrive(rounds, "a")
    arrive(rounds, "slow")
    for version in range(1, 7):
        rounds.open_round(version, hash_of(version), 4)
        expected = LATE if version % fragments else ACCEPTED
        assert offer(rounds, "slow", version=0) == expected
