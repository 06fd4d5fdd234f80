"""peer.pyz: all that a peer needs, nobody else's code, and the same bytes wherever it is made."""
import ast
import io
import os
import shutil
import sys
import zipfile

import pytest

from hive.dashboard import peer_file as module
from hive.dashboard.peer_file import ROOT, peer_file


def entries():
    archive = zipfile.ZipFile(io.BytesIO(peer_file()))
    return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def test_it_has_the_files_of_this_version_and_nothing_else():
    found = entries()
    assert list(found) == sorted(found)
    assert {"gltch_2_7m.py", "hive/peer.py", "hive/session/peer_session.py"} < set(found)
    for name, content in found.items():
        if name != "__main__.py":
            assert content == (ROOT / name).read_bytes()
    assert not any(word in name for name in found for word in (
        "server", "coordinator", "dashboard", "journal", "simulat"))


def test_all_that_its_files_import_of_the_project_is_in_it():
    found = entries()
    for content in found.values():
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "hive":
                path = node.module.replace(".", "/")
                assert {f"{path}.py", f"{path}/__init__.py"} & set(found), node.module


def test_it_is_the_same_byte_for_byte_elsewhere_and_later(place, monkeypatch):
    """Another folder, other times, and files that were checked out on Windows."""
    first = peer_file()
    for name in entries():
        if name != "__main__.py":
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(ROOT / name), str(place / name))
            (place / name).write_bytes((ROOT / name).read_bytes().replace(b"\n", b"\r\n"))
            os.utime(str(place / name), (1e9, 1e9))
    monkeypatch.setattr(module, "ROOT", place)
    peer_file.cache_clear()
    try:
        assert peer_file() == first
    finally:
        peer_file.cache_clear()


def test_another_version_is_another_file(monkeypatch):
    first = peer_file()
    monkeypatch.setattr(module, "MAIN", "import sys\n")
    peer_file.cache_clear()
    try:
        assert peer_file() != first
    finally:
        peer_file.cache_clear()


@pytest.mark.process
@pytest.mark.parametrize("missing, sentence", [
    ("torch", "PyTorch is missing: pip install torch requests websockets"),
    ("websockets", "The Hive needs the package websockets: pip install websockets")])
def test_where_something_is_missing_it_says_what_to_install(start, place, missing, sentence):
    (place / "peer.pyz").write_bytes(peer_file())
    if missing == "torch":
        command = [sys.executable, "-S"]  # without installed packages
    else:
        command = [sys.executable]
        (place / "without").mkdir()
        (place / "without" / "websockets.py").write_text("raise ImportError('there is none')")
    process = start(*command, "peer.pyz", environment={"PYTHONPATH": str(place / "without")})
    said, errors = process.communicate(timeout=240)
    assert (process.returncode, said, errors) == (2, "", f"peer.pyz: error: {sentence}\n")
