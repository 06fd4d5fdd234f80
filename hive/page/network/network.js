// The network, alive: the coordinator in the middle, a node per peer around it, and a particle for
// every transfer, when the coordinator reports it. Nothing is drawn that was not measured.

import { make } from "../dom.js";
import { count } from "../format.js";
import { arrange, clamp, legible, settle } from "./layout.js";
import { FADE, FLIGHT, MARK, PULSE, Picture } from "./picture.js";
import { Readout } from "./readout.js";

const LARGE = 256 * 1024; // bytes: the protocol cuts larger contents into pieces of this size
const FOLLOW = 30; // milliseconds between particles on one line, else one would hide the other
const EDGE = 40; // pixels: nearer to the edge no node can be dragged
const MOMENTS = ["transfer", "refused", "committed"];
const LEGEND = {
  cuda: "CUDA GPU", mps: "Apple GPU", cpu: "CPU", joining: "joining", waiting: "waiting",
  training: "training", uploading: "uploading", delivered: "delivered", lagging: "lagging",
  up: "to the coordinator", down: "to a peer",
};

export class Network {
  constructor(section) {
    this.frames = 0; // these three are for whoever measures
    this.transfers = 0;
    this.frameMilliseconds = new Float32Array(600);

    this.peers = new Map(); // from a peer's identifier to its node, in the order they came
    this.nodes = []; // the same; this and what follows is the scene that the picture shows
    this.named = [];
    this.hub = { x: 0, y: 0, ax: 0, ay: 0, radius: 0 }; // pushed at, but never moves
    this.plan = null; // sizes and places, once there is a canvas to fill
    this.particles = [];
    this.gone = [];
    this.pulse = null;
    this.caption = ["", "", ""];
    this.committing = false;
    this.hovered = this.selected = null;

    this.drag = this.tapped = null;
    this.paused = false;
    this.onScreen = this.settled = true;
    this.request = this.last = 0;
    this.build(section);
    this.listen();
  }

  build(section) {
    this.canvas = make("canvas", { tabIndex: 0 });
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", "The network");
    this.picture = new Picture(this.canvas);
    this.readout = new Readout();
    this.button = make("button", { type: "button", className: "network-pause" }, "Pause");
    this.button.setAttribute("aria-label", "Pause the picture");
    this.button.setAttribute("aria-pressed", "false");
    this.stage = make("div", { className: "network-stage" },
      this.canvas, this.button, this.readout.element);
    this.why = make("p");
    this.empty = make("div", { className: "network-empty", hidden: true }, this.why);
    const legend = make("ul", { className: "network-legend" },
      ...Object.entries(LEGEND).map(([name, text]) =>
        make("li", { className: `is-${name}` }, text)));
    section.append(this.stage, this.empty, legend, this.readout.aloud);
  }

  /** What to show while nobody is there: how to join. */
  setEmpty(element) {
    this.empty.append(element);
  }

