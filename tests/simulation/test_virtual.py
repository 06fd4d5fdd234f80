"""A connection in virtual time: what arrives, and when."""
import pytest

from hive.simulation.virtual import Clock, Piece, Wire


@pytest.fixture
def wire():
    """10 bytes a second, half a second long; a blob travels in chunks of 10 bytes."""
    arrived = []
    wire = Wire(Clock(), 10.0, 0.5, lambda item: arrived.append((wire.clock.now, what(item))), 10)
    wire.arrived = arrived
    return wire


def what(item):
    return (item.begin, item.end) if isinstance(item, Piece) else item


def play(clock, until=1000.0):
    clock.at(until, lambda: None)
    while clock.now < until:
        clock.step()


def test_what_is_sent_arrives_in_order_one_after_the_other(wire):
    wire.send("hello", 5)
    wire.send_blob("text", "0" * 64, bytes(25), 0)
    play(wire.clock)
    assert wire.arrived == [(1.0, "hello"), (2.0, (0, 10)), (3.0, (10, 20)), (3.5, (20, 25))]
    assert not wire.moving and wire.bytes == wire.pieces == wire.blobs == 0


def test_what_waits_can_be_dropped_before_a_last_word(wire):
    wire.send_blob("text", "0" * 64, bytes(25), 0)
    wire.send("status", 5)
    play(wire.clock, 0.9)
    wire.drop_waiting()
    assert wire.bytes == 10 and wire.blobs == 0, "the chunk that is under way"
    wire.send("refused", 5)
    play(wire.clock)
    assert wire.arrived == [(1.5, (0, 10)), (2.0, "refused")]
    assert not wire.moving and wire.bytes == wire.pieces == 0


def test_a_blob_waits_as_one_however_many_its_chunks(wire):
    wire.send("hello", 5)
    wire.send_blob("text", "0" * 64, bytes(95), 0)
    wire.send_blob("text", "0" * 64, bytes(95), 90)
    assert wire.waiting == 3 and wire.blobs == 2
    play(wire.clock, 5.0)
    assert wire.waiting == 2 and wire.pieces > 2
    play(wire.clock)
    assert wire.waiting == 0
