"""What pages and scripts are told is described three times, and three times alike: in
session/schema.py for Python, in docs/api.md for people, in page/facts.d.ts for JavaScript."""
import re
from pathlib import Path
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest
from shapes import assert_fits, is_table

from hive.dashboard.facts import news
from hive.session import schema
from hive.session.schema import EVENTS, Contributor, Peer, PeerNumbers, State

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
TYPES = (ROOT / "hive" / "page" / "facts.d.ts").read_text(encoding="utf-8")
ALIASES = {name: " ".join(text.split()) for name, text in
           re.findall(r"^export type (\w+) =([^;]*);", TYPES, re.M)}
ALIKE = [Peer, Contributor, PeerNumbers, schema.Round, schema.Fastest, schema.Shape, schema.Join,
         schema.Updates, schema.Measured, schema.Contribution]


def documented(table):
    """The names in the first column."""
    return {name for row in re.findall(r"^\| (`[^|]*)\|", table, re.M)
            for name in re.findall(r"`(\w+)`", row)}


def interface(name):
    """Its fields and their types, and those of the interfaces that it extends."""
    _, parents, body = re.search(
        rf"^(export )?interface {name}(?: extends ([^{{]*))? {{\n(.*?)^}}", TYPES, re.M | re.S
    ).groups()
    fields = {}
    for parent in (parents or "").split(", "):
        if parent and not parent.startswith("Numbered<"):
            fields.update(interface(parent.strip()))
    fields.update(re.findall(r"^  (\w+)\??: ([^;]+);", body, re.M))
    return {name: ALIASES.get(text, text) for name, text in fields.items()}


def in_typescript(hint):
    origin, parts = get_origin(hint), get_args(hint)
    if is_table(hint):
        return hint.__name__
    if origin is list:
        return in_typescript(parts[0]) + "[]"
    if origin is dict:
        return f"Record<string, {in_typescript(parts[1])}>"
    if origin is Union:
        return in_typescript(parts[0]) + " | null"
    if origin is Literal:
        return " | ".join(f'"{one}"' for one in parts)
    return {str: "string", bool: "boolean", int: "number", float: "number"}[hint]


def typed(table):
    return {name: in_typescript(hint) for name, hint in get_type_hints(table).items()}


def test_every_field_of_state_and_peer_is_documented_and_no_other():
    tables = CONTRACT.partition("## /api/state")[2].partition("## /api/history")[0]
    about, peer = map(documented, tables.split("A peer:"))
    assert about == set(get_type_hints(State))
    assert peer == set(get_type_hints(Peer))


@pytest.mark.parametrize("kind", EVENTS)
def test_every_field_of_an_event_is_documented(kind):
    row, = re.findall(rf"^\| `{kind}` \| (.*) \|$", CONTRACT.partition("## /api/events")[2], re.M)
    if kind != "state":  # "all fields of /api/state"
        assert set(get_type_hints(EVENTS[kind])) <= set(re.findall(r"`(\w+)`", row))


def test_every_event_is_documented_and_no_other():
    assert documented(CONTRACT.partition("## /api/events")[2].partition("## /metrics")[0]
                      ) == set(EVENTS)


@pytest.mark.parametrize("table", ALIKE, ids=lambda table: table.__name__)
def test_a_thing_has_the_same_fields_and_types_in_the_browser(table):
    assert interface(table.__name__) == typed(table)


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_has_the_same_fields_and_types_in_the_browser(kind):
    name, = re.findall(rf'interface (\w+) extends Numbered<"{kind}">', TYPES)
    assert interface(name) == typed(EVENTS[kind])


@pytest.mark.parametrize("wrong", [
    {}, {"quota": 4, "seconds": 1.0}, {"quota": 4.5, "seconds": 1.0, "left": 0},
    {"quota": 4, "seconds": None, "left": 0}, {"quota": True, "seconds": 1, "left": 0},
    {"quota": 4, "seconds": 1, "left": 0, "more": 0}])
def test_a_wrong_shape_would_be_noticed(wrong):
    assert_fits({"quota": 4, "seconds": 1.5, "left": 0}, schema.Round)
    with pytest.raises(AssertionError):
        assert_fits(wrong, schema.Round)


# ---- The numbers of the peers, once a second


def peer(joined=1.0, **numbers):
    return {"peer": "a", "name": "ada", "joined": joined, "state": "training", "tokens": 0,
            "bytes_up": 0, "bytes_down": 0, "speed": 0.0, "training": None, "limit": "",
            "latency": None, "counted": 0, "late": 0,
            "rejected": 0, "score": 1.0, "aside": "", **numbers}


def test_of_a_new_peer_all_numbers_are_told_and_afterwards_those_that_changed():
    everything = news({}, {"a": peer()})["a"]
    assert set(everything) == set(get_type_hints(PeerNumbers))
    assert news({"a": peer()}, {"a": peer(tokens=5, latency=0.1, state="ready")}) == {
        "a": {"tokens": 5, "latency": 0.1}}
    assert news({"a": peer()}, {"a": peer(state="ready")}) == {}
    assert news({"a": peer(), "b": peer()}, {"b": peer(late=1)}) == {"b": {"late": 1}}


def test_of_a_peer_with_a_new_connection_all_numbers_are_told():
    assert news({"a": peer()}, {"a": peer(joined=2.0)}) == news({}, {"a": peer()})
