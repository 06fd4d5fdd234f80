"""The network in JavaScript, run by node, against the one in PyTorch."""
import json
import subprocess
from pathlib import Path

import pytest
import torch
from attention import attention_of

from gltch_2_7m import GLTCH, Config
from hive.dashboard.weights_file import header
from hive.learning.codec import flatten, to_bytes

VOCABULARY = "\n aeélt😀"
PROMPTS = ["a", "tale", "tél 😀\na", "\n" * 12]  # the last fills the context
TEXTS = ["at", "tale\ntale", "a tell tale é😀\n" * 3]  # the last is longer than the context
SIZES = [(1, 1, 8), (3, 4, 32), (2, 2, 12)]  # layers, heads, width


@pytest.fixture
def ask(node):
    def run(script, *arguments):
        path = Path(__file__).parents[1] / "page" / script
        return json.loads(subprocess.run([node, str(path), *map(str, arguments)], check=True,
                                         stdout=subprocess.PIPE, encoding="utf-8").stdout)

    return run


@pytest.fixture(params=SIZES, ids=lambda size: "x".join(map(str, size)))
def network(request, tmp_path):
    """A network and the file of its weights, as the page gets it."""
    layers, heads, width = request.param
    torch.manual_seed(layers)
    config = Config(vocab_size=len(VOCABULARY), block_size=12, n_layer=layers, n_head=heads,
                    n_embd=width)
    model = GLTCH(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, as after long training
            parameter.add_(0.3 * torch.randn_like(parameter))
    file = tmp_path / "model.safetensors"
    file.write_bytes(header(config, vocabulary=VOCABULARY, text="", step=0)
                     + to_bytes(flatten(model)))
    return model, file


def encode(text):
    return torch.tensor([[VOCABULARY.index(character) for character in text]])  # (1, T)


def test_nodes_logits_are_those_of_pytorch(ask, network):
    model, file = network
    for prompt, logits in zip(PROMPTS, ask("logits.js", file, *PROMPTS)):
        with torch.inference_mode():
            expected = model(encode(prompt))[0, -1]
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(torch.tensor(logits), expected, rtol=0, atol=1e-4)


def test_nodes_chances_of_each_character_are_those_of_pytorch(ask, network):
    model, file = network
    for text, answer in zip(TEXTS, ask("inside.js", file, *TEXTS)):
        assert len(answer["chances"]) == len(answer["seen"]) == len(text) - 1
        for place, (chance, seen) in enumerate(zip(answer["chances"], answer["seen"]), start=1):
            with torch.inference_mode():
                logits = model(encode(text[place - seen: place]))[0, -1]
            expected = logits.softmax(0)[VOCABULARY.index(text[place])].item()
            assert chance == pytest.approx(expected, abs=1e-4)


def test_nodes_attention_is_that_of_pytorch(ask, network):
    model, file = network
    for text, answer in zip(TEXTS, ask("inside.js", file, *TEXTS)):
        context = text[:-1][-answer["seen"][-1]:]
        expected = torch.stack(attention_of(model, encode(context)))[:, 0, :, -1]  # (L, nh, T)
        assert (expected - 1 / len(context)).abs().max() > 0.01 or len(context) == 1
        found = torch.tensor(answer["attention"], dtype=torch.float32)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
