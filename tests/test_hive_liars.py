"""What peers say is bounded by what they were asked and by the time they had: found by an attacker
who had the key."""
import asyncio
import contextlib
import math
import time

import pytest
import torch
from hive_processes import TINY, Place, until

from gltch_2_7m import GltchError, Unwritable
from hive import coordinator as module
from hive import protocol, server
from hive.codec import CODECS, encode, from_bytes
from hive.coordinator import (
    LOSS_FACTOR,
    MOST_ADDRESSES,
    MOST_FETCHES,
    MOST_REJECTED,
    MOST_WAITING,
    MOST_WINDOWS,
    NEW_PEERS,
    NEW_PER_ADDRESS,
    REMEMBERED_UPDATES,
    Coordinator,
    Later,
    apply_bytes,
)
from hive.journal import Journal
from hive.outer import HEAVIEST
from hive.protocol import ProtocolError

CHARACTERS = 2 * 128  # of a step: two windows


@pytest.fixture
def here(tmp_path, text_file):
    place = Place(tmp_path, text_file)
    yield place
    place.clean()


@pytest.fixture(scope="module")
def shared(tmp_path_factory, text_file):
    place = Place(tmp_path_factory.mktemp("liars"), text_file)
    yield place
    place.clean()


@pytest.fixture(scope="module")
def hive(shared):
    return shared.coordinator("--rounds", 1000)


def weights_of(hive, version):
    with hive.journal() as journal:
        return from_bytes(journal.weights_at(version, apply_bytes))


def make_rounds(client, hive, count):
    """Honest ones, each committed. Afterwards the client holds the newest weights."""
    for _ in range(count):
        client.start()
        assert client.deliver(client.update())["verdict"] == "accepted"
        client.hold(client.hear("commit"))


# --- Real sockets ---------------------------------------------------------------------------------

def test_a_giant_update_after_a_restart_moves_the_weights_no_further_than_one_before_it(here):
    hive = here.coordinator()
    honest = here.client(hive, "honest").enter()
    make_rounds(honest, hive, 5)
    hive.kill()
    hive = here.coordinator()
    liar = here.client(hive, "liar").enter()
    before = liar.version
    liar.start()
    assert liar.deliver(liar.update(size=1.0))["verdict"] == "accepted"
    liar.hear("commit")
    moved = float((weights_of(hive, before + 1) - weights_of(hive, before)).norm())
    usual = 1e-4 * math.sqrt(liar.parameters)
    assert 0 < moved < 10 * usual


def test_an_inflated_claim_takes_no_round_over(here):
    hive = here.coordinator("--min-peers", 4)
    liar, *honest = [here.client(hive, name).enter() for name in ("liar", "ann", "bob", "cy")]
    for client in (liar, *honest):
        client.ready()
    for client in (liar, *honest):
        client.hear("train")
    for client in honest:
        assert client.deliver(client.update(), tokens=CHARACTERS)["verdict"] == "accepted"
    assert liar.deliver(liar.update(), tokens=2**53, seconds=0.0)["verdict"] == "accepted"
    hive.reaches(1)
    with hive.journal() as journal:
        known = {one["name"]: one for one in journal.round(1)["contributions"]}
        _, _, step = journal.head()
    assert step == 1
    assert known["liar"]["tokens"] == known["ann"]["tokens"] == CHARACTERS
    assert known["liar"]["weight"] <= HEAVIEST * known["ann"]["weight"]


def test_more_steps_than_the_round_asked_for_do_not_count(hive, shared):
    liar = shared.client(hive, "hasty").enter()
    liar.start()
    said = liar.offer(liar.update(), steps=50)
    assert said["verdict"] == "rejected" and "more than anybody was asked" in said["reason"]


def test_a_loss_far_above_guessing_is_no_loss(hive, shared):
    liar = shared.client(hive, "loud").enter()
    liar.start()
    worst = LOSS_FACTOR * math.log(hive.state()["vocabulary"])
    said = liar.offer(liar.update(), loss=1.01 * worst)
    assert said["verdict"] == "rejected" and "far above guessing" in said["reason"]
    liar.start()
    assert liar.deliver(liar.update(), loss=0.9 * worst)["verdict"] == "accepted"


def test_a_negative_loss_is_no_loss_at_all(hive, shared):
    liar = shared.client(hive, "optimist").enter()
    liar.start()
    with pytest.raises(ProtocolError):
        liar.offer(liar.update(), loss=-1e6)  # not even the client packs it
    liar.socket.send('{"type":"offer","version":0,"weights":"' + "0" * 64 + '","codec":"q4",'
                     '"update":"' + "0" * 64 + '","bytes":1,"steps":1,"tokens":1,"loss":-1000000.0,'
                     '"seconds":1}')
    assert "loss" in liar.hear("refused")["reason"]


