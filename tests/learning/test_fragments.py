"""The weights in parts: together they are everything, and each has its turn."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gltch_2_7m import GltchError
from hive.learning.codec import BLOCK
from hive.learning.fragments import Fragments
from hive.learning.sync import MOST_FRAGMENTS, Sync

quick = settings(deadline=None, max_examples=200)
counts, numbers = st.integers(1, 100_000), st.integers(1, MOST_FRAGMENTS)


@quick
@given(counts, numbers)
def test_the_parts_are_the_whole_and_none_is_empty(count, number):
    parts = Fragments(count, number).parts
    assert parts[0].start == 0 and parts[-1].stop == count
    assert all(one.stop == next_one.start for one, next_one in zip(parts, parts[1:]))
    assert all(part.start < part.stop for part in parts)


@quick
@given(counts, numbers)
def test_no_block_of_a_codec_is_cut_and_no_part_is_larger_by_more_than_a_block(count, number):
    parts = Fragments(count, number).parts
    assert all(part.start % BLOCK == 0 for part in parts)
    blocks = [-(-(part.stop - part.start) // BLOCK) for part in parts]
    assert max(blocks) - min(blocks) <= 1


@quick
@given(counts, numbers)
def test_there_are_as_many_as_asked_for_if_there_is_a_block_for_each(count, number):
    assert len(Fragments(count, number)) == min(number, -(-count // BLOCK))


@quick
@given(counts, numbers, st.integers(1, 10**6))
def test_so_many_rounds_in_a_row_change_everything_once(count, number, first):
    fragments = Fragments(count, number)
    rounds = range(first, first + len(fragments))
    changed = sorted((fragments.of_round(n) for n in rounds), key=lambda part: part.start)
    assert changed == fragments.parts
    assert sum(map(fragments.values, rounds)) == count
    assert fragments.of_round(1) == fragments.parts[0]


def test_one_part_is_everything_in_every_round():
    fragments = Fragments(1000, 1)
    assert [fragments.of_round(n) for n in (1, 2, 99)] == [slice(0, 1000)] * 3


@pytest.mark.parametrize("number", [0, MOST_FRAGMENTS + 1, -1, True, 2.0, "2", None])
def test_nobody_has_another_number_of_parts(number):
    with pytest.raises(GltchError, match="fragments must be"):
        Sync(fragments=number)
