"""Codecs: whatever bytes come in and whatever numbers go out, the arithmetic keeps its promises."""
import math

import pytest
import torch
from fuzzing import changes, damage, fuzz
from hypothesis import strategies as st

from gltch_2_7m import GltchError
from hive.learning.codec import BLOCK, CODECS, KEPT, ErrorFeedback, decode, encode, to_bytes

every_codec = pytest.mark.parametrize("codec", list(CODECS))
LARGEST = torch.finfo(torch.float32).max
EXTREMES = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1.17549435e-38, 1e38, -1e38, 1e30, 1e-30, LARGEST,
            -LARGEST, 6.0, 7.5]
lengths = st.integers(1, 300) | st.sampled_from([127, 128, 129, 4095, 4096, 4097, 8193])


finite = st.sampled_from(EXTREMES) | st.floats(width=32, allow_nan=False, allow_infinity=False)
usual = st.floats(-2.0**100, 2.0**100, width=32)


@st.composite
def vectors(draw, values=finite):
    """Vectors of any length that repeat a few values, with one of them somewhere."""
    length, few = draw(lengths), draw(st.lists(values, min_size=1, max_size=40))
    vector = torch.tensor(few).repeat(-(-length // len(few)))[:length].contiguous()
    vector[draw(st.integers(0, length - 1))] = draw(values)
    return vector


def same(a, b):
    """Equal to the last bit, also where they are not numbers."""
    return to_bytes(a) == to_bytes(b)


@every_codec
@fuzz(60, length=lengths, content=st.binary(max_size=300), longer=st.integers(-3, 3))
def test_any_bytes_are_one_vector_of_the_right_length_or_refused(codec, length, content, longer):
    size = CODECS[codec].size(length)
    content = (content * (1 + size // max(1, len(content))) or bytes(size))[: max(0, size + longer)]
    try:
        vector = decode(codec, content, length)
    except GltchError as error:
        assert len(content) != size and f"{size:,}" in str(error)
    else:
        assert len(content) == size
        assert vector.shape == (length,) and vector.dtype == torch.float32


@every_codec
@fuzz(40, vector=vectors(), how=changes)
def test_a_damaged_update_is_one_of_the_right_length_or_refused(codec, vector, how):
    try:
        assert decode(codec, damage(encode(codec, vector), how), len(vector)).shape == vector.shape
    except GltchError:
        pass  # another length


@every_codec
@fuzz(60, vector=vectors())
def test_any_finite_vector_arrives_without_a_nan_and_is_left_as_it_was(codec, vector):
    before, content = vector.clone(), encode(codec, vector)
    assert same(vector, before) and len(content) == CODECS[codec].size(len(vector))
    arrived = decode(codec, content, len(vector))
    assert arrived.shape == vector.shape and not arrived.isnan().any()


@every_codec
@fuzz(40, vector=vectors(), place=st.floats(0, 1, exclude_max=True),
      value=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_not_finite_never_arrives_as_if_it_were(codec, vector, place, value):
    vector[int(place * len(vector))] = value
    assert not math.isfinite(decode(codec, encode(codec, vector), len(vector)).norm())


@fuzz(60, vector=vectors(st.floats(width=32)))
def test_fp32_is_exact_whatever_the_bits(vector):
    assert same(decode("fp32", encode("fp32", vector), len(vector)), vector)


@fuzz(60, vector=vectors(usual))
def test_q4_misses_by_half_a_unit_at_most(vector):
    arrived = decode("q4", encode("q4", vector), len(vector))
    for block, sent in zip(vector.split(BLOCK), arrived.split(BLOCK)):
        unit = float((block.abs().max() / 7).bfloat16())
        if unit > 1e-30:  # below, its inverse is no longer exact
            assert float((block - sent).abs().max()) <= unit * (0.5 + 7 * 2**-8)


@fuzz(60, vector=vectors())
def test_q4_and_q2_send_no_value_with_the_other_sign(vector):
    for codec in ("q4", "q2"):
        arrived = decode(codec, encode(codec, vector), len(vector))
        assert not (arrived.sign() * vector.sign() < 0).any()


@fuzz(40, vector=vectors(usual))
def test_top64_sends_64_values_of_a_chunk_at_most_and_the_largest_is_among_them(vector):
    arrived = decode("top64", encode("top64", vector), len(vector))
    for chunk, sent in zip(vector.split(4096), arrived.split(4096)):
        assert int((sent != 0).sum()) <= KEPT
        if float(chunk.abs().max()) > 1e-30:
            assert (sent[chunk.abs() == chunk.abs().max()] != 0).any()


@pytest.mark.parametrize("codec", ["fp32", "q4"])
@fuzz(40, vector=vectors(
    usual.filter(lambda value: value == 0 or abs(value) > 1e-30)))
def test_what_arrived_and_is_sent_again_arrives_the_same(codec, vector):
    """The others take the mean of what they send anew."""
    arrived = decode(codec, encode(codec, vector), len(vector))
    assert torch.equal(decode(codec, encode(codec, arrived), len(vector)), arrived)


@every_codec
@fuzz(40, updates=st.lists(st.sampled_from(EXTREMES[:11]) | usual,
                           min_size=1, max_size=5),
      length=lengths, counted=st.lists(st.booleans(), min_size=5, max_size=5))
def test_error_feedback_keeps_what_was_not_sent_to_the_last_bit(codec, updates, length, counted):
    feedback = ErrorFeedback(length)
    for value, counts in zip(updates, counted):
        update = torch.linspace(-1, 1, length) * value
        whole = feedback.residual + update
        content = feedback.encode(codec, update)
        assert same(feedback.residual, whole)  # until somebody says that it counted
        feedback.settle(counts)
        assert same(feedback.residual, whole - decode(codec, content, length) if counts else whole)
        if counts and codec == "fp32":
            assert not feedback.residual.any()
