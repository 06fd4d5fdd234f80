"""The dashboard in a real browser, against a real coordinator with real peers."""
import contextlib
import json
import math
import os
import shutil
import signal
import sys
import time

import pytest
import torch
from attention import attention_of
from conftest import PROGRAM
from hive_processes import LIMIT, Place, Program, free_ports
from hive_processes import until as poll

from gltch_2_7m import load
from hive import server
from hive.learning.codec import encode

HOSTILE = "<img src=x onerror=alert(1)>"
FOR_EVER = ("--steps", 10**9)


def missing(what):
    """Without a browser these tests are skipped, but not where everything must be checked."""
    sentence = f"The dashboard's tests need {what}."
    if os.environ.get("CI") == "true":
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


# --------------------------------------------------------------------------------------------------
# A browser, and what it must never do
# --------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def chromium():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("the package playwright: pip install -r requirements-dev.txt")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as playwright:
        if program is None and not os.path.exists(playwright.chromium.executable_path):
            missing("Chromium: apt-get install chromium, or python -m playwright install chromium")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """One person's browser: a page of a dashboard, and everything it complained about."""

    def __init__(self, chromium, port, script=None, address="", beside=None, **settings):
        self.context = beside.context if beside else chromium.new_context(**{
            "viewport": {"width": 1280, "height": 900}, "color_scheme": "dark", **settings})
        self.origin, self.address = f"http://localhost:{port}", address
        self.complaints, self.requests = [], []
        if script:  # before any of the page's own
            self.context.add_init_script(script)
        self.page = self.context.new_page()
        self.page.set_default_timeout(1000 * LIMIT)
        self.page.on("console", self.on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self.on_dialog)
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))

    def on_console(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def on_dialog(self, dialog):
        self.complaints.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def open(self):
        self.page.goto(self.origin + self.address)
        self.until("page.state.session !== undefined")
        return self

    def ask(self, expression, *values):
        return self.page.evaluate(expression, *values)

    def until(self, condition):
        """Asked again and again from here: the page's own rules forbid to wait inside it."""
        poll(lambda: self.ask(condition), f"never true: {condition}")

    def text(self, selector):
        return self.page.inner_text(selector)

    def shows(self, selector, *texts):
        """Wait until an element holds these texts: the page writes some time after it knows."""
        for text in texts:
            self.page.locator(selector, has_text=text).wait_for()

    def row(self, name):
        return self.page.locator("#peers-body tr").filter(has=self.page.locator(
            "td.name", has_text=name))

    def close(self):
        self.context.close()

    def check(self):
        assert self.complaints == []
        own = (self.origin + "/", self.origin.replace("http", "ws") + "/")
        assert [url for url in self.requests if not url.startswith(own)] == []


@pytest.fixture
def visit(chromium):
    """Open a dashboard; in the end its page has complained of nothing and asked nobody else."""
    visitors = []

    def visit(port, **settings):
        visitors.append(Visitor(chromium, port, **settings))
        return visitors[-1].open()

    yield visit
    for visitor in visitors:
        visitor.close()
    for visitor in visitors:
        visitor.check()


@pytest.fixture(scope="module")
def shared(processes, tmp_path_factory, text_file, chromium):
    place = Place(tmp_path_factory.mktemp("dashboard"), text_file)
    yield place
    place.clean()


@pytest.fixture(scope="module")
def busy(shared):
    """A hive with two real peers that train as long as the tests last."""
    hive = shared.coordinator(*FOR_EVER, run="busy")
    for name in ("ada", HOSTILE):
        shared.peer(hive, name, yields=True)
    hive.reaches(3)
    hive.until(lambda: hive.state()["val_loss"], "no evaluation came")
    return hive


# --------------------------------------------------------------------------------------------------
# The network and its peers
# --------------------------------------------------------------------------------------------------

def test_peers_appear_while_they_are_there(busy, shared, visit):
    visitor = visit(busy.page)
    visitor.row("ada").wait_for()
    client = shared.client(busy, "passer-by").enter()
    visitor.row("passer-by").wait_for()
    assert "a test" in visitor.row("passer-by").inner_text()
    visitor.until("page.state.peers.size === 3")
    client.vanish()
    visitor.row("passer-by").wait_for(state="detached")
    assert visitor.row("ada").count() == 1


def test_a_hostile_name_is_shown_as_text(busy, visit):
    visitor = visit(busy.page)
    visitor.row(HOSTILE).wait_for()
    visitor.page.locator("#contributors .name", has_text=HOSTILE).wait_for()
    assert visitor.ask("document.querySelectorAll('img[src=x], [onerror]').length") == 0


def test_particles_are_the_transfers_that_happened(busy, visit):
    visitor = visit(busy.page)
    visitor.ask("""() => {
        page.told = 0;
        const hear = page.hear.bind(page);
        page.connection.hear = (events) => {
          page.told += events.filter((event) => event.type === "transfer").length;
          hear(events);
        };
        page.shownBefore = page.network.transfers;
    }""")
    visitor.until("page.told >= 20")
    assert visitor.ask("page.network.transfers - page.shownBefore === page.told")


def test_nodes_can_be_visited_by_keyboard(busy, visit):
    visitor = visit(busy.page)
    visitor.until("page.state.peers.size >= 2")
    visitor.page.focus("#network canvas")
    visitor.page.keyboard.press("ArrowRight")
    first = visitor.text("#network [aria-live]")
    visitor.page.keyboard.press("ArrowRight")
    second = visitor.text("#network [aria-live]")
    assert "ada" in first + second and HOSTILE in first + second and first != second


def test_an_empty_hive_is_calm_and_tells_how_to_join(here, visit):
    hive = here.coordinator()
    visitor = visit(hive.page)
    visitor.page.locator("#network", has_text="Waiting for peers").wait_for()
    command = " ".join(hive.join)
    assert visitor.text("#network .command code") == visitor.text("#command") == command
    frames = visitor.ask("page.network.frames")
    visitor.page.wait_for_timeout(500)
    assert visitor.ask("page.network.frames") <= frames + 2  # nothing moves, nothing is drawn


def test_who_wants_calm_gets_it(busy, visit):
    visitor = visit(busy.page)
    visitor.until("page.network.frames > 20")
    pause = visitor.page.locator("#network button[aria-pressed]")
    pause.click()
    assert pause.get_attribute("aria-pressed") == "true"
    frames = visitor.ask("page.network.frames")
    version = visitor.ask("page.state.version")
    visitor.until(f"page.state.version > {version}")
    assert visitor.ask("page.network.frames") <= frames + 1


def test_who_asked_for_less_motion_sees_no_particles(busy, visit):
    visitor = visit(busy.page, reduced_motion="reduce")
    visitor.until("page.network.transfers >= 10")
    assert visitor.ask("page.network.scene.particles.length") == 0


def test_a_node_stays_where_it_was_dragged(busy, visit):
    visitor = visit(busy.page)
    visitor.until("page.state.peers.size >= 2 && page.network.scene.settled")
    box = visitor.page.locator("#network canvas").bounding_box()
    x, y = visitor.ask("[page.network.scene.nodes[0].x, page.network.scene.nodes[0].y]")
    mouse = visitor.page.mouse
    mouse.move(box["x"] + x, box["y"] + y)
    mouse.down()
    mouse.move(box["x"] + 60, box["y"] + 60, steps=5)
    mouse.up()
    visitor.until("page.network.scene.settled")
    assert visitor.ask("[page.network.scene.nodes[0].x, page.network.scene.nodes[0].y]") == [60, 60]
    name = visitor.ask("page.network.scene.nodes[0].peer.name")
    visitor.shows("#network .network-readout", name)


def test_a_table_can_be_sorted_by_any_column(busy, visit):
    visitor = visit(busy.page)
    visitor.until("page.state.peers.size >= 2")
    for title in ("Name", "Characters/s", "Since"):
        heading = visitor.page.get_by_role("columnheader", name=title, exact=True)
        button = heading.get_by_role("button")
        button.click()
        once = heading.get_attribute("aria-sort")
        button.click()
        assert {once, heading.get_attribute("aria-sort")} == {"ascending", "descending"}
    visitor.page.get_by_role("columnheader", name="Name", exact=True).get_by_role("button").click()
    name, *_ = visitor.page.locator("td.name").first.inner_text().splitlines()
    assert name == HOSTILE  # "<" before "a"; below it may stand why an update came late


def test_a_rejected_update_is_told_at_once_with_its_reason(here, visit):
    hive = here.coordinator(*FOR_EVER)
    visitor = visit(hive.page)
    client = here.client(hive, "broken").enter()
    client.start()
    assert client.deliver(client.update(size=math.nan))["verdict"] == "rejected"
    visitor.row("broken").locator(".reason", has_text="values that are not finite").wait_for()
    assert visitor.ask("[...page.state.peers.values()].map((peer) => peer.rejected)") == [1]
    assert "gltch_updates_total{verdict=\"rejected\"} 1" in hive.ask("/metrics")[2].decode()
    visitor.page.locator("#contributors .name", has_text="broken").wait_for()
    assert hive.state()["version"] == 0  # no round was ever committed


def test_who_is_set_aside_or_banned_is_shown_as_that_also_when_it_is_gone(
        here, visit, monkeypatch):
    hive = here.coordinator(*FOR_EVER, "--min-peers", 4)
    clients = [here.client(hive, name).enter() for name in ("liar", "ann", "bob", "cy")]
    liar, *_, cy = clients
    for _ in range(3):
        for client in clients:
            client.ready()
        for client in clients:
            client.hear("train")
        learned = torch.randn(liar.parameters)
        for client in clients:
            update = learned + torch.randn(liar.parameters)
            client.deliver(encode("q4", 1e-4 * (-update if client is liar else update)))
        for client in clients:
            client.hold(client.hear("commit"))
        assert liar.hear("verdict")["verdict"] == "rejected"  # when it was seen beside the others
    monkeypatch.chdir(here.folder)
    assert server.main(["--ban", "cy"]) == 0
    assert "banned" in cy.hear("refused")["reason"]
    liar.vanish()
    visitor = visit(hive.page, viewport={"width": 360, "height": 800})
    visitor.until("page.state.peers.size === 2")
    known = visitor.page.locator("#contributors li")
    reason = "set aside: an update points the other way than those of the others"
    known.filter(has_text="liar").locator(".aside", has_text=reason).wait_for()
    assert known.filter(has_text="cy").locator(".aside").inner_text() == "banned"
    assert known.locator(".aside").count() == 2
    assert visitor.ask("document.documentElement.scrollWidth") == 360
    assert "gltch_peers_set_aside 2" in hive.ask("/metrics")[2].decode()


def test_with_nobody_there_nothing_looks_alive(here, visit):
    hive = here.coordinator(*FOR_EVER)
    visitor = visit(hive.page)
    client = here.client(hive, "short-lived").enter()
    client.start()
    client.deliver(client.update())
    client.hear("commit")
    client.vanish()
    visitor.until("page.state.version === 1 && page.state.peers.size === 0"
                  " && page.state.phase === 'waiting' && page.state.speed === 0")
    state = hive.state()
    assert (state["phase"], state["speed"], state["remaining"]) == ("waiting", 0, None)
    visitor.page.locator("#figures", has_text="waiting for peers").wait_for()


def enter_in_time(here, hive, name):
    """When many are new, some are asked to come a little later."""
    from websockets.exceptions import ConnectionClosed
    while True:
        try:
            return here.client(hive, name).hear("welcome")
        except ConnectionClosed as error:
            assert error.rcvd.code == 1013
            time.sleep(0.2)


def test_two_hundred_peers_are_shown(here, visit):
    hive = here.coordinator(*FOR_EVER)
    for number in range(200):
        enter_in_time(here, hive, f"peer-{number:03}")
    visitor = visit(hive.page)
    visitor.until("document.querySelectorAll('#peers-body tr').length === 200")
    assert visitor.ask("page.state.peers.size") == 200
    frames = visitor.ask("page.network.frames")
    visitor.until(f"page.network.frames > {frames}")


# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------

def test_the_curve_grows_and_a_reload_keeps_it(busy, visit):
    visitor = visit(busy.page)
    visitor.until("page.chart.points > 0")
    points = visitor.ask("page.chart.points")
    visitor.until(f"page.chart.points >= {points} + 3")
    points = visitor.ask("page.chart.points")
    visitor.page.reload()
    visitor.until(f"page.chart?.points >= {points}")


def test_a_part_of_the_curve_can_be_looked_at(busy, visit):
    busy.reaches(12)
    visitor = visit(busy.page)
    visitor.until("page.chart.points >= 12")
    canvas = visitor.page.locator("#chart canvas")
    width = canvas.bounding_box()["width"]
    canvas.hover(position={"x": 0.3 * width, "y": 50})  # waits while the page still moves
    visitor.page.mouse.down()
    canvas.hover(position={"x": 0.7 * width, "y": 80})
    visitor.page.mouse.up()
    visitor.until("page.chart.history.view !== null")
    part = visitor.ask("page.chart.history.view")
    assert 0 < part["from"] < part["to"] < visitor.ask("page.state.version") + 1
    canvas.press("End")
    visitor.shows("#chart [aria-live]", "Train")
    visitor.page.get_by_role("button", name="Whole run").click()
    assert visitor.ask("page.chart.history.view") is None


def test_the_numbers_are_those_of_the_coordinator(busy, visit):
    visitor = visit(busy.page)
    figures = visitor.text("#figures")
    for name in ("Training loss", "Validation loss", "Round", "Speed-up", "Arithmetic", "Received"):
        assert name in figures
    state = busy.state()
    heard = visitor.ask("({...page.state, peers: [...page.state.peers.values()]})")
    assert heard["session"] == state["session"] and heard["version"] <= state["version"]
    assert set(state) - set(heard) == set()
    assert {peer["name"] for peer in heard["peers"]} == {peer["name"] for peer in state["peers"]}


def test_what_it_writes_is_shown_with_the_round_it_came_from(busy, visit):
    visitor = visit(busy.page)
    visitor.page.locator("#sample").wait_for()
    samples = json.loads(busy.ask("/api/samples?limit=100")[2])["samples"]
    rounds = {str(sample["round"]): sample["text"] for sample in samples}
    visitor.page.locator("#older").click()
    shown = visitor.ask("[page.samples.samples[page.samples.place].round,"
                        " document.getElementById('sample').textContent]")
    assert rounds[str(shown[0])] == shown[1]
    visitor.shows("#sample-about", f"after round {shown[0]:,}")


def test_a_page_that_lost_its_connection_misses_nothing(busy, visit):
    visitor = visit(busy.page)
    visitor.ask("""() => {
        page.heard = [];
        const hear = page.hear.bind(page);
        page.connection.hear = (events) => {
          page.heard.push(...events.map(({ seq, type }) => [seq, type]));
          hear(events);
        };
    }""")
    visitor.until("page.heard.length > 5")
    visitor.ask("page.connection.socket.close()")
    count = visitor.ask("page.heard.length")
    visitor.until(f"page.heard.length > {count} + 5")
    heard = visitor.ask("page.heard")
    numbers = [seq for seq, kind in heard]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert "state" not in {kind for seq, kind in heard}


def test_a_coordinator_that_is_gone_is_missed_and_its_return_is_noticed(here, visit, chromium):
    ports = free_ports(2)
    options = ("--port", ports[0], "--dashboard-port", ports[1], *FOR_EVER)
    hive = here.coordinator(*options)
    visitor = Visitor(chromium, hive.page).open()  # it may complain of the lost connection
    with contextlib.closing(visitor):
        session = visitor.ask("page.state.session")
        hive.kill()
        visitor.page.locator("#connection", has_text="The coordinator does not answer").wait_for()
        here.client(here.coordinator(*options), "first").enter()
        visitor.until(f"page.state.session !== '{session}' && page.connection.isLive")
        visitor.row("first").wait_for()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_coordinator_that_hangs_is_noticed_and_so_is_its_waking_up(here, chromium):
    hive = here.coordinator(*FOR_EVER)
    visitor = Visitor(chromium, hive.page).open()
    with contextlib.closing(visitor):
        hive.process.send_signal(signal.SIGSTOP)
        visitor.page.locator("#connection", has_text="last update 1").wait_for()
        visitor.until("page.connection.wait > 500")  # it gave the silent connection up
        hive.process.send_signal(signal.SIGCONT)
        visitor.page.locator("#connection[data-state=live]").wait_for()


def test_the_end_of_a_run_is_told(here, visit, chromium):
    hive = here.coordinator("--rounds", 3)
    visitor = Visitor(chromium, hive.page).open()
    with contextlib.closing(visitor):
        here.peer(hive, "ada")
        visitor.page.locator("#connection", has_text="all 3 rounds are done").wait_for()


# --------------------------------------------------------------------------------------------------
# Talking to it
# --------------------------------------------------------------------------------------------------

LOGITS = """async ([url, prompts]) => {
  const worker = new Worker("page/chat/worker.js", { type: "module" });
  let id = 0;
  const ask = (message) => new Promise((resolve) => {
    id += 1;
    worker.onmessage = ({ data }) => {
      if (data.type === "loaded") rounds.push(data.round);
      if (["logits", "error"].includes(data.type)) resolve(data);
    };
    worker.postMessage({ ...message, id });
  });
  const answers = [], rounds = [];
  for (const prompt of prompts) {
    const question = { type: "logits", round: null, url: new URL(url, location).href, prompt };
    answers.push((await ask(question)).logits);
  }
  worker.terminate();
  return [rounds, answers];
}"""


def model_of(hive, number, folder):
    """The network after a round, and its vocabulary, as the coordinator gives it away."""
    path = folder / f"after-{number}.safetensors"
    path.write_bytes(hive.ask(f"/model.safetensors?round={number}")[2])
    return load(str(path))


def test_the_browsers_logits_are_those_of_pytorch(busy, visit, tmp_path, text_file):
    visitor = visit(busy.page)
    number = busy.state()["version"]
    model, vocabulary = model_of(busy, number, tmp_path)
    text = text_file.read_text()
    prompts = [text[:1], text[:50], text[: model.config.block_size]]
    rounds, answers = visitor.ask(LOGITS, [f"model.safetensors?round={number}", prompts])
    assert rounds == [number] * len(prompts)
    for prompt, logits in zip(prompts, answers):
        with torch.inference_mode():
            expected = model(vocabulary.encode(prompt)[None])[0, -1]
        assert expected.abs().max() > 0.01  # it has learned something to be compared
        torch.testing.assert_close(torch.tensor(logits), expected, rtol=0, atol=1e-3)


def talk(visitor, prompt, length):
    chat = visitor.page.locator("#chat")
    chat.locator("textarea").fill(prompt)
    chat.get_by_label("Characters").fill(str(length))
    chat.get_by_role("button", name="Send").click()
    visitor.until("page.chat.loaded && page.chat.doing === ''")


def test_one_can_talk_to_it_in_the_browser(busy, visit):
    visitor = visit(busy.page)
    asked = [url for url in visitor.requests if "model.safetensors" in url]
    assert asked == []  # nothing is downloaded before somebody wants to talk
    talk(visitor, "abc", 60)
    prompt, answer = visitor.ask("[document.querySelector('#chat b').textContent,"
                                 " document.querySelector('#chat .chat-text span').textContent]")
    assert prompt == "abc" and len(answer) == 60


def test_one_can_talk_to_the_model_as_it_was(busy, visit):
    visitor = visit(busy.page)
    chat = visitor.page.locator("#chat")
    chat.get_by_label("Version to talk to").fill("1")
    chat.locator("textarea").fill("abc")
    chat.get_by_label("Characters").fill("20")
    chat.get_by_role("button", name="Send").click()
    visitor.until("page.chat.loaded?.round === 1 && page.chat.doing === ''")
    assert any(url.endswith("model.safetensors?round=1") for url in visitor.requests)
    assert "after round 1" in chat.locator(".chat-turn").inner_text()


# --------------------------------------------------------------------------------------------------
# Looking inside
# --------------------------------------------------------------------------------------------------

MOMENT = """({
  context: page.inside.heads.text.join(""),
  attention: page.inside.heads.attention.map((heads) => heads.map((row) => [...row])),
  rows: [...document.querySelectorAll("#inside .chances tbody tr")].map((row) => [
    row.cells[0].ariaLabel, ...[...row.cells].slice(1).map((cell) => cell.innerText)]),
})"""
CHANCES = """[page.surprise.now, page.surprise.then].map(({ round, bits, marked }) => ({
  round, bits, chances: marked.marks.map(({ before }) => before) }))"""


def name_of(character):
    return {"\n": "a line end", " ": "a space"}.get(character, f"\N{LEFT DOUBLE QUOTATION MARK}"
                                                    f"{character}\N{RIGHT DOUBLE QUOTATION MARK}")


def percent(text):
    return float(text.lstrip("<").rstrip("%"))


def inside(visitor):
    return visitor.page.locator("#inside")


def measure(visitor, text, then):
    panel = visitor.page.locator("#surprise")
    panel.locator("textarea").fill(text)
    panel.get_by_label("Then: an earlier version").fill(str(then))
    panel.get_by_role("button", name="Measure").click()
    visitor.until("page.surprise.now.bits + page.surprise.then.bits > 0")


def test_the_moment_before_a_character_is_that_of_pytorch(busy, visit, tmp_path):
    visitor = visit(busy.page)
    chat = visitor.page.locator("#chat")
    chat.get_by_label("Top-k").fill("7")
    talk(visitor, "Abc", 150)  # past the context
    for place in (0, 40, 149):
        chat.locator(".marked [data-shade]").nth(place).click()
        visitor.until(f"page.inside.status.textContent.startsWith('Likeliest') && "
                      f"page.inside.heads.text.length === page.chat.transcript.written.marks"
                      f"[{place}].seen")
        number = visitor.ask("page.chat.loaded.round")
        written = "Abc" + visitor.ask("page.chat.transcript.written.marks.map(m => m.character)"
                                      ".join('')")
        moment, (model, vocabulary) = visitor.ask(MOMENT), model_of(busy, number, tmp_path)
        context = written[: 3 + place][-len(moment["context"]):]
        assert moment["context"] == context
        ids = vocabulary.encode(context)[None]
        with torch.inference_mode():
            logits = model(ids)[0, -1]
        kept = logits.masked_fill(logits < logits.topk(7).values[-1], -math.inf)
        before, after = logits.softmax(0), (kept / 0.8).softmax(0)
        assert len(moment["rows"]) == 8
        for (name, *found), number in zip(moment["rows"], before.topk(8).indices.tolist()):
            assert name.split(", which came")[0] == name_of(vocabulary.characters[number])
            assert [percent(text) for text in found] == pytest.approx(
                [100 * before[number].item(), 100 * after[number].item()], abs=0.1)
        expected = torch.stack(attention_of(model, ids))[:, 0, :, -1]
        assert expected.shape[:2] == (model.config.n_layer, model.config.n_head)
        torch.testing.assert_close(torch.tensor(moment["attention"]).float(), expected, rtol=0,
                                   atol=1e-3)


def test_the_surprise_at_a_text_is_that_of_pytorch_then_and_now(busy, visit, tmp_path, text_file):
    busy.reaches(4)
    visitor, text = visit(busy.page), text_file.read_text()[:100]
    measure(visitor, text, 1)
    found = visitor.ask(CHANCES)
    assert found[0]["round"] >= 4 and found[1]["round"] == 1
    for reading in found:
        model, vocabulary = model_of(busy, reading["round"], tmp_path)
        ids = vocabulary.encode("\n" + text)
        with torch.inference_mode():
            chances = model(ids[None, :-1])[0].softmax(1).gather(1, ids[1:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(reading["chances"]), chances, rtol=0, atol=1e-3)
        bits = -chances.log2().mean().item()
        assert reading["bits"] == pytest.approx(bits, abs=1e-3)
        named = f"after round {reading['round']:,}:"
        version = visitor.page.locator("#surprise h3", has_text=named)
        assert f"{bits:.2f} bits per character" in version.inner_text()
    assert found[0]["bits"] < found[1]["bits"]  # one sees it learn


def test_another_round_is_shown_when_the_slider_moves(busy, visit):
    visitor = visit(busy.page)
    measure(visitor, "abc def", 0)
    assert "before training" in visitor.text("#surprise article:last-of-type h3")
    visitor.page.locator("#surprise").get_by_label("Then: an earlier version").press("ArrowRight")
    visitor.page.locator("#surprise article h3", has_text="Then, after round 1: ").wait_for()
    assert visitor.page.locator("#surprise .progress li").count() == 3
    visitor.shows("#surprise", "Every round can be shown")


def test_nothing_that_is_typed_leaves_the_browser(busy, visit):
    visitor = visit(busy.page)
    before = len(visitor.requests)
    measure(visitor, "abcdefghijk", 1)
    visitor.page.locator("#surprise .marked [data-shade]").first.click()
    inside(visitor).locator(".chances").wait_for()
    asked = [url for url in visitor.requests[before:] if "/api/" not in url]
    assert {url.split("?")[0] for url in asked} == {f"{visitor.origin}/model.safetensors"} | {
        url for url in asked if url.endswith(".js")}
    assert not any("abc" in url for url in visitor.requests)


def test_a_character_says_how_likely_it_was_to_mouse_and_keyboard(busy, visit):
    visitor = visit(busy.page)
    talk(visitor, "abc", 30)
    characters = visitor.page.locator("#chat .marked [data-shade]")
    characters.nth(5).hover()
    tip = visitor.page.locator(".tip")
    assert "likely" in tip.inner_text() and "drawn at" in tip.inner_text()
    chance = visitor.ask("page.chat.transcript.written.marks[1].before")
    visitor.page.locator("#chat .chat-log").focus()
    visitor.page.keyboard.press("Tab")
    visitor.page.keyboard.press("ArrowRight")
    label = visitor.ask("document.activeElement.ariaLabel")
    assert percent(label.split(" likely")[0].split(", ")[-1]) == pytest.approx(
        100 * chance, abs=0.1)
    assert characters.and_(visitor.page.get_by_role("button")).count() == 1  # Tab leaves the text
    visitor.page.keyboard.press("Enter")
    inside(visitor).locator(".chances").wait_for()
    written = visitor.ask("page.chat.transcript.written.marks[1].character")
    assert f"Before {name_of(written)}" == inside(visitor).locator(".inside-title").inner_text()


def test_heads_can_be_visited_by_keyboard_and_mouse(busy, visit):
    visitor = visit(busy.page)
    talk(visitor, "abc", 30)
    visitor.page.locator("#chat .marked [data-shade]").nth(20).click()
    cells = inside(visitor).get_by_role("gridcell")
    cells.first.wait_for()
    layers, heads = 5, 4
    assert cells.count() == layers * heads
    cells.first.focus()
    for key in ("ArrowDown", "End"):
        visitor.page.keyboard.press(key)
    assert visitor.ask("document.activeElement.ariaLabel").startswith(f"Layer 2, head {heads}: ")
    name = inside(visitor).locator(".heads-name")
    assert name.inner_text() == visitor.ask("document.activeElement.ariaLabel")
    cells.last.hover()
    assert name.inner_text().startswith(f"Layer {layers}, head {heads}: ")
    visitor.page.mouse.move(0, 0)
    assert name.inner_text().startswith(f"Layer 2, head {heads}: ")  # what was chosen


def test_its_writing_can_be_followed_until_the_panel_is_closed(busy, visit):
    visitor = visit(busy.page)
    inside(visitor).get_by_role("button", name="Follow its writing").click()
    chat = visitor.page.locator("#chat")
    chat.get_by_label("Characters").fill("100000")
    chat.get_by_role("button", name="Send").click()
    visitor.until("page.inside.heads.text.length > 20")
    text = visitor.ask("page.inside.heads.text.join('')")
    visitor.until(f"page.inside.heads.text.join('') !== {json.dumps(text)}")
    assert text in "\n" + visitor.ask("page.chat.transcript.text")
    inside(visitor).get_by_role("button", name="Close").click()
    assert not inside(visitor).locator(".chances").is_visible()
    length = visitor.ask("page.chat.transcript.text.length")
    visitor.until(f"page.chat.transcript.text.length > {length} + 20")  # and it writes on
    assert not inside(visitor).locator(".chances").is_visible()
    chat.get_by_role("button", name="Stop").click()


# --------------------------------------------------------------------------------------------------
# For everybody
# --------------------------------------------------------------------------------------------------

def look_inside(visitor):
    """Have everything on the page that looks into the network."""
    talk(visitor, "abc", 40)
    measure(visitor, "Abc def\nghi zzz", 1)
    visitor.page.locator("#chat .marked [data-shade]").nth(20).click()
    inside(visitor).locator(".chances").wait_for()


@pytest.mark.parametrize("width", [360, 768, 1280, 2560])
def test_nothing_overflows(busy, visit, width):
    visitor = visit(busy.page, viewport={"width": width, "height": 800})
    visitor.until("page.chart.points > 0 && page.state.peers.size >= 2")
    look_inside(visitor)
    assert visitor.ask("document.documentElement.scrollWidth <= innerWidth")
    outside = visitor.ask("""() => [...document.querySelectorAll("body *")]
        .filter((node) => !node.closest(".scroll, .skip, .hidden-visually, [hidden]"))
        .filter((node) => node.getBoundingClientRect().right > innerWidth + 1)
        .map((node) => node.outerHTML.slice(0, 80))""")
    assert outside == []


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [360, 1400])
def test_axe_finds_nothing(busy, visit, scheme, width):
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        missing("the package axe-playwright-python: pip install -r requirements-dev.txt")
    visitor = visit(busy.page, viewport={"width": width, "height": 900}, color_scheme=scheme)
    visitor.until("page.chart.points > 0 && page.state.peers.size >= 2")
    visitor.page.locator("#sample").wait_for()
    look_inside(visitor)
    violations = Axe().run(visitor.page).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in violations] == []