def test_an_update_of_another_size_is_not_even_sent(hive, shared):
    liar = shared.client(hive, "stout").enter()
    liar.start()
    said = liar.offer(encode("fp32", torch.zeros(liar.parameters)))
    assert said["verdict"] == "rejected"
    assert f"{CODECS['q4'].size(liar.parameters):,} bytes" in said["reason"]


def test_whose_updates_are_all_rejected_has_to_leave_and_stays_away(hive, shared):
    """3,056 such updates came in 15 seconds, and nothing happened."""
    liar = shared.client(hive, "broken").enter()
    broken = encode("q4", torch.full((liar.parameters,), math.nan))
    for _ in range(MOST_REJECTED - 1):
        liar.ready()
        assert liar.deliver(broken)["verdict"] == "rejected"
    liar.ready()
    assert f"{MOST_REJECTED} updates in a row" in liar.deliver(broken)["reason"]
    until(lambda: not hive.member("broken"), "it never left")
    again = shared.client(hive, "broken", token=liar.token)
    assert "may come back in" in again.hear("refused")["reason"]
    assert hive.said().count("rejected  broken") == MOST_REJECTED


def test_one_good_update_makes_up_for_the_rejected_ones(hive, shared):
    client = shared.client(hive, "unlucky").enter()
    broken = encode("q4", torch.full((client.parameters,), math.nan))
    for _ in range(2):
        for _ in range(MOST_REJECTED - 1):
            client.ready()
            assert client.deliver(broken)["verdict"] == "rejected"
        make_rounds(client, hive, 1)


def test_the_same_text_is_not_sent_again_and_again(hive, shared):
    """Four peers fetched 9.2 GB of it in 12 seconds."""
    liar = shared.client(hive, "reader")
    text = liar.hear("welcome")["job"]["text"]
    liar.say("ready", version=0, weights=None, batch_size=2)
    for _ in range(MOST_FETCHES):
        assert protocol.name_of(liar.fetch(text)) == text
    liar.say("fetch", blob=text, offset=0)
    assert "again and again" in liar.hear("refused")["reason"]


def test_nor_is_an_update(hive, shared):
    liar = shared.client(hive, "reader again").enter()
    make_rounds(liar, hive, 1)
    with hive.journal() as journal:
        update = journal.round(liar.version)["update_sha256"]
    for _ in range(MOST_FETCHES):
        assert protocol.name_of(liar.fetch(update)) == update
    liar.say("fetch", blob=update, offset=0)
    assert "again and again" in liar.hear("refused")["reason"]


def test_weights_that_are_not_read_do_not_pile_up(hive, shared):
    """Who asked for those of each round and read nothing kept them all in memory."""
    deaf = shared.client(hive, "deaf").enter()
    honest = shared.client(hive, "honest").enter()
    for _ in range(60):
        make_rounds(honest, hive, 1)
        deaf.say("ready", version=0, weights=None, batch_size=2)
        deaf.say("fetch", blob=honest.weights, offset=0)
        if not hive.member("deaf"):
            break
    else:
        pytest.fail("240 MB are kept for it", pytrace=False)
    until(lambda: "asks for more than it takes" in hive.said(), "nobody says why")


def test_who_missed_too_many_rounds_gets_the_weights_as_a_whole(hive, shared):
    absent = shared.client(hive, "absent").enter()
    absent.say("goodbye")
    until(lambda: not hive.member("absent"), "it never left")
    make_rounds(shared.client(hive, "busy").enter(), hive, REMEMBERED_UPDATES + 1)
    again = shared.client(hive, "absent", token=absent.token)
    again.hear("welcome")
    again.say("ready", version=absent.version, weights=absent.weights, batch_size=2)
    said = again.hear("version", "commit")
    assert said["type"] == "version" and said["version"] > absent.version + REMEMBERED_UPDATES
    assert protocol.name_of(again.fetch(said["weights"])) == said["weights"]


def test_invisible_names_are_replaced(hive, shared):
    for name in ("\u3164", "\u2800\u2800", "\u115f\u1160", "\uffa0", "\u0301", "\u200b"):
        peer = shared.client(hive, name)
        assert peer.hear("welcome")["name"].startswith("peer")


