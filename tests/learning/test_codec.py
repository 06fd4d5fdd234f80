"""Codecs: how few bytes, how small an error, and nothing lost between one update and the next."""
import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gltch_2_7m import GLTCH, Config, GltchError
from hive.learning.codec import (
    BETWEEN,
    BLOCK,
    CHUNK,
    CODECS,
    HIGH,
    KEPT,
    LOW,
    ErrorFeedback,
    decode,
    decode_part,
    digest,
    encode,
    flatten,
    from_bytes,
    replaced,
    to_bytes,
    unflatten,
)
from hive.learning.outer import Outer, Rejected
from hive.learning.sync import Sync

quick = settings(deadline=None, max_examples=30)
every_codec = pytest.mark.parametrize("codec", list(CODECS))
lengths = pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 127, 128, 129, 1000, 4095, 4096,
                                             4097, 8191, 12345])
PARAMETERS = 2_708_736  # of GLTCH-2.7M
MEANING = {  # start of the SHA-256 of an update's bytes, and of the vector they stand for
    "fp32": ("3c2d3608942c6af4", "3c2d3608942c6af4"),
    "q4": ("f52dda3fa7f18b7b", "1751dbb1c20b784c"),
    "q2": ("4ea6830658ae0a4d", "0ab7f3021b9ad640"),
    "top64": ("876c16688a525ddf", "d584285a107371ff"),
}


def normal(length, seed=0, scale=1.0):
    return torch.randn(length, generator=torch.Generator().manual_seed(seed)) * scale


def passed(codec, vector):
    """The vector as it arrives on the other side."""
    return decode(codec, encode(codec, vector), len(vector))


def name_of(content):
    return hashlib.sha256(content).hexdigest()[:16]


def units(vector):
    """What q4 counts in, for each value: a seventh of the largest of its block."""
    return torch.cat([(block.abs().max() / 7).expand(len(block)) for block in vector.split(BLOCK)])


def same_bits(a, b):
    return a.dtype == b.dtype and to_bytes(a) == to_bytes(b)


# --- Tensors and bytes ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("length", [0, 1, 7, 300])
def test_tensors_become_bytes_and_the_same_tensors_again(dtype, length):
    values = (normal(length) * 50).abs().to(dtype)
    content = to_bytes(values)
    assert len(content) == length * values.element_size()
    assert torch.equal(from_bytes(content, dtype), values)


def test_bytes_are_little_endian_fp32():
    assert to_bytes(torch.tensor([1.0, -2.0])) == bytes.fromhex("0000803f 000000c0")


def test_a_transposed_tensor_is_written_in_its_own_order():
    values = torch.arange(6.0).view(2, 3).t()
    assert from_bytes(to_bytes(values)).tolist() == [0, 3, 1, 4, 2, 5]


def test_bytes_that_are_no_whole_number_of_values_are_refused():
    with pytest.raises(GltchError, match="7 bytes are not a whole number of values"):
        from_bytes(bytes(7))


def test_a_tensor_from_bytes_is_free_to_change():
    content = to_bytes(torch.ones(3))
    from_bytes(content).zero_()
    assert from_bytes(content).tolist() == [1, 1, 1]


@pytest.fixture
def model():
    torch.manual_seed(1)
    network = GLTCH(Config(vocab_size=11, block_size=16, n_layer=2, n_head=2, n_embd=16))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network


def test_a_model_is_flattened_in_the_order_of_its_parameters(model):
    vector, at = flatten(model), 0
    assert vector.dtype == torch.float32 and vector.dim() == 1
    for parameter in model.parameters():
        assert torch.equal(vector[at: at + parameter.numel()], parameter.detach().flatten())
        at += parameter.numel()
    assert at == len(vector)
    assert torch.equal(vector[: 11 * 16].view(11, 16), model.token_embedding.weight)
    assert torch.equal(vector[-11 * 16:].view(11, 16), model.head.weight)