def test_the_command_to_join_can_be_copied(busy, visit):
    visitor = visit(busy.page, permissions=["clipboard-read", "clipboard-write"])
    visitor.page.locator("button[data-copy=command]").click()
    visitor.page.locator("button[data-copy=command]", has_text="Copied").wait_for()
    assert visitor.ask("navigator.clipboard.readText()") == " ".join(busy.join)


# --------------------------------------------------------------------------------------------------
# A run on one machine
# --------------------------------------------------------------------------------------------------

def test_a_run_on_one_machine_has_the_same_page(here, visit, text_file):
    port, = free_ports(1)
    program = Program(here.folder, "alone", PROGRAM, "--data", text_file, "--size", "1m",
                      "--batch-size", "2", "--steps", 10**6, "--eval-every", "10", "--log-every",
                      "2", "--device", "cpu", "--name", "alone", "--dashboard", port)
    here.programs.append(program)
    program.hears("dashboard http://localhost")
    visitor = visit(port)
    visitor.until("page.chart.points > 3 && page.state.peers.size === 1")
    visitor.page.locator("#sample").wait_for()
    assert not visitor.page.locator("#join").is_visible()
    assert not visitor.page.get_by_role("button", name="Train in this tab").is_visible()
    assert "Step" in visitor.text("#figures") and "Speed-up" not in visitor.text("#figures")
    talk(visitor, "abc", 20)
    visitor.page.locator("#chat .marked [data-shade]").nth(10).click()
    inside(visitor).locator(".chances").wait_for()
    assert "Steps that can be shown: 0, " in visitor.text("#surprise")
    measure(visitor, "abc", 0)
    visitor.close()
    if sys.platform != "win32":
        program.process.send_signal(signal.SIGINT)
        assert program.end() == 130 and "saved" in program.said()


