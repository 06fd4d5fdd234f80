"""A simulated hive: the same each time, converging through churn, every token accounted for."""
import copy
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from torch.testing import assert_close

from gltch_2_7m import Config, FastTrainer, GltchError, Runtime, TrainConfig, load_corpus
from hive.books import Books, applying
from hive.learning.codec import CODECS, digest, flatten
from hive.learning.fragments import Fragments
from hive.learning.outer import apply_update
from hive.learning.sync import SYNCS
from hive.session.effects import CoordinatorWork, PeerWork
from hive.session.peer_session import PeerSession
from hive.simulate import main
from hive.simulation import hive as hive_of_simulation
from hive.simulation import hive as module
from hive.simulation.attackers import KINDS
from hive.simulation.hive import NEWCOMER_ROUNDS, Simulation, simulate
from hive.simulation.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TINY = Config(block_size=16, n_layer=1, n_head=2, n_embd=16, dropout=0.0)
STORM = Settings(peers=16, rounds=60, churn=0.3, stragglers=0.2, sync="diloco")
SMALL = Settings(peers=6, rounds=12, parameters=5000, sync="diloco")


def run(given, **changes):
    """The rows and the summary."""
    rows = []
    return rows, simulate(replace(given, **changes), rows.append)


# --------------------------------------------------------------------------------------------------
# The same arguments, the same run
# --------------------------------------------------------------------------------------------------

def test_the_same_arguments_give_the_same_run():
    stormy = replace(SMALL, churn=0.3, stragglers=0.3)
    assert run(stormy) == run(stormy)
    assert run(stormy) != run(stormy, recipe={"seed": 1})


def test_both_hosts_do_all_slow_work_that_a_session_may_ask_for():
    hive = Simulation(replace(SMALL, rounds=1))
    assert set(hive.coordinator.slow_work) == set(get_args(CoordinatorWork))
    assert set(hive.peers[0].slow_work) == set(get_args(PeerWork))


def test_each_round_prints_a_line_and_the_last_line_sums_up(capsys):
    arguments = ["--peers", "6", "--rounds", "12", "--parameters", "5000", "--churn", "0.3",
                 "--sync", "diloco"]
    assert main(arguments) == 0
    printed, said = capsys.readouterr()
    *rows, last = [json.loads(line) for line in printed.splitlines()]
    expected_rows, expected = run(SMALL, churn=0.3)
    assert rows == [row._asdict() for row in expected_rows]
    assert last == {"summary": expected._asdict()}
    assert said == ""
    assert [row["round"] for row in rows] == list(range(1, 13))
    assert [row["val_loss"] is not None for row in rows] == [
        number in (10, 12) for number in range(1, 13)]


@pytest.mark.process
@pytest.mark.parametrize("command", [["-m", "hive.simulate"], [str(ROOT / "hive/simulate.py")]])
def test_another_process_prints_the_same_bytes(command, capsys):
    arguments = ["--peers", "3", "--rounds", "2", "--parameters", "1000"]
    done = subprocess.run([sys.executable, *command, *arguments], cwd=str(ROOT), timeout=120,
                          stdout=subprocess.PIPE, encoding="utf-8", check=True)
    main(arguments)
    assert done.stdout == capsys.readouterr().out


# --------------------------------------------------------------------------------------------------
# Peers that come, go and are slow
# --------------------------------------------------------------------------------------------------

def test_sixteen_peers_converge_through_churn_and_stragglers_and_agree_bit_for_bit():
    hive = Simulation(STORM, strict=True)
    journal, versions = hive.coordinator.journal, set()

    def look(row):
        assert digest(hive.coordinator.books.outer.weights) == journal.at(row.round)[0]
        for peer in hive.peers:
            held = peer.session.held
            if held.hash:
                assert digest(held.weights) == held.hash == journal.at(held.version)[0]
                if peer.connection and row.round > 1:
                    versions.add(row.round - held.version)

    summary = hive.run(look)
    assert summary.val_loss < summary.start_loss / 100
    assert summary.disagreements == 0
    assert min(versions) == 1, "at a commit, those in time hold the version before"
    assert summary.interrupted > 0, "some vanish in the middle of an upload"
    assert summary.updates["stale"] > 0, "the work of slow peers counts too"
    assert min(row.peers for row in hive.rows) < 16
    assert summary.updates["counted"] == sum(row.counted for row in hive.rows)
    assert summary.updates["late"] == sum(row.late for row in hive.rows)


