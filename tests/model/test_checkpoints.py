"""Checkpoints: a stopped run goes on as if nothing had been, and a file is whole or refused."""
import errno
import json
import os
import pickle
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import PROGRAM, SMALL_RUN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gltch_2_7m as gltch
from gltch_2_7m import (
    Config,
    FastTrainer,
    GltchError,
    Run,
    StepTimer,
    TrainConfig,
    generate,
    load,
    load_corpus,
    read_checkpoint,
    save_checkpoint,
    train,
)

TINY = Config(block_size=16, n_layer=1, n_head=2, n_embd=16, dropout=0.1)
RECIPE = TrainConfig(steps=12, batch_size=4, eval_every=4, log_every=2, sample_every=0, warmup=3,
                     precision="fp32", device="cpu")
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.fixture
def corpus(text_file):
    return load_corpus([str(text_file)])


@pytest.fixture
def short_samples(monkeypatch):
    """Most of the time of a tiny run goes into the characters that it writes."""
    def write(model, vocabulary, prompt, length, **how):
        return generate(model, vocabulary, prompt, 20, **how)  # more than its context

    monkeypatch.setattr(gltch, "generate", write)


def read_log(folder):
    """The points of a run's log, without what depends on the speed of the machine."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items()
             if key not in ("seconds", "characters_per_second")} for line in lines]


def assert_same(a, b):
    """Equal to the last bit, through dictionaries and lists."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b):
            assert_same(one, other)
    else:
        assert a == b


def assert_same_run(folder, other):
    assert read_log(folder) == read_log(other)
    for name in ("best.pt", "last.pt"):
        states = [read_checkpoint(path / name) for path in (folder, other)]
        for state in states:
            assert state.pop("seconds") >= 0
        assert_same(*states)


# --- Going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_interrupted_after_any_step_and_resumed_a_run_ends_the_same(
        corpus, monkeypatch, short_samples, precision, optimizer):
    recipe, step_of = replace(RECIPE, precision=precision, optimizer=optimizer,
                              sample_every=6), FastTrainer.train_step
    straight = train(TINY, recipe, corpus, name="straight").folder
    every = 1 if (precision, optimizer) == ("fp32", "muon") else 4
    for stop in range(1, 12, every):
        def interrupted(trainer, stop=stop):
            if trainer.step == stop - 1:
                signal.raise_signal(signal.SIGINT)
            return step_of(trainer)

        monkeypatch.setattr(FastTrainer, "train_step", interrupted)
        result = train(TINY, recipe, corpus, name=f"stopped at {stop}")
        assert (result.step, result.interrupted) == (stop, signal.SIGINT)
        monkeypatch.setattr(FastTrainer, "train_step", step_of)
        assert train(resume=str(result.folder)).interrupted == 0
        assert_same_run(result.folder, straight)


class Crash(BaseException):
    """The process dies here: no code of the program runs after it."""


def crash_at(monkeypatch, number):
    """Die in the number-th of the calls that change a run; returns the list of calls."""
    calls = []

    def fault(owner, name, after):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) == number and not after:
                raise Crash
            result = original(*args, **kwargs)
            if len(calls) == number and after:
                raise Crash
            return result

        monkeypatch.setattr(owner, name, call)

    fault(FastTrainer, "train_step", after=True)
    fault(Run, "log", after=True)
    fault(Run, "plot", after=False)
    fault(gltch, "save_checkpoint", after=True)
    return calls


def test_dying_at_any_moment_and_resumed_a_run_ends_the_same(corpus, monkeypatch, short_samples):
    recipe = replace(RECIPE, steps=8, sample_every=4)
    with monkeypatch.context() as patch:
        calls = crash_at(patch, 0)
        straight = train(TINY, recipe, corpus, name="straight").folder
    first = calls.index("save_checkpoint") + 1  # before it there is nothing to go on from
    assert len(calls) > 20
    for number in range(first, len(calls)):
        folder = Path("runs", f"died in {number}, {calls[number - 1]}")
        with monkeypatch.context() as patch, pytest.raises(Crash):
            crash_at(patch, number)
            train(TINY, recipe, corpus, name=folder.name)
        train(resume=str(folder))
        assert_same_run(folder, straight)


