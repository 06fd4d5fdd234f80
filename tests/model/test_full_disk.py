"""A disk that is full, a reader of the output that left: training goes on and keeps its work."""
import builtins
import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PROGRAM, SMALL_RUN
from test_checkpoints import RECIPE, TINY, assert_same_run, posix

import gltch_2_7m as gltch
from gltch_2_7m import FastTrainer, Run, Unwritable, load_corpus, read_checkpoint, train

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and limits of Linux")


@pytest.fixture
def corpus(text_file):
    return load_corpus([str(text_file)])


class RealDisk:
    """A small disk in memory, filled with a file. A line more may fit into a page of the log."""

    refuses = ("loss.svg", "best.pt", "last.pt")

    def __init__(self, folder):
        self.ballast = folder / "ballast"

    def fill(self):
        with open(self.ballast, "wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(4096))

    def free(self):
        self.ballast.unlink()


class PretendedDisk:
    """For machines where nothing can be mounted: what the program opens takes half of a write."""

    refuses = ("log.jsonl", "loss.svg", "best.pt", "last.pt")

    def __init__(self, monkeypatch):
        self.full = False
        monkeypatch.setattr(gltch, "open", self.open, raising=False)

    def fill(self):
        self.full = True

    def free(self):
        self.full = False

    def open(self, path, mode="r", **settings):
        file = builtins.open(path, mode, **settings)
        if mode in ("ab", "wb"):
            write = file.write

            def half(content):
                if not self.full:
                    return write(content)
                write(bytes(content)[: len(content) // 2])
                file.flush()
                raise OSError(errno.ENOSPC, "No space left on device")

            return Wrapped(file, half)
        return file


class Wrapped:
    def __init__(self, file, write):
        self.file, self.write = file, write

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


@pytest.fixture(params=[pytest.param("a real one", marks=pytest.mark.process), "a pretended one"])
def disk(request, monkeypatch, tmp_path):
    if request.param == "a pretended one":
        return PretendedDisk(monkeypatch)
    folder = request.getfixturevalue("mount")(tmp_path / "disk", "size=1m")
    monkeypatch.chdir(folder)
    return RealDisk(folder)


def train_while(monkeypatch, corpus, name, events, recipe=RECIPE):
    """Train; before the step with a number in `events` something happens."""
    step_of = FastTrainer.train_step

    def step(trainer):
        events.get(trainer.step + 1, lambda: None)()
        return step_of(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(FastTrainer, "train_step", step)
        return train(TINY, recipe, corpus, name=name)


@pytest.mark.parametrize("first", [1, 3, 6])
def test_a_training_outlives_a_full_disk_and_all_of_it_is_kept(
        corpus, monkeypatch, capsys, disk, first):
    straight = train(TINY, RECIPE, corpus, name="straight").folder
    capsys.readouterr()
    seen = []

    def free():
        seen.append(read_checkpoint(Path("runs", "full", "last.pt"))["step"])
        disk.free()

    result = train_while(monkeypatch, corpus, "full", {first: disk.fill, 10: free})
    assert (result.step, seen) == (12, [first // 4 * 4])
    assert_same_run(result.folder, straight)
    assert (result.folder / "loss.svg").read_text() == (
        straight / "loss.svg").read_text().replace("straight", "full")
    said = capsys.readouterr().err
    for name in disk.refuses:
        assert f"{name} could not be written: No space left on device. Training goes on" in said
    assert sorted(path.name for path in result.folder.iterdir()) == [
        "best.pt", "last.pt", "log.jsonl", "loss.svg"]


def test_a_disk_that_stays_full_is_a_sentence_at_the_end_and_costs_nothing_from_before(
        corpus, monkeypatch, disk):
    with pytest.raises(Unwritable, match="stopped at step 12 and could not be saved.*step 4"):
        train_while(monkeypatch, corpus, "full", {6: disk.fill})
    assert read_checkpoint(Path("runs", "full", "last.pt"))["step"] == 4
    disk.free()
    assert train(resume="runs/full").step == 12


def test_ctrl_c_on_a_full_disk_is_a_sentence(corpus, monkeypatch, disk):
    with pytest.raises(Unwritable, match="stopped at step 7 and could not be saved.*step 4"):
        train_while(monkeypatch, corpus, "full", {
            6: disk.fill, 7: lambda: signal.raise_signal(signal.SIGINT)})
    assert read_checkpoint(Path("runs", "full", "last.pt"))["step"] == 4


def test_the_best_network_is_the_best_that_could_be_kept(corpus, monkeypatch, disk):
    losses = iter([3.0, 2.5, 2.0, 2.25])
    monkeypatch.setattr(gltch, "evaluate", lambda *_: next(losses))
    result = train_while(monkeypatch, corpus, "full", {6: disk.fill, 10: disk.free})
    assert read_checkpoint(result.folder / "best.pt")["val_loss"] == 2.25
    assert result.best_val_loss == 2.25


def test_a_warning_is_said_once_until_the_next_evaluation(corpus, monkeypatch, capsys):
    disk = PretendedDisk(monkeypatch)
    recipe = replace(RECIPE, log_every=1, sample_every=0)
    train_while(monkeypatch, corpus, "full", {5: disk.fill, 12: disk.free}, recipe)
    assert capsys.readouterr().err.count("log.jsonl could not be written") == 2


@pytest.mark.parametrize("code, help", [
    (errno.EACCES, True), (errno.EPERM, True), (errno.ENOSPC, False)])
def test_where_nothing_may_be_written_another_folder_is_asked_for(code, help):
    with pytest.raises(Unwritable) as error, gltch.writing(Path("runs", "mine")):
        raise OSError(code, "what the system says")
    asks = "; choose a folder where you may write" if help else ""
    assert str(error.value) == (
        f"{Path('runs', 'mine')} could not be written: what the system says{asks}.")


@linux
def test_a_log_that_cannot_be_written_is_written_later_whole(tmp_path, capsys):
    run = Run(tmp_path)
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    run.log("train", 1, loss=1.0)
    assert "log.jsonl could not be written" in capsys.readouterr().err
    (tmp_path / "log.jsonl").unlink()
    run.log("train", 2, loss=1.0)
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 2


def limited():
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))


@linux
@pytest.mark.parametrize("kind", ["a small disk", "a limit of file sizes"])
def test_a_run_that_can_never_be_saved_ends_with_one_sentence(
        kind, request, start_gltch, text_file, tmp_path):
    settings = {"preexec_fn": limited}
    if kind == "a small disk":
        settings = {"cwd": request.getfixturevalue("mount")(tmp_path / "disk", "size=1m")}
    process = start_gltch("--data", text_file, *SMALL_RUN, "--steps", 2, "--name", "n", **settings)
    errors = process.communicate(timeout=240)[1]
    assert process.returncode == 2 and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("gltch_2_7m.py: error: The run stopped at step 2 and")
    assert errors.splitlines()[-1].endswith("nothing of it is kept.")
    folder = settings.get("cwd", tmp_path) / "runs" / "n"
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "loss.svg"]


# --- Nobody reads what is said --------------------------------------------------------------------


@posix
@pytest.mark.parametrize("ending, lines", [
    ("2>&1 | head -1", 1), ("2>&-", 0), (">&- 2>&-", 0), ("<&- >&- 2>&-", 0), ("2>/dev/full", 0)])
def test_a_run_that_nobody_listens_to_is_trained_and_saved(text_file, ending, lines, straight):
    command = " ".join([sys.executable, str(PROGRAM), "--data", str(text_file), *SMALL_RUN,
                        "--name", "unheard", ending])
    done = subprocess.run(["bash", "-c", "set -o pipefail; " + command], timeout=240,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, encoding="utf-8")
    assert (done.returncode, done.stdout.count("\n")) == (0, lines)
    assert_same_run(Path("runs", "unheard"), straight.folder)


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP] if os.name == "posix" else [])
def test_a_run_whose_terminal_is_gone_is_saved_when_it_is_asked_to_stop(
        start_gltch, wait_for, text_file, tmp_path, number):
    process = start_gltch("--data", text_file, *SMALL_RUN, "--steps", 2000, "--name", "left")
    process.stderr.close()
    wait_for(tmp_path / "runs" / "left" / "log.jsonl", '"step": 15,')
    process.send_signal(number)
    assert process.wait(timeout=240) == 128 + number
    assert 15 <= read_checkpoint(tmp_path / "runs" / "left" / "last.pt")["step"] < 2000


@linux
def test_what_is_said_reaches_a_log_again_once_its_disk_has_room(tmp_path, monkeypatch):
    with open("/dev/full", "w") as stream, open(tmp_path / "log", "w") as log:
        monkeypatch.setattr(sys, "stderr", stream)
        gltch.say("lost")
        os.dup2(log.fileno(), stream.fileno())
        gltch.say("kept")
    assert (tmp_path / "log").read_text() == "kept\n"


@linux
def test_a_text_that_cannot_be_written_is_one_sentence(start_gltch, straight, monkeypatch):
    monkeypatch.chdir(straight.home)
    with open("/dev/full", "w") as full:
        process = start_gltch("sample", "--length", 9, stdout=full)
        errors = process.communicate(timeout=240)[1]
    assert process.returncode == 2 and errors.count("\n") == 1 and "No space left" in errors


