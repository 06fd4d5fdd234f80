"""Other programs: what is exported opens there, scores characters alike and spells texts alike."""
import json
import sys
from pathlib import Path

import pytest
import torch

import gltch_2_7m as gltch
from gltch_2_7m import GLTCH, Config, GltchError, Vocabulary, generate, load, save_checkpoint

CHARACTERS = "\n !'\"\\abcdéß☃🐝Ġ"
TEXT = "abc \"d\"\\ é ß!\n\n  ☃🐝 Ġ  a'b "
SHAPES = [Config(len(CHARACTERS), 16, 2, 2, 8), Config(len(CHARACTERS), 24, 3, 5, 20),
          Config(len(CHARACTERS), 5, 1, 1, 4)]


def make(config, path="model.pt"):
    """A checkpoint with weights that all matter."""
    torch.manual_seed(1)
    model = GLTCH(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    save_checkpoint(Path(path), {
        "config": vars(config), "vocabulary": CHARACTERS, "text": "0" * 64, "step": 3,
        "val_loss": 1.5, "ema": model.state_dict()})
    return model


def test_missing_parts_of_an_export_are_named_and_nothing_is_written(monkeypatch):
    make(SHAPES[0])
    for to, module, words in (("transformers", "safetensors", "pip install safetensors numpy"),
                              ("onnx", "onnx", "need the package onnx: pip install onnx")):
        with monkeypatch.context() as patch:
            for name in (module, f"{module}.torch"):
                patch.setitem(sys.modules, name, None)
            with pytest.raises(GltchError, match=words):
                gltch.export("model.pt", Path("out"), to)
    monkeypatch.setattr(gltch, "find_spec", lambda module: None)
    with pytest.raises(GltchError, match="gltch_export.py"):
        gltch.export("model.pt", Path("out"), "transformers")
    assert not Path("out").exists()


# --- transformers ---------------------------------------------------------------------------------


@pytest.fixture
def transformers(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("transformers", reason="needs the package transformers")


@pytest.mark.parametrize("config", SHAPES)
def test_transformers_opens_the_folder_and_scores_alike(transformers, config):
    model = make(config)
    gltch.export("model.pt", Path("folder"), "transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained("folder")
    assert type(theirs).__name__ == "GPT2LMHeadModel" and not theirs.training
    ids = torch.randint(config.vocab_size, (3, config.block_size))
    for length in (1, config.block_size):
        with torch.inference_mode():
            expected, found = model(ids[:, :length]), theirs(ids[:, :length]).logits
        assert (found - expected).abs().max() < 1e-4
    assert expected.abs().max() > 0.1


def test_its_weights_are_all_there_and_the_head_is_its_own(transformers):
    model = make(SHAPES[0])
    gltch.export("model.pt", Path("folder"), "transformers")
    theirs, told = transformers.AutoModelForCausalLM.from_pretrained(
        "folder", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(theirs.lm_head.weight, model.head.weight)
    assert not torch.equal(theirs.lm_head.weight, theirs.transformer.wte.weight)
    assert theirs.config.activation_function == "gelu"


def test_its_tokenizer_spells_every_text_character_by_character(transformers):
    make(SHAPES[0])
    gltch.export("model.pt", Path("folder"), "transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained("folder")
    ids = tokenizer(TEXT)["input_ids"]
    assert ids == Vocabulary(CHARACTERS).encode(TEXT).tolist()
    assert tokenizer.decode(ids) == TEXT
    assert len(tokenizer) == len(CHARACTERS)
    assert tokenizer.decode(tokenizer("aXYb")["input_ids"]) == "ab"


def test_it_writes_there_what_it_writes_here(transformers):
    make(SHAPES[1])
    gltch.export("model.pt", Path("folder"), "transformers")
    network, vocabulary = load("model.pt")
    here = "".join(generate(network, vocabulary, "abc", 20, temperature=0))
    tokenizer = transformers.AutoTokenizer.from_pretrained("folder")
    theirs = transformers.AutoModelForCausalLM.from_pretrained("folder")
    ids = theirs.generate(**tokenizer("abc", return_tensors="pt"), max_new_tokens=20,
                          do_sample=False)
    assert tokenizer.decode(ids[0]) == "abc" + here


# --- ONNX -----------------------------------------------------------------------------------------


@pytest.fixture
def open_session():
    pytest.importorskip("onnx", reason="needs the package onnx")
    runtime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")
    return lambda path: runtime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("config", SHAPES)
def test_onnx_runtime_runs_the_graph_and_scores_alike(open_session, config):
    model = make(config)
    gltch.export("model.pt", Path("model.onnx"), "onnx")
    session = open_session("model.onnx")
    ids = torch.randint(config.vocab_size, (3, config.block_size))
    for batch, length in ((1, 1), (2, 3), (3, config.block_size)):
        part = ids[:batch, :length]
        with torch.inference_mode():
            expected = model(part)
        found, = session.run(["logits"], {"ids": part.numpy()})
        assert (torch.from_numpy(found) - expected).abs().max() < 1e-4
    assert expected.abs().max() > 0.1


def test_the_graph_brings_its_characters_and_writes_there_what_it_writes_here(open_session):
    make(SHAPES[1])
    gltch.export("model.pt", Path("model.onnx"), "onnx")
    session = open_session("model.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["gltch"])
    vocabulary = Vocabulary(about["vocabulary"])
    assert (about["step"], vocabulary.characters) == (3, CHARACTERS)
    text = "abc"
    for _ in range(20):
        logits, = session.run(["logits"], {"ids": vocabulary.encode(text)[None].numpy()})
        text += vocabulary.decode([int(logits[0, -1].argmax())])
    network, vocabulary = load("model.pt")
    assert text == "abc" + "".join(generate(network, vocabulary, "abc", 20, temperature=0))
