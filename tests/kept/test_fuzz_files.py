"""Files that were damaged, cut or made by somebody else: the right answer or a sentence."""
import contextlib
import io
import json
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import PROGRAM
from fuzzing import changes, damage, fuzz
from hive_processes import LIMIT
from hypothesis import strategies as st
from test_journal import RUN, WEIGHTS, add, commit_rounds, opened, weights_by_hand

from gltch_2_7m import (
    FORMAT,
    GLTCH,
    Config,
    GltchError,
    load,
    main,
    read_checkpoint,
    save_checkpoint,
)
from hive.dashboard.weights_file import header

ROUNDS = 6

# --------------------------------------------------------------------------------------------------
# The journal's folder
# --------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A closed journal, and one whose coordinator was killed with rounds in the -wal file: copy
    them. Every round exactly as it was recorded stands beside."""
    root = tmp_path_factory.mktemp("journals")
    with opened(root / "closed") as journal:
        journal.start(RUN, WEIGHTS)
        commit_rounds(journal, 3)
        journal.snapshot(3, weights_by_hand(3), b"the state of the outer optimizer")
        commit_rounds(journal, ROUNDS - 3)
        journal.add_evaluation(4, 2.5, 1.0)
        journal.add_sample(4, "To be")
        shutil.copytree(root / "closed", root / "killed")
        rounds = [journal.round(number) for number in range(1, ROUNDS + 1)]
    assert (root / "killed" / "journal.db-wal").stat().st_size > 0
    assert not (root / "closed" / "journal.db-wal").exists()
    return root, rounds


def asked(journal, rounds):
    """Ask for everything. What the record proves is right; everything else is there or not."""
    answers = [
        journal.history, journal.contributors, journal.reasons, journal.evaluations,
        journal.samples, journal.newest_extra, lambda: journal.updates_since(2),
        lambda: journal.curve(0, ROUNDS, 3), lambda: journal.round(2), lambda: journal.at(2),
        lambda: journal.update(2), lambda: journal.counted("p1"),
        lambda: journal.identities("ann"), lambda: journal.evaluation(4)]
    for answer in answers:
        with contextlib.suppress(GltchError):
            answer()
    for number in range(ROUNDS + 1):
        with contextlib.suppress(GltchError):
            assert journal.weights_at(number, add) == weights_by_hand(number)
    with contextlib.suppress(GltchError):
        known = ("result", "update_sha256", "link", "contributions", "loss", "step")
        for number in journal.verify(add):
            found = journal.round(number) if number else rounds[0]
            assert all(found[name] == rounds[max(0, number - 1)][name] for name in known)
    with contextlib.suppress(GltchError):
        assert journal.newest_extra() in [(0, b""), (3, b"the state of the outer optimizer")]


@fuzz(120, state=st.sampled_from(["closed", "killed"]), damages=st.lists(st.tuples(
    st.sampled_from(["journal.db", "journal.db", "journal.db-wal", "journal.db-wal",
                     "journal.db-shm", "snapshots/00000000.bin", "snapshots/00000003.bin",
                     "snapshots/00000003.extra", "lock"]),
    changes | st.just(None) | st.binary(max_size=40)), min_size=1, max_size=2),
    read_only=st.booleans())
def test_a_damaged_journal_gives_the_right_weights_or_a_sentence(folders, state, damages,
                                                                  read_only):
    root, rounds = folders
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(root / state, Path(place) / "hive"))
        for name, how in damages:
            path = folder / name
            if how is None:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
            elif isinstance(how, bytes):
                path.write_bytes(how)
            elif path.exists():
                path.write_bytes(damage(path.read_bytes(), how))
        with contextlib.suppress(GltchError), opened(folder, read_only=read_only) as journal:
            asked(journal, rounds)
            if not read_only and journal.run == RUN:
                commit_rounds(journal, 1)


# Values that SQLite keeps in any column: only what is read, not the schema, can refuse them.
odd = st.one_of(st.none(), st.integers(-2**63, 2**63 - 1), st.floats(), st.text(max_size=9),
                st.binary(max_size=40), st.sampled_from(["", "add", "q4", "{}", "[]", "NaN"]))
COLUMNS = [*(("versions", name) for name in (
    "base", "result", "codec", "step", "loss", "opened", "committed", "update_sha256",
    "update_bytes", "link")), ("updates", "content"), ("run", "description"),
    ("contributions", "tokens"), ("contributions", "name"), ("contributions", "loss"),
    ("contributions", "reason"), ("contributions", "weight"), ("evaluations", "val_loss"),
    ("samples", "text"), ("peers", "last_seen"), ("versions", "number"), ("updates", "number")]


@fuzz(80, column=st.sampled_from(COLUMNS), value=odd, number=st.integers(0, ROUNDS))
def test_a_journal_with_any_value_in_any_place_gives_the_right_weights_or_a_sentence(
        folders, column, value, number):
    root, rounds = folders
    table, name = column
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(root / "closed", Path(place) / "hive"))
        with contextlib.closing(sqlite3.connect(str(folder / "journal.db"))) as db, db:
            where = "" if table in ("run", "peers") else f" WHERE number = {number}"
            with contextlib.suppress(sqlite3.Error):  # NOT NULL, UNIQUE
                db.execute(f"UPDATE {table} SET {name} = ?{where}", (value,))
        with contextlib.suppress(GltchError), opened(folder, read_only=True) as journal:
            asked(journal, rounds)


@pytest.mark.parametrize("value", ["a word", b"bytes", None], ids=repr)
@pytest.mark.parametrize("name", ["step", "loss", "opened", "committed"])
def test_a_history_that_holds_no_numbers_is_a_sentence(folders, place, name, value):
    """A coordinator that goes on calculates with them."""
    if value is None and name in ("step", "loss"):
        pytest.skip("the schema forbids it, or it means that nothing was measured")
    folder = Path(shutil.copytree(folders[0] / "closed", place / "hive"))
    with contextlib.closing(sqlite3.connect(str(folder / "journal.db"))) as db, db:
        db.execute(f"UPDATE versions SET {name} = ? WHERE number = 2", (value,))
    with opened(folder, read_only=True) as journal, pytest.raises(GltchError):
        journal.history()


# --------------------------------------------------------------------------------------------------
# Checkpoints
# --------------------------------------------------------------------------------------------------

SHAPE = Config(vocab_size=5, block_size=8, n_layer=1, n_head=2, n_embd=8)
LETTERS = "abcde"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """The same network as .pt and as .safetensors: their bytes."""
    pytest.importorskip("safetensors")
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(1)
    model = GLTCH(SHAPE)
    about = {"vocabulary": LETTERS, "text": "0" * 64, "step": 3, "val_loss": 2.5}
    save_checkpoint(folder / "good.pt", {"config": asdict(SHAPE), "ema": model.state_dict(),
                                         **about})
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    return {".pt": (folder / "good.pt").read_bytes(),
            ".safetensors": header(SHAPE, **about) + weights}


def with_header(content, change):
    """A .safetensors file whose header, as a dictionary, was changed."""
    size, = struct.unpack("<Q", content[:8])
    entries = json.loads(content[8: 8 + size])
    change(entries)
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size:]


def with_about(content, change):
    """A .safetensors file whose metadata, as a dictionary, were changed."""

    def change_entries(entries):
        about = json.loads(entries["__metadata__"]["gltch"])
        change(about)
        entries["__metadata__"]["gltch"] = json.dumps(about)

    return with_header(content, change_entries)


def saved(state):
    """A .pt file with these contents."""
    made = io.BytesIO()
    torch.save(state, made)
    return made.getvalue()


def opens(folder, suffix, content):
    """Does it open? If so it is a network of that shape with those letters."""
    path = folder / f"other{suffix}"
    path.write_bytes(content)
    try:
        state = read_checkpoint(path)
        assert state["format"] == FORMAT
        model, vocabulary = load(str(path))
    except GltchError as error:
        assert len(str(error)) < 500
        return False
    assert len(vocabulary) == model.config.vocab_size
    assert sum(p.numel() for p in model.parameters()) < len(content)
    return True


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_checkpoints_that_are_damaged_below_open(checkpoints, place, suffix):
    assert opens(place, suffix, checkpoints[suffix])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@fuzz(150, how=changes, exact=st.none() | st.integers(0, 400))
def test_a_damaged_checkpoint_is_a_network_or_a_sentence(checkpoints, place, suffix, how, exact):
    content = damage(checkpoints[suffix], how)
    if exact is not None:  # the first bytes say what the rest is
        content = content[:exact] + bytes([content[exact] ^ 1 << how[0][2] % 8]
                                          ) + content[exact + 1:] if exact < len(content) else b""
    opens(place, suffix, content)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@fuzz(40, content=st.binary(max_size=200) | st.builds(
    lambda length, text: struct.pack("<Q", length) + text,
    st.sampled_from([0, 1, 8, 2**31, 2**63, 2**64 - 1]) | st.integers(0, 100),
    st.text('{}[]":,0123456789 gltch_met', max_size=60).map(str.encode)))
def test_any_bytes_at_all_are_no_checkpoint(place, suffix, content):
    assert not opens(place, suffix, content)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 20) | st.floats() | st.text(max_size=5)
    | st.sampled_from([2**31, 2**63, 10**40, "F32", "F16", "BF16", "I64", "BOOL", LETTERS, FORMAT]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["dtype", "shape", "n_layer", "a"]), inner, max_size=3),
    max_leaves=6)


@fuzz(150, entry=st.integers(0, 20), field=st.sampled_from(
    ["dtype", "shape", "data_offsets", "more", None]), value=values)
def test_a_safetensors_header_that_says_anything_is_a_network_or_a_sentence(
        checkpoints, place, entry, field, value):
    def change(entries):
        name = list(entries)[entry % len(entries)]
        if field is None:
            entries[name] = value
        else:
            entries[name][field] = value

    opens(place, ".safetensors", with_header(checkpoints[".safetensors"], change))


def changed(content, suffix, change):
    """A checkpoint in which what it says besides the weights was changed."""
    if suffix == ".safetensors":
        return with_about(content, change)
    state = torch.load(io.BytesIO(content), weights_only=True)
    change(state)
    return saved(state)


small = values.filter(lambda v: type(v) is not int or v < 100) | st.sampled_from(
    ["ema", {}, [], "", 0.5])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@fuzz(100, what=st.one_of(
    st.tuples(st.sampled_from(["vocab_size", "block_size", "n_layer", "n_head", "n_embd",
                               "dropout", "wings"]), st.just(True),
              small.filter(lambda v: type(v) is not int or v < 100)),
    st.tuples(st.sampled_from(["format", "config", "vocabulary", "ema", "step", "val_loss"]),
              st.just(False), small)))
def test_a_checkpoint_that_says_anything_about_itself_is_a_network_or_a_sentence(
        checkpoints, place, suffix, what):
    name, inside, value = what

    def change(state):
        (state["config"] if inside else state)[name] = value

    opens(place, suffix, changed(checkpoints[suffix], suffix, change))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@fuzz(40, name=st.sampled_from(["text", "step", "val_loss", "paths", "vocabulary", "more"]),
      value=values | st.just("gone"), known=[
          {"name": "text", "value": "gone"}, {"name": "val_loss", "value": 10**400},
          {"name": "step", "value": "three"}, {"name": "vocabulary", "value": "abcd\ud800"}])
def test_no_command_ends_in_a_traceback_whatever_a_checkpoint_says_about_itself(
        checkpoints, place, capsys, suffix, name, value):
    def change(state):
        state[name] = value
        if value == "gone":
            del state[name]

    path = place / f"odd{suffix}"
    path.write_bytes(changed(checkpoints[suffix], suffix, change))
    for command in (["info"], ["export", "--output", "out.safetensors"],
                    ["sample", "--length", "2", "--device", "cpu"]):
        assert main([*command, "--checkpoint", str(path)]) in (0, 2)
        said = capsys.readouterr()
        assert "Traceback" not in said.err


# --------------------------------------------------------------------------------------------------
# Memory
# --------------------------------------------------------------------------------------------------

def compressed(content):
    """A .pt file whose records are deflated, one of them 150 million zeros."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(
            made, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            record = old.read(name)
            new.writestr(name, bytes(150_000_000) if name.endswith("/data/0") else record)
    return made.getvalue()


