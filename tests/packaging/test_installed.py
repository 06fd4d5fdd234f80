"""`pip install .`: three commands, all that they need, and words that fit how they were started."""
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import PROGRAM, SMALL_RUN

import gltch_2_7m as gltch
from hive import peer, server
from hive.dashboard.web import FILES

ROOT = PROGRAM.parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
ON_CPU = ("--device", "cpu", "--dtype", "fp32")
NOT_SOURCE = shutil.ignore_patterns(".*", "node_modules", "runs", "build", "*.egg-info", "*.pt",
                                    "__pycache__", "tests")


# --- What is in it --------------------------------------------------------------------------------


def test_every_package_is_installed():
    named = set(json.loads(re.search(r"^packages = (\[.*?\])", PROJECT, re.M | re.S).group(1)))
    folders = {".".join(path.parent.relative_to(ROOT).parts)
               for path in (ROOT / "hive").rglob("__init__.py")}
    assert len(folders) > 5 and named == folders


def test_the_version_is_the_newest_of_the_changelog():
    version = re.search(r'^version = "(.+)"$', PROJECT, re.M).group(1)
    titles = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    released = [title for title in titles if title != "Unreleased"]
    assert titles[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", released[0])


@pytest.mark.process
@pytest.mark.parametrize("command", ["hive/server.py", "-m hive.peer"])
def test_without_pytorch_a_program_says_what_to_install(command):
    done = subprocess.run([sys.executable, "-S", *command.split()],  # without installed packages
                          cwd=str(ROOT), capture_output=True, encoding="utf-8", timeout=240)
    name = "server.py" if "server" in command else "peer.py"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", (
        f"{name}: error: PyTorch is missing: pip install torch requests websockets\n"))


# --- What a program tells people to type, within this process -------------------------------------


@pytest.fixture
def started_as(monkeypatch):
    return lambda command: monkeypatch.setattr(sys, "argv", [command])


@pytest.mark.parametrize("folder, command", [
    (ROOT, "python gltch_2_7m.py"),
    (ROOT / "hive", f"python {Path('..', 'gltch_2_7m.py')}"),
    (ROOT / "tests" / "packaging", f"python {PROGRAM}"),
])
def test_python_gets_the_file_as_it_is_called_from_here(monkeypatch, started_as, folder, command):
    started_as("gltch_2_7m.py")
    monkeypatch.chdir(folder)
    assert gltch.typed() == command
    assert server.sampling(Path("runs/hive")) == f"  {command} sample --checkpoint runs/hive"


def test_a_folder_with_a_space_in_its_name_can_be_pasted(started_as, place):
    started_as("gltch_2_7m.py")
    file = place / "my clone" / "gltch_2_7m.py"
    assert gltch.typed("gltch", str(file)) == f'python "{Path("my clone", "gltch_2_7m.py")}"'


@pytest.mark.parametrize("folder, file", [
    (ROOT, Path("hive", "peer.py")), (ROOT / "hive", Path("peer.py"))])
def test_a_peer_of_a_clone_is_told_its_file(monkeypatch, started_as, folder, file):
    started_as(str(file))
    monkeypatch.chdir(folder)
    help_text = peer.build_parser().format_help()
    assert f"    python {file} --server ws://localhost:8765 --name my-node\n" in help_text
    assert f"    torchrun --nproc-per-node=2 {file} --server" in help_text
    assert "usage: peer.py [-h]" in help_text


@pytest.mark.parametrize("build, command, more", [
    (gltch.build_parser, "gltch", "gltch sample --prompt ROMEO:"),
    (server.build_parser, "gltch-hive", "gltch-hive --host 0.0.0.0"),
    (peer.build_parser, "gltch-peer", "torchrun --nproc-per-node=2 -m hive.peer --server"),
])
def test_an_installed_command_speaks_of_commands(started_as, build, command, more):
    started_as(f"/usr/local/bin/{command}")
    help_text = build().format_help()
    assert help_text.startswith(f"    {command} ") and f"    {more}" in help_text
    assert f"usage: {command} [-h]" in help_text
    assert "python " not in help_text and ".py" not in help_text


@pytest.mark.parametrize("command, programs", [
    ("/usr/local/bin/gltch-hive", ["gltch-peer", "python hive/peer.py"]),
    ("hive/server.py", ["python hive/peer.py"])])