  listen() {
    for (const name of ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave",
      "touchstart", "keydown", "blur"]) {
      this.canvas.addEventListener(name, (event) => this[`on_${name}`](event), { passive: false });
    }
    this.button.addEventListener("click", () => this.pause(!this.paused));
    document.addEventListener("visibilitychange", () => this.skip());
    new IntersectionObserver((entries) => {
      this.onScreen = entries[entries.length - 1].isIntersecting;
      this.skip();
    }).observe(this.canvas);
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    this.watchDensity();
    const reduced = matchMedia("(prefers-reduced-motion: reduce)");
    this.calm = reduced.matches;
    reduced.addEventListener("change", () => {
      this.calm = reduced.matches;
      this.skip();
    });
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => {
      this.picture.readColours();
      this.wake();
    });
  }

  /** A window that is zoomed, or moves to another screen, has other pixels. */
  watchDensity() {
    matchMedia(`(resolution: ${devicePixelRatio}dppx)`).addEventListener("change", () => {
      this.resize();
      this.watchDensity();
    }, { once: true });
  }

  // What the coordinator says

  update(state) {
    this.state = state;
    for (const id of this.peers.keys()) if (!state.peers.has(id)) this.remove(id);
    for (const [id, peer] of state.peers) this.add(id, peer);
    this.rearrange();
    this.on_measured();
  }

  /** What comes too late, after a break, changes who is there, but nothing flies or shines. */
  event(event, late) {
    const hear = this[`on_${event.type}`];
    if (!hear || (late && MOMENTS.includes(event.type))) return;
    hear.call(this, event);
    if (!this.paused) this.wake();
  }

  on_joined({ peer }) {
    this.add(peer.peer, peer);
    this.rearrange();
  }

  on_left({ peer }) {
    this.remove(peer);
    this.rearrange();
  }

  on_peer({ peer }) {
    if (this.shown && this.shown.peer.peer === peer) this.readout.show(this.shown, this.state);
  }

  /** Only while it can be seen: nothing is replayed later. */
  on_transfer({ peer, direction, bytes: size }) {
    const node = this.peers.get(peer);
    if (!node || !this.isSeen) return;
    const now = performance.now();
    const start = clamp(node[direction] + FOLLOW, now, now + FLIGHT);
    node[direction] = start;
    this.transfers += 1;
    if (this.calm) return; // its line shines instead
    this.particles.push({ node, direction, start, size: Math.min(1, Math.sqrt(size / LARGE)) });
  }

  on_opened() {
    this.describe();
  }

  on_closed() {
    this.describe();
  }

  on_finished() {
    this.describe();
  }

  /** Rounds that follow at once share a pulse. */
  on_committed({ contributions }) {
    this.describe();
    const now = performance.now();
    if (!this.isSeen || (this.pulse && now < this.pulse.start + PULSE / 2)) return;
    const counted = contributions.filter(({ verdict }) => verdict === "counted");
    this.pulse = { start: now,
      counted: counted.map(({ peer }) => this.peers.get(peer)).filter(Boolean) };
  }

  on_refused({ peer, verdict }) {
    const node = this.peers.get(peer);
    if (node && this.isSeen) Object.assign(node, { refused: verdict, marked: performance.now() });
  }

  on_measured() {
    this.weigh();
    this.describe();
    this.readout.show(this.shown, this.state);
  }

  describe() {
    const { unit, version, loss, finished, phase } = this.state;
    this.committing = phase === "committing";
    const over = finished || unit === "step";
    this.caption = [unit, count(version + (over ? 0 : 1)),
      loss === null ? "" : `loss ${loss.toFixed(3)}`];
    this.why.textContent = finished ? "The run is over." : "Waiting for peers";
  }

  // Who is there

  /** A newcomer takes the innermost free place, so that the others keep theirs. */
  add(id, peer) {
    if (this.peers.has(id)) {
      this.peers.get(id).peer = peer;
      return;
    }
    const taken = new Set(this.nodes.map((node) => node.place));
    let place = 0;
    while (taken.has(place)) place += 1;
    const node = { peer, place, home: null, x: 0, y: 0, vx: 0, vy: 0, ax: 0, ay: 0, pinned: false,
      name: "", radius: 0, goal: 0, progress: 0, refused: "", marked: 0,
      up: 0, down: 0 }; // when the latest particles started
    this.peers.set(id, node);
    this.nodes.push(node);
  }

  remove(id) {
    const node = this.peers.get(id);
    if (!node) return;
    this.peers.delete(id);
    this.nodes = [...this.peers.values()];
    this.named = this.named.filter((other) => other !== node);
    this.particles = this.particles.filter((particle) => particle.node !== node);
    if (this.isSeen && !this.calm) this.gone.push({ node, start: performance.now() });
    if (this.drag && this.drag.node === node) this.drag = null;
    if (this.hovered === node) this.hover(null);
    if (this.selected === node) {
      this.select(null);
      this.readout.aloud.textContent = `${node.peer.name} has left.`;
    }
  }

  /** Places move together only when so many left that the picture is full of holes. */
  rearrange() {
    const { nodes } = this;
    if (Math.max(...nodes.map((node) => node.place)) > 2 * nodes.length + 4) {
      [...nodes].sort((a, b) => a.place - b.place).forEach((node, i) => { node.place = i; });
    }
    this.empty.hidden = nodes.length > 0;
    this.stage.classList.toggle("network-alone", nodes.length === 0);
    this.canvas.setAttribute("aria-label", `The coordinator and ${count(nodes.length)} `
      + `${nodes.length === 1 ? "peer" : "peers"}. Arrow keys go from peer to peer. `
      + (this.state.mode === "hive" ? "The table of peers below says the same." : ""));
    this.layout();
  }

  resize() {
    const { width, height } = this.picture;
    this.picture.resize();
    const ratio = (now, before) => (now && before ? now / before : 1);
    for (const node of this.nodes) { // the picture grows as a whole
      node.x *= ratio(this.picture.width, width);
      node.y *= ratio(this.picture.height, height);
    }
    this.layout();
    if (this.plan) this.picture.draw(this, performance.now()); // a canvas of a new size is blank
  }

  layout() {
    const { nodes, hub, picture } = this;
    if (!picture.width) return;
    const places = Math.max(0, ...nodes.map((node) => node.place + 1));
    this.plan = arrange(nodes.length, places, picture.width, picture.height);
    Object.assign(hub, { x: picture.width / 2, y: picture.height / 2, radius: this.plan.hub });
    for (const node of nodes) {
      const home = this.plan.home(node.place);
      if (!node.home) { // a newcomer drifts outwards
        node.x = 0.3 * hub.x + 0.7 * home.x;
        node.y = 0.3 * hub.y + 0.7 * home.y;
      }
      node.home = home;
    }
    this.weigh();
    this.disturb();
  }

  /** A node's area follows its contribution. */
  weigh() {
    if (!this.plan) return;
    const { largest, smallest } = this.plan;
    const most = Math.max(1, ...this.nodes.map((node) => node.peer.tokens));
    for (const node of this.nodes) {
      node.goal = Math.max(smallest, largest * Math.sqrt(node.peer.tokens / most));
    }
  }

  // Frames: only while something moves and can be seen

  get isSeen() {
    return this.onScreen && !document.hidden && !this.paused;
  }

  wake() {
    if (this.request || !this.plan || !this.onScreen || document.hidden) return;
    this.request = requestAnimationFrame((now) => this.frame(now));
  }

  disturb() {
    this.settled = false;
    this.wake();
  }

  frame(now) {
    const began = performance.now();
    const seconds = clamp((now - this.last) / 1000, 0.001, 1 / 30);
    this.request = 0;
    this.last = now;
    const moving = !this.paused && this.move(seconds);
    this.particles = this.particles.filter((particle) => now < particle.start + FLIGHT);
    this.gone = this.gone.filter((gone) => now < gone.start + FADE);
    if (this.pulse && now >= this.pulse.start + PULSE) this.pulse = null;
    this.picture.draw(this, now);
    if (this.shown) this.readout.place(this.shown, this.picture.width, this.picture.height);
    this.frameMilliseconds[this.frames % this.frameMilliseconds.length] = performance.now() - began;
    this.frames += 1;
    const shining = this.calm
      && this.nodes.some((node) => now < Math.max(node.up, node.down) + FLIGHT);
    for (const node of this.nodes) if (now >= node.marked + MARK) node.refused = "";
    const marked = this.nodes.some((node) => node.refused);
    if (moving || shining || marked || this.particles.length || this.gone.length || this.pulse) this.wake();
  }

  /** Returns whether anything still moves. */
  move(seconds) {
    const { nodes, calm } = this;
    const part = calm ? 1 : 1 - Math.exp(-8 * seconds);
    let moving = false;
    for (const node of nodes) {
      const { steps, quota } = node.peer;
      const done = quota ? Math.min(1, steps / quota) : 0;
      node.progress = Math.min(done, node.progress + part * (done - node.progress));
      node.radius += part * (node.goal - node.radius);
      moving = moving || Math.abs(node.goal - node.radius) > 0.05 || done - node.progress > 0.005;
    }
    if (this.settled) return moving;
    if (calm) for (const node of nodes) if (!node.pinned) Object.assign(node, node.home);
    this.settled = calm || settle(nodes, this.hub, this.plan, seconds);
    if (this.settled) this.name();
    return moving || !this.settled;
  }

  /** Once all are in their places: whose name is there room for? */
  name() {
    const { nodes, hub, plan, picture } = this;
    this.named = [];
    if (!plan.name) return;
    for (const node of nodes) node.name = picture.shorten(node.peer.name, plan.name);
    this.named = legible(nodes, nodes.map((node) => picture.widthOf(node.name)), hub, plan);
  }

  /** What was under way when the picture stopped or starts again is over. */
  skip() {
    this.particles = [];
    this.gone = [];
    this.pulse = null;
    this.wake();
  }

  pause(paused) {
    this.paused = paused;
    this.button.setAttribute("aria-pressed", String(paused));
    this.skip();
  }

  // Pointing, dragging, keys

  get shown() {
    return this.hovered || this.selected;
  }

  hover(node) {
    if (node === this.hovered) return;
    this.hovered = node;
    this.canvas.style.cursor = node ? "grab" : "";
    this.readout.show(this.shown, this.state);
    this.wake();
  }

  select(node) {
    this.selected = node;
    this.readout.show(this.shown, this.state);
    if (node) this.readout.say(node, this.state);
    this.wake();
  }

  /** The node under a mouse or finger; small ones are easier to hit than they look. */
  find({ clientX, clientY }) {
    const { left, top } = this.canvas.getBoundingClientRect();
    const x = clientX - left, y = clientY - top;
    let nearest = null, least = 1;
    for (const node of this.nodes) {
      const distance = Math.hypot(node.x - x, node.y - y) / Math.max(14, node.radius + 6);
      if (distance < least) [nearest, least] = [node, distance];
    }
    return { x, y, node: nearest };
  }

  /** A finger on a node drags it; anywhere else it scrolls the page. */
  on_touchstart(event) {
    if (event.touches.length === 1 && this.find(event.touches[0]).node) event.preventDefault();
  }

  on_pointerdown(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    const { x, y, node } = this.find(event);
    this.select(node);
    if (!node) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const again = this.tapped && this.tapped.node === node && event.timeStamp < this.tapped.until;
    if (again) this.release(node);
    this.tapped = { node, until: event.timeStamp + 400 };
    this.drag = { node, x, y };
  }

  on_pointermove(event) {
    const { x, y, node } = this.find(event);
    if (!this.drag) {
      if (event.pointerType !== "touch") this.hover(node);
      return;
    }
    const { node: held, x: fromX, y: fromY } = this.drag;
    if (!held.pinned && Math.hypot(x - fromX, y - fromY) < 4) return; // a click, so far
    held.x = clamp(x, EDGE, this.picture.width - EDGE);
    held.y = clamp(y, EDGE, this.picture.height - EDGE);
    held.vx = held.vy = 0;
    held.pinned = true;
    this.disturb();
  }

  on_pointerup() {
    this.drag = null;
    this.readout.show(this.shown, this.state);
  }

  on_pointercancel() {
    this.on_pointerup();
  }

  on_pointerleave() {
    this.hover(null);
  }

  release(node) {
    node.pinned = false;
    this.readout.show(this.shown, this.state);
    this.disturb();
  }

  on_keydown(event) {
    const { nodes } = this;
    const last = nodes.length - 1, at = nodes.indexOf(this.selected);
    const next = at < last ? at + 1 : 0, previous = at > 0 ? at - 1 : last;
    const goal = { ArrowRight: next, ArrowDown: next, ArrowLeft: previous, ArrowUp: previous,
      Home: 0, End: last }[event.key];
    if (event.key === "Escape") this.leave();
    else if (nodes[goal]) this.select(nodes[goal]);
    else return;
    event.preventDefault();
  }

  /** Escape lets go of a node that was dragged, then of the peer, then of the picture. */
  leave() {
    if (!this.shown) return this.canvas.blur();
    if (this.shown.pinned) return this.release(this.shown);
    this.hover(null);
    return this.select(null);
  }

  on_blur() {
    this.select(null);
  }
}
