"""--from: a new run begins with what a finished network knows, on another text."""
import json
import math
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from builders import FRENCH, TINY, TINY_RECIPE
from torch.testing import assert_close

import gltch_2_7m as gltch
from gltch_2_7m import (
    GLTCH,
    Vocabulary,
    in_the_numbers_of,
    load,
    load_corpus,
    open_origin,
    read_checkpoint,
    take_over,
    train,
)


@pytest.fixture
def main(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)

    def run(*arguments):
        code = gltch.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err)

    return run


def small(*arguments):
    return ("--steps", 4, "--batch-size", 4, "--sample-every", 0, "--device", "cpu",
            "--precision", "fp32", *arguments)


def first_loss(folder):
    return json.loads((folder / "log.jsonl").read_text().splitlines()[0])["loss"]


# --- The vocabulary grows -------------------------------------------------------------------------


def test_new_characters_get_numbers_after_the_old_ones_and_none_is_lost(french):
    corpus = load_corpus([str(french)])
    vocabulary = Vocabulary("zyxabcdefghij .")
    grown = in_the_numbers_of(vocabulary, corpus)
    assert grown.vocabulary.characters[:15] == vocabulary.characters
    assert grown.vocabulary.characters[15:] == "".join(sorted(set(FRENCH) - set("zyxabcdefghij .")))
    assert grown.vocabulary.decode(grown.ids.tolist()) == FRENCH
    assert (grown.digest, grown.paths, grown.ids.dtype) == (
        corpus.digest, corpus.paths, torch.uint8)


@pytest.mark.parametrize("known, dtype", [(100, torch.uint8), (300, torch.int16)])
def test_a_grown_alphabet_takes_the_narrowest_type(french, known, dtype):
    vocabulary = Vocabulary("".join(map(chr, range(0x4e00, 0x4e00 + known))))
    corpus = in_the_numbers_of(vocabulary, load_corpus([str(french)]))
    assert corpus.ids.dtype == dtype
    assert corpus.vocabulary.decode(corpus.ids.tolist()) == FRENCH


def test_a_network_that_grows_scores_the_old_characters_as_before():
    torch.manual_seed(3)
    old = GLTCH(replace(TINY, vocab_size=9, dropout=0.0))
    for parameter in old.parameters():
        torch.nn.init.normal_(parameter)
    new = GLTCH(replace(TINY, vocab_size=12, dropout=0.0))
    start = new.token_embedding.weight[9:].clone()
    take_over(new, old)
    ids = torch.randint(9, (2, 16))
    assert_close(new(ids)[:, :, :9], old(ids))
    assert torch.equal(new.token_embedding.weight[9:], start) and start.std() < 0.05
    assert new(ids)[:, :, 9:].abs().max() == 0  # a head that starts as zero


# --- A new run ------------------------------------------------------------------------------------


def test_a_run_from_a_network_begins_where_that_ended(finished, text_file):
    state = read_checkpoint(finished / "best.pt")
    result = train(recipe=TINY_RECIPE, origin=open_origin("finished"), name="further")
    assert first_loss(result.folder) == pytest.approx(state["val_loss"], abs=1e-6)
    assert result.val_loss < state["val_loss"]
    assert result.vocabulary.characters == state["vocabulary"]
    assert replace(result.model.config, vocab_size=65) == TINY
    assert read_checkpoint(result.folder / "last.pt")["step"] == 12  # its own steps
    assert read_checkpoint(finished / "best.pt")["step"] == state["step"]  # and it is untouched


def test_on_another_text_it_knows_the_old_characters_and_the_new_ones(finished, french):
    old = load(str(finished))[1]
    result = train(recipe=TINY_RECIPE, corpus=load_corpus([str(french)]), name="further",
                   origin=open_origin(str(finished / "last.pt")))
    model, vocabulary = load("further")
    assert vocabulary.characters[:len(old)] == old.characters
    assert set(vocabulary.characters[len(old):]) == set(FRENCH) - set(old.characters)
    assert model.config.vocab_size == len(vocabulary) == result.model.head.weight.size(0)
    assert "".join(gltch.generate(model, vocabulary, "Être", 20))


def test_its_optimizers_start_fresh(finished, monkeypatch):
    trainers = []
    train(recipe=replace(TINY_RECIPE, steps=1), origin=open_origin("finished"), name="further",
          watch=lambda trainer, run: trainers.append(
              [dict(optimizer.state) for optimizer in trainer.optimizers]))
    assert trainers == [[{}, {}]]


