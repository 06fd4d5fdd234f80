"""Generation: the cache changes nothing, choices follow their settings, texts end where asked."""
import math
import re
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import gltch_2_7m as gltch
from gltch_2_7m import (
    GLTCH,
    Config,
    Decoder,
    FastDecoder,
    GltchError,
    Vocabulary,
    choose,
    generate,
    generate_batch,
    generate_ids,
    generate_naively,
)

TINY = Config(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=16, dropout=0.5)
VOCABULARY = Vocabulary("\n abcdefghi")
quick = settings(deadline=None, max_examples=50)


def random_model(config=TINY, seed=0):
    """Every weight random, so that greedy texts vary; in double precision, so that none ties."""
    model, generator = GLTCH(config).double().eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(0.5 * noise) if p.dim() == 2 else p.add_(0.1 * noise)
    return model


MODEL = random_model()


def random_ids(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(TINY.vocab_size, shape, generator=generator)


def written(ids, length, model=MODEL, **options):
    """What generate_ids adds, (B, length)."""
    return torch.stack(list(generate_ids(model, ids, length, **options)), 1)


@torch.no_grad()
def naive_greedy(ids, length, window):
    """Greedy writing by the whole network each time; `window` maps the text to what it sees."""
    text = ids
    for _ in range(length):
        text = torch.cat([text, MODEL(window(text))[:, -1].argmax(-1, keepdim=True)], 1)
    return text[:, ids.size(1):]


# --- The cache ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("prompt", range(1, TINY.block_size + 1))
@pytest.mark.parametrize("kind", [Decoder, FastDecoder])
def test_cached_logits_equal_the_whole_network_at_every_step(kind, prompt, dtype, tolerance):
    model, ids = random_model().to(dtype), random_ids(3, TINY.block_size)
    with torch.no_grad():
        expected, decoder = model(ids), kind(model, 3)
        assert_close(decoder(ids[:, :prompt]), expected[:, prompt - 1], rtol=0, atol=tolerance)
        for t in range(prompt, TINY.block_size):
            assert_close(decoder(ids[:, t:t + 1]), expected[:, t], rtol=0, atol=tolerance)


@pytest.mark.parametrize("prompt", [1, 3, 7, 8])
@pytest.mark.parametrize("overflow", ["exact", "reencode"])
def test_up_to_the_context_length_writing_equals_the_naive_way(prompt, overflow):
    ids, length = random_ids(4, prompt), TINY.block_size - prompt + 1
    expected = naive_greedy(ids, length, lambda text: text)
    assert torch.equal(written(ids, length, temperature=0, overflow=overflow), expected)


@pytest.mark.parametrize("prompt", [1, 5, 8, 9, 30])
def test_exact_equals_the_naive_way_of_the_lesson(prompt):
    ids = random_ids(3, prompt)
    expected = generate_naively(MODEL, ids, 40, temperature=0)[:, prompt:]
    assert torch.equal(written(ids, 40, temperature=0, overflow="exact"), expected)


@pytest.mark.parametrize("prompt", [1, 5, 8, 9, 30])
def test_exact_equals_a_sliding_window_far_past_the_context(prompt):
    ids = random_ids(3, prompt)
    expected = naive_greedy(ids, 40, lambda text: text[:, -TINY.block_size:])
    assert torch.equal(written(ids, 40, temperature=0, overflow="exact"), expected)


@pytest.mark.parametrize("block_size", [1, 2, 7, 8])
@pytest.mark.parametrize("prompt", [1, 5, 8, 9, 30])
def test_reencode_keeps_the_newer_half_whenever_the_context_is_full(prompt, block_size):
    model = random_model(Config(11, block_size, 2, 2, 16))
    ids, text, seen, expected = random_ids(3, prompt), random_ids(3, prompt)[:, -block_size:], 0, []
    with torch.no_grad():
        for _ in range(40):
            if text.size(1) > block_size:
                text = text[:, -max(1, block_size // 2):]
            expected.append(model(text)[:, -1].argmax(-1))
            text = torch.cat([text, expected[-1][:, None]], 1)
            seen = max(seen, text.size(1))
    assert seen == block_size + 1
    assert torch.equal(written(ids, 40, model, temperature=0), torch.stack(expected, 1))


def test_the_two_overflows_differ_past_the_context():
    ids = random_ids(4, 8)
    texts = [written(ids, 40, temperature=0, overflow=name) for name in ("exact", "reencode")]
    assert not torch.equal(*texts)


# --- Choosing -------------------------------------------------------------------------------------


def draw(logits, temperature=1.0, top_k=None, top_p=None, penalty=1.0, recent=(), seed=0, n=1):
    """`n` draws from one row of logits."""
    row = torch.tensor([logits], dtype=torch.float64).expand(n, -1)
    seen = torch.tensor([recent], dtype=torch.long).expand(n, -1)
    generator = torch.Generator().manual_seed(seed)
    return choose(row, seen, temperature, top_k, top_p, penalty, generator)


def assert_drawn_from(drawn, chances):
    """A chi-square test: what was drawn is as far from the chances as luck takes it."""
    counts = torch.bincount(drawn, minlength=len(chances)).double()
    expected = torch.tensor(chances, dtype=torch.float64) * len(drawn)
    assert not counts[expected == 0].any()
    possible = expected > 0
    distance = ((counts - expected)[possible]**2 / expected[possible]).sum().item()
    freedom = int(possible.sum()) - 1
    assert distance < freedom + 4 * math.sqrt(2 * freedom) + 4


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_characters_are_drawn_as_often_as_the_softmax_says(temperature):
    logits = [1.0, -2.0, 0.3, 0.0, 2.0]
    chances = (torch.tensor(logits) / temperature).softmax(0).tolist()
    assert_drawn_from(draw(logits, temperature, n=20_000), chances)


@pytest.mark.parametrize("limits, chances", [
    ({}, [0.4, 0.1, 0.3, 0.2]),
    ({"top_k": 4}, [0.4, 0.1, 0.3, 0.2]),
    ({"top_k": 1000}, [0.4, 0.1, 0.3, 0.2]),
    ({"top_p": 1}, [0.4, 0.1, 0.3, 0.2]),
    ({"top_k": 2}, [4 / 7, 0, 3 / 7, 0]),
    ({"top_p": 0.65}, [4 / 7, 0, 3 / 7, 0]),
    ({"top_p": 0.75}, [4 / 9, 0, 3 / 9, 2 / 9]),
    ({"top_k": 1}, [1, 0, 0, 0]),
    ({"top_p": 1e-9}, [1, 0, 0, 0]),
    ({"top_k": 3, "top_p": 0.6}, [4 / 7, 0, 3 / 7, 0]),
])
def test_top_k_and_top_p_leave_the_likeliest_with_their_proportions(limits, chances):
    logits = [math.log(c) for c in (0.4, 0.1, 0.3, 0.2)]
    assert_drawn_from(draw(logits, n=5000, **limits), chances)


def test_rows_are_chosen_from_independently():
    logits = torch.tensor([[0.0, 9.0, 1.0], [9.0, 0.0, 1.0], [0.0, 1.0, 9.0]])
    none = torch.empty(3, 0, dtype=torch.long)
    for options in ((0.0, None, None), (1.0, 1, None), (1.0, None, 1e-9)):
        assert choose(logits, none, *options, 1.0, None).tolist() == [1, 0, 2]


def test_temperature_zero_takes_the_likeliest():
    assert draw([0.1, 3.0, 2.9], temperature=0, n=50).unique().tolist() == [1]


@pytest.mark.parametrize("temperature", [1e-3, 1e-8, 1e-320, 1e300])
def test_the_smallest_and_largest_temperatures_still_choose_a_character(temperature):
    row = torch.tensor([[0.1, 30.0, -29.0]])  # float32, as in use
    none = torch.empty(1, 0, dtype=torch.long)
    assert choose(row, none, temperature, None, None, 1.0, None).item() in range(3)


def test_the_penalty_divides_positive_and_multiplies_negative_scores_of_recent_characters():
    assert draw([2.0, 1.5, 0.0], temperature=0, penalty=1.0, recent=[0]).item() == 0
    assert draw([2.0, 1.5, 0.0], temperature=0, penalty=2.0, recent=[0, 0]).item() == 1
    assert draw([2.0, 1.5, 0.0], temperature=0, penalty=2.0, recent=[2]).item() == 0
    assert draw([-1.0, -1.5, -9.0], temperature=0, penalty=2.0, recent=[0]).item() == 1
    chances = torch.tensor([2.0 / 4, 1.0, -1.0 * 4]).softmax(0).tolist()
    assert_drawn_from(draw([2.0, 1.0, -1.0], penalty=4.0, recent=[0, 2], n=5000), chances)


def test_the_repetition_penalty_lowers_repeats():
    def repeats(penalty):
        ids = written(random_ids(20, 1), 30, repetition_penalty=penalty, seed=0)
        return sum(30 - len(set(row)) for row in ids.tolist())

    assert repeats(3.0) < repeats(1.0)


def test_the_penalty_looks_at_the_64_newest_characters():
    model, recent = random_model(Config(11, 80, 1, 1, 8)), []

    def spy(logits, characters, *options):
        recent.append(characters)
        return choose(logits, characters, *options)

    ids = random_ids(2, 70)
    with mock.patch.object(gltch, "choose", spy):
        text = torch.cat([ids, written(ids, 30, model, seed=0)], 1)
    assert all(torch.equal(recent[i], text[:, i + 6: i + 70]) for i in range(30))


# --- Settings of a text ---------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9},
    {"temperature": 0, "top_k": 5, "top_p": 0.5}])
def test_every_way_to_be_greedy_writes_the_likeliest_text(options):
    ids = random_ids(3, 4)
    expected = naive_greedy(ids, 20, lambda text: text[:, -TINY.block_size:])
    assert torch.equal(written(ids, 20, overflow="exact", **options), expected)


@pytest.mark.parametrize("options", [{"top_k": 11}, {"top_k": 10**6}, {"top_p": 1.0}])
def test_a_limit_that_excludes_nothing_changes_nothing(options):
    ids = random_ids(3, 4)
    assert torch.equal(written(ids, 20, seed=1, **options), written(ids, 20, seed=1))


def test_the_same_seed_writes_the_same_text_and_another_seed_another():
    texts = ["".join(generate(MODEL, VOCABULARY, "a", 40, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_without_a_seed_every_text_is_another_and_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    assert not torch.equal(written(random_ids(1, 1), 40), written(random_ids(1, 1), 40))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name, values", [
    ("length", (-1,)), ("temperature", (-0.1, math.nan, math.inf)), ("top_k", (0, -1)),
    ("top_p", (0, -0.5, 1.1, math.nan)), ("repetition_penalty", (0, -1, math.nan, math.inf)),
    ("overflow", ("slide", ""))])
def test_a_setting_that_makes_no_sense_is_refused_in_a_sentence(name, values):
    for value in values:
        options = {"length": 5, name: value}
        with pytest.raises(GltchError) as error:
            list(generate(MODEL, VOCABULARY, "a", **options))
        text = str(error.value)
        assert name in text and str(value) in text and text.endswith(".")
        with pytest.raises(GltchError, match=re.escape(text)):
            generate_batch(MODEL, VOCABULARY, "a", 2, **options)


def test_a_prompt_with_characters_the_model_does_not_know_names_them():
    with pytest.raises(GltchError, match="'!'"):
        list(generate(MODEL, VOCABULARY, "a!"))


def test_a_prompt_can_be_rid_of_what_the_model_does_not_know_with_a_warning(capsys):
    assert gltch.known_part(VOCABULARY, "a bad! end?") == "a bad ed"
    assert "'!', '?', 'n'" in capsys.readouterr().err
    assert gltch.known_part(VOCABULARY, "a bad") == "a bad"
    assert capsys.readouterr().err == ""


# --- Texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", "a", "abc def", "abcdefghi" * 9])
@pytest.mark.parametrize("length", [0, 1, 7, 50])
def test_a_text_has_exactly_the_length_asked_for(prompt, length):
    for overflow in ("exact", "reencode"):
        pieces = generate(MODEL, VOCABULARY, prompt, length, overflow=overflow)
        assert len("".join(pieces)) == length
    assert [len(t) for t in generate_batch(MODEL, VOCABULARY, prompt, 3, length)] == [length] * 3


def test_every_character_is_a_piece_of_its_own_as_soon_as_it_is_written():
    pieces = generate(MODEL, VOCABULARY, "a", 5)
    assert [len(next(pieces)) for _ in range(5)] == [1] * 5


def test_an_empty_prompt_goes_on_as_after_a_line_end():
    empty, newline = ("".join(generate(MODEL, VOCABULARY, prompt, 30, seed=3))
                      for prompt in ("", "\n"))
    assert empty == newline
    without_newline = Vocabulary("abcdefghijk")
    assert len("".join(generate(MODEL, without_newline, "", 30))) == 30


def test_only_the_newest_context_of_a_long_prompt_matters():
    long, short = ("".join(generate(MODEL, VOCABULARY, prompt, 30, seed=3))
                   for prompt in ("i" * 50 + "abcdefgh", "abcdefgh"))
    assert long == short


def test_a_batch_holds_as_many_different_texts_as_asked_for():
    texts = generate_batch(MODEL, VOCABULARY, "ab", 5, 40, seed=1)
    assert len(set(texts)) == 5
    assert texts == generate_batch(MODEL, VOCABULARY, "ab", 5, 40, seed=1)


def test_a_greedy_batch_repeats_the_single_greedy_text():
    single = "".join(generate(MODEL, VOCABULARY, "ab", 20, temperature=0))
    assert generate_batch(MODEL, VOCABULARY, "ab", 3, 20, temperature=0) == [single] * 3


def writer(text, drawn):
    """A stand-in for generate_ids that writes a given text and notes each character drawn."""
    def fake(model, ids, length, **options):
        for number in VOCABULARY.encode(text[:length]):
            drawn.append(number)
            yield number.expand(len(ids))
    return fake


@quick
@given(st.text("ab\n", max_size=20), st.text("ab\n", min_size=1, max_size=4))
def test_the_stop_text_never_appears_and_all_before_it_does(text, stop):
    drawn = []
    with mock.patch.object(gltch, "generate_ids", writer(text, drawn)):
        pieces = list(generate(MODEL, VOCABULARY, "a", 20, stop=stop))
        batch = generate_batch(MODEL, VOCABULARY, "a", 2, 20, stop=stop)
    assert "".join(pieces) == text.split(stop)[0]
    assert batch == [text.split(stop)[0]] * 2


def test_the_stop_text_ends_the_writing_early_even_after_false_starts():
    drawn = []
    with mock.patch.object(gltch, "generate_ids", writer("faafabab cacbaa", drawn)):
        pieces = list(generate(MODEL, VOCABULARY, "", 15, stop="ab c"))
    assert "".join(pieces) == "faafab"
    assert len(drawn) == len("faafabab c")


def test_only_what_may_begin_the_stop_text_is_held_back():
    with mock.patch.object(gltch, "generate_ids", writer("fabfab", [])):
        assert list(generate(MODEL, VOCABULARY, "", 6, stop="abc")) == [
            "f", "", "", "abf", "", "", "ab"]


def test_a_stop_text_in_the_prompt_does_not_count():
    with mock.patch.object(gltch, "generate_ids", writer("bcab", [])):
        assert "".join(generate(MODEL, VOCABULARY, "ab", 4, stop="ab")) == "bc"


@pytest.mark.parametrize("training", [True, False])
def test_writing_leaves_the_model_as_it_was_and_uses_no_dropout(training):
    model = random_model().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    texts = ["".join(generate(model, VOCABULARY, "a", 20, temperature=0)) for _ in range(2)]
    assert texts[0] == texts[1] == "".join(generate(MODEL, VOCABULARY, "a", 20, temperature=0))
    assert all(module.training == training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_model_that_wrote_can_still_be_trained():
    model = random_model()
    pieces = generate(model, VOCABULARY, "a", 5)
    next(pieces)  # in the middle of a text
    ids = random_ids(2, 5)
    model(ids[:, :-1], ids[:, 1:]).backward()
    assert all(p.grad is not None for p in model.parameters())