def test_a_flat_vector_put_into_another_model_makes_it_the_same_model(model):
    other = GLTCH(model.config)
    unflatten(flatten(model), other)
    assert digest(flatten(other)) == digest(flatten(model))
    for (name, ours), (same, theirs) in zip(model.named_parameters(), other.named_parameters()):
        assert name == same and torch.equal(ours, theirs)
    ids = torch.arange(8).view(1, 8)
    assert torch.equal(model.eval()(ids), other.eval()(ids))


def test_flattening_copies_and_leaves_the_model_trainable(model):
    vector = flatten(model)
    vector.zero_()
    assert not vector.requires_grad and float(flatten(model).abs().sum()) > 0
    unflatten(vector, model)
    vector.fill_(1.0)
    assert float(flatten(model).abs().sum()) == 0
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("change", [-1, 1])
def test_a_vector_of_another_length_does_not_go_into_the_model(model, change):
    with pytest.raises(RuntimeError):
        unflatten(torch.zeros(len(flatten(model)) + change), model)


@quick
@given(st.integers(1, 40), st.data())
def test_the_digest_changes_with_any_single_bit(length, data):
    content = bytearray(to_bytes(normal(length)))
    before = digest(from_bytes(bytes(content)))
    assert before == hashlib.sha256(content).hexdigest()
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    assert digest(from_bytes(bytes(content))) != before


def test_the_digest_tells_plus_zero_from_minus_zero():
    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))


# --- Sizes ----------------------------------------------------------------------------------------


@every_codec
@lengths
def test_an_update_has_exactly_the_announced_size_and_every_value_comes_back(codec, length):
    vector = normal(length)
    content = encode(codec, vector)
    assert isinstance(content, bytes) and len(content) == CODECS[codec].size(length)
    decoded = decode(codec, content, length)
    assert decoded.shape == (length,) and decoded.dtype == torch.float32
    assert decoded.isfinite().all() and float(decoded.abs().max()) > 0


@pytest.mark.parametrize("codec, most", [("fp32", 4), ("q4", 0.55), ("q2", 0.3), ("top64", 0.05)])
def test_a_parameter_of_gltch_2_7m_costs_few_bytes(codec, most):
    assert 0 < CODECS[codec].size(PARAMETERS) / PARAMETERS <= most


@every_codec
@pytest.mark.parametrize("change", [-1, 1, "twice", "nothing"])
def test_an_update_of_another_length_is_refused_with_both_lengths(codec, change):
    content = encode(codec, normal(5000))
    wrong = {"twice": 2 * content, "nothing": b"", -1: content[:-1], 1: content + b"\0"}[change]
    with pytest.raises(GltchError) as error:
        decode(codec, wrong, 5000)
    for number in (5000, len(content), len(wrong)):
        assert f"{number:,}" in str(error.value)
    assert codec in str(error.value) and str(error.value).endswith(".")


@every_codec
def test_an_update_for_another_network_is_refused(codec):
    with pytest.raises(GltchError):
        decode(codec, encode(codec, normal(5000)), 9000)


@every_codec
@pytest.mark.parametrize("count", [1, CHUNK, 3 * CHUNK + 130])
def test_a_part_is_decoded_as_in_the_whole(codec, count):
    content = encode(codec, torch.randn(count))
    whole = decode(codec, content, count)
    for begin in range(0, count, 2 * CHUNK):
        part = slice(begin, min(begin + 2 * CHUNK, count))
        assert torch.equal(decode_part(codec, content, count, part), whole[part])


@pytest.mark.parametrize("codec", ["", "q3", "Q4", "fp32 ", "__class__"])
def test_an_unknown_codec_is_refused_with_the_known_ones(codec):
    with pytest.raises(GltchError) as error:
        decode(codec, bytes(4), 1)
    assert repr(codec) in str(error.value) and all(name in str(error.value) for name in CODECS)


# --- Errors ---------------------------------------------------------------------------------------


@lengths
def test_fp32_is_exact_to_the_last_bit(length):
    special = torch.tensor([0.0, -0.0, 1e-45, -3.4e38, torch.inf, torch.nan])
    vector = torch.cat([special, normal(length)])
    assert same_bits(passed("fp32", vector), vector)


