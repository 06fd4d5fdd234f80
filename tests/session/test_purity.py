"""What is said knows no sockets, clocks, threads, files or chance: these are passed in. That holds
of the sessions and of all that they import from the project."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "hive" / "session"
PURE = {  # all that is imported from elsewhere
    "__future__", "abc", "collections", "dataclasses", "enum", "functools", "hashlib", "hmac",
    "ipaddress", "itertools", "json", "math", "re", "statistics", "struct", "typing", "unicodedata"}
FORBIDDEN = {"open", "input", "print", "exec", "eval", "__import__"}
NAMES = {  # of modules that hold more than what is pure: what may be taken out of them
    "gltch_2_7m": {"Config", "GltchError", "TrainConfig", "Unwritable", "Vocabulary", "is_number",
                   "lr_factor", "parameters_of", "require"},
    "hive.learning.codec": {"BLOCK", "CODECS"}}


def file_of(module):
    """Where a module of the project stands, None for all others."""
    path = ROOT.joinpath(*module.split("."))
    return next(filter(Path.is_file, (path.with_suffix(".py"), path / "__init__.py")), None)


def imports(tree):
    """(module, name or None) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their module in full"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, None) if file_of(inner) else (node.module, alias.name)


def sins(source):
    """What in a file is not pure."""
    tree = ast.parse(source)
    for module, name in imports(tree):
        walked = module.startswith("hive.") and file_of(module)
        if not (name in NAMES[module] if module in NAMES else walked or module in PURE):
            yield f"{module} {name or ''}".strip()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in FORBIDDEN:
            yield node.id


def reached(files):
    """These files, and all of the project that they import, directly or through others. Of the
    modules in NAMES only those names count, so they are not among them."""
    found, waiting = {}, list(files)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = path.read_text(encoding="utf-8")
            modules = {module for module, _ in imports(ast.parse(found[path]))} - set(NAMES)
            waiting += filter(None, map(file_of, modules))
    return found


SOURCES = {path.relative_to(ROOT).as_posix(): source
           for path, source in sorted(reached(FOLDER.rglob("*.py")).items())}


def test_what_sessions_stand_on_is_looked_into_too():
    assert {"hive/session/job.py", "hive/network/throttle.py", "hive/network/words.py",
            "hive/network/address.py", "hive/learning/fragments.py", "hive/learning/sync.py"
            } <= set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_a_session_imports_nothing_that_acts(name):
    assert list(sins(SOURCES[name])) == []


@pytest.mark.parametrize("line", [
    "import asyncio", "import socket", "import threading", "import time", "import random",
    "import secrets", "import websockets", "import torch", "from time import monotonic",
    "import os.path", "from pathlib import Path", "def f():\n    import io",
    "from gltch_2_7m import Corpus", "from gltch_2_7m import GLTCH", "import gltch_2_7m",
    "from hive.learning.codec import encode", "from hive.learning import codec",
    "from hive import require_pytorch", "open('x')"])
def test_what_acts_is_seen(line):
    assert list(sins(line))


@pytest.mark.parametrize("line", [
    "from hive.journal import Record", "from hive.learning.outer import Outer",
    "from hive.network import door", "import hive.network.guest", "from hive.cache import recall"])
def test_what_acts_is_seen_where_it_is_imported(line, tmp_path):
    session = tmp_path / "session.py"
    session.write_text(line, encoding="utf-8")
    assert any(list(sins(source)) for source in reached([session]).values())
