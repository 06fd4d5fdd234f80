"""Training from Python: what a run leaves, how it measures, how long it takes, how it fails."""
import itertools
import json
import math
import signal
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import gltch_2_7m as gltch
from gltch_2_7m import (
    GLTCH,
    Attention,
    Config,
    FastTrainer,
    GltchError,
    Progress,
    Runtime,
    StepTimer,
    TrainConfig,
    evaluate,
    load,
    load_corpus,
    lr_factor,
    train,
)

TINY = Config(block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.1)
RECIPE = TrainConfig(steps=40, batch_size=8, eval_every=15, log_every=10, warmup=5,
                     precision="fp32", device="cpu")
CPU = Runtime(torch.device("cpu"))


@pytest.fixture
def corpus(text_file):
    return load_corpus([str(text_file)])


def points(folder, kind):
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [point for point in map(json.loads, lines) if point["kind"] == kind]


def make_trainer(corpus, config=TINY, seed=None, **recipe):
    """A trainer; with a seed, of a network whose every weight is random and matters."""
    trainer = FastTrainer(replace(config, vocab_size=len(corpus.vocabulary)),
                      replace(RECIPE, **recipe), corpus, CPU)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in trainer.model.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return trainer


# --- What a run leaves ----------------------------------------------------------------------------


def test_a_run_returns_what_it_learned_and_where_it_is_kept(corpus):
    result = train(TINY, RECIPE, corpus, name="first")
    assert result.folder == Path("runs", "first")
    assert sorted(p.name for p in result.folder.iterdir()) == [
        "best.pt", "last.pt", "log.jsonl", "loss.svg"]
    assert (result.step, result.interrupted) == (40, 0)
    assert result.vocabulary.characters == corpus.vocabulary.characters
    assert result.val_loss == evaluate(result.model, corpus.validation, CPU)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_loss_falls(corpus, optimizer):
    folder = train(TINY, replace(RECIPE, optimizer=optimizer), corpus).folder
    for kind in ("train", "eval"):
        losses = [point["loss"] for point in points(folder, kind)]
        assert losses[-1] < losses[0] - 0.3


def test_the_log_has_both_curves_and_their_ends(corpus):
    folder = train(TINY, replace(RECIPE, steps=34), corpus).folder
    assert [point["step"] for point in points(folder, "eval")] == [0, 15, 30, 34]
    assert [point["step"] for point in points(folder, "train")] == [10, 20, 30, 34]


def test_a_point_of_the_training_curve_is_the_mean_since_the_one_before(corpus):
    every = points(train(TINY, replace(RECIPE, log_every=1), corpus, name="1").folder, "train")
    tenth = points(train(TINY, replace(RECIPE, log_every=10), corpus, name="10").folder, "train")
    means = [sum(p["loss"] for p in every[i: i + 10]) / 10 for i in range(0, 40, 10)]
    assert [p["loss"] for p in tenth] == pytest.approx(means, abs=1e-12)


def test_bits_are_nats_over_ln_2(corpus):
    for point in points(train(TINY, RECIPE, corpus).folder, "eval"):
        assert point["bits"] == pytest.approx(point["loss"] / math.log(2))


def test_an_untrained_network_finds_all_characters_equally_likely(corpus):
    first = points(train(TINY, replace(RECIPE, steps=1), corpus).folder, "eval")[0]
    assert first["loss"] == pytest.approx(math.log(len(corpus.vocabulary)), abs=1e-5)


def test_the_plot_is_a_picture_of_both_curves(corpus):
    folder = train(TINY, RECIPE, corpus, name="a & b").folder
    picture = ElementTree.parse(str(folder / "loss.svg")).getroot()
    curves = {line.get("class"): line.get("points").split()
              for line in picture.iter("{http://www.w3.org/2000/svg}polyline")}
    assert len(curves["curve train"]) == len(points(folder, "train"))
    assert len(curves["curve validation"]) == len(points(folder, "eval"))
    assert "a & b" in "".join(picture.itertext())


@pytest.mark.parametrize("losses", [[], [2.0], [2.0, 2.0], [3.5, math.inf], [1e-9, 9.0]])
def test_any_curve_can_be_drawn(losses):
    log = [{"kind": kind, "step": 7 * i, "loss": loss}
           for kind in ("train", "eval") for i, loss in enumerate(losses)]
    ElementTree.fromstring(gltch.loss_plot(log, "run"))