@lengths
@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1.0, 1e30])
def test_q4_misses_by_at_most_half_a_unit_of_the_block(length, scale):
    vector = normal(length, scale=scale) * torch.logspace(-3, 3, length)  # blocks of many sizes
    error = (passed("q4", vector) - vector).abs()
    assert (error <= 0.5 * units(vector) * (1 + 2**-8)).all()  # the unit is rounded to bf16


@quick
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=300))
def test_q4_misses_by_at_most_half_a_unit_whatever_the_values(values):
    vector = torch.tensor(values)
    error = (passed("q4", vector) - vector).abs()
    assert (error <= 0.5 * units(vector) * (1 + 2**-8) + 1e-37).all()  # or too small for bf16


def test_q4_keeps_the_fifteen_levels_of_a_block_exactly():
    vector = torch.arange(-7.0, 8.0).repeat(9)[:BLOCK] * 0.25
    assert torch.equal(passed("q4", vector), vector)


def test_q2_sends_small_and_large_values_at_their_best_sizes():
    vector = torch.tensor([1.0, -1.0] * 32 + [3.0, -3.0] * 32)
    rms = vector.square().mean().sqrt().bfloat16().float()
    assert 1.0 < BETWEEN * rms < 3.0
    small, large = float(LOW * rms), float(HIGH * rms)
    expected = [small, -small] * 32 + [large, -large] * 32
    assert passed("q2", vector).tolist() == pytest.approx(expected, rel=1e-6)


def test_q2_loses_little_more_than_the_best_four_levels_of_a_normal_distribution():
    vector = normal(100 * BLOCK)
    error = (passed("q2", vector) - vector).square().mean() / vector.square().mean()
    assert 0.11 < float(error) < 0.125  # Lloyd and Max: 0.1175


def test_q2_keeps_every_sign():
    vector = normal(1000)
    assert torch.equal(passed("q2", vector) > 0, vector > 0)


@pytest.mark.parametrize("length", [CHUNK, 3 * CHUNK, 2 * CHUNK + 1000])
def test_top64_keeps_exactly_the_64_largest_places_of_each_chunk(length):
    vector = normal(length)
    for before, after in zip(vector.split(CHUNK), passed("top64", vector).split(CHUNK)):
        largest = before.abs().topk(KEPT).indices.sort().values
        assert torch.equal(after.nonzero().flatten(), largest)
        assert torch.equal(after[largest] > 0, before[largest] > 0)
        assert len(after[largest].abs().unique()) == 2


@quick
@given(st.sets(st.integers(0, CHUNK - 1), min_size=KEPT, max_size=KEPT), st.booleans(),
       st.integers(0, 2**31))
def test_top64_carries_any_64_places_of_twelve_bits(places, ends, seed):
    places = sorted(places)
    if ends and 0 not in places and CHUNK - 1 not in places:
        places[0], places[-1] = 0, CHUNK - 1
    signs = normal(KEPT, seed).sign()
    vector = torch.zeros(CHUNK)
    vector[places] = 0.5 * signs  # a bf16 number, so that nothing is rounded
    assert torch.equal(passed("top64", vector), vector)


def test_top64_sends_the_mean_sizes_of_the_smaller_and_of_the_larger_ones():
    vector = torch.zeros(CHUNK)
    vector[::128], vector[64::128] = 1.0, -8.0  # 32 and 32
    vector[0], vector[128], vector[64], vector[192] = 0.5, 1.5, -6.0, -10.0
    decoded = passed("top64", vector)
    assert (decoded[::128] == 1).all() and (decoded[64::128] == -8).all()


@pytest.mark.parametrize("codec", ["q4", "q2", "top64"])
@pytest.mark.parametrize("length", [1, 50, 129, 4097, 20_000])
def test_what_arrives_is_nearer_to_the_update_than_nothing_at_all(codec, length):
    vector = normal(length)  # so error feedback cannot grow without end
    assert float((passed(codec, vector) - vector).norm()) < 0.95 * float(vector.norm())


