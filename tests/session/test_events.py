"""The numbered events: a page that knows how far it was hears exactly what it missed."""
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hive.session.events import Events, finite

TEXTS = st.text("ab\"\\\n\0é\u2028\U0001f41d", max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(TEXTS, inside, max_size=4),
    max_leaves=12)


def parse(text):
    """JSON as browsers read it: they know no NaN."""
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")
    return json.loads(text, parse_constant=refuse)


def event(number):
    return {"seq": number, "at": 7.5, "type": "closed", "version": number}


def after(count, keep):
    """A sequence in which `count` things have happened."""
    events = Events("here", lambda: 7.5, keep)
    for number in range(1, count + 1):
        events.add("closed", version=number)
    return events


@given(count=st.integers(0, 60), keep=st.integers(1, 40), seq=st.integers(-3, 63))
def test_since_tells_exactly_what_was_missed_or_that_it_is_not_known(count, keep, seq):
    told = after(count, keep).since("here", seq)
    if max(0, count - keep) <= seq <= count:
        assert parse(told) == [event(number) for number in range(seq + 1, count + 1)]
    else:
        assert told is None  # the future, before the beginning, or too long ago


@settings(deadline=None)
@given(keep=st.integers(1, 30), bursts=st.lists(st.integers(0, 30), max_size=20))
def test_a_page_that_asks_often_enough_misses_nothing(keep, bursts):
    events, seq, heard = Events("here", lambda: 7.5, keep), 0, []
    for burst in bursts:
        for _ in range(min(burst, keep)):
            events.add("closed", version=events.seq + 1)
        heard += parse(events.since("here", seq))
        seq = events.seq
    assert heard == [event(number) for number in range(1, events.seq + 1)]


@pytest.mark.parametrize("session", ["", "elsewhere", "HERE"])
def test_another_session_is_not_known_whatever_the_number(session):
    events = after(5, 10)
    assert [events.since(session, seq) for seq in range(-1, 7)] == [None] * 8
    assert events.since("here", 5) == "[]"


def test_only_the_latest_are_kept():
    events = after(1000, 8)
    assert len(events.latest) == 8 and events.seq == 1000
    assert events.since("here", 991) is None
    assert len(parse(events.since("here", 992))) == 8


def test_numbers_that_are_not_finite_become_null():
    events = Events("here", clock=lambda: 7.5)
    events.add("measured", loss=math.nan, best=math.inf, speed=-math.inf, seconds=1.5,
               peers={"a": [math.nan, 0, None], "b": (1.25, math.inf)})
    assert parse(events.since("here", 0)) == [{
        "seq": 1, "at": 7.5, "type": "measured", "loss": None, "best": None, "speed": None,
        "seconds": 1.5, "peers": {"a": [None, 0, None], "b": [1.25, None]}}]


@given(st.dictionaries(st.sampled_from(["text", "peers", "reason"]), VALUES, max_size=3))
def test_whatever_happens_is_valid_json_and_comes_back_unchanged(values):
    events = Events("here", clock=lambda: 7.5)
    events.add("evaluated", **values)
    told, = parse(events.since("here", 0))
    assert told == {"seq": 1, "at": 7.5, "type": "evaluated", **finite(values)}


def same(value, shown):
    """Is `shown` the value, but for its numbers that are not finite?"""
    if isinstance(value, dict):
        return list(value) == list(shown) and all(same(value[key], shown[key]) for key in value)
    if isinstance(value, list):
        return len(value) == len(shown) and all(map(same, value, shown))
    if isinstance(value, float) and not math.isfinite(value):
        return shown is None
    return type(value) is type(shown) and value == shown


@given(VALUES)
def test_finite_changes_nothing_else(value):
    assert same(value, finite(value))
