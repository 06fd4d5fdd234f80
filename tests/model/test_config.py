"""Configuration: shapes and recipes that make sense, one sentence for those that do not."""
import dataclasses
import math
from dataclasses import replace

import pytest
import torch

import gltch_2_7m as gltch
from gltch_2_7m import GLTCH, PRESETS, Config, GltchError, TrainConfig, usual_recipe

SHAPES = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
COUNTS = ("steps", "batch_size", "eval_every", "log_every")
FROM_ZERO = ("warmup", "sample_every", "seed")
RATES = ("minutes", "learning_rate", "embedding_learning_rate", "head_learning_rate")

BAD_SHAPES = [
    *((name, value) for name in SHAPES for value in (0, -1, 2.0, "8", True, None)),
    *(("dropout", value) for value in (-0.1, 1, 1.5, math.nan, "0.1", None)),
]
BAD_RECIPES = [
    *((name, value) for name in COUNTS for value in (0, -1, 2.0, "8", True)),
    *((name, None) for name in COUNTS if name != "steps"),
    *((name, value) for name in FROM_ZERO for value in (-1, 2**31, 0.5, "8", True, None)),
    *((name, value) for name in RATES for value in (0, -1, math.nan, math.inf, "8")),
    ("embedding_learning_rate", None), ("head_learning_rate", None),
    *(("weight_decay", value) for value in (-0.1, math.nan, math.inf, "0.1", None)),
    *(("cooldown", value) for value in (-0.1, 1.1, math.nan, "0.5", None)),
    *(("optimizer", value) for value in ("sdg", "Muon", "", None)),
    *(("precision", value) for value in ("int8", "BF16", "", None)),
]


def sentence(error):
    """What the person reads: one line that begins with a word and ends with a full stop."""
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


@pytest.mark.parametrize("name, value", BAD_SHAPES)
def test_a_shape_that_cannot_be_built_is_refused_by_name_and_value(name, value):
    with pytest.raises(GltchError) as error:
        Config(**{name: value})
    assert name in sentence(error) and repr(value) in str(error.value)


@pytest.mark.parametrize("name, value", BAD_RECIPES)
def test_a_recipe_that_makes_no_sense_is_refused_by_name_and_value(name, value):
    with pytest.raises(GltchError) as error:
        TrainConfig(**{name: value})
    assert name in sentence(error) and repr(value) in str(error.value)


def test_heads_that_do_not_divide_the_width_are_refused_with_both_numbers():
    with pytest.raises(GltchError) as error:
        Config(n_embd=192, n_head=5)
    assert "n_embd (192)" in sentence(error) and "n_head (5)" in str(error.value)


@pytest.mark.parametrize("recipe", [
    {}, {"steps": 1, "batch_size": 1, "eval_every": 1, "log_every": 1}, {"minutes": 0.01},
    {"warmup": 0, "sample_every": 0, "seed": 0}, {"seed": 2**31 - 1}, {"weight_decay": 0},
    {"cooldown": 0}, {"cooldown": 1}, {"optimizer": "adamw"}, {"precision": "bf16"}])
def test_the_smallest_and_largest_sensible_values_are_accepted(recipe):
    made = TrainConfig(**recipe)
    assert {name: getattr(made, name) for name in recipe} == recipe


def test_configurations_cannot_be_changed_after_they_were_checked():
    for config in (Config(), TrainConfig()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.dropout = 2


def test_each_optimizer_brings_its_learning_rate_unless_one_is_given():
    assert TrainConfig().matrix_learning_rate == 0.02
    assert TrainConfig(optimizer="adamw").matrix_learning_rate == 0.001
    assert TrainConfig(optimizer="adamw", learning_rate=0.5).matrix_learning_rate == 0.5


def parameters(config):
    with torch.device("meta"):  # shapes without memory
        return sum(p.numel() for p in GLTCH(config).parameters())


@pytest.mark.parametrize("label", PRESETS)
def test_a_preset_has_the_parameters_its_label_says_within_five_percent(label):
    config, recipe, steps = PRESETS[label]
    assert parameters(config) == pytest.approx(float(label[:-1]) * 1e6, rel=0.05)
    assert recipe.warmup < steps


def test_the_default_network_is_gltch_2_7m_to_the_last_parameter():
    assert PRESETS["2.7m"][0] == Config()
    assert parameters(Config()) == 2_708_736


@pytest.mark.parametrize("size", PRESETS)
def test_on_the_clock_of_a_cpu_steps_are_smaller_and_what_is_counted_in_them_as_rare(size):
    usual, clocked = PRESETS[size][1], usual_recipe(size, device="cpu", seed=5)
    assert clocked.batch_size == usual.batch_size // 4
    for name in ("eval_every", "sample_every", "log_every"):
        assert (clocked.batch_size * getattr(clocked, name)
                == usual.batch_size * getattr(usual, name)), name
    same = {name: getattr(usual, name) for name in (
        "batch_size", "eval_every", "sample_every", "log_every")}
    assert replace(clocked, **same) == replace(usual, device="cpu", seed=5)


def test_what_is_given_and_who_asks_for_steps_or_has_a_gpu_gets_what_was_usual(monkeypatch):
    assert usual_recipe(device="cpu", batch_size=64) == TrainConfig(device="cpu")
    assert usual_recipe(device="cpu", batch_size=8, eval_every=5) == TrainConfig(
        device="cpu", batch_size=8, eval_every=5)
    assert usual_recipe(device="cpu", eval_every=5).eval_every == 5
    assert usual_recipe(device="cpu", steps=7) == TrainConfig(steps=7, device="cpu")
    monkeypatch.setattr(gltch, "pick_device", torch.device)
    assert usual_recipe(device="cuda", minutes=1.0) == TrainConfig(device="cuda", minutes=1.0)
