"""Training in WebAssembly against PyTorch: the order of the text, gradients, steps, the hash."""
import base64
import hashlib
import hmac
import json
import subprocess
from dataclasses import asdict, replace

import pytest
import torch
from in_node import SCRIPTS, base64_of

from gltch_2_7m import GLTCH, Config, Corpus, Runtime, TrainConfig, Vocabulary, Windows, lr_factor
from hive.learning.codec import decode, flatten, from_bytes, to_bytes, unflatten
from hive.learning.fragments import Fragments
from hive.learning.sync import Sync
from hive.learning.worker import Learner, Worker

SMALL = Config(vocab_size=11, block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
SHAPES = [  # contexts that fill no vector, rows that fill no tile, more queries than a block has
    SMALL, replace(SMALL, block_size=13, n_embd=48, n_head=3), replace(SMALL, block_size=70),
    replace(SMALL, vocab_size=65, block_size=5, n_layer=1, n_head=16, n_embd=32)]


RELAXED = "--experimental-wasm-relaxed-simd"  # newer ones have it without
FUSED = """
const file = require("fs").readFileSync(process.argv[1] + "/../../../hive/page/peer/kernels.wasm");
const [fused] = WebAssembly.Module.customSections(new WebAssembly.Module(file), "fused");
console.log(WebAssembly.validate(fused));
"""


@pytest.fixture(scope="module", params=["as it is", "relaxed SIMD"])
def ask(node, request):
    """The two programs in kernels.wasm; where node has relaxed SIMD, both times the fused one."""
    options = [] if request.param == "as it is" else [RELAXED]
    if options:
        probe = subprocess.run([node, *options, "-e", FUSED, str(SCRIPTS)], stdout=subprocess.PIPE)
        if probe.stdout.strip() != b"true":
            pytest.skip("This node has no option for relaxed SIMD.")

    def ask(subject, questions):
        answer = subprocess.run([node, *options, str(SCRIPTS / "golden.js"), subject], check=True,
                                input=json.dumps(questions).encode(), stdout=subprocess.PIPE)
        return json.loads(answer.stdout)

    return ask


def a_network(config, seed=3):
    torch.manual_seed(seed)
    model = GLTCH(config)
    with torch.no_grad():
        for parameter in model.parameters():  # norms too, as after long training
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def numbers(answer):
    return from_bytes(base64.b64decode(answer))


@pytest.mark.parametrize("config", SHAPES, ids=lambda c: f"{c.block_size}x{c.n_embd}")
def test_gradients_are_those_of_double_precision(ask, config):
    model, texts = a_network(config), 4
    ids = torch.randint(config.vocab_size, (2, texts, config.block_size))
    question = {"config": asdict(config), "weights": base64_of(to_bytes(flatten(model))),
                "ids": ids[0].flatten().tolist(), "targets": ids[1].flatten().tolist()}
    answers = ask("gradients", [{**question, "pieces": pieces} for pieces in (1, 2)])
    model.double()
    loss = model(ids[0], ids[1])
    loss.backward()
    for answer in answers:
        assert answer["loss"] == pytest.approx(loss.item(), rel=1e-6)
        found = numbers(answer["gradients"]).double()
        for parameter in model.parameters():
            gradient, mine = parameter.grad.flatten(), found[: parameter.numel()]
            found = found[parameter.numel():]
            assert (mine - gradient).norm() <= 1e-5 * gradient.norm()
        assert not len(found)


def a_text(length):
    return torch.randint(SMALL.vocab_size, (length,), generator=torch.Generator().manual_seed(5))


def a_learner(model, recipe, ids, sync):
    text = Corpus("a text", ids, Vocabulary("abcdefghijk"))
    worker = Worker(model.config, recipe, text, Runtime(torch.device("cpu")), noise_seed=1)
    unflatten(flatten(model), worker.trainer.model)
    worker.anchor = flatten(model)
    return Learner(worker, sync, len(worker.anchor))


@pytest.mark.parametrize("recipe", [
    TrainConfig(batch_size=6, warmup=3), TrainConfig(batch_size=6, warmup=0, cooldown=0.0),
    TrainConfig(batch_size=6, optimizer="adamw"), TrainConfig(batch_size=6, optimizer="sgd"),
], ids=["muon", "muon at the full rate", "adamw", "sgd"])
@pytest.mark.parametrize("workers, overlap", [(1, False), (4, True)])
def test_steps_and_updates_of_several_rounds_are_those_of_pytorch(ask, recipe, workers, overlap):
    model, ids = a_network(SMALL), a_text(700)
    sync = Sync(beta=0.9, fragments=3, overlap=overlap)
    learner = a_learner(model, recipe, ids, sync)
    tasks = [{"step": 0, "total": None, "window": 5, "steps": 4, "part": 0},
             {"step": 40, "total": 50, "window": 900, "steps": 2, "part": 1, "rebased":
              base64_of(to_bytes(flatten(a_network(SMALL, seed=4))))},
             {"step": 301, "total": 400, "window": 1, "steps": 2, "part": 0}]
    parts = Fragments(len(learner.feedback.residual), 3).parts
    answers, = ask("rounds", [{
        "config": asdict(SMALL), "recipe": asdict(recipe), "sync": asdict(sync),
        "weights": base64_of(to_bytes(flatten(model))), "ids": ids[: len(ids) * 9 // 10].tolist(),
        "workers": workers, "tasks": tasks}])
    start = before = flatten(model)
    for task, answer in zip(tasks, answers):
        part = parts[task["part"]]
        learner.worker.begin(task["step"], task["total"], task["window"])
        losses = [learner.worker.step() for _ in range(task["steps"])]
        update = decode("fp32", learner.take(part, task["steps"]), part.stop - part.start)
        if "rebased" in task:
            learner.rebase(numbers(task["rebased"]), part)
        assert answer["losses"] == pytest.approx(losses, rel=2e-5)
        mine, theirs = numbers(answer["update"]), update
        assert (mine - theirs).norm() <= 1e-4 * theirs.norm()
        mine, theirs = numbers(answer["weights"]), flatten(learner.worker.trainer.model)
        assert (mine - theirs).norm() <= 1e-4 * (theirs - before).norm()
    assert (theirs - start).norm() > 0.1


@pytest.mark.parametrize("seed", [0, 1337, 2**31 - 1])
def test_the_text_comes_in_the_order_of_pytorch(ask, seed):
    cases = [(17, 16), (33, 16), (1000, 16), (100_003, 128), (64_000, 100)]
    indices = [0, 1, 2, 3, 700, 701, 5_000, 123_456, 2**40]
    answers = ask("order", [{"length": length, "size": size, "seed": seed, "indices": indices}
                            for length, size in cases])
    for (length, size), answer in zip(cases, answers):
        windows = Windows(torch.zeros(length, dtype=torch.uint8), size, seed)
        assert answer == [windows.start(index) for index in indices]


def test_the_learning_rate_follows_the_recipe(ask):
    cases = [(step, total, recipe) for step in (0, 5, 19, 20, 60, 99, 100) for total in (None, 100)
             for recipe in (TrainConfig(), TrainConfig(warmup=0), TrainConfig(cooldown=0.0))]
    answers = ask("factor", [{"step": step, "total": total, "recipe": asdict(recipe)}
                             for step, total, recipe in cases])
    assert answers == [lr_factor(*case) for case in cases]


def test_hashes_are_those_of_python(ask):
    contents = [bytes(range(256)) * 600][:1] + [b"a" * n for n in (
        0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 65_535, 65_536, 65_537, 200_000)]
    assert ask("sha256", list(map(base64_of, contents))) == [
        hashlib.sha256(content).hexdigest() for content in contents]


def test_proofs_are_those_of_python(ask):
    pairs = [(key, text) for key in ("", "key", "é😀" * 30, "k" * 64, "k" * 65)
             for text in ("", "gltch-hive peer 1 2", "a" * 500)]
    assert ask("hmac", [{"key": key, "text": text} for key, text in pairs]) == [
        hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest() for key, text in pairs]
