"""server.py --from: version 0 of a new run is a finished network, and peers get it as any other."""
import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import FRENCH, TINY, TINY_RECIPE

from gltch_2_7m import (
    GLTCH,
    PRESETS,
    GltchError,
    load_corpus,
    open_origin,
    save_checkpoint,
    train,
)
from hive.books import applying
from hive.evaluator import checkpoint
from hive.journal import Journal
from hive.learning.codec import flatten, from_bytes, unflatten
from hive.server import BATCH_SIZE, build_parser, go_on, start_run
from hive.session.job import Job
from hive.text import TEXT


@pytest.fixture
def hive(tmp_path):
    """Start a run as the command line does, or go on with it; returns its job and its journal."""
    with contextlib.ExitStack() as journals:
        def begin(*options, name="hive"):
            args = build_parser().parse_args(["--name", name, *map(str, options)])
            folder = Path("runs", name)
            journal = journals.enter_context(contextlib.closing(Journal(folder)))
            job, corpus = (start_run if journal.run is None else go_on)(args, journal, folder)
            return job, corpus, journal

        yield begin


def weights(job, journal, version=0):
    return from_bytes(journal.weights_at(version, applying(job)))


def test_version_0_has_the_weights_of_the_network_and_rows_for_new_characters(
        hive, finished, french, capsys):
    job, corpus, journal = hive("--from", finished, "--data", french)
    origin, network = open_origin(str(finished)), GLTCH(job.config)
    unflatten(weights(job, journal), network)
    known = len(origin.vocabulary)
    for (name, new), (_, old) in zip(network.named_parameters(), origin.network.named_parameters()):
        assert torch.equal(new[:len(old)], old), name
    assert network.token_embedding.weight[known:].std() > 0.01
    assert network.head.weight[known:].abs().max() == 0
    assert job.characters[:known] == origin.vocabulary.characters
    assert corpus.vocabulary.decode(corpus.ids.tolist()) == FRENCH
    assert "new characters: ',' 'r'" in capsys.readouterr().err


def test_its_record_verifies_and_its_job_is_one_that_peers_take_on(hive, finished, french):
    job, _, journal = hive("--from", "finished", "--data", french)
    assert list(journal.verify(applying(job))) == [0]
    assert Job.from_json(job.as_json()) == job
    assert replace(job.config, vocab_size=65) == TINY
    assert job.recipe == replace(PRESETS["2.7m"][1], batch_size=BATCH_SIZE)


def test_without_another_text_it_has_that_of_the_network(hive, finished, text_file):
    job, corpus, _ = hive("--from", finished, "--dropout", 0.3)
    assert corpus.digest == load_corpus([str(text_file)]).digest
    assert Path("runs", "hive", TEXT).read_text() == text_file.read_text()
    assert job.config.dropout == 0.3


def test_the_folder_of_a_hives_run_does_as_well(hive, finished, french):
    job, _, journal = hive("--from", finished, "--data", french)
    network = GLTCH(job.config).eval()
    unflatten(weights(job, journal), network)
    folder = Path("runs", "hive")
    save_checkpoint(folder / "best.pt", checkpoint(job, network, 5, 2.5, folder))
    further, corpus, second = hive("--from", folder, name="further")
    assert torch.equal(weights(further, second), flatten(network))
    assert (further.characters, further.text) == (job.characters, job.text)
    assert corpus.vocabulary.decode(corpus.ids.tolist()) == FRENCH


def test_the_same_command_goes_on(hive, finished, french):
    options = ("--from", finished, "--data", french, "--seed", 5)
    job, corpus, journal = hive(*options)
    journal.close()
    again, same, second = hive(*options)
    assert again == job and torch.equal(same.ids, corpus.ids)
    second.close()
    assert hive()[0] == job


@pytest.mark.parametrize("other", ["another network", "another shape", "another alphabet",
                                   "none at first"])
def test_another_origin_is_refused_when_a_run_goes_on(hive, finished, text_file, french, other):
    begun = () if other == "none at first" else ("--from", finished)
    _, _, journal = hive(*begun, "--data", text_file, *(() if begun else ("--size", "1m")))
    journal.close()
    shape = replace(TINY, n_layer=1) if other == "another shape" else TINY
    text = french if other == "another alphabet" else text_file
    train(shape, replace(TINY_RECIPE, seed=9), load_corpus([str(text)]), name="other")
    with pytest.raises(GltchError, match="was started with another --from: leave it out"):
        hive("--from", "other")


@pytest.mark.parametrize("options, words", [
    (("--from", "finished", "--size", "1m"), "leave out --size"),
    (("--from", "gone"), "no checkpoint 'gone'"),
])
def test_what_does_not_go_together_is_a_sentence(hive, finished, options, words):
    with pytest.raises(GltchError, match=words):
        hive(*options)
