"""The job: what a peer agrees to train is exactly what the coordinator described, or nothing."""
import copy
import hashlib
import json
import math
from dataclasses import MISSING, fields, replace

import pytest
import torch
from builders import JOB_TEXT as TEXT
from builders import make_job as make
from hypothesis import given, settings
from hypothesis import strategies as st

from gltch_2_7m import (
    CHUNK,
    GLTCH,
    PRESETS,
    SHAKESPEARE_CHARACTERS,
    Config,
    GltchError,
    TrainConfig,
    Vocabulary,
    Windows,
)
from hive.learning.codec import CODECS
from hive.learning.sync import SYNCS, Sync
from hive.session.job import LARGEST, MOST_PARAMETERS, Job, Limits, parameters_of
from hive.session.protocol import MESSAGE_BYTES, pack, unpack
from hive.text import corpus_of, given_bytes, training_bytes, whole_bytes

quick = settings(deadline=None, max_examples=50)
HASH = "0123456789abcdef" * 4


def sentence(error):
    """What the person reads: one line that begins and ends like a sentence."""
    text = str(error.value)
    assert text.isprintable() and text[0].isupper() and text.endswith(".")
    return text


def refused(*path_and_value):
    """What a peer says to a description in which one value is another."""
    *path, last, value = path_and_value
    described = make().as_json()
    part = described
    for name in path:
        part = part[name]
    part[last] = value
    with pytest.raises(GltchError) as error:
        Job.from_json(json.loads(json.dumps(described)))
    return sentence(error)


# --- There and back -------------------------------------------------------------------------------

limits = st.builds(Limits, *[st.none() | st.integers(1, 10**9)] * 2,
                   *[st.none() | st.floats(0.01, 1e6)] * 2)
syncs = st.builds(Sync, st.integers(1, 99), st.integers(1, 999), st.sampled_from([*CODECS]),
                  st.sampled_from([*CODECS]), st.floats(0, 1), st.floats(0.01, 2),
                  st.floats(0, 0.99), st.integers(1, 64))
recipes = st.builds(TrainConfig, steps=st.none() | st.integers(1, 10**6),
                    minutes=st.none() | st.floats(0.1, 1e6), seed=st.integers(0, 2**31 - 1),
                    optimizer=st.sampled_from(["muon", "adamw", "sgd"]), compile=st.booleans())


@quick
@given(limits, syncs, recipes, st.text(st.characters(blacklist_categories=["Cs"]), min_size=1))
def test_a_job_comes_out_of_json_as_it_went_in(limits, sync, recipe, text):
    job = make(text, limits=limits, sync=sync, recipe=recipe)
    again = Job.from_json(json.loads(json.dumps(job.as_json())))
    assert again == job and hash(again) == hash(job)
    assert again.vocabulary.characters == "".join(sorted(set(text)))


@pytest.mark.parametrize("size", PRESETS)
@pytest.mark.parametrize("mode", SYNCS)
def test_every_preset_can_be_a_job(size, mode):
    config, recipe, steps = PRESETS[size]
    job = make(size=size, mode=mode, config=config, recipe=recipe, sync=SYNCS[mode],
               limits=Limits(steps=steps), characters=SHAKESPEARE_CHARACTERS)
    assert Job.from_json(json.loads(json.dumps(job.as_json()))) == job


def test_the_job_of_a_text_with_thousands_of_characters_travels_in_one_message():
    text = "".join(map(chr, range(0x4E00, 0x9FFF)))
    job = make(text)
    said = pack("welcome", proof=HASH, peer="p", name="Ada", token=HASH, counted=[],
                job=job.as_json())
    assert len(said) < MESSAGE_BYTES and Job.from_json(unpack(said)["job"]) == job


def test_describing_a_job_does_not_give_it_away():
    job = make()
    described = job.as_json()
    described["config"]["n_layer"] = 99
    assert job == make()
    before = copy.deepcopy(described)
    Job.from_json(described)
    assert described == before


def test_a_run_in_one_piece_is_described_as_it_was_before_there_were_fragments():
    assert sorted(make().as_json()["sync"]) == [
        "beta", "down", "inner_steps", "most_inner_steps", "outer_lr", "outer_momentum", "up"]
    assert Job.from_json(make().as_json()).sync.fragments == 1
    described = make(sync=Sync(fragments=3)).as_json()
    assert described["sync"]["fragments"] == 3 and Job.from_json(described).sync.fragments == 3
    assert "fragments must be" in refused("sync", "fragments", 65)