@pytest.fixture(scope="module")
def in_parts():
    """A stormy run whose rounds change a third of the weights each."""
    hive = Simulation(Settings(peers=6, rounds=40, parameters=5000, fragments=3, churn=0.3,
                               stragglers=0.2, sync="diloco"), strict=True)
    agreed, restarts = [], []

    def look(row):
        journal, outer = hive.coordinator.journal, hive.coordinator.books.outer
        if row.round == 32:
            restarts.append((journal.newest_extra()[0], copy.deepcopy(outer),
                             Books(hive.job, journal).outer))
        for peer in hive.peers:
            held = peer.session.held
            if held.hash:
                assert digest(held.weights) == held.hash == journal.at(held.version)[0]
                agreed.append(held.version)

    return SimpleNamespace(hive=hive, summary=hive.run(look), agreed=agreed,
                           restarts=restarts)


@pytest.mark.parametrize("in_flight", [1, 3])
def test_the_more_updates_travel_at_once_the_more_rounds_there_are_in_the_same_time(in_flight):
    """A link that needs as long for an update as a peer for a step."""
    hive = Simulation(Settings(peers=3, minutes=2.0, parameters=5000, spread=0.0, latency=0.2,
                               step_seconds=0.5, uplink=0.001, downlink=0.005, codec="q4",
                               fragments=4, overlap=True, in_flight=in_flight, inner_steps=1,
                               most_inner_steps=1))
    summary = hive.run()
    assert summary.disagreements == 0 and summary.training > 0.9
    assert (summary.rounds > 150) == (in_flight == 3)
    tokens = summary.tokens
    assert tokens["trained"] == tokens["counted"] + tokens["carried"] + tokens["lost"]
    assert tokens["counted"] > 0.9 * tokens["trained"] and tokens["lost"] == 0


def test_a_hive_that_changes_one_part_a_round_agrees_bit_for_bit_and_its_journal_verifies(in_parts):
    hive, summary = in_parts.hive, in_parts.summary
    assert summary.rounds == 40 and summary.disagreements == 0
    assert set(in_parts.agreed) > set(range(1, 39))
    journal = hive.coordinator.journal
    assert max(journal.verify(applying(hive.job))) == 40
    parts = Fragments(5000, 3)
    for number in range(1, 41):
        assert len(journal.update(number)[1]) == CODECS["q4"].size(parts.values(number))
    assert summary.up_per_parameter == pytest.approx(CODECS["q4"].size(5000) / 5000 / 3, rel=0.2)


def test_a_journal_in_parts_does_not_verify_as_one_in_other_parts(in_parts):
    hive = in_parts.hive
    other = replace(hive.job, sync=replace(hive.job.sync, fragments=2))
    with pytest.raises(GltchError, match="Round 1 is broken"):
        list(hive.coordinator.journal.verify(applying(other)))


def test_a_coordinator_that_starts_again_in_parts_has_the_same_momentum_bit_for_bit(in_parts):
    (snapshot, outer, again), = in_parts.restarts
    assert snapshot == 30, "after ten times three rounds"
    assert again.hash == outer.hash and again.version == outer.version == 32
    assert float(again.momentum.norm()) > 0
    assert digest(again.momentum) == digest(outer.momentum)
    for number in (31, 32):
        assert not again.residual[again.fragments.of_round(number)].any()
    assert outer.residual[outer.part].any()
    assert torch.equal(again.residual[again.part], outer.residual[outer.part])


def test_weights_that_come_out_otherwise_than_the_hives_are_counted(monkeypatch):
    """No peer can use them: each takes the hive's as a whole."""
    monkeypatch.setattr(module, "apply_update", lambda *values: apply_update(*values) + 1e-3)
    hive = Simulation(replace(SMALL, rounds=3))
    summary = hive.run()
    assert summary.disagreements == hive.commits_received > 0
    assert summary.rounds == 3 and summary.weights_bytes > 6 * 4 * 5000


def test_an_upload_that_broke_off_goes_on_where_it_stopped():
    _, summary = run(STORM, uplink=0.002)  # 5 seconds for an update
    assert summary.interrupted > 20
    assert 0.5156 < summary.up_per_parameter < 0.55


def test_two_hundred_peers():
    rows, summary = run(STORM, peers=200, rounds=8)
    assert summary.val_loss < summary.start_loss / 10
    assert max(row.counted for row in rows) > 100
    assert summary.disagreements == 0


def test_a_hive_that_everybody_leaves_all_the_time_still_ends():
    rows, summary = run(SMALL, peers=2, churn=1.0, rounds=20)
    assert (len(rows), summary.rounds) == (20, 20)


def test_a_round_begins_only_with_enough_peers():
    rows, _ = run(SMALL, min_peers=6)
    assert [row.counted for row in rows] == [6] * 12


