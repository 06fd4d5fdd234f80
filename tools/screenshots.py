"""Pictures of the dashboard for the README, from a real run of real peers on this machine.

    GLTCH_DATA=tinyshakespeare.txt python tools/screenshots.py

Starts a coordinator and three peers, waits until they have made some rounds, talks to the model in
the browser, and writes docs/dashboard-*.png. Needs requirements-dev.txt and Chromium.
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Dict, List

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("ada", "grace", "attic-box")
PICTURES: Dict[str, Any] = {  # name: width, height, colours
    "wide": (1440, 2180, "dark"), "light": (1440, 2180, "light"), "narrow": (390, 1900, "dark"),
    "tab": (1100, 378, "dark")}
LOOKED_AT = 150  # the character of what it wrote that is looked into
TEXT = "My lord, the king of France is a brown fox,\nand he will marry the queen tomorrow."


def start(*command: Any, folder: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": folder}
    return subprocess.Popen([sys.executable, *map(str, command)], cwd=folder, env=environment)


def state(page: int) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return json.load(opener.open(f"http://127.0.0.1:{page}/api/state"))
    except OSError:  # it is still starting
        return {"version": -1}


def take(page: int, names: List[str]) -> None:
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name in names:
            width, height, scheme = PICTURES[name]
            tab = chromium.new_page(viewport={"width": width, "height": height},
                                    color_scheme=scheme)
            tab.goto(f"http://localhost:{page}")
            if name == "tab":
                train(tab)
            else:
                talk(tab)
                look_inside(tab)
                if name == "wide":
                    take_inside(tab)
                wait_for_travel(tab)
            tab.screenshot(path=str(ROOT / "docs" / f"dashboard-{name}.png"))
            tab.close()
        chromium.close()


def train(tab: Any) -> None:
    """In the tab itself, until some of its updates have counted; the screen shows how that goes."""
    tab.get_by_label("Name, shown to all").fill("my-tab")
    tab.get_by_role("button", name="Train in this tab").click()
    while tab.evaluate("!(page.tab.peer?.counted >= 5)"):
        time.sleep(0.2)
    tab.evaluate("document.getElementById('join').scrollIntoView()")
    while tab.evaluate("page.tab.trainer.figures.doing !== 'training'"):
        time.sleep(0.02)


def talk(tab: Any) -> None:
    tab.get_by_label("Your text").fill("ROMEO:")
    tab.locator("#chat").get_by_label("Characters").fill("340")
    tab.get_by_role("button", name="Send").click()
    while tab.evaluate("!page.chat.loaded || page.chat.doing !== ''"):
        time.sleep(0.2)


def wait_for_travel(tab: Any) -> None:
    tab.evaluate("scrollTo(0, 0)")
    while tab.evaluate("page.network.scene.particles.length < 10"):  # until much travels
        time.sleep(0.02)


def look_inside(tab: Any) -> None:
    tab.locator("#chat [data-shade]").nth(LOOKED_AT).click()
    tab.locator("#inside .chances").wait_for()
    tab.locator("#surprise textarea").fill(TEXT)
    tab.get_by_role("button", name="Measure").click()
    while tab.evaluate("!(page.surprise.now.bits + page.surprise.then.bits > 0)"):
        time.sleep(0.2)


def take_inside(tab: Any) -> None:
    """The part of the page that looks into the network, with a version of a tenth of the way."""
    slider = tab.locator("#surprise").get_by_label("Then: an earlier version")
    slider.fill(str(tab.evaluate("page.surprise.time.last / 10 | 0")))
    while tab.evaluate("page.surprise.progress.measured.size < 3"):
        time.sleep(0.2)
    box = tab.evaluate("""() => {
        const [top, bottom] = ["chat", "surprise"].map((id) =>
          document.getElementById(id).getBoundingClientRect());
        return { x: 0, y: scrollY + top.top - 12, width: innerWidth,
          height: bottom.bottom - top.top + 24 };
    }""")
    tab.screenshot(path=str(ROOT / "docs" / "dashboard-inside.png"), clip=box, full_page=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=60, help="before the pictures are taken")
    parser.add_argument("--port", type=int, default=28765, help="and the one above it")
    parser.add_argument("--only", choices=list(PICTURES), nargs="+", default=list(PICTURES))
    arguments = parser.parse_args()
    port, page = arguments.port, arguments.port + 1
    with tempfile.TemporaryDirectory() as folder:
        programs: List[subprocess.Popen[bytes]] = [start(
            ROOT / "hive" / "server.py", "--port", port, "--dashboard-port", page, "--batch-size",
            16, folder=folder)]
        try:
            programs += [start(ROOT / "hive" / "peer.py", "--server", f"ws://localhost:{port}",
                               "--name", name, folder=folder) for name in PEERS]
            while state(page)["version"] < arguments.rounds:
                time.sleep(1)
            take(page, arguments.only)
        finally:
            for program in reversed(programs):
                program.terminate()
                program.wait()


if __name__ == "__main__":
    main()
