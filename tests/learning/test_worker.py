"""A peer's progress, part by part: nothing is taken twice, nothing is lost while it trains on."""
import pytest
import torch
from builders import JOB_TEXT, make_job

from gltch_2_7m import Runtime, Vocabulary
from hive.learning.codec import WHOLE, flatten, from_bytes, unflatten
from hive.learning.fragments import Fragments
from hive.learning.sync import AHEAD, Sync
from hive.learning.worker import Learner, Worker
from hive.text import corpus_of

JOB = make_job(JOB_TEXT * 20)


@pytest.fixture
def worker():
    corpus = corpus_of(JOB, (JOB_TEXT * 20).encode())
    assert isinstance(corpus.vocabulary, Vocabulary)
    worker = Worker(JOB.config, JOB.recipe, corpus, Runtime(torch.device("cpu"), "fp32"), 1)
    worker.load(normal(0, len(flatten(worker.trainer.model))))
    return worker


def normal(seed, count):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def weights(worker):
    return flatten(worker.trainer.model)


def train(worker, seed):
    """Anything that moves all weights."""
    moved = 0.1 * normal(seed, len(weights(worker)))
    unflatten(weights(worker) - moved, worker.trainer.model)


def test_what_moved_is_told_part_by_part_as_a_whole(worker):
    base = weights(worker)
    train(worker, 1)
    parts = Fragments(len(base), 5).parts
    assert torch.equal(torch.cat([worker.moved(base, part) for part in parts]), worker.moved(base))
    assert torch.equal(worker.moved(base), base - weights(worker))


def test_where_nothing_was_trained_since_the_new_weights_are_taken_to_the_last_bit(worker):
    new = normal(3, len(weights(worker)))
    part = slice(0, len(new))
    train(worker, 1)
    before = weights(worker)
    taken = worker.take_progress(part)
    assert torch.equal(weights(worker), before), "taking changes nothing"
    assert torch.equal(taken, normal(0, len(new)) - before)
    worker.rebase(new, part)
    assert torch.equal(weights(worker), new) and torch.equal(worker.anchor, new)


def test_what_was_trained_while_a_part_was_on_its_way_stays_on_top_of_the_new_weights(worker):
    new = normal(3, len(weights(worker)))
    part, other = Fragments(len(new), 2).parts
    train(worker, 1)
    worker.take_progress(part)
    sent = weights(worker)
    train(worker, 2)
    later = weights(worker)
    worker.rebase(new[part], part)
    assert torch.allclose(weights(worker)[part], (new + later - sent)[part], atol=1e-5)
    assert torch.equal(weights(worker)[other], later[other]), "the other part trains on"
    assert torch.allclose(worker.take_progress(part), (sent - later)[part], atol=1e-5)
    assert torch.equal(worker.take_progress(other), normal(0, len(new))[other] - later[other])


def test_nothing_is_taken_twice(worker):
    part = slice(128, 512)
    train(worker, 1)
    assert worker.take_progress(part).norm() > 0
    assert torch.equal(worker.take_progress(part), torch.zeros(384))


def test_whole_weights_end_what_was_not_taken(worker):
    train(worker, 1)
    new = normal(4, len(weights(worker)))
    worker.load(new)
    assert torch.equal(weights(worker), new)
    assert torch.equal(worker.take_progress(slice(0, len(new))), torch.zeros(len(new)))


def test_the_weights_that_were_loaded_stay_as_they_are_whatever_is_trained(worker):
    held = normal(5, len(weights(worker)))
    worker.load(held)
    train(worker, 1)
    worker.take_progress(slice(0, 128))
    worker.rebase(normal(6, 128), slice(0, 128))
    train(worker, 2)
    assert torch.equal(held, normal(5, len(held)))


def test_a_step_is_the_trainers_on_the_windows_that_were_given_out(worker):
    seen, batch = [], worker.trainer.windows.batch
    worker.trainer.windows.batch = lambda numbers: seen.extend(numbers) or batch(numbers)
    worker.begin(step=3, total=10, window=40)
    loss = worker.step()
    worker.step()
    assert worker.trainer.step == 5 and worker.trainer.total == 10
    assert seen == list(range(40, 40 + 2 * worker.batch_size))
    assert loss > 0 and len(worker.trainer.losses) == 1, "only the last one is kept"
    assert worker.tokens == JOB.recipe.batch_size * JOB.config.block_size


# --- With error feedback --------------------------------------------------------------------------


@pytest.fixture
def learner(worker):
    return Learner(worker, Sync(), len(weights(worker)))


def taken(learner, part, steps=1):
    return from_bytes(learner.take(part, steps))


@pytest.mark.parametrize("loads", [1, 2])
def test_whole_weights_lose_nothing_of_what_was_not_taken(learner, loads):
    """A peer that missed rounds gets the weights as a whole, also while it trains on."""
    count, made = len(weights(learner.worker)), 0
    for number in range(loads):
        base = weights(learner.worker)
        train(learner.worker, number)
        made = made + base - weights(learner.worker)
        learner.load(normal(10 + number, count))
        assert torch.equal(weights(learner.worker), normal(10 + number, count))
    for part in Fragments(count, 2).parts:
        assert torch.allclose(taken(learner, part), made[part], atol=1e-6)


def test_an_update_that_did_not_count_leaves_the_network_and_comes_with_the_next(learner):
    base = weights(learner.worker)
    whole = slice(0, len(base))
    train(learner.worker, 1)
    first = taken(learner, whole)
    learner.feedback.settle(counted=False)
    learner.rebase(base, whole)
    assert torch.equal(weights(learner.worker), base)
    train(learner.worker, 2)
    second = base - weights(learner.worker)
    assert torch.equal(taken(learner, whole), first + second)
    learner.feedback.settle(counted=True)
    learner.rebase(normal(3, len(base)), whole)
    assert torch.equal(weights(learner.worker), normal(3, len(base)))
    assert not taken(learner, whole).any(), "nothing comes twice"


def test_what_is_forgotten_is_what_was_sent_not_what_is_still_in_the_network(learner):
    whole = slice(0, len(weights(learner.worker)))
    train(learner.worker, 1)
    learner.take(whole, 1)
    before = weights(learner.worker)
    train(learner.worker, 2)
    later = before - weights(learner.worker)
    learner.feedback.forget()
    assert torch.equal(taken(learner, whole), later)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_peer_that_trains_on_goes_further_than_its_update_until_the_answer_comes(worker, steps):
    count = len(weights(worker))
    learner = Learner(worker, Sync(fragments=2, overlap=True), count)
    first, second = Fragments(count, 2).parts
    start = weights(worker)
    train(worker, 1)
    trained = weights(worker)
    update = taken(learner, first, steps)
    assert torch.equal(update, start[first] - trained[first]), "what it sends is what it did"
    gone = start[first] - weights(worker)[first]
    assert torch.allclose(gone, (1 + AHEAD / steps) * update, atol=1e-6) and update.norm() > 0
    assert torch.equal(weights(worker)[second], trained[second])
    learner.rebase(normal(2, count), first)
    assert torch.equal(weights(worker)[first], normal(2, count)[first]), "the answer alone counts"


def test_a_peer_that_waits_for_the_answer_stays_where_its_update_ends(worker):
    learner = Learner(worker, Sync(), len(weights(worker)))
    train(worker, 1)
    trained = weights(worker)
    taken(learner, WHOLE)
    assert torch.equal(weights(worker), trained)