def test_samples_are_logged_as_often_as_asked(corpus):
    folder = train(TINY, replace(RECIPE, sample_every=20), corpus).folder
    samples = points(folder, "sample")
    assert [sample["step"] for sample in samples] == [20, 40]
    assert all(len(sample["text"]) == 200 for sample in samples)


def test_the_best_checkpoint_is_that_of_the_lowest_evaluation(corpus, monkeypatch):
    losses = iter([3.0, 2.0, 2.5, 2.25])
    monkeypatch.setattr(gltch, "evaluate", lambda *_: next(losses))
    folder = train(TINY, replace(RECIPE, steps=45), corpus).folder
    best, last = (gltch.read_checkpoint(folder / name) for name in ("best.pt", "last.pt"))
    assert (best["step"], best["val_loss"]) == (15, 2.0)
    assert (last["step"], last["val_loss"]) == (45, 2.25)


def test_what_is_kept_to_write_with_are_the_averaged_weights(corpus):
    result = train(TINY, replace(RECIPE, cooldown=0.0), corpus)
    state, (kept, _) = gltch.read_checkpoint(result.folder / "last.pt"), load(str(result.folder))
    for name, weight in kept.state_dict().items():
        assert torch.equal(weight, result.model.state_dict()[name])
        assert not torch.equal(weight, state["model"][name])


def test_a_name_in_use_is_refused_and_its_run_stays_as_it_is(corpus):
    folder = train(TINY, replace(RECIPE, steps=1), corpus, name="taken").folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(GltchError, match="--resume"):
        train(TINY, RECIPE, corpus, name="taken")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["..", "a/b", "../up", "/tmp/away"])
def test_a_name_stays_inside_the_folder_of_runs(corpus, name):
    with pytest.raises(GltchError, match="--name"):
        train(TINY, RECIPE, corpus, name=name)


def test_a_text_shorter_than_one_window_is_refused(corpus):
    with pytest.raises(GltchError, match="longer text"):
        train(replace(TINY, block_size=6000), RECIPE, corpus)


# --- Measuring ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 150), st.integers(1, 20), st.integers(0, 99))
def test_evaluation_predicts_every_character_but_the_first_once(length, context, seed):
    torch.manual_seed(seed)
    model = GLTCH(replace(TINY, block_size=context, vocab_size=9)).eval()
    torch.nn.init.normal_(model.head.weight)
    ids, total = torch.randint(9, (length,)), 0.0
    for start in range(0, length - 1, context):
        inputs, targets = ids[start: start + context], ids[start + 1: start + context + 1]
        with torch.no_grad():
            scores = model(inputs[None, : len(targets)])[0].log_softmax(-1)
        total -= sum(scores[i, target].item() for i, target in enumerate(targets))
    assert evaluate(model, ids, CPU) == pytest.approx(total / (length - 1), rel=1e-5)
    assert gltch.mean_loss(model, ids) == pytest.approx(total / (length - 1), rel=1e-5)


def test_evaluation_of_a_text_longer_than_one_batch_is_the_mean_over_all_of_it():
    torch.manual_seed(0)
    model = GLTCH(replace(TINY, vocab_size=9))
    torch.nn.init.normal_(model.head.weight)
    ids = torch.randint(9, (8192 + 16 + 5,))
    first, rest = evaluate(model, ids[:8193], CPU), evaluate(model, ids[8192:], CPU)
    assert evaluate(model, ids, CPU) == pytest.approx((8192 * first + 20 * rest) / 8212, rel=1e-6)


def test_evaluation_is_the_same_every_time_and_leaves_no_trace(corpus):
    trainer = make_trainer(corpus, seed=1)
    trainer.model.train()
    random = torch.get_rng_state()
    losses = {evaluate(trainer.model, corpus.validation, CPU) for _ in range(3)}
    assert len(losses) == 1
    assert trainer.model.training and torch.equal(torch.get_rng_state(), random)


# --- One step -------------------------------------------------------------------------------------