@every_codec
@pytest.mark.parametrize("length", [1, 129, 5000])
def test_zeros_stay_zeros(codec, length):
    assert (passed(codec, torch.zeros(length)) == 0).all()


@pytest.mark.parametrize("codec, size", [("q4", BLOCK), ("q2", BLOCK), ("top64", CHUNK)])
@pytest.mark.parametrize("block", [0, 1, 2, 3])
def test_blocks_do_not_influence_each_other(codec, size, block):
    vector = normal(3 * size + 100)
    own = torch.arange(len(vector)) // size == block
    before, after = passed(codec, vector), passed(codec, torch.where(own, -1000 * vector, vector))
    assert torch.equal(before[~own], after[~own])
    assert not torch.equal(before[own], after[own])


@every_codec
@pytest.mark.parametrize("scale", [3.4e38, 1e30, 1e15, 1e-15, 1e-30, 1e-38, 1e-40, 1e-45])
def test_huge_and_tiny_values_never_become_nan(codec, scale):
    vector = normal(5000).clamp(-1, 1) * scale
    decoded = passed(codec, vector)
    assert not decoded.isnan().any()
    if scale <= 1e15:
        assert float(decoded.abs().max()) <= 1.6 * scale


@every_codec
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 127, 4095, 4999])
def test_an_update_that_is_not_finite_arrives_as_one_that_is_refused(codec, value, place):
    vector = normal(5000)
    vector[place] = value
    content = encode(codec, vector)
    assert not decode(codec, content, 5000).isfinite().all()
    with pytest.raises(Rejected, match="not finite"):
        Outer(torch.zeros(5000), Sync(up=codec)).add(codec, content, 1.0, 1)


# --- Any bytes ------------------------------------------------------------------------------------


@every_codec
@quick
@given(length=st.integers(1, 9000), seed=st.binary(max_size=40))
def test_any_bytes_of_the_right_length_decode_to_one_vector(codec, length, seed):
    size = CODECS[codec].size(length)
    content = hashlib.shake_128(seed).digest(size) if seed else b"\xff" * size
    decoded = decode(codec, content, length)
    assert decoded.shape == (length,) and decoded.dtype == torch.float32
    assert same_bits(decode(codec, content, length), decoded)


@every_codec
@quick
@given(content=st.binary(max_size=400), length=st.integers(1, 300))
def test_bytes_decode_or_are_refused(codec, content, length):
    try:
        assert len(decode(codec, content, length)) == length
        assert len(content) == CODECS[codec].size(length)
    except GltchError:
        assert len(content) != CODECS[codec].size(length)


@every_codec
def test_the_bytes_of_an_update_mean_the_same_on_every_machine_and_in_every_version(codec):
    row = torch.arange(5000)
    sizes = (row * 7919 % CHUNK + 1).float() / 1024  # all different, so that no two are a tie
    vector = torch.where(row * 31 % 3 > 0, sizes, -sizes)
    content = encode(codec, vector)
    assert (name_of(content), digest(decode(codec, content, 5000))[:16]) == MEANING[codec]


@pytest.mark.parametrize("codec", ["fp32", "q4", "top64"])  # q2 measures its levels anew each time
@pytest.mark.parametrize("length", [64, 200, 4096, 4096 + 500])
def test_what_arrived_can_be_sent_on_without_a_further_loss(codec, length):
    once = passed(codec, normal(length))
    assert torch.equal(passed(codec, once), once)


@every_codec
def test_encoding_leaves_the_vector_as_it_was(codec):
    vector = normal(5000)
    encode(codec, vector)
    assert same_bits(vector, normal(5000))


@every_codec
def test_what_was_decoded_shares_no_memory_with_the_bytes(codec):
    content = encode(codec, normal(5000))
    decode(codec, content, 5000).fill_(9.0)
    assert content == encode(codec, normal(5000))


# --- Error feedback -------------------------------------------------------------------------------