def test_dying_before_the_first_checkpoint_does_not_use_up_the_name(corpus, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_at(patch, 1)  # the first point is in the log
        train(TINY, RECIPE, corpus, name="again")
    assert train(TINY, RECIPE, corpus, name="again").step == 12


@pytest.mark.parametrize("torn", ['{"kind": "tr', '{"kind": "train", "step": 8}'])
def test_a_last_line_cut_short_is_dropped_from_the_log(corpus, monkeypatch, torn):
    straight = train(TINY, RECIPE, corpus, name="straight").folder
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_at(patch, 20)
        train(TINY, RECIPE, corpus, name="torn")
    with open(Path("runs", "torn", "log.jsonl"), "a") as file:
        file.write(torn)
    train(resume="runs/torn")
    assert_same_run(Path("runs", "torn"), straight)


def test_a_log_that_makes_no_sense_is_one_sentence(corpus):
    folder = train(TINY, RECIPE, corpus).folder
    save_checkpoint(folder / "last.pt", {**read_checkpoint(folder / "last.pt"), "total": 16})
    (folder / "log.jsonl").write_text("one line\nof prose\n")
    with pytest.raises(GltchError, match="log.jsonl is damaged"):
        train(resume=str(folder))


def test_what_a_kill_left_half_written_is_cleared_away(corpus):
    folder = train(TINY, RECIPE, corpus).folder
    save_checkpoint(folder / "last.pt", {**read_checkpoint(folder / "last.pt"), "total": 16})
    (folder / ".last.pt.12345.tmp").write_bytes(b"half a checkpoint")
    train(resume=str(folder))
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.pt", "last.pt", "log.jsonl", "loss.svg"]


def test_a_second_signal_ends_the_run_in_the_middle_of_a_step(corpus, monkeypatch):
    def insisted(trainer):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(FastTrainer, "train_step", insisted)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, RECIPE, corpus, name="insisted")
    assert read_checkpoint(Path("runs", "insisted", "last.pt"))["step"] == 0


@pytest.mark.parametrize("stop", [3, 8])
def test_a_run_of_minutes_stopped_before_or_after_its_length_is_told_goes_on(
        corpus, monkeypatch, stop):
    def interrupted(trainer):
        if trainer.step == stop - 1:
            signal.raise_signal(signal.SIGINT)
        return step_of(trainer)

    recipe, step_of = replace(RECIPE, steps=None, minutes=1.0), FastTrainer.train_step
    def decided(timer, seconds, step, elapsed):
        add(timer, seconds, step, elapsed)
        return {7: (10, True)}.get(step)

    add = StepTimer.add
    monkeypatch.setattr(StepTimer, "add", decided)
    monkeypatch.setattr(FastTrainer, "train_step", interrupted)
    result = train(TINY, recipe, corpus)
    assert result.step == stop
    monkeypatch.setattr(FastTrainer, "train_step", step_of)
    assert train(resume=str(result.folder / "last.pt")).step == 10


def test_a_complete_run_is_not_resumed(corpus):
    folder = train(TINY, RECIPE, corpus).folder
    with pytest.raises(GltchError, match="complete"):
        train(resume=str(folder))


