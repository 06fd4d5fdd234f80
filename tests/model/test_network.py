"""The network: its parts, its causality, and its equality with an independent construction."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from gltch_2_7m import (
    GLTCH,
    Config,
    causal_attention,
    dropout,
    fast_attention,
    fast_dropout,
    outline,
    parameter_table,
    plain_attention,
    recompute_activations,
)

TINY = Config(vocab_size=11, block_size=12, n_layer=2, n_head=3, n_embd=12, dropout=0.0)
quick = settings(deadline=None, max_examples=15)


def random_model(config=TINY, seed=0):
    """A network whose every weight is random: nothing is zero and hides what it does."""
    model, generator = GLTCH(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(0.4 * noise) if p.dim() == 2 else p.add_(0.1 * noise)
    return model


def random_ids(shape, config=TINY, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, shape, generator=generator)


def loss_and_gradients(model, ids, targets):
    model.zero_grad()
    loss = model(ids, targets)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


# --- Parts ----------------------------------------------------------------------------------------


def test_the_parts_of_gltch_2_7m_are_those_of_the_design():
    table = parameter_table(outline(Config()))
    assert table == [
        ("token embedding", "65 x 192", 12_480),
        ("position embedding", "128 x 192", 24_576),
        ("6 blocks: attention qkv", "192 -> 576", 663_552),
        ("6 blocks: attention projection", "192 -> 192", 221_184),
        ("6 blocks: feed-forward", "192 -> 768 -> 192", 1_769_472),
        ("6 blocks: 2 layer norms", "2 x 2 x 192", 4_608),
        ("final layer norm", "2 x 192", 384),
        ("head", "192 -> 65", 12_480),
    ]
    assert sum(count for _, _, count in table) == 2_708_736


@quick
@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 4), st.integers(1, 4),
       st.integers(1, 8))
def test_the_table_counts_every_parameter_of_any_network_once(V, T, n_layer, n_head, width):
    model = outline(Config(V, T, n_layer, n_head, n_head * width))
    assert (sum(count for _, _, count in parameter_table(model))
            == sum(p.numel() for p in model.parameters()))


def test_an_outline_has_the_names_and_shapes_of_the_network_in_its_order_and_no_memory():
    real, drawn = GLTCH(TINY).named_parameters(), outline(TINY).named_parameters()
    assert all(weight.is_meta for _, weight in outline(TINY).named_parameters())
    assert [(name, weight.shape) for name, weight in drawn] == [
        (name, weight.shape) for name, weight in real]


def test_matrices_have_no_bias_and_layer_norms_do():
    for module in GLTCH(TINY).modules():
        if isinstance(module, nn.Linear):
            assert module.bias is None
        if isinstance(module, nn.LayerNorm):
            assert module.bias.shape == module.weight.shape == (TINY.n_embd,)


def test_the_head_is_not_tied_to_the_embedding():
    model = GLTCH(TINY)
    assert model.head.weight is not model.token_embedding.weight
    model.head.weight.data.fill_(7)
    assert not (model.token_embedding.weight == 7).any()


def test_every_block_starts_as_the_identity():
    x = torch.randn(2, 5, TINY.n_embd)
    for block in GLTCH(TINY).blocks:
        assert torch.equal(block(x), x)


def test_the_loss_at_the_start_is_that_of_a_uniform_guess():
    for vocab_size in (2, 65, 300):
        config = Config(vocab_size, 16, 2, 2, 16)
        ids = random_ids((4, 17), config)
        loss = GLTCH(config)(ids[:, :-1], ids[:, 1:])
        assert loss.item() == pytest.approx(math.log(vocab_size), abs=1e-4)


def test_the_loss_is_the_mean_surprise_at_the_characters_that_followed():
    model, ids = random_model(), random_ids((3, 9))
    chances = model(ids[:, :-1]).softmax(-1).gather(2, ids[:, 1:, None])
    assert_close(model(ids[:, :-1], ids[:, 1:]), -chances.log().mean())


# --- Causality ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bf16", [False, True])
def test_changing_a_character_never_changes_earlier_logits(bf16):
    model, ids = random_model().eval(), random_ids((2, TINY.block_size))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        before = model(ids)
        for t in range(TINY.block_size):
            other = ids.clone()
            other[:, t] = (other[:, t] + 1) % TINY.vocab_size
            after = model(other)
            assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-6)
            assert (after[:, t:] - before[:, t:]).abs().amax((0, 2)).min() > 1e-3


def test_logits_do_not_depend_on_what_follows_or_on_the_other_texts_of_the_batch():
    model, ids = random_model().eval(), random_ids((3, TINY.block_size))
    whole = model(ids)
    for t in range(1, TINY.block_size + 1):
        assert_close(model(ids[1:2, :t]), whole[1:2, :t])


# --- Equality with an independent construction ----------------------------------------------------


class Reference(nn.Module):
    """The same network from PyTorch's own transformer layers, with the weights of a GLTCH."""

    def __init__(self, model):
        super().__init__()
        config, C = model.config, model.config.n_embd
        self.layers = nn.ModuleList()
        for block in model.blocks:
            layer = nn.TransformerEncoderLayer(
                C, config.n_head, 4 * C, dropout=0.0, activation=nn.functional.gelu,
                batch_first=True, norm_first=True)
            for bias in (layer.self_attn.in_proj_bias, layer.self_attn.out_proj.bias,
                         layer.linear1.bias, layer.linear2.bias):
                nn.init.zeros_(bias)
            layer.self_attn.in_proj_weight = block.attention.qkv.weight
            layer.self_attn.out_proj.weight = block.attention.projection.weight
            layer.linear1.weight = block.feed_forward.up.weight
            layer.linear2.weight = block.feed_forward.down.weight
            layer.norm1, layer.norm2 = block.norm1, block.norm2
            self.layers.append(layer)
        self.model = model

    def forward(self, ids):
        T = ids.size(1)
        x = self.model.token_embedding(ids) + self.model.position_embedding.weight[:T]
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        for layer in self.layers:
            x = layer(x, src_mask=future)
        return self.model.norm(x) @ self.model.head.weight.T


