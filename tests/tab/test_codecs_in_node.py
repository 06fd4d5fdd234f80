"""Updates in JavaScript and in Python: the same bytes, and the same numbers from them."""
import base64

import pytest
import torch
from in_node import base64_of

from hive.learning.codec import CODECS, ErrorFeedback, decode, digest, encode, to_bytes
from hive.learning.fragments import Fragments
from hive.learning.outer import apply_update

every_codec = pytest.mark.parametrize("codec", list(CODECS))


def normal(count, seed):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def of_many_sizes(count, seed):
    """Ten decades, block by block and within them."""
    decades = 10.0 ** torch.linspace(-6, 3, count).repeat_interleave(2)[::2]
    return normal(count, seed) * decades * 10.0 ** normal(count, seed + 1)


def with_zeros(count, seed):
    """Single ones, and whole blocks of them."""
    values = normal(count, seed)
    values[::3] = 0
    values[count // 2: 3 * count // 4] = 0
    values[1::7] = -0.0
    return values


def denormal(count, seed):
    """Around and below the smallest normal number."""
    return normal(count, seed) * 10.0 ** (-37 - 8 * torch.rand(
        count, generator=torch.Generator().manual_seed(seed)))


KINDS = [normal, of_many_sizes, with_zeros, denormal, lambda count, seed: torch.zeros(count)]


def told(codec, beta, count, fragments, updates):
    return {"codec": codec, "beta": beta, "count": count, "fragments": fragments,
            "updates": [{"part": part, "update": base64_of(to_bytes(update)), "counted": counted}
                        for part, update, counted in updates]}


def made(codec, beta, count, fragments, updates):
    feedback, parts = ErrorFeedback(count, beta), Fragments(count, fragments).parts
    for part, update, counted in updates:
        content = feedback.encode(codec, update, parts[part])
        decoded = decode(codec, content, len(update))
        feedback.settle(counted, parts[part])
        yield content, to_bytes(decoded), to_bytes(feedback.residual)


@every_codec
def test_updates_and_what_they_leave_are_bit_for_bit_those_of_python(ask, codec):
    questions = []
    for number, count in enumerate((1, 127, 128, 300, 4096, 13_000)):
        for seed, kind in enumerate(KINDS):
            sizes = [part.stop - part.start for part in Fragments(count, 3).parts]
            updates = [(n % len(sizes), kind(sizes[n % len(sizes)], 100 * number + 10 * seed + n),
                        n != 2) for n in range(6)]
            questions.append((codec, (1.0, 0.95)[number % 2], count, 3, updates))
    for question, answers in zip(questions, ask("feedback", [told(*q) for q in questions])):
        for answer, expected in zip(answers, made(*question)):
            assert tuple(map(base64.b64decode, answer.values())) == expected


@every_codec
def test_a_committed_update_leads_to_the_same_weights(ask, codec):
    weights, part = normal(9000, 1), slice(128, 8320)
    content = encode(codec, of_many_sizes(part.stop - part.start, 2))
    expected = apply_update(weights, codec, content, part)
    answer, = ask("apply", [{"weights": base64_of(to_bytes(weights)), "codec": codec, "content":
                             base64_of(content), "part": {"start": 128, "stop": 8320}}])
    assert base64.b64decode(answer["weights"]) == to_bytes(expected)
    assert answer["digest"] == digest(expected)
