"""An update beside the others of its round: harm and copies are seen, honest work is let be."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hive.learning.rules import PLACES, Sketcher, look

COUNT, PART = 20_000, slice(0, 20_000)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def honest(count, agreement=0.6, seed=0, values=COUNT):
    """Updates whose cosines with each other are about `agreement`, of length about 1."""
    generator = seeded(seed)
    common = torch.randn(values, generator=generator)
    own = torch.randn(count, values, generator=generator)
    return list((agreement**0.5 * common + (1 - agreement)**0.5 * own) / values**0.5)


def seen(updates, secret=1, **more):
    sketcher = Sketcher(len(updates[0]), secret)
    return look([sketcher.sketch(one, slice(0, len(one))) for one in updates], **more)


def faults(updates, **more):
    return [bool(one.fault) for one in seen(updates, **more)]


@pytest.mark.parametrize("agreement", [0.0, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 40])
def test_honest_updates_have_no_fault_however_much_they_agree(count, agreement):
    for seed in range(5):
        assert not any(faults(honest(count, agreement, seed)))


def test_a_flipped_update_points_the_other_way_at_any_length():
    for times in (-0.1, -1.0, -3.0):
        mine, *others = honest(6)
        flipped, *rest = seen([times * mine, *others])
        assert "the other way" in flipped.fault and not any(one.fault for one in rest)


def test_noise_and_a_constant_push_have_nothing_in_common_with_the_others():
    noise = torch.randn(COUNT, generator=seeded(7)) / COUNT**0.5
    assert faults([noise, *honest(5)]) == [True] + 5 * [False]
    assert faults([torch.ones(COUNT) / COUNT**0.5, *honest(5)]) == [True] + 5 * [False]


@pytest.mark.parametrize("liars", [2, 3])
def test_up_to_three_in_eight_are_told_from_the_others_who_did_not_follow_them(liars):
    updates = honest(8)
    assert faults([-one for one in updates[:liars]] + updates[liars:]) == (
        liars * [True] + (8 - liars) * [False])


def test_late_in_training_nothing_is_told_of_noise():
    """Where even honest updates have next to nothing in common, to have nothing is no fault."""
    noise = torch.randn(COUNT, generator=seeded(7))
    assert not any(faults([noise, *honest(5, agreement=0.001)]))


def test_of_too_few_nobody_can_tell_who_is_right():
    for count in (2, 3):
        mine, *others = honest(count)
        assert not any(faults([-mine, *others]))


def test_who_starts_from_older_weights_may_have_little_in_common_with_the_others():
    noise = torch.randn(COUNT, generator=seeded(7)) / COUNT**0.5
    assert faults([noise, *honest(5)], late=[True] + 5 * [False]) == 6 * [False]
    mine, *others = honest(6)
    assert faults([-mine, *others], late=[True] + 5 * [False])[0]


def test_of_two_that_are_alike_the_later_one_is_the_copy():
    updates = honest(5)
    same = updates[1] + 0.1 * torch.randn(COUNT, generator=seeded(3)) / COUNT**0.5
    found = seen([*updates, same])
    assert [bool(one.fault) for one in found] == 5 * [False] + [True]
    assert found[-1].twin == 1 and "copy" in found[-1].fault


def test_what_was_sent_before_is_known_again():
    updates = honest(5)
    sketcher = Sketcher(COUNT, 1)
    earlier = [None] * 4 + [sketcher.sketch(updates[4], PART).places[None]]
    assert faults(updates, before=earlier) == 4 * [False] + [True]


def test_a_round_is_not_emptied_but_looked_at_more_closely():
    updates, sketcher = honest(5), Sketcher(COUNT, 1)
    sketches = [sketcher.sketch(one, PART) for one in updates]
    again = look(sketches, [one.places[None] for one in sketches])
    assert [one.fault for one in again] == 5 * [""] and all(one.odd for one in again)
    one_is_new = look(sketches, [None, *(one.places[None] for one in sketches[1:])])
    assert [bool(one.fault) for one in one_is_new] == [False] + 4 * [True]


def test_honest_updates_that_are_nearly_equal_are_no_copies():
    """Early in training peers find nearly the same."""
    assert not any(faults(honest(6, agreement=0.97)))


def test_only_those_who_are_trusted_tell_what_is_usual():
    """A peer that is set aside is looked at, and changes nothing for the others, however many."""
    updates = honest(5)
    liars = [-one for one in honest(8, seed=2)]
    assert faults([*liars, *updates], trusted=8 * [False] + 5 * [True])[8:] == 5 * [False]


def test_an_update_with_all_its_length_in_one_tensor_is_odd():
    sketcher = Sketcher(COUNT, 1, [COUNT - 100, 100])
    *others, mine = honest(6)
    mine = mine.clone()
    mine[-100:] *= 10
    found = look([sketcher.sketch(one, PART) for one in (*others, mine)])
    assert [one.odd for one in found] == 5 * [False] + [True]
    assert found[-1].length < 2 < 5 < found[-1].tensor


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3 * PLACES), st.integers(0, 2**32), st.integers(0, 2**32))
def test_sketches_keep_cosines(values, secret, seed):
    a, b = honest(2, 0.5, seed, values)
    sketcher = Sketcher(values, secret)
    mine, other = (sketcher.sketch(one, slice(0, values)).places for one in (a, b))
    exact = float(torch.dot(a, b) / a.norm() / b.norm())
    assert abs(float(torch.dot(mine, other)) - exact) < (
        6 / math.sqrt(PLACES) if values > PLACES else 1e-4)


def test_a_part_of_the_weights_is_sketched_within_its_tensors():
    sketcher = Sketcher(300, 1, [100, 200])
    assert len(sketcher.sketch(torch.ones(100), slice(100, 200)).tensors) == 1
    assert len(sketcher.sketch(torch.ones(200), slice(50, 250)).tensors) == 2


def test_nothing_is_nothing():
    assert look([]) == []
    assert not any(faults([torch.zeros(100)] * 5)[:1])