@pytest.mark.parametrize("resume", ["", "runs/newest"])
def test_where_the_newest_run_is_complete_the_latest_unfinished_one_is_named(corpus, resume):
    for number, name in enumerate(("begun", "begun later", "damaged", "of a hive", "newest")):
        folder = train(TINY, replace(RECIPE, steps=2), corpus, name=name).folder
        state = read_checkpoint(folder / "last.pt")
        if name == "of a hive":
            del state["optimizers"]
        save_checkpoint(folder / "last.pt", {**state, "total": 2 if name == "newest" else 16})
        if name == "damaged":
            (folder / "last.pt").write_bytes(b"half of it")
        os.utime(str(folder / "last.pt"), (number, number))
    with pytest.raises(GltchError) as error:
        train(resume=resume)
    newest, begun = Path("runs", "newest"), Path("runs", "begun later")
    assert str(error.value) == (f"The run in {newest} is complete: start another one, from its "
                                f"network with --from {newest}, or go on with --resume {begun}.")


def test_resuming_with_another_text_is_refused(corpus, text_file, tmp_path):
    other = tmp_path / "other.txt"
    other.write_bytes(text_file.read_bytes()[::-1])
    folder = train(TINY, RECIPE, corpus).folder
    with pytest.raises(GltchError, match="another text.*words.txt"):
        train(corpus=load_corpus([str(other)]), resume=str(folder))


def test_resuming_finds_the_text_again_from_any_folder(corpus, monkeypatch, tmp_path, text_file):
    monkeypatch.chdir(text_file.parent)
    near = load_corpus([text_file.name])
    monkeypatch.chdir(tmp_path)
    folder = train(TINY, replace(RECIPE, steps=4), near).folder
    state = read_checkpoint(folder / "last.pt")
    save_checkpoint(folder / "last.pt", {**state, "total": 6})
    assert train(resume=str(folder)).step == 6


def test_a_network_without_its_training_state_cannot_be_resumed(corpus):
    folder = train(TINY, RECIPE, corpus).folder
    state = read_checkpoint(folder / "last.pt")
    del state["optimizers"]
    save_checkpoint(folder / "last.pt", state)
    with pytest.raises(GltchError, match="cannot resume"):
        train(resume=str(folder))


# --- Going on, in processes that are really stopped -----------------------------------------------


@pytest.fixture
def stop(start_gltch, wait_for, text_file, tmp_path):
    """Send signals to a run of 60 steps when its log shows a step; returns how it ended."""

    def run(step, *signals):
        process = start_gltch("--data", text_file, *SMALL_RUN, "--name", "stopped")
        wait_for(tmp_path / "runs" / "stopped" / "log.jsonl", f'"step": {step},')
        for number in signals:
            process.send_signal(number)
        output, errors = process.communicate(timeout=240)
        state = read_checkpoint(tmp_path / "runs" / "stopped" / "last.pt")
        assert step - step % 10 <= state["step"] < 60
        assert output == "" and "Traceback" not in errors
        return SimpleNamespace(code=process.returncode, errors=errors)

    return run


def resume_and_compare(gltch_cli, straight):
    resumed = gltch_cli("--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(Path("runs", "stopped"), straight.folder)


@posix
def test_a_killed_process_loses_only_the_steps_since_its_checkpoint(stop, gltch_cli, straight):
    assert stop(35, signal.SIGKILL).code == -signal.SIGKILL
    resume_and_compare(gltch_cli, straight)


@posix
def test_ctrl_c_saves_and_says_how_to_go_on(stop, gltch_cli, straight):
    ended = stop(35, signal.SIGINT)
    assert ended.code == 130
    assert ended.errors.endswith(f"  python {PROGRAM} train --resume runs/stopped\n")
    resume_and_compare(gltch_cli, straight)


@posix
def test_a_polite_kill_saves_too(stop):
    ended = stop(5, signal.SIGTERM)
    assert ended.code == 143 and "--resume runs/stopped" in ended.errors


@posix
def test_a_second_ctrl_c_does_not_wait(stop):
    assert stop(5, signal.SIGINT, signal.SIGINT).code == 130


# --- A file is replaced whole or not at all -------------------------------------------------------


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"),
                                     RuntimeError("PytorchStreamWriter failed writing file"),
                                     KeyboardInterrupt()])
