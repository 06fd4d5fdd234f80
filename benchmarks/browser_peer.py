"""A browser's peer: its training step against PyTorch's on one core, two workers against one, and
what a visitor notices.

    GLTCH_DATA=tinyshakespeare.txt python benchmarks/browser_peer.py

GLTCH-2.7M, batch 64, optimizer included, in headless Chromium (pip install -r requirements-dev.txt;
playwright install chromium, unless there is one). All take turns, so a change in the machine's
speed meets all, and the fastest of several steps counts; the ratios are what travels. Then the page
of a coordinator on this machine: the time from the click on "Train in this tab" until the first
step begins, and the frames per second while it trains in all cores but one, at the top of the page
where the network moves, and without training before.

    GLTCH_DATA=tinyshakespeare.txt python benchmarks/browser_peer.py --losses

Instead of all that: what a hive learns of one tab and one PyTorch peer, against two PyTorch peers
that learn from the same characters, for three seeds. A small network, rounds of a fixed number of
steps without a deadline, both peers in every round, or it stops. Without dropout the losses at the
end may differ by arithmetic only, and by who of the two gets which part of the text. The first
seed's PyTorch peers run once more, which says how much of that is noise.
"""
from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from gltch_2_7m import (
    PRESETS,
    SHAKESPEARE_CHARACTERS,
    Corpus,
    FastTrainer,
    Runtime,
    Vocabulary,
)
from hive.journal import Journal
from hive.learning.codec import flatten

CHARACTERS = 200_000
BEGIN = """async ({ config, recipe, ids, weights }) => {
  const [{ Crew }, { hire }] = await Promise.all(
    ["crew", "workers"].map((name) => import(`/page/peer/${name}.js`)));
  const kernels = await (await fetch("/page/peer/kernels.wasm")).arrayBuffer();
  window.crews = {};
  for (const workers of [1, 2]) {
    const members = await hire(kernels, { config, recipe, ids: Uint8Array.from(ids) }, workers);
    window.crews[workers] = new Crew(config, recipe, Float32Array.from(weights), members);
  }
}"""
STEP = """async (workers) => {
  const began = performance.now(), loss = await window.crews[workers].trainStep();
  return [(performance.now() - began) / 1000, loss];
}"""


CLICK = """() => new Promise((resolve) => {
  const { trainer } = page.tab, hear = trainer.hear.bind(trainer);
  let began = 0;
  trainer.hear = (facts) => {
    hear(facts);
    if (facts.doing === "training") resolve((performance.now() - began) / 1000);
  };
  began = performance.now();
  document.querySelector(".tab-start").click();
})"""
FRAMES = """(seconds) => new Promise((resolve) => {
  const began = performance.now();
  let frames = 0;
  const count = (now) => {
    frames++;
    if (now - began < 1000 * seconds) requestAnimationFrame(count);
    else resolve(1000 * frames / (now - began));
  };
  requestAnimationFrame(count);
})"""
SECONDS = 15.0  # in which frames are counted
PORT = 28775  # of the coordinator, and the one above it for its page
HIVE = Path(__file__).resolve().parent.parent / "hive"
ROUNDS = 10
RUN = ["--sync", "diloco", "--size", "1m", "--batch-size", "4", "--inner-steps", "4",
       "--round-seconds", "600", "--min-peers", "2", "--rounds", str(ROUNDS)]
PATIENT = """
import functools, sys
sys.path.insert(0, sys.argv.pop(1))
import hive.server
hive.server.Pace = functools.partial(hive.server.Pace, slack=1000.0)
hive.server.main()
"""  # a coordinator whose rounds end when everybody has made all steps


class Quiet(http.server.SimpleHTTPRequestHandler):
    """The files of the page, without a word about each."""

    def log_message(self, *values: Any) -> None:
        pass


