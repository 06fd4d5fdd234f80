"""Scores: harm costs them slowly, honest peers keep them, good work brings them back."""
import math
from types import SimpleNamespace

import pytest

from hive.learning.probe import Change
from hive.learning.rules import Seen
from hive.session.trust import (
    ASIDE,
    BACK,
    FEWEST,
    JUMP,
    MOST_TRIED,
    PATIENCE,
    PROBE_SHARE,
    REST,
    Outcome,
    Tried,
    Trust,
)

PEERS = ("ann", "bob", "cy", "dee")


def tried(peer, gain=0.01, doubt=0.001, length=1.0, own=math.nan, late=False):
    return Tried(peer, Change(gain, doubt), length, own, late)


def learn(trust, *changed, version=1, before=3.0, after=2.9, now=0.0):
    """A round in which all do what is usual, but for some."""
    different = {one.peer: one for one in changed}
    all_of = [different.get(peer) or tried(peer) for peer in PEERS]
    all_of += [one for one in changed if one.peer not in PEERS]
    return trust.learn(Outcome(version, before, after, all_of, 0.1), version, now)


def kinds(trust, peer):
    return [one.kind for one in trust.judgements if one.peer == peer]


def brought(by, odd=False, content=b"update"):
    return SimpleNamespace(by=by, content=content, seen=Seen(odd=odd))


def rounds_until_aside(trust, harm):
    for number in range(1, 30):
        learn(trust, harm)
        if trust.of(harm.peer).aside:
            return number
    return None


def test_who_raises_the_loss_is_set_aside_after_a_few_updates_and_not_after_one():
    trust = Trust()
    assert rounds_until_aside(trust, tried("ann", gain=-0.01)) == 3
    assert "raise the loss" in trust.of("ann").aside and trust.weight("ann") == 0.0
    assert all(trust.weight(peer) == 1.0 for peer in PEERS[1:])
    assert kinds(trust, "ann").count("aside") == 1


def test_who_brings_nothing_is_set_aside_too():
    assert rounds_until_aside(Trust(), tried("ann", gain=0.0)) == 3


def test_a_part_of_the_usual_effect_counts_for_a_part():
    trust = Trust()
    assert rounds_until_aside(trust, tried("ann", gain=0.0018)) is None
    assert ASIDE < trust.weight("ann") < 1.0


@pytest.mark.parametrize("peer", [
    tried("ann", gain=0.001, length=0.1), tried("ann", gain=0.03, length=3.0),
    tried("ann", gain=0.007), tried("ann", gain=-0.001, doubt=0.01)],
    ids=["slow", "fast", "unlucky", "hard to tell"])
def test_slow_fast_and_unlucky_peers_keep_their_score(peer):
    trust = Trust()
    assert rounds_until_aside(trust, peer) is None
    assert trust.weight("ann") == 1.0


@pytest.mark.parametrize("gain", [0.0, -0.004])
def test_what_comes_late_may_bring_little(gain):
    """A straggler's updates start from weights that the others have left."""
    trust = Trust()
    assert rounds_until_aside(trust, tried("ann", gain=gain, late=True)) is None
    assert trust.weight("ann") == 1.0


def test_but_it_may_not_harm_as_much_as_others_help():
    assert rounds_until_aside(Trust(), tried("ann", gain=-0.01, late=True)) == 3


def test_nothing_is_told_where_nobody_surely_helps():
    """Late in training, or when the hive goes wrong as a whole."""
    trust = Trust()
    for _ in range(10):
        learn(trust, *(tried(peer, gain=0.0001, doubt=0.001) for peer in PEERS[1:]),
              tried("ann", gain=-0.01))
    assert trust.weight("ann") == 1.0


def test_two_peers_cannot_tell_which_of_them_is_wrong():
    trust = Trust()
    for _ in range(10):
        trust.learn(Outcome(1, 3.0, 2.9, [tried("ann"), tried("bob", -0.01)], 0.1), 1, 0.0)
    assert trust.weight("bob") == 1.0 and FEWEST > 2


def test_good_work_brings_back_who_was_set_aside():
    trust = Trust()
    rounds_until_aside(trust, tried("ann", gain=-0.01))
    learn(trust), learn(trust)
    assert trust.of("ann").aside
    learn(trust)
    assert not trust.of("ann").aside and trust.weight("ann") > BACK
    assert kinds(trust, "ann")[-1] == "back"


def test_one_bad_update_now_and_then_is_forgiven():
    trust = Trust()
    for number in range(60):
        learn(trust, *[tried("ann", gain=-0.01)][: number % 5 == 0])
    assert not trust.of("ann").aside


