"""What a hive costs and brings: how peers spend their time, and when one alone were faster."""
import pytest

from hive.session.links import Lap, Link
from hive.session.reception import Identity
from hive.session.standing import RECENT, Standing
from hive.session.worth import Worth


def make_link(name="ada", **lap):
    link = Link(1, Identity(name, name, "CPU", "cpu", None), 0.0, 0.0)
    link.laps.extend([Lap(**{"characters": 1000, "training": 1.0, "sending": 0.0, "passed": 1.0,
                             **lap})] * RECENT)
    return link


@pytest.mark.parametrize("lap, training, limit", [
    ({"training": 9.5, "sending": 8.0, "passed": 10.0}, 0.95, "device"),  # it sends meanwhile
    ({"training": 4.0, "sending": 4.0, "passed": 10.0}, 0.4, "uplink"),
    ({"training": 4.0, "sending": 1.0, "passed": 10.0}, 0.4, "round"),
    ({"training": 12.0, "sending": 0.0, "passed": 10.0}, 1.0, "device")])  # as it says
def test_what_keeps_a_peer_from_doing_more(lap, training, limit):
    link = make_link(**lap)
    assert (link.training, link.limit) == (pytest.approx(training), limit)


def test_of_a_peer_that_has_sent_nothing_yet_nothing_is_known():
    link = make_link()
    link.laps.clear()
    assert (link.training, link.limit) == (None, "")


def after_rounds(seconds, rounds=RECENT, tokens=1000):
    """A hive that made these rounds, one right after the other."""
    return Standing([], {}, [
        {"opened": n * seconds, "committed": (n + 1) * seconds, "step": n + 1, "tokens": tokens}
        for n in range(rounds)])


def test_a_hive_that_costs_more_than_it_brings_says_so_once():
    worth, link = Worth(overlap=False), make_link()  # 1,000 characters a second alone
    assert worth.judge(after_rounds(0.5), [link]) == ""
    said = worth.judge(after_rounds(2.0), [link])
    assert said.startswith("The hive makes 500 characters a second; ada alone would make 1,000:")
    assert "--sync streaming" in said
    assert "--sync" not in Worth(overlap=True).judge(after_rounds(2.0), [link])
    assert worth.judge(after_rounds(2.0), [link]) == ""
    assert worth.judge(after_rounds(0.99), [link]) == ""  # about the same: nothing new
    assert worth.judge(after_rounds(2.0), [link]) == ""
    assert worth.judge(after_rounds(0.5), [link]) == ""
    assert worth.judge(after_rounds(2.0), [link])  # it paid in between


def test_before_enough_rounds_nothing_is_said():
    worth = Worth(overlap=False)
    assert worth.judge(after_rounds(2.0, rounds=RECENT - 1), [make_link()]) == ""
    link = make_link()
    link.laps.popleft()
    assert worth.judge(after_rounds(2.0), [link]) == "" == worth.judge(after_rounds(2.0), [])