def test_peers_join_as_the_coordinator_was_started(started_as, command, programs):
    started_as(command)
    first, *lines = server.how_to_join("--server ws://localhost:8765").splitlines()
    assert first.startswith("join with")
    assert [line for line in lines if line.startswith("  ")] == [
        f"  {program} --server ws://localhost:8765" for program in programs]


@pytest.mark.parametrize("main, command, arguments", [
    (gltch.main, "gltch", ["sample"]),
    (server.main, "gltch-hive", ["--port", "-1"]),
    (peer.main, "gltch-peer", ["--server", "nowhere"]),
])
def test_an_error_begins_with_what_was_typed(started_as, capsys, main, command, arguments):
    started_as(f"/usr/local/bin/{command}")
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"{command}: error: ")


# --- Installed for real ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def commands(processes, tmp_path_factory):
    """A virtual environment into which pip installed the project: the folder of its commands.
    What the project depends on is that of this Python: nothing is fetched."""
    for needed in ("pip", "setuptools", "websockets"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"cannot be installed here: the package {needed} is missing")
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(str(ROOT), str(folder / "source"), ignore=NOT_SOURCE)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")],
                   check=True, timeout=240)
    scripts = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    python = scripts / ("python.exe" if sys.platform == "win32" else "python")
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, encoding="utf-8", timeout=240).stdout.strip()
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
         "--no-build-isolation", "--disable-pip-version-check", str(folder / "source")],
        capture_output=True, encoding="utf-8", timeout=240, cwd=str(folder))
    assert done.returncode == 0, done.stderr
    return scripts


@pytest.fixture(scope="module")
def site(commands):
    found, = commands.parent.rglob("gltch_2_7m.py")
    return found.parent


def ends(*processes):
    """What each said, once it is over; all must end well."""
    said = [process.communicate(timeout=240) for process in processes]
    for process, (_, errors) in zip(processes, said):
        assert process.returncode == 0, errors
    return [errors for _, errors in said]


def test_pip_installs_three_commands_the_page_and_the_types(commands, site):
    found = {path.stem for path in commands.iterdir() if path.name.startswith("gltch")}
    assert found == {"gltch", "gltch-hive", "gltch-peer"}
    for name in ("py.typed", "session/coordinator_session.py", "dashboard/__main__.py",
                 *(name for name, _ in FILES.values())):
        assert (site / "hive" / name).is_file(), name
    metadata, = site.glob("gltch-*.dist-info/METADATA")
    about = metadata.read_text(encoding="utf-8")
    for line in ("Name: gltch", "Version: 0.1.0", "Requires-Python: >=3.8", "Provides-Extra: hive",
                 "Classifier: License :: OSI Approved :: MIT License"):
        assert f"{line}\n" in about, line
    assert list(metadata.parent.rglob("LICENSE"))


def test_gltch_trains_is_watched_and_writes(commands, start, text_file):
    trained, = ends(start(commands / "gltch", "train", "--data", text_file, *SMALL_RUN, "--steps",
                          2, "--name", "mine", "--dashboard", 0))
    assert "dashboard http://localhost:" in trained
    assert trained.endswith(f"  gltch sample --checkpoint {Path('runs', 'mine')}\n")
    process = start(commands / "gltch", "sample", "--checkpoint", "runs/mine", "--length", 20)
    assert ends(process) == [""]


def test_gltch_hive_and_gltch_peer_train_together(commands, start, text_file, tmp_path):
    from hive_processes import TINY, free_ports
    port, page = free_ports(2)
    said, _ = ends(
        start(commands / "gltch-hive", "--data", text_file, *TINY, "--rounds", 1, "--port", port,
              "--dashboard-port", page),
        start(commands / "gltch-peer", "--server", f"ws://localhost:{port}", *ON_CPU))
    join = f"--server ws://localhost:{port} --name my-node"
    assert f"join with\n  gltch-peer {join}\n" in said
    assert f"in a clone, with\n  python hive/peer.py {join}\n" in said
    assert said.endswith(f"  gltch sample --checkpoint {Path('runs', 'hive')}\n")


@pytest.mark.parametrize("command", ["gltch-hive", "gltch-peer"])
def test_without_websockets_a_command_says_what_to_install(commands, place, command):
    (place / "without").mkdir()
    (place / "without" / "websockets.py").write_text("raise ImportError('there is none')")
    done = subprocess.run([str(commands / command)], capture_output=True, encoding="utf-8",
                          timeout=240, env={**os.environ, "PYTHONPATH": str(place / "without")})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (f"{command}: error: The Hive needs the package websockets: "
                           "pip install websockets\n")