def test_no_more_updates_travel_at_once_than_there_are_parts():
    described = make(sync=Sync(fragments=3, overlap=True, in_flight=3)).as_json()
    assert Job.from_json(described).sync.in_flight == 3
    with pytest.raises(GltchError):
        Sync(fragments=3, overlap=True, in_flight=4)
    with pytest.raises(GltchError):
        Sync(fragments=9, overlap=True, in_flight=9)
    assert Sync(fragments=9, overlap=True, in_flight=8)
    assert "in_flight must be" in refused("sync", "in_flight", 2), "not without overlap"


# --- What no peer takes on ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, [], {}, "job", 5, [["hive", "a run"]]])
def test_what_is_no_description_is_refused(value):
    with pytest.raises(GltchError) as error:
        Job.from_json(value)
    assert "cannot be used" in sentence(error)


@pytest.mark.parametrize("name", [f.name for f in fields(Job) if f.default is MISSING])
def test_a_description_without_one_of_its_parts_is_refused(name):
    described = make().as_json()
    del described[name]
    with pytest.raises(GltchError) as error:
        Job.from_json(described)
    assert name in sentence(error)


@pytest.mark.parametrize("path", [(), ("config",), ("recipe",), ("sync",), ("limits",)])
def test_a_description_with_an_unknown_field_is_refused_by_name(path):
    assert "surprise" in refused(*path, "surprise", 1)


PARTS = [(part, value) for part in ("config", "recipe", "sync", "limits")
         for value in (None, 5, True, "text", ["list"], [["list"]], "")]
PLAIN = [(name, value) for name in ("hive", "size", "mode", "text", "characters")
         for value in (None, 5, True, ["list"], {"a": 1})]
WRONG = [
    *PARTS, *PLAIN, ("characters", sorted(set(TEXT))), ("characters", dict.fromkeys(TEXT, 1)),
    ("text_bytes", "81"), ("text_bytes", 81.0), ("text_bytes", True), ("text_bytes", None),
    *[("config", "n_layer", value) for value in ("2", 2.0, True, None, 0, -1, [2])],
    ("config", "n_head", 3), ("config", "dropout", "no"), ("config", "dropout", 1),
    ("recipe", "batch_size", "64"), ("recipe", "optimizer", "magic"), ("recipe", "warmup", None),
    ("recipe", "learning_rate", -1), ("recipe", "compile", 1), ("recipe", "cooldown", [0.6]),
    *[("sync", name, value) for name in ("inner_steps", "most_inner_steps")
      for value in ("4", 4.5, True, None, 0, -1, [4])],
    *[("sync", name, value) for name in ("beta", "outer_lr", "outer_momentum")
      for value in ("1", True, None, -1, 1e9, math.nan, math.inf, [1])],
    ("sync", "outer_lr", 0),
    *[("sync", name, value) for name in ("up", "down") for value in ("zip", "", 4, None, ["q4"])],
    *[("limits", name, value) for name in ("steps", "rounds")
      for value in ("100", 1.5, True, 0, -1, [100])],
    *[("limits", name, value) for name in ("minutes", "target_loss")
      for value in ("10", True, 0, -1, math.nan, math.inf, [10])],
]


@pytest.mark.parametrize("change", WRONG, ids=lambda change: ascii(change)[1:50])
def test_a_value_that_makes_no_sense_is_refused(change):
    assert refused(*change)


@pytest.mark.parametrize("text", ["", HASH[1:], HASH.upper(), "../" + HASH[3:]])
def test_a_text_is_named_by_its_sha_256_and_nothing_else(text):
    assert refused("text", text)  # a peer keeps the text in a file of this name


@pytest.mark.parametrize("size", [-1, 2**31 + 1])
def test_a_text_of_an_impossible_size_is_refused(size):
    assert refused("text_bytes", size)


@pytest.mark.parametrize("characters", ["", "abc", TEXT, make().characters[1:],
                                        make().characters + "~"])
def test_a_vocabulary_that_does_not_fit_the_network_is_refused(characters):
    assert refused("characters", characters)


@pytest.mark.parametrize("name", [name for name in LARGEST if name != "vocab_size"])
def test_a_network_larger_than_a_peer_agrees_to_build_is_refused(name):
    config = {**make().as_json()["config"], name: LARGEST[name] + 2}
    config.update({"n_head": 1} if name == "n_embd" else {})
    config.update({"n_embd": config["n_head"]} if name == "n_head" else {})
    said = refused("config", config)
    assert f"{name} is {LARGEST[name] + 2:,}" in said


@pytest.mark.parametrize("name", ["block_size", "n_layer"])
def test_a_network_larger_than_any_number_is_refused(name):
    assert name in refused("config", name, 10**300)


