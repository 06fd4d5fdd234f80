"""Files that only look like checkpoints: one sentence each, at once, and no memory for them."""
import json
import math
import pickletools
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import PROGRAM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_checkpoints import RECIPE, TINY, checkpoint  # noqa: F401 (a fixture)

import gltch_2_7m as gltch
from gltch_2_7m import (
    PRESETS,
    Config,
    GltchError,
    load,
    load_corpus,
    read_checkpoint,
    save_checkpoint,
    storages_in,
    train,
)


class Call:
    """Unpickled, it calls something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def rewrite(path, change=lambda name, content: content, compression=zipfile.ZIP_STORED, also=()):
    """The archive with other contents, in the same order."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in [*entries, *also]:
            archive.writestr(name, change(name, content))


def changed(state, **parts):
    return {**state, **parts}


def with_config(state, **shape):
    return changed(state, config={**state["config"], **shape})


def with_weights(state, **weights):
    return changed(state, ema={**state["ema"], **{
        name.replace("__", "."): value for name, value in weights.items()}})


def without(state, part, name):
    return changed(state, **{part: {k: v for k, v in state[part].items() if k != name}})


def nested(levels, kind):
    value = kind([0])
    for _ in range(levels):
        value = kind([value, value])
    return value


STATES = {
    "a billion layers": lambda s: with_config(s, n_layer=10**9),
    "as many layers of width 1": lambda s: with_config(s, n_layer=10**9, n_embd=1, n_head=1),
    "a vocabulary that is not there": lambda s: with_config(s, vocab_size=10**12),
    "an endless context": lambda s: with_config(s, block_size=10**12),
    "endless vectors": lambda s: with_config(s, n_embd=2 * 10**9),
    "a number beyond printing": lambda s: with_config(s, n_layer=10**5000),
    "a shape in words": lambda s: with_config(s, n_layer="many"),
    "a config that is a list": lambda s: changed(s, config=[1, 2]),
    "a vocabulary in a list": lambda s: changed(s, vocabulary=list(s["vocabulary"])),
    "a missing tensor": lambda s: without(s, "ema", "norm.weight"),
    "one tensor too many": lambda s: with_weights(s, extra=torch.zeros(3)),
    "a tensor of another shape": lambda s: with_weights(s, norm__weight=torch.zeros(4, 4)),
    "another name": lambda s: with_weights(
        without(s, "ema", "norm.weight"), norm__size=s["ema"]["norm.weight"]),
    "whole numbers": lambda s: with_weights(s, norm__weight=torch.zeros(16, dtype=torch.int64)),
    "a word among the tensors": lambda s: with_weights(s, norm__weight="heavy"),
    "no dictionary of tensors": lambda s: changed(s, ema=[torch.zeros(16)]),
    "a number repeated a billion times": lambda s: with_weights(
        s, norm__weight=torch.zeros(1).expand(10**9)),
    "tensors that share their bytes": lambda s: changed(with_config(
        s, n_layer=200, n_embd=64), ema={str(i): torch.zeros(64, 64) for i in range(9)}),
    "lists in lists in lists": lambda s: changed(s, losses=nested(60, list)),
    "tuples in tuples": lambda s: changed(s, losses=nested(60, tuple)),
    "a million empty lists": lambda s: changed(s, losses=[[] for _ in range(10**6)]),
    "memory by a call": lambda s: changed(s, losses=Call(bytearray, 10**10)),
    "a name of something": lambda s: changed(s, losses=Call(print, "executed")),
    "a sparse tensor": lambda s: with_weights(s, norm__weight=torch.sparse_coo_tensor(
        torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (10**12,), check_invariants=True)),
    "a step in words": lambda s: changed(s, step="last"),
    "a loss in words": lambda s: changed(s, val_loss="low"),
    "a text that is a number": lambda s: changed(s, text=5),
    "odd paths": lambda s: changed(s, paths=[5]),
    "another format": lambda s: changed(s, format="gltch-checkpoint-0"),
}


def more_than_there_is(name, content):
    """A storage that claims two billion numbers where 70,000 are."""
    return content.replace(b"J" + struct.pack("<i", 70_000), b"J" + struct.pack("<i", 2 * 10**9))


def hostile_archives(folder, state):
    big = changed(state, losses=torch.zeros(70_000))
    for name, how in {
            "a zip bomb": {"compression": zipfile.ZIP_DEFLATED},
            "more claimed than there is": {"change": more_than_there_is},
            "two files of one name": {"also": [("archive/DATA.PKL", b"")]},
    }.items():
        save_checkpoint(folder / f"{name}.pt", big)
        rewrite(folder / f"{name}.pt", **how)
    save_checkpoint(folder / "something in front.pt", state)
    (folder / "something in front.pt").write_bytes(
        b"MZ" * 99 + (folder / "something in front.pt").read_bytes())


