# %% [markdown]
# # GLTCH-2.7M, a language model in one file: it starts knowing nothing and ends up writing
#
# GLTCH (Generative Language Transformer with Contextual Hierarchy) reads text one character at a
# time and learns to predict the next one.
# This notebook is all of it: read it from top to bottom, and it trains a network and lets it write.
#
# **Runtime > Change runtime type > T4 GPU**, then run the cells in order (Runtime > Run all).
#
# Written by `tools/make_colab.py` from `gltch_2_7m.py`: change those, not this.

# %%
from __future__ import annotations
import copy
import math
import os
import sys
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Type
import torch
import torch.nn.functional as F
from torch import Tensor, nn
import codecs
import contextlib
import gzip
import hashlib
import html
import importlib
import io
import json
import pickletools
import re
import shutil
import signal
import threading
import time
import zipfile
import zlib
from collections import deque
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Deque, Sequence, Set
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

# %% [markdown]
# ## Settings
#
# What to change before a run. To learn from a text of your own, put it into the Files panel on the
# left and its name into the list: `DATA = ["my_text.txt"]`.

# %%
STEPS = None  # None: the full run on a GPU, what fits in ten minutes on a CPU
DATA = []  # your own text files; empty: Tiny Shakespeare

# %% [markdown]
# # Part I: the lesson
#
# ## The shape of the network
#
# The defaults are GLTCH-2.7M: 2,708,736 parameters over the 65 characters of Tiny Shakespeare.
#
# **GltchError.** Something the user can put right; the message is one sentence that says what and
# how.

# %%
class GltchError(Exception):
    """Something the user can put right; the message is one sentence that says what and how."""


def require(condition: bool, sentence: str) -> None:
    if not condition:
        raise GltchError(sentence)


def is_number(value: Any) -> bool:
    return type(value) in (int, float)

# %% [markdown]
# **Config.** Shape of the network.

# %%
@dataclass(frozen=True)
class Config:
    """Shape of the network. Raises GltchError for a shape that cannot be built."""

    vocab_size: int = 65
    block_size: int = 128  # context length in characters
    n_layer: int = 6
    n_head: int = 6
    n_embd: int = 192
    dropout: float = 0.1  # on the residual branches

    def __post_init__(self) -> None:
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            value = getattr(self, name)
            require(type(value) is int and value >= 1,
                    f"{name} must be a whole number of at least 1, not {value!r}.")
        require(self.n_embd % self.n_head == 0,
                f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head}).")
        require(is_number(self.dropout) and 0 <= self.dropout < 1,
                f"dropout must be at least 0 and below 1, not {self.dropout!r}.")

# %% [markdown]
# ## The network
#
# A transformer: every character becomes a vector, and six times over each vector first gathers
# from the vectors before it (attention), then thinks by itself (feed-forward). The vector that a
# position ends up with predicts the character that follows.
#
# In the comments on shapes B is the number of texts side by side, T the number of characters in
# each, C the size of a vector, nh the number of heads, hs the size of a head's share (C = nh * hs).
#
# **plain_attention.** Every position gathers values from itself and the positions before it: the
# better a position's key matches the query, the more its value counts.

