"""The network in JavaScript, run by node, against the one in PyTorch."""
import json
import subprocess
from pathlib import Path

import pytest
import torch

from gltch_2_7m import GLTCH, Config
from hive.dashboard.weights_file import header
from hive.learning.codec import flatten, to_bytes

VOCABULARY = "\n aeélt😀"
PROMPTS = ["a", "tale", "tél 😀\na", "\n" * 12]  # the last fills the context


@pytest.mark.parametrize("layers, heads, width", [(1, 1, 8), (3, 4, 32), (2, 2, 12)])
def test_nodes_logits_are_those_of_pytorch(node, tmp_path, layers, heads, width):
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
    script = Path(__file__).parents[1] / "page" / "logits.js"
    answer = subprocess.run([node, str(script), str(file), *PROMPTS], check=True,
                            stdout=subprocess.PIPE, encoding="utf-8")
    for prompt, logits in zip(PROMPTS, json.loads(answer.stdout)):
        ids = torch.tensor([[VOCABULARY.index(character) for character in prompt]])
        with torch.inference_mode():
            expected = model(ids)[0, -1]
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(torch.tensor(logits), expected, rtol=0, atol=1e-4)
