// The dashboard: follows the coordinator's events and shows what they say. Nothing on this page is
// invented; what has not been measured is a dash. docs/api.md describes what arrives.

import { LossChart } from "./page/loss/chart.js";
import { Chat } from "./page/chat/chat.js";
import { make, setText } from "./page/dom.js";
import {
  bits, bytes, count, duration, metric, milliseconds, moment, nats, percent,
} from "./page/format.js";
import { Network } from "./page/network/network.js";

const element = (id) => document.getElementById(id);

/** The JSON at an address; null while the coordinator is away, which the connection line tells. */
async function ask(address) {
  try {
    const reply = await fetch(address, { cache: "no-store" });
    return reply.ok ? await reply.json() : null;
  } catch (error) {
    if (error instanceof TypeError) return null; // no connection
    throw error;
  }
}

// ------------------------------------------------------------------------------------------------
// State: what the coordinator said, kept up to date with its events
// ------------------------------------------------------------------------------------------------

/** The fields of /api/state, but `peers` is a Map. `roundAt`: when `round` was heard, here. */
class State {
  peers = new Map();

  apply(event) {
    const { seq, at, type, ...fields } = event;
    this.seq = seq;
    this[`on_${type}`]?.(fields);
  }

  on_state(fields) {
    Object.assign(this, fields, { peers: byId(fields.peers), roundAt: performance.now() });
  }

  on_joined({ peer }) {
    this.peers.set(peer.peer, peer);
  }

  on_left({ peer }) {
    this.peers.delete(peer);
  }

  on_peer({ peer, ...fields }) {
    Object.assign(this.peers.get(peer) ?? {}, fields);
  }

  on_opened({ quota, seconds }) {
    this.round = { quota, seconds, left: seconds };
    this.roundAt = performance.now();
    this.phase = "training";
  }

  on_closed() {
    this.phase = "committing";
  }

  on_committed({ version, step, total, loss, snapshots = this.snapshots }) {
    Object.assign(this, { version, step, total, loss, snapshots, round: null, phase: "waiting" });
  }

  on_refused({ peer, verdict, reason }) {
    const refused = this.peers.get(peer);
    if (!refused) return;
    refused[verdict] += 1;
    refused.reason = reason;
  }

  on_evaluated({ version, val_loss, best_val_loss, snapshots = this.snapshots }) {
    Object.assign(this, { evaluated: version, val_loss, best_val_loss, snapshots });
  }

  on_measured({ peers, ...fields }) {
    Object.assign(this, fields, { roundAt: performance.now() });
    for (const [id, values] of Object.entries(peers)) {
      const peer = this.peers.get(id);
      if (!peer) continue;
      [peer.speed, peer.bytes_up, peer.bytes_down, peer.latency, peer.tokens, peer.counted,
        peer.late, peer.rejected] = values;
    }
    for (const peer of this.peers.values()) peer.share = peer.tokens / (this.tokens || 1);
  }

  on_finished({ reason }) {
    Object.assign(this, { finished: reason, phase: "finished", round: null });
  }

  /** Seconds until training of this round ends. */
  get left() {
    return this.round && Math.max(0, this.round.left - (performance.now() - this.roundAt) / 1000);
  }
}

function byId(peers) {
  return new Map(peers.map((peer) => [peer.peer, peer]));
}

// ------------------------------------------------------------------------------------------------
// Connection: the live events, with reconnecting
// ------------------------------------------------------------------------------------------------

const FIRST_WAIT = 500, LONGEST_WAIT = 15000, SILENCE = 10000; // milliseconds

/** Calls `hear(events)` with every message; after a break it goes on where it stopped. */
class Connection {
  constructor(state, hear) {
    Object.assign(this, { state, hear, wait: FIRST_WAIT, heardAt: null, retryAt: null });
    addEventListener("online", () => this.retry());
    addEventListener("pagehide", () => this.socket?.close());
    this.open();
  }

