"""From many updates to one step: fair, guarded, and the same on every machine to the last bit."""
import math
from dataclasses import replace
from statistics import median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gltch_2_7m import GltchError, TrainConfig, lr_factor
from hive.learning import outer as module
from hive.learning.codec import CODECS, decode, digest, encode, replaced, to_bytes
from hive.learning.fragments import Fragments
from hive.learning.outer import (
    CLIP,
    FIRST_STEP,
    HEAVIEST,
    REMEMBERED,
    Outer,
    Rejected,
    apply_update,
)
from hive.learning.sync import SYNCS, Sync
from hive.session.standing import FASTEST, believed_tokens

quick = settings(deadline=None, max_examples=50)
every_codec = pytest.mark.parametrize("codec", list(CODECS))
COUNT = 5000


def normal(seed, count=COUNT, scale=1.0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * scale


def make(count=COUNT, **sync):
    return Outer(normal(0, count), Sync(**sync))


def add(outer, update, weight=1.0, steps=200):
    """After enough steps that no first update is too long."""
    return outer.add(outer.sync.up, encode(outer.sync.up, update), weight, steps)


def take_step(outer):
    committed = outer.step()
    outer.accept(committed)
    return committed


def sentence(error):
    """What the person reads: one line that ends with a full stop."""
    text = str(error.value)
    assert text.isprintable() and text.endswith(".")
    return text


# --- The weighted mean ----------------------------------------------------------------------------


def test_with_equal_weights_the_step_is_the_mean_of_the_updates():
    outer = make()
    for seed in (1, 2, 3):
        add(outer, normal(seed))
    committed = outer.step()
    expected = normal(0) - (normal(1) + normal(2) + normal(3)) / 3
    assert torch.allclose(committed.weights, expected, atol=1e-6)


def test_an_update_of_more_tokens_counts_for_more():
    outer = make()
    for seed, weight in [(1, 1000), (2, 3000)]:
        add(outer, normal(seed), weight)
    expected = normal(0) - (normal(1) + 3 * normal(2)) / 4
    assert torch.allclose(outer.step().weights, expected, atol=1e-6)


def test_only_the_ratio_of_the_weights_counts():
    few, many = make(), make()
    for outer, unit in [(few, 1.0), (many, 1e6)]:
        add(outer, normal(1), unit)
        add(outer, normal(2), 2 * unit)
    assert torch.allclose(few.step().weights, many.step().weights, atol=1e-6)


def test_one_update_alone_becomes_the_step_whatever_its_weight():
    outer = make()
    add(outer, normal(1), 7.0)
    assert torch.allclose(outer.step().weights, normal(0) - normal(1), atol=1e-6)


@quick
@given(st.permutations(range(6)))
def test_it_does_not_matter_who_arrives_first(order):
    sent = [(normal(seed, 300), 1.0 + seed) for seed in range(6)]
    one, other = make(300), make(300)
    for i in range(6):
        add(one, *sent[i])
        add(other, *sent[order[i]])
    assert torch.allclose(one.step().weights, other.step().weights, atol=1e-5)


def test_the_outer_learning_rate_scales_the_step():
    outer = make(outer_lr=0.7)
    add(outer, normal(1))
    assert torch.allclose(outer.step().weights, normal(0) - 0.7 * normal(1), atol=1e-6)


def test_the_next_round_knows_nothing_of_the_updates_before():
    outer = make()
    add(outer, normal(1), 5.0)
    take_step(outer)
    add(outer, normal(2), 1.0)
    expected = normal(0) - normal(1) - normal(2)
    assert torch.allclose(outer.step().weights, expected, atol=1e-5)


def test_a_round_begun_anew_forgets_what_was_added():
    outer = make()
    add(outer, normal(1))
    outer.begin()
    add(outer, normal(2))
    assert torch.allclose(outer.step().weights, normal(0) - normal(2), atol=1e-6)


def test_there_is_no_step_without_an_update():
    with pytest.raises(AssertionError):
        make().step()


def test_nesterov_momentum_is_that_of_pytorch():
    outer = make(outer_lr=0.7, outer_momentum=0.9)
    parameter = torch.nn.Parameter(normal(0))
    optimizer = torch.optim.SGD([parameter], lr=0.7, momentum=0.9, nesterov=True)
    for round_number in range(6):
        updates = [normal(10 * round_number + i, scale=0.1) for i in (1, 2)]
        for update in updates:
            add(outer, update)
        parameter.grad = (updates[0] + updates[1]) / 2
        optimizer.step()
        take_step(outer)
        assert torch.allclose(outer.weights, parameter.detach(), atol=1e-5)


# --- What is broadcast ----------------------------------------------------------------------------


@every_codec
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_every_peer_comes_to_the_weights_of_the_coordinator_to_the_last_bit(codec, momentum):
    outer, peer = make(up="q4", down=codec, outer_lr=0.7, outer_momentum=momentum), normal(0)
    for round_number in range(1, 6):
        for i in range(3):
            add(outer, normal(10 * round_number + i, scale=0.01), 1.0 + i)
        committed = take_step(outer)
        assert (committed.codec, committed.base) == (codec, digest(peer))
        peer = apply_update(peer, committed.codec, committed.update)
        assert digest(peer) == digest(committed.weights) == committed.result == outer.hash
        assert torch.equal(peer, outer.weights)
    assert digest(peer) != digest(normal(0))


@every_codec
def test_the_broadcast_loses_nothing_over_several_rounds(codec):
    outer, wanted, arrived = make(down=codec, outer_lr=0.5), torch.zeros(COUNT), torch.zeros(COUNT)
    for seed in range(1, 9):
        add(outer, normal(seed))
        wanted += 0.5 * normal(seed)
        arrived += decode(codec, take_step(outer).update, COUNT)
        assert torch.allclose(arrived + outer.residual, wanted, atol=1e-4)


def test_a_step_changes_no_weights_until_it_is_accepted():
    outer = make()
    add(outer, normal(1))
    committed = outer.step()
    assert torch.equal(outer.weights, normal(0)) and outer.hash == digest(normal(0))
    outer.accept(committed)
    assert torch.equal(outer.weights, committed.weights) and outer.hash == committed.result


def test_applying_an_update_leaves_the_old_weights_as_they_were():
    weights = normal(0)
    after = apply_update(weights, "q4", encode("q4", normal(1)))
    assert torch.equal(weights, normal(0)) and not torch.equal(after, weights)


def test_an_update_for_other_weights_is_not_applied():
    with pytest.raises(GltchError):
        apply_update(normal(0), "q4", encode("q4", normal(1, COUNT + 1000)))


# --- What is not let in ---------------------------------------------------------------------------

HALF_NAN = torch.cat([normal(1, COUNT - 1), torch.tensor([math.nan])])
HALF_INF = torch.cat([normal(1, COUNT - 1), torch.tensor([-math.inf])])
BAD = {
    "of another codec": ("q4", encode("q4", normal(1)), "sent as fp32 here, not 'q4'"),
    "of an unknown codec": ("zip", b"", "sent as fp32 here, not 'zip'"),
    "too short": ("fp32", encode("fp32", normal(1))[:-4], "19,996"),
    "too long": ("fp32", encode("fp32", normal(1)) + bytes(4), "20,004"),
    "empty": ("fp32", b"", "not 0"),
    "with a NaN": ("fp32", encode("fp32", HALF_NAN), "not finite"),
    "with an infinity": ("fp32", encode("fp32", HALF_INF), "not finite"),
    "of immeasurable length": ("fp32", encode("fp32", normal(1, scale=1e30)), "not finite"),
}


@pytest.mark.parametrize("bad", BAD)
def test_nothing_of_a_rejected_update_touches_the_weights(bad):
    codec, content, reason = BAD[bad]
    guarded, undisturbed = make(), make()
    for seed in range(1, 6):
        with pytest.raises(Rejected) as error:
            guarded.add(codec, content, 1000.0, 1)
        assert reason in sentence(error)
        for outer in (guarded, undisturbed):
            add(outer, normal(seed))
    assert guarded.step().result == undisturbed.step().result


@quick
@given(st.binary(max_size=100), st.sampled_from([*CODECS, "zip", ""]), st.sampled_from([*CODECS]))
def test_no_bytes_at_all_break_the_weights(content, codec, up):
    outer = make(20, up=up, down="fp32")
    try:
        outer.add(codec, content, 1.0, 1)
    except Rejected:
        add(outer, normal(1, 20))
    assert outer.step().weights.isfinite().all()


def lengths_of(outer, *updates):
    """How far each update moves the total."""
    moved = []
    for update in updates:
        before = outer.total.clone()
        add(outer, update)
        moved.append(float((outer.total - before).norm()))
    return moved


def test_an_update_a_hundred_times_as_long_as_usual_is_shortened():
    outer = make()
    usual = [normal(seed) for seed in range(5)]
    median = sorted(float(update.norm()) for update in usual)[2]
    lengths_of(outer, *usual)
    before = outer.total.clone()
    add(outer, 100 * normal(7))
    moved = outer.total - before
    assert float(moved.norm()) == pytest.approx(CLIP * median, rel=1e-4)
    assert float(torch.cosine_similarity(moved, normal(7), 0)) == pytest.approx(1, abs=1e-4)


def test_an_update_of_twice_the_usual_length_counts_in_full():
    outer = make()
    moved = lengths_of(outer, *map(normal, range(5)), 2 * normal(7))
    assert moved[-1] == pytest.approx(2 * float(normal(7).norm()), rel=1e-4)


def test_the_usual_length_is_that_of_the_latest_updates_over_all_rounds():
    outer = make()
    for seed in range(4):
        add(outer, normal(seed))
        take_step(outer)
    assert lengths_of(outer, 100 * normal(7))[0] < 4 * float(normal(7).norm())
    for seed in range(100):  # everybody takes longer strides now
        moved = lengths_of(outer, 100 * normal(seed))[0]
    assert moved == pytest.approx(100 * float(normal(99).norm()), rel=1e-4)


def test_a_single_giant_does_not_make_giants_usual():
    outer = make()
    lengths_of(outer, *map(normal, range(5)), 1e6 * normal(7))
    assert lengths_of(outer, 100 * normal(8))[0] < 4 * float(normal(8).norm())


def test_updates_of_nothing_do_not_silence_the_others():
    outer = make()
    lengths_of(outer, *[torch.zeros(COUNT)] * 3)
    moved = lengths_of(outer, normal(1))
    assert moved[0] == pytest.approx(float(normal(1).norm()), rel=1e-4)


@quick
@given(st.integers(0, 2**53), st.floats(0, 1e9), st.integers(1, 2**30))
def test_nobody_is_believed_more_tokens_than_there_was_time_for(claimed, seconds, parameters):
    believed = believed_tokens(claimed, seconds, parameters)
    assert type(believed) is int and 1 <= believed <= max(1, claimed)
    assert believed == 1 or 6 * parameters * believed <= FASTEST * seconds * (1 + 1e-9)
    assert believed <= believed_tokens(claimed, 2 * seconds, parameters)


@pytest.mark.parametrize("tokens, seconds", [(8192, 0.5), (163_840, 1.0), (20_000_000, 2.0)])
def test_a_fast_but_honest_peer_is_believed(tokens, seconds):
    assert believed_tokens(tokens, seconds, 2_708_736) == tokens


# --- After a restart ------------------------------------------------------------------------------

LOSSY = Sync(up="q4", down="q4", outer_lr=0.7, outer_momentum=0.9)


def run_of(rounds, sync=LOSSY):
    """A coordinator after some rounds, its state after each, and what it broadcast."""
    outer, states, updates = Outer(normal(0), sync), [b""], []
    for seed in range(1, rounds + 1):
        add(outer, normal(seed))
        committed = take_step(outer)
        states.append(outer.state())
        updates.append((seed, committed.codec, committed.update))
    return outer, states, updates


def restarted(outer, state, since):
    again = Outer(outer.weights.clone(), outer.sync, version=outer.version)
    again.recover(state, since)
    return again


def next_step(outer):
    add(outer, normal(99))
    return take_step(outer)


def test_after_a_restart_from_its_last_state_the_next_step_is_the_same_to_the_last_bit():
    outer, states, _ = run_of(3)
    again, forgetful = restarted(outer, states[-1], []), restarted(outer, b"", [])
    assert again.state() == outer.state()
    steps = [next_step(each) for each in (outer, again, forgetful)]
    assert steps[0].update == steps[1].update and steps[0].result == steps[1].result
    assert steps[0].result != steps[2].result


@pytest.mark.parametrize("snapshot", [0, 1, 3])
def test_the_broadcasts_since_a_snapshot_bring_the_momentum_back_to_the_last_bit(snapshot):
    outer, states, updates = run_of(4)
    again = restarted(outer, states[snapshot], updates[snapshot:])
    assert float(outer.momentum.norm()) > 1
    assert digest(again.momentum) == digest(outer.momentum)
    assert (again.residual == 0).all()  # it never left the machine that crashed


def test_where_nothing_is_rounded_away_a_crash_at_any_time_changes_nothing():
    outer, states, updates = run_of(4, Sync(outer_lr=0.7, outer_momentum=0.9))
    for snapshot in range(5):
        again = restarted(outer, states[snapshot], updates[snapshot:])
        add(again, normal(99))
        assert again.step().result == next_step(run_of(4, outer.sync)[0]).result


def test_a_step_that_is_never_accepted_leaves_the_momentum_as_it_was():
    outer, _, _ = run_of(2)
    before = digest(outer.momentum)
    add(outer, normal(3))
    committed = outer.step()
    assert digest(outer.momentum) == before
    outer.accept(committed)
    assert digest(outer.momentum) != before


@pytest.mark.parametrize("codec", ["q4", "q2"])
def test_momentum_comes_as_far_with_few_bytes_as_with_exact_values(codec):
    exact, lossy = (make(down=down, outer_lr=0.7, outer_momentum=0.9) for down in ("fp32", codec))
    for _ in range(80):
        for outer in (exact, lossy):
            add(outer, normal(1, scale=0.01))
            take_step(outer)
    walked, missed = exact.weights - normal(0), exact.weights - lossy.weights
    assert float(walked.norm()) > 100 * float(normal(1, scale=0.01).norm())
    assert float(missed.norm()) < 0.1 * float(walked.norm())


def test_a_restarted_coordinator_leaves_the_state_it_was_given_as_it_was():
    outer, states, updates = run_of(2)
    state = bytes(states[1])
    next_step(restarted(outer, states[1], updates[1:]))
    next_step(restarted(outer, states[2], []))
    assert states[1] == state and states[2] == outer.state()


@pytest.mark.parametrize("size", [3, 4 * COUNT, 8 * COUNT - 1,
                                  8 * COUNT + 4 * (REMEMBERED + 1)])
def test_a_state_of_another_size_is_refused(size):
    outer = make()
    before = outer.state()
    with pytest.raises(GltchError) as error:
        outer.recover(bytes(size), [])
    assert sentence(error) and outer.state() == before


# --- How far peers walk alone ---------------------------------------------------------------------


def quotas(sync, total, recipe):
    """The inner steps of each round of a run from its first step to its last."""
    step, found = 0, []
    while step < total:
        found.append(sync.quota(step, total, recipe))
        step += found[-1]
    return found


syncs = st.builds(lambda first, more: Sync(inner_steps=first, most_inner_steps=first + more),
                  st.integers(1, 50), st.integers(0, 200))
recipes = st.builds(lambda warmup, cooldown: TrainConfig(warmup=warmup, cooldown=cooldown),
                    st.integers(0, 100), st.floats(0, 1))


@quick
@given(syncs, st.integers(1, 3000), recipes)
def test_a_run_ends_exactly_at_its_last_step_and_no_walk_is_too_long(sync, total, recipe):
    found = quotas(sync, total, recipe)
    assert sum(found) == total and min(found) >= 1
    assert max(found) <= sync.most_inner_steps


@quick
@given(syncs, st.integers(1, 3000), recipes)
def test_walks_only_grow_longer_while_the_learning_rate_falls(sync, total, recipe):
    found = quotas(sync, total, recipe)[:-1]  # the last one is cut off by the end
    assert found == sorted(found)


@quick
@given(syncs, st.integers(0, 10_000), st.none() | st.integers(1, 3000), recipes)
def test_there_is_always_at_least_one_step_to_take(sync, step, total, recipe):
    quota = sync.quota(step, total, recipe)
    assert type(quota) is int and 1 <= quota <= sync.most_inner_steps
    assert quota <= (max(1, total - step) if total else sync.inner_steps)


@pytest.mark.parametrize("step, factor, quota", [(0, 0.05, 4), (400, 1.0, 4), (700, 0.5, 8),
                                                 (940, 0.1, 20), (990, 1 / 60, 10), (1000, 0, 1)])
def test_half_the_learning_rate_means_twice_the_walk(step, factor, quota):
    recipe = TrainConfig(warmup=20, cooldown=0.6)
    assert lr_factor(step, 1000, recipe) == pytest.approx(factor)
    assert Sync(inner_steps=4, most_inner_steps=20).quota(step, 1000, recipe) == quota


def test_without_an_end_in_sight_walks_stay_as_long_as_they_began():
    recipe = TrainConfig()
    assert {SYNCS["diloco"].quota(step, None, recipe) for step in (0, 5, 20, 10**6)} == {4}


@pytest.mark.parametrize("name", SYNCS)
def test_the_presets_can_be_used(name):
    sync = SYNCS[name]
    assert {sync.up, sync.down} <= set(CODECS)
    assert 1 <= sync.inner_steps <= sync.most_inner_steps and 0 < sync.beta <= 1
    outer = Outer(normal(0), sync)
    add(outer, normal(1)[outer.part])
    assert take_step(outer).codec == sync.down


@pytest.mark.parametrize("steps", [4, 20])
def test_the_very_first_update_moves_the_weights_by_no_more_than_its_steps_can(steps):
    outer = Outer(torch.ones(1000), Sync())
    outer.add("fp32", encode("fp32", torch.full((1000,), 1e12)), 1.0, steps)
    moved = float((outer.step().weights - outer.weights).norm())
    assert moved == pytest.approx(FIRST_STEP * steps * float(outer.weights.norm()), rel=1e-3)


@pytest.mark.parametrize("snapshot", range(8))
def test_a_restart_forgets_nothing_of_how_long_updates_usually_are(snapshot):
    """Found by an attacker: one giant update after a restart threw the weights away."""
    outer, states, updates = run_of(8, Sync(outer_momentum=0.5))
    again = restarted(outer, states[snapshot], updates[snapshot:])
    usual = float(normal(1).norm())
    assert list(again.lengths[0]) == pytest.approx(list(outer.lengths[0]), rel=1e-4)
    assert lengths_of(again, 1e6 * normal(7))[0] == pytest.approx(CLIP * usual, rel=0.1)


def test_after_a_restart_the_mean_of_a_round_stands_for_its_updates():
    outer = Outer(normal(0), LOSSY)
    since = []
    for seed in range(0, 40, 4):
        for peer in range(4):
            add(outer, normal(seed + peer))
        committed = take_step(outer)
        since.append((outer.version, committed.codec, committed.update))
    again = restarted(outer, b"", since)
    usual = float(normal(1).norm())
    lengths, = again.lengths
    assert len(lengths) == 10 and all(0.4 * usual < length < usual for length in lengths)


# --- How much one may weigh -----------------------------------------------------------------------

def test_no_update_weighs_more_than_a_few_times_the_usual():
    outer = make()
    for seed in range(6):
        assert add(outer, normal(seed), weight=100.0) == 100.0
    assert add(outer, normal(7), weight=2.0**53) == HEAVIEST * 100.0
    assert add(outer, normal(8), weight=300.0) == 300.0
    assert add(outer, normal(9), weight=1.0) == 1.0


def test_before_any_update_is_known_the_job_tells_what_is_usual():
    outer = Outer(normal(0), Sync(), usual=50.0)
    assert add(outer, normal(1), weight=2.0**53) == HEAVIEST * 50.0


def test_a_minority_of_giants_does_not_make_their_weight_usual():
    outer = Outer(normal(0), Sync(), usual=100.0)
    for seed in range(60):
        add(outer, normal(seed), weight=100.0)
        add(outer, normal(seed), weight=100.0)
        assert add(outer, normal(seed), weight=1e9) <= HEAVIEST * 100.0


def test_after_a_restart_the_latest_weights_are_the_usual_ones():
    outer = Outer(normal(0), Sync(), usual=1e9)
    outer.recover(b"", [], heavy=[100.0] * 10)
    assert add(outer, normal(1), weight=1e6) == HEAVIEST * 100.0


def test_a_step_that_is_not_accepted_leaves_no_trace():
    outer = Outer(torch.zeros(1000), Sync(down="q4", outer_momentum=0.5))
    outer.add("fp32", encode("fp32", torch.linspace(-1, 1, 1000)), 1.0, 4)
    before = outer.state()
    first = outer.step()
    assert outer.state() == before
    assert outer.step().result == first.result


# --- Parts of the weights -------------------------------------------------------------------------

THREE = Fragments(COUNT, 3)


def in_parts(rounds, sync=LOSSY):
    """As `run_of`, a part in each round."""
    outer, states, updates = Outer(normal(0), replace(sync, fragments=3)), [b""], []
    for number in range(1, rounds + 1):
        for peer in range(3):
            add(outer, normal(10 * number + peer, THREE.values(number)), 1.0 + peer)
        committed = take_step(outer)
        states.append(outer.state())
        updates.append((number, committed.codec, committed.update))
    return outer, states, updates


def test_in_one_piece_every_bit_is_that_of_the_formulas_without_parts():
    """As they stood before there were parts; also the lengths, and the state that is kept."""
    outer, lr, mu = Outer(normal(0), LOSSY), LOSSY.outer_lr, LOSSY.outer_momentum
    weights, momentum, residual = normal(0), torch.zeros(COUNT), torch.zeros(COUNT)
    lengths = []
    for number in range(1, 8):
        total, weight = torch.zeros(COUNT), 0.0
        for peer in range(3):
            content = encode("q4", normal(10 * number + peer) * (50.0 if peer == 2 else 1.0))
            outer.add("q4", content, 1.0 + peer, 4)
            update = decode("q4", content, COUNT)
            longest = CLIP * median(lengths) if len(lengths) >= 3 else (
                FIRST_STEP * 4 * float(weights.norm()))
            total.add_(update, alpha=(1.0 + peer) * min(1.0, longest / float(update.norm())))
            lengths.append(float(update.norm()))
            weight += 1.0 + peer
        committed = take_step(outer)
        step = total * ((1 + mu) / weight)
        step.add_(momentum, alpha=mu * mu).mul_(lr).add_(residual)
        assert committed.update == encode("q4", step)
        broadcast = decode("q4", committed.update, COUNT)
        weights, residual = weights - broadcast, step - broadcast
        momentum.mul_(mu / (1 + mu)).add_(broadcast, alpha=1 / (lr * (1 + mu)))
        assert outer.hash == digest(weights)
        assert outer.state() == to_bytes(torch.cat([momentum, residual, torch.tensor(lengths)]))


def test_a_round_moves_its_own_part_and_leaves_the_others_bit_for_bit():
    outer, before = Outer(normal(0), replace(LOSSY, fragments=3)), normal(0)
    for number in range(1, 8):
        add(outer, normal(number, THREE.values(number)))
        committed, part = take_step(outer), THREE.of_round(number)
        assert len(committed.update) == CODECS["q4"].size(THREE.values(number))
        assert digest(replaced(outer.weights, part, before[part])) == digest(before)
        assert not torch.equal(outer.weights[part], before[part])
        before = apply_update(before, committed.codec, committed.update, part)
        assert digest(before) == outer.hash == committed.result


def test_each_part_goes_its_way_as_if_it_were_alone():
    outer, _, _ = in_parts(9)
    for i, part in enumerate(THREE.parts):
        alone = Outer(normal(0)[part], LOSSY)
        for number in range(i + 1, 10, 3):
            for peer in range(3):
                add(alone, normal(10 * number + peer, THREE.values(number)), 1.0 + peer)
            take_step(alone)
        assert torch.equal(alone.weights, outer.weights[part])
        assert torch.equal(alone.momentum, outer.momentum[part])
        assert torch.equal(alone.residual, outer.residual[part])
        assert alone.lengths[0] == outer.lengths[i]


@pytest.mark.parametrize("snapshot", [0, 1, 4, 5, 7, 8])
def test_a_restart_forgets_what_was_left_out_only_of_parts_that_moved_since(snapshot):
    outer, states, updates = in_parts(8)
    again = restarted(outer, states[snapshot], updates[snapshot:])
    assert digest(again.momentum) == digest(outer.momentum) and again.part == outer.part
    since = [THREE.of_round(number) for number, *_ in updates[snapshot:]]
    for part in THREE.parts:
        expected = outer.residual[part] * (part not in since)
        assert torch.equal(again.residual[part], expected)
    assert again.state() == outer.state() if snapshot == 8 else again.state() != outer.state()


def test_where_nothing_is_rounded_away_a_restart_between_parts_changes_nothing():
    exact = Sync(outer_lr=0.7, outer_momentum=0.9)
    outer, states, updates = in_parts(7, exact)
    values = THREE.values(8)
    expected = []
    for snapshot in range(8):
        again = restarted(outer, states[snapshot], updates[snapshot:])
        again.add("fp32", encode("fp32", normal(99, values)), 1.0, 200)
        expected.append(again.step().result)
    assert len(set(expected)) == 1


def test_what_is_usual_of_one_part_says_nothing_of_another():
    """Embeddings move by other lengths than the rest."""
    outer = Outer(normal(0), Sync(fragments=3))
    scales = {1: 1.0, 2: 100.0, 0: 0.01}
    for number in range(1, 13):
        scale = scales[number % 3]
        update = normal(number, THREE.values(number), scale)
        moved = lengths_of(outer, update)[0]
        assert moved == pytest.approx(float(update.norm()), rel=1e-3) or number <= 9
        take_step(outer)
    assert lengths_of(outer, 1e6 * normal(7, THREE.values(13)))[0] < 1.1 * CLIP * float(
        normal(7, THREE.values(13)).norm())


def test_a_part_of_zeros_is_not_thrown_away_by_its_first_update():
    outer = Outer(replaced(torch.ones(3 * 128), slice(0, 128), torch.zeros(128)), Sync(fragments=3))
    outer.add("fp32", encode("fp32", torch.full((128,), 1e12)), 1.0, 4)
    moved = float((outer.step().weights - outer.weights).norm())
    assert moved == pytest.approx(
        FIRST_STEP * 4 * 3 * math.sqrt(2 / 3) * math.sqrt(128), rel=1e-3)  # of three rounds


@pytest.mark.parametrize("values", [COUNT, THREE.values(1) - 128, THREE.values(1) + 128, 0])
def test_an_update_as_long_as_something_else_is_rejected(values):
    outer = Outer(normal(0), Sync(fragments=3))
    with pytest.raises(Rejected):
        outer.add("fp32", encode("fp32", normal(1, values)), 1.0, 1)


# --- Updates beside each other --------------------------------------------------------------------

def alike(seed, times=1.0):
    """Updates of a round have something in common."""
    return times * (normal(99) + normal(seed))


def brought(outer, *updates, late=False):
    for place, update in enumerate(updates):
        outer.add(outer.sync.up, encode(outer.sync.up, update), 1.0, 200, f"peer-{place}", late)


def test_what_points_the_other_way_is_taken_out_as_if_it_had_never_been_added():
    with_it, without = make(), make()
    honest = [alike(seed) for seed in range(5)]
    brought(with_it, *honest, alike(7, -1.0))
    brought(without, *honest)
    with_it.judge(), without.judge()
    assert with_it.weight == without.weight == 5
    assert torch.allclose(with_it.step().weights, without.step().weights, atol=1e-5)
    assert [bool(one.weight) for one in with_it.step().brought] == 5 * [True] + [False]


def test_an_update_without_weight_is_looked_at_and_moves_nothing():
    outer = make()
    brought(outer, *(alike(seed) for seed in range(4)))
    before = outer.total.clone()
    assert outer.add(outer.sync.up, encode(outer.sync.up, alike(8)), 0.0, 200, "aside") == 0.0
    outer.judge()
    assert torch.equal(outer.total, before) and outer.weight == 4
    assert outer.brought[-1].seen.cosine > 0.3 and not outer.brought[-1].seen.fault


def test_the_update_that_the_hive_committed_last_is_a_copy_and_an_own_one_of_before_too():
    outer = make(outer_momentum=0.0)
    brought(outer, *(alike(seed) for seed in range(4)))
    outer.judge()
    committed = outer.step()
    outer.accept(committed)
    brought(outer, alike(0), *(alike(seed) for seed in range(10, 13)), committed.broadcast)
    outer.judge()
    assert ["copy" in one.seen.fault for one in outer.brought] == [True] + 3 * [False] + [True]


def test_an_update_for_which_there_is_no_room_is_counted_and_not_kept(monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", 4 * COUNT)
    outer = make()
    brought(outer, alike(1), alike(2))
    assert [bool(one.content) for one in outer.brought] == [True, False] and outer.weight == 2


def test_of_so_many_peers_the_latest_update_is_remembered(monkeypatch):
    monkeypatch.setattr(module, "MOST_SKETCHES", 3)
    outer = make()
    brought(outer, *(alike(seed) for seed in range(5)))
    outer.judge()
    assert [by for by, _ in outer.known] == ["peer-2", "peer-3", "peer-4"]


def test_a_return_to_an_earlier_version_forgets_where_it_was_going():
    outer, start = make(outer_momentum=0.5), make().weights
    add(outer, normal(1))
    outer.accept(outer.step())
    outer.accept(outer.back_to(0, start))
    assert torch.equal(outer.weights, start) and outer.version == 2 and outer.hash == digest(start)
    assert not outer.momentum.any() and not outer.residual.any()


def test_a_note_in_the_record_changes_nothing():
    outer = make(outer_momentum=0.5)
    add(outer, normal(1))
    outer.accept(outer.step())
    momentum = outer.momentum.clone()
    outer.accept(outer.back_to(1, outer.weights))
    assert torch.equal(outer.momentum, momentum) and outer.version == 2