def hostile_safetensors(folder, state):
    from safetensors.torch import save

    def write(name, header, body=b""):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        (folder / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)

    about = {key: state[key] for key in ("format", "config", "vocabulary", "text", "step")}
    huge = {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}
    text = {"__metadata__": {"gltch": json.dumps(about)}}
    write("a huge tensor announced", {**text, "norm.weight": huge})
    write("a tensor without bytes", {**text, "norm.weight": {**huge, "data_offsets": [0, 0]}})
    write("a shape that overflows", {**text, "norm.weight": {**huge, "shape": [2**62, 2**62]}})
    write("no tensors", text)
    write("nothing said", {})
    write("a header of lists", b"[" * 10**6)
    write("about in lists", {"__metadata__": {"gltch": "[" * 10**6}})
    (folder / "an endless header.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    for name, change in STATES.items():
        if "config" in name or name.startswith(("a ", "as ", "an ", "endless")):
            try:
                other = change(dict(state))
                content = save(
                    {k: v.contiguous() for k, v in state["ema"].items()},
                    {"gltch": json.dumps({**{k: other[k] for k in about}, "paths": ["x"]})})
            except (TypeError, ValueError):
                continue  # what JSON cannot say
            if {k: other[k] for k in about} != about:
                (folder / f"{name}.safetensors").write_bytes(content)


def hostile_states(folder, state, names):
    for name in names:
        torch.save(STATES[name](dict(state)), str(folder / f"{name}.pt"))


@pytest.fixture(scope="module")
def hostile(checkpoint, tmp_path_factory):  # noqa: F811
    folder, state = tmp_path_factory.mktemp("hostile"), read_checkpoint(checkpoint)
    hostile_states(folder, state, STATES)
    hostile_archives(folder, state)
    hostile_safetensors(folder, state)
    return folder


LOADING = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from gltch_2_7m import GltchError, load
load(sys.argv[3])
def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for path in sorted(Path(sys.argv[2]).iterdir()):
    before = most()
    try:
        load(str(path))
        print("ACCEPTED", path.name)
    except GltchError as error:
        print("refused", str(error))
    if most() > before + 150:
        print("MEMORY", path.name, most() - before)
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="measures with the module resource")
def test_what_a_file_claims_is_refused_with_a_sentence_and_takes_no_memory(
        hostile, checkpoint):  # noqa: F811
    done = subprocess.run([sys.executable, "-c", LOADING, str(PROGRAM.parent), str(hostile),
                           str(checkpoint)], capture_output=True, encoding="utf-8", timeout=240)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith("refused ")] == []
    assert len(lines) == len(list(hostile.iterdir())) > 50
    for line in lines:
        assert re.search(r"/hostile\d*/.*(is not a GLTCH checkpoint|another kind of network), or "
                         r"it is damaged( \(.*\))?\.$", line), line


def test_a_reason_is_given_where_there_is_one(checkpoint, tmp_path):  # noqa: F811
    states = {"a billion layers": "do not make up a network of that shape",
              "a missing tensor": "do not make up", "another name": "norm.weight is",
              "a name of something": "refers to"}
    archives = {"a zip bomb": "compressed",
                "more claimed than there is": "larger than its part of the file"}
    hostile_states(tmp_path, read_checkpoint(checkpoint), states)
    hostile_archives(tmp_path, read_checkpoint(checkpoint))
    for name, reason in {**states, **archives}.items():
        with pytest.raises(GltchError, match=reason):
            load(str(tmp_path / f"{name}.pt"))


def test_every_preset_has_far_fewer_values_than_a_checkpoint_may_have():
    with torch.device("meta"):
        tensors = len(gltch.GLTCH(PRESETS["200m"][0]).state_dict())
    state = {str(i): torch.zeros(1) for i in range(4 * tensors)}  # model, ema, two of the optimizer
    save_checkpoint(Path("many.pt"), state)
    with zipfile.ZipFile("many.pt") as archive:
        steps = sum(1 for _ in pickletools.genops(archive.read("archive/data.pkl")))
    assert steps < 25_000 < gltch.MOST_VALUES / 20