fates = st.lists(st.booleans(), min_size=1, max_size=8)


@every_codec
@quick
@given(counted=fates, seed=st.integers(0, 2**31), length=st.sampled_from([1, 200, 5000]))
def test_what_was_counted_and_what_is_left_add_up_to_all_updates(codec, counted, seed, length):
    feedback, updates, arrived = ErrorFeedback(length), torch.zeros(length), torch.zeros(length)
    for i, fate in enumerate(counted):
        update = normal(length, seed + i)
        updates += update
        content = feedback.encode(codec, update)
        feedback.settle(fate)
        if fate:
            arrived += decode(codec, content, length)
    assert torch.allclose(arrived + feedback.residual, updates, atol=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.95])
def test_with_beta_the_rest_fades_from_round_to_round(beta):
    feedback, rest = ErrorFeedback(200, beta), torch.zeros(200)
    for i, counted in enumerate([True, True, False, True]):
        rest = beta * rest + normal(200, i)
        content = feedback.encode("q2", normal(200, i))
        assert content == encode("q2", rest)
        feedback.settle(counted)
        if counted:
            rest = rest - decode("q2", content, 200)
        assert torch.allclose(feedback.residual, rest, atol=1e-6)


@every_codec
def test_an_update_that_is_never_settled_stays_whole(codec):
    feedback = ErrorFeedback(5000)
    feedback.encode(codec, normal(5000, 1))
    feedback.encode(codec, normal(5000, 2))
    assert torch.equal(feedback.residual, normal(5000, 1) + normal(5000, 2))


def test_only_the_latest_of_two_encoded_updates_is_settled():
    feedback = ErrorFeedback(200)
    feedback.encode("q4", normal(200, 1))
    content = feedback.encode("q4", normal(200, 2))
    feedback.settle(counted=True)
    expected = normal(200, 1) + normal(200, 2) - decode("q4", content, 200)
    assert torch.equal(feedback.residual, expected)


@pytest.mark.parametrize("first, second", [(True, True), (True, False), (False, True)])
def test_settling_twice_does_no_harm(first, second):
    feedback = ErrorFeedback(200)
    feedback.encode("q4", normal(200))
    feedback.settle(first)
    left = feedback.residual.clone()
    feedback.settle(second)
    assert torch.equal(feedback.residual, left)


def test_settling_before_anything_was_sent_does_no_harm():
    feedback = ErrorFeedback(200)
    feedback.settle(counted=True)
    assert torch.equal(feedback.residual, torch.zeros(200))


def test_fp32_leaves_nothing_behind():
    feedback = ErrorFeedback(200)
    feedback.encode("fp32", normal(200))
    feedback.settle(counted=True)
    assert (feedback.residual == 0).all()


@pytest.mark.parametrize("codec, value", [("q4", 0.02), ("q2", 0.02), ("top64", 0.5)])
def test_a_value_too_small_to_be_sent_at_once_arrives_in_the_end(codec, value):
    update = normal(CHUNK)
    update[7] = value  # below half a unit, and never among the 64 largest
    feedback, arrived, rounds = ErrorFeedback(CHUNK), torch.zeros(CHUNK), 400
    for _ in range(rounds):
        arrived += decode(codec, feedback.encode(codec, update), CHUNK)
        feedback.settle(counted=True)
    assert float(arrived[7]) / rounds == pytest.approx(value, rel=0.3)
    assert float((arrived / rounds - update).norm()) < 0.1 * float(update.norm())


def test_the_update_given_to_error_feedback_stays_as_it_was():
    update = normal(200)
    feedback = ErrorFeedback(200)
    feedback.encode("q4", update)
    feedback.settle(counted=True)
    assert torch.equal(update, normal(200))


def test_what_is_forgotten_does_not_come_back():
    feedback = ErrorFeedback(200)
    feedback.encode("q4", normal(200, 1))
    feedback.forget()
    feedback.settle(counted=True)  # of what was sent before
    assert torch.equal(feedback.residual, torch.zeros(200))
    assert feedback.encode("q4", normal(200, 2)) == encode("q4", normal(200, 2))