  open() {
    const { session = "", seq = 0 } = this.state;
    const address = new URL(`api/events?session=${session}&since=${seq}`, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.retryAt = null;
    this.socket = new WebSocket(address);
    this.openedAt = performance.now();
    this.socket.onmessage = (message) => {
      this.heardAt = performance.now();
      this.wait = FIRST_WAIT;
      this.hear(JSON.parse(message.data));
    };
    this.socket.onclose = () => this.retryLater();
  }

  /** A connection on which nothing comes any more may take a minute to close: do not wait. */
  abandon() {
    this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    this.retryLater();
  }

  retryLater() {
    const wait = this.wait * (0.5 + Math.random()); // so that not all pages come back at once
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
    this.retryAt = performance.now() + wait;
    this.timer = setTimeout(() => this.open(), wait);
  }

  retry() {
    if (this.retryAt === null) return;
    clearTimeout(this.timer);
    this.open();
  }

  /** A coordinator says something every second: long silence is a dead connection. */
  check() {
    const since = Math.max(this.heardAt ?? 0, this.openedAt);
    if (this.retryAt === null && performance.now() - since > SILENCE) this.abandon();
  }

  get isLive() {
    return this.socket.readyState === WebSocket.OPEN;
  }
}

class ConnectionLine {
  constructor(node, connection) {
    Object.assign(this, { node, connection });
  }

  update(state) {
    const { heardAt, retryAt, isLive } = this.connection;
    const now = performance.now();
    const ago = heardAt === null ? "" : `last update ${duration((now - heardAt) / 1000)} ago`;
    if (isLive && heardAt !== null) {
      this.show(state.finished ? "finished" : "live",
        state.finished ? `The run is over: ${state.finished}.` : `Live, ${ago}.`);
    } else if (state.finished) {
      this.show("finished", `The run is over: ${state.finished}. The coordinator has ended.`);
    } else if (retryAt === null) {
      this.show("connecting", ago ? `Connecting again, ${ago}…` : "Connecting…");
    } else {
      const next = `trying again in ${duration(Math.max(0, retryAt - now) / 1000)}`;
      this.show("gone", `The coordinator does not answer${ago && `, ${ago}`}; ${next}.`);
    }
  }

  show(state, text) {
    this.node.dataset.state = state;
    document.body.dataset.connection = state;
    setText(this.node, text);
  }
}

// ------------------------------------------------------------------------------------------------
// The run in numbers
// ------------------------------------------------------------------------------------------------

const PHASES = {
  waiting: "waiting for peers", training: "training", committing: "combining the updates",
  finished: "finished",
};

class Figures {
  constructor(list, bar) {
    Object.assign(this, { list, bar, shown: new Map() });
  }

  update(state) {
    const part = state.total ? Math.min(1, state.step / state.total) : null;
    this.bar.hidden = part === null;
    this.bar.setAttribute("aria-valuenow", Math.round(100 * (part ?? 0)));
    this.bar.firstElementChild.style.width = `${100 * (part ?? 0)}%`;
    for (const [name, value, note] of this.facts(state)) this.show(name, value, note);
  }

  /** [name, value, note] of each figure. */
  *facts(state) {
    const single = state.mode === "single";
    const inBits = (loss) => (loss == null ? "not yet" : `${bits(loss)} bits per character`);
    const measuredAt = state.val_loss == null ? ""
      : `, after ${state.unit} ${count(state.evaluated)}`;
    yield ["Training loss", `${nats(state.loss)} nats`, inBits(state.loss)];
    yield ["Validation loss", `${nats(state.val_loss)} nats`, inBits(state.val_loss) + measuredAt];
    if (!single) {
      const now = state.phase === "training" ? `, ${duration(state.left)} left` : "";
      yield ["Round", count(state.version + (state.finished ? 0 : 1)), PHASES[state.phase] + now];
    }
    yield ["Step", count(state.step), state.total ? `of ${count(state.total)}` : "no end set"];
    yield ["Speed", metric(state.speed), "characters/s"];
    yield ["Arithmetic", metric(state.flops, "FLOP/s"), "achieved"];
    if (!single) {
      const { fastest } = state;
      yield ["Speed-up", state.speedup == null ? "–" : `${state.speedup.toFixed(2)}×`,
        fastest ? `the fastest peer's, ${fastest.name}: ${metric(fastest.speed)}/s`
          : "nobody measured yet"];
    }
    yield ["Trained on", metric(state.tokens), "characters"];
    yield ["Training time", duration(state.seconds),
      state.remaining == null || state.finished ? "" : `about ${duration(state.remaining)} to go`];
    if (!single) {
      yield ["Received", bytes(state.bytes_up), "from peers, since the last start"];
      yield ["Sent", bytes(state.bytes_down), "to peers, since the last start"];
    }
  }

