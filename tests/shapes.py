"""Does a value have the shape that a type describes?"""
from typing import Literal, Union, get_args, get_origin, get_type_hints


def is_table(hint):
    return hasattr(hint, "__total__")


def assert_fits(value, hint, where="it"):
    """Every field is there, none besides, and each is of its type, all the way down."""
    origin, parts = get_origin(hint), get_args(hint)
    if is_table(hint):
        fields = get_type_hints(hint)
        missing = set(fields) - set(value) - getattr(hint, "__optional_keys__", set(fields))
        assert not missing and set(value) <= set(fields), (where, missing, set(value) - set(fields))
        for name, one in value.items():
            assert_fits(one, fields[name], f"{where}.{name}")
    elif origin is list:
        for number, one in enumerate(value):
            assert_fits(one, parts[0], f"{where}[{number}]")
    elif origin is dict:
        for name, one in value.items():
            assert_fits(one, parts[1], f"{where}[{name}]")
    elif origin is Union:
        if value is not None:
            assert_fits(value, parts[0], where)
    elif origin is Literal:
        assert value in parts, (where, value)
    else:
        numbers = {float: (int, float), int: int}
        assert isinstance(value, numbers.get(hint, hint)), (where, value)
        assert hint is bool or not isinstance(value, bool), (where, value)


def assert_is_event(event):
    """One of those that a page hears."""
    from hive.session.schema import EVENTS
    fields = {name: value for name, value in event.items() if name not in ("at", "type")}
    assert isinstance(fields["seq"] if event["type"] == "state" else fields.pop("seq"), int)
    assert isinstance(event["at"], float)
    assert_fits(fields, EVENTS[event["type"]], event["type"])