def test_a_text_of_too_many_different_characters_is_refused_at_the_start(
        tmp_path, monkeypatch, capsys):
    """Nobody could join, and each attempt left a ghost among the peers."""
    monkeypatch.chdir(tmp_path)
    text = "".join(map(chr, range(0x10000, 0x10000 + 110_000)))
    (tmp_path / "wide.txt").write_text(text, encoding="utf-8")
    status = server.main(["--data", "wide.txt", "--size", "1m", "--port", "0",
                          "--dashboard-port", "0"])
    assert status == 2
    assert "110,000 different characters" in capsys.readouterr().err


# --- In this process, where clocks and disks do what a test says ----------------------------------

@pytest.fixture
def here_now(tmp_path, text_file, monkeypatch):
    """A coordinator without sockets, and the clock that it sees."""
    args = server.build_parser().parse_args([*TINY, "--data", str(text_file), "--minutes", "10"])
    journal = Journal(tmp_path)
    job, corpus = server.start_run(args, journal, tmp_path)
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with contextlib.closing(journal):
        yield Coordinator(job, journal, corpus, tmp_path), clock


def connected(coordinator, peer):
    """A peer's connection that does nothing."""
    class Quiet:
        latency = 0.0

        def __getattr__(self, name):
            return lambda *args, **values: None

    link = coordinator.links[peer] = module.Link(Quiet(), peer, peer, "cpu", "0" * 64)
    coordinator.rounds.join(peer)
    coordinator.standing.join(peer, peer, "cpu", 0.0)
    return link


def test_a_machine_that_slept_did_not_train(here_now):
    """A minute's sleep counted as training, and so did an hour by which the clock was set."""
    coordinator, clock = here_now
    coordinator.rounds.join("a")
    coordinator.rounds.ready("a", 0, coordinator.rounds.weights)
    coordinator.rounds.tasks(clock[0])
    coordinator.opened = clock[0]
    clock[0] += 1.0
    assert coordinator.length() == 1.0
    clock[0] += 3600.0
    assert coordinator.length() == coordinator.rounds.longest < 70


def test_the_counter_of_windows_never_leaves_the_protocol(here_now):
    coordinator, clock = here_now
    coordinator.windows = MOST_WINDOWS - 1

    link = connected(coordinator, "a")
    coordinator.rounds.ready("a", 0, coordinator.rounds.weights)
    coordinator.hand_out_tasks()
    assert 0 <= coordinator.windows < MOST_WINDOWS
    task = protocol.unpack(link.outbox.get_nowait())
    assert task["window"] == MOST_WINDOWS - 1


def test_too_many_lines_of_one_kind_are_counted_and_not_written(here_now, capsys):
    """24,642 bad offers wrote 1.8 MB of log."""
    coordinator, clock = here_now
    for number in range(10_000):
        coordinator.say("rejected", f"liar: {number}")
    coordinator.say("joined", "ann")
    clock[0] += 10.0
    coordinator.say("rejected", "liar: at last")
    lines = "".join(capsys.readouterr()).splitlines()
    assert len(lines) == module.LINES + 2
    assert "joined" in lines[-2]
    assert f"and {10_000 - module.LINES:,} more" in lines[-1]


def test_one_address_cannot_invent_new_peers_without_end(here_now):
    coordinator, clock = here_now
    for number in range(NEW_PER_ADDRESS):
        coordinator.check_record(f"peer-{number}", "192.0.2.1")
    with pytest.raises(Later, match="Too many new peers"):
        coordinator.check_record("one-more", "192.0.2.1")
    coordinator.check_record("somebody", "192.0.2.2")
    coordinator.standing.join("known", "known", "cpu", 0.0)
    coordinator.check_record("known", "192.0.2.1")
    clock[0] += 2.0
    coordinator.check_record("one-more", "192.0.2.1")


def test_new_peers_come_in_turns_from_wherever_they_come_and_those_who_were_here_at_once(here_now):
    """A thousand of them, each from an address of its own, made the page answer after seconds."""
    coordinator, clock = here_now
    for number in range(NEW_PEERS):
        coordinator.check_record(f"peer-{number}", f"192.0.2.{number}")
    with pytest.raises(Later):
        coordinator.check_record("one-more", "198.51.100.7")
    coordinator.standing.join("known", "known", "cpu", 0.0)
    coordinator.check_record("known", "198.51.100.7")
    clock[0] += 1.0
    coordinator.check_record("one-more", "198.51.100.7")


def test_of_many_addresses_the_latest_are_remembered(here_now):
    coordinator, clock = here_now
    for number in range(MOST_ADDRESSES + 100):
        clock[0] += 1.0
        coordinator.check_record(f"peer-{number}", f"10.0.{number >> 8}.{number & 255}")
    assert len(coordinator.newcomers_of) == MOST_ADDRESSES
    assert "10.0.0.99" not in coordinator.newcomers_of
    assert "10.0.0.100" in coordinator.newcomers_of


