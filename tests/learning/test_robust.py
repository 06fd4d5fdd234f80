"""Other combinations than the mean: the same where all agree, bounded where some do not."""
import math

import pytest
import torch
from torch.testing import assert_close

from hive.learning.codec import encode
from hive.learning.outer import Outer
from hive.learning.robust import COMBINATIONS, centred_clip, trimmed_mean
from hive.learning.sync import Sync

ROBUST = [trimmed_mean, centred_clip]


def honest(count, values=1000):
    generator = torch.Generator().manual_seed(1)
    return torch.ones(values) + 0.1 * torch.randn(count, values, generator=generator)


@pytest.mark.parametrize("combine", ROBUST)
def test_where_all_say_the_same_that_comes_out(combine):
    same = honest(1).expand(5, -1)
    assert_close(combine(same, torch.ones(5), torch.zeros(1000)), same[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("combine", ROBUST)
@pytest.mark.parametrize("length", [1.0, 100.0, 1e6])
def test_two_in_eight_move_it_by_little_however_long_their_updates_are(combine, length):
    updates = honest(8)
    liars = torch.cat([-length * updates[:2], updates[2:]])
    result = combine(liars, torch.ones(8), updates.mean(0))
    away = float((result - updates.mean(0)).norm()) / math.sqrt(1000)
    assert away < 0.15 and (length < 10 or float(liars.mean(0).norm()) > 10 * float(result.norm()))


def test_the_trimmed_mean_is_that_of_the_values_in_between():
    updates = torch.tensor([[1.0, 9.0], [2.0, -50.0], [3.0, 1.0], [1e9, 3.0]])
    assert trimmed_mean(updates, torch.ones(4), torch.zeros(2)).tolist() == [2.5, 2.0]


def test_with_clipping_heavier_updates_count_for_more():
    updates = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    result = centred_clip(updates, torch.tensor([3.0, 1.0]), torch.zeros(2))
    assert result[0] > 0 == result[1]


@pytest.mark.parametrize("name", COMBINATIONS)
def test_the_outer_step_offers_each(name):
    outer = Outer(torch.zeros(1000), Sync(), combination=name)
    updates = honest(5)
    for update in updates:
        outer.add("fp32", encode("fp32", update), 1.0, 1)
    committed = outer.step()
    assert_close(-committed.weights, updates.mean(0), atol=0.1, rtol=0.1)
