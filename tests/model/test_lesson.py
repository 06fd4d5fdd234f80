"""Part I of the file: a lesson that stands alone, and that is what really runs."""
import ast
import builtins
import importlib.util
import math
import re
import sys
from dataclasses import replace

import pytest
import torch
from conftest import PROGRAM
from torch.testing import assert_close

import gltch_2_7m as gltch
from gltch_2_7m import (
    Config,
    Corpus,
    FastTrainer,
    Runtime,
    TrainConfig,
    Trainer,
    learn,
    load_corpus,
)

HEADER, LESSON, MACHINES = re.split(
    r"^# =+\n# +PART .+\n# =+\n", PROGRAM.read_text(encoding="utf-8"), flags=re.MULTILINE)
TINY = Config(block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
RECIPE = TrainConfig(steps=30, batch_size=8, eval_every=15, log_every=10, warmup=5,
                     precision="fp32", device="cpu")
CPU = Runtime(torch.device("cpu"))


@pytest.fixture
def alone(tmp_path):
    """Part I without Part II, as a module."""
    (tmp_path / "lesson.py").write_text(HEADER + LESSON, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("lesson", str(tmp_path / "lesson.py"))
    module = sys.modules["lesson"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["lesson"]


@pytest.fixture
def corpus(text_file):
    return load_corpus([str(text_file)])


def fit(config, corpus):
    return replace(config, vocab_size=len(corpus.vocabulary))


def learned(trainer):
    """The points of both curves; the network began with weights that all matter."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in trainer.model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return [(kind, trainer.step, loss) for kind, loss in learn(trainer) if kind != "step"]


# --- It stands alone ------------------------------------------------------------------------------


def test_the_lesson_has_at_most_600_lines_and_attention_stands_on_its_first_screens():
    lines = LESSON.strip().split("\n")
    assert len(lines) <= 600
    assert next(i for i, line in enumerate(lines) if line.startswith("class Attention")) < 100


def test_the_lesson_needs_nothing_that_comes_later():
    tree = ast.parse(HEADER + LESSON)
    known = {*dir(builtins), "__name__"}
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            known.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            known |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            known.add(node.name)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    known |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    assert {node.id for node in names} - known == set()


def test_the_lesson_alone_learns_and_writes(alone, text_file):
    text = text_file.read_text()
    vocabulary = alone.Vocabulary("".join(sorted(set(text))))
    corpus = alone.Corpus("words", vocabulary.encode(text), vocabulary)
    config = alone.Config(len(vocabulary), 16, 2, 2, 16)
    trainer = alone.Trainer(config, alone.TrainConfig(steps=60, batch_size=8), corpus)
    points = [(kind, loss) for kind, loss in alone.learn(trainer) if kind != "step"]
    assert points[0] == ("eval", pytest.approx(math.log(len(vocabulary)), abs=1e-5))
    assert points[-1][0] == "eval" and points[-1][1] < points[0][1] - 0.3
    start = vocabulary.encode("A")[None]
    naive = alone.generate_naively(trainer.ema.eval(), start, 15, temperature=0)
    cached = list(alone.continue_ids(alone.Decoder(trainer.ema, 1), start, 15, 8,
                                     lambda logits, text: alone.draw(logits, 0)))
    assert naive[0, 1:].tolist() == torch.cat(cached).tolist()
    assert set(vocabulary.decode(naive[0].tolist())) <= set(text)


def test_the_lesson_alone_gives_what_the_whole_file_gives(alone, corpus):
    ids = Corpus("words", corpus.ids, corpus.vocabulary)
    plain = alone.Trainer(alone.Config(**vars(fit(TINY, corpus))),
                          alone.TrainConfig(**vars(RECIPE)), ids)
    fast = FastTrainer(fit(TINY, corpus), RECIPE, corpus, CPU)
    for module, trainer in ((alone, plain), (gltch, fast)):
        trainer.points = [loss for kind, loss in module.learn(trainer) if kind != "step"]
    assert plain.points == pytest.approx(fast.points, abs=1e-4)


# --- It is what runs ------------------------------------------------------------------------------


def test_the_fast_trainer_makes_the_lessons_steps():
    assert issubclass(FastTrainer, Trainer) and FastTrainer.train_step is Trainer.train_step


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_micro_batches_on_a_runtime_learn_what_whole_batches_learn(corpus, optimizer):
    config, recipe = fit(TINY, corpus), replace(RECIPE, optimizer=optimizer, low_memory=True,
                                                learning_rate=0.01)
    plain = Trainer(config, recipe, corpus)
    fast = FastTrainer(config, recipe, corpus, CPU)
    assert len(fast.micro_batches(range(8))) == 8
    for ours, theirs in zip(learned(fast), learned(plain)):
        assert ours[:2] == theirs[:2] and ours[2] == pytest.approx(theirs[2], abs=2e-3)


def test_learn_tells_every_step_and_the_points_of_both_curves(corpus):
    trainer = Trainer(fit(TINY, corpus), replace(RECIPE, steps=34), corpus)
    told = [(kind, trainer.step) for kind, _ in learn(trainer)]
    assert [step for kind, step in told if kind == "step"] == list(range(1, 35))
    assert [step for kind, step in told if kind == "train"] == [10, 20, 30, 34]
    assert [step for kind, step in told if kind == "eval"] == [0, 15, 30, 34]


def test_asked_to_stop_it_ends_the_step_with_its_points(corpus):
    trainer, told = Trainer(fit(TINY, corpus), RECIPE, corpus), []
    for kind, _ in learn(trainer):
        told.append(kind)
        trainer.stop = trainer.step == 15
    assert trainer.step == 15 and told[-2:] == ["step", "eval"]


@pytest.mark.parametrize("batch_of, expected", [
    (None, list(range(16))),
    (lambda step: range(100 + 8 * step, 108 + 8 * step), list(range(100, 116)))])
def test_a_trainer_learns_from_its_windows_in_order_or_from_those_it_is_given(
        corpus, batch_of, expected):
    seen = []
    trainer = Trainer(fit(TINY, corpus), RECIPE, corpus, batch_of=batch_of)
    batch = trainer.windows.batch
    trainer.windows.batch = lambda numbers: seen.extend(numbers) or batch(numbers)
    trainer.train_step()
    trainer.train_step()
    assert seen == expected


def test_trainers_of_one_seed_start_alike_and_can_have_noise_of_their_own(corpus):
    config = replace(fit(TINY, corpus), dropout=0.5)
    trainers = [Trainer(config, RECIPE, corpus, noise_seed=seed) for seed in (None, 1337, 7)]
    for trainer in trainers:
        for _ in range(3):
            trainer.train_step()
    a, b, c = (trainer.model.state_dict() for trainer in trainers)
    for name in a:
        assert_close(a[name], b[name], rtol=0, atol=0)
    assert not torch.equal(a["head.weight"], c["head.weight"])