# --------------------------------------------------------------------------------------------------
# A tab that trains
# --------------------------------------------------------------------------------------------------

def join(visitor, name, workers=None, key=""):
    """As a visitor does."""
    visitor.page.get_by_label("Name, shown to all").fill(name)
    if workers:
        visitor.page.get_by_label("Workers").fill(str(workers))
    if key:
        visitor.page.get_by_label("Key of the hive").fill(key)
    visitor.page.get_by_role("button", name="Train in this tab").click()


def bar(visitor, button):
    """The button that is always to be seen while a tab trains."""
    return visitor.page.locator("#tab-bar").get_by_role("button", name=button)


def counts(hive, *names):
    for name in names:
        hive.until(lambda name=name: (hive.member(name) or {"counted": 0})["counted"] >= 3,
                   f"{name}'s updates never counted")


def verify(here):
    checked = Program(here.folder, "verify", PROGRAM.parent / "hive" / "server.py", "--verify",
                      "--name", "hive")
    here.programs.append(checked)
    assert checked.end() == 0, checked.said()


THREE_CORES = "Object.defineProperty(navigator, 'hardwareConcurrency', { get: () => 3 })"


@pytest.fixture(scope="module")
def trained(shared):
    """A hive with a PyTorch peer, for tabs."""
    hive = shared.coordinator(*FOR_EVER, run="tabs")
    shared.peer(hive, "ada", yields=True)
    return hive