@contextlib.contextmanager
def served() -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(HIVE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@contextlib.contextmanager
def a_program(folder: str, *command: Any) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "XDG_CACHE_HOME": folder, "OMP_NUM_THREADS": "1"}
    program = subprocess.Popen([sys.executable, *map(str, command)], cwd=folder, env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield program
    finally:
        program.terminate()
        program.wait()


class Hive(NamedTuple):
    page: str  # its address
    folder: str
    program: subprocess.Popen[bytes]


@contextlib.contextmanager
def a_hive(*command: Any) -> Iterator[Hive]:
    """A coordinator that waits for its first peer."""
    with tempfile.TemporaryDirectory() as folder, a_program(
            folder, *command, "--port", PORT, "--dashboard-port", PORT + 1) as program:
        page = f"http://localhost:{PORT + 1}/"
        while not answers(page):
            if program.poll() is not None:
                sys.exit("The coordinator did not start: python hive/server.py says why.")
            time.sleep(0.5)
        yield Hive(page, folder, program)


def answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return bool(json.load(opener.open(address + "api/state"))["val_loss"])  # and is quiet
    except OSError:
        return False


class Learned(NamedTuple):
    loss: float  # over the validation text, at the end
    tokens: int


def learned(seed: int, tab: bool, dropout: float) -> Learned:
    """What a hive of two makes of a run."""
    with contextlib.ExitStack() as stack:
        hive = stack.enter_context(a_hive(
            "-c", PATIENT, HIVE.parent, *RUN, "--seed", seed, "--dropout", dropout))
        for name in ["ada"] if tab else ["ada", "bob"]:
            stack.enter_context(a_program(
                hive.folder, HIVE / "peer.py", "--server", f"ws://localhost:{PORT}", "--name", name,
                "--device", "cpu", "--dtype", "fp32"))
        if tab:
            page = stack.enter_context(a_page(hive.page))
            page.get_by_label("Workers").fill("1")
            page.get_by_role("button", name="Train in this tab").click()
        hive.program.wait()
        journal = Journal(Path(hive.folder) / "runs" / "hive", read_only=True)
        rounds = journal.history()
        journal.close()
    if len(rounds) != ROUNDS or any(one["peers"] != 2 for one in rounds):
        sys.exit(f"Not {ROUNDS} rounds with two updates each: {rounds}.")
    return Learned(rounds[-1]["val_loss"], sum(one["tokens"] for one in rounds))


def compare_losses(seeds: List[int], dropout: float) -> None:
    print("seed   characters   two PyTorch   tab and PyTorch")
    beyond, of_torch = [], []
    for seed in seeds:
        torches, mixed = (learned(seed, tab, dropout) for tab in (False, True))
        if torches.tokens != mixed.tokens:
            sys.exit(f"Not the same number of characters: {torches}, {mixed}.")
        beyond.append(mixed.loss / torches.loss - 1)
        of_torch.append(torches.loss)
        print(f"{seed:4} {mixed.tokens:12,} {torches.loss:13.5f} {mixed.loss:17.5f} "
              f"{beyond[-1]:+8.3%}", flush=True)
    again = learned(seeds[0], False, dropout).loss / of_torch[0] - 1
    print(f"a tab instead of a PyTorch peer  {statistics.mean(beyond):+.3%} in the mean, at most "
          f"{max(map(abs, beyond)):.3%}")
    print(f"two PyTorch peers once more      {again:+.3%} (seed {seeds[0]})")
    print(f"from seed to seed                {max(of_torch) / min(of_torch) - 1:.3%} at most")


def visit() -> None:
    """What a visitor notices."""
    with a_hive(HIVE / "server.py") as hive, a_page(hive.page) as page:
        page.wait_for_selector(".tab-start")
        page.wait_for_timeout(2000)
        before = page.evaluate(FRAMES, SECONDS)
        seconds = page.evaluate(CLICK)
        page.evaluate("scrollTo(0, 0)")
        frames = page.evaluate(FRAMES, SECONDS)
        workers = page.evaluate("page.tab.form.choice.workers")
    print(f"from click to first step      {seconds:.1f} s")
    print(f"frames/s with {workers} worker(s)     {frames:.0f}; without training {before:.0f}")


@contextlib.contextmanager
def a_page(address: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        yield page
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--losses", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.0, help="of these hives")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()
    if args.losses:
        compare_losses(args.seeds, args.dropout)
    else:
        compare_speeds(args.turns)
        visit()


def compare_speeds(turns: int) -> None:
    torch.set_num_threads(1)
    config, recipe, _ = PRESETS["2.7m"]
    recipe = replace(recipe, device="cpu", precision="fp32", steps=None)
    ids = torch.randint(config.vocab_size, (CHARACTERS,), dtype=torch.uint8)
    corpus = Corpus("random characters", ids, Vocabulary(SHAKESPEARE_CHARACTERS))
    trainer = FastTrainer(config, recipe, corpus, Runtime(torch.device("cpu")))
    seconds: Dict[Any, List[float]] = {"PyTorch": [], 1: [], 2: []}
    with served() as address, a_page(address + "icon.svg") as page:  # a page that does nothing
        page.evaluate(BEGIN, {"config": asdict(config), "recipe": asdict(recipe),
                              "ids": corpus.train.tolist(),
                              "weights": flatten(trainer.model).tolist()})
        for _ in range(turns + 1):
            began = time.perf_counter()
            trainer.train_step()
            seconds["PyTorch"].append(time.perf_counter() - began)
            for workers in (1, 2):
                seconds[workers].append(page.evaluate(STEP, workers)[0])
    best = {name: min(values[1:]) for name, values in seconds.items()}  # the first warms up
    step = recipe.batch_size * config.block_size
    for name, label in (("PyTorch", "PyTorch fp32, one thread"), (1, "browser, one worker"),
                        (2, "browser, two workers")):
        print(f"{label:26}{step / best[name]:9,.0f} characters/s")
    print(f"one worker against PyTorch    {best['PyTorch'] / best[1]:.2f}")
    print(f"two workers against one       {best[1] / best[2]:.2f}")


if __name__ == "__main__":
    main()
