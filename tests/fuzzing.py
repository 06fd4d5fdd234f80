"""What the fuzz tests share: how long they search, from which seeds, and what memory is fair.

Every test searches twice: from seed 0, where everybody finds the same, and for a while from a seed
that is new for each run of the tests. It is part of the test's name, so a failure tells it:
`FUZZ_SEED=123 python -m pytest tests/dashboard/test_fuzz_web.py` searches there again, and
`FUZZ_TIMES=50` searches fifty times as long.
"""
import contextlib
import inspect
import os
import socket
import tracemalloc

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import seed as begin_at
from hypothesis import strategies as st

FRESH = int(os.environ["FUZZ_SEED"])  # new each time, unless it is given (see conftest.py)
TIMES = int(os.environ.get("FUZZ_TIMES") or 1)


def fuzz(count, *, known=(), **drawn):
    """Run a test with `count` examples from the strategies, after those that are `known`."""

    def decorate(test):
        asked = [p for p in inspect.signature(test).parameters.values() if p.name not in drawn]

        def run(seed, **fixtures):
            def search(**values):
                test(**fixtures, **values)

            for values in known:
                search = example(**values)(search)
            begin_at(seed)(settings(
                max_examples=TIMES * (count if seed == 0 else max(5, count // 4)), deadline=None,
                database=None, suppress_health_check=list(HealthCheck))(given(**drawn)(search)))()

        run.__doc__ = test.__doc__
        run.__signature__ = inspect.Signature([
            inspect.Parameter("seed", inspect.Parameter.POSITIONAL_OR_KEYWORD), *asked])
        return pytest.mark.parametrize("seed", [0, FRESH])(run)

    return decorate


@contextlib.contextmanager
def memory_at_most(size):
    """What Python takes inside stays below `size` bytes."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= size, f"{peak:,} bytes were taken at once; {size:,} would be fair"


def end(connection):
    """Say that nothing more comes."""
    with contextlib.suppress(OSError):  # the other side has hung up already
        connection.shutdown(socket.SHUT_WR)


def damage(content, changes):
    """Bytes with changes of the kinds below, one after the other."""
    content = bytearray(content)
    for kind, place, value in changes:
        at = int(place * len(content))
        if kind == "flip" and content:
            content[min(at, len(content) - 1)] ^= 1 << value % 8
        elif kind == "byte" and content:
            content[min(at, len(content) - 1)] = value
        elif kind == "cut":
            del content[at:]
        elif kind == "hole":
            content[at: at + 1 + value] = bytes(len(content[at: at + 1 + value]))
        elif kind == "without":
            del content[at: at + 1 + value]
        elif kind == "twice":
            content[at:at] = content[at: at + 1 + value]
        elif kind == "junk":
            content += bytes([value]) * (1 + value)
    return bytes(content)


KINDS = ("flip", "byte", "cut", "hole", "without", "twice", "junk")
changes = st.lists(st.tuples(st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True),
                             st.integers(0, 255)), min_size=1, max_size=4)
