"""What people would use instead, on the same text, with the same network, for the same minutes.

    pip install -r requirements-bench.txt
    python benchmarks/others.py --data tinyshakespeare.txt --minutes 5

Each contestant is a function below, written as its own documentation tells a user to write it, and
trains a network of six layers, six heads and 192 channels on windows of 128 characters. Every one
runs in a process of its own, in turns; afterwards all are measured in the same way, over the whole
validation split in windows of 128. What needs a number of steps instead of minutes is timed first,
outside of its minutes. Only GLTCH evaluates on the way, within its minutes.
"""
from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gltch_2_7m import (
    Config,
    Corpus,
    GltchError,
    Runtime,
    evaluate,
    load_corpus,
    pick_device,
    pick_precision,
    train,
    usual_recipe,
)

BATCH, CONTEXT = 64, 128
BF16 = pick_precision("auto", torch.device("cpu")) == "bf16"  # elsewhere it is only emulated


class Trained(NamedTuple):
    logits: Callable[[Tensor], Tensor]  # of ids (B, T): (B, T, V)
    steps: int
    batch: int


def random_windows(ids: Tensor, size: int = BATCH) -> Tuple[Tensor, Tensor]:  # (B, T) each
    starts = torch.randint(len(ids) - CONTEXT - 1, (size, 1))
    windows = ids[starts + torch.arange(CONTEXT + 1)].long()
    return windows[:, :-1], windows[:, 1:]


# --------------------------------------------------------------------------------------------------
# The contestants. The lines of each are counted, as what a user writes
# --------------------------------------------------------------------------------------------------

def gltch(corpus: Corpus, minutes: float) -> Trained:
    recipe = usual_recipe(minutes=minutes, seed=torch.initial_seed())
    result = train(Config(), recipe, corpus, name="others")
    batch = torch.load("runs/others/last.pt", weights_only=True)["recipe"]["batch_size"]
    return Trained(result.model, result.step, batch)


def compact_recipe(corpus: Corpus, minutes: float) -> Trained:
    """A small GPT and its loop in the manner of nanoGPT's recipe for characters."""
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(192, bias=False), nn.LayerNorm(192, bias=False)
            self.qkv, self.out = nn.Linear(192, 576, bias=False), nn.Linear(192, 192, bias=False)
            self.up, self.down = nn.Linear(192, 768, bias=False), nn.Linear(768, 192, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            B, T, C = x.shape
            q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, 6, 32).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.dropout(self.out(y.transpose(1, 2).reshape(B, T, C)), 0.2, self.training)
            return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), 0.2, self.training)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(65, 192), nn.Embedding(128, 192)
            self.blocks = nn.Sequential(*[Block() for _ in range(6)])
            self.norm, self.head = nn.LayerNorm(192, bias=False), nn.Linear(192, 65, bias=False)
            self.head.weight = self.tokens.weight
            for name, weight in self.named_parameters():
                if weight.dim() == 2:
                    nn.init.normal_(weight, 0, 0.02 / (12**0.5 if "out" in name or "down" in name
                                                       else 1))

        def forward(self, ids: Tensor) -> Tensor:
            x = self.tokens(ids) + self.places(torch.arange(ids.size(1)))
            return self.head(self.norm(self.blocks(F.dropout(x, 0.2, self.training))))

    model, began, step, part = Network(), time.monotonic(), 0, 0.0
    optimizer = torch.optim.AdamW([
        {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ], lr=1e-3, betas=(0.9, 0.99))
    while part < 1:
        rate = 1e-4 + 0.5 * (1 + math.cos(math.pi * part)) * 9e-4
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100)
        inputs, targets = random_windows(corpus.train)
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, part = step + 1, (time.monotonic() - began) / (60 * minutes)
    return Trained(model.eval(), step, BATCH)