def shaped(**shape):
    """A change of metadata: the network is said to have another shape."""
    return lambda about: about["config"].update(shape)


def first(**entry):
    """A change of a header: the first tensor is said to be another."""
    return lambda entries: entries["token_embedding.weight"].update(entry)


GREEDY = {  # each made of the bytes of a good one
    "a large vocabulary": lambda good: with_about(good, shaped(vocab_size=5_000_000)),
    "a long context": lambda good: with_about(good, shaped(block_size=5_000_000)),
    "a wide network": lambda good: with_about(good, shaped(n_embd=3000)),
    "many layers": lambda good: with_about(good, shaped(n_embd=128, n_layer=400)),
    "a large tensor that is not there": lambda good: with_header(good, first(
        shape=[10**6, 10**5], data_offsets=[0, 4 * 10**11])),
    "a tensor without end": lambda good: with_header(good, first(
        shape=[2**62, 8], data_offsets=[0, 160])),
    "a header without end": lambda good: struct.pack("<Q", 2**62) + b"{}",
    "a header of gigabytes": lambda good: struct.pack("<Q", 4 * 10**9) + b"{}",
    "one number, seen as many": lambda good: saved({
        "format": FORMAT, "config": {**asdict(SHAPE), "vocab_size": 5_000_000},
        "vocabulary": LETTERS, "text": "0" * 64, "step": 3, "val_loss": 2.5,
        "ema": {"token_embedding.weight": torch.zeros(1).expand(5_000_000, 8)}}),
    "a compressed tensor": compressed,
}
AS_PT = ("one number, seen as many", "a compressed tensor")
OPENING = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
from gltch_2_7m import GltchError, load
for suffix in (".pt", ".safetensors"):
    load("good" + suffix)  # all that takes memory once

