"""What an update does to the loss: told by the same windows before and after, and how surely."""
import math

import pytest
import torch

from gltch_2_7m import Config, Corpus, FastTrainer, Runtime, TrainConfig, Vocabulary
from hive.learning.codec import flatten
from hive.learning.probe import WAY, Probe, TextGround, change

TEXT = "the quick brown fox jumps over the lazy dog, and the dog jumps over the fox.\n" * 60
NETWORK = Config(vocab_size=len(set(TEXT)), block_size=16, n_layer=1, n_head=2, n_embd=16,
                 dropout=0.0)


@pytest.fixture(scope="module")
def trained():
    """(ground, weights, the update of eight honest steps from there)."""
    vocabulary = Vocabulary("".join(sorted(set(TEXT))))
    corpus = Corpus("a test", torch.tensor([vocabulary.number[c] for c in TEXT]), vocabulary)
    torch.manual_seed(1)
    trainer = FastTrainer(NETWORK, TrainConfig(batch_size=8, seed=1), corpus,
                          Runtime(torch.device("cpu"), "fp32"))
    before = flatten(trainer.model)
    for _ in range(8):
        trainer.train_step()
    ground = TextGround(NETWORK, corpus.train, corpus.validation, 1)
    return ground, before, before - flatten(trainer.model)



def test_training_lowers_the_loss_and_its_opposite_raises_it(trained):
    ground, weights, update = trained
    probe = Probe(ground, weights, slice(0, len(weights)))
    good, bad = probe.tried(update), probe.tried(-update)
    assert good.gain.sure > 5 and bad.gain.sure < -5
    assert good.length == pytest.approx(WAY * float(update.norm()))


def test_noise_of_that_length_does_next_to_nothing(trained):
    ground, weights, update = trained
    noise = torch.randn(len(update), generator=torch.Generator().manual_seed(1))
    noise *= update.norm() / noise.norm()
    probe = Probe(ground, weights, slice(0, len(weights)))
    assert abs(probe.tried(noise).gain.mean) < probe.tried(update).gain.mean / 5


def test_the_same_windows_say_the_same_again(trained):
    ground, weights, update = trained
    probe = Probe(ground, weights, slice(0, len(weights)))
    assert probe.tried(update) == probe.tried(update)
    assert probe.loss == float(ground.held_out(weights).mean())
    nothing = probe.tried(torch.zeros_like(update))
    assert nothing.gain.mean == 0 and nothing.length == 0


def test_only_a_part_is_moved(trained):
    ground, weights, update = trained
    part = slice(10, 20)
    probe = Probe(ground, weights, part)
    there = weights.clone()
    there[part] -= WAY * update[part]
    assert probe.tried(update[part]).gain == probe.after(there)


def test_windows_that_it_was_given_are_compared_with_others(trained):
    ground, weights, update = trained
    probe = Probe(ground, weights, slice(0, len(weights)))
    tried = probe.tried(update, range(0, 64), range(1000, 1064))
    assert tried.own == tried.own  # a number
    for given in (None, [0]):  # none is named, or one, which tells nothing
        assert math.isnan(probe.tried(update, given, range(1000, 1064)).own)


def test_a_change_is_as_sure_as_its_windows_agree():
    before = torch.tensor([3.0, 3.0, 3.0, 3.0])
    together, apart = (change(before, before - torch.tensor(falls))
                       for falls in ([0.1, 0.11, 0.1, 0.09], [2.0, -1.9, 0.4, -0.1]))
    assert together.mean == pytest.approx(apart.mean, rel=1e-4)
    assert together.sure > 10 > 1 > apart.sure > 0
    assert change(before[:1], before[:1] - 1).sure == 0, "of one window alone"


def test_a_text_that_is_hardly_longer_than_a_window_will_do():
    ground = TextGround(NETWORK, torch.zeros(100), torch.zeros(9), 1)
    weights = torch.zeros(sum(p.numel() for p in ground.model.parameters()))
    assert ground.held_out(weights).shape[0] >= 1