def test_the_more_updates_were_rejected_the_longer_until_a_peer_is_heard(here_now, monkeypatch):
    coordinator, _ = here_now
    link, pauses = connected(coordinator, "a"), []

    async def sleep(seconds):
        pauses.append(seconds)

    async def reject(count):
        for _ in range(count):
            await coordinator.judge(link, {"version": 0, "steps": 1, "tokens": 1},
                                    module.Verdict("rejected", "No."))

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    asyncio.run(reject(3))
    assert pauses == [module.COOLING_SECONDS * count for count in (1, 2, 3)]


def test_the_addresses_of_one_household_are_one(here_now):
    """With IPv6 everybody has 2^64 of them."""
    coordinator, _ = here_now
    with pytest.raises(Later):
        for number in range(NEW_PER_ADDRESS + 1):
            coordinator.check_record(f"peer-{number}", f"2001:db8::{number:x}")
    coordinator.check_record("somebody", "2001:db8:1::1")


def test_a_peer_that_stays_does_not_hold_up_the_end(here_now, monkeypatch):
    coordinator, _ = here_now
    monkeypatch.setattr(module.time, "monotonic", time.perf_counter)  # a clock that goes
    monkeypatch.setattr(module, "FAREWELL_SECONDS", 0.1)
    link = connected(coordinator, "a")
    coordinator.finished = "enough"
    asyncio.run(asyncio.wait_for(coordinator.run(), 60))
    assert "a" in coordinator.links
    assert protocol.unpack(link.outbox.get_nowait()) == {"type": "finished", "reason": "enough"}


def test_who_asks_for_more_than_it_reads_has_to_leave(here_now):
    coordinator, _ = here_now
    link, unknown = connected(coordinator, "deaf"), protocol.pack("fetch", blob="0" * 64, offset=0)

    async def never(message):
        await asyncio.Event().wait()

    async def said():
        for _ in range(MOST_WAITING + 100):
            await asyncio.sleep(0)
            yield unknown

    link.socket = type("Deaf", (), {"send": staticmethod(never),
                                    "__aiter__": lambda self: said()})()
    with pytest.raises(ProtocolError, match="asks for more than it takes"):
        asyncio.run(coordinator.converse(link))
    assert link.outbox.qsize() == MOST_WAITING


def test_who_never_says_hello_is_sent_away(here_now, monkeypatch):
    """Over pings that are answered, it would stay for ever."""
    coordinator, _ = here_now
    monkeypatch.setattr(module.time, "monotonic", time.perf_counter)  # a clock that goes
    monkeypatch.setattr(module, "HANDSHAKE_SECONDS", 0.01)

    class Silent:
        address, closed = "192.0.2.1", None

        async def send(self, message):
            pass

        async def recv(self):
            await asyncio.Event().wait()

        async def close(self, code, reason):
            self.closed = code, reason

    silent = Silent()
    asyncio.run(asyncio.wait_for(coordinator.serve(silent), 60))
    assert silent.closed == (1008, "The handshake took too long.")
    assert not coordinator.links


def test_a_snapshot_that_cannot_be_written_is_tried_again_and_ends_nothing(here_now, monkeypatch):
    """"Too many open files" ended the run."""
    coordinator, _ = here_now
    written = []

    def snapshot(number, weights, extra):
        if not written:
            written.append("failed")
            raise Unwritable("snapshots/00000010.bin could not be written: Too many open files.")
        written.append(number)

    monkeypatch.setattr(coordinator.journal, "snapshot", snapshot)
    coordinator.snapshot_due = True
    asyncio.run(coordinator.try_snapshot())
    assert coordinator.snapshot_due
    asyncio.run(coordinator.try_snapshot())
    assert not coordinator.snapshot_due and written == ["failed", 0]


def test_what_cannot_be_written_now_is_written_later_and_the_page_knows(here_now, monkeypatch):
    coordinator, _ = here_now
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    seen = []

    def write():
        seen.append(coordinator.measured())
        if len(seen) < 4:
            raise Unwritable("journal.db could not be used: database or disk is full.")

    asyncio.run(coordinator.write("round", coordinator.updates, write))
    assert [state["phase"] for state in seen] == ["waiting", "paused", "paused", "paused"]
    assert "disk is full" in seen[-1]["paused"] and seen[0]["paused"] == ""
    assert coordinator.measured()["paused"] == ""


def test_a_damaged_journal_still_ends_the_run(here_now):
    coordinator, _ = here_now

    def write():
        raise GltchError("journal.db is damaged.")

    with pytest.raises(GltchError, match="damaged"):
        asyncio.run(coordinator.write("round", coordinator.updates, write))