def test_slow_peers_do_not_slow_the_hive_down():
    _, without = run(SMALL, peers=10, rounds=30)
    _, with_slow = run(SMALL, peers=10, rounds=30, stragglers=0.2)
    assert with_slow.seconds < 1.5 * without.seconds


# --------------------------------------------------------------------------------------------------
# What becomes of the work
# --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("settings_", [
    STORM,
    replace(STORM, sync="sparse", uplink=0.001, latency=1.0, rounds=30),
    replace(STORM, peers=5, churn=0.9, codec="fp32", rounds=30, commit_seconds=2.0),
], ids=["storm", "sparse over bad links", "always leaving"])
def test_every_token_is_counted_once_or_carried_or_lost(settings_):
    _, summary = run(settings_)
    tokens = summary.tokens
    assert tokens["trained"] == tokens["counted"] + tokens["carried"] + tokens["lost"]
    assert tokens["lost"] == 0, "also what was trained when the connection broke is offered"
    assert 0 < tokens["carried"] < tokens["counted"]


def test_an_update_offered_again_after_it_was_counted_does_not_count_again():
    """Its peer reconnects, and the round is committed while the offer is on its way."""
    for seed in range(20):
        hive = Simulation(Settings(
            peers=8, rounds=30, churn=0.5, stragglers=0.2, spread=1.0, latency=2.0, codec="fp32",
            uplink=0.0005, downlink=0.0005, round_seconds=1.0, inner_steps=1, parameters=1000,
            sync="diloco", recipe={"seed": seed}))
        tokens = hive.run().tokens
        assert tokens["trained"] == tokens["counted"] + tokens["carried"] + tokens["lost"], seed


def test_work_that_is_too_late_is_carried_into_the_next_update():
    _, summary = run(SMALL, rounds=30, commit_seconds=1.0, stragglers=0.3, spread=0.6)
    assert summary.updates["late"] > 0
    assert summary.tokens["lost"] == 0
    assert summary.tokens["trained"] == summary.tokens["counted"] + summary.tokens["carried"]


def test_a_broken_peer_is_rejected_and_the_others_go_on():
    hive = Simulation(replace(SMALL, codec="fp32"))
    broken = hive.peers[0]

    def nonsense(part, steps):
        broken.learner.feedback.residual.fill_(math.nan)
        return broken.make_update(part, steps)

    broken.slow_work["take"] = nonsense
    summary = hive.run()
    assert summary.updates["rejected"] > 0 and summary.updates["counted"] > 0
    assert not broken.counted
    assert summary.val_loss < summary.start_loss / 2
    tokens = summary.tokens
    assert tokens["trained"] == tokens["counted"] + tokens["carried"] + tokens["lost"]
    assert tokens["lost"] > 0


def test_when_training_breaks_down_everywhere_the_simulation_says_so():
    with pytest.raises(GltchError, match="lower --learning-rate"):
        simulate(replace(SMALL, peers=2, rounds=200, recipe={"learning_rate": 100.0}))


# --------------------------------------------------------------------------------------------------
# Ways to synchronize
# --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", list(SYNCS))
def test_every_way_to_synchronize_lowers_the_loss_within_its_bytes(name):
    _, summary = run(SMALL, sync=name, parameters=40_000, rounds=30)
    assert summary.val_loss < summary.start_loss / 5
    assert summary.up_per_parameter <= (0.05 if name == "sparse" else 0.55)
    assert summary.down_per_parameter <= 0.55


def test_options_replace_what_the_preset_says():
    sync = Settings(codec="q2", inner_steps=7, outer_lr=0.8, outer_momentum=0.3,
                    beta=0.5).make_sync()
    assert (sync.up, sync.down, sync.inner_steps, sync.most_inner_steps) == ("q2", "q2", 7, 7)
    assert (sync.outer_lr, sync.outer_momentum, sync.beta) == (0.8, 0.3, 0.5)
    assert Settings(inner_steps=3, most_inner_steps=9).make_sync().most_inner_steps == 9
    assert Settings(inner_steps=3).make_pace().fixed
    assert not Settings(inner_steps=3, most_inner_steps=9).make_pace().fixed


# --------------------------------------------------------------------------------------------------
# Time
# --------------------------------------------------------------------------------------------------

