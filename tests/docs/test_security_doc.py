"""docs/security.md lists every limit, with the value it has and a test that reaches it."""
import ast
import functools
import importlib
import re
from pathlib import Path

import pytest

pytest.importorskip("websockets")
ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
MODULES = (
    "network.door", "network.guest", "network.outbox", "network.uplink", "network.tls",
    "network.dial",
    "dashboard.web", "dashboard.downloads", "network.answers", "network.throttle", "coordinator",
    "peer", "journal", "learning.outer", "session.coordinator_session", "session.reception",
    "session.peer_session", "session.standing", "session.rounds", "session.patience",
    "session.uploads", "session.protocol", "session.job", "session.reply", "session.work",
    "session.conversation", "session.download", "session.update", "session.run",
    "session.evaluation", "session.snapshots", "session.intake", "session.links", "session.supply",
    "session.library",
    "gltch_2_7m")
NO_LIMITS = {  # numbers of other kinds: rhythms, estimates, formats
    "session.coordinator_session.STATUS_SECONDS", "session.snapshots.SNAPSHOT_EVERY",
    "session.evaluation.EVALUATION_SHARE", "session.work.RETRY_SECONDS",
    "session.links.BUSY", "session.worth.CLEARLY",
    "session.standing.RECENT", "session.standing.PAUSE_SECONDS", "session.protocol.VERSION",
    "session.peer_session.PROGRESS_SECONDS",
    "peer.LISTEN_SECONDS", "peer.MOST_AT_ONCE", "coordinator.ORDER_SECONDS",
    "dashboard.web.EVENTS_SECONDS",
    "journal.FORMAT", "journal.OLDER", "journal.DIGEST", "journal.KEPT_EVERY",
    "network.tls.PARTIAL_CHAIN",
    "gltch_2_7m.REFERENCE_STEPS", "gltch_2_7m.CPU_MINUTES", "gltch_2_7m.CPU_STEPS",
    "gltch_2_7m.CHUNK"}
HEAD = "| limit | value | why | when it is reached | test |"
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def limits():
    """[limit, value, why, answer, tests] of every row."""
    for table in DOCUMENT.split(HEAD)[1:]:
        for line in table.strip().splitlines()[1:]:
            if not line.startswith("|"):
                break
            yield [cell.strip() for cell in line.strip("|").split("|")]


ROWS = list(limits())
NAMED = [(name, value) for limit, value, *_ in ROWS
         for names in [re.findall(r"`([a-z_0-9]+(?:\.\w+)+)`", limit)]
         for name, value in zip(names, value.split(";") if len(names) > 1 else [value])]
TESTS = sorted({test for *_, tests in ROWS for test in re.findall(r"`([^`]*)`", tests)})


def file_of(module):
    folder = ROOT if module == "gltch_2_7m" else ROOT / "hive"
    return folder / (module.replace(".", "/") + ".py")


def known_as(name):
    module = next(module for module in (*MODULES, "server") if name.startswith(f"{module}."))
    return functools.reduce(getattr, name[len(module) + 1:].split("."), importlib.import_module(
        module if module == "gltch_2_7m" else f"hive.{module}"))


def numbers(text):
    """Those that a cell begins with, or all that stand between semicolons."""
    found = []
    for part in text.split(";"):
        digits, power, unit = re.match(
            r"([\d,.]+)(?:\^(\d+))?(?: (KiB|MiB|GiB)\b)?", part.strip()).groups()
        number = float(digits.replace(",", ""))
        found.append((number ** int(power) if power else number) * UNITS[unit or ""])
    return found


def assigned(tree):
    """Names in capitals that a module gives a value at its top."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else (
            [node.target] if isinstance(node, ast.AnnAssign) else [])
        for target in targets:
            for one in getattr(target, "elts", [target]):
                if isinstance(one, ast.Name) and one.id.isupper():
                    yield one.id


def test_every_row_is_complete():
    assert len(ROWS) > 80
    for row in ROWS:
        assert len(row) == 5 and row[0] and "::" in row[4], row


@pytest.mark.parametrize("name, said", NAMED)
def test_a_limit_has_the_value_that_the_table_says(name, said):
    value = known_as(name)
    if isinstance(value, (int, float)):
        assert numbers(said) == [value]
    elif name == "session.job.LARGEST":
        assert numbers(said) == list(value.values())
    elif name == "gltch_2_7m.KNOWN_NAMES":
        assert numbers(said) == [len(value)]
    else:
        assert name == "session.protocol.MESSAGES"


def test_no_limit_is_listed_twice():
    names = [name for name, _ in NAMED]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("module", MODULES)
def test_no_limit_is_missing_from_the_table(module):
    tree = ast.parse(file_of(module).read_text(encoding="utf-8"))
    found = {f"{module}.{name}" for name in assigned(tree)
             if isinstance(known_as(f"{module}.{name}"), (int, float))}
    listed = {name for name, _ in NAMED if name.startswith(f"{module}.")}
    assert found - NO_LIMITS - listed == set()
    assert {name for name in NO_LIMITS if name.startswith(f"{module}.")} <= found - listed


@pytest.mark.parametrize("test", TESTS)
def test_the_test_that_reaches_a_limit_is_there(test):
    file, name = test.split("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