# %%
def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every position gathers values from itself and the positions before it: the better a
    position's key matches the query, the more its value counts. There are S positions, and queries
    only for the last T of them (T = S unless earlier ones are cached)."""
    T, S = q.size(2), k.size(2)
    future = torch.ones(T, S, dtype=torch.bool, device=q.device).triu(S - T + 1)  # (T, S)
    scores = q @ k.transpose(2, 3) / math.sqrt(q.size(3))  # (B, nh, T, hs) -> (B, nh, T, S)
    weights = scores.masked_fill(future, -math.inf).softmax(dim=3)  # (B, nh, T, S), rows add to 1
    return weights @ v  # (B, nh, T, S) times (B, nh, S, hs) -> (B, nh, T, hs)


# What the network calls. Part II replaces them with faster versions that give the same results.
causal_attention: Callable[[Tensor, Tensor, Tensor], Tensor] = plain_attention
dropout: Callable[[Tensor, float, bool], Tensor] = F.dropout

# %% [markdown]
# **Attention.** Positions exchange information, in several heads that each look for something
# different.

# %%
class Attention(nn.Module):
    """Positions exchange information, in several heads that each look for something different."""

    def __init__(self, config: Config):
        super().__init__()
        C, self.n_head = config.n_embd, config.n_head
        self.qkv = nn.Linear(C, 3 * C, bias=False)  # queries, keys and values of all heads
        self.projection = nn.Linear(C, C, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        q, k, v = self.split(x)
        return self.merge(causal_attention(q, k, v))

    def split(self, x: Tensor) -> Tensor:  # (B, T, C) -> (3, B, nh, T, hs)
        B, T, C = x.shape
        heads = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head)
        return heads.permute(2, 0, 3, 1, 4)

    def merge(self, y: Tensor) -> Tensor:  # (B, nh, T, hs) -> (B, T, C)
        return self.projection(y.transpose(1, 2).flatten(2))  # the heads side by side again

# %% [markdown]
# **FeedForward.** Each position by itself: four times as wide, a nonlinearity, and back.

# %%
class FeedForward(nn.Module):
    """Each position by itself: four times as wide, a nonlinearity, and back."""

    def __init__(self, config: Config):
        super().__init__()
        C = config.n_embd
        self.up = nn.Linear(C, 4 * C, bias=False)
        self.down = nn.Linear(4 * C, C, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        return self.down(F.gelu(self.up(x)))

# %% [markdown]
# **Block.** One layer: two parts, each of which adds to what was there before (residual
# connections).

# %%
class Block(nn.Module):
    """One layer: two parts, each of which adds to what was there before (residual connections)."""

    def __init__(self, config: Config):
        super().__init__()
        self.p = config.dropout
        self.norm1 = nn.LayerNorm(config.n_embd)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.n_embd)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        x = x + dropout(self.attention(self.norm1(x)), self.p, self.training)
        return x + dropout(self.feed_forward(self.norm2(x)), self.p, self.training)

# %% [markdown]
# **GLTCH.** The whole network: characters in, a score for every possible next character out.

# %%
class GLTCH(nn.Module):
    """The whole network: characters in, a score for every possible next character out."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        self.blocks: Any = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """What each weight starts as.

        embeddings, qkv, up     normal, standard deviation 0.02
        projection, down        zero: every block starts as the identity
        head                    zero: all characters equally likely, loss ln(vocab_size)
        layer norms             weight one, bias zero (PyTorch's own)
        """
        for name, parameter in self.named_parameters():
            if name.endswith(("projection.weight", "down.weight", "head.weight")):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, targets: Optional[Tensor] = None) -> Tensor:
        """Logits (B, T, vocab_size) for ids (B, T); with targets (B, T), the mean loss in nats."""
        position = torch.arange(ids.size(1), device=ids.device)
        x = self.token_embedding(ids) + self.position_embedding(position)  # (B, T, C)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))  # (B, T, vocab_size)
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

# %% [markdown]
# ## Text
#
# A text is a long row of characters. The vocabulary gives each different character a number; the
# network only ever sees the numbers. The last tenth is held back to measure what was learned.
#
# **Vocabulary.** The different characters of a text, in order: character i has number i.

# %%
class Vocabulary:
    """The different characters of a text, in order: character i has number i."""

    def __init__(self, characters: str):
        self.characters = characters
        self.number = {c: i for i, c in enumerate(characters)}
        require(len(self.number) == len(characters) > 0, "A vocabulary lists each character once.")

    def __len__(self) -> int:
        return len(self.characters)

    def unknown(self, text: str) -> List[str]:
        return sorted(set(text) - set(self.characters))

    def encode(self, text: str) -> Tensor:  # (len(text),) int64
        unknown = self.unknown(text)
        require(not unknown, f"The model does not know {', '.join(map(repr, unknown[:10]))}.")
        return torch.tensor([self.number[c] for c in text], dtype=torch.long)

    def decode(self, numbers: Iterable[int]) -> str:
        return "".join(self.characters[i] for i in numbers)

# %% [markdown]
# **Corpus.** An encoded text, split 90/10 into training and validation characters.

# %%
@dataclass
class Corpus:
    """An encoded text, split 90/10 into training and validation characters."""

    source: str  # what it is, in words
    ids: Tensor  # (n,), of any type of whole numbers
    vocabulary: Vocabulary
    digest: str = ""  # SHA-256 of the text in UTF-8
    paths: List[str] = field(default_factory=list)  # where to find it again

    @property
    def train(self) -> Tensor:
        return self.ids[: len(self.ids) * 9 // 10]

    @property
    def validation(self) -> Tensor:
        return self.ids[len(self.ids) * 9 // 10:]

# %% [markdown]
# **Windows.** The order in which training sees the text: windows of `size` characters and their
# successor.

# %%
class Windows:
    """The order in which training sees the text: windows of `size` characters and their successor.

    Every epoch visits each window once, in random order and from a new random offset. The order is
    a function of the seed alone, so a position in it is just a count of windows.
    """

    def __init__(self, ids: Tensor, size: int, seed: int):
        require(len(ids) > size, f"The training text has {len(ids)} characters, but one window of "
                f"the network takes {size + 1}: use a longer text.")
        self.ids, self.size, self.seed = ids, size, seed
        self.per_epoch = max(1, (len(ids) - 1) // size - 1)  # one fewer than fit, so all can shift
        self.epoch, self.starts = -1, torch.empty(0)

    def start(self, index: int) -> int:
        epoch, position = divmod(index, self.per_epoch)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            room = min(self.size, len(self.ids) - self.per_epoch * self.size)  # to shift in
            offset = torch.randint(room, (1,), generator=generator)  # elsewhere in each epoch
            order = torch.randperm(self.per_epoch, generator=generator)
            self.epoch, self.starts = epoch, offset + order * self.size
        return int(self.starts[position])

    def batch(self, indices: Iterable[int]) -> Tuple[Tensor, Tensor]:
        """Inputs (B, T) and targets (B, T), the characters that follow, as int64."""
        starts = torch.tensor([self.start(i) for i in indices], device=self.ids.device)
        positions = starts[:, None] + torch.arange(self.size + 1, device=self.ids.device)
        windows = self.ids[positions].long()  # (B, T + 1)
        return windows[:, :-1], windows[:, 1:]

# %% [markdown]
# ## Writing
#
# Writing is predicting, drawing, appending, over and over.
#
# **draw.** The next character of each row, drawn by its probability: (B, V) -> (B,).
#
# **generate_naively.** Continue each row of ids (B, T) by `length` characters: (B, T + length).

# %%
def draw(logits: Tensor, temperature: float, generator: Optional[torch.Generator] = None) -> Tensor:
    """The next character of each row, drawn by its probability: (B, V) -> (B,).
    A low temperature favours what is likely; at zero it is always the likeliest."""
    if temperature < 1e-6:  # dividing by anything smaller could overflow
        return logits.argmax(-1)
    chances = (logits / temperature).softmax(-1)
    return torch.multinomial(chances, 1, generator=generator)[:, 0]


@torch.inference_mode()
def generate_naively(model: GLTCH, ids: Tensor, length: int, temperature: float = 0.8) -> Tensor:
    """Continue each row of ids (B, T) by `length` characters: (B, T + length)."""
    for _ in range(length):
        logits = model(ids[:, -model.config.block_size:])[:, -1]  # (B, V), after the last one
        ids = torch.cat([ids, draw(logits, temperature)[:, None]], dim=1)
    return ids

# %% [markdown]
# **Decoder.** The same, faster: a position looks back only, so what each layer computed for the
# characters before (keys and values) never changes.

# %%
class Decoder:
    """The same, faster: a position looks back only, so what each layer computed for the characters
    before (keys and values) never changes. It is kept, and a new character costs one position."""

    def __init__(self, model: GLTCH, batch: int):
        config, self.model = model.config, model
        shape = (config.n_layer, 2, batch, config.n_head, config.block_size,
                 config.n_embd // config.n_head)
        self.cache = model.head.weight.new_empty(shape)  # keys and values of every layer
        self.length = 0  # characters in the cache

    def __call__(self, ids: Tensor) -> Tensor:
        """Logits (B, vocab_size) after ids (B, T), which follow what is in the cache: any number
        of them into an empty one, then one at a time."""
        model, start, end = self.model, self.length, self.length + ids.size(1)
        x = model.token_embedding.weight[ids] + model.position_embedding.weight[start:end]
        x, self.length = self.blocks(x, start, end), end
        return model.head(model.norm(x[:, -1]))

    def blocks(self, x: Tensor, start: int, end: int) -> Tensor:  # (B, T, C) -> (B, T, C)
        for block, (keys, values) in zip(self.model.blocks, self.cache):
            q, k, v = block.attention.split(block.norm1(x))  # (B, nh, T, hs) each
            keys[:, :, start:end], values[:, :, start:end] = k, v
            y = causal_attention(q, keys[:, :, :end], values[:, :, :end])
            x = x + block.attention.merge(y)
            x = x + block.feed_forward(block.norm2(x))
        return x

# %% [markdown]
# **continue_ids.** Continue each row of ids (B, T) by `length` characters, yielding (B,) after
# each; `choose` picks each from the logits (B, V) and the text so far.

# %%
@torch.inference_mode()
def continue_ids(decoder: Decoder, ids: Tensor, length: int, keep: int,
                 choose: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Tensor]:
    """Continue each row of ids (B, T) by `length` characters, yielding (B,) after each; `choose`
    picks each from the logits (B, V) and the text so far.

    Positions are learned, and there are only block_size of them. When they are used up, the newest
    `keep` characters move to the first ones, and what was cached for the old is computed again:
    a small `keep` forgets more, a large one is used up sooner.
    """
    size = decoder.model.config.block_size
    text, new = ids, ids[:, -size:]
    for _ in range(length):
        if decoder.length + new.size(1) > size:
            new, decoder.length = text[:, -keep:], 0
        new = choose(decoder(new), text)[:, None]
        yield new[:, 0]
        text = torch.cat([text[:, -size:], new], dim=1)

# %% [markdown]
# ## The recipe
#
# How long to train, how fast, and with which optimizer. Each field is also an option of the command
# line; its meaning and the values it may have stand beside it.
#
# **Rule.** Which values a setting may have: its type, a description, a check.

# %%
class Rule(NamedTuple):
    """Which values a setting may have: its type, a description, a check."""

    kind: Callable[[str], Any]
    words: str
    allows: Callable[[Any], bool]
    choices: Optional[Tuple[str, ...]] = None


def one_of(*names: str) -> Rule:
    return Rule(str, f"one of {', '.join(names)}", lambda v: v in names, names)


COUNT = Rule(int, "a whole number of at least 1", lambda v: type(v) is int and v >= 1)
FROM_ZERO = Rule(int, "a whole number from 0 to 2147483647",
                 lambda v: type(v) is int and 0 <= v < 2**31)
ABOVE = Rule(float, "a number above 0 and at most 1e36", lambda v: is_number(v) and 0 < v <= 1e36)
DECAY = Rule(float, "a number from 0 to 1000000", lambda v: is_number(v) and 0 <= v <= 1e6)
PART = Rule(float, "from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
FLAG = Rule(bool, "True or False", lambda v: type(v) is bool)
TEXT = Rule(str, "a text", lambda v: type(v) is str)


def option(default: Any, rule: Rule, text: str) -> Any:
    return field(default=default, metadata={**rule._asdict(), "help": text})

# %% [markdown]
# **TrainConfig.** The training recipe.

# %%
@dataclass(frozen=True)
class TrainConfig:
    """The training recipe. Raises GltchError for a value that makes no sense."""

    steps: Optional[int] = option(None, COUNT, "train for this many steps (default: the full run)")
    minutes: Optional[float] = option(None, ABOVE, "train for at most this long (on a CPU: 10)")
    batch_size: int = option(64, COUNT, "sequences per step, over all processes")
    optimizer: str = option("muon", one_of("muon", "adamw", "sgd"),
                            "optimizer of the matrices in the blocks (sgd: of everything)")
    learning_rate: Optional[float] = option(None, ABOVE, "rate for the matrices in the blocks "
                                            "(default: muon 0.02, adamw 0.001, sgd 0.1)")
    embedding_learning_rate: float = option(0.02, ABOVE, "rate for embeddings and layer norms")
    head_learning_rate: float = option(0.003, ABOVE, "rate for the head")
    weight_decay: float = option(0.1, DECAY, "how fast the matrices in the blocks shrink")
    warmup: int = option(20, FROM_ZERO, "first steps, in which the rates rise from zero")
    cooldown: float = option(0.6, PART, "last part of the run, in which the rates fall to zero")
    seed: int = option(1337, FROM_ZERO, "the same seed repeats everything random")
    eval_every: int = option(100, COUNT, "steps between evaluations; each writes a checkpoint")
    sample_every: int = option(500, FROM_ZERO, "steps between text samples, 0 for none")
    log_every: int = option(10, COUNT, "steps between points of the training curve")
    device: str = option("auto", TEXT, "auto, cpu, cuda, cuda:1, mps")
    precision: str = option("auto", one_of("auto", "fp32", "bf16", "fp16"), "number format")
    compile: bool = option(False, FLAG, "torch.compile the network (pays on long GPU runs)")
    low_memory: bool = option(False, FLAG, "the same model in less memory, but more slowly")

    def __post_init__(self) -> None:
        for f in fields(self):
            value, rule = getattr(self, f.name), f.metadata
            require(value is f.default is None or rule["allows"](value),
                    f"{f.name} must be {rule['words']}, not {value!r}.")

    @property
    def matrix_learning_rate(self) -> float:
        return self.learning_rate or {"muon": 0.02, "adamw": 0.001, "sgd": 0.1}[self.optimizer]

# %% [markdown]
# **lr_factor.** Fraction of the full learning rate: linear warm-up, hold, linear cooldown to zero
# at `total` steps.

# %%
def lr_factor(step: int, total: Optional[int], recipe: TrainConfig,
              cooling: Optional[Tuple[int, float]] = None) -> float:
    """Fraction of the full learning rate: linear warm-up, hold, linear cooldown to zero at `total`
    steps. A run that is given minutes learns its total only on the way (None until then), and with
    it `cooling`: the step from which the rate is to fall, and the fraction it had reached there."""
    warm = (step + 1) / recipe.warmup if step < recipe.warmup else 1.0
    if total is None or recipe.cooldown == 0:
        return warm
    if cooling is None:
        return min(warm, max(0.0, (total - step) / (recipe.cooldown * total)))
    begin, height = cooling
    return min(warm, height * max(0.0, (total - step) / max(1, total - begin)))

# %% [markdown]
# ## The optimizer
#
# A matrix turns a vector, stretches it along perpendicular axes, and turns it again. The stretches,
# its singular values, are a few large and many tiny ones in a gradient. Muon, for the matrices in
# the blocks, makes them all about 1: the nearest orthogonal matrix, equally strong in every
# direction. AdamW is for the rest: the head, embeddings, of which a batch moves only the rows that
# it looks up, and layer norms, which are vectors.
#
# **orthogonalize.** Roughly the nearest orthogonal matrix, by matrix products alone (Newton-
# Schulz): each step makes a singular value s into a s + b s^3 + c s^5.

# %%
QUINTIC = 5 * [(3.4445, -4.7750, 2.0315)]  # a, b, c of a step (kellerjordan.github.io/posts/muon)


def orthogonalize(g: Tensor, dtype: torch.dtype) -> Tensor:  # (rows, cols)
    """Roughly the nearest orthogonal matrix, by matrix products alone (Newton-Schulz): each step
    makes a singular value s into a s + b s^3 + c s^5. All above 1/500 of the norm end between 0.68
    and 1.21, smaller ones may end lower, and 0 stays 0."""
    tall = g.size(0) > g.size(1)
    x = (g.T if tall else g).to(dtype)  # wide, so that x x^T is smaller than x^T x
    x = x / (x.norm() + 1e-7)  # no singular value is above 1 now
    for a, b, c in QUINTIC:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(g.dtype)

# %% [markdown]
# **Muon.** Momentum orthogonalized by Newton-Schulz, one matrix after the other; `split` cuts it
# into that many row blocks: queries, keys and values do three jobs, with gradients of three sizes.

# %%
class Muon(torch.optim.Optimizer):
    """Momentum orthogonalized by Newton-Schulz, one matrix after the other; `split` cuts it into
    that many row blocks: queries, keys and values do three jobs, with gradients of three sizes."""

    def __init__(self, groups: List[Dict[str, Any]], lr: float, weight_decay: float,
                 dtype: torch.dtype):
        super().__init__(groups, {
            "lr": lr, "weight_decay": weight_decay, "momentum": 0.95, "split": 1})
        self.dtype = dtype  # of the Newton-Schulz products

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                blocks = self.direction(p, group).chunk(group["split"])  # (rows, cols) each
                updates = [orthogonalize(block, self.dtype) for block in blocks]
                self.move(p, torch.cat(updates), group)

    def direction(self, p: Any, group: Dict[str, Any]) -> Tensor:  # of the shape of p
        if "momentum" not in self.state[p]:
            self.state[p]["momentum"] = torch.zeros_like(p)
        momentum = self.state[p]["momentum"]
        momentum.lerp_(p.grad, 1 - group["momentum"])  # a running mean of gradients,
        nesterov: Tensor = p.grad.lerp(momentum, group["momentum"])  # with more of the newest one
        return nesterov

    def move(self, p: Tensor, update: Tensor, group: Dict[str, Any]) -> None:
        """A tall update spreads its input over more outputs, each of which would change less:
        sqrt(rows / cols) of a block makes up for that."""
        rows, cols = len(p) // group["split"], p.size(1)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(update, alpha=-group["lr"] * max(1, rows / cols)**0.5)

# %% [markdown]
# **make_optimizers.** One optimizer for the matrices in the blocks, one for all the rest.

# %%
def make_optimizers(model: GLTCH, recipe: TrainConfig, dtype: torch.dtype = torch.float32,
                    muon: Type[Muon] = Muon) -> List[torch.optim.Optimizer]:
    """One optimizer for the matrices in the blocks, one for all the rest."""
    qkv = [block.attention.qkv.weight for block in model.blocks]
    others = [matrix for block in model.blocks for matrix in (
        block.attention.projection.weight, *block.feed_forward.parameters())]
    rest = [p for name, p in model.named_parameters() if p.dim() == 1 or "embedding" in name]
    lr, decay = recipe.matrix_learning_rate, recipe.weight_decay
    adamw = partial(torch.optim.AdamW, betas=(0.9, 0.99))
    second = adamw([{"params": rest, "lr": recipe.embedding_learning_rate},
                    {"params": [model.head.weight], "lr": recipe.head_learning_rate}],
                   eps=1e-10, weight_decay=0.0)
    optimizers: List[torch.optim.Optimizer]
    if recipe.optimizer == "muon":
        first = muon([{"params": qkv, "split": 3}, {"params": others}], lr, decay, dtype)
        optimizers = [first, second]
    elif recipe.optimizer == "adamw":
        optimizers = [adamw(qkv + others, lr, weight_decay=decay), second]
    else:  # plain gradient descent, to compare with
        optimizers = [torch.optim.SGD(model.parameters(), lr)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return optimizers

# %% [markdown]
# ## Training
#
# Show the network a batch, measure how surprised it is, nudge every weight to be less so; repeat.
#
# **mean_loss.** Mean loss in nats per character over all of ids, cut into windows of the context
# length.

# %%
@torch.inference_mode()
def mean_loss(model: GLTCH, ids: Tensor) -> float:
    """Mean loss in nats per character over all of ids, cut into windows of the context length."""
    size, device, total = model.config.block_size, model.head.weight.device, 0.0
    at_once, was_training = max(1, 8192 // size), model.training
    model.eval()  # without dropout
    for start in range(0, len(ids) - 1, size * at_once):
        part = ids[start: start + size * at_once + 1].to(device).long()
        whole = (len(part) - 1) // size * size  # the very last window may be shorter
        for inputs, targets, width in ((part[:whole], part[1: whole + 1], size),
                                       (part[whole:-1], part[whole + 1:], len(part) - 1 - whole)):
            if len(targets):
                loss = model(inputs.view(-1, width), targets.view(-1, width))
                total += loss.item() * len(targets)
    model.train(was_training)
    return total / (len(ids) - 1)


UNSTABLE = "lower the learning rate in a new run (resuming keeps it), or use precision fp32"

# %% [markdown]
# **Trainer.** Everything that changes during training, and the step that changes it.

# %%
class Trainer:
    """Everything that changes during training, and the step that changes it.

    The order of the text and all noise follow from the seed and the step: weights, their mean,
    optimizers and step are all that a run needs to go on as if it had never stopped."""

    def __init__(self, config: Config, recipe: TrainConfig, corpus: Corpus,
                 device: Any = "cpu", products: torch.dtype = torch.float32, *,
                 muon: Type[Muon] = Muon, noise_seed: Optional[int] = None,
                 batch_of: Optional[Callable[[int], range]] = None):
        torch.manual_seed(recipe.seed)
        self.recipe, self.corpus = recipe, corpus
        self.model = GLTCH(config).to(device)
        self.ema = copy.deepcopy(self.model).requires_grad_(False)  # a running mean of the weights
        self.optimizers = make_optimizers(self.model, recipe, products, muon)
        self.windows = Windows(corpus.train.to(device), config.block_size, recipe.seed)
        size = recipe.batch_size  # `batch_of` says which windows a step learns from
        self.batch_of = batch_of or (lambda step: range(step * size, (step + 1) * size))
        self.noise_seed = recipe.seed if noise_seed is None else noise_seed  # of dropout
        self.step = 0
        self.total = None if recipe.minutes else recipe.steps  # None until steps have been timed
        self.cooling: Optional[Tuple[int, float]] = None  # see `lr_factor`
        self.stop = False  # asks `learn` to end after this step
        self.losses: List[float] = []  # since the last point of the training curve
        self.val_loss = math.nan

    def backpropagate(self, batch: range, noise: int) -> float:
        """The mean loss of these windows; every weight gets its gradient. `noise` seeds dropout."""
        torch.manual_seed(noise)
        inputs, targets = self.windows.batch(batch)
        loss = self.model(inputs, targets)
        loss.backward()
        return loss.item()

    def update(self) -> None:
        """Each optimizer moves its weights by their gradients, which are then forgotten."""
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def train_step(self) -> float:
        """One step on the next batch; returns its mean loss. Raises GltchError, with the weights
        untouched, when the loss is not finite."""
        self.model.train()
        noise = self.noise_seed * 1_000_003 + self.step
        loss = self.backpropagate(self.batch_of(self.step), noise)
        require(math.isfinite(loss), f"The loss became {loss} at step {self.step + 1}: {UNSTABLE}.")
        factor = lr_factor(self.step, self.total, self.recipe, self.cooling)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_lr"] * factor
                if isinstance(optimizer, Muon):
                    group["momentum"] = 0.85 + 0.1 * min(1, self.step / 300)
        self.update()
        self.step += 1
        self.losses.append(loss)
        # At the full rate the weights jitter, and a mean of the last 100 steps is better. It covers
        # fewer as the rate falls, and never more than about a tenth of the steps so far: at first
        # the weights still go a long way.
        blend = max(1 / (1 + 100 * factor), 1 - (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for mean, parameter in zip(self.ema.parameters(), self.model.parameters()):
                mean.lerp_(parameter, blend)
        return loss

    def validate(self) -> float:
        self.val_loss = mean_loss(self.ema, self.corpus.validation)
        return self.val_loss

# %% [markdown]
# **learn.** Train to the last step, yielding ("step", loss) after each one, and ("train", loss) and
# ("eval", loss) for the points of both curves.

# %%
def learn(trainer: Trainer) -> Iterator[Tuple[str, float]]:
    """Train to the last step, yielding ("step", loss) after each one, and ("train", loss) and
    ("eval", loss) for the points of both curves."""
    recipe = trainer.recipe
    if math.isnan(trainer.val_loss):  # the very beginning
        yield "eval", trainer.validate()
    while trainer.step != trainer.total and not trainer.stop:
        yield "step", trainer.train_step()
        end = trainer.step == trainer.total
        if trainer.step % recipe.log_every == 0 or end:
            yield "train", sum(trainer.losses) / len(trainer.losses)
            trainer.losses.clear()
        if trainer.step % recipe.eval_every == 0 or end:
            yield "eval", trainer.validate()

# %% [markdown]
# # Part Ii: for people and machines
#
# ## Faster, and the same
#
# Faster forms of the lesson's operations, which take their place. They are equal up to rounding;
# dropout rounds its fraction to a 256th.
#
# **fast_attention.** `plain_attention` where T is 1 or S.
#
# **fast_dropout.** Zero a fraction p of x and scale the rest up.
#
# **fast_orthogonalize.** A step multiplies x by a factor that depends on gram = x x^T alone.
#
# **steps_factor.** What several Newton-Schulz steps multiply a matrix by: a + b gram + c gram^2 for
# each.

# %%
def fast_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # (B, nh, T, hs), (B, nh, S, hs)
    """`plain_attention` where T is 1 or S. PyTorch's fused attention is faster, except for bf16 on
    a CPU, where its backward pass takes several times as long as two matrix products."""
    B, nh, T, hs = q.shape
    if not (q.device.type == "cpu" and q.dtype == torch.bfloat16):
        return F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
    S = k.size(2)
    future = torch.full((T, S), -math.inf, dtype=q.dtype).triu(S - T + 1)  # 0 for the past
    scores = torch.baddbmm(future.expand(B * nh, T, S), q.reshape(B * nh, T, hs),
                           k.reshape(B * nh, S, hs).transpose(1, 2), alpha=hs**-0.5)
    return torch.bmm(scores.softmax(-1), v.reshape(B * nh, S, hs)).view(B, nh, T, hs)


def fast_dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Zero a fraction p of x and scale the rest up. On a CPU p is rounded to a 256th: one random
    byte per element costs far less than PyTorch's one random number per element."""
    if x.device.type != "cpu" or p == 0 or not training:
        return F.dropout(x, p, training)
    limit = min(round(256 * p), 255)
    random = torch.randint(-2**63, 2**63 - 1, ((x.numel() + 7) // 8,)).view(torch.uint8)
    keep = (random[: x.numel()] >= limit).view(x.shape)
    return x * (keep.to(x.dtype) * (256 / (256 - limit)))


def fast_orthogonalize(g: Tensor, dtype: torch.dtype) -> Tensor:  # (N, rows, cols)
    """A step multiplies x by a factor that depends on gram = x x^T alone. When x has twice the
    columns of gram or more, three steps are cheaper on gram; more would lose digits in bf16."""
    tall = g.size(-2) > g.size(-1)
    x = (g.mT if tall else g).to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    at_once = 3 if x.size(-1) >= 2 * x.size(-2) else 1
    for start in range(0, len(QUINTIC), at_once):
        x = steps_factor(x @ x.mT, QUINTIC[start: start + at_once]) @ x
    return (x.mT if tall else x).to(g.dtype)


def steps_factor(gram: Tensor, steps: List[Tuple[float, float, float]]) -> Tensor:
    """What several Newton-Schulz steps multiply a matrix by: a + b gram + c gram^2 for each."""
    a, b, c = steps[0]
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    if len(steps) == 1:
        return factor
    return steps_factor(factor @ gram @ factor, steps[1:]) @ factor

# %% [markdown]
# **FastMuon.** All blocks of one shape in one batch: few large products instead of many small ones.

# %%
class FastMuon(Muon):
    """All blocks of one shape in one batch: few large products instead of many small ones."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        by_shape: Dict[Any, List[Tuple[Tensor, Tensor, Dict[str, Any]]]] = {}
        for group in self.param_groups:
            for p in group["params"]:
                blocks = self.direction(p, group).view(group["split"], -1, p.size(1))
                by_shape.setdefault(blocks.shape[1:], []).append((p, blocks, group))
        for members in by_shape.values():
            batch = torch.cat([blocks for _, blocks, _ in members])  # (N, rows, cols)
            parts = fast_orthogonalize(batch, self.dtype).split(
                [len(blocks) for _, blocks, _ in members])
            for (p, _, group), update in zip(members, parts):
                self.move(p, update.reshape_as(p), group)


causal_attention, dropout = fast_attention, fast_dropout  # what the network calls from here on

# %% [markdown]
# **FastDecoder.** Blocks laid out flat: the overhead of their modules would cost as much as the
# products.

# %%
class FastDecoder(Decoder):
    """Blocks laid out flat: the overhead of their modules would cost as much as the products. Most
    weights are kept transposed: a single row times a matrix is faster that way, except where the
    row is the longer side."""

    def __init__(self, model: GLTCH, batch: int):
        super().__init__(model, batch)
        self.layers = [
            (b.norm1, b.attention.qkv.weight.t().contiguous(),
             b.attention.projection.weight.t().contiguous(), b.norm2,
             b.feed_forward.up.weight.t().contiguous(), b.feed_forward.down.weight.t(), cache)
            for b, cache in zip(model.blocks, self.cache)]

    def blocks(self, x: Tensor, start: int, end: int) -> Tensor:
        B, T, C = x.shape
        nh, width = self.model.config.n_head, (C,)
        x = x.view(B * T, C)
        for norm1, qkv, projection, norm2, up, down, cache in self.layers:
            h = torch.layer_norm(x, width, norm1.weight, norm1.bias)
            heads = torch.mm(h, qkv).view(B, T, 3, nh, -1).permute(2, 0, 3, 1, 4)
            cache[:, :, :, start:end] = heads[1:]  # keys and values
            keys, values = cache[:, :, :, :end]
            y = causal_attention(heads[0], keys, values)  # (B, nh, T, hs)
            x = torch.addmm(x, y.transpose(1, 2).reshape(B * T, C), projection)
            h = torch.layer_norm(x, width, norm2.weight, norm2.bias)
            x = torch.addmm(x, F.gelu(torch.mm(h, up)), down)
        return x.view(B, T, C)

# %% [markdown]
# **recompute_activations.** Trade time for memory: every block forgets its activations and computes
# them again for the backward pass.

# %%
def recompute_activations(model: GLTCH) -> None:
    """Trade time for memory: every block forgets its activations and computes them again for the
    backward pass."""
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)

# %% [markdown]
# ## Sizes
#
# The label is the parameter count within 5%, over Tiny Shakespeare's 65 characters. Larger networks
# see longer contexts, learn at lower rates, and want more text and more steps than the small ones.
#
# **usual_recipe.** The recipe for a size, but for what is given.
#
# **full_run.** How many steps of this recipe see as many characters as the full run of a size.
#
# **same_shape.** Whether two networks differ only in what they are trained on and how.

# %%
REFERENCE_STEPS = 3000  # the full run of GLTCH-2.7M: 24.6 million characters
CPU_MINUTES = 10.0  # length of a run without a GPU, unless --minutes or --steps say otherwise
CPU_STEPS = 4  # small ones in place of a step, where a CPU's clock ends the run

PRESETS: Dict[str, Tuple[Config, TrainConfig, int]] = {
    "1m": (Config(65, 128, 5, 4, 128, 0.05), TrainConfig(), 3000),
    "2.7m": (Config(), TrainConfig(), REFERENCE_STEPS),
    "10m": (Config(65, 256, 8, 5, 320, 0.2),
            TrainConfig(embedding_learning_rate=0.015), 4000),
    "25m": (Config(65, 256, 8, 8, 512, 0.2),
            TrainConfig(learning_rate=0.015, embedding_learning_rate=0.01,
                        head_learning_rate=0.002), 6000),
    "50m": (Config(65, 512, 10, 10, 640, 0.2),
            TrainConfig(learning_rate=0.015, embedding_learning_rate=0.01,
                        head_learning_rate=0.0015), 8000),
    "100m": (Config(65, 512, 14, 12, 768, 0.2),
             TrainConfig(learning_rate=0.01, embedding_learning_rate=0.006,
                         head_learning_rate=0.001, warmup=100), 16000),
    "200m": (Config(65, 1024, 16, 16, 1024, 0.2),
             TrainConfig(batch_size=32, learning_rate=0.01, embedding_learning_rate=0.004,
                         head_learning_rate=0.001, warmup=200), 24000),
}


def usual_recipe(size: str = "2.7m", **given: Any) -> TrainConfig:
    """The recipe for a size, but for what is given. Few characters fit into the minutes of a CPU:
    unless steps or their size are given, a network learns more from them in many small steps, and
    what is counted in steps stays as rare. Raises GltchError for a device that is not there, and
    as TrainConfig does."""
    usual = PRESETS[size][1]
    recipe = replace(usual, **given)
    if recipe.steps or "batch_size" in given or pick_device(recipe.device).type != "cpu":
        return recipe
    rare = {name: CPU_STEPS * getattr(usual, name)
            for name in ("eval_every", "sample_every", "log_every")}
    return replace(usual, **{"batch_size": usual.batch_size // CPU_STEPS, **rare, **given})


def full_run(recipe: TrainConfig, size: str = "2.7m") -> int:
    """How many steps of this recipe see as many characters as the full run of a size."""
    _, usual, steps = PRESETS[size]
    return max(1, steps * usual.batch_size // recipe.batch_size)


def same_shape(config: Config, other: Config) -> bool:
    """Whether two networks differ only in what they are trained on and how."""
    return replace(config, vocab_size=other.vocab_size, dropout=other.dropout) == other

# %% [markdown]
# **size_of.** The size with this shape, if there is one.
#
# **parameters_of.** Number of parameters, without building the network.

# %%
def size_of(config: Config) -> Optional[str]:
    """The size with this shape, if there is one."""
    return next((size for size, (shape, *_) in PRESETS.items() if same_shape(shape, config)), None)


def parameters_of(config: Config) -> int:
    """Number of parameters, without building the network."""
    width = config.n_embd
    block = 12 * width * width + 4 * width
    return width * (2 * config.vocab_size + config.block_size + 2) + config.n_layer * block

# %% [markdown]
# **Valueless.** Nothing gets its first values.

# %%
class Valueless(TorchFunctionMode):
    """Nothing gets its first values. Where there is no memory for them either, PyTorch would load
    its compiler to compute them, which takes longer than all the rest."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None
                           ) -> Any:
        if getattr(function, "__module__", None) != "torch.nn.init":
            return function(*args, **(kwargs or {}))

# %% [markdown]
# **outline.** The network's names and shapes, without memory.
#
# **parameter_table.** (component, shape, parameters) for each part, all blocks in one row.

# %%
def outline(config: Config) -> GLTCH:
    """The network's names and shapes, without memory."""
    with torch.device("meta"), Valueless():
        return GLTCH(config)


def parameter_table(model: GLTCH) -> List[Tuple[str, str, int]]:
    """(component, shape, parameters) for each part, all blocks in one row."""
    config = model.config
    V, T, C, L = config.vocab_size, config.block_size, config.n_embd, config.n_layer
    rows = [
        ("token embedding", f"{V} x {C}", "token_embedding"),
        ("position embedding", f"{T} x {C}", "position_embedding"),
        (f"{L} blocks: attention qkv", f"{C} -> {3 * C}", "qkv"),
        (f"{L} blocks: attention projection", f"{C} -> {C}", "projection"),
        (f"{L} blocks: feed-forward", f"{C} -> {4 * C} -> {C}", "feed_forward"),
        (f"{L} blocks: 2 layer norms", f"2 x 2 x {C}", "norm[12]"),
        ("final layer norm", f"2 x {C}", "norm"),
        ("head", f"{C} -> {V}", "head"),
    ]
    return [(component, shape, sum(p.numel() for name, p in model.named_parameters()
                                   if re.search(rf"(^|\.){part}\.", name)))
            for component, shape, part in rows]

# %% [markdown]
# ## Words for people, files on a disk
#
# Both may fail without harm: because nobody listens, or because the disk is full.
#
# **Unwritable.** A file cannot be written now; it may work later, once there is room for it.

# %%
class Unwritable(GltchError):
    """A file cannot be written now; it may work later, once there is room for it."""

# %% [markdown]
# **discard.** Drop what a stream could not write: left in its buffer it would fail again at the
# exit.
#
# **show.** Write to stderr, for a person.
#
# **say.** Tell a person, once, by stderr; stdout carries only data.

# %%
def discard(stream: Any) -> None:
    """Drop what a stream could not write: left in its buffer it would fail again at the exit."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        kept = os.dup(stream.fileno())
        try:
            os.dup2(nowhere.fileno(), stream.fileno())
            stream.flush()
        finally:
            os.dup2(kept, stream.fileno())
            os.close(kept)


def show(text: str) -> None:
    """Write to stderr, for a person. If the reader has left (`| head`), the terminal is closed or
    the disk is full, these words are lost and the program goes on."""
    if sys.stderr is None:  # closed from the start
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):  # of a closed stream; the next words are tried again
        discard(sys.stderr)


def is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def say(*words: object) -> None:
    """Tell a person, once, by stderr; stdout carries only data."""
    if is_main_process():
        show(" ".join(map(str, words)) + "\n")


def opened(path: Path) -> Any:
    try:
        return open(path, "rb")
    except OSError as error:
        raise GltchError(f"{path} cannot be read: {error.strerror}.") from None

# %% [markdown]
# **writing.** Turns a full disk or a forbidden folder into a sentence.
#
# **write_atomically.** Write to a temporary file, flush it to the disk, rename: the old file stays
# until then.

# %%
@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a full disk or a forbidden folder into a sentence."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # PyTorch reports a full disk as a RuntimeError
        reason = getattr(error, "strerror", None) or "the disk may be full"
        if isinstance(error, PermissionError):
            reason += "; choose a folder where you may write"
        raise Unwritable(f"{path} could not be written: {reason}.") from error


def write_atomically(path: Path, write: Callable[[Any], Any], mode: int = 0o666) -> None:
    """Write to a temporary file, flush it to the disk, rename: the old file stays until then."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb", opener=partial(os.open, mode=mode)) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            if temporary.exists():
                temporary.unlink()


def write_whole(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))

