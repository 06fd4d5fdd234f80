"""A browser's peer: its training step against PyTorch's on one core, two workers against one, and
what a visitor notices.

    GLTCH_DATA=tinyshakespeare.txt python benchmarks/browser_peer.py

GLTCH-2.7M, batch 64, optimizer included, in headless Chromium (pip install -r requirements-dev.txt;
playwright install chromium, unless there is one). All take turns, so a change in the machine's
speed meets all, and the fastest of several steps counts; the ratios are what travels. Then the page
of a coordinator on this machine: the time from the click on "Train in this tab" until the first
step begins, and the frames per second while it trains in all cores but one, at the top of the page
where the network moves, and without training before.
"""
from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List

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
from hive.learning.codec import flatten

PAGE = Path(__file__).resolve().parent.parent / "hive"
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


class Quiet(http.server.SimpleHTTPRequestHandler):
    """The files of the page, without a word about each."""

    def log_message(self, *values: Any) -> None:
        pass


@contextlib.contextmanager
def served() -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(PAGE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@contextlib.contextmanager
def a_hive() -> Iterator[str]:
    """A coordinator that waits for its first peer."""
    server = Path(__file__).resolve().parent.parent / "hive" / "server.py"
    with tempfile.TemporaryDirectory() as folder:
        program = subprocess.Popen(
            [sys.executable, str(server), "--port", str(PORT), "--dashboard-port", str(PORT + 1)],
            cwd=folder, env={**os.environ, "XDG_CACHE_HOME": folder}, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        try:
            address = f"http://localhost:{PORT + 1}/"
            while not answers(address):
                if program.poll() is not None:
                    sys.exit("The coordinator did not start: python hive/server.py says why.")
                time.sleep(0.5)
            yield address
        finally:
            program.terminate()
            program.wait()


def answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return bool(json.load(opener.open(address + "api/state"))["val_loss"])  # and is quiet
    except OSError:
        return False


def visit() -> None:
    """What a visitor notices."""
    with a_hive() as address, a_page(address) as page:
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
    turns = parser.parse_args().turns
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
    visit()


if __name__ == "__main__":
    main()
