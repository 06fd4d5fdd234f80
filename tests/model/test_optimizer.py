"""The optimizer: every parameter once, Muon as on paper, a learning rate that rises and falls."""
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from gltch_2_7m import (
    GLTCH,
    Config,
    Corpus,
    FastMuon,
    FastTrainer,
    Muon,
    Runtime,
    TrainConfig,
    Trainer,
    Vocabulary,
    fast_orthogonalize,
    lr_factor,
    make_optimizers,
    orthogonalize,
)

TINY = Config(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8)
PARTS = ("attention.qkv", "attention.projection", "feed_forward.up", "feed_forward.down")
quick = settings(deadline=None, max_examples=100)


def fast_alone(g, dtype):
    """`fast_orthogonalize` of one matrix."""
    return fast_orthogonalize(g[None], dtype)[0]


each_form = pytest.mark.parametrize("form", [orthogonalize, fast_alone])
each_muon = pytest.mark.parametrize("muon", [Muon, FastMuon])


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_model(seed=0):
    model = GLTCH(TINY).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(randn(*p.shape, seed=seed + i))
    return model


def set_gradients(model, seed):
    for i, p in enumerate(model.parameters()):
        p.grad = randn(*p.shape, seed=1000 * seed + i)


# --- Groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_parameter_is_in_exactly_one_group(optimizer):
    model = GLTCH(TINY)
    optimizers = make_optimizers(model, TrainConfig(optimizer=optimizer))
    grouped = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_first_optimizer_has_the_matrices_of_the_blocks_and_only_those(optimizer):
    model = GLTCH(TINY)
    first, rest = make_optimizers(model, TrainConfig(optimizer=optimizer))
    names = {id(p): name for name, p in model.named_parameters()}
    matrices = {names[id(p)] for group in first.param_groups for p in group["params"]}
    assert matrices == {f"blocks.{i}.{part}.weight" for i in range(TINY.n_layer)
                        for part in PARTS}
    assert type(rest) is torch.optim.AdamW


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_each_group_takes_its_learning_rate_from_the_recipe(optimizer):
    model, rates = GLTCH(TINY), {}
    recipe = TrainConfig(optimizer=optimizer, learning_rate=0.7, embedding_learning_rate=0.3,
                         head_learning_rate=0.1)
    for made in make_optimizers(model, recipe):
        for group in made.param_groups:
            assert group["full_lr"] == group["lr"]
            rates.update({id(p): group["lr"] for p in group["params"]})
    for name, p in model.named_parameters():
        matrix = name.startswith("blocks.") and p.dim() == 2
        assert rates[id(p)] == (0.7 if matrix else 0.1 if name == "head.weight" else 0.3)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_only_the_matrices_of_the_blocks_decay(optimizer):
    model = random_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    recipe = TrainConfig(optimizer=optimizer, learning_rate=0.5, weight_decay=0.2)
    for made in make_optimizers(model, recipe, torch.float64):
        made.step()
    for name, p in model.named_parameters():
        matrix = name.startswith("blocks.") and p.dim() == 2
        assert_close(p.detach(), before[name] * (0.9 if matrix else 1.0))


# --- Orthogonalization ----------------------------------------------------------------------------


def matrix_with(values, rows, cols, seed=0):
    """U diag(values) V^T with random orthogonal U and V, and U V^T, its nearest isometry."""
    n = min(rows, cols)
    u = torch.linalg.qr(randn(rows, n, seed=seed))[0]
    v = torch.linalg.qr(randn(cols, n, seed=seed + 1))[0]
    return u @ torch.diag(values) @ v.T, u @ v.T


