"""A trained GLTCH in the formats of other programs: `python gltch_2_7m.py export --to ...`.

Everything here turns a network and its characters into the bytes of files; `gltch_2_7m.py` opens
the checkpoint and writes what comes out. It has a file of its own because nobody needs it to train
a network or to read how one works.

The network is the one of GPT-2 (Radford et al. 2019) but for the names, the order in which its
matrices are stored, and biases, which it does without in linear layers.
"""
from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Tuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gltch_2_7m import GLTCH, Config


# --------------------------------------------------------------------------------------------------
# transformers: GPT2LMHeadModel and a tokenizer of single characters
# --------------------------------------------------------------------------------------------------


def transformers_files(model: GLTCH, characters: str,
                       packed: Callable[[Dict[str, Tensor]], bytes]) -> Dict[str, bytes]:
    """The files of a folder that `AutoModelForCausalLM` and `AutoTokenizer` open, by name. `packed`
    makes a safetensors file of weights."""
    return {
        "config.json": as_json(gpt2_config(model.config)),
        "model.safetensors": packed(dict(gpt2_weights(model))),
        "tokenizer.json": as_json(character_tokenizer(characters)),
        "tokenizer_config.json": as_json({
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
            "model_max_length": model.config.block_size}),
    }


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def gpt2_config(config: Config) -> Dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "torch_dtype": "float32",
        "vocab_size": config.vocab_size, "n_positions": config.block_size,
        "n_embd": config.n_embd, "n_layer": config.n_layer, "n_head": config.n_head,
        "activation_function": "gelu", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": False,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": config.dropout,
        "bos_token_id": None, "eos_token_id": None,
    }


def gpt2_weights(model: GLTCH) -> Iterator[Tuple[str, Tensor]]:
    """Each weight by its name in GPT2LMHeadModel. GPT-2 stores a matrix as (inputs, outputs), which
    is PyTorch's transposed, and has biases: they are zero."""
    yield "transformer.wte.weight", model.token_embedding.weight.detach()
    yield "transformer.wpe.weight", model.position_embedding.weight.detach()
    for i, block in enumerate(model.blocks):
        for name, norm in (("ln_1", block.norm1), ("ln_2", block.norm2)):
            yield f"transformer.h.{i}.{name}.weight", norm.weight.detach()
            yield f"transformer.h.{i}.{name}.bias", norm.bias.detach()
        for name, linear in (("attn.c_attn", block.attention.qkv),
                             ("attn.c_proj", block.attention.projection),
                             ("mlp.c_fc", block.feed_forward.up),
                             ("mlp.c_proj", block.feed_forward.down)):
            matrix = linear.weight.detach().t().contiguous()  # (inputs, outputs)
            yield f"transformer.h.{i}.{name}.weight", matrix
            yield f"transformer.h.{i}.{name}.bias", matrix.new_zeros(matrix.size(1))
    yield "transformer.ln_f.weight", model.norm.weight.detach()
    yield "transformer.ln_f.bias", model.norm.bias.detach()
    yield "lm_head.weight", model.head.weight.detach()


def character_tokenizer(characters: str) -> Dict[str, Any]:
    """tokenizer.json of the library tokenizers: byte-pair encoding without a single pair, so that
    every character is a token. Characters outside the vocabulary are left out."""
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Fuse"},  # side by side again, without spaces between them
        "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(characters)}, "merges": [],
                  "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False},
    }


# --------------------------------------------------------------------------------------------------
# ONNX: the graph, operator by operator
#
# Written out by hand: PyTorch's own exporters change from version to version, and a reader of the
# graph finds the lesson's names in it.
# --------------------------------------------------------------------------------------------------

OPSET, IR_VERSION = 17, 8  # ONNX 1.12 (2022), the first with LayerNormalization


def onnx_file(model: GLTCH, about: str, onnx: Any) -> bytes:
    """A graph from `ids` (B, T), int64, to `logits` (B, T, vocab_size), T at most block_size.
    `about` goes into its metadata as "gltch"; `onnx` is the package."""
    graph = Graph(onnx)
    logits = write_network(graph, model)
    graph.add("Identity", logits, output="logits")
    number = onnx.TensorProto
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, "GLTCH",
            [onnx.helper.make_tensor_value_info("ids", number.INT64, ["batch", "time"])],
            [onnx.helper.make_tensor_value_info(
                "logits", number.FLOAT, ["batch", "time", model.config.vocab_size])],
            graph.constants),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="gltch")
    onnx.helper.set_model_props(made, {"gltch": about})
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


