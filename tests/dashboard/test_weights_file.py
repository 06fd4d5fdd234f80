"""Weights as a file: what stands before the flat vector makes it one that everybody can read."""
import json
import math
import struct
from dataclasses import asdict

import pytest
import torch

import gltch_2_7m as gltch
from gltch_2_7m import GLTCH, Config, Vocabulary, generate, load, save_checkpoint
from hive.dashboard.weights_file import header
from hive.learning.codec import flatten, to_bytes

safe_open = pytest.importorskip("safetensors").safe_open

CHARACTERS = "\n abcdé\"\\☃🐝"
SMALL = Config(len(CHARACTERS), 16, 2, 2, 8, 0.0)
CONFIGS = [SMALL, Config(1, 1, 1, 1, 1, 0.0), Config(7, 5, 1, 3, 9, 0.5), Config(65, 24, 5, 4, 20)]
ABOUT = {"text": "0" * 64, "step": 30, "hive": "ab", "round": 3}


def network(config, seed=1):
    torch.manual_seed(seed)
    model = GLTCH(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def write(path, model, **about):
    known = {"vocabulary": CHARACTERS, "val_loss": 1.5, **ABOUT, **about}
    path.write_bytes(header(model.config, **known) + to_bytes(flatten(model)))
    return path


@pytest.mark.parametrize("config", CONFIGS)
def test_header_and_flat_weights_are_a_safetensors_file(place, config):
    model = network(config)
    path = write(place / "model.safetensors", model)
    expected = dict(model.named_parameters())
    with safe_open(str(path), framework="pt") as file:
        assert sorted(file.keys()) == sorted(expected)
        for name in file.keys():
            tensor = file.get_tensor(name)
            assert tensor.dtype == torch.float32 and torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("hive", ["", "1", "12", "123", "1234", "12345", "123456", "1234567"])
def test_the_numbers_begin_at_a_multiple_of_eight(config, hive):
    head = header(config, **{**ABOUT, "hive": hive})
    length, = struct.unpack("<Q", head[:8])
    assert len(head) == 8 + length and len(head) % 8 == 0
    assert head[8:9] == b"{" and json.loads(head[8:])["__metadata__"]["format"] == "pt"


@pytest.mark.parametrize("config", CONFIGS)
def test_the_tensors_lie_behind_one_another_without_a_gap(config):
    entries = json.loads(header(config, **ABOUT)[8:])
    del entries["__metadata__"]
    end = 0
    for entry in entries.values():
        start, stop = entry["data_offsets"]
        assert start == end and stop - start == 4 * math.prod(entry["shape"])
        end = stop
    assert end == len(to_bytes(flatten(network(config))))


def test_the_metadata_says_what_a_checkpoint_needs(place):
    path = write(place / "model.safetensors", network(SMALL))
    with safe_open(str(path), framework="pt") as file:
        about = json.loads(file.metadata()["gltch"])
    config = {"vocab_size": len(CHARACTERS), "block_size": 16, "n_layer": 2, "n_head": 2,
              "n_embd": 8, "dropout": 0.0}
    assert about == {"format": gltch.FORMAT, "config": config, "vocabulary": CHARACTERS,
                     "text": "0" * 64, "step": 30, "val_loss": 1.5, "hive": "ab", "round": 3}


def test_it_writes_the_same_text_as_the_checkpoint_with_these_weights(place):
    model = network(SMALL)
    save_checkpoint(place / "last.pt", {"config": asdict(SMALL), "ema": model.state_dict(),
                                        "vocabulary": CHARACTERS, "text": "0" * 64, "step": 30,
                                        "val_loss": 1.5})
    texts = []
    for path in (place / "last.pt", write(place / "model.safetensors", model)):
        opened, vocabulary = load(str(path))
        assert vocabulary.characters == CHARACTERS
        texts.append("".join(generate(opened, vocabulary, "ab", 80, seed=5)))
    assert texts[0] == texts[1] and len(texts[0]) == 80
    assert texts[0] == "".join(generate(model, Vocabulary(CHARACTERS), "ab", 80, seed=5))


def test_an_unknown_validation_loss_is_no_obstacle(place, capsys):
    path = place / "model.safetensors"
    model = network(SMALL)
    path.write_bytes(header(SMALL, vocabulary=CHARACTERS, **ABOUT) + to_bytes(flatten(model)))
    assert gltch.main(["info", "--checkpoint", str(path)]) == 0
    assert "model.safetensors, step 30, validation loss nan" in capsys.readouterr().out


def test_the_metadata_is_json_also_after_a_run_went_wrong():
    """Browsers read it, and their JSON knows no NaN."""
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")
    for val_loss in (math.nan, math.inf):
        entries = json.loads(header(SMALL, val_loss=val_loss, **ABOUT)[8:])
        json.loads(entries["__metadata__"]["gltch"], parse_constant=refuse)