@pytest.mark.parametrize("sync, workers", [("diloco", 1), ("streaming", 2)])
def test_a_tab_trains_beside_a_pytorch_peer(here, visit, sync, workers):
    hive = here.coordinator(*FOR_EVER, "--sync", sync)
    here.peer(hive, "ada")
    visitor = visit(hive.page, script=THREE_CORES)
    visitor.shows("#tab", "2 of 3 cores")
    join(visitor, "tab", workers)
    counts(hive, "tab", "ada")
    assert [hive.member(name)["kind"] for name in ("tab", "ada")] == ["tab", "cpu"]
    assert f"{workers} worker" in hive.member("tab")["device"]
    bar(visitor, "Stop").click()
    hive.left("tab")
    visitor.page.locator("#tab [role=status]", has_text="Stopped.").wait_for()
    visitor.page.close()
    hive.interrupt()
    verify(here)


def test_nothing_of_training_is_fetched_before_the_click(trained, visit):
    visitor = visit(trained.page)
    visitor.page.locator("#tab", has_text="It will use 1 of 2 cores and about").wait_for()
    asked = " ".join(visitor.requests)
    assert "kernels.wasm" not in asked and "/hive" not in asked.replace("/hive.js", "")


def test_a_visitor_sees_what_the_tab_contributes_and_pauses_it(trained, visit):
    visitor = visit(trained.page)
    join(visitor, "sight")
    counts(trained, "sight")
    visitor.page.locator("#tab dl", has_text="Updates counted").wait_for()
    visitor.until("page.tab.peer?.counted >= 3")
    visitor.shows("#tab-bar", "updates counted")
    visitor.shows("#tab", "Joined as sight.")
    visitor.row("sight").filter(has_text="this tab").wait_for()
    visitor.until("page.network.scene.own === page.tab.trainer.figures.peer")
    bar(visitor, "Pause").click()
    trained.left("sight")  # nobody has to wait for it
    visitor.shows("#tab-bar", "paused")
    before = visitor.ask("page.tab.peer.counted")
    bar(visitor, "Go on").click()
    visitor.until(f"page.tab.peer.counted > {before}")
    assert visitor.ask("page.tab.peer.name") == "sight"
    bar(visitor, "Stop").click()
    visitor.page.get_by_role("button", name="Train in this tab").wait_for()
    visitor.page.locator("#tab-bar").wait_for(state="hidden")