def test_a_failure_while_writing_keeps_the_file_before(monkeypatch, tmp_path, failure):
    def fail(state, file):
        file.write(b"the beginning of a checkpoint")
        raise failure

    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(GltchError if isinstance(failure, Exception) else KeyboardInterrupt):
        save_checkpoint(path, {"step": 2})
    assert os.listdir(str(tmp_path)) == ["last.pt"]
    assert read_checkpoint(path)["step"] == 1


FULL_DISK = """
import resource, signal, sys, torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from gltch_2_7m import GltchError, save_checkpoint
save_checkpoint(Path("last.pt"), {"step": 1, "weights": torch.ones(9)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(Path("last.pt"), {"step": 2, "weights": torch.ones(10**6)})
except GltchError as error:
    sys.exit(f"sentence: {error}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of file sizes")
def test_a_disk_that_is_full_keeps_the_file_before(start, tmp_path):
    process = start(sys.executable, "-c", FULL_DISK, PROGRAM.parent)
    errors = process.communicate(timeout=240)[1]
    assert "sentence: " in errors and "could not be written" in errors
    assert os.listdir(str(tmp_path)) == ["last.pt"]
    assert read_checkpoint(tmp_path / "last.pt")["step"] == 1


def test_a_folder_that_cannot_be_made_is_a_sentence(corpus):
    Path("runs").write_text("a file where the folder should be")
    with pytest.raises(GltchError, match="runs"):
        train(TINY, RECIPE, corpus)


# --- What is in a file, and what is refused -------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, text_file):
    """The checkpoint of a tiny network: read it, do not change it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path_factory.mktemp("checkpoint"))
        return train(TINY, RECIPE, load_corpus([str(text_file)])).folder.resolve() / "best.pt"


def test_a_checkpoint_holds_tensors_and_plain_values_only(checkpoint):
    state = torch.load(str(checkpoint), weights_only=True)
    assert state["step"] == 12 and Config(**state["config"]).n_embd == TINY.n_embd
    assert TrainConfig(**state["recipe"]) == RECIPE


def test_a_network_is_found_by_file_by_folder_or_as_the_newest(checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent.parent.parent)
    models = [load(where)[0] for where in (str(checkpoint), str(checkpoint.parent), "")]
    for model in models:
        assert_same(dict(model.state_dict()), dict(read_checkpoint(checkpoint)["ema"]))


def test_the_newest_run_is_the_one_written_last(corpus):
    for name in ("b", "a"):
        folder = train(TINY, replace(RECIPE, steps=1), corpus, name=name).folder
        for path in folder.glob("*.pt"):
            os.utime(str(path), (9e8 - ord(name), 9e8 - ord(name)))
    assert gltch.find_checkpoint(None, ("best.pt", "last.pt")).parent == Path("runs", "a")


class Evil:
    """Unpickled, it makes a file."""

    def __reduce__(self):
        return open, ("executed", "w")


