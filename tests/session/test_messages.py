"""The types of messages are those of the one table that they are checked against."""
import typing

import pytest

from hive.session import messages
from hive.session.peer_session import PeerSession
from hive.session.protocol import (
    MESSAGES,
    Digest,
    Flag,
    Maybe,
    Number,
    Object,
    OneOf,
    Several,
    Text,
    Whole,
)
from hive.session.schema import EVENTS, EventKind

TYPES = {Text: str, Digest: str, Number: float, Whole: int, Flag: bool,
         Object: typing.Dict[str, typing.Any]}
KINDS = {name.lower(): kind for name, kind in vars(messages).items()
         if isinstance(kind, type) and kind.__module__ == messages.__name__}


def type_of(field):
    if isinstance(field, Maybe):
        return typing.Optional[type_of(field.kind)]
    if isinstance(field, Several):
        return typing.List[type_of(field.kind)]
    if isinstance(field, OneOf):
        return typing.Literal[field.words]
    return TYPES[type(field)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_has_the_fields_of_the_table_with_their_types(kind):
    table = {"type": str, **{name: type_of(field) for name, field in MESSAGES[kind].items()}}
    assert typing.get_type_hints(KINDS[kind]) == table


def test_whatever_else_may_be_said_has_nothing_that_anybody_reads():
    assert set(MESSAGES) - set(KINDS) == {"refused", "goodbye"}


def test_every_message_is_said_by_one_side_and_answered_by_the_other():
    from_peer = set(typing.get_args(messages.FromPeer))
    from_coordinator = set(typing.get_args(messages.FromCoordinator))
    assert not from_peer & from_coordinator and from_peer | from_coordinator == set(MESSAGES)
    peer = PeerSession("ann", token=lambda: "0" * 64)
    assert set(peer.answers) == from_coordinator - {"refused"}, "which ends the conversation"


def test_the_dashboard_knows_what_is_shown():
    assert set(EVENTS) == set(typing.get_args(EventKind))