def test_in_lockstep_every_peer_makes_every_step_of_the_schedule():
    hive = Simulation(Settings(peers=4, steps=50, parameters=1000, lockstep=True))
    recipe, behind = hive.task.recipe, []

    def look(row):
        behind.extend(row.round - peer.session.held.version for peer in hive.peers)
        steps = row.step - (hive.rows[-2].step if row.round > 1 else 0)
        assert steps == hive.sync.quota(row.step - steps, 50, recipe)
        assert row.counted == 4

    summary = hive.run(look)
    assert summary.step == 50
    assert summary.training == 1
    assert summary.seconds == pytest.approx(50 * 0.5)
    assert summary.tokens == {"trained": 4 * 50 * 64, "counted": 4 * 50 * 64, "carried": 0,
                              "lost": 0}
    assert hive.coordinator.session.run.windows == 4 * 50 * 64, "no window twice"
    assert set(behind) == {1}


def test_in_virtual_time_a_peer_makes_as_many_steps_as_fit_into_the_rounds_seconds(monkeypatch):
    """Half a second each; one that is ten times slower makes fewer, as soon as that is known."""
    updates, made = {0.5: [], 5.0: []}, PeerSession.made

    def note(session, base, version, progress, update):
        updates[progress.seconds / progress.steps].append(progress.steps)
        made(session, base, version, progress, update)

    monkeypatch.setattr(PeerSession, "made", note)
    monkeypatch.setattr(hive_of_simulation, "JITTER", 0.0)
    simulate(Settings(peers=4, rounds=8, parameters=1000, stragglers=0.25, spread=0.0,
                      sync="diloco", inner_steps=6))
    assert set(updates[0.5]) == {6}
    first, *later = updates[5.0]
    assert first == 6 and later and max(later) < 6


def test_a_run_ends_after_its_virtual_minutes_or_at_its_loss():
    rows, summary = run(SMALL, rounds=None, minutes=2.0)
    assert summary.finished == "the 2 minutes are over"
    assert 120 <= summary.seconds < 240
    rows, summary = run(SMALL, rounds=200, target_loss=0.1, eval_every=1)
    assert "the target loss of 0.1 is reached" in summary.finished
    assert rows[-1].val_loss <= 0.1 < rows[-2].val_loss


# --------------------------------------------------------------------------------------------------
# Real training
# --------------------------------------------------------------------------------------------------

def test_real_peers_train_a_real_network(text_file):
    rows, summary = run(SMALL, train="real", network=TINY, data=(str(text_file),), peers=4,
                        rounds=14, churn=0.2, stragglers=0.25,
                        recipe={"batch_size": 8, "precision": "fp32"})
    assert summary.start_loss == pytest.approx(math.log(len(load_corpus(
        [str(text_file)]).vocabulary)))
    assert summary.val_loss < summary.start_loss - 0.5
    assert rows[-1].loss < rows[0].loss
    assert summary.disagreements == 0
    tokens = summary.tokens
    assert tokens["trained"] == tokens["counted"] + tokens["carried"] + tokens["lost"]


def test_peers_that_meet_at_every_step_are_one_process_with_all_their_batches(text_file):
    """Plain SGD inside, one inner step, plain averaging outside, exact values."""
    corpus = load_corpus([str(text_file)])
    recipe = {"optimizer": "sgd", "learning_rate": 0.3, "precision": "fp32", "device": "cpu",
              "warmup": 3}
    hive = Simulation(Settings(
        train="real", network=TINY, data=(str(text_file),), peers=4, steps=12, lockstep=True,
        sync="every-step", codec="fp32", outer_lr=1.0, outer_momentum=0.0,
        recipe={**recipe, "batch_size": 4}))
    summary = hive.run()
    trainer = FastTrainer(replace(TINY, vocab_size=len(corpus.vocabulary)),
                      TrainConfig(steps=12, batch_size=16, **recipe), corpus,
                      Runtime(torch.device("cpu")))
    losses = [trainer.train_step() for _ in range(12)]
    assert summary.rounds == summary.step == 12
    assert_close(hive.coordinator.books.outer.weights, flatten(trainer.model), rtol=1e-4, atol=1e-6)
    assert_close([row.loss for row in hive.rows], losses, rtol=1e-4, atol=1e-4)
    assert not torch.equal(flatten(trainer.model), hive.task.start)


