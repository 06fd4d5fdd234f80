"""The examples, run in a clone as their first lines say."""
import re
import shutil
import sys

import pytest
from conftest import PROGRAM

ROOT = PROGRAM.parent
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("[!_]*.py"))


@pytest.fixture
def clone(place):
    shutil.copy(str(PROGRAM), str(place))
    for name in ("hive", "examples"):
        shutil.copytree(str(ROOT / name), str(place / name),
                        ignore=shutil.ignore_patterns("__pycache__"))
    return place


@pytest.fixture
def play(clone, start):
    """What an example printed and what it said besides; it must end well."""

    def play_example(name, *arguments):
        process = start(sys.executable, "-m", f"examples.{name}", *arguments, cwd=str(clone))
        printed, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
        return printed, said

    return play_example


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_says_how_it_is_started(name):
    lines = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert len(EXAMPLES) == 3 and len(lines) <= 20
    assert f"python -m examples.{name}" in lines[0]
    assert f"examples.{name} " in (ROOT / "README.md").read_text(encoding="utf-8")


def test_own_text_trains_and_write_writes(play, text_file):
    printed, _ = play("own_text", text_file, 2)
    command = re.fullmatch(r"validation loss \d\.\d{4}; now: python -m examples\.write (\S+)\n",
                           printed)
    one, *three = play("write", command[1], "Abc")[0].split("\n---\n")
    assert one.startswith("Abc") and len(one) == 3 + 200
    assert len(three) == 3 and all(text.startswith("Abc") for text in three)


@pytest.mark.parametrize("name, arguments, sentence", [
    ("own_text", [], "required: text"), ("own_text", ["words.txt", "many"], "invalid int value"),
    ("own_text", ["nowhere.txt"], "nowhere.txt"), ("own_text", ["words.txt", "0"], "steps"),
    ("write", [], "There is no run under runs/ yet"), ("write", ["nowhere"], "no checkpoint"),
    ("hive_of_two", ["--rounds", "5"], "The port comes first"),
    ("hive_of_two", ["99999"], "--port must be from 0 to 65535"),
    ("hive_of_two", ["0", "--sise", "1m"], "unrecognized arguments: --sise")])
def test_what_an_example_cannot_do_is_a_sentence(
        clone, start, text_file, name, arguments, sentence):
    shutil.copy(str(text_file), "words.txt")
    process = start(sys.executable, "-m", f"examples.{name}", *arguments, cwd=str(clone))
    printed, said = process.communicate(timeout=240)
    assert process.returncode != 0 and printed == ""
    assert sentence in said and "Traceback" not in said


@pytest.mark.parametrize("name", EXAMPLES)
def test_without_pytorch_an_example_says_what_to_install(clone, start, name):
    process = start(sys.executable, "-S", "-m", f"examples.{name}", cwd=str(clone))
    printed, said = process.communicate(timeout=240)
    assert (process.returncode, printed, said) == (
        2, "", "examples: error: PyTorch is missing: pip install torch requests websockets\n")


def test_hive_of_two_trains_two_peers_together(play, text_file):
    pytest.importorskip("websockets")
    from hive_processes import TINY, free_ports
    port, page = free_ports(2)
    _, said = play("hive_of_two", port, "--dashboard-port", page, "--data", text_file, *TINY,
                   "--rounds", 1)
    assert "joined    one" in said and "joined    two" in said
    assert "The run is over" in said
