"""What the tests share: a place without network, a small text, real processes, one trained run."""
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import forks
import pytest
import torch
from builders import FRENCH, TINY, TINY_RECIPE

from gltch_2_7m import load_corpus, train

PROGRAM = Path(__file__).resolve().parent.parent / "gltch_2_7m.py"
SMALL_RUN = ("--size", "1m", "--device", "cpu", "--batch-size", "2", "--precision", "fp32",
             "--steps", "60", "--eval-every", "10", "--log-every", "5")
ENVIRONMENT = {  # None: not set
    "HTTP_PROXY": None, "http_proxy": None, "ALL_PROXY": None, "NO_PROXY": None, "no_proxy": None,
    "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9",  # nobody answers
    "RANK": None, "WORLD_SIZE": None, "LOCAL_RANK": None, "GLTCH_DATA": None, "NO_COLOR": None,
    "PYTHONUNBUFFERED": None, "PYTHONUTF8": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
}

torch.set_num_threads(1)  # the networks here are too small to share


# --------------------------------------------------------------------------------------------------
# Two at a time
# --------------------------------------------------------------------------------------------------

@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks
def pytest_cmdline_main(config):
    """All tests together run in two processes, unless -n says otherwise; named files in one."""
    os.environ.setdefault("FUZZ_SEED", str(random.SystemRandom().randrange(2**32)))  # for both
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    one_of_them = hasattr(config, "workerinput")
    watched = config.option.usepdb or config.option.capture == "no"
    if (config.pluginmanager.hasplugin("xdist") and config.option.numprocesses is None
            and whole and not one_of_them and not watched):
        config.option.numprocesses, config.option.dist = 2, "worksteal"


def pytest_terminal_summary(terminalreporter):
    """What a test wants to be seen also when it passes, such as the seeds that it drew."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, text in report.user_properties:
                if name == "told":
                    terminalreporter.write_line(text)


# --------------------------------------------------------------------------------------------------
# Marks
# --------------------------------------------------------------------------------------------------

STARTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn")
running = []  # the test at work


@pytest.fixture(scope="session")
def processes():
    """What starts processes asks for this, so that its tests have the mark `process`."""


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    for item in items:
        if "processes" in item.fixturenames:
            item.add_marker("process")
        if "chromium" in item.fixturenames:
            item.add_marker("browser")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    running.append(item)
    yield
    running.remove(item)


def refuse_unmarked_processes(event, arguments):
    if event in STARTS and running and not any(
            running[-1].get_closest_marker(mark) for mark in ("process", "browser")):
        pytest.fail("a test that starts a process needs @pytest.mark.process, "
                    "a fixture that does asks for the fixture `processes`")


sys.addaudithook(refuse_unmarked_processes)


# --------------------------------------------------------------------------------------------------
# Fixtures
# --------------------------------------------------------------------------------------------------


def set_environment(monkeypatch, folder):
    for name, value in {**ENVIRONMENT, "XDG_CACHE_HOME": str(folder / "cache")}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """Every test works in an empty folder, without network and without settings from outside."""
    set_environment(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mount(processes):
    """Mount something for the length of a test: mount(folder, "size=1m") for a disk in memory,
    mount(folder, "bind,ro", what) for another folder as it is on a disk that cannot be written."""
    mounted = []

    def mount_at(folder, options, what="tmpfs"):
        if sys.platform != "linux" or os.geteuid() != 0:
            pytest.skip("only root on Linux may mount a small disk")
        folder.mkdir(exist_ok=True)
        kind = ["-t", "tmpfs"] if what == "tmpfs" else []
        done = subprocess.run(["mount", *kind, "-o", options, str(what), str(folder)],
                              capture_output=True, encoding="utf-8")
        if done.returncode != 0:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount_at
    for folder in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """130 lines of invented words, 5.6 kB: long enough for the context of the 1m network."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 7))) for _ in range(60)]
    lines = [" ".join(rng.choices(words, k=8)).capitalize() + "." for _ in range(130)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_bytes("\n".join(lines).encode())
    return path


@pytest.fixture
def finished(text_file):
    """The folder of a finished run."""
    return train(TINY, TINY_RECIPE, load_corpus([str(text_file)]), name="finished").folder


@pytest.fixture
def french(tmp_path):
    """A text with characters that the other one does not have."""
    path = tmp_path / "french.txt"
    path.write_text(FRENCH, encoding="utf-8")
    return path


@pytest.fixture
def here(processes, tmp_path, text_file):
    """A place for a hive of real processes, of one test."""
    from hive_processes import Place
    place = Place(tmp_path, text_file)
    yield place
    place.clean()


@pytest.fixture(scope="module")
def shared(processes, tmp_path_factory, text_file):
    """A place for the hives that the tests of one file share."""
    from hive_processes import Place
    place = Place(tmp_path_factory.mktemp("hive"), text_file)
    yield place
    place.clean()


@pytest.fixture(scope="session")
def gltch_cli(processes):
    """Run the command line to its end; standard input has what is given, and ends. With an
    `environment` of its own it is a new Python, otherwise a fork, which begins at once."""

    def run(*arguments, stdin="", timeout=240, environment=None, cwd=None):
        command = [str(PROGRAM), *map(str, arguments)]
        if forks.POSSIBLE and environment is None:
            return forks.run(command, cwd or os.getcwd(), dict(os.environ), stdin, timeout)
        return subprocess.run([sys.executable, *command], input=stdin, capture_output=True,
                              encoding="utf-8", timeout=timeout, cwd=cwd,
                              env={**os.environ, **(environment or {})})

    return run


@pytest.fixture
def start(processes):
    """Start a process and go on; it is killed when the test ends."""
    processes = []

    def start_process(*command, environment=None, **settings):
        processes.append(subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})}, **{
                "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8",
                **settings}))
        return processes[-1]

    yield start_process
    for process in processes:
        process.kill()
        process.wait(timeout=60)


@pytest.fixture
def start_gltch(start):
    return lambda *arguments, **settings: start(sys.executable, PROGRAM, *arguments, **settings)


@pytest.fixture(scope="session")
def node(processes):
    program = shutil.which("node")
    if program is None:
        sentence = "This test needs node: https://nodejs.org, or apt-get install nodejs."
        if os.environ.get("CI") == "true":
            pytest.fail(sentence, pytrace=False)
        pytest.skip(sentence)
    return program


@pytest.fixture(scope="session")
def ask(node):
    """ask(subject, questions): what a browser's peer computes, by tests/page/peer/golden.js."""
    from in_node import ask_node
    return lambda subject, questions: ask_node(node, "golden.js", questions, subject)


@pytest.fixture(scope="session")
def wait_for():
    """Wait until a file holds a text, looking often: nothing tells what another process writes."""

    def wait(path, text):
        deadline = time.monotonic() + 240
        while not (path.exists() and text in path.read_text(encoding="utf-8")):
            assert time.monotonic() < deadline, f"{path} never held {text!r}"
            time.sleep(0.005)

    return wait


@pytest.fixture(scope="session")
def straight(tmp_path_factory, gltch_cli, text_file):
    """A run of 60 steps on the command line, never interrupted: read it, do not change it."""
    home = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_environment(monkeypatch, home)
        done = gltch_cli("--data", text_file, *SMALL_RUN, "--name", "straight",
                         cwd=str(home))
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(home=home, folder=home / "runs" / "straight", stdout=done.stdout,
                           stderr=done.stderr)
