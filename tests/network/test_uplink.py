"""What a peer says and sends goes out in order, in a thread of its own."""
import threading
import time

import pytest

from hive.network.uplink import Uplink

LIMIT = 60.0


class Lost(Exception):
    pass


class Line:
    """A line that can be as slow as a test wants, and break."""

    def __init__(self):
        self.out, self.fails = [], None
        self.open, self.busy = threading.Event(), threading.Event()
        self.open.set()

    def send(self, message):
        self.busy.set()
        assert self.open.wait(LIMIT)
        if message == self.fails:
            raise Lost("the line broke")
        self.out.append(message)


@pytest.fixture
def line():
    return Line()


def ended(uplink):
    """Its thread is over."""
    uplink._thread.join(LIMIT)
    return not uplink._thread.is_alive()


def test_words_and_blobs_go_out_in_the_order_in_which_they_came(line):
    with Uplink(line) as uplink:
        uplink.send("offer")
        uplink.send_blob("b", iter([b"one", b"two"]))
        uplink.send("progress")
        uplink.send_blob("c", iter([b"three"]))
        while len(uplink.sent) < 2:
            assert uplink._thread.is_alive()
    assert line.out == ["offer", b"one", b"two", "progress", b"three"]
    assert list(uplink.sent) == ["b", "c"] and uplink.error is None
    assert uplink.bytes == sum(map(len, line.out))


def test_nobody_waits_for_a_slow_line(line):
    line.open.clear()
    with Uplink(line) as uplink:
        uplink.send_blob("b", iter([b"one"]))
        uplink.send("progress")
        assert line.busy.wait(LIMIT)
        assert not uplink.sent and not line.out and uplink.bytes == 0
        line.open.set()
    assert line.out[-1] == "progress"


def test_a_blob_is_sent_only_when_all_of_it_went_out(line):
    line.fails = b"two"
    with Uplink(line) as uplink:
        uplink.send_blob("b", iter([b"one", b"two", b"three"]))
        uplink.send("progress")
        assert ended(uplink)
    assert line.out == [b"one"] and not uplink.sent
    assert str(uplink.error) == "the line broke"


def test_a_mistake_of_ours_is_told_as_well(line):
    """Otherwise the peer would wait for an answer to what never went out."""
    mistake = KeyError("what nobody thought of")

    def damaged():
        yield b"one"
        raise mistake

    with Uplink(line) as uplink:
        uplink.send_blob("b", damaged())
        assert ended(uplink)
    assert uplink.error is mistake and not uplink.sent


def test_who_leaves_in_the_middle_of_a_blob_still_says_goodbye(line):
    def chunks():
        yield b"one"
        line.open.clear()
        yield b"two"
        yield b"three"

    def once_it_is_left():
        while not uplink._ending:
            time.sleep(0.01)
        line.open.set()

    with Uplink(line) as uplink:
        uplink.send_blob("b", chunks())
        while line.out != [b"one"] or line.open.is_set():
            assert uplink._thread.is_alive()
        uplink.send("goodbye")
        threading.Thread(target=once_it_is_left).start()
    assert line.out == [b"one", b"two", "goodbye"] and not uplink.sent
