"""Arrows between modules run one way: server, dashboard, hosts, what they share, what is kept,
sessions, what these stand on."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = [  # the highest first; a name stands for all below it, unless that has a place of its own
    {"hive.server"},
    {"hive.dashboard"},
    {"hive.coordinator", "hive.peer", "hive.simulate", "hive.simulation"},
    {"hive.books", "hive.evaluator", "hive.machine", "hive.reasons"},
    {"hive.journal", "hive.orders", "hive.cache", "hive.key", "hive.text"},
    {"hive.session"},
    {"hive.learning", "hive.network"},
    {"hive"},
    {"gltch_2_7m"}]


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(
    [ROOT / "gltch_2_7m.py", *(ROOT / "hive").rglob("*.py")])}


def imported(source, modules):
    """Which of the modules a file imports, also inside functions and only for their types."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their module in full"
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            named = [name if name in modules else node.module for name in named]
        else:
            continue
        yield from (name for name in named if name in modules)


GRAPH = {module: sorted(set(imported(path.read_text("utf-8"), FILES)))
         for module, path in FILES.items()}


def height(module):
    """How many layers stand above it."""
    while module:
        for above, layer in enumerate(LAYERS):
            if module in layer:
                return above
        module = module.rpartition(".")[0]
    return None


def upwards(graph):
    return [f"{module} imports {other}" for module, others in graph.items() for other in others
            if height(other) < height(module)]


def circle(graph):
    """Modules that import each other in a ring, empty if there are none."""
    done = set()

    def walk(module, way):
        if module in way:
            return [*way[way.index(module):], module]
        if module in done:
            return []
        found = next(filter(None, (walk(other, [*way, module]) for other in graph[module])), [])
        done.add(module)
        return found

    return next(filter(None, (walk(module, []) for module in graph)), [])


@pytest.mark.parametrize("module", FILES)
def test_a_module_has_a_layer(module):
    assert height(module) is not None


def test_no_import_runs_upwards():
    assert upwards(GRAPH) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circle(GRAPH) == []


def test_an_import_that_runs_upwards_is_seen():
    assert list(imported("if TYPE_CHECKING:\n    from hive.dashboard import web", FILES)) == [
        "hive.dashboard.web"]
    assert list(imported("def f():\n    from hive.peer import Peer\n    import hive.server", FILES)
                ) == ["hive.peer", "hive.server"]
    assert upwards({"hive.session.job": ["hive.dashboard.web", "hive.journal", "hive"]}) == [
        "hive.session.job imports hive.dashboard.web", "hive.session.job imports hive.journal"]
    assert upwards({"hive.journal": ["hive.peer", "hive.books", "hive.orders"],
                    "hive.books": ["hive.journal", "hive.simulation.truth"]}) == [
        "hive.journal imports hive.peer", "hive.journal imports hive.books",
        "hive.books imports hive.simulation.truth"]


def test_a_circle_is_seen():
    assert circle({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}) == []
    assert circle({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]}) == ["b", "d", "b"]
