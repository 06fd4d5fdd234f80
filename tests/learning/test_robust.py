"""Other combinations than the mean: the same where all agree, bounded where some do not."""
import math

import pytest
import torch
from torch.testing import assert_close

from hive.learning import outer as outer_module
from hive.learning.codec import CHUNK, encode
from hive.learning.outer import Outer
from hive.learning.robust import COMBINATIONS, ITERATIONS, centred_clip, trimmed_mean
from hive.learning.sync import SYNCS, Sync

ROBUST = [trimmed_mean, centred_clip]


def pieces_of(updates, size=300):
    """As they are combined: a part of the values after the other."""
    def pieces():
        for begin in range(0, updates.shape[1], size):
            part = slice(begin, min(begin + size, updates.shape[1]))
            yield part, updates[:, part]
    return pieces


def honest(count, values=1000):
    generator = torch.Generator().manual_seed(1)
    return torch.ones(values) + 0.1 * torch.randn(count, values, generator=generator)


@pytest.mark.parametrize("combine", ROBUST)
def test_where_all_say_the_same_that_comes_out(combine):
    same = honest(1).expand(5, -1)
    result = combine(pieces_of(same), torch.ones(5), torch.zeros(1000))
    assert_close(result, same[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("combine", ROBUST)
@pytest.mark.parametrize("length", [1.0, 100.0, 1e6])
def test_two_in_eight_move_it_by_little_however_long_their_updates_are(combine, length):
    updates = honest(8)
    liars = torch.cat([-length * updates[:2], updates[2:]])
    result = combine(pieces_of(liars), torch.ones(8), updates.mean(0))
    away = float((result - updates.mean(0)).norm()) / math.sqrt(1000)
    assert away < 0.15 and (length < 10 or float(liars.mean(0).norm()) > 10 * float(result.norm()))


def test_the_trimmed_mean_is_that_of_the_values_in_between():
    updates = torch.tensor([[1.0, 9.0], [2.0, -50.0], [3.0, 1.0], [1e9, 3.0]])
    assert trimmed_mean(pieces_of(updates), torch.ones(4), torch.zeros(2)).tolist() == [2.5, 2.0]


def test_with_clipping_heavier_updates_count_for_more():
    updates = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    result = centred_clip(pieces_of(updates), torch.tensor([3.0, 1.0]), torch.zeros(2))
    assert result[0] > 0 == result[1]


def test_clipping_is_what_the_paper_says_however_it_is_computed():
    updates, weights, centre = honest(8), torch.arange(1.0, 9.0), 0.5 * torch.ones(1000)
    updates[0] *= -1e6
    expected = centre
    for _ in range(ITERATIONS):
        away = updates - expected
        distances = away.norm(dim=1)
        kept = (distances.median() / distances).clamp(max=1.0)
        expected = expected + (weights / weights.sum() * kept) @ away
    assert_close(centred_clip(pieces_of(updates), weights, centre), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["trimmed", "clipped"])
def test_updates_are_decoded_a_few_values_at_a_time(name, monkeypatch):
    """All of 64 peers were in memory at once: 0.7 GB for GLTCH-2.7M."""
    sizes, values = [], 20_000
    updates = [one + torch.ones(values) for one in 0.1 * torch.randn(5, values)]

    def combined(at_once):
        def looked_at(pieces, *others):
            def looking():
                for part, piece in pieces():
                    sizes.append(piece.numel())
                    yield part, piece
            return COMBINATIONS[name](looking, *others)

        monkeypatch.setattr(outer_module, "AT_ONCE", at_once)
        outer = Outer(torch.zeros(values), SYNCS["diloco"], combination=name)
        outer.combination = looked_at
        for update in updates:
            outer.add("q4", encode("q4", update), 1.0, 1)
        return outer.step().weights

    whole, sizes[:] = combined(1 << 24), []
    assert_close(combined(5 * CHUNK), whole, rtol=1e-5, atol=1e-6)
    assert len(sizes) >= 5 and max(sizes) <= 5 * CHUNK


@pytest.mark.parametrize("name", COMBINATIONS)
def test_the_outer_step_offers_each(name):
    outer = Outer(torch.zeros(1000), Sync(), combination=name)
    updates = honest(5)
    for update in updates:
        outer.add("fp32", encode("fp32", update), 1.0, 1)
    committed = outer.step()
    assert_close(-committed.weights, updates.mean(0), atol=0.1, rtol=0.1)