def test_who_trains_on_other_text_than_it_was_given_is_found_in_the_end():
    trust = Trust()
    honest = [tried(peer, own=4.0) for peer in PEERS[1:]]
    for number in range(30):
        learn(trust, *honest, tried("ann", own=0.2 * (-1) ** number))
        if trust.of("ann").aside:
            break
    assert "does not train on the text" in trust.of("ann").aside and number >= PATIENCE
    assert all(trust.weight(peer) == 1.0 for peer in PEERS[1:])


def test_where_own_windows_tell_nothing_nobody_is_punished_for_them():
    trust = Trust()
    for number in range(30):
        learn(trust, *(tried(peer, own=0.5 * (-1) ** number) for peer in PEERS))
    assert all(trust.weight(peer) == 1.0 for peer in PEERS)


def test_what_is_seen_beside_the_others_counts_as_well():
    trust = Trust()
    flipped = Seen(-0.5, 0.5, 1.0, 1.0, 0.1, 0, "points the other way than those of the others",
                   True)
    for version in range(1, 4):
        trust.see(version, "ann", flipped)
        trust.see(version, "bob", Seen(0.5, 0.5, 1.0, 1.0, 0.3, 0))
    assert "the other way" in trust.of("ann").aside and trust.weight("bob") == 1.0


def test_every_score_is_written_down_with_what_led_to_it():
    trust = Trust()
    learn(trust, tried("ann", gain=-0.01), version=7)
    ann = next(one for one in trust.judgements if one.peer == "ann")
    assert (ann.kind, ann.version, ann.score) == ("probed", 7, 0.7)
    assert ann.numbers["gain"] == -0.01 and "raise the loss" in ann.reason
    assert len(trust.take()) == len(PEERS) and trust.take() == ()


def test_a_restart_knows_whom_it_believed():
    trust = Trust([("ann", 0.2, "aside", "why"), ("bob", 0.9, "back", "good again"),
                   ("cy", 1.0, "banned", "its owner"), ("dee", 1.0, "pardoned", "its owner")])
    assert [trust.weight(peer) for peer in PEERS] == [0.0, 0.9, 0.0, 1.0]
    assert trust.of("cy").banned and not trust.of("ann").banned


def test_only_its_owner_lets_a_banned_peer_in_again():
    trust = Trust()
    trust.ban("ann", 3)
    for _ in range(20):
        learn(trust)
    assert trust.of("ann").aside and trust.of("ann").banned
    trust.pardon("ann", 5)
    assert trust.weight("ann") == 1.0 and not trust.of("ann").banned
    assert kinds(trust, "ann")[0] == "banned" and kinds(trust, "ann")[-1] == "pardoned"


# --- Rounds that are undone -----------------------------------------------------------------------

def test_a_loss_that_jumps_leads_back_to_the_best_of_the_latest_versions():
    trust = Trust()
    assert learn(trust, version=1, before=3.0, after=2.9) is None
    assert learn(trust, version=2, before=2.9, after=2.8) is None
    assert learn(trust, version=3, before=2.8, after=2.8 * (1 + JUMP) - 0.01) is None
    assert learn(trust, version=4, before=3.0, after=2.8 * (1 + JUMP) + 0.01) == 2


def test_a_loss_that_is_no_number_is_a_jump():
    trust = Trust()
    assert learn(trust, version=1, before=3.0, after=math.inf) == 0
    assert learn(Trust(), version=1, before=3.0, after=math.nan) == 0


def test_after_a_return_the_hive_goes_on_for_a_while_whatever_happens():
    """So that a peer that makes it jump cannot keep it in one place."""
    trust = Trust()
    learn(trust, version=1, before=9.5, after=2.9)
    assert learn(trust, version=2, before=2.9, after=9.0) == 1
    trust.went_back(3, 1, "it jumped")
    assert trust.judgements[-1].kind == "undone"
    for version in range(4, 3 + REST):
        assert learn(trust, version=version, before=2.9, after=9.0) is None
    assert learn(trust, version=3 + REST, before=2.9, after=9.0) is not None


def test_what_was_tried_before_a_return_is_not_gone_back_to():
    """Its owner went back behind it."""
    trust = Trust()
    learn(trust, version=1, before=4.0, after=3.9)
    trust.went_back(9, 1, "its owner wants that")
    assert learn(trust, version=8, before=2.1, after=2.0) is None  # the answer came late
    assert learn(trust, version=10 + REST, before=3.9, after=3.8) is None
    assert trust.losses == {9 + REST: 3.9, 10 + REST: 3.8}


