"""The dashboard of a run on one machine: it shows the run, and changes nothing about it."""
import ast
import contextlib
import http.client
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import PROGRAM, SMALL_RUN, set_environment
from hive_processes import LIMIT, Program, open_socket, until
from hypothesis import given
from hypothesis import strategies as st
from shapes import assert_fits, assert_is_event

import gltch_2_7m as gltch
from gltch_2_7m import Config, Corpus, Runtime, TrainConfig, Vocabulary, generate, load
from hive.dashboard.solo import MOST_SNAPSHOTS, Dashboard, Kept, RunFacts, thinned
from hive.session.schema import Everybody, State

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def ask(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return SimpleNamespace(status=answer.status, headers=answer.headers,
                               content=answer.read())


def ask_json(port, path):
    answer = ask(port, path)
    assert answer.status == 200, answer.content
    return json.loads(answer.content)


def start(folder, text_file, *options):
    """A run that is shown, and the port of its dashboard."""
    program = Program(folder, "alone", PROGRAM, "--data", text_file, "--dashboard", 0, *options)
    program.hears("dashboard http://localhost:")
    program.hears("\n")
    return program, int(re.search(r"dashboard http://localhost:(\d+)", program.said()).group(1))


# ---- While it trains


@pytest.fixture(scope="module")
def seen(processes, tmp_path_factory, text_file):
    """What the dashboard of a run without end answered, until Ctrl-C."""
    folder = tmp_path_factory.mktemp("alone")
    program, port = start(folder, text_file, *SMALL_RUN, "--steps", 10**6, "--log-every", 2,
                          "--name", "alone")
    paths = ("/api/state", "/api/history?to=20", "/api/history?to=20&points=3",
             "/api/samples?limit=100", "/api/rounds/20", "/api/peers")

    def best():
        """The best checkpoint and the weights of its step go into files; the sample of it."""
        checkpoint = ask(port, "/best.pt")
        (folder / "best.pt").write_bytes(checkpoint.content)
        step = gltch.read_checkpoint(folder / "best.pt")["step"]
        weights = ask(port, f"/model.safetensors?round={step}")
        (folder / "best.safetensors").write_bytes(weights.content)
        written = [one for one in ask_json(port, "/api/samples?limit=100")["samples"]
                   if one["step"] == step]  # it may still be writing
        return written[0] if (checkpoint.status, weights.status) == (200, 200) and written else None

    try:
        # Asked again and again: a page that listens would change which weights are kept.
        until(lambda: ask_json(port, "/api/state")["evaluated"] >= 20
              and len(ask_json(port, "/api/samples")["samples"]) >= 3, program.said)
        answers = {path: ask_json(port, path) for path in paths}
        sample = until(best, "best.pt and the weights never fit together")
        raw = {path: ask(port, path) for path in (
            "/", "/metrics", "/healthz", "/model.safetensors", "/model.safetensors?round=7",
            "/api/rounds/7", "/hive")}
        status = program.interrupt() if sys.platform != "win32" else program.kill()
    finally:
        program.kill()
    log = (folder / "runs" / "alone" / "log.jsonl").read_text(encoding="utf-8")
    return SimpleNamespace(folder=folder, run=folder / "runs" / "alone", answers=answers, raw=raw,
                           step=sample["step"], sample=sample, status=status, said=program.said(),
                           log=[json.loads(line) for line in log.splitlines()], port=port)


def logged(seen, kind, last=20):
    return [point for point in seen.log if point["kind"] == kind and point["step"] <= last]


def test_the_state_is_that_of_a_run_with_one_peer(seen):
    state = seen.answers["/api/state"]
    assert (state["mode"], state["unit"], state["run"]) == ("single", "step", "alone")
    assert (state["phase"], state["finished"], state["total"]) == ("training", "", 10**6)
    assert (state["join"], state["round"], state["fastest"]) == (None, None, None)
    config = load(str(seen.folder / "best.pt"))[0].config
    assert (state["context"], state["vocabulary"]) == (config.block_size, config.vocab_size)
    assert state["parameters"] == sum(p.numel() for p in gltch.GLTCH(config).parameters())
    assert state["version"] == state["step"] >= 20
    steps = state["tokens"] / (2 * config.block_size)  # it may have gone on meanwhile
    assert state["step"] <= steps <= state["step"] + 1
    evaluations = {point["step"]: point["loss"] for point in logged(seen, "eval", math.inf)}
    assert state["val_loss"] == evaluations[state["evaluated"]]
    assert state["best_val_loss"] == min(loss for step, loss in evaluations.items()
                                         if step <= state["evaluated"])
    assert state["snapshots"][:1] == [0] and set(state["snapshots"]) <= set(evaluations)
    peer, = state["peers"]
    assert (peer["kind"], peer["state"], peer["quota"]) == ("cpu", "training", 2)
    assert peer["tokens"] >= state["tokens"] and peer["share"] == 1.0


def test_it_has_every_field_of_the_contract_and_no_other(seen):
    assert_fits(seen.answers["/api/state"], State)
    assert_fits(seen.answers["/api/peers"], Everybody)


def test_history_is_the_log_of_the_run(seen):
    points, evaluations = logged(seen, "train"), logged(seen, "eval")
    losses, steps = ([point[name] for point in points] for name in ("loss", "step"))
    began = seen.answers["/api/state"]["started"]
    assert steps == list(range(2, 21, 2))
    assert seen.answers["/api/history?to=20"] == {
        "first": 0, "last": 20, "every": 2, "rounds": steps, "steps": steps, "loss": losses,
        "low": losses, "high": losses,
        "committed": [began + point["seconds"] for point in points],
        "evaluations": {"rounds": [0, 10, 20], "steps": [0, 10, 20],
                        "val_loss": [point["loss"] for point in evaluations]}}


def test_a_short_history_joins_points(seen):
    losses = [point["loss"] for point in logged(seen, "train")]
    groups = [losses[:4], losses[4:8], losses[8:]]
    history = seen.answers["/api/history?to=20&points=3"]
    assert history["rounds"] == history["steps"] == [8, 16, 20]
    assert history["loss"] == [sum(group) / len(group) for group in groups]
    assert history["low"] == list(map(min, groups)) and history["high"] == list(map(max, groups))


def test_samples_are_what_the_evaluated_weights_write(seen):
    samples = seen.answers["/api/samples?limit=100"]["samples"]
    evaluations = {point["step"]: point["loss"] for point in logged(seen, "eval", math.inf)}
    assert [one["step"] for one in samples] == sorted((one["step"] for one in samples),
                                                      reverse=True)
    assert {0, 10, 20} <= {one["step"] for one in samples}
    for one in samples:
        assert one["round"] == one["step"] and one["val_loss"] == evaluations[one["step"]]
    network, vocabulary = load(str(seen.folder / "best.safetensors"))
    assert seen.sample["text"] == "".join(generate(network, vocabulary, "", 200, seed=seen.step))


def test_the_weights_of_a_step_are_those_of_its_checkpoint(seen):
    checkpoint = gltch.read_checkpoint(seen.folder / "best.pt")
    weights = gltch.read_checkpoint(seen.folder / "best.safetensors")
    for name in ("step", "val_loss", "config", "vocabulary", "text"):
        assert weights[name] == checkpoint[name], name
    assert weights["round"] == seen.step
    assert set(weights["ema"]) == set(checkpoint["ema"])
    for name, tensor in checkpoint["ema"].items():
        assert torch.equal(weights["ema"][name], tensor), name


def test_the_rest_answers_too(seen):
    assert b"<title>GLTCH" in seen.raw["/"].content
    assert seen.raw["/healthz"].content == b"ok\n"
    assert re.search(rb"^gltch_steps_total \d+$", seen.raw["/metrics"].content, re.M)
    assert b'mode="single"' in seen.raw["/metrics"].content
    assert seen.raw["/model.safetensors"].status == 200
    assert seen.answers["/api/rounds/20"]["number"] == 20
    for path in ("/model.safetensors?round=7", "/api/rounds/7", "/hive"):
        assert seen.raw[path].status == 404 and b'{"error":' in seen.raw[path].content
    assert b"only of 0, 10" in seen.raw["/model.safetensors?round=7"].content


@posix
def test_ctrl_c_saves_and_ends_as_always(seen):
    assert seen.status == 130
    assert "Stopped after step" in seen.said and "--resume" in seen.said
    assert "Traceback" not in seen.said
    stopped = int(re.search(r"Stopped after step (\d+)", seen.said).group(1))
    assert gltch.read_checkpoint(seen.run / "last.pt")["step"] == stopped
    with pytest.raises(ConnectionError):
        ask(seen.port, "/healthz")


# ---- A whole run


@pytest.fixture(scope="module")
def watched(processes, tmp_path_factory, text_file):
    """The run of `straight` with a dashboard, and a page that listens from its start to its end."""
    from websockets.exceptions import ConnectionClosed
    folder, events = tmp_path_factory.mktemp("watched"), []
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_environment(monkeypatch, folder)
        program, port = start(folder, text_file, *SMALL_RUN, "--name", "straight")
    try:
        with contextlib.suppress(ConnectionClosed), open_socket(port, "/api/events") as page:
            while True:
                events += json.loads(page.recv(timeout=LIMIT))
        status = program.end()
    finally:
        program.kill()
    return SimpleNamespace(folder=folder / "runs" / "straight", events=events, status=status,
                           said=program.said())


def assert_equal(one, other, where="checkpoint"):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal(one[key], other[key], f"{where} {key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for place, (left, right) in enumerate(zip(one, other)):
            assert_equal(left, right, f"{where} {place}")
    else:
        assert one == other or one != one and other != other, where


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_run_that_is_shown_trains_to_the_same_last_bit(watched, straight, name):
    assert watched.status == 0, watched.said
    with_page, without = (gltch.read_checkpoint(folder / name)
                          for folder in (watched.folder, straight.folder))
    for state in (with_page, without):
        state.pop("seconds", None)
    assert_equal(with_page, without)


def test_the_page_hears_the_run_as_it_happens(watched):
    state, *events = watched.events
    assert state["type"] == "state"
    numbers = [event["seq"] for event in events]
    assert numbers == list(range(state["seq"] + 1, state["seq"] + 1 + len(numbers)))
    log = [json.loads(line) for line in (watched.folder / "log.jsonl").read_text().splitlines()]
    losses = {point["step"]: point["loss"] for point in log if point["kind"] == "train"}
    told = {event["version"]: event["loss"] for event in events if event["type"] == "committed"}
    missed = list(losses).index(min(told))  # while the page was being opened
    assert list(told.items()) == list(losses.items())[missed: missed + len(told)]
    assert len(told) > 2
    assert {"peer", "measured", "evaluated"} <= {event["type"] for event in events}
    for event in watched.events:
        assert_is_event(event)
    evaluations = {point["step"]: point["loss"] for point in log if point["kind"] == "eval"}
    for event in events:
        if event["type"] == "evaluated":
            assert event["val_loss"] == evaluations[event["version"]] and event["text"]


def test_the_page_hears_that_the_run_is_over(watched):
    assert watched.events[-1]["type"] == "finished"
    assert watched.events[-1]["reason"] == "all 60 steps are done"


# ---- When it cannot be shown


def assert_one_sentence(done, *words):
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("gltch_2_7m.py: error: ")
    for word in words:
        assert word in done.stderr


def test_a_port_that_is_taken_is_one_sentence(gltch_cli, text_file, place):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = gltch_cli("--data", text_file, *SMALL_RUN, "--dashboard", port)
    assert_one_sentence(done, f"Port {port} is in use", f"--dashboard {port + 1}")
    assert not (place / "runs").exists()


@pytest.mark.parametrize("port", ["-1", "65536", "100000"])
def test_a_port_that_cannot_be_is_one_sentence(capsys, text_file, port):
    assert gltch.main(["--data", str(text_file), f"--dashboard={port}"], Dashboard) == 2
    said = capsys.readouterr()
    assert f"--dashboard must be a port from 0 to 65535, not {port}." in said.err


@pytest.mark.process
def test_the_program_alone_says_that_it_needs_the_folder(place, text_file):
    """One file is the whole model; its page is not in it."""
    shutil.copy(str(PROGRAM), str(place / "gltch_2_7m.py"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "gltch_2_7m.py", "--data", str(text_file), "--dashboard", "0"],
        capture_output=True, encoding="utf-8", timeout=240, env=environment,
        stdin=subprocess.DEVNULL)
    assert_one_sentence(done, "--dashboard needs the folder hive/ next to this file")


def test_the_model_imports_nothing_of_the_hive():
    """The Hive imports the model, and is handed the run to show: there is no circle."""
    source = PROGRAM.read_text(encoding="utf-8")
    imported = {name for node in ast.walk(ast.parse(source))
                if isinstance(node, (ast.Import, ast.ImportFrom))
                for name in [getattr(node, "module", None), *(one.name for one in node.names)]}
    assert "torch" in imported and "sys.modules" not in source
    assert not [name for name in imported if name and name.split(".")[0] == "hive"]


def test_without_websockets_it_says_what_to_install(gltch_cli, place, text_file):
    (place / "without").mkdir()
    (place / "without" / "websockets.py").write_text("raise ImportError('there is none')")
    done = gltch_cli("--data", text_file, "--dashboard", "0",
                     environment={"PYTHONPATH": str(place / "without")})
    assert_one_sentence(done, "pip install websockets")


# ---- What is kept and told


def kept_at(step):
    return Kept(step, 1.5, torch.zeros(1))


@given(st.integers(1, 400))
def test_of_many_evaluations_the_first_the_newest_and_some_between_are_kept(count):
    kept = []
    for step in range(count):
        kept = thinned([*kept, kept_at(step)])
    steps = [one.step for one in kept]
    assert steps == sorted(set(steps)) and len(steps) <= MOST_SNAPSHOTS
    assert steps[0] == 0 and steps[-1] == count - 1
    assert len(steps) >= min(count, MOST_SNAPSHOTS // 2)


def facts_of(folder, points, step):
    """The facts of a run with such a log."""
    characters = "\n abc"
    config = Config(len(characters), 8, 1, 1, 4, 0.0)
    trainer = SimpleNamespace(
        model=SimpleNamespace(config=config), runtime=Runtime(torch.device("cpu")), seconds=10.0,
        step=step, total=100, recipe=TrainConfig(batch_size=2, log_every=5),
        corpus=Corpus("a test", torch.zeros(20, dtype=torch.uint8), Vocabulary(characters), ""))
    return RunFacts(trainer, SimpleNamespace(folder=folder, points=points))


def point(kind, step, loss):
    return {"kind": kind, "step": step, "loss": loss, "seconds": step / 8,
            "characters_per_second": 100 + step}


def test_a_run_that_is_resumed_shows_what_came_before(place):
    facts = facts_of(place, [point("eval", 0, 4.0), point("train", 5, 3.5), point("eval", 10, 2.5),
                             point("train", 10, 3.0), point("eval", 20, 2.75)], 20)
    state = facts.state()
    assert (state["loss"], state["val_loss"], state["best_val_loss"]) == (3.0, 2.75, 2.5)
    assert (state["evaluated"], state["step"]) == (20, 20)
    assert math.isnan(state["speed"]), "that was another process, perhaps another machine"
    assert state["remaining"] == (100 - 20) * 10.0 / 20
    assert facts.history(None, None, 600)["rounds"] == [5, 10]
    with pytest.raises(gltch.GltchError, match="none yet"):
        facts.snapshot(None)


@pytest.mark.parametrize("points", [1, 2, 3])
def test_of_several_evaluations_in_one_point_the_last_is_kept(place, points):
    log = [point(kind, step, 4 - step / 64) for step in range(0, 70, 10)
           for kind in ("train", "eval")]
    evaluations = facts_of(place, log, 60).history(None, None, points)["evaluations"]
    assert len(evaluations["rounds"]) <= points
    assert evaluations["rounds"][-1] == 60 and evaluations["val_loss"][-1] == 4 - 60 / 64
