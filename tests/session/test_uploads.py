"""Uploads: a bounded number at a time, in order, and interrupted ones only as long as there is
room."""
import pytest

from hive.session import protocol
from hive.session.protocol import ProtocolError
from hive.session.uploads import BUDGET_BYTES, LEAST_PLACES, STALLED_SECONDS, Uploads, Wanted

SIZE = 1000
CONTENT = bytes(range(250)) * 4
BLOB = protocol.name_of(CONTENT)


def wanted(number=0, version=7):
    return Wanted(version, BLOB if not number else f"{number:064x}", SIZE)


def chunk(begin=0, end=SIZE):
    return protocol.CHUNK_HEADER.pack(bytes.fromhex(BLOB)[:8], begin) + CONTENT[begin:end]


def make(places=4):
    return Uploads(SIZE, places)


def full(places=4):
    uploads = make(places)
    for number in range(places):
        assert uploads.begin(f"peer-{number}", wanted(number + 1), 0.0)
    return uploads


def test_an_update_arrives_whole():
    uploads = make()
    assert not uploads.begin("a", wanted(), 0.0).content
    assert not uploads.add("a", chunk(0, 400), 1.0).complete
    receiver = uploads.add("a", chunk(400), 2.0)
    assert receiver.complete and receiver.result() == CONTENT
    uploads.drop("a")
    assert uploads.add("a", chunk(), 3.0) is None


def test_an_interrupted_upload_goes_on_where_it_stopped():
    uploads = make()
    uploads.begin("a", wanted(), 0.0)
    uploads.add("a", chunk(0, 400), 0.0)
    uploads.leave("a")
    assert uploads.add("a", chunk(400), 1.0) is None, "it has no connection"
    assert len(uploads.begin("a", wanted(), 9.0).content) == 400
    assert uploads.add("a", chunk(400), 9.0).complete


def test_another_update_of_the_same_peer_begins_at_its_start():
    uploads = make()
    uploads.begin("a", wanted(), 0.0)
    uploads.add("a", chunk(0, 400), 0.0)
    assert not uploads.begin("a", wanted(5), 1.0).content


def test_more_or_other_bytes_than_announced_are_refused():
    uploads = make()
    uploads.begin("a", wanted(), 0.0)
    with pytest.raises(ProtocolError):
        uploads.add("a", chunk(0) + b"!", 0.0)


def test_who_finds_no_place_waits_and_is_called_in_order():
    uploads = full()
    assert uploads.begin("b", wanted(8), 1.0) is None
    assert uploads.begin("c", wanted(9), 2.0) is None
    assert uploads.begin("b", wanted(8), 3.0) is None, "asking again does not cost the place"
    assert uploads.turns(3.0) == []
    uploads.drop("peer-2")
    assert [peer for peer, _ in uploads.turns(4.0)] == ["b"]
    uploads.drop("peer-1")
    uploads.drop("peer-0")
    assert [peer for peer, _ in uploads.turns(5.0)] == ["c"]


def test_three_hundred_abandoned_uploads_keep_no_more_memory_than_there_are_places():
    """Found by an attacker: 300 of them took 1.17 GB, and kept it."""
    uploads = make(places=6)
    for number in range(300):
        peer = f"peer-{number}"
        assert uploads.begin(peer, wanted(), float(number)), "an abandoned one makes way"
        uploads.add(peer, chunk(0, 900), float(number))
        uploads.leave(peer)
        assert len(uploads.begun) <= 6
    assert list(uploads.begun) == [f"peer-{number}" for number in range(294, 300)]


def test_an_upload_that_stands_still_makes_way_for_others_and_only_for_them():
    uploads = full()
    uploads.begin("peer-3", wanted(4), STALLED_SECONDS)  # it went on
    assert len(uploads.begun) == 4
    assert uploads.begin("b", wanted(8), STALLED_SECONDS) is None
    assert [peer for peer, _ in uploads.turns(STALLED_SECONDS + 1)] == ["b"]
    assert list(uploads.begun) == ["peer-1", "peer-2", "peer-3", "b"]


def test_who_leaves_the_queue_is_not_called():
    uploads = full()
    uploads.begin("b", wanted(8), 1.0)
    uploads.leave("b")
    uploads.drop("peer-0")
    assert uploads.turns(2.0) == []


def test_what_nobody_can_use_any_more_is_forgotten():
    uploads = make()
    uploads.begin("old", wanted(1, version=3), 0.0)
    uploads.begin("new", wanted(2, version=4), 0.0)
    uploads.forget(4)
    assert list(uploads.begun) == ["new"]


def test_there_are_a_few_places_however_large_an_update_is():
    assert Uploads(10**9).places == LEAST_PLACES
    assert Uploads(BUDGET_BYTES // 100).places == 100


def test_each_update_ends_where_it_said_and_none_is_larger_than_the_largest():
    uploads = make()
    uploads.begin("a", Wanted(1, BLOB, 400), 0.0)
    assert uploads.add("a", chunk(0, 400), 0.0).complete
    with pytest.raises(ProtocolError):
        uploads.begin("b", Wanted(1, BLOB, SIZE + 1), 0.0)