@pytest.mark.parametrize("rows, cols", [(16, 16), (8, 32), (32, 8), (1, 5), (5, 1), (192, 768)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@each_form
def test_all_singular_values_become_about_one_and_directions_stay(rows, cols, scale, form):
    n = min(rows, cols)
    g, nearest = matrix_with(scale * torch.linspace(0.2, 3, n, dtype=torch.float64), rows, cols)
    x = form(g, torch.float32)
    assert x.shape == g.shape and x.dtype == g.dtype
    values = torch.linalg.svdvals(x)
    assert 0.6 < values.min() and values.max() < 1.3
    # Same singular vectors, same sign: what is left of U V^T is only the spread of the values.
    assert torch.linalg.matrix_norm(x - nearest, 2) < 0.4
    assert (x * nearest).sum() > 0.6 * n


@pytest.mark.parametrize("rows, cols", [(6, 6), (4, 9), (9, 4)])
def test_matrices_of_a_batch_do_not_mix(rows, cols):
    batch = randn(5, rows, cols) * torch.logspace(-3, 3, 5, dtype=torch.float64)[:, None, None]
    together = fast_orthogonalize(batch, torch.float64)
    for matrix, result in zip(batch, together):
        assert_close(fast_alone(matrix, torch.float64), result)


@pytest.mark.parametrize("rows, cols", [(6, 6), (4, 9), (9, 4), (1, 5), (192, 768)])
def test_the_fast_form_equals_the_plain_form_of_each_matrix(rows, cols):
    batch = randn(3, rows, cols)
    for matrix, result in zip(batch, fast_orthogonalize(batch, torch.float64)):
        assert_close(result, orthogonalize(matrix, torch.float64), rtol=0, atol=1e-9)


@each_form
def test_a_gradient_of_rank_one_keeps_its_direction_and_gets_a_length_of_about_one(form):
    column, row = randn(16), randn(24, seed=1)
    for scale in (1e-3, 1e3):
        x = form(scale * torch.outer(column, row), torch.float64)
        expected = torch.outer(column / column.norm(), row / row.norm())
        assert 0.6 < torch.linalg.svdvals(x)[0] < 1.3
        assert torch.linalg.svdvals(x)[1] < 1e-9
        assert_close(x / x.norm(), expected)


def test_values_above_a_500th_of_the_norm_end_between_0_68_and_1_21_and_0_stays_0():
    values = torch.cat([torch.logspace(-2.59, -0.2, 40, dtype=torch.float64), torch.zeros(8)])
    assert values[0] > values.norm() / 500
    g, _ = matrix_with(values.double(), 48, 60)
    *large, least = torch.linalg.svdvals(orthogonalize(g, torch.float64)).tolist()
    assert 0.68 < min(large[:40]) and max(large) < 1.21 and least < 1e-9


@each_form
def test_products_in_bf16_are_good_enough(form):
    g, nearest = matrix_with(torch.linspace(0.2, 3, 32, dtype=torch.float64), 32, 64)
    x = form(g.float(), torch.bfloat16)
    assert x.dtype == torch.float32
    values = torch.linalg.svdvals(x)
    assert 0.6 < values.min() and values.max() < 1.3
    assert torch.linalg.matrix_norm(x - nearest.float(), 2) < 0.5


@each_form
def test_wide_matrices_with_hardly_any_rank_do_not_blow_up_in_bf16(form):
    g, _ = matrix_with(1 / torch.arange(1, 193, dtype=torch.float64), 192, 768)
    x = form(g.float(), torch.bfloat16)
    exact = form(g, torch.float64)
    assert torch.linalg.svdvals(x).max() < 1.3
    assert (x - exact).norm() < 0.1 * exact.norm()


@each_form
def test_no_gradient_gives_no_update(form):
    assert not form(torch.zeros(3, 4), torch.float32).any()


# --- Muon -----------------------------------------------------------------------------------------


def reference_orthogonalize(g):
    """X <- aX + b(XX^T)X + c(XX^T)^2 X, five times, for one matrix; tall ones lie down for it."""
    if g.size(0) > g.size(1):
        return reference_orthogonalize(g.T).T
    x = g / g.norm()
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
    return x


def reference_muon_step(p, gradient, momentum, lr, decay, split):
    """One matrix: Nesterov momentum, each row block orthogonalized, decoupled decay."""
    momentum = 0.95 * momentum + 0.05 * gradient
    blocks = (0.05 * gradient + 0.95 * momentum).chunk(split)
    scale = math.sqrt(max(1, blocks[0].size(0) / blocks[0].size(1)))
    update = torch.cat([reference_orthogonalize(block) for block in blocks])
    return p - lr * decay * p - lr * scale * update, momentum


@each_muon
def test_muon_equals_the_slow_way_matrix_by_matrix(muon):
    model, lr, decay = random_model(), 0.03, 0.1
    first, _ = make_optimizers(model, TrainConfig(learning_rate=lr, weight_decay=decay),
                               torch.float64, muon)
    names = [f"blocks.{i}.{part}.weight" for i in range(TINY.n_layer)
             for part in PARTS]
    parameters = dict(model.named_parameters())
    expected = {name: parameters[name].detach().clone() for name in names}
    momentum = {name: torch.zeros_like(expected[name]) for name in names}
    for step in range(1, 5):
        set_gradients(model, step)
        first.step()
        for name in names:
            expected[name], momentum[name] = reference_muon_step(
                expected[name], parameters[name].grad, momentum[name], lr, decay,
                split=3 if "qkv" in name else 1)
            assert_close(parameters[name].detach(), expected[name], rtol=0, atol=1e-7)


def test_the_fast_muon_equals_the_plain_one_up_to_rounding():
    """Exactly the same moments; the weights to rounding, for the products come in another order."""
    models = [random_model(), random_model()]
    optimizers = [make_optimizers(model, TrainConfig(), torch.float64, muon)[0]
                  for model, muon in zip(models, (Muon, FastMuon))]
    for step in range(1, 21):
        for model, optimizer in zip(models, optimizers):
            set_gradients(model, step)
            optimizer.step()
    for ours, theirs in zip(*(model.parameters() for model in models)):
        assert_close(ours, theirs, rtol=0, atol=1e-9)
    plain, fast = (optimizer.state_dict() for optimizer in optimizers)
    assert plain["param_groups"] == fast["param_groups"]
    for number, kept in plain["state"].items():
        assert torch.equal(kept["momentum"], fast["state"][number]["momentum"])


def test_the_lesson_trains_with_the_plain_muon_and_the_program_with_the_fast_one():
    corpus = Corpus("abc", torch.zeros(40, dtype=torch.uint8), Vocabulary("abcdefghijk"))
    assert type(Trainer(TINY, TrainConfig(), corpus).optimizers[0]) is Muon
    runtime = Runtime(torch.device("cpu"))
    assert type(FastTrainer(TINY, TrainConfig(), corpus, runtime).optimizers[0]) is FastMuon


@each_muon
def test_queries_keys_and_values_turn_independently(muon):
    models = [random_model(), random_model()]
    for model, factor in zip(models, (1, 1000)):
        set_gradients(model, 1)
        gradient = model.blocks[0].attention.qkv.weight.grad
        gradient[:TINY.n_embd] *= factor  # of the queries only
        make_optimizers(model, TrainConfig(), torch.float64, muon)[0].step()
    assert_close(*(model.blocks[0].attention.qkv.weight.detach() for model in models))


@each_muon
def test_muon_leaves_the_gradients_alone_and_steps_in_proportion_to_its_rate(muon):
    steps = []
    for lr in (0.01, 0.02):
        model = random_model()
        before = model.blocks[0].feed_forward.up.weight.detach().clone()
        set_gradients(model, 1)
        gradient = model.blocks[0].feed_forward.up.weight.grad.clone()
        recipe = TrainConfig(learning_rate=lr, weight_decay=0)
        make_optimizers(model, recipe, torch.float64, muon)[0].step()
        steps.append(model.blocks[0].feed_forward.up.weight.detach() - before)
        assert torch.equal(model.blocks[0].feed_forward.up.weight.grad, gradient)
    assert_close(2 * steps[0], steps[1])


@each_muon
def test_a_saved_optimizer_goes_on_as_the_one_that_never_stopped(muon):
    straight, resumed = random_model(), random_model()
    optimizers = [make_optimizers(m, TrainConfig(), torch.float64, muon)
                  for m in (straight, resumed)]
    for step in (1, 2):
        for model, made in zip((straight, resumed), optimizers):
            set_gradients(model, step)
            for optimizer in made:
                optimizer.step()
        saved = [o.state_dict() for o in optimizers[1]]
        optimizers[1] = make_optimizers(resumed, TrainConfig(), torch.float64, muon)
        for optimizer, state in zip(optimizers[1], saved):
            optimizer.load_state_dict(state)
    for ours, theirs in zip(straight.parameters(), resumed.parameters()):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_either_optimizer_learns_a_batch_by_heart(optimizer):
    torch.manual_seed(0)
    model, ids = GLTCH(Config(11, 8, 2, 2, 16, 0.0)), torch.randint(11, (4, 9))
    optimizers = make_optimizers(model, TrainConfig(
        optimizer=optimizer, learning_rate=0.02 if optimizer == "muon" else 0.01,
        embedding_learning_rate=0.01, head_learning_rate=0.01, weight_decay=0.0))
    for _ in range(150):
        model.zero_grad()
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        for made in optimizers:
            made.step()
    assert loss.item() < 0.1


# --- The learning rate over time ------------------------------------------------------------------

recipes = st.builds(TrainConfig, warmup=st.integers(0, 60), cooldown=st.floats(0, 1))
totals = st.integers(1, 400)


@quick
@given(recipes, totals)
def test_the_rate_is_never_above_one_nor_below_zero(recipe, total):
    factors = [lr_factor(step, total, recipe) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)


@quick
@given(recipes, totals)
def test_the_rate_rises_then_holds_then_falls_to_its_smallest_at_the_last_step(recipe, total):
    factors = [lr_factor(step, total, recipe) for step in range(total)]
    top = factors.index(max(factors))
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    if recipe.cooldown > 0:
        assert factors[-1] <= min(factors[recipe.warmup:], default=1)


@quick
@given(recipes, totals, st.one_of(st.none(), totals))
def test_before_the_cooldown_the_total_does_not_matter(recipe, total, other):
    def held(total):  # steps before the cooldown
        return math.inf if total is None else (1 - recipe.cooldown) * total

    for step in range(int(min(held(total), held(other), 400))):
        assert lr_factor(step, total, recipe) == lr_factor(step, other, recipe)


def test_the_warm_up_is_linear_from_the_first_step_and_ends_at_the_full_rate():
    recipe = TrainConfig(warmup=4, cooldown=0.5)
    assert [lr_factor(step, 100, recipe) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert lr_factor(0, 100, TrainConfig(warmup=0, cooldown=0.5)) == 1


def test_the_cooldown_is_linear_and_would_reach_zero_one_step_after_the_last():
    recipe = TrainConfig(warmup=0, cooldown=0.5)
    factors = [lr_factor(step, 8, recipe) for step in range(9)]
    assert factors == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]


@quick
@given(st.integers(0, 100), st.integers(0, 1000))
def test_without_a_cooldown_or_a_total_the_rate_holds_after_the_warm_up(warmup, step):
    assume(step >= warmup)
    assert lr_factor(step, step + 1, TrainConfig(warmup=warmup, cooldown=0)) == 1
    assert lr_factor(step, None, TrainConfig(warmup=warmup)) == 1