def test_a_network_with_too_many_parameters_in_all_is_refused_with_the_number():
    config = Config(vocab_size=len(make().characters), n_layer=256, n_head=1, n_embd=1024)
    assert parameters_of(config) > MOST_PARAMETERS and config.n_layer <= LARGEST["n_layer"]
    assert f"{parameters_of(config):,} parameters" in refused("config", make(config=config)
                                                              .as_json()["config"])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    | st.sampled_from([10**400, "fp32", HASH]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner,
                                                                max_size=3), max_leaves=6)
PATHS = [(name,) for name in make().as_json()] + [
    (part, name) for part, values in make().as_json().items() if isinstance(values, dict)
    for name in values]


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PATHS), anything)
def test_no_description_at_all_does_harm(path, value):
    described = make().as_json()
    (described if len(path) == 1 else described[path[0]])[path[-1]] = value
    try:
        assert Job.from_json(described)
    except GltchError as error:
        assert str(error).endswith(".")


# --- The number of parameters ---------------------------------------------------------------------


def real_count(config):
    with torch.device("meta"):  # without memory
        return sum(parameter.numel() for parameter in GLTCH(config).parameters())


def test_gltch_2_7m_has_2_708_736_parameters():
    assert parameters_of(Config()) == real_count(Config()) == 2_708_736


@pytest.mark.parametrize("size", PRESETS)
def test_the_parameters_of_a_preset_are_counted_without_building_it(size):
    assert parameters_of(PRESETS[size][0]) == real_count(PRESETS[size][0])


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 99), st.integers(1, 99), st.integers(1, 4), st.integers(1, 4),
       st.integers(1, 9))
def test_the_parameters_of_any_network_are_counted_right(vocabulary, context, layers, heads, width):
    config = Config(vocabulary, context, layers, heads, heads * width)
    assert parameters_of(config) == real_count(config)


# --- The end of a run -----------------------------------------------------------------------------


@pytest.mark.parametrize("limits, step, version, seconds, total", [
    (Limits(), 500, 50, 60.0, None),
    (Limits(target_loss=1.5), 500, 50, 60.0, None),
    (Limits(steps=1000), 0, 0, 0.0, 1000),
    (Limits(steps=1000), 500, 50, 60.0, 1000),
    (Limits(rounds=10), 0, 0, 0.0, None),
    (Limits(rounds=10), 20, 2, 5.0, 100),
    (Limits(minutes=1), 0, 0, 3.0, None),
    (Limits(minutes=1), 50, 3, 15.0, 200),
    (Limits(steps=1000, rounds=10), 0, 0, 0.0, 1000),
    (Limits(steps=1000, rounds=10), 20, 2, 5.0, 100),
    (Limits(steps=50, rounds=10), 20, 2, 5.0, 50),
    (Limits(steps=1000, rounds=10, minutes=1), 20, 2, 30.0, 40),
    (Limits(rounds=10), 500, 12, 5.0, 500),
    (Limits(minutes=1), 500, 12, 90.0, 500),
])
def test_the_length_of_a_run_follows_what_will_end_it_first(limits, step, version, seconds, total):
    assert limits.total(step, version, seconds) == total


@pytest.mark.parametrize("limits", [
    Limits(steps=7), Limits(rounds=7), Limits(minutes=7), Limits(rounds=7, target_loss=1.5)])
def test_what_ends_for_certain_is_left_as_it_is(limits):
    assert limits.or_steps(1000) == limits


def test_a_run_that_nothing_ends_for_certain_has_the_usual_steps():
    assert Limits().or_steps(1000) == Limits(steps=1000)
    assert Limits(target_loss=1.5).or_steps(1000) == Limits(steps=1000, target_loss=1.5)


@pytest.mark.parametrize("limits, step, version, seconds, reason", [
    (Limits(), 10**9, 10**9, 1e9, ""),
    (Limits(steps=1000), 999, 50, 60.0, ""),
    (Limits(steps=1000), 1000, 50, 60.0, "all 1,000 steps are done"),
    (Limits(steps=1000), 1003, 50, 60.0, "all 1,003 steps are done"),
    (Limits(rounds=10), 999, 9, 60.0, ""),
    (Limits(rounds=10), 999, 10, 60.0, "all 10 rounds are done"),
    (Limits(minutes=1.5), 999, 9, 89.9, ""),
    (Limits(minutes=1.5), 999, 9, 90.0, "the 1.5 minutes are over"),
    (Limits(steps=1000, rounds=10, minutes=1), 999, 9, 59.9, ""),
    (Limits(steps=1000, rounds=10, minutes=1), 1000, 9, 59.9, "all 1,000 steps are done"),
    (Limits(steps=1000, rounds=10, minutes=1), 999, 10, 59.9, "all 10 rounds are done"),
    (Limits(steps=1000, rounds=10, minutes=1), 999, 9, 60.0, "the 1 minutes are over"),
])
def test_a_run_is_over_with_the_first_limit_it_reaches(limits, step, version, seconds, reason):
    assert limits.reached(step, version, seconds) == reason