def bad_files(good):
    return {
        "empty": b"",
        "text": b"To be, or not to be\n",
        "cut short": good[: len(good) // 2],
        "corrupt": good[:200] + b"\xff" * 200 + good[400:],
        "pickle with code": pickle.dumps(Evil(), protocol=2),
        "without its last byte": good[:-1],
    }


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", bad_files(b""))
def test_what_is_no_checkpoint_is_refused_and_never_executed(checkpoint, tmp_path, kind, suffix):
    path = tmp_path / ("bad" + suffix)
    path.write_bytes(bad_files(checkpoint.read_bytes())[kind])
    with pytest.raises(GltchError, match="bad.* is not a GLTCH checkpoint, or it is damaged"):
        load(str(path))
    assert os.listdir(str(tmp_path)) == [path.name]


def test_code_inside_a_checkpoint_is_never_executed(checkpoint, tmp_path):
    torch.save({**read_checkpoint(checkpoint), "step": Evil()}, str(tmp_path / "evil.pt"))
    with pytest.raises(GltchError, match="evil.pt"):
        load(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("state", [
    {"model": {"weight": torch.ones(2)}}, [1, 2], torch.ones(3), {"format": "gltch-checkpoint-1"}])
def test_a_checkpoint_of_another_program_is_refused(tmp_path, state):
    torch.save(state, str(tmp_path / "other.pt"))
    with pytest.raises(GltchError, match="other.pt"):
        load(str(tmp_path / "other.pt"))


@pytest.mark.parametrize("change", [
    {"config": {}}, {"config": {"n_embd": 16, "wings": 2}}, {"config": {"n_embd": -1}},
    {"config": {"n_embd": 32}}, {"config": None}, {"ema": {}}, {"ema": None},
    {"vocabulary": "aa"}, {"vocabulary": ""}, {"vocabulary": None}, {"vocabulary": "abc"}])
def test_a_checkpoint_that_contradicts_itself_is_refused(checkpoint, tmp_path, change):
    save_checkpoint(tmp_path / "odd.pt", {**read_checkpoint(checkpoint), **change})
    with pytest.raises(GltchError):
        load(str(tmp_path / "odd.pt"))


@settings(deadline=None, max_examples=40,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_checkpoint_loads_or_is_refused_with_a_sentence(checkpoint, tmp_path, data):
    content = bytearray(checkpoint.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=5)):
        content[place] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(content)))
    (tmp_path / "damaged.pt").write_bytes(content[:length])
    try:
        model, _ = load(str(tmp_path / "damaged.pt"))
    except GltchError as error:
        assert "damaged.pt" in str(error)
    else:
        assert length == len(content) and model.config.n_embd == 16


def test_missing_files_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, words in (("gone.pt", "There is no checkpoint 'gone.pt'"),
                        ("empty", "holds no best.pt or last.pt: name that of a run"),
                        ("", "start one with")):
        with pytest.raises(GltchError, match=words):
            load(name)


def test_a_folder_of_the_same_name_does_not_hide_a_run(checkpoint):
    """A clone has a folder hive/, and its hive's run is in runs/hive."""
    Path("runs", "hive").mkdir(parents=True)
    shutil.copy(str(checkpoint), str(Path("runs", "hive", "last.pt")))
    Path("hive").mkdir()
    assert gltch.find_checkpoint("hive", ("best.pt", "last.pt")) == Path("runs", "hive", "last.pt")


# --- safetensors ----------------------------------------------------------------------------------


def test_an_exported_network_is_the_same_network(checkpoint):
    gltch.export(checkpoint, Path("out", "model.safetensors"))
    before, after = load(str(checkpoint)), load("out/model.safetensors")
    assert before[1].characters == after[1].characters
    assert before[0].config == after[0].config
    assert_same(dict(before[0].state_dict()), dict(after[0].state_dict()))
    texts = ["".join(generate(*network, "A", 50, temperature=0)) for network in (before, after)]
    assert texts[0] == texts[1] and len(texts[0]) == 50


def test_an_exported_file_says_what_it_is(checkpoint):
    from safetensors import safe_open
    gltch.export(checkpoint, Path("model.safetensors"))
    with safe_open("model.safetensors", framework="pt") as file:
        about = file.metadata()
    state = read_checkpoint(checkpoint)
    assert about["format"] == "pt"
    assert json.loads(about["gltch"])["config"] == state["config"]
    assert json.loads(about["gltch"])["step"] == 12


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file
    save_file({"weight": torch.ones(2)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(GltchError, match="other.safetensors"):
        load(str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("package", ["safetensors", "numpy"])
def test_a_missing_package_is_named(checkpoint, monkeypatch, package):
    for name in (package, package + ".torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(GltchError, match=f"the package {package}: pip install safetensors numpy"):
        gltch.export(checkpoint, Path("model.safetensors"))
    assert not Path("model.safetensors").exists()


def test_reading_safetensors_without_the_package_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(GltchError, match="pip install safetensors"):
        load("model.safetensors")
