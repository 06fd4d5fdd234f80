"""Who contributed what, and how fast the hive is, whenever one begins to count."""
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gltch_2_7m import GLTCH, PRESETS, Config
from hive.journal import Journal, sha256
from hive.session.record import Contribution, Record
from hive.session.standing import RECENT, Standing, flops_per_character

PEERS = {"p1": "Ada", "p2": "Bob", "p3": "Cyd"}
BEGAN = 1_790_000_000.0
WEIGHTS = bytes(32)


def round_of(number, opened, seconds, step, *contributions):
    """A record; what a contribution is: (peer, tokens, verdict) or those and a reason."""
    return Record(number, f"{number - 1:064x}", f"{number:064x}", "q4", b"update", step, 2.5,
                  opened, opened + seconds, tuple(
                      Contribution(peer, PEERS[peer], 4, tokens, 2.5, 1.0, 100 + tokens, *verdict)
                      for peer, tokens, *verdict in contributions))


CONTRIBUTIONS = st.lists(
    st.tuples(st.sampled_from(sorted(PEERS)), st.integers(0, 10**6),
              st.sampled_from(["counted", "late", "rejected"]), st.sampled_from(["", "a", "b"])),
    max_size=5, unique_by=lambda one: one[0])
ROUNDS = st.lists(
    st.tuples(st.integers(0, 240), st.integers(0, 400), st.integers(1, 30), CONTRIBUTIONS),
    max_size=30)


def records_of(rounds):
    """Records from (eighths of a second of waiting, and of training, steps, contributions)."""
    now, step, records = BEGAN, 0, []
    for number, (waited, trained, steps, contributions) in enumerate(rounds, 1):
        step += steps
        records.append(round_of(number, now + waited / 8, trained / 8, step, *contributions))
        now = records[-1].committed
    return records


def sums(records):
    """What the journal says of these rounds, computed anew."""
    mine = {peer: [c for record in records for c in record.contributions if c.peer == peer]
            for peer in PEERS}
    contributors = [{
        "peer": peer, "name": name, "device": "a test", "kind": "cpu", "first_seen": BEGAN,
        "last_seen": BEGAN, "tokens": sum(c.tokens for c in mine[peer] if c.verdict == "counted"),
        **{field: sum(c.verdict == verdict for c in mine[peer])
           for field, verdict in (("rounds", "counted"), ("late", "late"),
                                  ("rejected", "rejected"))},
        "bytes": sum(c.bytes for c in mine[peer])} for peer, name in PEERS.items()]
    reasons = {peer: [c.reason for c in all_ if c.verdict != "counted"][-1]
               for peer, all_ in mine.items() if any(c.verdict != "counted" for c in all_)}
    history = [{"number": record.number, "step": record.step, "opened": record.opened,
                "committed": record.committed,
                "tokens": sum(c.tokens for c in record.contributions if c.verdict == "counted")}
               for record in records]
    return contributors, reasons, history


def told(standing):
    """All that a standing tells, but for when a peer was last seen."""
    ranking = {about["peer"]: {**about, "last_seen": None} for about in standing.ranking()}
    return {"ranking": ranking, "tokens": standing.tokens, "started": standing.started,
            "speed": standing.speed, "remaining": standing.remaining(100),
            "recent": list(standing.recent)}


def hear(standing, record):
    """What did not count is said at once, what did when the round is committed."""
    for c in record.contributions:
        if c.verdict != "counted":
            standing.refuse(c.peer, c.verdict, c.reason, record.opened)
    standing.count(record)


@given(rounds=ROUNDS, restart=st.integers(0, 30))
def test_counting_goes_on_where_a_restart_began(rounds, restart):
    records = records_of(rounds)
    standing = Standing(*sums(records[:restart]))
    for record in records[restart:]:
        hear(standing, record)
    assert told(standing) == told(Standing(*sums(records)))


def journal_of(folder, records):
    """A journal that holds these rounds, with every peer introduced."""
    journal = Journal(folder)
    journal.start({"name": "a test"}, WEIGHTS)
    for peer, name in PEERS.items():
        journal.remember_peer(peer, name, f"hash of {peer}", "a test", "cpu", BEGAN)
    for record in records:
        journal.commit(replace(record, base=sha256(WEIGHTS)) if record.number == 1 else record)
    return journal


def from_journal(journal):
    return Standing(journal.contributors(), journal.reasons(), journal.history())