def test_but_not_with_weights_worse_than_those_it_began_with():
    """Honest peers' losses would be so high that their updates were rejected."""
    trust = Trust()
    learn(trust, version=1, before=4.0, after=2.9)
    trust.went_back(3, 1, "it jumped")
    assert learn(trust, version=4, before=2.9, after=3.9) is None
    assert learn(trust, version=5, before=3.9, after=4.1) == 3


# --- Who is tried ---------------------------------------------------------------------------------

def test_what_looks_odd_is_tried_first_and_always():
    trust = Trust()
    updates = [brought(f"peer-{number}", odd=number >= 20) for number in range(50)]
    picked = trust.pick(updates, now=0.0)
    trust.looked_at = trust.free_at = 0.0
    assert {one.by for one in updates[20:]} <= {one.by for one in picked}
    assert len(trust.pick([brought(str(n), odd=True) for n in range(500)], 1.0)) == MOST_TRIED


def play_rounds(trust, peers, odd=(), rounds=60):
    """One each two seconds, in which trying an update takes half a second. Returns how often each
    peer was tried; those in `odd` raise the loss."""
    counts = dict.fromkeys(peers, 0)
    for number in range(1, rounds + 1):
        now = 2.0 * number
        if trust.may_try(now):
            picked = trust.pick([brought(peer, odd=peer in odd) for peer in peers], now)
            found = [tried(one.by, gain=-0.01 if one.by in odd else 0.01) for one in picked]
            trust.learn(Outcome(number, 3.0, 2.9, found, 0.5 * (1 + len(found))), number, now + 2)
            for one in picked:
                counts[one.by] += 1
    return counts


def test_who_is_set_aside_and_looks_odd_leaves_time_to_tell_what_is_usual():
    """It was tried in the place of one of the three that tell, and nobody was judged any more."""
    trust = Trust()
    rounds_until_aside(trust, tried("liar", gain=-0.01))
    trust.free_at, trust.cost = 0.0, 0.5
    assert int(PROBE_SHARE * 2.0 / trust.cost) - 1 < FEWEST  # there is time for no more than that
    trust.take()
    honest = [f"h{number}" for number in range(4)]
    counts = play_rounds(trust, ["liar", *honest], odd=["liar"])
    probed = [one for one in trust.take() if one.kind == "probed"]
    assert all(one.numbers["usual"] > 0 for one in probed)
    assert min(counts.values()) > 0 and {one.peer for one in probed} == set(counts)
    assert trust.of("liar").aside and not any(trust.of(peer).aside for peer in honest)


def test_who_is_set_aside_and_works_well_again_is_tried_however_little_time_there_is():
    trust = Trust()
    for liar in ("liar", "reformed"):
        rounds_until_aside(trust, tried(liar, gain=-0.01))
    trust.free_at, trust.cost = 0.0, 0.5
    play_rounds(trust, ["liar", "reformed", *(f"h{number}" for number in range(6))], odd=["liar"])
    assert trust.of("liar").aside and not trust.of("reformed").aside


def test_newcomers_that_all_look_odd_leave_those_who_tell_what_is_usual_their_places():
    trust, honest = Trust(), ["ann", "bob", "cy"]
    odd = [brought(f"odd-{number}", odd=True) for number in range(500)]
    picked = [one.by for one in trust.pick([*odd, *map(brought, honest)], 1.0)]
    assert len(picked) == MOST_TRIED and set(honest) <= set(picked)


def test_trying_takes_a_share_of_the_time_and_goes_round():
    """A round a second, of forty peers, where an update takes a tenth of a second to try."""
    trust, spent, counts = Trust(), 0.0, dict.fromkeys(map(str, range(40)), 0)
    for second in range(1, 1001):
        if not trust.may_try(float(second)):
            continue
        picked = trust.pick([brought(peer) for peer in counts], float(second))
        seconds = 0.1 * (1 + len(picked))
        spent += seconds
        outcome = Outcome(second, 3.0, 2.9, [tried(one.by) for one in picked], seconds)
        trust.learn(outcome, second, second + seconds)
        for one in picked:
            counts[one.by] += 1
    assert 0.1 * 1000 < spent < (PROBE_SHARE + 0.05) * 1000
    assert min(counts.values()) >= max(counts.values()) - 1 > 0


def test_only_one_attempt_is_made_at_a_time():
    trust = Trust()
    assert trust.may_try(0.0)
    trust.pick([], 0.0)
    assert not trust.may_try(1e6)
    learn(trust, now=5.0)
    assert trust.may_try(1e6)


def test_an_update_that_was_not_kept_cannot_be_tried():
    assert Trust().pick([brought("ann", odd=True, content=b"")], 0.0) == []
