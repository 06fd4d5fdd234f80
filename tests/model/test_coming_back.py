"""Coming back to a run: its text is found again, its folder is clean, its errors are sentences."""
import json
from dataclasses import replace

import pytest
import torch

import gltch_2_7m as gltch
from gltch_2_7m import (
    BUILT_IN,
    SHAKESPEARE,
    Config,
    Corpus,
    GltchError,
    TrainConfig,
    Vocabulary,
    converse,
    load_corpus,
    main,
    train,
)

TINY = Config(block_size=16, n_layer=1, n_head=2, n_embd=16, dropout=0.1)
RECIPE = TrainConfig(steps=4, batch_size=4, eval_every=2, precision="fp32", device="cpu")


@pytest.fixture
def stopped(monkeypatch):
    """Train on a corpus, stopped after two of four steps; returns the run's folder."""

    def run(corpus, name="stopped"):
        step_of = gltch.FastTrainer.train_step

        def stopping(trainer):
            if trainer.step == 2:
                raise GltchError("stopped here")
            return step_of(trainer)

        with monkeypatch.context() as patch, pytest.raises(GltchError, match="stopped here"):
            patch.setattr(gltch.FastTrainer, "train_step", stopping)
            train(TINY, RECIPE, corpus, name=name)
        return f"runs/{name}"

    return run


def test_a_run_on_the_built_in_text_goes_on_though_another_text_is_there_now(
        stopped, monkeypatch, text_file):
    corpus = load_corpus()
    assert corpus.paths == [BUILT_IN]
    corpus.ids = corpus.ids[:3000]  # enough, and quicker to evaluate
    built_in, load = corpus, load_corpus

    def shortened(paths=(), vocabulary=None):
        return built_in if list(paths) == [BUILT_IN] else load(paths, vocabulary)

    folder = stopped(corpus)
    monkeypatch.setenv("GLTCH_DATA", str(text_file))
    monkeypatch.setattr(gltch, "load_corpus", shortened)
    assert train(resume=folder).step == 4


def test_the_built_in_text_can_be_asked_for_by_name(monkeypatch, text_file):
    monkeypatch.setenv("GLTCH_DATA", str(text_file))
    assert load_corpus([BUILT_IN]).digest != load_corpus().digest
    assert "language reference" in load_corpus([BUILT_IN]).source


def test_tiny_shakespeare_out_of_reach_is_a_sentence_when_a_run_needs_it():
    with pytest.raises(GltchError, match="out of reach"):
        load_corpus([SHAKESPEARE])


def test_a_run_on_standard_input_asks_for_its_text_again(stopped, text_file):
    corpus = load_corpus([str(text_file)])
    corpus.paths = ["-"]
    folder = stopped(corpus)
    with pytest.raises(GltchError, match="standard input"):
        train(resume=folder)
    assert train(resume=folder, corpus=load_corpus([str(text_file)])).step == 4


def test_what_a_kill_left_half_written_is_cleared_away(stopped, text_file, place):
    folder = place / stopped(load_corpus([str(text_file)]))
    (folder / ".last.pt.123.tmp").write_bytes(b"half a checkpoint")
    train(resume=str(folder))
    assert not list(folder.glob(".*"))


def test_a_damaged_log_is_a_sentence(stopped, text_file, place):
    folder = place / stopped(load_corpus([str(text_file)]))
    (folder / "log.jsonl").write_text("not a point\n")
    with pytest.raises(GltchError, match="log.jsonl is damaged"):
        train(resume=str(folder))


def test_a_checkpoint_without_its_recipe_is_a_sentence(stopped, text_file, place):
    path = place / stopped(load_corpus([str(text_file)])) / "last.pt"
    state = gltch.read_checkpoint(path)
    del state["recipe"]
    gltch.save_checkpoint(path, state)
    with pytest.raises(GltchError, match="damaged"):
        train(resume=str(path))


@pytest.mark.parametrize("name", ["a/b", "../a", "..", "/tmp/a"])
def test_a_name_that_is_a_path_is_refused(name, text_file):
    with pytest.raises(GltchError, match="--name"):
        train(TINY, RECIPE, load_corpus([str(text_file)]), name=name)


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), MemoryError()])
def test_too_little_memory_is_a_sentence(monkeypatch, capsys, error):
    def exhausted(*args, **kwargs):
        raise error

    monkeypatch.setattr(gltch, "train", exhausted)
    assert main(["train"]) == 2
    assert "not enough memory" in capsys.readouterr().err


def test_only_the_first_of_several_processes_speaks(monkeypatch, capsys):
    gltch.say("one")
    monkeypatch.setenv("RANK", "1")
    gltch.say("two")
    assert capsys.readouterr().err == "one\n"


def test_a_conversation_needs_no_line_ends_in_the_vocabulary(monkeypatch, capsys):
    corpus = Corpus("ab", torch.tensor([0, 1] * 200, dtype=torch.uint8), Vocabulary("ab"), "0" * 8)
    result = train(TINY, replace(RECIPE, steps=1), corpus)
    lines = iter(["ab", "ba"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines, None) or end_of_input())
    converse(result.model, result.vocabulary, length=5)
    assert len("".join(capsys.readouterr().out.split())) == 10


def end_of_input():
    raise EOFError


def test_the_best_loss_is_named_when_the_last_is_worse(stopped, text_file, place):
    folder = place / stopped(load_corpus([str(text_file)]))
    points = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    points[-1]["loss"] = 0.5  # as if the run had been better before
    (folder / "log.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    result = train(resume=str(folder))
    assert result.best_val_loss == 0.5 < result.val_loss
