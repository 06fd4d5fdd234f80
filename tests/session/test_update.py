"""How long a task lasts, and what is said of the steps that were made."""
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hive.session.update import NOTHING, Outgoing, Progress, Task


def task(quota, seconds, began=1000.0):
    return Task(NOTHING, quota, quota, seconds, began)


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0, 100), st.floats(1e-3, 10))
def test_a_task_has_as_many_steps_as_fit_into_its_time_but_one_at_least(
        quota, seconds, step_seconds):
    one, steps = task(quota, seconds, began=0.0), 1
    while not one.done(steps, steps * step_seconds):
        steps += 1
    assert steps <= quota
    assert steps == 1 or steps * step_seconds <= seconds * (1 + 1e-9)
    assert steps == quota or (steps + 1) * step_seconds > seconds * (1 - 1e-9)


def test_the_time_of_a_task_includes_what_is_not_training():
    one = task(quota=10, seconds=10.0)
    assert not one.done(4, 1008.0), "the fifth would end after 10 seconds"
    assert one.done(4, 1008.1)
    assert one.done(10, 1000.0), "all are made"


def test_progress_is_the_sum_of_its_steps_and_the_mean_of_their_losses():
    progress = Progress()
    for tokens, loss, seconds in [(64, 4.0, 0.5), (64, 3.0, 1.5), (32, 2.0, 2.0)]:
        progress.add(tokens, loss, seconds)
    assert progress == Progress(steps=3, tokens=160, losses=9.0, seconds=4.0)
    assert progress.loss == 3.0 and progress.speed == 40.0
    assert math.isfinite(Progress(1, 64, 3.0, 0.0).speed), "no clock is fine enough for some steps"


@pytest.mark.parametrize("loss, told", [(3.0, 3.0), (math.inf, None), (math.nan, None)])
def test_an_offer_tells_what_was_made_and_no_loss_that_is_none(loss, told):
    work = Progress(2, 128, 2 * loss, 1.5)
    update = Outgoing(8, 7, "0" * 64, "q4", b"12345", 8, slice(0, 5), work)
    offer = update.offer(2000.0, follows=True)
    assert (offer["version"], offer["base"], offer["steps"]) == (8, 7, 2)
    assert (offer["tokens"], offer["seconds"]) == (128, 1.5)
    assert (offer["batch_size"], offer["follows"]) == (8, True)
    assert offer["loss"] == told and offer["bytes"] == 5 and update.offered == 2000.0