class Graph:
    """Nodes and constants in the order they are added; every value has a name."""

    def __init__(self, onnx: Any):
        self.onnx = onnx
        self.nodes: List[Any] = []
        self.constants: List[Any] = []

    def constant(self, value: Tensor, name: str = "") -> str:
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(
            value.detach().contiguous().numpy(), name))
        return name

    def whole(self, *numbers: int) -> str:
        return self.constant(torch.tensor(numbers))

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output


def write_network(graph: Graph, model: GLTCH) -> str:
    time = graph.add("Slice", graph.add("Shape", "ids"), graph.whole(1), graph.whole(2))  # (1,): T
    positions = graph.add("Slice", graph.constant(model.position_embedding.weight, "position"),
                          graph.whole(0), time, graph.whole(0))  # (T, C)
    x = graph.add("Gather", graph.constant(model.token_embedding.weight, "token"), "ids", axis=0)
    x = graph.add("Add", x, positions)  # (B, T, C)
    future = write_future(graph, time)
    for i, block in enumerate(model.blocks):
        normed = write_norm(graph, x, block.norm1, f"blocks.{i}.norm1")
        x = graph.add("Add", x, write_attention(graph, normed, future, block.attention,
                                                f"blocks.{i}.attention"))
        normed = write_norm(graph, x, block.norm2, f"blocks.{i}.norm2")
        x = graph.add("Add", x, write_feed_forward(graph, normed, block.feed_forward,
                                                   f"blocks.{i}.feed_forward"))
    x = write_norm(graph, x, model.norm, "norm")
    return write_linear(graph, x, model.head, "head")


def write_future(graph: Graph, time: str) -> str:
    """What is added to scores: (T, T), zero for the past, minus infinity for the future."""
    square = graph.add("Concat", time, time, axis=0)
    never = graph.onnx.numpy_helper.from_array(torch.tensor([-math.inf]).numpy())
    full = graph.add("ConstantOfShape", square, value=never)
    return graph.add("Trilu", full, graph.constant(torch.tensor(1)), upper=1)


def write_linear(graph: Graph, x: str, linear: Any, name: str) -> str:
    return graph.add("MatMul", x, graph.constant(linear.weight.t(), name))


def write_norm(graph: Graph, x: str, norm: Any, name: str) -> str:
    return graph.add("LayerNormalization", x, graph.constant(norm.weight, f"{name}.weight"),
                     graph.constant(norm.bias, f"{name}.bias"), axis=-1, epsilon=norm.eps)


def write_attention(graph: Graph, x: str, future: str, attention: Any, name: str) -> str:
    nh, C = attention.n_head, attention.projection.in_features
    hs = C // nh
    heads = graph.add("Reshape", write_linear(graph, x, attention.qkv, f"{name}.qkv"),
                      graph.whole(0, 0, 3, nh, hs))  # (B, T, 3, nh, hs); 0: as it was
    heads = graph.add("Transpose", heads, perm=[2, 0, 3, 1, 4])  # (3, B, nh, T, hs)
    q, k, v = (graph.add("Gather", heads, graph.constant(torch.tensor(i)), axis=0)
               for i in range(3))  # (B, nh, T, hs) each
    scores = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = graph.add("Mul", scores, graph.constant(torch.tensor(hs**-0.5)))
    weights = graph.add("Softmax", graph.add("Add", scores, future), axis=-1)  # (B, nh, T, T)
    y = graph.add("Transpose", graph.add("MatMul", weights, v), perm=[0, 2, 1, 3])
    y = graph.add("Reshape", y, graph.whole(0, 0, C))  # (B, T, C)
    return write_linear(graph, y, attention.projection, f"{name}.projection")


def write_feed_forward(graph: Graph, x: str, feed_forward: Any, name: str) -> str:
    """GELU is x (1 + erf(x / sqrt 2)) / 2, as in PyTorch."""
    x = write_linear(graph, x, feed_forward.up, f"{name}.up")
    inner = graph.add("Erf", graph.add("Mul", x, graph.constant(torch.tensor(0.5**0.5))))
    gate = graph.add("Add", inner, graph.constant(torch.tensor(1.0)))
    half = graph.add("Mul", x, graph.constant(torch.tensor(0.5)))
    return write_linear(graph, graph.add("Mul", half, gate), feed_forward.down, f"{name}.down")