def one_step(corpus, recompute=False, cut=None, **recipe):
    trainer = make_trainer(corpus, seed=3, **recipe)
    trainer.micro_batches = lambda whole: [whole[i: i + cut] for i in range(0, len(whole), cut)]
    if recompute:
        gltch.recompute_activations(trainer.model)
    loss = trainer.train_step()
    return [torch.tensor(loss), *(p.detach() for p in trainer.model.parameters())]


@pytest.mark.parametrize("cut", [1, 3, 4])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_micro_batches_change_nothing_but_the_memory(corpus, monkeypatch, optimizer, cut):
    monkeypatch.setattr(gltch, "dropout", lambda x, p, training: x)
    whole = one_step(corpus, cut=8, optimizer=optimizer)
    parts = one_step(corpus, cut=cut, optimizer=optimizer)
    assert_close(parts, whole, rtol=1e-3, atol=2e-5)


def test_recomputed_activations_change_nothing_not_even_dropout(corpus, monkeypatch):
    calls, attention = [], Attention.forward
    monkeypatch.setattr(Attention, "forward", lambda *args: calls.append(1) or attention(*args))
    kept = one_step(corpus, cut=8)
    assert len(calls) == TINY.n_layer
    recomputed = one_step(corpus, recompute=True, cut=8)
    assert len(calls) == 3 * TINY.n_layer  # twice in the second step
    assert_close(recomputed, kept)


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="scales on a CPU from PyTorch 2.3")
def test_fp16_with_scaled_gradients_learns_like_fp32(corpus):
    """The path of GPUs before Ampere, on a CPU."""
    losses = {}
    for precision in ("fp32", "fp16"):
        trainer = make_trainer(corpus)
        runtime = Runtime(torch.device("cpu"), precision)
        trainer = FastTrainer(trainer.model.config, trainer.recipe, corpus, runtime)
        for _ in range(30):
            trainer.train_step()
        losses[precision] = trainer.validate()
    assert trainer.scaler.is_enabled() and losses["fp16"] < 3.3
    assert losses["fp16"] == pytest.approx(losses["fp32"], abs=0.05)


def test_low_memory_trains_the_same_model_in_smaller_pieces(corpus):
    recipe = replace(RECIPE, steps=15)
    results = [train(replace(TINY, dropout=0.0), replace(recipe, low_memory=low), corpus,
                     name=str(low)) for low in (False, True)]
    frugal = make_trainer(corpus, low_memory=True)
    assert max(map(len, frugal.micro_batches(range(8)))) == 1
    assert results[1].val_loss == pytest.approx(results[0].val_loss, abs=1e-3)


def test_a_step_sees_the_windows_in_order_each_once(corpus):
    trainer, seen = make_trainer(corpus, batch_size=5), []
    batch = trainer.windows.batch
    trainer.windows.batch = lambda numbers: seen.extend(numbers) or batch(numbers)
    for _ in range(7):
        trainer.train_step()
    assert seen == list(range(35))