def test_the_storages_of_a_file_are_found_without_unpickling_it():
    kinds = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
    save_checkpoint(Path("kinds.pt"), {str(i): [torch.zeros(i + 1, dtype=kind), torch.zeros(0)]
                                       for i, kind in enumerate(kinds)})
    with zipfile.ZipFile("kinds.pt") as archive:
        found = list(storages_in(archive.read("archive/data.pkl")))
        sizes = [len(archive.read(f"archive/data/{key}")) for key, _ in found]
    assert [size for _, size in found] == sizes == [4, 0, 16, 0, 6, 0, 8, 0, 40, 0, 6, 0]


@settings(deadline=None, max_examples=60,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_pickle_with_other_bytes_loads_or_is_refused(checkpoint, tmp_path, data):  # noqa: F811
    """The archive stays right: what is damaged is what its pickle says."""
    def change(name, content):
        if not name.endswith("data.pkl"):
            return content
        content = bytearray(content)
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
            content[place] = data.draw(st.integers(0, 255))
        return bytes(content)

    path = tmp_path / "odd.pt"
    path.write_bytes(checkpoint.read_bytes())
    rewrite(path, change)
    try:
        load(str(path))
    except GltchError as error:
        assert "odd.pt" in str(error)


# --- Weights that are no numbers ------------------------------------------------------------------


@pytest.fixture
def spoiled(checkpoint, tmp_path, request):  # noqa: F811
    """A checkpoint with a value among its weights that is not finite, or as good as."""
    state = read_checkpoint(checkpoint)
    state["ema"]["head.weight"][0, 0] = request.param
    if request.param == 3e38:
        state["ema"]["head.weight"][:] = 3e38
        state["ema"]["norm.weight"][:] = 3e38
    save_checkpoint(tmp_path / "spoiled.pt", state)
    return tmp_path / "spoiled.pt"


@pytest.mark.parametrize("spoiled, command", [
    (value, command) for value in (math.nan, math.inf, 3e38)
    for command in ("sample", "chat", "eval", "export")
    if (value, command) != (3e38, "export")], indirect=["spoiled"])  # those can be exported
def test_weights_that_are_not_finite_are_one_sentence(
        spoiled, command, monkeypatch, capsys, text_file):
    monkeypatch.setattr("builtins.input", lambda prompt: "A")
    arguments = {"sample": ["--length", "5"], "eval": ["--data", str(text_file)]}.get(command, [])
    code = gltch.main([command, "--checkpoint", str(spoiled), *arguments])
    errors = capsys.readouterr().err
    assert code == 2 and "Traceback" not in errors
    assert "earlier checkpoint" in errors.splitlines()[-1]


@pytest.mark.parametrize("spoiled", [math.nan], indirect=True)
def test_info_shows_a_network_whose_weights_are_not_finite(spoiled, capsys):
    assert gltch.main(["info", "--checkpoint", str(spoiled)]) == 0
    assert "4,544" in capsys.readouterr().out


# --- Going on from a strange state ----------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text_file):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path_factory.mktemp("trained"))
        return train(TINY, RECIPE, load_corpus([str(text_file)])).folder.resolve()


@pytest.fixture
def unfinished(trained, tmp_path):
    """A run's folder, and its state with some steps to go."""
    folder = Path(shutil.copytree(str(trained), str(tmp_path / "unfinished")))
    return folder, changed(read_checkpoint(folder / "last.pt"), total=16)


@pytest.mark.parametrize("parts", [
    {"config": {"n_layer": 10**9}}, {"optimizers": []}, {"optimizers": None}, {"losses": ["low"]},
    {"losses": 5}, {"seconds": "few"}, {"total": "all"}, {"step": -1}, {"recipe": {"steps": "x"}},
    {"recipe": []}, {"model": {}}, {"model": None}])
def test_a_run_with_a_strange_state_is_not_resumed(unfinished, parts):
    folder, state = unfinished
    save_checkpoint(folder / "last.pt", changed(state, **parts))
    with pytest.raises(GltchError, match="last.pt holds another kind of network, or it is damaged"):
        train(resume=str(folder))


def test_an_optimizer_of_another_network_is_refused(unfinished):
    folder, state = unfinished
    state["optimizers"][0]["state"][0]["momentum"] = torch.zeros(3, 3)
    save_checkpoint(folder / "last.pt", state)
    with pytest.raises(GltchError, match="optimizer belongs to another network"):
        train(resume=str(folder))


def test_the_parameters_of_a_network_are_counted_without_building_it():
    assert gltch.parameters_of(Config()) == 2_708_736
    assert gltch.parameters_of(Config(n_layer=10**9)) > 10**14