  show(name, value, note) {
    if (!this.shown.has(name)) {
      const [fact, about] = ["value", "note"].map((className) => make("span", { className }));
      this.list.append(make("div", {}, make("dt", {}, name), make("dd", {}, fact, about)));
      this.shown.set(name, [fact, about]);
    }
    const [fact, about] = this.shown.get(name);
    setText(fact, value);
    setText(about, note);
  }
}

// ------------------------------------------------------------------------------------------------
// Peers and contributors
// ------------------------------------------------------------------------------------------------

const working = ({ state, steps, quota }) =>
  (state === "training" && quota ? `training, ${steps} of ${quota}` : state);

// Title, what to sort by, what to show, class.
const COLUMNS = [
  ["Name", (peer) => peer.name.toLowerCase(), (peer) => peer.name, "name"],
  ["Device", (peer) => peer.device, (peer) => peer.device],
  ["State", (peer) => peer.state, working],
  ["Characters/s", (peer) => peer.speed, (peer) => count(peer.speed), "number"],
  ["Contribution", (peer) => peer.tokens, (peer) => percent(peer.share), "number"],
  ["Counted", (peer) => peer.counted, (peer) => count(peer.counted), "number"],
  ["Late", (peer) => peer.late, (peer) => count(peer.late), "number"],
  ["Rejected", (peer) => peer.rejected, (peer) => count(peer.rejected), "number"],
  ["Sent", (peer) => peer.bytes_up, (peer) => bytes(peer.bytes_up), "number"],
  ["Received", (peer) => peer.bytes_down, (peer) => bytes(peer.bytes_down), "number"],
  ["Ping", (peer) => peer.latency ?? Infinity, (peer) => milliseconds(peer.latency), "number"],
  ["Since", (peer) => peer.joined, (peer) => moment(peer.joined)],
];

class PeersTable {
  constructor(head, body, nobody) {
    Object.assign(this, { head, body, nobody, rows: new Map(), sorted: 4, descending: true });
    COLUMNS.forEach(([title, , , className = ""], column) => {
      const button = make("button", { type: "button", onclick: () => this.sortBy(column) }, title);
      head.append(make("th", { scope: "col", className }, button));
    });
    this.markSorted();
  }

  sortBy(column) {
    const numeric = COLUMNS[column][3] === "number"; // the largest number first, but A before B
    this.descending = column === this.sorted ? !this.descending : numeric;
    this.sorted = column;
    this.markSorted();
    this.update(this.state);
  }

  markSorted() {
    [...this.head.children].forEach((cell, column) => {
      if (column !== this.sorted) cell.removeAttribute("aria-sort");
      else cell.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
    });
  }