# --- Parts ----------------------------------------------------------------------------------------

PARTS = [slice(0, 256), slice(256, 512), slice(512, 700)]


@every_codec
def test_a_part_is_sent_as_if_it_were_alone(codec):
    feedback, alone = ErrorFeedback(700, 0.9), [ErrorFeedback(256, 0.9) for _ in PARTS]
    alone[2] = ErrorFeedback(188, 0.9)
    for i, counted in enumerate([True, False, True, True, True, False, True, True]):
        part, other = PARTS[i % 3], alone[i % 3]
        update = normal(part.stop - part.start, i)
        assert feedback.encode(codec, update, part) == other.encode(codec, update)
        feedback.settle(counted, part)
        other.settle(counted)
        assert torch.equal(feedback.residual, torch.cat([one.residual for one in alone]))


def test_what_is_absorbed_comes_with_the_next_update_of_its_part():
    feedback = ErrorFeedback(700)
    feedback.absorb(normal(700, 1))
    content = feedback.encode("fp32", normal(256, 2), PARTS[1])
    assert content == encode("fp32", normal(700, 1)[PARTS[1]] + normal(256, 2))
    feedback.settle(True, PARTS[1])
    expected = normal(700, 1)
    expected[PARTS[1]] = 0
    assert torch.equal(feedback.residual, expected)


def test_what_is_absorbed_while_an_update_is_on_its_way_is_not_settled_with_it():
    feedback = ErrorFeedback(700)
    feedback.encode("fp32", normal(256, 1), PARTS[0])
    feedback.absorb(normal(700, 2))
    feedback.settle(True, PARTS[0])
    assert torch.allclose(feedback.residual, normal(700, 2), atol=1e-6)


@every_codec
@pytest.mark.parametrize("fates", [(True, False), (False, True), (True, True)])
def test_updates_of_several_parts_are_settled_each_for_itself(codec, fates):
    feedback = ErrorFeedback(700)
    sent = [feedback.encode(codec, normal(256, i), PARTS[i]) for i in range(2)]
    for i in (1, 0):
        feedback.settle(fates[i], PARTS[i])
        left = normal(256, i) - decode(codec, sent[i], 256) if fates[i] else normal(256, i)
        assert torch.equal(feedback.residual[PARTS[i]], left)


def test_what_is_on_its_way_of_another_part_is_not_forgotten():
    feedback = ErrorFeedback(700)
    for i in range(2):
        feedback.encode("q4", normal(256, i), PARTS[i])
    feedback.forget([PARTS[1]])
    assert torch.equal(feedback.residual[:512], torch.cat([normal(256, 0), torch.zeros(256)]))
    feedback.settle(True, PARTS[1])
    feedback.settle(False, PARTS[0])
    assert torch.equal(feedback.residual[:512], torch.cat([normal(256, 0), torch.zeros(256)]))


@pytest.mark.parametrize("part", [*PARTS, slice(0, 1), slice(699, 700), slice(0, 700)])
def test_a_part_of_a_network_can_be_read_and_written_alone(part):
    network = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Linear(30, 2),
                                  torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(4, 1))
    unflatten(normal(701), network)
    assert torch.equal(flatten(network, part), normal(701)[part])
    values = normal(part.stop - part.start, 1)
    unflatten(values, network, part)
    assert torch.equal(flatten(network), replaced(normal(701), part, values))


def test_values_that_do_not_fit_a_part_are_not_written():
    network = torch.nn.Linear(10, 10)
    with pytest.raises(RuntimeError):
        unflatten(normal(5), network, slice(0, 6))


def test_a_vector_of_which_a_part_is_replaced_stays_as_it_was():
    vector = normal(700)
    after = replaced(vector, PARTS[1], normal(256, 1))
    assert torch.equal(vector, normal(700)) and torch.equal(after[PARTS[1]], normal(256, 1))
    assert torch.equal(after[:256], vector[:256]) and torch.equal(after[512:], vector[512:])
