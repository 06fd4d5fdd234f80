"""A peer that was cut off comes back soon, and asks less and less while nobody answers."""
import random

from hive.session.patience import FIRST_WAIT, LONGEST_WAIT, Patience


def middle(low, high):
    return (low + high) / 2


def test_waits_grow_to_half_a_minute_and_are_short_again_after_work():
    patience = Patience()
    waits = [patience.next(middle) for _ in range(40)]
    # a quarter of all before
    assert waits[:8] == [0.5, 0.5, 0.5, 0.5, 0.5, 0.625, 0.78125, 0.9765625]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT and 20 < sum(waits[:18]) < 60
    assert Patience().next(middle) == FIRST_WAIT


def test_peers_that_lost_their_coordinator_together_do_not_come_back_together():
    draws = random.Random(1)
    waits = [Patience().next(draws.uniform) for _ in range(20)]
    assert len(set(waits)) == len(waits)
    assert all(0.5 * FIRST_WAIT <= wait <= 1.5 * FIRST_WAIT for wait in waits)