  update(state) {
    this.state = state;
    this.nobody.hidden = state.peers.size > 0;
    for (const [id, row] of this.rows) {
      if (state.peers.has(id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    const key = COLUMNS[this.sorted][1];
    const sign = this.descending ? -1 : 1;
    const peers = [...state.peers.values()].sort((a, b) =>
      sign * compare(key(a), key(b)) || compare(a.peer, b.peer));
    peers.forEach((peer, place) => {
      const row = this.row(peer);
      if (this.body.children[place] !== row) this.body.insertBefore(row, this.body.children[place]);
    });
  }

  row(peer) {
    if (!this.rows.has(peer.peer)) {
      const cells = COLUMNS.map(([, , , className = ""]) => make("td", { className }, make("div")));
      cells[0].append(make("div", { className: "reason" }));
      this.rows.set(peer.peer, make("tr", {}, ...cells));
    }
    const row = this.rows.get(peer.peer);
    COLUMNS.forEach(([, , show], column) =>
      setText(row.children[column].firstElementChild, show(peer)));
    const { reason } = peer;
    setText(row.firstElementChild.lastElementChild, reason && `latest refusal: ${reason}`);
    return row;
  }
}

function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

const MOST_SHOWN = 60;

/** Everybody who ever contributed, from the journal; asked again while the run goes on. */
class Contributors {
  constructor(list, others) {
    Object.assign(this, { list, others, askedAt: -Infinity });
  }

  async refresh() {
    if (performance.now() - this.askedAt < 5000) return;
    this.askedAt = performance.now();
    const answer = await ask("api/peers");
    if (answer) this.show(answer.contributors);
  }

  show(contributors) {
    this.list.replaceChildren(...contributors.slice(0, MOST_SHOWN).map((one) => this.item(one)));
    this.others.hidden = contributors.length <= MOST_SHOWN;
    setText(this.others, `and ${count(contributors.length - MOST_SHOWN)} more`);
  }

  item(one) {
    const filled = make("div");
    filled.style.width = `${100 * one.share}%`;
    const seen = one.connected ? "connected now" : `last seen ${moment(one.last_seen)}`;
    const refused = one.late + one.rejected ? `, ${one.late} late, ${one.rejected} rejected` : "";
    return make("li", { className: one.connected ? "connected" : "" },
      make("span", { className: "name" }, one.name),
      make("span", { className: "share" }, percent(one.share)),
      make("div", { className: "bar" }, filled),
      make("div", { className: "note" }, `${metric(one.tokens)} characters in `
        + `${count(one.counted)} updates${refused}; ${seen}`));
  }
}

// ------------------------------------------------------------------------------------------------
// What it writes
// ------------------------------------------------------------------------------------------------

const MOST_SAMPLES = 1000;

/** One sample, the newest unless somebody looks back, and the first for comparison. */
class Samples {
  constructor() {
    [this.text, this.about, this.first, this.firstAbout, this.older, this.newer] =
      ["sample", "sample-about", "first", "first-about", "older", "newer"].map(element);
    this.samples = []; // oldest first
    this.place = -1;
    this.outdated = true;
    this.older.onclick = () => this.show(this.place - 1);
    this.newer.onclick = () => this.show(this.place + 1);
  }

  /** Those from before this page was opened, or lost its connection: until they are here. */
  async load(state) {
    if (this.asking || !this.outdated) return;
    this.asking = true;
    const answer = await ask("api/samples?limit=100");
    this.asking = false;
    if (!answer) return;
    const { samples, first } = answer;
    samples.reverse();
    if (first && first.round < samples[0].round) samples.unshift(first);
    const newest = samples.at(-1)?.round ?? -1;
    const meanwhile = this.hive === state.hive ? this.samples : [];
    Object.assign(this, { unit: state.unit, hive: state.hive, outdated: false });
    this.samples = [...samples, ...meanwhile.filter(({ round }) => round > newest)];
    this.text.hidden = this.first.hidden = this.firstAbout.hidden = true;
    setText(this.about, "Nothing yet: the first sample comes with the first evaluation.");
    this.show(this.samples.length - 1);
  }

  add({ version, step, val_loss, text }) {
    if (this.samples.some(({ round }) => round === version)) return;
    const follows = this.place === this.samples.length - 1; // whoever looks back is left in peace
    this.samples.push({ round: version, step, val_loss, text });
    if (this.samples.length > MOST_SAMPLES) {
      this.samples.splice(1, 1); // the first one stays
      this.place = Math.max(0, this.place - 1);
    }
    this.show(follows ? this.samples.length - 1 : this.place);
  }

  show(place) {
    const sample = this.samples[place];
    if (!sample) return;
    this.place = place;
    this.fill(this.text, this.about, sample, `${place + 1} of ${this.samples.length}: `);
    this.fill(this.first, this.firstAbout, this.samples[0], "Its first attempt, ");
    this.first.hidden = this.firstAbout.hidden = place === 0;
    this.older.disabled = place === 0;
    this.newer.disabled = place === this.samples.length - 1;
  }

  fill(text, about, { round, val_loss, ...sample }, before) {
    text.hidden = false;
    setText(text, sample.text);
    setText(about, `${before}after ${this.unit} ${count(round)}, `
      + `validation loss ${nats(val_loss)}`);
  }
}

// ------------------------------------------------------------------------------------------------
// Join
// ------------------------------------------------------------------------------------------------

class Join {
  constructor() {
    for (const button of document.querySelectorAll("button[data-copy]")) {
      button.onclick = () => copy(element(button.dataset.copy).textContent, button);
    }
  }

  update(state) {
    if (!state.join) return;
    const { port, locked, colab } = state.join;
    this.locked = locked;
    const host = location.hostname;
    const server = location.protocol === "https:" ? `wss://${location.host}/hive`
      : `ws://${host.includes(":") ? `[${host}]` : host}:${port}`;
    const key = locked ? " --key-file hive.key" : "";
    this.command = `python hive/peer.py --server ${server} --name my-node${key}`;
    setText(element("command"), this.command);
    setText(element("server"), server);
    element("key-needed").hidden = !locked;
    if (colab) {
      element("notebook").href = colab;
      element("notebook").removeAttribute("download");
    }
    const away = !["localhost", "127.0.0.1", "[::1]"].includes(host);
    element("colab").hidden = !away && !colab;
    element("server").parentElement.hidden = element("colab").hidden;
  }
}

/** The clipboard needs HTTPS or localhost; elsewhere the text is selected, for Ctrl-C. */
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    setText(button, "Copied");
  } catch {
    const source = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(source);
    setText(button, "Press Ctrl-C");
  }
  setTimeout(() => setText(button, "Copy"), 2000);
}

/** What the network shows while nobody is there. */
function invitation(join) {
  const code = make("code");
  const button = make("button", { type: "button" }, "Copy");
  button.onclick = () => copy(code.textContent, button);
  const box = make("div", { className: "command" }, code, button);
  const key = make("p", { className: "quiet" },
    "The file hive.key holds the key of this hive: ask whoever runs it.");
  const whole = make("div", {}, box, key);
  return { box: whole, update: (state) => {
    setText(code, join.command ?? "");
    key.hidden = !join.locked;
    whole.hidden = Boolean(state.finished);
  } };
}

// ------------------------------------------------------------------------------------------------
// All together
// ------------------------------------------------------------------------------------------------

const LATE = 1; // seconds: what came during a break is not shown as if it happened now

class Page {
  constructor() {
    this.state = new State();
    this.join = new Join();
    this.invitation = invitation(this.join);
    this.network = new Network(element("network"));
    this.network.setEmpty(this.invitation.box);
    this.chart = new LossChart(element("chart"));
    this.chat = new Chat(element("chat"));
    this.figures = new Figures(element("figures"), element("progress"));
    this.table = new PeersTable(element("peers-head"), element("peers-body"), element("nobody"));
    this.contributors = new Contributors(element("contributors"), element("others"));
    this.samples = new Samples();
    this.connection = new Connection(this.state, (events) => this.hear(events));
    this.line = new ConnectionLine(element("connection"), this.connection);
    setInterval(() => this.tick(), 250);
  }