def counted_live(records):
    standing = Standing([], {}, [])
    for peer, name in PEERS.items():
        standing.join(peer, name, "a test", "cpu", BEGAN)
    for record in records:
        hear(standing, record)
    return standing


@given(ROUNDS)
@settings(max_examples=12, deadline=None)
def test_counting_one_by_one_equals_starting_from_the_journal(rounds):
    records = records_of(rounds)
    with tempfile.TemporaryDirectory() as folder:
        journal = journal_of(Path(folder), records)
        try:
            assert told(from_journal(journal)) == told(counted_live(records))
        finally:
            journal.close()


def test_of_two_reasons_in_one_round_the_later_one_is_remembered(place):
    """A peer may come late, try again, and be rejected, all before the round is over; and the
    other way around."""
    records = [
        round_of(1, BEGAN, 5, 4, ("p1", 5, "late", "too slow"), ("p1", 5, "rejected", "too large"),
                 ("p2", 5, "rejected", "too large"), ("p2", 5, "late", "too slow"))]
    journal = journal_of(place, records)
    live = {about["peer"]: about["reason"] for about in counted_live(records).ranking()}
    restarted = {about["peer"]: about["reason"] for about in from_journal(journal).ranking()}
    journal.close()
    assert live == {"p1": "too large", "p2": "too slow"}
    assert restarted == live


def test_a_restart_does_not_forget_when_a_peer_was_last_seen(place):
    records = [round_of(number, BEGAN + 10 * number, 10, 4 * number, ("p1", 5, "counted"))
               for number in range(1, 4)]
    journal = journal_of(place, records)
    live = counted_live(records).contributors["p1"]["last_seen"]
    restarted = from_journal(journal).contributors["p1"]["last_seen"]
    journal.close()
    assert live == BEGAN + 40
    assert restarted == live


@settings(deadline=None)
@given(ROUNDS)
def test_shares_sum_to_one(rounds):
    standing = Standing(*sums(records_of(rounds)))
    shares = [standing.share(peer) for peer in PEERS]
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) == (pytest.approx(1, abs=1e-12) if standing.tokens else 0)


def test_only_what_counted_has_a_share():
    standing = Standing(*sums([round_of(
        1, BEGAN, 5, 4, ("p1", 300, "counted"), ("p2", 100, "counted"), ("p3", 600, "late"))]))
    assert [standing.share(peer) for peer in PEERS] == [0.75, 0.25, 0.0]
    assert [about["share"] for about in standing.ranking()] == [0.75, 0.25, 0.0]


# ---- Speed


def test_nobody_has_a_speed_before_the_first_round():
    standing = Standing([], {}, [])
    assert standing.speed == 0.0 and standing.started is None
    assert standing.remaining(100) is None and standing.ranking() == []


def test_speed_is_what_was_counted_over_all_the_time_that_went_by():
    """Ten seconds of training, two of transfers, ten of training: 22 seconds."""
    standing = Standing(*sums([
        round_of(1, BEGAN, 10, 8, ("p1", 1000, "counted"), ("p2", 700, "late")),
        round_of(2, BEGAN + 12, 10, 20, ("p1", 800, "counted"), ("p2", 400, "counted"))]))
    assert standing.speed == 2200 / 22
    assert standing.remaining(None) is None
    assert standing.remaining(50) == 50 * 22 / 20
    assert standing.remaining(0) == standing.remaining(-3) == 0
    assert standing.started == BEGAN


def test_speed_looks_at_the_latest_rounds_only():
    slow = [round_of(n, BEGAN + 100 * n, 100, n, ("p1", 100, "counted")) for n in range(1, 11)]
    quick = [round_of(10 + n, BEGAN + 1099 + n, 1, 10 + 2 * n, ("p1", 500, "counted"))
             for n in range(1, RECENT + 1)]
    live = Standing(*sums(slow))
    assert live.speed == 1.0
    for record in quick:
        live.count(record)
    for standing in (live, Standing(*sums(slow + quick))):
        assert standing.speed == 500.0 and standing.remaining(30) == 15.0
        assert standing.tokens == 1000 + 500 * RECENT


def test_a_pause_in_which_nobody_is_there_slows_nobody_down():
    with_pause, without = (Standing(*sums([
        round_of(1, BEGAN, 8, 4, ("p1", 800, "counted")),
        round_of(2, BEGAN + 8 + pause, 8, 8, ("p1", 800, "counted"))])) for pause in (86400, 0))
    assert with_pause.speed == without.speed == 100.0
    assert with_pause.remaining(10) == without.remaining(10) == 20.0
    assert with_pause.tokens == 1600