def transformers_gpt2(corpus: Corpus, minutes: float) -> Trained:
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    class Text(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(corpus.train) - CONTEXT

        def __getitem__(self, start: int) -> Dict[str, Tensor]:
            window = corpus.train[start: start + CONTEXT].long()
            return {"input_ids": window, "labels": window}

    def trainer(steps: int) -> Tuple[nn.Module, Trainer]:
        model = GPT2LMHeadModel(GPT2Config(
            vocab_size=65, n_positions=128, n_embd=192, n_layer=6, n_head=6, bos_token_id=0,
            eos_token_id=0))
        return model, Trainer(model, TrainingArguments(
            "transformers", max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-3,
            lr_scheduler_type="cosine", warmup_steps=min(100, steps // 10), weight_decay=0.1,
            bf16=BF16, use_cpu=True, save_strategy="no", report_to="none", logging_steps=100,
            disable_tqdm=True), train_dataset=Text())

    _, trial = trainer(12)
    began = time.monotonic()
    trial.train()
    model, real = trainer(max(1, int(60 * minutes / (time.monotonic() - began) * 12)))
    real.train()
    model.eval()
    return Trained(lambda ids: model(ids).logits, real.state.global_step, BATCH)


def x_transformers(corpus: Corpus, minutes: float) -> Trained:
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper
    model = AutoregressiveWrapper(TransformerWrapper(
        num_tokens=65, max_seq_len=CONTEXT + 1, emb_dropout=0.2,  # it also reads the last target
        attn_layers=Decoder(dim=192, depth=6, heads=6, attn_dim_head=32, attn_flash=True,
                            ff_dropout=0.2, attn_dropout=0.2)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    began, step, part = time.monotonic(), 0, 0.0
    while part < 1:
        rate = 1e-4 + 0.5 * (1 + math.cos(math.pi * part)) * 9e-4
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 100)
        inputs, targets = random_windows(corpus.train)
        with torch.autocast("cpu", torch.bfloat16, enabled=BF16):
            loss = model(torch.cat([inputs, targets[:, -1:]], dim=1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        step, part = step + 1, (time.monotonic() - began) / (60 * minutes)
    return Trained(model.net.eval(), step, BATCH)


CONTESTANTS = (gltch, compact_recipe, transformers_gpt2, x_transformers)


# --------------------------------------------------------------------------------------------------
# Turns and table
# --------------------------------------------------------------------------------------------------

class AsNetwork(nn.Module):
    """Any logits as a network whose loss `evaluate` asks for."""

    def __init__(self, logits: Callable[[Tensor], Tensor]):
        super().__init__()
        self.logits = logits
        self.head = nn.Linear(1, 1)  # `evaluate` asks it for the device

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(ids).flatten(0, 1).float(), targets.flatten())


def lines(contestant: Callable[..., Trained]) -> int:
    """What a user writes: without blank lines, comments and docstring."""
    source = inspect.getsource(contestant).replace(f'"""{contestant.__doc__}"""', "")
    return sum(bool(line.strip()) and not line.strip().startswith("#")
               for line in source.splitlines())


def turn(name: str, data: str, minutes: float, seed: int) -> Dict[str, float]:
    """In a process of its own: train and measure one contestant."""
    torch.manual_seed(seed)
    corpus = load_corpus([data] if data else ())
    contestant = next(c for c in CONTESTANTS if c.__name__ == name)
    with contextlib.redirect_stdout(sys.stderr):
        trained = contestant(corpus, minutes)
    network: Any = AsNetwork(trained.logits)
    if isinstance(trained.logits, nn.Module) and name == "gltch":
        network = trained.logits  # it takes targets itself
    network.eval()
    network.config = Config(vocab_size=len(corpus.vocabulary))
    loss = evaluate(network, corpus.validation, Runtime(torch.device("cpu"), "fp32"))
    return {"loss": loss, "characters": trained.steps * trained.batch * CONTEXT,
            "steps": trained.steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="", help="the text (default: as for gltch_2_7m.py)")
    parser.add_argument("--minutes", type=float, default=5.0, help="that each trains in a turn")
    parser.add_argument("--turns", type=int, default=3, help="of each, with another seed each")
    parser.add_argument("--only", choices=[c.__name__ for c in CONTESTANTS], action="append")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, seed = arguments.one
        print(json.dumps(turn(name, arguments.data, arguments.minutes, int(seed))))
        return

    names = [c.__name__ for c in CONTESTANTS if c.__name__ in (arguments.only or c.__name__)]
    results: Dict[str, List[Dict[str, float]]] = {name: [] for name in names}
    data = str(Path(arguments.data).resolve()) if arguments.data else ""
    for seed in range(arguments.turns):
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                done = subprocess.run(
                    [sys.executable, str(Path(__file__).resolve()), "--one", name, str(seed),
                     "--data", data, "--minutes", str(arguments.minutes)],
                    cwd=folder, stdout=subprocess.PIPE, encoding="utf-8")
            if done.returncode:
                raise SystemExit(f"{name} ended with status {done.returncode}: see above; the "
                                 "packages are in requirements-bench.txt")
            result = json.loads(done.stdout.splitlines()[-1])
            results[name].append(result)
            print(f"turn {seed + 1}: {name:18} {result['loss']:.4f} after "
                  f"{result['characters']:11,.0f} characters", flush=True)

    print(f"\n| {arguments.minutes:g} minutes each | characters/s | val loss (median, each turn) | "
          "lines |\n|---|---|---|---|")
    for name in names:
        losses = [result["loss"] for result in results[name]]
        speed = statistics.median(r["characters"] for r in results[name]) / 60 / arguments.minutes
        contestant = next(c for c in CONTESTANTS if c.__name__ == name)
        print(f"| {name} | {speed:,.0f} | {statistics.median(losses):.4f} "
              f"({', '.join(f'{loss:.4f}' for loss in losses)}) | {lines(contestant)} |")
    print(f"\n{pick_device('cpu')}, {pick_precision('auto', pick_device('cpu'))}, "
          f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}")


if __name__ == "__main__":
    try:
        main()
    except GltchError as error:
        sys.exit(f"error: {error}")
