"""Several processes train one network: the same losses, the same decisions, one voice."""
import json
import random
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import PROGRAM, SMALL_RUN

import gltch_2_7m as gltch
from gltch_2_7m import Config, Runtime, TrainConfig, load_corpus, prepare, read_checkpoint

STARTUP = ("text   ", "network", "device ", "run    ", "Trained")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.fixture
def start_ranks(start, text_file, monkeypatch):
    """Start two processes of one run, as torchrun would, without torchrun."""
    if sys.platform == "win32":
        monkeypatch.setenv("USE_LIBUV", "0")  # PyTorch for Windows has no libuv

    def start_both(*arguments, program=(PROGRAM,), texts=None):
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
        return [start(sys.executable, *program, "--data", text, *SMALL_RUN, *arguments,
                      "--name", "both",
                      environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
                for rank, text in enumerate(texts or [text_file, text_file])]

    return start_both


def ends_of(processes):
    """(exit status, stderr) of each."""
    errors = [process.communicate(timeout=240)[1] for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors)]


def read_log(name):
    lines = Path("runs", name, "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [(point["kind"], point["step"], point["loss"]) for point in map(json.loads, lines)]


def test_two_processes_under_torchrun_learn_what_one_learns(start, text_file):
    settings = ["--data", text_file, *SMALL_RUN, "--batch-size", 4, "--dropout", 0, "--steps", 6,
                "--log-every", 1]
    process = start(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
                    "--master-port", free_port(), PROGRAM, *settings, "--low-memory",
                    "--name", "both", environment={"USE_LIBUV": "0"})
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert output == ""
    for line in STARTUP:
        assert sum(said.startswith(line) for said in errors.splitlines()) == 1
    assert "2 processes" in errors
    assert gltch.main([*map(str, settings), "--name", "one"]) == 0
    one, both = read_log("one"), read_log("both")
    assert [point[:2] for point in one] == [point[:2] for point in both]
    assert [point[2] for point in both] == pytest.approx([point[2] for point in one], abs=1e-4)


DIFFERENT_CLOCKS = """
import itertools, os, sys, time, types
sys.path.insert(0, sys.argv.pop(1))
import gltch_2_7m as gltch
tick, ticks = (0.01, 0.05)[int(os.environ["RANK"])], itertools.count()
gltch.time = types.SimpleNamespace(monotonic=lambda: tick * next(ticks), strftime=time.strftime)
sys.exit(gltch.main())
"""


def test_a_slow_and_a_fast_process_agree_on_what_fits_into_the_minutes(start_ranks):
    ends = ends_of(start_ranks("--minutes", 0.02, "--steps", 200, "--eval-every", 4,
                               program=("-c", DIFFERENT_CLOCKS, PROGRAM.parent)))
    assert [status for status, _ in ends] == [0, 0], ends
    state = read_checkpoint(Path("runs", "both", "last.pt"))
    assert 10 < state["step"] == state["total"] == read_log("both")[-1][1] < 200


def test_one_of_two_processes_opens_the_dashboard(start_ranks):
    pytest.importorskip("websockets")
    ends = ends_of(start_ranks("--steps", 4, "--dashboard", 0))
    assert [status for status, _ in ends] == [0, 0], ends
    assert [error.count("dashboard http://localhost:") for _, error in ends] == [1, 0]
    assert read_checkpoint(Path("runs", "both", "last.pt"))["step"] == 4


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_signal_to_one_process_stops_all_after_the_same_step(start_ranks, wait_for):
    processes = start_ranks("--steps", 500, "--log-every", 1)
    wait_for(Path("runs", "both", "log.jsonl"), '"step": 3,')
    processes[1].send_signal(signal.SIGINT)
    ends = ends_of(processes)
    assert [status for status, _ in ends] == [130, 130], ends
    state = read_checkpoint(Path("runs", "both", "last.pt"))
    assert state["step"] == read_log("both")[-1][1] >= 3
    assert "--resume runs/both" in ends[0][1]
    assert not any(line in ends[1][1] for line in (*STARTUP, "--resume", "Traceback"))


def test_a_batch_that_cannot_be_shared_evenly_is_refused(start_ranks):
    ends = ends_of(start_ranks("--batch-size", 3))
    assert [status for status, _ in ends] == [2, 2]
    sentence = "batch_size (3) must be a multiple of the number of processes (2)"
    assert ends[0][1].count(sentence) == 1 and "Traceback" not in ends[0][1]
    assert not Path("runs").exists()


def test_processes_that_found_different_texts_do_not_train(start_ranks, text_file, tmp_path):
    other = tmp_path / "other.txt"
    other.write_bytes(text_file.read_bytes()[::-1])
    ends = ends_of(start_ranks(texts=[text_file, other]))
    assert [status for status, _ in ends] == [2, 2]
    assert "different texts" in ends[0][1]


class Reached(Exception):
    """The checks are passed, training would begin."""


@pytest.mark.parametrize("world", [2, 3, 6, 7, 64])
def test_any_number_of_processes_sees_that_its_texts_are_the_same(monkeypatch, text_file, world):
    def trainer(*_):
        raise Reached

    corpus, rng = load_corpus([str(text_file)]), random.Random(world)
    runtime = Runtime(torch.device("cpu"), world=world)
    monkeypatch.setattr(gltch, "start_runtime", lambda recipe: runtime)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda numbers: numbers.mul_(world))
    monkeypatch.setattr(gltch, "FastTrainer", trainer)
    for _ in range(50):
        same = replace(corpus, digest=f"{rng.getrandbits(256):064x}")
        with pytest.raises(Reached):
            prepare(Config(), TrainConfig(steps=1), same, Path("runs", "new"), None, 1)