@pytest.mark.parametrize("away", [3600, -3600], ids=["later", "with its clock set"])
def test_a_round_that_began_before_a_restart_says_nothing_of_the_speed(away):
    before = round_of(1, BEGAN, 8, 4, ("p1", 800, "counted"))
    delivered = round_of(2, BEGAN + 8 + away, 0, 8, ("p1", 800, "counted"))
    standing = Standing(*sums([before, delivered]))
    assert standing.speed == 100.0 and standing.remaining(10) == 20.0
    assert Standing(*sums([delivered])).speed == 0.0
    assert standing.tokens == 1600


# ---- Ranking


def test_those_with_most_characters_come_first_and_the_list_has_an_end():
    history = [{"step": 1, "opened": BEGAN, "committed": BEGAN + 1,
                "tokens": sum(range(1500))}]
    rows = [{"peer": f"p{n}", "name": f"n{n}", "device": "CPU", "kind": "cpu",
             "first_seen": BEGAN, "last_seen": BEGAN, "tokens": n, "rounds": 1, "late": 2,
             "rejected": 3, "bytes": 4} for n in range(1500)]
    standing = Standing(rows, {"p7": "too late"}, history)
    assert [about["tokens"] for about in standing.ranking()] == list(range(1499, 499, -1))
    assert [about["peer"] for about in standing.ranking(2)] == ["p1499", "p1498"]
    assert standing.ranking(1)[0] == {
        "peer": "p1499", "name": "n1499", "device": "CPU", "kind": "cpu", "first_seen": BEGAN,
        "last_seen": BEGAN, "tokens": 1499, "counted": 1, "late": 2, "rejected": 3, "bytes": 4,
        "reason": "", "score": 1.0, "aside": "", "banned": False,
        "share": 1499 / sum(range(1500))}
    assert {about["peer"]: about["reason"] for about in standing.ranking(1500)}["p7"] == "too late"


def test_a_peer_that_returns_keeps_what_it_did_under_its_new_name():
    standing = Standing(*sums([round_of(1, BEGAN, 5, 4, ("p1", 300, "counted"))]))
    standing.join("p1", "Ada L.", "Apple M2", "mps", BEGAN + 60)
    standing.join("p9", "Eve", "Firefox", "tab", BEGAN + 61)
    ada, eve = (standing.contributors[peer] for peer in ("p1", "p9"))
    assert (ada["name"], ada["device"], ada["tokens"]) == ("Ada L.", "Apple M2", 300)
    assert (ada["kind"], eve["kind"]) == ("mps", "tab")
    assert (ada["first_seen"], ada["last_seen"]) == (BEGAN, BEGAN + 60)
    assert (eve["tokens"], eve["first_seen"], standing.share("p9")) == (0, BEGAN + 61, 0.0)


def test_why_an_update_did_not_count_is_remembered_until_the_next_that_does_not():
    standing = Standing(*sums([round_of(1, BEGAN, 5, 4, ("p1", 300, "late", "first"))]))
    standing.count(round_of(2, BEGAN + 5, 5, 8, ("p1", 300, "counted", "1 round late")))
    assert standing.contributors["p1"]["reason"] == "first"
    standing.refuse("p1", "rejected", "second", BEGAN + 15)
    assert standing.contributors["p1"]["reason"] == "second"


# ---- Operations


@pytest.mark.parametrize("size", ["1m", "2.7m", "10m"])
def test_operations_per_character_are_six_per_weight_that_multiplies_and_the_attention(size):
    """Counted on the network itself: a matrix of n weights multiplies and adds n times forward and
    twice that backward; scores and values cost 2 * context * width each, in every layer."""
    config = PRESETS[size][0]
    with torch.device("meta"):
        model = GLTCH(config)
    embeddings = {id(module.weight) for module in model.modules()
                  if isinstance(module, torch.nn.Embedding)}
    multiplying = sum(parameter.numel() for parameter in model.parameters()
                      if id(parameter) not in embeddings)
    attention = 3 * config.n_layer * (2 * 2 * config.block_size * config.n_embd)
    assert flops_per_character(config) == 6 * multiplying + attention


def test_the_operations_of_gltch_2_7m_by_hand():
    weights = 2_708_736 - 192 * 65 - 192 * 128  # but the two embeddings
    assert flops_per_character(Config()) == 6 * weights + 12 * 6 * 192 * 128 == 17_799_552