BATTERY = """navigator.getBattery = async () => window.battery ??= Object.assign(
  new EventTarget(), { charging: false })"""


def test_on_battery_it_waits_for_power_unless_allowed(trained, visit):
    visitor = visit(trained.page, script=BATTERY)
    join(visitor, "laptop")
    visitor.shows("#tab-bar", "paused")
    visitor.shows("#tab", "runs on its battery")
    visitor.ask("() => { battery.charging = true; battery.dispatchEvent(new Event("
                "'chargingchange')); }")
    trained.joined("laptop")
    bar(visitor, "Stop").click()
    visitor.page.get_by_label("Train on battery").check()
    visitor.ask("battery.charging = false")
    join(visitor, "laptop")
    trained.joined("laptop")
    bar(visitor, "Stop").click()
    trained.left("laptop")


def test_a_hidden_tab_is_held_and_the_screen_kept_on_only_when_asked(trained, visit):
    visitor = visit(trained.page, script="""{
        const { wakeLock } = navigator, request = wakeLock.request.bind(wakeLock);
        wakeLock.request = (kind) => { window.asked = kind; return request(kind); };
    }""")
    held = "navigator.locks.query().then(({ held }) => held.map(({ name }) => name))"
    assert visitor.ask(held) == []
    join(visitor, "awake")
    trained.joined("awake")
    assert visitor.ask(held) == ["gltch-hive trains"]
    assert visitor.ask("window.asked ?? null") is None
    bar(visitor, "Stop").click()
    visitor.until("page.tab.trainer.mode === 'idle'")
    visitor.until(f"{held}.then((names) => names.length === 0)")
    visitor.page.get_by_label("Keep the screen on").check()
    join(visitor, "awake")
    visitor.until("window.asked === 'screen'")