# %% [markdown]
# ## Where the text comes from
#
# Files, folders, archives, addresses on the web, standard input, Tiny Shakespeare, or what every
# Python brings along. A text is read and encoded piece by piece: a large one takes little memory.
#
# **encode_chunks.** Encode a text piece by piece, by table look-up, never holding it whole as a
# string.

# %%
SHAKESPEARE_URL = ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
                   "tinyshakespeare/input.txt")
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_CHARACTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SHAKESPEARE, BUILT_IN = "@shakespeare", "@builtin"  # names for --data, besides files and folders
CHUNK = 1 << 18  # characters decoded at a time
MOST_BYTES = 1 << 30  # of a download, and of what a .gz or .zip file unpacks to


def narrowest(size: int) -> torch.dtype:
    return torch.uint8 if size <= 256 else torch.int16 if size <= 2**15 else torch.int32


def encode_chunks(chunks: Iterable[str], known: Optional[str] = None) -> Tuple[Tensor, str, str]:
    """Encode a text piece by piece, by table look-up, never holding it whole as a string.

    Returns the numbers (n,), the sorted characters and the SHA-256. Characters get provisional
    numbers in order of appearance; sorting the alphabet at the end renumbers them. With `known`,
    that alphabet is used and a character outside it raises GltchError.
    """
    digest, seen, length = hashlib.sha256(), [], 0  # type: Any, List[int], int
    table = torch.full((sys.maxunicode + 1,), -1, dtype=torch.int32)  # code point -> number
    ids = torch.empty(0, dtype=torch.uint8)  # one tensor that grows: many small ones scatter memory
    for chunk in chunks:
        if not chunk:
            continue
        digest.update(chunk.encode())
        codes = torch.frombuffer(bytearray(chunk.encode("utf-32-le")), dtype=torch.int32).long()
        fresh = codes[table[codes] < 0].unique()
        table[fresh] = torch.arange(len(seen), len(seen) + len(fresh), dtype=torch.int32)
        seen += fresh.tolist()
        end = length + len(codes)
        if end > len(ids):
            ids = torch.cat([ids[:length], ids.new_empty(end + end // 2 - length)])
        ids = ids.to(narrowest(len(seen)))
        ids[length:end] = table[codes]
        length = end
    characters = known or "".join(map(chr, sorted(seen)))
    unknown = sorted(set(map(chr, seen)) - set(characters))
    require(not unknown, f"The text has {len(unknown)} characters the model does not know: "
            f"{', '.join(map(repr, unknown[:10]))}; leave them out, or train on it with --from.")
    number = {ord(c): i for i, c in enumerate(characters)}
    final = torch.tensor([number[code] for code in seen], dtype=narrowest(len(characters)))
    ids = ids[:length].to(final.dtype)
    for part in ids.split(CHUNK):
        part.copy_(final[part.long()])
    return ids, characters, digest.hexdigest()

# %% [markdown]
# **read_chunks.** Decode a binary stream as UTF-8, with any line ends.
#
# **only_texts.** The texts among the files of a folder or an archive.
#
# **files_in.** The text files below a folder, sorted; hidden and binary ones are passed over.

# %%
def read_chunks(name: str, stream: Any) -> Iterator[str]:
    """Decode a binary stream as UTF-8, with any line ends. Raises GltchError if it is not text."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline=None)
    try:
        for chunk in iter(lambda: text.read(CHUNK), ""):
            require("\0" not in chunk, f"{name} is a binary file: save it as text.")
            yield chunk
    except UnicodeDecodeError as error:
        raise GltchError(f"{name} is not UTF-8 text (byte {error.object[error.start]:#04x}): "
                         "save it as UTF-8 and try again.") from None
    finally:
        text.detach()  # do not close the stream: standard input stays open


def is_text(stream: Any) -> bool:
    start = stream.read(4096)
    try:  # a character cut in half at the end of the sample is no error
        codecs.getincrementaldecoder("utf-8")().decode(start, final=len(start) < 4096)
    except UnicodeDecodeError:
        return False
    return b"\0" not in start


def is_text_file(path: Path) -> bool:
    with opened(path) as file:
        return is_text(file)


def only_texts(place: str, files: List[Any], readable: Callable[[Any], bool]) -> List[Any]:
    """The texts among the files of a folder or an archive. Says how many are left out."""
    texts = [file for file in files if readable(file)]
    if len(texts) < len(files):
        say(f"text      {len(files) - len(texts)} files in {place} are not UTF-8 text: left out")
    require(bool(texts), f"There are no text files in {place}: save some as UTF-8.")
    return texts


def is_hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def files_in(folder: Path) -> List[Path]:
    """The text files below a folder, sorted; hidden and binary ones are passed over."""
    files = [path for path in sorted(folder.rglob("*"))
             if path.is_file() and not is_hidden(path.relative_to(folder).parts)]
    return only_texts(str(folder), files, is_text_file)

# %% [markdown]
# **unpacking.** Turns what a damaged archive leads to into a sentence.

# %%
@contextlib.contextmanager
def unpacking(name: str) -> Iterator[None]:
    """Turns what a damaged archive leads to into a sentence."""
    try:
        yield
    except (EOFError, NotImplementedError, OSError, ValueError, zipfile.BadZipFile, zlib.error
            ) as error:
        raise GltchError(f"{name} is damaged ({error}): get or pack it again.") from None

# %% [markdown]
# **Unpacked.** A stream of unpacked bytes, which ends in a sentence when none of `left` is left: a
# small file can unpack to more than any disk holds.

# %%
class Unpacked(io.RawIOBase):
    """A stream of unpacked bytes, which ends in a sentence when none of `left` is left: a small
    file can unpack to more than any disk holds."""

    def __init__(self, name: str, stream: Any, left: List[int]):
        self.name, self.stream, self.left = name, stream, left  # [bytes], shared in an archive

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with unpacking(self.name):
            content = self.stream.read(len(buffer))
        self.left[0] -= len(content)
        require(self.left[0] >= 0, f"{self.name} unpacks to more than {MOST_BYTES >> 20:,} MB, "
                "which is all that is taken of such a file: unpack it yourself.")
        buffer[: len(content)] = content
        return len(content)

# %% [markdown]
# **members_in.** (name, stream) of each text in a zip file, sorted by name; nothing is written to
# the disk.
#
# **unpacked.** (name, stream) of the text in a file, or of the texts in it if it is a .gz or .zip
# file.
#
# **texts_of.** (name, stream) of every text that a path, an address or "-" stands for.

# %%
def members_in(name: str, archive: zipfile.ZipFile) -> Iterator[Tuple[str, Any]]:
    """(name, stream) of each text in a zip file, sorted by name; nothing is written to the disk."""
    def readable(entry: zipfile.ZipInfo) -> bool:
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED,
                                                              zipfile.ZIP_DEFLATED):
            return False  # encrypted, or packed in a way that few programs know
        with archive.open(entry) as stream:
            return is_text(stream)

    left = [MOST_BYTES]
    entries = sorted((entry for entry in archive.infolist() if not entry.is_dir()
                      and not is_hidden(entry.filename.split("/"))), key=lambda one: one.filename)
    for entry in only_texts(name, entries, readable):
        with archive.open(entry) as stream:
            yield f"{entry.filename} in {name}", Unpacked(name, stream, left)


def unpacked(name: str, stream: Any) -> Iterator[Tuple[str, Any]]:
    """(name, stream) of the text in a file, or of the texts in it if it is a .gz or .zip file."""
    start = stream.peek(4)
    if start[:2] == b"\x1f\x8b":
        yield name, Unpacked(name, gzip.GzipFile(fileobj=stream), [MOST_BYTES])
    elif start[:4] == b"PK\3\4":
        with unpacking(name), zipfile.ZipFile(stream) as archive:
            yield from members_in(name, archive)
    else:
        yield name, stream


def is_address(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def texts_of(name: str) -> Iterator[Tuple[str, Any]]:
    """(name, stream) of every text that a path, an address or "-" stands for."""
    if name == "-":
        yield "standard input", sys.stdin.buffer
        return
    path = fetched(name) if is_address(name) else Path(name)
    require(path.exists(), f"There is no file or folder {name!r}.")
    for file in files_in(path) if path.is_dir() else [path]:
        with opened(file) as stream:
            yield from unpacked(name if is_address(name) else str(file), stream)


def read_paths(paths: Sequence[str]) -> Iterator[str]:
    last = "\n"
    for path in paths:
        for name, stream in texts_of(path):
            if not last.endswith("\n"):
                yield "\n"  # a new file begins a new line
            for last in read_chunks(name, stream):
                yield last


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gltch"

# %% [markdown]
# **download.** The content of an address, piece by piece.

# %%
def download(url: str) -> Iterator[bytes]:
    """The content of an address, piece by piece. Raises GltchError if anything goes wrong."""
    try:
        import requests
    except ImportError:
        raise GltchError(f"{url} could not be downloaded: the package requests is missing "
                         "(pip install requests).") from None
    progress, size = Progress(), 0
    try:
        with requests.get(url, stream=True, timeout=(4, 15)) as reply:  # to connect, to read
            reply.raise_for_status()
            announced = int(reply.headers.get("Content-Length") or 0)
            for piece in reply.iter_content(1 << 16):
                size += len(piece)
                require(max(size, announced) <= MOST_BYTES, f"{url} is larger than "
                        f"{MOST_BYTES >> 20:,} MB: download it yourself.")
                progress.line(size / max(size, announced), f"download  {size / 1e6:.1f} MB")
                yield piece
            whole = size == announced or not announced or "Content-Encoding" in reply.headers
            require(whole, f"{url} could not be downloaded: it broke off, try again.")
    except (requests.RequestException, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"it answers {status}" if status else type(error).__name__
        raise GltchError(f"{url} could not be downloaded ({reason}): check the address and the "
                         "network.") from None
    finally:
        progress.end()

# %% [markdown]
# **fetched.** The file that an address was downloaded to, now or for an earlier run, with its
# SHA-256 in another one beside it.
#
# **tiny_shakespeare.** From the cache, or downloaded and verified.

# %%
def fetched(url: str) -> Path:
    """The file that an address was downloaded to, now or for an earlier run, with its SHA-256 in
    another one beside it. It is read as text and never run."""
    path = cache_folder() / "texts" / hashlib.sha256(url.encode()).hexdigest()
    beside, digest = path.with_suffix(".sha256"), hashlib.sha256()
    if path.exists():
        with opened(path) as file:
            for piece in iter(partial(file.read, 1 << 20), b""):
                digest.update(piece)
        if beside.exists() and beside.read_bytes() == digest.hexdigest().encode():
            return path
        say(f"text      {url} is downloaded again: the copy in the cache does not fit its SHA-256")
        digest = hashlib.sha256()

    def write(file: Any) -> None:
        for piece in download(url):
            digest.update(piece)
            file.write(piece)

    write_atomically(path, write)
    write_whole(beside, digest.hexdigest().encode())
    return path


def tiny_shakespeare() -> bytes:
    """From the cache, or downloaded and verified. Raises GltchError when out of reach."""
    path = cache_folder() / "tinyshakespeare.txt"
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() == SHAKESPEARE_SHA256:
        return content
    content = b"".join(download(SHAKESPEARE_URL))
    require(hashlib.sha256(content).hexdigest() == SHAKESPEARE_SHA256,
            "What was downloaded is not Tiny Shakespeare: its SHA-256 differs.")
    try:
        write_whole(path, content)
    except GltchError as error:
        say(f"text      not kept for next time: {error}")
    return content

# %% [markdown]
# **builtin_text.** The prose of Python's language reference, in the 65 characters of Tiny
# Shakespeare.
#
# **load_corpus.** The text to learn from: `paths`, or GLTCH_DATA, or Tiny Shakespeare, or the
# built-in prose.

# %%
def builtin_text() -> str:
    """The prose of Python's language reference, in the 65 characters of Tiny Shakespeare."""
    from pydoc_data.topics import topics  # part of Python's standard library
    plain = str.maketrans({'"': "'", "“": "'", "”": "'", "‘": "'", "’": "'", "—": "--", "…": "..."})
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", "\n\n".join(topics[key] for key in sorted(topics))):
        text = re.sub(r"\s*\n\s*", "\n", paragraph.translate(plain)).strip()
        kept = "".join(c for c in text if c in SHAKESPEARE_CHARACTERS)
        if len(kept) >= 60 and len(kept) >= 0.94 * len(text):  # prose, not code or grammar
            paragraphs.append(re.sub(" +", " ", kept))
    return "\n\n".join(paragraphs) + "\n"


def load_corpus(paths: Sequence[str] = (), vocabulary: Optional[Vocabulary] = None) -> Corpus:
    """The text to learn from: `paths`, or GLTCH_DATA, or Tiny Shakespeare, or the built-in prose.

    With a vocabulary, the text is encoded in it. Raises GltchError for an unusable text.
    """
    known = vocabulary.characters if vocabulary else None
    given = list(paths or filter(None, [os.environ.get("GLTCH_DATA")]))
    content = b""
    for path in given:
        require("://" not in path or is_address(path), f"{path!r} is no address: one begins with "
                "http:// or https://.")
    if given in ([], [SHAKESPEARE]):
        try:
            content, given = tiny_shakespeare(), [SHAKESPEARE]
        except GltchError as error:
            require(not given, "Tiny Shakespeare is out of reach: give the text with --data"
                    f"{because(error)}.")
            say("text      Tiny Shakespeare is out of reach now, so a text that comes with Python "
                f"takes its place{because(error)}")
            given = [BUILT_IN]
    if content:
        source, chunks = "Tiny Shakespeare", read_chunks("Tiny Shakespeare", io.BytesIO(content))
    elif given == [BUILT_IN]:
        source = "the prose of Python's language reference (built in; --data for your own)"
        chunks, known = iter([builtin_text()]), known or SHAKESPEARE_CHARACTERS
    else:
        given = [path if path == "-" or is_address(path) else os.path.abspath(path)
                 for path in given]
        names = ", ".join("standard input" if path == "-" else path for path in given)
        source, chunks = names + ("" if paths else " (GLTCH_DATA)"), read_paths(given)
    ids, characters, digest = encode_chunks(chunks, known)
    require(len(ids) >= 20, f"The text ({source}) has {len(ids)} characters: too short, give 20.")
    return Corpus(source, ids, Vocabulary(characters), digest, given)

# %% [markdown]
# **in_the_numbers_of.** The same text in the numbers of another vocabulary, to which its new
# characters are added.
#
# **text_of.** Where the text of a checkpoint was found.

# %%
def in_the_numbers_of(vocabulary: Vocabulary, corpus: Corpus) -> Corpus:
    """The same text in the numbers of another vocabulary, to which its new characters are added."""
    new = vocabulary.unknown(corpus.vocabulary.characters)
    wider = Vocabulary(vocabulary.characters + "".join(new))
    number = wider.encode(corpus.vocabulary.characters).to(narrowest(len(wider)))
    ids = torch.cat([number[part.long()] for part in corpus.ids.split(CHUNK)])
    return replace(corpus, ids=ids, vocabulary=wider)


def text_of(state: Dict[str, Any]) -> List[str]:
    """Where the text of a checkpoint was found. Raises GltchError if it cannot be read again."""
    paths = state.get("paths", [])
    require("-" not in paths, "The network was trained on standard input: give the text again with "
            "--data.")
    return paths

# %% [markdown]
# ## Writing texts
#
# **choose.** Draw the next character of each row: logits (B, V), recent (B, R) -> (B,).

# %%
def choose(logits: Tensor, recent: Tensor, temperature: float, top_k: Optional[int],
           top_p: Optional[float], repetition_penalty: float,
           generator: Optional[torch.Generator]) -> Tensor:
    """Draw the next character of each row: logits (B, V), recent (B, R) -> (B,)."""
    if repetition_penalty != 1:  # CTRL (1909.05858), section 4.1, over the recent characters only
        seen = logits.gather(1, recent)
        logits = logits.scatter(1, recent, torch.where(
            seen > 0, seen / repetition_penalty, seen * repetition_penalty))
    if temperature >= 1e-6:  # the limits below apply to the chances at this temperature
        logits, temperature = logits / temperature, 1.0
    if top_k is not None and top_k < logits.size(-1):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -math.inf)
    if top_p is not None and top_p < 1:  # nucleus sampling (1904.09751)
        ordered, order = logits.sort(descending=True)
        share = ordered.softmax(-1)
        beyond = share.cumsum(-1) - share >= top_p  # the likeliest always stays
        logits = logits.masked_fill(beyond.gather(1, order.argsort(-1)), -math.inf)
    try:
        return draw(logits, temperature, generator)
    except RuntimeError as error:  # something among the chances is not finite
        raise GltchError("The network cannot choose a character: its weights are damaged. Take an "
                         "earlier checkpoint.") from error

# %% [markdown]
# **generate_ids.** Continue each row of ids (B, T) by `length` characters, yielding (B,) after
# each.
#
# **start_ids.** The encoded prompt; with an empty one the model starts as after a line end.
#
# **known_part.** The prompt without the characters the model never saw; a warning names them.

# %%
def generate_ids(model: GLTCH, ids: Tensor, length: int, *, temperature: float = 0.8,
                 top_k: Optional[int] = None, top_p: Optional[float] = None,
                 repetition_penalty: float = 1.0, seed: Optional[int] = None,
                 overflow: str = "reencode") -> Iterator[Tensor]:
    """Continue each row of ids (B, T) by `length` characters, yielding (B,) after each.

    When the context is full, `reencode` keeps its newer half and goes on, a small cost once in half
    a context; `exact` keeps all but the oldest character and computes the whole window every time.
    Raises GltchError for settings that make no sense.
    """
    require(length >= 0, f"length must be at least 0, not {length}.")
    require(0 <= temperature < math.inf, f"temperature must be at least 0, not {temperature}.")
    require(top_k is None or top_k >= 1, f"top_k must be at least 1, not {top_k}.")
    require(top_p is None or 0 < top_p <= 1, f"top_p must be above 0 and at most 1, not {top_p}.")
    require(0.01 <= repetition_penalty <= 100,
            f"repetition_penalty must be from 0.01 to 100, not {repetition_penalty}.")
    require(overflow in ("reencode", "exact"), f"overflow is reencode or exact, not {overflow}.")
    size, generator = model.config.block_size, torch.Generator(ids.device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    keep = size if overflow == "exact" else max(1, size // 2)
    return continue_ids(
        FastDecoder(model, len(ids)), ids, length, keep,
        lambda logits, text: choose(logits, text[:, -64:], temperature, top_k, top_p,
                                    repetition_penalty, generator))


def start_ids(model: GLTCH, vocabulary: Vocabulary, prompt: str) -> Tensor:  # (1, T)
    """The encoded prompt; with an empty one the model starts as after a line end."""
    first = "\n" if "\n" in vocabulary.number else vocabulary.characters[0]
    return vocabulary.encode(prompt or first)[None].to(model.head.weight.device)


def known_part(vocabulary: Vocabulary, prompt: str) -> str:
    """The prompt without the characters the model never saw; a warning names them."""
    unknown = vocabulary.unknown(prompt)
    if unknown:
        say(f"warning: the model never saw {', '.join(map(repr, unknown))}: left out")
    return "".join(c for c in prompt if c not in unknown)

# %% [markdown]
# **generate.** The continuation of a prompt, piece by piece as it is written; settings as
# generate_ids.
#
# **generate_batch.** `count` continuations of a prompt, written side by side; settings as
# generate_ids.

# %%
def generate(model: GLTCH, vocabulary: Vocabulary, prompt: str = "", length: int = 500, *,
             stop: Optional[str] = None, **settings: Any) -> Iterator[str]:
    """The continuation of a prompt, piece by piece as it is written; settings as generate_ids.

    What may be the beginning of `stop` is held back until it is clear; `stop` itself is never part
    of the text.
    """
    pending = ""
    for new in generate_ids(model, start_ids(model, vocabulary, prompt), length, **settings):
        pending += vocabulary.decode(new.tolist())
        if pending == stop:
            return
        held = next((n for n in range(min(len(stop or ""), len(pending)), 0, -1)
                     if (stop or "").startswith(pending[-n:])), 0)
        yield pending[: len(pending) - held]
        pending = pending[len(pending) - held:]
    yield pending


def generate_batch(model: GLTCH, vocabulary: Vocabulary, prompt: str, count: int,
                   length: int = 500, *, stop: Optional[str] = None, **settings: Any) -> List[str]:
    """`count` continuations of a prompt, written side by side; settings as generate_ids."""
    start = start_ids(model, vocabulary, prompt).expand(count, -1)
    columns = [new.tolist() for new in generate_ids(model, start, length, **settings)]
    texts = [vocabulary.decode(row) for row in zip(*columns)] or [""] * count
    return [text.split(stop)[0] if stop else text for text in texts]

# %% [markdown]
# ## Checkpoints
#
# A checkpoint is everything a run needs to go on as if it had never stopped, in one file that is
# replaced whole or not at all. Nothing is ever unpickled: files hold tensors and plain values.
#
# **find_checkpoint.** The checkpoint meant by a file, a run's folder or name, or nothing (the
# newest run).

# %%
FORMAT = "gltch-checkpoint-1"
ITEM_BYTES = {"Float": 4, "Double": 8, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Bool": 1}
KNOWN_NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2",
               *(f"torch {kind}Storage" for kind in ITEM_BYTES)}  # all that a checkpoint refers to
MOST_VALUES = 1_000_000  # in a checkpoint; the largest preset's has some 25,000
MOST_HEADER = 32 << 20  # bytes of the JSON in front of a safetensors file


def save_checkpoint(path: Path, state: Dict[str, Any]) -> None:
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))


def find_checkpoint(name: Optional[str], choices: Sequence[str], runs: Path = Path("runs")
                    ) -> Path:
    """The checkpoint meant by a file, a run's folder or name, or nothing (the newest run)."""
    if not name:
        found = [path for choice in choices for path in runs.glob(f"*/{choice}")]
        require(bool(found), "There is no run under runs/ yet: start one with the "
                             "command train, or name a checkpoint.")
        newest = max(found, key=lambda path: path.stat().st_mtime).parent
        return next(newest / choice for choice in choices if (newest / choice).exists())
    if Path(name).is_file():
        return Path(name)
    for folder in Path(name), runs / name:  # a clone has a folder hive/, and perhaps runs/hive
        inside = [folder / choice for choice in choices if (folder / choice).exists()]
        if inside:
            return inside[0]
    require(Path(name).exists(), f"There is no checkpoint {name!r}: name a file, or a run's folder "
                                 "under runs/.")
    raise GltchError(f"The folder {name!r} holds no {' or '.join(choices)}: name that of a run.")

# %% [markdown]
# **read_checkpoint.** A .pt or .safetensors checkpoint as a dictionary.
#
# **renamed.** The weights by today's names: 0.1.0 did not say which matrices of a block belong to
# attention and which to feed-forward.
#
# **because.** The reason in parentheses, if it is meant for people.

# %%
def read_checkpoint(path: Path) -> Dict[str, Any]:
    """A .pt or .safetensors checkpoint as a dictionary. Raises GltchError if it is not one."""
    safetensors = optional("safetensors") if path.suffix == ".safetensors" else None
    try:
        if safetensors:
            with open(path, "rb") as start:
                length = int.from_bytes(start.read(8), "little")
            require(length <= MOST_HEADER, f"its header has {length:,} bytes")
            with safetensors.safe_open(str(path), framework="pt") as file:
                weights = {name: file.get_tensor(name) for name in file.keys()}
                about = json.loads((file.metadata() or {})["gltch"])
                state = {"val_loss": math.nan, **about, "ema": weights}
        else:
            check_archive(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
            check_values(state)
        require(isinstance(state, dict) and state.get("format") == FORMAT, "it is another format")
        state.update((part, renamed(state[part])) for part in ("model", "ema")
                     if isinstance(state.get(part), dict))
    except Exception as error:  # a damaged file can fail in any way
        raise GltchError(f"{path} is not a GLTCH checkpoint, or it is damaged{because(error)}."
                         ) from error
    return state


def renamed(weights: Any) -> Any:
    """The weights by today's names: 0.1.0 did not say which matrices of a block belong to attention
    and which to feed-forward."""
    parts = {"qkv": "attention", "projection": "attention", "up": "feed_forward",
             "down": "feed_forward"}
    return {re.sub(r"^(blocks\.\d+)\.(qkv|projection|up|down)\.",
                   lambda m: f"{m[1]}.{parts[m[2]]}.{m[2]}.", name): weight
            for name, weight in weights.items()}


def because(error: Exception) -> str:
    """The reason in parentheses, if it is meant for people."""
    return f" ({str(error).rstrip('.')})" if isinstance(error, GltchError) else ""

# %% [markdown]
# **check_archive.** Before PyTorch opens a .pt file: does it hold everything that it promises?
#
# **storages_in.** Key and bytes of every storage in a pickle, which is looked through, never
# unpickled.

# %%
def check_archive(path: Path) -> None:
    """Before PyTorch opens a .pt file: does it hold everything that it promises? PyTorch would
    believe it, take the memory, and read beyond the end. Raises GltchError if not."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED
                     and entry.compress_size == entry.file_size for entry in entries)
        require(stored, "it is compressed: what it grows to is not known")
        sizes = {entry.filename.lower(): entry.file_size for entry in entries}
        require(len(sizes) == len(entries) and sum(sizes.values()) <= path.stat().st_size
                and min(entry.header_offset for entry in entries) == 0, "its parts overlap")
        folder = entries[0].filename.split("/")[0]
        for key, length in storages_in(archive.read(f"{folder}/data.pkl")):
            require(length <= sizes.get(f"{folder}/data/{key}".lower(), 0),
                    "a tensor is larger than its part of the file")


def storages_in(content: bytes) -> Iterator[Tuple[str, int]]:
    """Key and bytes of every storage in a pickle, which is looked through, never unpickled.

    A storage is a tuple ("storage", type, key, device, items), handed to BINPERSID; any of its
    parts may be a repetition (GET) of an earlier value (PUT). What leads to such a tuple in another
    way, or refers to a name that no checkpoint has, raises GltchError.
    """
    row: List[Any] = []  # the values since the last MARK, as long as there are nothing but values
    named: Any = None  # the row that the last TUPLE made a tuple of
    memo: Dict[Any, Any] = {}
    for number, (code, value, _) in enumerate(pickletools.genops(content)):
        require(number < MOST_VALUES, "it holds too many values")
        require(code.name != "GLOBAL" or value in KNOWN_NAMES, f"it refers to {value}")
        if code.name in ("BINPUT", "LONG_BINPUT"):
            memo[value] = row[-1] if row else None
            continue
        if code.name == "BINPERSID":
            require(named is not None and len(named) == 5, "a storage is named in a strange way")
            _, kind, key, _, items = named
            size = ITEM_BYTES[kind.split()[1][: -len("Storage")]]
            require(type(items) is int and items >= 0, "a storage has no size")
            yield key, size * items
        named = row if code.name == "TUPLE" else None
        if code.name in ("BINGET", "LONG_BINGET"):
            row.append(memo[value])
        elif code.name in ("BINUNICODE", "GLOBAL", "BININT", "BININT1", "BININT2", "LONG1"):
            row.append(value)
        else:
            row = [] if code.name == "MARK" else 6 * [None]  # no row of five any more

# %% [markdown]
# **check_values.** Raises GltchError for lists within lists that never end, and for a tensor that
# repeats the values in the file to seem larger, since a copy of it would take the memory.
#
# **intact.** Turns any error that missing or strange contents of a checkpoint cause into a
# sentence.
#
# **look_into.** All of a checkpoint, after a check that its parts fit together: a network built
# from it takes no more memory than the file has bytes.

# %%
def check_values(state: Any) -> None:
    """Raises GltchError for lists within lists that never end, and for a tensor that repeats the
    values in the file to seem larger, since a copy of it would take the memory."""
    rest = [state]
    for _ in range(MOST_VALUES):
        if not rest:
            return
        value = rest.pop()
        if isinstance(value, Tensor):
            require(value.numel() * value.element_size() <= value.untyped_storage().nbytes(),
                    "a tensor is larger than what is stored of it")
        elif isinstance(value, (dict, list, tuple)):
            rest += value.values() if isinstance(value, dict) else value
    raise GltchError("it holds too many values")


@contextlib.contextmanager
def intact(path: Path) -> Iterator[None]:
    """Turns any error that missing or strange contents of a checkpoint cause into a sentence."""
    try:
        yield
    except (GltchError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError,
            ValueError) as error:
        raise GltchError(f"{path} holds another kind of network, or it is damaged{because(error)}."
                         ) from error


KINDS: Dict[str, Any] = {"config": dict, "vocabulary": str, "text": str, "step": int,
                         "val_loss": (int, float), "ema": dict}


def look_into(path: Path) -> Tuple[Dict[str, Any], Config, Vocabulary]:
    """All of a checkpoint, after a check that its parts fit together: a network built from it takes
    no more memory than the file has bytes."""
    state = read_checkpoint(path)
    with intact(path):
        for name, kind in KINDS.items():
            require(isinstance(state.get(name), kind), f"{name} is missing, or of another kind")
        require(not abs(state["val_loss"]) > 1e9, "no loss is that large")  # NaN: not measured
        paths = state.get("paths", [])
        require(type(paths) is list and all(type(one) is str for one in paths), "odd paths")
        config, vocabulary = Config(**state["config"]), Vocabulary(state["vocabulary"])
        require(len(vocabulary) == config.vocab_size, "the vocabulary has another size")
        check_weights(config, state["ema"], path.stat().st_size)
    return state, config, vocabulary

# %% [markdown]
# **check_weights.** Raises GltchError unless these are the tensors of such a network, with at most
# `most_bytes`.

# %%
def check_weights(config: Config, weights: Dict[str, Any], most_bytes: int) -> None:
    """Raises GltchError unless these are the tensors of such a network, with at most `most_bytes`.
    A file can announce a network of any size, so none is built to find out."""
    sizes = [(weight.numel(), weight.element_size()) for weight in weights.values()]
    require(sum(items * size for items, size in sizes) <= most_bytes, "its weights overlap")
    found = sum(items for items, _ in sizes)
    require(found == parameters_of(config) and config.n_layer < len(sizes),  # each layer has some
            f"its {found:,} weights do not make up a network of that shape")
    expected = {name: weight.shape for name, weight in outline(config).state_dict().items()}
    for name in {**expected, **weights}:
        require(name in weights, f"{name} is missing")
        require(name in expected, f"{name} does not belong there")
        require(weights[name].shape == expected[name], f"{name} has another shape")
        require(weights[name].is_floating_point(), f"{name} is not made of fractions")

# %% [markdown]
# **Origin.** A finished network, as a checkpoint holds it.

# %%
class Origin(NamedTuple):
    """A finished network, as a checkpoint holds it. A new run can begin with it."""

    state: Dict[str, Any]  # all of its checkpoint
    network: GLTCH  # of the averaged weights, ready to write
    vocabulary: Vocabulary

    def introduce(self, corpus: Corpus) -> str:
        """In words: where a new run begins, and which characters of its corpus are new."""
        new = self.vocabulary.unknown(corpus.vocabulary.characters)
        more = f" and {len(new) - 20} more" if len(new) > 20 else ""
        return (f"from      {self.state['path']}, step {self.state['step']}; new characters: "
                + (" ".join(map(repr, new[:20])) + more if new else "none"))

# %% [markdown]
# **open_origin.** The network that a run, its folder or a checkpoint holds (default: the newest
# run).
#
# **load.** The network and vocabulary in a checkpoint or run (default: the newest one).
#
# **optional.** A package that only this needs.
#
# **exporters.** The module gltch_export.py, which nothing else in this file needs.
#
# **packed.** Weights as the content of a safetensors file.

# %%
def open_origin(name: Optional[str] = None, runs: Path = Path("runs")) -> Origin:
    """The network that a run, its folder or a checkpoint holds (default: the newest run)."""
    path = find_checkpoint(name, ("best.pt", "last.pt"), runs)
    state, config, vocabulary = look_into(path)
    with intact(path):
        model = GLTCH(config)
        model.load_state_dict(state["ema"])
    for part, weight in model.named_parameters():
        require(bool(weight.isfinite().all()), f"{path} cannot be used: {part} holds values that "
                "are not finite; take an earlier checkpoint.")
    return Origin({**state, "path": path}, model.eval(), vocabulary)


def load(path: Optional[str] = None) -> Tuple[GLTCH, Vocabulary]:
    """The network and vocabulary in a checkpoint or run (default: the newest one).

    Raises GltchError when there is none."""
    return open_origin(path)[1:]


def optional(module: str, what: str = "safetensors files", packages: str = "safetensors numpy"
             ) -> Any:
    """A package that only this needs."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise GltchError(f"{what} need the package {module.split('.')[0]}: "
                         f"pip install {packages}") from None


def exporters() -> Any:
    """The module gltch_export.py, which nothing else in this file needs."""
    require(bool(find_spec("gltch_export")), "--to transformers and --to onnx need gltch_export.py "
            "next to gltch_2_7m.py: clone the whole project.")
    return importlib.import_module("gltch_export")


def packed(weights: Dict[str, Tensor], **about: str) -> bytes:
    """Weights as the content of a safetensors file."""
    optional("numpy")  # safetensors writes through it
    content: bytes = optional("safetensors.torch").save(weights, {"format": "pt", **about})
    return content


# By format: the usual output, and a function from the network and its metadata (JSON) to the files
# that are written there.
EXPORTS: Dict[str, Tuple[str, Callable[[GLTCH, str], Dict[str, bytes]]]] = {
    "safetensors": ("model.safetensors", lambda model, about: {
        "": packed(model.state_dict(), gltch=about)}),
    "transformers": ("model-transformers", lambda model, about: exporters().transformers_files(
        model, json.loads(about)["vocabulary"], packed)),
    "onnx": ("model.onnx", lambda model, about: {"": exporters().onnx_file(
        model, about, optional("onnx", "ONNX files", "onnx"))}),
}

# %% [markdown]
# **export.** Write the averaged weights of a checkpoint in one of the EXPORTS.

# %%
def export(name: Optional[str], output: Path, to: str = "safetensors") -> None:
    """Write the averaged weights of a checkpoint in one of the EXPORTS. A safetensors or ONNX file
    has config and vocabulary in its metadata."""
    state, model, _ = open_origin(name)
    kept = ("format", "config", "vocabulary", "text", "step", "val_loss")
    about = json.dumps({key: state[key] for key in kept})
    for part, content in EXPORTS[to][1](model, about).items():
        write_whole(output / part, content)

# %% [markdown]
# ## What a run shows and keeps
#
# A run is a folder: log.jsonl holds every measured point, loss.svg draws them, best.pt and last.pt
# are the checkpoints. A terminal gets one live line, anything else gets plain lines.

# %%
def clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"

# %% [markdown]
# **Progress.** One live line on a terminal; elsewhere a plain line every ten seconds at most.

# %%
class Progress:
    """One live line on a terminal; elsewhere a plain line every ten seconds at most."""

    def __init__(self, shown: bool = True):
        self.shown = shown
        self.live = bool(sys.stderr and sys.stderr.isatty()) and os.environ.get("TERM") != "dumb"
        self.color = self.live and not os.environ.get("NO_COLOR")
        self.last, self.unfinished = -math.inf, False

    def show(self, part: float, step: int, total: Optional[int], loss: float, val_loss: float,
             speed: float, elapsed: float, left: float, always: bool) -> None:
        self.line(part, f"{part:4.0%}  step {step:,}/{format(total, ',') if total else '?'}  "
                  f"loss {loss:.3f}  val {val_loss:.3f}  {speed:,.0f} chars/s  "
                  f"{clock(elapsed)} < {clock(left)}", always)

    def line(self, part: float, line: str, always: bool = False) -> None:
        """Show how much is done and a line of text, in place of what was shown before."""
        due = time.monotonic() - self.last >= (0.2 if self.live else 10)
        if not self.shown or not (due or always):
            return
        self.last = time.monotonic()
        if not self.live:
            show(line + "\n")
            return
        columns = shutil.get_terminal_size().columns
        show("\r\033[K" + self.bar(part, min(24, columns - len(line) - 3)) + line[: columns - 1])
        self.unfinished = True

    def bar(self, part: float, width: int) -> str:
        if width < 5:
            return ""
        utf = (sys.stderr.encoding or "").lower().startswith("utf")
        done = round(part * width)
        full, empty = ("━" * done, "─" * (width - done)) if utf else ("#" * done,
                                                                      "." * (width - done))
        return f"\033[32m{full}\033[90m{empty}\033[0m " if self.color else f"{full}{empty} "

    def say(self, text: str) -> None:
        """Lines of their own below the live one."""
        self.end()
        if self.shown:
            show(text + "\n")

    def end(self) -> None:
        """Leave the live line as it is: what comes next goes below it."""
        if self.unfinished:
            show("\n")
        self.unfinished = False

# %% [markdown]
# **Run.** The folder of a run: its log, its plot, its checkpoints.

# %%
class Run:
    """The folder of a run: its log, its plot, its checkpoints. Only the main process writes."""

    def __init__(self, folder: Path, writes: bool = True):
        self.folder, self.writes = folder, writes
        self.points: List[Dict[str, Any]] = []
        self.logged, self.log_bytes = 0, 0  # points in the log, and its length with them
        self.saved: Optional[int] = None  # the step that last.pt holds
        self.lost_best: Set[int] = set()  # evaluations whose best.pt could not be written
        self.warned: Set[str] = set()  # since the last evaluation
        self.tell: Callable[[str], object] = say
        self.watch: Callable[[Dict[str, Any]], object] = lambda point: None  # gets each new point

    def start(self, resumed_step: Optional[int]) -> None:
        """Begin an empty log, or keep the old one up to the step of the checkpoint that is resumed:
        later points will be made again."""
        if not self.writes:
            return
        path, step = self.folder / "log.jsonl", -1 if resumed_step is None else resumed_step
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = text.split("\n")[:-1]  # a kill can cut the last line
        try:
            self.points = [point for point in map(json.loads, whole) if point["step"] <= step]
        except (KeyError, TypeError, ValueError):
            raise GltchError(f"{path} is damaged: move it away and try again.") from None
        for abandoned in self.folder.glob(".*.tmp"):  # left by a kill in the middle of a write
            abandoned.unlink()
        content = "".join(json.dumps(point) + "\n" for point in self.points).encode()
        write_whole(path, content)
        self.logged, self.log_bytes, self.saved = len(self.points), len(content), resumed_step

    def attempt(self, write: Callable[[], object]) -> bool:
        """Was it written? A full disk is no reason to stop learning: training goes on, and the file
        is written the next time."""
        try:
            write()
            return True
        except Unwritable as error:
            if str(error) not in self.warned:
                self.tell(f"warning   {error} Training goes on; the next evaluation tries again.")
            self.warned.add(str(error))
            return False

    def log(self, kind: str, step: int, **values: Any) -> None:
        if self.writes:
            self.points.append({"kind": kind, "step": step, **values})
            self.attempt(self.append)
            self.watch(self.points[-1])

    def append(self) -> None:
        """Write all points that are not in the log yet."""
        path = self.folder / "log.jsonl"
        lines = "".join(json.dumps(point) + "\n" for point in self.points[self.logged:])
        with writing(path), open(path, "ab") as file:
            if file.tell() > self.log_bytes:  # half a line, from when the disk was full
                file.truncate(self.log_bytes)
            file.write(lines.encode())
            file.flush()
            end = file.tell()
        self.logged, self.log_bytes = len(self.points), end

    def best(self) -> float:
        """The lowest validation loss whose weights are kept."""
        return min((point["loss"] for point in self.points if point["kind"] == "eval"
                    and point["step"] not in self.lost_best), default=math.inf)

    def save(self, state: Dict[str, Any], is_best: bool = False) -> None:
        """Keep the state as last.pt, which closes the step, and before it as best.pt."""
        if not self.writes:
            return
        if is_best and not self.attempt(partial(save_checkpoint, self.folder / "best.pt", state)):
            self.lost_best.add(state["step"])
        if self.attempt(partial(save_checkpoint, self.folder / "last.pt", state)):
            self.saved = state["step"]

    def plot(self) -> None:
        if self.writes:
            svg = loss_plot(self.points, self.folder.name)
            self.attempt(partial(write_whole, self.folder / "loss.svg", svg.encode()))

    def close(self, trainer: FastTrainer) -> None:
        """At the end, save what is not saved yet. Raises Unwritable if that is impossible."""
        if not self.writes or self.saved == trainer.step:
            return
        self.warned.clear()
        self.save(trainer.state())
        self.plot()
        if self.saved != trainer.step:
            kept = ("nothing of it is kept" if self.saved is None else
                    f"last.pt is of step {self.saved}, from which --resume {self.folder} goes on")
            raise Unwritable(f"The run stopped at step {trainer.step} and could not be saved in "
                             f"{self.folder}; {kept}.")

# %% [markdown]
# **loss_plot.** The training and validation curves as an SVG picture, for light and dark pages.

# %%
def loss_plot(points: List[Dict[str, Any]], title: str) -> str:
    """The training and validation curves as an SVG picture, for light and dark pages."""
    curves = {"train": [(p["step"], p["loss"]) for p in points if p["kind"] == "train"],
              "validation": [(p["step"], p["loss"]) for p in points if p["kind"] == "eval"]}
    losses = sorted(loss for curve in curves.values() for _, loss in curve) or [1.0]
    last_step = max((curve[-1][0] for curve in curves.values() if curve), default=0) or 1
    low = math.floor(losses[0] * 10) / 10
    high = max(low + 0.5, min(losses[-1], low + 1.5))  # the first steep steps leave the picture

    def x(step: float) -> float:
        return 60 + 620 * step / last_step

    def y(loss: float) -> float:
        return 370 - 310 * (loss - low) / (high - low)

    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 420" width="760" height="420" '
        f'class="loss" role="img" aria-label="Loss of {html.escape(title)}">',
        "<style>.loss{font:13px system-ui,sans-serif;color:#1f2430;background:#fff}"
        ".loss text{fill:currentColor}.loss .grid{stroke:currentColor;opacity:.12}"
        ".loss .curve{fill:none;stroke-width:2;stroke-linejoin:round}"
        ".loss .train{stroke:#8aa0b8}.loss .validation{stroke:#d6336c}"
        "@media(prefers-color-scheme:dark){.loss{color:#dde3ee;background:#14171f}}</style>",
        '<clipPath id="area"><rect x="60" y="50" width="700" height="325"/></clipPath>',
        f'<text x="60" y="24" font-size="16" font-weight="600">{html.escape(title)}</text>',
        '<text x="680" y="406" text-anchor="end">steps</text>',
        '<text x="60" y="43">loss in nats per character</text>']
    step = next(s for s in (0.1, 0.2, 0.5) if (high - low) / s <= 8)
    for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        out.append(f'<path class="grid" d="M60 {y(i * step):.1f}H680"/><text x="50" '
                   f'y="{y(i * step) + 4:.1f}" text-anchor="end">{i * step:.1f}</text>')
    unit = 10 ** (len(str(last_step)) - 1)
    every = next(u for u in (unit // 5, unit // 2, unit, 2 * unit) if u and last_step / u <= 6)
    for mark in range(0, last_step + 1, every):
        out.append(f'<text x="{x(mark):.1f}" y="388" text-anchor="middle">{mark:,}</text>')
    for i, (name, curve) in enumerate(curves.items()):
        if curve:
            path = " ".join(f"{x(s):.1f},{y(loss):.1f}" for s, loss in curve)
            out.append(f'<polyline class="curve {name}" clip-path="url(#area)" points="{path}"/>'
                       f'<path class="curve {name}" d="M530 {20 + 18 * i}h24"/><text x="562" '
                       f'y="{24 + 18 * i}">{name} {curve[-1][1]:.3f}</text>')
    best = min(curves["validation"], key=lambda point: point[1], default=None)
    if best:
        out.append(f'<circle cx="{x(best[0]):.1f}" cy="{y(best[1]):.1f}" r="4.5" fill="#d6336c"/>'
                   f'<text x="{x(best[0]) + 9:.1f}" y="{y(best[1]) - 8:.1f}" font-weight="600">'
                   f"{best[1]:.3f}</text>")
    return "\n".join(out) + "\n</svg>\n"

# %% [markdown]
# ## Training on any machine
#
# `FastTrainer` makes the lesson's steps on the device that is there, alone or with other processes;
# `train` decides how long, and keeps what matters.
#
# **Runtime.** Where the arithmetic happens: device, precision, number of this process and of all.

# %%
@dataclass
class Runtime:
    """Where the arithmetic happens: device, precision, number of this process and of all."""

    device: torch.device
    precision: str = "fp32"
    rank: int = 0
    world: int = 1

    def autocast(self) -> Any:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype)

    def mean(self, *values: float) -> List[float]:
        """The mean over all processes."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float32, device=self.device)
        torch.distributed.all_reduce(total)
        return (total / self.world).tolist()

# %% [markdown]
# **pick_device.** The device; auto is the fastest one.
#
# **pick_precision.** auto is bf16 where the hardware has it (GPUs before Ampere only emulate it),
# else fp16 on a GPU and fp32 elsewhere.
#
# **start_runtime.** Pick device and precision; under torchrun, join the other processes.

# %%
def pick_device(name: str) -> torch.device:
    """The device; auto is the fastest one. Raises GltchError for a device that is not there."""
    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise GltchError(f"There is no kind of device called {name!r}: use auto, cpu, cuda or mps."
                         ) from None
    present = {"cpu": 1, "mps": int(mps), "cuda": torch.cuda.device_count()}.get(device.type, 0)
    require((device.index or 0) < present, f"This machine has no device {name!r}; try auto or cpu.")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """auto is bf16 where the hardware has it (GPUs before Ampere only emulate it), else fp16 on a
    GPU and fp32 elsewhere."""
    if name != "auto":
        require(name != "fp16" or device.type == "cuda", "fp16 training needs a CUDA device: use "
                "--precision bf16 or fp32.")
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # newer PyTorch only
    has_bf16 = any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return "bf16" if device.type == "cpu" and has_bf16 else "fp32"


def start_runtime(recipe: TrainConfig) -> Runtime:
    """Pick device and precision; under torchrun, join the other processes."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local, name = os.environ.get("LOCAL_RANK", "0"), recipe.device
    if world > 1 and name in ("auto", "cuda"):
        name = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    device = pick_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if world > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Runtime(device, pick_precision(recipe.precision, device), rank, world)

# %% [markdown]
# **evaluate.** The mean loss over all of ids; each process evaluates a part, in whole windows.

# %%
def evaluate(model: GLTCH, ids: Tensor, runtime: Runtime) -> float:
    """The mean loss over all of ids; each process evaluates a part, in whole windows."""
    size, count = model.config.block_size, len(ids) - 1
    share = -(-count // (size * runtime.world)) * size  # rounded up
    first = runtime.rank * share
    part = ids[first: first + share + 1]
    loss = 0.0
    if len(part) > 1:
        with runtime.autocast():
            loss = mean_loss(model, part) * ((len(part) - 1) / count)
    return runtime.mean(loss)[0] * runtime.world

# %% [markdown]
# **FastTrainer.** Makes the gradients of the lesson's trainer on any device and in any precision,
# in micro-batches that are fast or small enough, together with the processes of the runtime.

# %%
class FastTrainer(Trainer):
    """Makes the gradients of the lesson's trainer on any device and in any precision, in
    micro-batches that are fast or small enough, together with the processes of the runtime."""

    def __init__(self, config: Config, recipe: TrainConfig, corpus: Corpus, runtime: Runtime,
                 **beginning: Any):
        require(recipe.batch_size % runtime.world == 0, f"batch_size ({recipe.batch_size}) must be "
                f"a multiple of the number of processes ({runtime.world}).")
        super().__init__(config, recipe, corpus, runtime.device,
                         torch.bfloat16 if runtime.precision == "bf16" else torch.float32,
                         muon=FastMuon, **beginning)
        self.runtime = runtime
        self.seconds = 0.0  # spent on this run so far
        fp16 = runtime.precision == "fp16"  # small gradients would vanish: they are scaled up
        self.scaler: Any = (
            torch.amp.GradScaler(runtime.device.type, enabled=fp16)
            if hasattr(torch.amp, "GradScaler") else torch.cuda.amp.GradScaler(enabled=fp16))
        if recipe.low_memory:
            recompute_activations(self.model)
        self.network: Any = self.model  # the model, or what wraps it
        if recipe.compile:
            self.network = torch.compile(self.network)
        if runtime.world > 1:
            ids = None if runtime.device.type == "cpu" else [runtime.device.index]
            self.network = nn.parallel.DistributedDataParallel(self.network, device_ids=ids)

    def micro_batches(self, batch: range) -> List[range]:
        """This process's share of the windows, cut to what is fast or small enough."""
        mine = batch[self.runtime.rank:: self.runtime.world]
        limit = len(mine)
        if self.runtime.device.type == "cpu":  # activations of this size stay in a CPU's cache
            limit = max(1, 2048 // self.model.config.block_size)
        if self.recipe.low_memory:
            limit = min(limit, max(1, len(mine) // 8))
        return [mine[i: i + limit] for i in range(0, len(mine), limit)]

    def backpropagate(self, batch: range, noise: int) -> float:
        runtime, parts = self.runtime, self.micro_batches(batch)
        torch.manual_seed(noise * runtime.world + runtime.rank)
        loss = torch.zeros((), device=runtime.device)
        for part in parts:
            inputs, targets = self.windows.batch(part)
            weight = len(part) * runtime.world / len(batch)
            last = part is parts[-1] or runtime.world == 1
            with contextlib.nullcontext() if last else self.network.no_sync():
                with runtime.autocast():
                    part_loss = self.network(inputs, targets) * weight
                self.scaler.scale(part_loss).backward()
            loss += part_loss.detach()
        return runtime.mean(loss.item())[0]

    def update(self) -> None:
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
        self.scaler.update()

    def validate(self) -> float:
        self.val_loss = evaluate(self.ema, self.corpus.validation, self.runtime)
        return self.val_loss

    def set_length(self, total: int, cool: bool) -> None:
        """The run ends after `total` steps; with `cool`, the rate falls from here on."""
        if cool:
            held = replace(self.recipe, warmup=0)
            self.cooling = self.step, lr_factor(self.step, self.total, held, self.cooling)
        self.total = total

    def begin_as(self, network: GLTCH) -> None:
        """Start from what another network has learned; see `take_over`."""
        take_over(self.model, network)
        self.ema.load_state_dict(self.model.state_dict())

    def state(self) -> Dict[str, Any]:
        return {
            "config": asdict(self.model.config), "recipe": asdict(self.recipe),
            "vocabulary": self.corpus.vocabulary.characters, "text": self.corpus.digest,
            "paths": self.corpus.paths,
            "step": self.step, "total": self.total, "cooling": self.cooling, "losses": self.losses,
            "seconds": self.seconds, "val_loss": self.val_loss,
            "model": self.model.state_dict(), "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: Dict[str, Any]) -> None:
        """Raises GltchError, or what PyTorch raises, if the state is of another run."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        require(len(state["optimizers"]) == len(self.optimizers), "it has other optimizers")
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
            for parameter, kept in optimizer.state.items():
                fit = all(value.shape in (parameter.shape, ()) for value in kept.values())
                require(fit, "its optimizer belongs to another network")
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        require(state["step"] >= 0 and (type(state["total"]) is int or state["total"] is None)
                and is_number(state["seconds"]) and all(map(is_number, state["losses"]))
                and all(map(is_number, state.get("cooling") or ())),
                "it does not say where it stands")
        for name in ("step", "total", "losses", "seconds", "val_loss"):
            setattr(self, name, state[name])
        self.cooling = state.get("cooling")  # a run of 0.1.0 never decided on it

# %% [markdown]
# **take_over.** Give a new model the weights of a network of its shape.

# %%
@torch.no_grad()
def take_over(model: GLTCH, network: GLTCH) -> None:
    """Give a new model the weights of a network of its shape. For characters that only the model
    knows, which come last, the rows of embedding and head stay as `init_weights` made them."""
    for new, old in zip(model.parameters(), network.parameters()):
        new[: len(old)] = old

# %% [markdown]
# **Interrupts.** Ctrl-C (or a polite kill) asks for a stop after the current step; a second one
# insists.

# %%
class Interrupts:
    """Ctrl-C (or a polite kill) asks for a stop after the current step; a second one insists."""

    def __init__(self, runtime: Runtime, then: str = "Finishing this step and saving"):
        self.signal, self.then = 0, then  # how it is answered
        self.insist = runtime.world == 1  # torchrun itself passes signals on twice

    def __enter__(self) -> Interrupts:
        self.old = {}
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM]
            if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
                numbers.append(signal.SIGHUP)  # the terminal closes; nohup wants that ignored
            self.old = {number: signal.signal(number, self.ask) for number in numbers}
        return self

    def ask(self, number: int, frame: Any) -> None:
        if self.signal and self.insist:
            raise KeyboardInterrupt
        if not self.signal and is_main_process():  # a handler may not use print
            more = "; a second Ctrl-C stops at once" if self.insist else ""
            if sys.stderr is not None:  # else 2 may be any file
                with contextlib.suppress(OSError):  # nobody reads it: as in `show`
                    os.write(2, f"\n{self.then}{more}.\n".encode())
        self.signal = number

    def __exit__(self, *error: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)

# %% [markdown]
# **StepTimer.** Turns minutes into a number of steps, by the speed of the latest ones: first when a
# few have been timed, then when the cooldown is due, and in it whenever half of what was left is
# over.

# %%
class StepTimer:
    """Turns minutes into a number of steps, by the speed of the latest ones: first when a few
    have been timed, then when the cooldown is due, and in it whenever half of what was left is
    over. It knows no clock; the caller passes the time in."""

    def __init__(self, recipe: TrainConfig, eval_seconds: float, total: Optional[int] = None,
                 cooling: bool = False):
        self.seconds = 60 * (recipe.minutes or math.inf)
        self.most = recipe.steps or sys.maxsize
        self.hold, self.look = 1 - recipe.cooldown, 1 - max(recipe.cooldown, 0.1)
        self.eval_every, self.eval_seconds = recipe.eval_every, eval_seconds
        self.total, self.cooling = total, cooling
        self.again = math.inf, math.inf  # decide again when this many steps or seconds are left
        self.recent: Deque[float] = deque()  # seconds of the latest steps
        self.timed, self.elapsed = 0, 0.0

    def add(self, seconds: float, step: int, elapsed: float) -> Optional[Tuple[int, bool]]:
        """Note one step. Returns (total, whether to cool) when it is time to decide the length."""
        self.note(seconds, step, elapsed)
        left = max(0.0, self.seconds - elapsed - self.eval_seconds)  # the last evaluation
        if step == self.total or not self.due(step, elapsed, left):
            return None
        planned = self.total - step if self.cooling and self.total is not None else 0
        fits = max(int(left / self.each()), planned // 2)  # out of time: the rate still comes down
        self.total = min(self.most, step + fits)
        self.cooling = (self.cooling or elapsed >= self.hold * self.seconds
                        or step >= (self.hold - 0.02) * self.total)
        self.again = (self.total - step) // 2, left / 2
        return self.total, self.cooling

    def note(self, seconds: float, step: int, elapsed: float) -> None:
        self.timed += 1
        if self.timed > 1 and step % self.eval_every == 1 % self.eval_every:
            self.eval_seconds = max(0.0, elapsed - self.elapsed - seconds)
        self.elapsed = elapsed
        if self.timed <= 3:  # the first two warm up
            self.recent.clear()
        self.recent.append(seconds)
        while sum(self.recent) - self.recent[0] >= min(30.0, max(5.0, self.seconds / 20)):
            self.recent.popleft()

    def each(self) -> float:
        """Seconds that a step has lately taken, with its share of an evaluation."""
        return sum(self.recent) / len(self.recent) + self.eval_seconds / self.eval_every

    def left(self, step: int) -> float:
        """Seconds until the run ends."""
        budget = max(0.0, self.seconds - self.elapsed)  # also if no step was timed lately
        return budget if self.total is None else min(budget, (self.total - step) * self.each())

    def due(self, step: int, elapsed: float, left: float) -> bool:
        if self.again[1] < self.seconds / 100 or self.seconds == math.inf:
            return False  # the last moments go as planned, down to a rate of zero
        if left == 0 or step >= self.most:
            return True
        if self.timed <= 2:
            return False
        if self.cooling and self.total is not None:
            steps, seconds = self.again
            return self.total - step <= steps or left <= seconds
        known = sum(self.recent)
        timed = self.total is None and (known >= self.seconds / 5
                                        or len(self.recent) >= 5 and known >= 5)
        return (timed or elapsed >= self.look * self.seconds
                or step + 1 > self.look * (self.total or self.most))

# %% [markdown]
# **Follower.** Follows what `learn` yields: times the steps, decides how long the run is, logs the
# points, saves checkpoints, shows the progress.

# %%
class Follower:
    """Follows what `learn` yields: times the steps, decides how long the run is, logs the points,
    saves checkpoints, shows the progress."""

    def __init__(self, trainer: FastTrainer, run: Run, interrupts: Interrupts):
        self.trainer, self.run, self.interrupts = trainer, run, interrupts
        self.progress = Progress(shown=run.writes)
        run.tell = self.progress.say
        self.began = self.step_began = time.monotonic()
        self.before = trainer.seconds  # of an earlier process
        self.timer: Optional[StepTimer] = None  # before the first step
        self.loss, self.speed = math.nan, 0.0  # of the latest step; characters per second

    def follow(self) -> None:
        tell = {"step": self.stepped, "train": self.trained, "eval": self.evaluated}
        for kind, loss in learn(self.trainer):
            tell[kind](loss)
            end = kind == "eval" and self.trainer.step == self.trainer.total
            if kind == "step" or end:
                self.show(always=end)
            self.step_began = time.monotonic()

    def stepped(self, loss: float) -> None:
        trainer, recipe, runtime = self.trainer, self.trainer.recipe, self.trainer.runtime
        if self.timer is None:
            first_evaluation, = runtime.mean(self.step_began - self.began)
            self.timer = StepTimer(recipe, first_evaluation, trainer.total,
                                   trainer.cooling is not None)
        now = time.monotonic()
        # Means over the processes, so that all come to the same decisions.
        seconds, trainer.seconds, stop = runtime.mean(
            now - self.step_began, self.before + now - self.began, self.interrupts.signal)
        trainer.stop = stop > 0
        length = self.timer.add(seconds, trainer.step, trainer.seconds)
        if length:
            trainer.set_length(*length)
        characters = recipe.batch_size * trainer.model.config.block_size / seconds
        self.loss, self.speed = loss, 0.9 * (self.speed or characters) + 0.1 * characters
        if recipe.sample_every and trainer.step % recipe.sample_every == 0 and self.run.writes:
            self.sample()

    def sample(self) -> None:
        text = "".join(generate(self.trainer.ema, self.trainer.corpus.vocabulary, "", 200,
                                seed=self.trainer.recipe.seed))
        self.run.log("sample", self.trainer.step, text=text)
        self.progress.say(f"\n{text}\n")

    def trained(self, loss: float) -> None:
        self.run.log("train", self.trainer.step, loss=loss,
                     characters_per_second=round(self.speed),
                     seconds=round(self.trainer.seconds, 1))

    def evaluated(self, loss: float) -> None:
        """Log, draw, and save a checkpoint. Only damaged weights end the run."""
        trainer, run = self.trainer, self.run
        run.warned.clear()
        require(math.isfinite(loss), f"The validation loss became {loss} at step {trainer.step}: "
                f"{UNSTABLE}.")
        best = run.best()
        run.log("eval", trainer.step, loss=loss, bits=loss / math.log(2),
                seconds=round(trainer.seconds, 1))
        run.plot()
        run.save(trainer.state(), is_best=trainer.step > 0 and loss < best)

    def show(self, always: bool) -> None:
        trainer, total = self.trainer, self.trainer.total
        if self.timer is not None:
            left, part = self.timer.left(trainer.step), trainer.step / (total or math.inf)
            if trainer.recipe.minutes:  # `total` is only an estimate, and may grow
                part = trainer.seconds / (trainer.seconds + left)
            self.progress.show(part, trainer.step, total, self.loss, trainer.val_loss, self.speed,
                               trainer.seconds, left, always)

# %% [markdown]
# **Result.** What `train` returns: the averaged weights, and where and how the run ended.

# %%
@dataclass
class Result:
    """What `train` returns: the averaged weights, and where and how the run ended."""

    model: GLTCH
    vocabulary: Vocabulary
    folder: Path
    step: int
    val_loss: float  # nats per character, at the last evaluation
    best_val_loss: float  # the lowest one, whose weights are in best.pt
    interrupted: int = 0  # the signal that ended the run early, or 0

# %% [markdown]
# **plan_length.** Without --steps or --minutes: the reference run, on a CPU as much of it as fits.
#
# **resumed.** What a resumed run begins with: state, shape, recipe and folder.
#
# **unfinished.** Where --resume can go on instead, in words; "" when there is no such run.

# %%
def plan_length(recipe: TrainConfig, reference: int, device: torch.device) -> TrainConfig:
    """Without --steps or --minutes: the reference run, on a CPU as much of it as fits."""
    if recipe.steps or recipe.minutes:
        return recipe
    return replace(recipe, steps=reference, minutes=CPU_MINUTES if device.type == "cpu" else None)


def resumed(name: str, recipe: TrainConfig) -> Tuple[Dict[str, Any], Config, TrainConfig, Path]:
    """What a resumed run begins with: state, shape, recipe and folder. The device may change."""
    path = find_checkpoint(name, ("last.pt",))
    saved, config, _ = look_into(path)
    if "optimizers" not in saved:
        raise GltchError(f"{path} holds a finished network only: it cannot resume; start "
                         f"another run from it with --from {path}{unfinished()}.")
    changes = {key: getattr(recipe, key) for key in ("device", "precision")
               if getattr(recipe, key) != "auto"}
    with intact(path):
        return saved, config, TrainConfig(**{**saved["recipe"], **changes}), path.parent


def unfinished() -> str:
    """Where --resume can go on instead, in words; "" when there is no such run."""
    found = Path("runs").glob("*/last.pt")
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(GltchError):  # nobody wants to go on with a damaged one
            saved = read_checkpoint(path)
            if "optimizers" in saved and saved.get("step") != saved.get("total"):
                return f", or go on with --resume {path.parent}"
    return ""

# %% [markdown]
# **prepare.** Check everything and say what will be trained, before anything is written.

# %%
def prepare(config: Config, recipe: TrainConfig, corpus: Optional[Corpus], folder: Path,
            saved: Optional[Dict[str, Any]], reference: int, origin: Optional[Origin] = None
            ) -> Tuple[FastTrainer, Run]:
    """Check everything and say what will be trained, before anything is written."""
    require(saved is not None or not (folder / "last.pt").exists(), f"There already is a run in "
            f"{folder}: choose another --name, or, if it is not complete, go on with --resume "
            f"{folder}.")
    runtime = start_runtime(recipe)
    before = saved or origin and origin.state
    corpus = corpus or load_corpus(text_of(before) if before else ())
    number = int(corpus.digest[:4], 16)
    require(runtime.mean(number) == [number], "The processes found different texts: use --data.")
    require(saved is None or saved["text"] == corpus.digest, "This run was trained on another text "
            f"({', '.join(saved['paths'] if saved else ())}): give the same one with --data.")
    if before is not None:
        corpus = in_the_numbers_of(Vocabulary(before["vocabulary"]), corpus)
    planned = plan_length(recipe, reference, runtime.device)
    config = replace(config, vocab_size=len(corpus.vocabulary))
    trainer = FastTrainer(config, planned, corpus, runtime)
    if saved is not None:
        with intact(folder / "last.pt"):
            trainer.load_state(saved)
        if trainer.step == trainer.total:
            raise GltchError(f"The run in {folder} is complete: start another one, from its network"
                             f" with --from {folder}{unfinished()}.")
    if origin is not None:
        trainer.begin_as(origin.network)
    announce(trainer, folder, saved is not None)
    if origin is not None:
        say(origin.introduce(corpus))
    if planned.minutes != recipe.minutes:
        say(f"length    {CPU_MINUTES:g} minutes, as this is a CPU; the full run: "
            f"--steps {reference} --batch-size {planned.batch_size}, any other: --minutes")
    run = Run(folder, writes=runtime.rank == 0)
    if runtime.world > 1:  # all have looked for an earlier run before one begins to write
        torch.distributed.barrier()
    run.start(trainer.step if saved else None)
    return trainer, run


def announce(trainer: FastTrainer, folder: Path, resumes: bool) -> None:
    corpus, runtime, config = trainer.corpus, trainer.runtime, trainer.model.config
    say(f"text      {corpus.source}: {len(corpus.ids):,} characters, "
        f"{len(corpus.vocabulary)} different")
    say(f"network   {parameters_of(config):,} parameters, context {config.block_size}")
    say(f"device    {runtime.device}, {runtime.precision}"
        + (f", {runtime.world} processes" if runtime.world > 1 else ""))
    say(f"a step    {trainer.recipe.batch_size} x {config.block_size} characters")
    say(f"run       {folder}" + (f", from step {trainer.step}" if resumes else ""))

# %% [markdown]
# **train.** Train a network, or continue a run, and keep it under runs/.

# %%
def train(config: Optional[Config] = None, recipe: Optional[TrainConfig] = None,
          corpus: Optional[Corpus] = None, *, name: Optional[str] = None,
          resume: Optional[str] = None, origin: Optional[Origin] = None,
          reference: Optional[int] = None,
          watch: Optional[Callable[[FastTrainer, Run], object]] = None) -> Result:
    """Train a network, or continue a run, and keep it under runs/.

    The vocabulary size comes from the corpus (default: `load_corpus()`). `resume` is a run's folder
    or checkpoint and brings its own config and recipe. `origin` is a network to begin with: it
    brings its own shape, and its text unless there is a corpus. `reference` is how many steps a
    recipe without a length is for: by default as many as see 24.6 million characters. Raises
    GltchError for what cannot be done.
    """
    saved: Optional[Dict[str, Any]] = None
    config = config or (origin.network.config if origin else Config())
    recipe = recipe or usual_recipe()
    reference = reference or full_run(recipe)
    if origin is not None:
        config = replace(origin.network.config, dropout=config.dropout)
    name = name or time.strftime("%Y-%m-%d_%H%M%S")
    require(name == Path(name).name and name != "..", f"--name is a folder's name under runs/, not "
            f"{name!r}.")
    folder = Path("runs") / name
    if resume is not None:
        saved, config, recipe, folder = resumed(resume, recipe)
    trainer, run = prepare(config, recipe, corpus, folder, saved, reference, origin)
    if watch is not None and run.writes:
        watch(trainer, run)
    with Interrupts(trainer.runtime) as interrupts:
        follower = Follower(trainer, run, interrupts)
        follower.follow()
        ended = trainer.step == trainer.total
        run.close(trainer)
    follower.progress.say("")
    return Result(trainer.ema.eval(), trainer.corpus.vocabulary, folder, trainer.step,
                  trainer.val_loss, run.best(), 0 if ended else interrupts.signal or signal.SIGINT)

# %% [markdown]
# ## The text to learn from
#
# All parts are there; from here on they are put to use. First the text: where it comes from, how
# long it is, its different characters, how it begins.

# %%
corpus = load_corpus(DATA)
print(f"{corpus.source}: {len(corpus.ids):,} characters, {len(corpus.vocabulary)} different")
print(repr(corpus.vocabulary.characters))
print()
print(corpus.vocabulary.decode(corpus.ids[:300].tolist()))

# %% [markdown]
# ## The network, part by part
#
# The vocabulary of the text decides how many characters the network can tell apart.

# %%
config = Config(vocab_size=len(corpus.vocabulary))
parts = parameter_table(GLTCH(config))
for part, shape, count in [*parts, ("total", "", sum(count for _, _, count in parts))]:
    print(f"{part:31} {shape:22} {count:>12,}")

# %% [markdown]
# ## Train it
#
# A line every ten seconds says how far it is. The loss is how much each next character surprises
# the network: lower is better, and `val` is measured on text it never trains on. The stop button
# ends the run early; the cells below then work with what was learned until there.

# %%
recipe = usual_recipe(steps=STEPS)
result = train(config, recipe, corpus)
print(f"{result.step} steps, validation loss {result.val_loss:.4f} when last measured")

# %% [markdown]
# ## How the loss fell
#
# Both curves fall while the network learns what holds for any text of this kind. Where the
# validation curve turns up again, it has begun to learn its own text by heart.

# %%
def show_picture(what, path):
    if "get_ipython" in globals():  # in a notebook
        from IPython.display import SVG, display
        display(SVG(filename=str(path)))
    else:
        print(f"The {what} is drawn in {path}")


show_picture("loss", result.folder / "loss.svg")

# %% [markdown]
# ## Let it write
#
# One character after the other, each drawn from what the network thinks likely to come next. What
# the text has no character for is left out of the prompt.

# %%
def write(prompt, length=500, **settings):
    prompt = known_part(result.vocabulary, prompt)
    print(prompt, end="")
    for piece in generate(result.model, result.vocabulary, prompt, length, **settings):
        print(piece, end="")
    print()


write("ROMEO:", seed=1)

# %% [markdown]
# ## A prompt of your own
#
# Change the two values and run the cell again, as often as you like. A low temperature keeps to
# what is likely, a high one dares more.

# %%
PROMPT = "The king said"
TEMPERATURE = 0.8  # 0: always the likeliest character

write(PROMPT, temperature=TEMPERATURE)

# %% [markdown]
# ## Look inside: what surprises it
#
# How well could the network have guessed a text? Its surprise at a character is minus the logarithm
# (base 2) of the chance it gave that character, in bits: 0 if it was certain, 1 for a coin's toss.
# Before training every character is a surprise of log2(vocabulary) bits. In the picture the darker a
# character, the greater the surprise; point at one for its number.

# %%
TEXT = "ROMEO:\nTo be, or not to be: that is the question."


def surprises(text):
    """Bits for each character of a text, as if a line had just ended before it: (T,)."""
    before, ids = (start_ids(result.model, result.vocabulary, part) for part in ("", text))
    with torch.inference_mode():
        logits = result.model(torch.cat([before, ids[:, :-1]], dim=1))  # (1, T, V)
    return -logits.log_softmax(2).gather(2, ids[:, :, None]).flatten() / math.log(2)


def surprise_picture(text, bits, columns=64):
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{10 * columns}" '
           f'height="{24 * -(-len(text) // columns)}" font-family="monospace" font-size="15">']
    for place, (character, surprise) in enumerate(zip(text, bits)):
        x, y = 10 * (place % columns), 24 * (place // columns)
        shown = html.escape({"\n": "↵", " ": "·"}.get(character, character))
        out.append(f'<g><title>{shown} {surprise:.2f} bits</title><rect x="{x}" y="{y}" width="10" '
                   f'height="22" fill="#d6336c" opacity="{min(0.9, surprise / 10):.2f}"/>'
                   f'<text x="{x}" y="{y + 16}" fill="#808898">{shown}</text></g>')
    return "\n".join([*out, "</svg>"])


text = known_part(result.vocabulary, TEXT)[:config.block_size]
bits = surprises(text)
print(f"{bits.mean():.2f} bits per character; before training {math.log2(config.vocab_size):.2f}")
picture = result.folder / "surprise.svg"
picture.write_text(surprise_picture(text, bits.tolist()), encoding="utf-8")
show_picture("surprise", picture)

# %% [markdown]
# ## Look inside: where it looks
#
# Attention is the only way by which one character learns of another. For every layer (rows) and head
# (columns) a map: each line is a character of the text that looks, each column one that it looks at;
# dark is much. Nothing right of the diagonal: that would be the future. A line parallel to the
# diagonal looks back by a fixed distance, a column is a character that everything looks at.

# %%
def attention_maps(text):
    """How each head spreads its attention: (layers, nh, T, T), each row adds to 1."""
    maps = []

    def look(attention, inputs):  # called before each attention, with what it is given
        q, k, _ = attention.split(*inputs)  # (1, nh, T, hs)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.size(3))  # (1, nh, T, T)
        future = torch.ones_like(scores, dtype=torch.bool).triu(1)
        maps.append(scores.masked_fill(future, -math.inf).softmax(3)[0])

    hooks = [block.attention.register_forward_pre_hook(look) for block in result.model.blocks]
    with torch.inference_mode():
        result.model(start_ids(result.model, result.vocabulary, text))
    for hook in hooks:
        hook.remove()
    return torch.stack(maps)


def attention_picture(maps, size=100, gap=12):
    layers, heads, T, _ = maps.shape
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{heads * (size + gap)}" '
           f'height="{layers * (size + gap)}" fill="#0b62ba">']
    for layer in range(layers):
        for head in range(heads):
            out.append(f'<g transform="translate({head * (size + gap)} {layer * (size + gap)}) '
                       f'scale({size / T})"><title>layer {layer + 1}, head {head + 1}</title>'
                       f'<path d="M0 0V{T}H{T}Z" opacity="0.08"/>')
            for row, weights in enumerate(maps[layer, head].tolist()):
                out += [f'<rect x="{column}" y="{row}" width="1" height="1" '
                        f'opacity="{weight:.2f}"/>'
                        for column, weight in enumerate(weights) if weight > 0.03]
            out.append("</g>")
    return "\n".join([*out, "</svg>"])


picture = result.folder / "attention.svg"
picture.write_text(attention_picture(attention_maps(text).cpu()), encoding="utf-8")
show_picture("attention", picture)

# %% [markdown]
# ## Keep it
#
# Colab forgets its files when it closes. The run is a folder under `runs/` in the Files panel on
# the left, and `best.pt` in it is the network. Download it there, or with two lines in a new cell:
#
# ```python
# from google.colab import files
# files.download(str(result.folder / "best.pt"))
# ```
#
# On your own computer `python gltch_2_7m.py sample --checkpoint best.pt` lets it write. Here
# `train(resume=str(result.folder))` goes on with a run that was stopped.
