"""Checkpoints that 0.1.0 wrote: they load, write, and go on to where that version would have come.

tests/data/0.1.0/last.pt is of a run that was stopped after step 6 of 12, over text.txt beside it.
"""
import json
import shutil
from pathlib import Path

import pytest
import torch

from gltch_2_7m import Runtime, evaluate, load, load_corpus, main, train

KEPT = Path(__file__).resolve().parents[1] / "data" / "0.1.0"
LOSSES = [  # of steps 7 to 12, when 0.1.0 was not interrupted
    3.262570, 3.238913, 3.230137, 3.211790, 3.203219, 3.204154]
VALIDATED = {8: 3.241625, 12: 3.203930}  # after these steps


@pytest.fixture
def run(place):
    """A copy of the folder, to go on in."""
    shutil.copytree(str(KEPT), str(place / "runs" / "old"))
    return place / "runs" / "old"


def test_the_network_loads_with_every_weight_in_its_place():
    model, vocabulary = load(str(KEPT / "last.pt"))
    assert sum(p.numel() for p in model.parameters()) == 2192
    assert len(vocabulary) == model.config.vocab_size == 28


def test_it_predicts_what_it_predicted_then():
    model, vocabulary = load(str(KEPT / "last.pt"))
    validation = load_corpus([str(KEPT / "text.txt")], vocabulary).validation
    assert evaluate(model, validation, Runtime(torch.device("cpu"))) == pytest.approx(
        3.270772, abs=1e-5)


def test_the_run_goes_on_to_the_losses_it_would_have_had(run):
    result = train(resume=str(run), corpus=load_corpus([str(run / "text.txt")]))
    points = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [point["loss"] for point in points if point["kind"] == "train"]
    assert result.step == 12 and losses == pytest.approx(LOSSES, abs=1e-4)
    measured = {point["step"]: point["loss"] for point in points if point["kind"] == "eval"}
    assert measured == pytest.approx(VALIDATED, abs=1e-4)


def test_it_exports_and_the_exported_file_writes_the_same(run, capsys):
    pytest.importorskip("safetensors")
    assert main(["export", "--checkpoint", str(run), "--output", "old.safetensors"]) == 0
    texts = []
    for name in (str(run), "old.safetensors"):
        assert main(["sample", "--checkpoint", name, "--seed", "1", "--length", "30"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