@pytest.mark.parametrize("script, sentence", [
    ("WebAssembly.validate = () => false", "This browser cannot train: it has no WebAssembly"),
    ("Object.defineProperty(navigator, 'deviceMemory', { get: () => 0.125 })",
     "of memory, and this device has 125 MB")])
def test_a_browser_that_cannot_train_says_why_and_has_no_button(trained, visit, script, sentence):
    visitor = visit(trained.page, script=script)
    visitor.page.locator("#tab", has_text=sentence).wait_for()
    assert not visitor.page.get_by_role("button", name="Train in this tab").is_visible()


def test_a_hive_without_browsers_offers_none(here, visit):
    hive = here.coordinator("--no-browsers")
    visitor = visit(hive.page)
    visitor.page.locator("#command").wait_for()
    assert not visitor.page.locator("#tab").is_visible()


def test_the_key_of_a_hive_comes_typed_or_behind_the_address_but_in_no_request(here, visit):
    hive = here.coordinator(*FOR_EVER, "--host", "0.0.0.0")
    visitor = visit(hive.page)
    join(visitor, "guesser", key="another")
    visitor.page.locator("#tab .tab-failed", has_text="key").wait_for()
    join(visitor, "typed", key=hive.key)
    hive.joined("typed")
    linked = visit(hive.page, address=f"/#key={hive.key}")
    join(linked, "linked")
    hive.joined("linked")
    assert not [url for one in (visitor, linked) for url in one.requests
                if hive.key in url.partition("#")[0]]