@quick
@given(limits, st.integers(0, 10**6), st.integers(0, 10**5), st.floats(0.001, 1e7))
def test_a_run_is_never_expected_to_end_before_the_step_it_has_come_to(limits, step, version,
                                                                       seconds):
    total = limits.total(step, version, seconds)
    assert total is None or total >= min(step, limits.steps or step)
    assert limits.steps is None or total <= limits.steps


# --- The text -------------------------------------------------------------------------------------


def test_the_text_of_the_job_is_read_in_its_vocabulary():
    corpus = corpus_of(make(), TEXT.encode())
    assert corpus.vocabulary.decode(corpus.ids.tolist()) == TEXT
    assert corpus.vocabulary.characters == make().characters
    assert corpus.digest == make().text


@pytest.mark.parametrize("content", [
    TEXT[:-1].encode(), TEXT.encode() * 2, TEXT.replace("day", "dye").encode(), b"",
    TEXT.replace("\n", "\r\n").encode(), b"another text", b"\xff\xfe" + TEXT.encode(), b"\xf0\x9f",
], ids=["shorter", "twice", "one word", "empty", "windows", "another", "binary", "half an emoji"])
def test_another_text_is_refused(content):
    with pytest.raises(GltchError) as error:
        corpus_of(make(), content)
    assert sentence(error)


def test_a_text_with_characters_outside_the_vocabulary_is_refused():
    other = TEXT + "~"
    job = replace(make(), text=hashlib.sha256(other.encode()).hexdigest())
    with pytest.raises(GltchError, match="'~'"):
        corpus_of(job, other.encode())


def test_the_vocabulary_of_the_job_numbers_its_characters_in_order():
    assert isinstance(make().vocabulary, Vocabulary)
    assert make().vocabulary.number == {c: i for i, c in enumerate(sorted(set(TEXT)))}


def test_a_text_is_read_in_pieces_that_may_end_within_a_character():
    text = "naïve 漢字 🙂\n" * 60_000
    assert len(text.encode()) > 3 * CHUNK
    corpus = corpus_of(make(text), text.encode())
    assert corpus.digest == make(text).text and len(corpus.ids) == len(text)


def with_a_hidden_slice(text):
    """(job, what peers get) of a hive that holds the validation tenth back."""
    given = text[: len(text) * 9 // 10].encode()
    job = make(text)
    return replace(job, whole_text=job.text, text=hashlib.sha256(given).hexdigest(),
                   text_bytes=len(given)), given


def test_peers_get_the_training_part_and_draw_the_windows_that_the_whole_text_has(tmp_path):
    text = "naïve 漢字 🙂 and more\n" * 40
    job, given = with_a_hidden_slice(text)
    whole, mine = corpus_of(job, text.encode()), corpus_of(job, given)
    assert torch.equal(mine.train, whole.train) and len(mine.validation) == 0
    assert len(whole.validation) == len(text) - len(text) * 9 // 10
    of_peer, of_run = (Windows(corpus.train, 16, seed=1) for corpus in (mine, whole))
    for ours, theirs in zip(of_peer.batch(range(200)), of_run.batch(range(200))):
        assert torch.equal(ours, theirs)
    assert training_bytes(whole) == given and whole_bytes(whole) == text.encode()
    (tmp_path / "text.txt").write_bytes(text.encode())
    assert given_bytes(job, tmp_path / "text.txt") == given


def test_a_run_of_before_the_slice_was_hidden_goes_on_with_the_text_it_gave():
    job = Job.from_json(make().as_json())
    assert "whole_text" not in make().as_json() and job.source == job.text
    assert len(corpus_of(job, TEXT.encode()).validation) > 0


def test_a_run_says_which_text_it_is_about_and_which_part_travels():
    job, given = with_a_hidden_slice(TEXT)
    again = Job.from_json(job.as_json())
    assert again == job and again.source == make().text != again.text
    with pytest.raises(GltchError):
        Job.from_json({**job.as_json(), "whole_text": "no digest"})
