"""What is said knows no sockets, clocks, threads, files or chance: these are passed in."""
import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "hive" / "session"
FILES = sorted(path.name for path in FOLDER.glob("*.py"))
PURE = {  # all that a session may import
    "__future__", "abc", "collections", "dataclasses", "enum", "functools", "hashlib", "hmac",
    "itertools", "json", "math", "re", "statistics", "struct", "typing", "unicodedata",
    "gltch_2_7m", "hive.network.door", "hive.network.throttle", "hive.network.words",
    "hive.learning.codec", "hive.learning.fragments", "hive.learning.sync"}
FORBIDDEN = {"open", "input", "print", "exec", "eval", "__import__"}
NAMES = {  # of modules that hold more than what is pure: what may be taken out of them
    "gltch_2_7m": {"Config", "GltchError", "TrainConfig", "Unwritable", "Vocabulary", "is_number",
                   "parameters_of", "require"},
    "hive.learning.codec": {"CODECS"},
    "hive.network.door": {"household", "is_local"}}


def imports(tree):
    """(module, name or None) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their module in full"
            for alias in node.names:
                yield node.module, alias.name


def sins(source):
    """What in a file is not pure."""
    tree = ast.parse(source)
    for module, name in imports(tree):
        inside = module == "hive.session" or module.startswith("hive.session.")
        allowed = NAMES.get(module)
        if not inside and module not in PURE or allowed and name not in allowed:
            yield f"{module} {name or ''}".strip()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in FORBIDDEN:
            yield node.id


@pytest.mark.parametrize("name", FILES)
def test_a_session_imports_nothing_that_acts(name):
    source = (FOLDER / name).read_text(encoding="utf-8")
    assert list(sins(source)) == []


@pytest.mark.parametrize("line", [
    "import asyncio", "import socket", "import threading", "import time", "import random",
    "import secrets", "import websockets", "import torch", "from time import monotonic",
    "import os.path", "from pathlib import Path", "def f():\n    import io",
    "from hive.journal import Record", "from gltch_2_7m import Corpus",
    "from gltch_2_7m import GLTCH", "import gltch_2_7m",
    "from hive.learning.outer import Outer", "open('x')"])
def test_what_acts_is_seen(line):
    assert list(sins(line))
