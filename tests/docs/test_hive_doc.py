"""docs/hive.md has a row for every file of the Hive, and its walk names what is there."""
import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "hive.md").read_text(encoding="utf-8")
HIVE = ROOT / "hive"
STEPS = re.findall(r"^(\d+)\. (.*)$", DOCUMENT.partition("## The walk of one update")[2].partition(
    "\n## ")[0], re.M)
PAIRS = sorted({*re.findall(r"`(\w+)\(\)` (?:in|of) `([\w/]+\.py)`", DOCUMENT), *(
    pair[::-1] for pair in re.findall(r"[Ii]n `([\w/]+\.py)`, `(\w+)\(\)`", DOCUMENT))})


@functools.lru_cache(maxsize=None)
def functions_of(file):
    tree = ast.parse((HIVE / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def test_every_file_has_its_row_and_no_other():
    rooms = DOCUMENT.partition("| room | file |")[2].partition("\n\n")[0]
    files = [file.relative_to(HIVE).as_posix() for file in HIVE.rglob("*.py")
             if file.name != "__init__.py"]
    assert sorted(re.findall(r"^\|[^|]*\| `(\S+)` \|", rooms, re.M)) == sorted(files)


def test_the_walk_has_its_steps():
    assert [int(number) for number, _ in STEPS] == list(range(1, len(STEPS) + 1))
    assert len(STEPS) > 9


@pytest.mark.parametrize("step", [text for _, text in STEPS],
                         ids=[re.sub(r"\W+", "-", text[:20]) for _, text in STEPS])
def test_a_step_of_the_walk_names_files_and_functions_that_exist(step):
    files = re.findall(r"`(\S+\.py)`", step)
    functions = re.findall(r"`(\w+)\(\)`", step)
    assert files and functions
    there = set().union(*map(functions_of, files))
    assert set(functions) <= there


def test_the_walk_says_of_most_functions_where_they_stand():
    named = {name for _, step in STEPS for name in re.findall(r"`(\w+)\(\)`", step)}
    assert len(named & {name for name, _ in PAIRS}) > 2 * len(named) / 3


@pytest.mark.parametrize("function, file", PAIRS, ids=["-of-".join(pair) for pair in PAIRS])
def test_a_function_stands_in_the_file_that_is_named_with_it(function, file):
    assert function in functions_of(file)