def test_everything_random_follows_from_the_seed(corpus):
    folders = [train(TINY, replace(RECIPE, steps=10, seed=seed), corpus, name=name).folder
               for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    a, b, c = (points(folder, "train")[-1]["loss"] for folder in folders)
    assert a == b != c


# --- How long: invented times, no clock -----------------------------------------------------------


def run_invented(recipe, step_seconds, eval_seconds, slower=lambda elapsed: 1.0):
    """(steps, seconds, learning rates) of a run with these times, or with times that change."""
    timer, step, elapsed = StepTimer(recipe, eval_seconds), 0, eval_seconds
    total, cooling, rates = None, None, []
    while step != total:
        rates.append(lr_factor(step, total, recipe, cooling))
        seconds = step_seconds * slower(elapsed)
        step, elapsed = step + 1, elapsed + seconds
        length = timer.add(seconds, step, elapsed)
        if length:
            before = lr_factor(step, total, recipe, cooling)
            cooling = (step, before) if length[1] else None
            total = length[0]
            assert total >= step and (step == total or math.isclose(before, lr_factor(
                step, total, recipe, cooling), abs_tol=1e-9))
        if step % recipe.eval_every == 0 or step == total:
            elapsed += eval_seconds * slower(elapsed)
    return step, elapsed, rates


times = {"step_seconds": st.floats(0.005, 2), "eval_seconds": st.floats(0, 5),
         "minutes": st.floats(0.02, 2), "eval_every": st.integers(1, 200)}


@settings(deadline=None, max_examples=100)
@given(**times)
def test_a_run_fills_its_minutes_evaluations_included(step_seconds, eval_seconds, minutes,
                                                      eval_every):
    recipe = replace(RECIPE, steps=None, minutes=minutes, eval_every=eval_every)
    step, elapsed, _ = run_invented(recipe, step_seconds, eval_seconds)
    spare = 2 * step_seconds + 2 * eval_seconds
    assert 60 * minutes - spare <= elapsed <= 60 * minutes + spare


@settings(deadline=None, max_examples=100)
@given(steps=st.integers(1, 300), **times)
def test_steps_are_an_upper_limit_to_minutes(steps, step_seconds, eval_seconds, minutes,
                                             eval_every):
    recipe = replace(RECIPE, steps=None, minutes=minutes, eval_every=eval_every)
    alone = run_invented(recipe, step_seconds, eval_seconds)[0]
    both = run_invented(replace(recipe, steps=steps), step_seconds, eval_seconds)[0]
    assert both == min(steps, alone)


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("cooldown", [0.0, 0.3, 0.6, 1.0])
@settings(deadline=None, max_examples=20)
@given(part=st.floats(0.05, 0.95), minutes=st.floats(1, 6))
@example(part=0.78125, minutes=1.0)  # the machine is slower just before the last evaluations
@example(part=0.7894772891690851, minutes=1.0)
def test_a_run_ends_in_time_when_the_machine_gets_slower_or_faster_on_the_way(
        factor, cooldown, part, minutes):
    recipe = replace(RECIPE, steps=None, minutes=minutes, cooldown=cooldown, eval_every=100)
    when = part * 60 * minutes
    _, elapsed, rates = run_invented(recipe, 0.1, 0.5, lambda now: factor if now > when else 1.0)
    assert abs(elapsed / (60 * minutes) - 1) < 0.05
    if cooldown >= 0.3:
        assert rates[-1] < 0.1
        assert max(abs(a - b) for a, b in zip(rates[recipe.warmup:], rates[recipe.warmup + 1:])
                   ) < 0.15, "the rate falls evenly"


def test_the_time_left_is_told_from_the_latest_steps():
    timer, elapsed = StepTimer(replace(RECIPE, steps=1000), 0.0, 1000), 0.0
    for step in range(1, 501):
        seconds = 0.1 if step <= 300 else 0.2
        elapsed += seconds
        timer.add(seconds, step, elapsed)
    assert timer.left(500) == pytest.approx(500 * 0.2)


def test_the_first_slow_steps_do_not_count():
    timer, elapsed = StepTimer(replace(RECIPE, steps=None, minutes=1.0, eval_every=100), 0.0), 0.0
    for step, seconds in enumerate([9.0, 4.0] + 10 * [0.5], 1):
        elapsed += seconds
        length = timer.add(seconds, step, elapsed)
    assert length == (12 + (60 - 18) / 0.5, False)


def test_a_run_of_minutes_ends_by_itself_cooled_down(corpus, monkeypatch):
    ticks, asked = itertools.count(), []
    monkeypatch.setattr(gltch, "time", SimpleNamespace(
        monotonic=lambda: next(ticks) / 100, strftime=time.strftime))
    monkeypatch.setattr(gltch, "lr_factor", lambda *now: asked.append(now) or lr_factor(*now))
    result = train(TINY, replace(RECIPE, steps=None, minutes=0.06), corpus)
    state = gltch.read_checkpoint(result.folder / "last.pt")
    assert result.step == state["step"] == state["total"] > 20
    assert lr_factor(*asked[-1]) < 0.1
    assert points(result.folder, "eval")[-1]["step"] == result.step


def test_minutes_too_few_for_anything_train_one_step(corpus):
    assert train(TINY, replace(RECIPE, steps=None, minutes=1e-9), corpus).step == 1


def test_on_a_cpu_a_run_without_a_length_is_the_reference_run_or_ten_minutes_of_it(
        corpus, monkeypatch, capsys):
    monkeypatch.setattr(gltch, "CPU_MINUTES", 0.01)
    assert train(TINY, replace(RECIPE, steps=None), corpus, reference=9).step <= 9
    assert "--minutes" in capsys.readouterr().err


def test_from_python_too_the_full_run_sees_as_many_characters_in_steps_of_any_size(
        corpus, monkeypatch, capsys):
    monkeypatch.setattr(gltch, "CPU_MINUTES", 1e-9)
    train(TINY, replace(RECIPE, steps=None, batch_size=8), corpus)
    assert "--steps 24000 --batch-size 8" in capsys.readouterr().err


# --- When it goes wrong ---------------------------------------------------------------------------


def assert_kept_whole(folder):
    state = gltch.read_checkpoint(folder / "last.pt")
    for weights in (state["model"], state["ema"]):
        assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_its_checkpoint_is_good(
        corpus, monkeypatch, loss):
    losses = iter(25 * [1] + 99 * [loss])
    entropy = F.cross_entropy

    def poisoned(logits, targets):
        return entropy(logits, targets) * (next(losses) if logits.requires_grad else 1)

    monkeypatch.setattr(F, "cross_entropy", poisoned)
    with pytest.raises(GltchError, match=f"{loss} at step 26.*lower the learning rate in a new"):
        train(TINY, RECIPE, corpus, name="poisoned")
    assert_kept_whole(Path("runs", "poisoned"))
    assert gltch.read_checkpoint(Path("runs", "poisoned", "last.pt"))["step"] == 15


def test_weights_that_are_not_finite_never_reach_a_checkpoint(corpus):
    recipe = replace(RECIPE, embedding_learning_rate=1e30, warmup=0, eval_every=1)
    with pytest.raises(GltchError, match="lower the learning rate in a new"):
        train(TINY, recipe, corpus, name="wild")
    assert_kept_whole(Path("runs", "wild"))
    assert all(math.isfinite(p["loss"]) for p in points(Path("runs", "wild"), "eval"))


def test_a_batch_larger_than_the_text_just_takes_its_windows_again(corpus):
    assert train(TINY, replace(RECIPE, steps=2, batch_size=700), corpus).step == 2


def test_handlers_for_signals_are_put_back(corpus):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(TINY, replace(RECIPE, steps=1), corpus)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# --- The line that shows it -----------------------------------------------------------------------


@pytest.mark.parametrize("length", [{"steps": 4}, {"steps": 9000, "minutes": 0.01}])
def test_the_part_that_is_done_is_of_the_steps_or_where_minutes_were_given_of_the_time(
        corpus, monkeypatch, length):
    shown = []
    monkeypatch.setattr(Progress, "show", lambda self, *values: shown.append(values))
    train(TINY, replace(RECIPE, **length), corpus)
    for part, step, total, *_, elapsed, left, _ in shown:
        done = elapsed / (elapsed + left) if "minutes" in length else step / total
        assert part == pytest.approx(done)
    assert shown[-1][0] == 1


def show(monkeypatch, capsys, terminal, **environment):
    """What the progress of one step writes."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gltch.sys.stderr, "isatty", lambda: terminal, raising=False)
    progress = Progress()
    progress.show(0.5, 30, 60, 1.5, 1.25, 4000.0, 5.0, 5.0, always=True)
    progress.say("a line of its own")
    return capsys.readouterr().err


def test_a_terminal_gets_one_live_line_with_a_bar_in_colour(monkeypatch, capsys):
    line = show(monkeypatch, capsys, True, TERM="xterm", COLUMNS="120")
    assert line.startswith("\r") and "━" in line and "\033[32m" in line
    assert "50%" in line and line.endswith("\na line of its own\n")


def test_no_color_takes_the_colour_and_keeps_the_bar(monkeypatch, capsys):
    line = show(monkeypatch, capsys, True, TERM="xterm", COLUMNS="120", NO_COLOR="1")
    assert "━" in line and "\033[3" not in line and "\033[9" not in line


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_the_live_line_never_wraps(monkeypatch, capsys, columns):
    line = show(monkeypatch, capsys, True, TERM="xterm", COLUMNS=str(columns), NO_COLOR="1")
    assert len(line.split("\n")[0].replace("\r\033[K", "")) < columns


@pytest.mark.parametrize("terminal, term", [(False, "xterm"), (True, "dumb")])
def test_elsewhere_progress_is_plain_lines(monkeypatch, capsys, terminal, term):
    line = show(monkeypatch, capsys, terminal, TERM=term)
    assert "\r" not in line and "\033" not in line and "step 30/60" in line