@pytest.mark.parametrize("scheme, width", [("dark", 360), ("light", 1400)])
def test_the_page_stays_usable_while_its_tab_trains(trained, visit, scheme, width):
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        missing("the package axe-playwright-python: pip install -r requirements-dev.txt")
    visitor = visit(trained.page, viewport={"width": width, "height": 900}, color_scheme=scheme)
    for training in (False, True):
        if training:
            join(visitor, "seen")
            visitor.until("page.tab.peer?.counted > 0")
        violations = Axe().run(visitor.page).response["violations"]
        assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in violations
                if v["impact"] in ("serious", "critical")] == []
        assert visitor.ask("document.documentElement.scrollWidth <= innerWidth")
    box = bar(visitor, "Stop").bounding_box()
    assert 0 <= box["y"] and box["y"] + box["height"] <= 900  # in sight, though nobody scrolled


# --- Coming back

def test_a_page_that_is_reloaded_in_mid_upload_sends_the_rest_of_the_same_update(here, chromium):
    hive = here.coordinator("--rounds", 1, "--codec", "fp32")
    slow = (PROGRAM.parent / "hive/page/peer/uplink.js").read_text(encoding="utf-8").replace(
        "AT_ONCE = 512 * 1024", "AT_ONCE = 1").replace("AGAIN = 50", "AGAIN = 1000")
    visitor = Visitor(chromium, hive.page).open()  # in the end its coordinator is gone
    with contextlib.closing(visitor):
        visitor.context.route("**/uplink.js", lambda route: route.fulfill(
            body=slow, content_type="text/javascript"))
        join(visitor, "tab")
        half, size = "page.tab.trainer.figures?.up", 4 * hive.state()["parameters"]
        visitor.until(f"{half} > {size // 2}")
        peer = hive.member("tab")["peer"]
        visitor.context.unroute("**/uplink.js")
        visitor.page.reload()
        hive.left("tab")
        visitor.page.locator("#tab", has_text="This tab trained as tab before.").wait_for()
        visitor.page.get_by_role("button", name="Train in this tab").click()
        visitor.page.locator("#tab", has_text="The run is over: all 1 rounds are done").wait_for()
        assert visitor.ask("page.tab.trainer.figures.peer") == peer
        assert visitor.ask("page.tab.trainer.figures.up") < size / 2
    assert hive.end() == 0
    assert hive.contributions(1) == [("tab", "counted", 256, "")]