@pytest.mark.parametrize("length", [1, 5, TINY.block_size])
def test_the_network_equals_one_of_pytorchs_own_transformer_layers(length):
    model, ids = random_model().double(), random_ids((3, length))
    reference = Reference(model).double().train()  # eval would take PyTorch's fused fast path
    logits, expected = model(ids), reference(ids)
    assert_close(logits, expected, rtol=0, atol=1e-12)
    weights = list(model.parameters())
    slope = torch.randn(logits.shape, dtype=torch.float64)
    for ours, theirs in zip(torch.autograd.grad(logits, weights, slope),
                            torch.autograd.grad(expected, weights, slope)):
        assert_close(ours, theirs, rtol=0, atol=1e-10)


def written_out_attention(q, k, v):
    """Causal attention one position at a time, as the formula says."""
    out = []
    for t in range(q.size(2)):
        scores = (q[:, :, t, None] * k[:, :, :t + 1]).sum(-1) / math.sqrt(q.size(3))
        out.append((scores.softmax(-1)[..., None] * v[:, :, :t + 1]).sum(2))
    return torch.stack(out, 2)


@pytest.mark.parametrize("attention", [plain_attention, fast_attention])
@pytest.mark.parametrize("dtype, tolerance", [
    (torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.06)])
def test_every_way_of_attention_agrees_with_the_formula(attention, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, 3, 17, 8, generator=generator).to(dtype).double().requires_grad_()
             for _ in "qkv"]
    given = [x.detach().to(dtype).requires_grad_() for x in exact]
    slope = torch.randn(2, 3, 17, 8, generator=generator).to(dtype)
    expected, out = written_out_attention(*exact), attention(*given)
    assert out.dtype == dtype and out.shape == expected.shape
    assert_close(out.double(), expected, rtol=0, atol=tolerance)
    for ours, theirs in zip(torch.autograd.grad(out, given, slope),
                            torch.autograd.grad(expected, exact, slope.double())):
        assert_close(ours.double(), theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", [
    (torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize("T, S", [(1, 1), (1, 9), (9, 9)])
def test_fast_attention_equals_plain_attention_with_and_without_a_cache(T, S, dtype, tolerance):
    generator = torch.Generator().manual_seed(T + S)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator).to(dtype) for n in (T, S, S))
    assert_close(fast_attention(q, k, v), plain_attention(q, k, v), rtol=0, atol=tolerance)