  hear(events) {
    const { at: now } = events.at(-1);
    for (const event of events) {
      this.state.apply(event);
      if (event.type === "state") {
        this.start();
        continue;
      }
      this.network.event(event, now - event.at > LATE);
      if (event.type === "committed" || event.type === "evaluated") this.chat.update(this.state);
      if (event.type === "evaluated") this.samples.add(event);
      if (event.type === "finished") this.invitation.update(this.state);
      this.chart.event(event);
    }
  }

  /** The whole state arrived: at the beginning, and after too long a break. */
  start() {
    const { state } = this;
    const single = state.mode === "single";
    const facts = [state.size, `${count(state.parameters)} parameters`, state.sync];
    document.body.dataset.mode = state.mode;
    setText(element("title"), single ? "GLTCH" : "GLTCH Hive");
    setText(element("network-title"), single ? "This machine" : "The hive");
    setText(element("about"), `${state.run}: ${facts.filter(Boolean).join(", ")}`);
    this.join.update(state);
    this.invitation.update(state);
    this.network.update(state);
    this.chart.update(state);
    this.chat.update(state);
    this.samples.outdated = true;
    this.tick();
  }

  /** What need not be shown more than a few times a second. */
  tick() {
    const { state } = this;
    this.connection.check();
    this.line.update(state);
    if (state.session === undefined || document.hidden) return;
    this.figures.update(state);
    if (this.connection.isLive) this.samples.load(state);
    if (state.mode === "single") return;
    this.table.update(state);
    if (this.connection.isLive) this.contributors.refresh();
  }
}

window.page = new Page(); // for whoever looks with the console, and for the tests