# --------------------------------------------------------------------------------------------------
# What cannot be simulated
# --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, words", [
    (["--peers", "0"], "peers must be a whole number of at least 1, not 0."),
    (["--rounds", "-1"], "rounds must be a whole number of at least 1, not -1."),
    (["--churn", "1.5"], "churn must be from 0 to 1, not 1.5."),
    (["--stragglers", "nan"], "stragglers must be from 0 to 1, not nan."),
    (["--uplink", "0"], "uplink must be a number above 0, not 0.0."),
    (["--step-seconds", "inf"], "step-seconds must be a number above 0, not inf."),
    (["--outer-momentum", "1.5"], "outer-momentum must be"),
    (["--peers", "2", "--min-peers", "3"], "no round would ever begin"),
    (["--lockstep", "--churn", "0.1"], "leave out churn, stragglers and newcomers"),
    (["--peers", "3", "--newcomers", "3"], "newcomers must be a whole number from 0 to one less"),
    (["--peers", "3", "--newcomers", "2", "--min-peers", "2"], "With 1 peers no round would ever"),
    (["--batch-size", "0"], "batch_size must be a whole number of at least 1, not 0."),
    (["--train", "real", "--data", "nowhere.txt"], "There is no file or folder"),
])
def test_what_makes_no_sense_is_a_sentence(arguments, words, capsys):
    assert main(arguments) == 2
    printed, said = capsys.readouterr()
    assert said.startswith("simulate.py: error: ") and words in said
    assert said.endswith(".\n") and said.count("\n") == 1
    assert printed == ""


@pytest.mark.parametrize("arguments", [["--sync", "never"], ["--peers", "many"], ["--nonsense"]])
def test_what_is_no_option_is_a_sentence(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("simulate.py: error: ") and said.count("\n") == 1


def test_the_help_says_what_the_loss_is_of(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "pull to a hidden place; its loss is the mean squared distance left" in said


def test_the_help_begins_with_something_to_paste(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.lstrip().startswith("python -m hive.simulate")


# --------------------------------------------------------------------------------------------------
# Peers that harm
# --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_attacker_takes_part_and_the_run_is_the_same_again(kind):
    given = replace(SMALL, attackers=(f"{kind}:0.34",))
    assert run(given) == run(given)
    assert run(given) != run(SMALL)


def test_attackers_come_with_churn_and_stragglers():
    rows, summary = run(SMALL, attackers=("flip:0.2", "nan:0.2"), churn=0.3, stragglers=0.2)
    assert summary.rounds == 12 and summary.disagreements == 0


@pytest.mark.parametrize("attack", ["flip", "flip:2", "flip:x", "nothing:0.1", "flip:1"])
def test_an_attack_that_makes_no_sense_is_a_sentence(attack):
    with pytest.raises(GltchError):
        simulate(replace(SMALL, attackers=(attack,)))


@pytest.mark.parametrize("kind", ["flip", "flip3", "noise", "push", "collude"])
def test_who_harms_is_set_aside_and_the_others_learn_as_if_they_were_alone(kind):
    given = Settings(peers=8, rounds=16, parameters=5000, attackers=(f"{kind}:0.25",))
    summary = simulate(given)
    assert set(summary.aside) == {"peer-6", "peer-7"}
    assert all(1 <= number <= 16 for number in summary.aside.values())
    alone = simulate(replace(given, peers=6, attackers=())).val_loss
    undefended = simulate(replace(given, undefended=True)).val_loss
    assert summary.val_loss < 1.3 * alone and undefended > 1.2 * alone


def test_newcomers_come_one_after_the_other_and_take_part():
    hive = Simulation(replace(SMALL, peers=6, rounds=20, newcomers=3, spread=0.0))
    rows = []
    hive.run(rows.append)
    assert [row.peers for row in rows[3::NEWCOMER_ROUNDS]] == [3, 4, 5, 6, 6]
    assert all(peer.counted for peer in hive.peers)


@pytest.mark.parametrize("storm", [{}, {"churn": 0.3, "stragglers": 0.2}, {"sync": "streaming"},
                                   {"newcomers": 4}])
def test_nobody_who_is_honest_is_set_aside(storm):
    for seed in range(3):
        settings = replace(SMALL, peers=12, rounds=30, recipe={"seed": seed}, **storm)
        assert simulate(settings).aside == {}


def test_a_hive_with_attackers_is_written_down_so_that_it_verifies():
    hive = Simulation(replace(SMALL, peers=8, attackers=("flip3:0.25",)))
    hive.run()
    assert max(hive.coordinator.journal.verify(applying(hive.job))) == 12


@pytest.mark.parametrize("seed", [21, 22, 23])
def test_a_run_ends_with_a_measured_loss_also_while_an_update_is_being_tried(seed):
    """With seed 22 one is when the last round ends."""
    hive = Simulation(Settings(peers=4, steps=30, parameters=2000, eval_every=10**6,
                               recipe={"seed": seed}))
    summary = hive.run()
    assert summary.val_loss == pytest.approx(
        hive.task.measure(hive.coordinator.books.outer.weights))