def test_with_fewer_queries_than_keys_plain_attention_gives_the_last_rows():
    q, k, v = torch.randn(3, 2, 3, 9, 8, dtype=torch.float64)
    assert_close(plain_attention(q[:, :, 5:], k, v), plain_attention(q, k, v)[:, :, 5:])


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5])
def test_fast_dropout_drops_and_scales_as_the_plain_one_does(p):
    torch.manual_seed(0)
    x, rounded = torch.randn(500, 1000), round(256 * p) / 256
    for dropped in (fast_dropout(x, p), torch.nn.functional.dropout(x, rounded)):
        kept = dropped != 0
        assert kept.float().mean().item() == pytest.approx(1 - rounded, abs=0.004)
        assert_close(dropped[kept], x[kept] / (1 - rounded))


def test_the_network_calls_the_fast_forms():
    assert (causal_attention, dropout) == (fast_attention, fast_dropout)


def test_training_in_bf16_stays_close_to_fp32():
    model, ids = random_model(), random_ids((4, TINY.block_size + 1))
    expected = loss_and_gradients(model, ids[:, :-1], ids[:, 1:])
    with torch.autocast("cpu", torch.bfloat16):
        loss, *gradients = loss_and_gradients(model, ids[:, :-1], ids[:, 1:])
    assert loss.dtype == torch.float32
    assert_close(loss, expected[0], rtol=0.02, atol=0)
    ours, theirs = (torch.cat([g.flatten() for g in gs]) for gs in (gradients, expected[1:]))
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.99


# --- Training -------------------------------------------------------------------------------------


def test_a_tiny_network_learns_one_batch_by_heart():
    torch.manual_seed(0)
    model, ids = GLTCH(TINY), random_ids((4, TINY.block_size + 1))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.0)
    for _ in range(200):
        loss = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_recomputed_activations_give_the_same_loss_and_gradients(p):
    model = random_model(Config(11, 12, 2, 3, 12, dropout=p))
    ids, results = random_ids((4, 13)), []
    for again in (False, True):
        if again:
            recompute_activations(model)
        torch.manual_seed(5)
        results.append(loss_and_gradients(model, ids[:, :-1], ids[:, 1:]))
    for kept, recomputed in zip(*results):
        assert_close(recomputed, kept)


def test_dropout_acts_in_training_only():
    model, ids = random_model(Config(11, 12, 2, 3, 12, dropout=0.5)), random_ids((2, 12))
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


# --- Dropout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.05, 0.1, 0.25, 0.5, 0.9])
def test_dropout_zeroes_a_fraction_p_and_keeps_the_mean(p):
    torch.manual_seed(0)
    y = dropout(torch.ones(100_001), p)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.01)
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert len(y.unique()) == 2  # nothing, or scaled up by one factor


def test_no_dropout_is_the_identity():
    x = torch.randn(3, 5)
    assert torch.equal(dropout(x, 0.0), x)


@pytest.mark.parametrize("p", [0.001, 0.998, 0.999])
def test_every_dropout_a_config_allows_gives_finite_numbers(p):
    assert dropout(torch.ones(1000), Config(dropout=p).dropout).isfinite().all()


def test_the_same_seed_drops_the_same_elements():
    x, results = torch.ones(3, 7, 11), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(dropout(x, 0.5))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_shape_and_type_and_lets_gradients_through_what_it_kept(dtype):
    x = torch.ones(5, 3, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    y = dropout(x, 0.5)
    y.sum().backward()
    assert y.dtype == dtype and y.shape == x.shape
    assert 0 < (y == 0).sum() < 15
    assert torch.equal(x.grad, y.detach())  # x is one, so its slope is the factor itself