KEPT = """(damage) => new Promise((resolve) => {
    indexedDB.open("gltch-hive").onsuccess = ({ target: { result: database } }) => {
        const store = database.transaction("chunks", "readwrite").objectStore("chunks");
        store.getAll().onsuccess = ({ target: { result: chunks } }) => {
            if (damage) {
                chunks[0].content[0] ^= 1;
                store.put(chunks[0]);
            }
            store.transaction.oncomplete = () => {
                database.close();
                resolve(chunks.reduce((sum, { content }) => sum + content.length, 0));
            };
        };
    };
})"""


@pytest.mark.parametrize("damage, name", [(False, "tab"), (False, "another"), (True, "tab")])
def test_a_page_that_is_reloaded_in_mid_download_fetches_the_rest(
        here, chromium, damage, name):
    hive = here.coordinator("--rounds", 1)
    size = 4 * hive.state()["parameters"]
    stops = (PROGRAM.parent / "hive/page/peer/peer.js").read_text(encoding="utf-8").replace(
        "this.bytes.down += mail.chunk.length;",
        f"if (this.bytes.down > {size // 2}) return []; this.bytes.down += mail.chunk.length;")
    visitor = Visitor(chromium, hive.page).open()  # in the end its coordinator is gone
    with contextlib.closing(visitor):
        visitor.context.route("**/peer.js", lambda route: route.fulfill(
            body=stops, content_type="text/javascript"))
        join(visitor, "tab")
        visitor.until(f"page.tab.trainer.figures?.down > {size // 2}")
        poll(lambda: visitor.ask(KEPT, False) > size / 2, "too little is kept of the weights")
        peer = hive.member("tab")["peer"]
        kept = visitor.ask(KEPT, damage)
        visitor.context.unroute("**/peer.js")
        visitor.page.reload()
        hive.left("tab")
        join(visitor, name)
        visitor.page.locator("#tab", has_text="The run is over: all 1 rounds are done").wait_for()
        assert (visitor.ask("page.tab.trainer.figures.peer") == peer) == (name == "tab")
        down = visitor.ask("page.tab.trainer.figures.down")
        assert (size < down if damage else down < size) and kept < size
        assert visitor.ask(KEPT, False) == 0
    assert hive.end() == 0
    assert hive.contributions(1) == [(name, "counted", 256, "")]


def test_two_tabs_of_one_browser_are_two_peers_also_after_a_reload(trained, visit):
    one = visit(trained.page)
    other = visit(trained.page, beside=one)
    names = ["twin", "twin-2"]
    for visitor, name in zip((one, other), names):
        join(visitor, "twin")
        trained.joined(name)
    counts(trained, *names)
    peers = [trained.member(name)["peer"] for name in names]
    for visitor, name in zip((one, other), names):
        visitor.page.reload()
        trained.left(name)
    for visitor in (other, one):
        visitor.page.get_by_role("button", name="Train in this tab").click()
    for name, peer in zip(names, peers):
        assert trained.joined(name)["peer"] == peer


def test_a_tab_that_is_closed_in_mid_round_loses_only_its_steps_of_that_round(here, chromium):
    hive = here.coordinator(*FOR_EVER, "--inner-steps", 40)
    visitor = Visitor(chromium, hive.page).open()
    with contextlib.closing(visitor):
        join(visitor, "tab")
        hive.until(lambda: (hive.member("tab") or {"counted": 0})["counted"], "no update counted")
        peer, counted = hive.member("tab")["peer"], hive.member("tab")["counted"]
        step = hive.state()["step"]
        visitor.until(f"page.tab.trainer.figures.step > {step + 5}")
        visitor.page.close()
        hive.left("tab")
        again = Visitor(chromium, hive.page, beside=visitor).open()
        join(again, "tab")
        assert hive.joined("tab")["peer"] == peer
        hive.until(lambda: hive.member("tab")["counted"] > counted, "it does not go on")
        for number in range(hive.state()["version"]):  # of at most 40 steps each, and no more
            (name, verdict, tokens, reason), = hive.contributions(1 + number)
            assert (name, verdict, reason) == ("tab", "counted", "")
            assert 0 < tokens <= 40 * 256 and tokens % 256 == 0


@pytest.mark.skipif(os.name != "posix", reason="processes cannot be stopped there")
def test_a_tab_that_slept_while_rounds_went_by_goes_on(trained, visit, chromium):
    visitor = visit(trained.page)
    join(visitor, "sleeper")
    counts(trained, "sleeper")
    peer = trained.member("sleeper")["peer"]
    browser = chromium.new_browser_cdp_session()
    asleep = [one["id"] for one in browser.send("SystemInfo.getProcessInfo")["processInfo"]
              if one["type"] == "renderer"]
    try:
        for process in asleep:
            os.kill(process, signal.SIGSTOP)
        before = trained.member("sleeper")["counted"]
        trained.reaches(trained.state()["version"] + 3)
        assert trained.member("sleeper")["counted"] <= before + 1
    finally:
        for process in asleep:
            os.kill(process, signal.SIGCONT)
    trained.until(lambda: (trained.member("sleeper") or {"counted": 0})["counted"] > before + 2,
                  "it does not go on")
    assert trained.member("sleeper")["peer"] == peer


def test_a_tab_comes_back_to_a_coordinator_that_was_killed(here, chromium):
    ports = free_ports(2)
    options = ("--port", ports[0], "--dashboard-port", ports[1], *FOR_EVER)
    hive = here.coordinator(*options)
    visitor = Visitor(chromium, hive.page).open()  # it may complain of the lost connection
    with contextlib.closing(visitor):
        join(visitor, "tab")
        counts(hive, "tab")
        peer = hive.member("tab")["peer"]
        hive.kill()
        visitor.page.locator("#tab .tab-failed", has_text="no connection to the hive").wait_for()
        hive = here.coordinator(*options)
        assert hive.joined("tab")["peer"] == peer
        before = hive.member("tab")["counted"]
        hive.until(lambda: hive.member("tab")["counted"] > before + 2, "it does not go on")
        bar(visitor, "Stop").click()
        hive.left("tab")
    hive.interrupt()
    verify(here)