def test_stopped_and_resumed_it_ends_as_if_it_had_not_been(finished, french, monkeypatch):
    def run(name):
        return train(recipe=TINY_RECIPE, corpus=load_corpus([str(french)]), name=name,
                     origin=open_origin("finished"))

    straight, step = run("straight"), gltch.FastTrainer.train_step

    def stopping(trainer):
        if trainer.step == 6:
            signal.raise_signal(signal.SIGINT)
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(gltch.FastTrainer, "train_step", stopping)
        assert run("stopped").step == 7
    resumed = train(resume="stopped")
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name])


# --- On the command line --------------------------------------------------------------------------


def test_it_says_where_it_comes_from_and_which_characters_are_new(finished, french, main):
    done = main("--from", finished, "--data", french, "--name", "further", *small())
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith("from"))
    new = sorted(set(FRENCH) - set(load(str(finished))[1].characters))
    assert line == (f"from      {Path('runs', 'finished', 'best.pt')}, step 12; new characters: "
                    + " ".join(map(repr, new)))
    assert len(new) > 5 and "'Ê'" in line


def test_without_another_text_it_goes_on_with_its_own(finished, main, text_file):
    done = main("--from", "finished", "--name", "further", *small())
    assert done.returncode == 0, done.stderr
    assert str(text_file) in done.stderr and "new characters: none" in done.stderr


def test_many_new_characters_are_counted(finished, main, tmp_path):
    (tmp_path / "many.txt").write_text("".join(map(chr, range(0x4e00, 0x4e00 + 500))),
                                       encoding="utf-8")
    done = main("--from", "finished", "--data", tmp_path / "many.txt", *small())
    assert "and 480 more" in done.stderr and "'\u4e13'" in done.stderr
    assert "'\u4e14'" not in done.stderr


def test_an_exported_network_can_be_gone_on_from(finished, main, french):
    gltch.export("finished", Path("model.safetensors"))
    done = main("--from", "model.safetensors", "--data", french, "--name", "further", *small())
    assert done.returncode == 0, done.stderr
    assert math.isfinite(read_checkpoint(Path("runs", "further", "last.pt"))["val_loss"])


@pytest.mark.parametrize("arguments, words", [
    (["--from", "finished", "--size", "1m"], "leave out --size"),
    (["--from", "finished", "--resume"], "leave out --from"),
    (["--from", "gone"], "no checkpoint 'gone': name a file, or a run's folder"),
    (["--from", "finished", "--name", "finished"], "There already is a run"),
])
def test_what_does_not_go_together_is_one_sentence(finished, main, arguments, words):
    before = sorted(Path("runs").rglob("*"))
    done = main(*arguments)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert sorted(Path("runs").rglob("*")) == before


@pytest.mark.parametrize("size", gltch.PRESETS)
def test_a_network_is_recognized_by_its_shape(size):
    config = replace(gltch.PRESETS[size][0], vocab_size=99, dropout=0.3)
    assert gltch.size_of(config) == size
    assert gltch.size_of(replace(config, n_layer=3)) is None


def test_it_is_trained_by_the_recipe_of_its_size(main, monkeypatch):
    def recipe(size):
        def told(config, recipe, corpus, reference, **others):
            raise gltch.GltchError(f"{recipe.learning_rate} {reference} {config.n_layer}")

        shape = gltch.PRESETS[size][0] if size in gltch.PRESETS else TINY
        origin = gltch.Origin({}, SimpleNamespace(config=replace(shape, vocab_size=9)), None)
        monkeypatch.setattr(gltch, "open_origin", lambda name, runs: origin)
        monkeypatch.setattr(gltch, "train", told)
        return main("--from", "any", "--device", "cpu").stderr.split("error: ")[1].strip()

    assert recipe("25m") == "0.015 24000 8"
    assert recipe("of no size") == "None 12000 2"


@pytest.mark.parametrize("how", ["from_complete", "from_exported"])
def test_what_cannot_be_resumed_says_how_to_go_on(finished, main, how):
    name = "finished"
    if how == "from_exported":
        gltch.export("finished", Path("model.safetensors"))
        name = "model.safetensors"
    done = main("--resume", name)
    words = done.stderr.split("--from ")
    assert done.returncode == 2 and len(words) == 2
    further = main("--from", words[1].rstrip(".\n"), *small(), "--name", "further")
    assert further.returncode == 0, further.stderr