def most():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

for path in sys.argv[2:]:
    if os.fork() == 0:
        before = most()
        try:
            load(path)
            said = "opened"
        except GltchError:
            said = "refused"
        print(said, most() - before, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def greed(processes, checkpoints, tmp_path_factory):
    """By kind: its size, whether it opens in a process of its own, and the memory that took."""
    place, sizes = tmp_path_factory.mktemp("greedy"), []
    for suffix, content in checkpoints.items():
        (place / f"good{suffix}").write_bytes(content)
    for number, (kind, make) in enumerate(GREEDY.items()):
        suffix = ".pt" if kind in AS_PT else ".safetensors"
        content = make(checkpoints[suffix])
        (place / f"{number}{suffix}").write_bytes(content)
        sizes.append((f"{number}{suffix}", len(content)))
    done = subprocess.run(
        [sys.executable, "-c", OPENING, str(PROGRAM.parent), *(name for name, _ in sizes)],
        capture_output=True, encoding="utf-8", timeout=LIMIT, cwd=str(place))
    lines = [line.split() for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(lines) == len(GREEDY), done
    return {kind: (size, said, int(taken)) for kind, (_, size), (said, taken)
            in zip(GREEDY, sizes, lines)}


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("kind", GREEDY)
def test_no_checkpoint_takes_more_memory_than_its_size_explains(greed, kind):
    size, said, taken = greed[kind]
    assert said == "refused"
    assert taken < 50e6 + 4 * size, f"{taken:,} bytes"
