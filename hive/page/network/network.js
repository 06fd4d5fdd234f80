// The network, alive: the coordinator in the middle, a node per peer around it, and a particle for
// every transfer, when the coordinator reports it. Nothing is drawn that was not measured.

import { make } from "../dom.js";
import { count } from "../format.js";
import { arrange, clamp, legible, settle } from "./layout.js";
import { FADE, FLIGHT, MARK, PULSE, Picture } from "./picture.js";
import { Readout } from "./readout.js";

/** @import { Committed, HiveEvent, Peer, Refused, Transfer } from "../facts.d.ts" */
/** @import { State } from "../state.js" */
/** @import { Body, Plan } from "./layout.js" */
/** @import { Node, Particle, Scene } from "./picture.js" */

const LARGE = 256 * 1024; // bytes: the protocol cuts larger contents into pieces of this size
const FOLLOW = 30; // milliseconds between particles on one line, else one would hide the other
const EDGE = 40; // pixels: nearer to the edge no node can be dragged
const MOMENTS = ["transfer", "refused", "committed"];
const LEGEND = {
  cuda: "CUDA GPU", mps: "Apple GPU", cpu: "CPU", joining: "joining", waiting: "waiting",
  training: "training", uploading: "uploading", delivered: "delivered", lagging: "lagging",
  up: "to the coordinator", down: "to a peer",
};

/** It is also the scene that the picture shows.
 * @implements {Scene} */
export class Network {
  frames = 0; // these three are for whoever measures
  transfers = 0;
  frameMilliseconds = new Float32Array(600);

  /** @type {Map<string, Node>} */
  peers = new Map(); // from a peer's identifier to its node, in the order they came
  /** @type {Node[]} */
  nodes = []; // the same
  /** @type {Node[]} */
  named = [];
  /** @type {Body} */
  hub = { x: 0, y: 0, ax: 0, ay: 0, radius: 0 }; // pushed at, but never moves
  /** @type {Plan | null} */
  plan = null; // once there is a canvas to fill
  /** @type {Particle[]} */
  particles = [];
  /** @type {Scene["gone"]} */
  gone = [];
  /** @type {Scene["pulse"]} */
  pulse = null;
  /** @type {Scene["caption"]} */
  caption = ["", "", ""];
  committing = false;
  calm = false; // as the visitor wants it

  /** @type {Node | null} */
  hovered = null;
  /** @type {Node | null} */
  selected = null;
  /** @type {{ node: Node, x: number, y: number } | null} */
  drag = null; // and where it began
  /** @type {{ node: Node, until: number } | null} */
  tapped = null;
  paused = false;
  onScreen = true;
  settled = true;
  request = 0;
  last = 0;

  /** @param {State} state
   * @param {HTMLElement} section in which everything is built */
  constructor(state, section) {
    this.state = state;
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
    this.listen();
  }

  /** What to show while nobody is there: how to join.
   * @param {HTMLElement} element */
  setEmpty(element) {
    this.empty.append(element);
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.point(event));
    canvas.addEventListener("pointerup", () => this.drop());
    canvas.addEventListener("pointercancel", () => this.drop());
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("touchstart", (event) => this.touch(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.select(null));
    this.button.addEventListener("click", () => this.pause(!this.paused));
    document.addEventListener("visibilitychange", () => this.skip());
    new IntersectionObserver((entries) => {
      this.onScreen = entries[entries.length - 1].isIntersecting;
      this.skip();
    }).observe(canvas);
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.watchDensity();
    const reduced = matchMedia("(prefers-reduced-motion: reduce)");
    this.calm = reduced.matches;
    reduced.addEventListener("change", () => {
      this.calm = reduced.matches;
      this.skip();
    });
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => {
      this.picture.dress();
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

  update() {
    const { peers } = this.state;
    for (const id of this.peers.keys()) if (!peers.has(id)) this.remove(id);
    for (const [id, peer] of peers) this.add(id, peer);
    this.rearrange();
    this.measure();
  }

  /** What comes too late, after a break, changes who is there, but nothing flies or shines.
   * @param {HiveEvent} event
   * @param {boolean} late */
  event(event, late) {
    if (late && MOMENTS.includes(event.type)) return;
    this.hear(event);
    if (!this.paused && event.type !== "evaluated") this.wake();
  }

  /** @param {HiveEvent} event */
  hear(event) {
    switch (event.type) {
      case "joined":
        this.add(event.peer.peer, event.peer);
        this.rearrange();
        break;
      case "left":
        this.remove(event.peer);
        this.rearrange();
        break;
      case "peer":
        if (this.shown?.peer.peer === event.peer) this.readout.show(this.shown, this.state);
        break;
      case "opened": case "closed": case "finished": this.describe(); break;
      case "transfer": this.launch(event); break;
      case "committed": this.shine(event); break;
      case "refused": this.mark(event); break;
      case "measured": this.measure();
    }
  }

  /** Only while it can be seen: nothing is replayed later.
   * @param {Transfer} event */
  launch({ peer, direction, bytes: size }) {
    const node = this.peers.get(peer);
    if (!node || !this.isSeen) return;
    const now = performance.now();
    const start = clamp(node[direction] + FOLLOW, now, now + FLIGHT);
    node[direction] = start;
    this.transfers += 1;
    if (this.calm) return; // its line shines instead
    this.particles.push({ node, direction, start, size: Math.min(1, Math.sqrt(size / LARGE)) });
  }

  /** Rounds that follow at once share a pulse.
   * @param {Committed} event */
  shine({ contributions }) {
    this.describe();
    const now = performance.now();
    if (!this.isSeen || (this.pulse && now < this.pulse.start + PULSE / 2)) return;
    const counted = contributions.filter(({ verdict }) => verdict === "counted");
    this.pulse = { start: now,
      counted: counted.flatMap(({ peer }) => this.peers.get(peer) ?? []) };
  }

  /** @param {Refused} event */
  mark({ peer, verdict }) {
    const node = this.peers.get(peer);
    if (node && this.isSeen) Object.assign(node, { refused: verdict, marked: performance.now() });
  }

  measure() {
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

  /** A newcomer takes the innermost free place, so that the others keep theirs.
   * @param {string} id
   * @param {Peer} peer */
  add(id, peer) {
    const known = this.peers.get(id);
    if (known) {
      known.peer = peer;
      return;
    }
    const taken = new Set(this.nodes.map((node) => node.place));
    let place = 0;
    while (taken.has(place)) place += 1;
    const node = { peer, place, placed: false, home: { x: 0, y: 0 }, x: 0, y: 0, vx: 0, vy: 0,
      ax: 0, ay: 0, pinned: false, name: "", radius: 0, goal: 0, progress: 0, refused: "",
      marked: 0, up: 0, down: 0 };
    this.peers.set(id, node);
    this.nodes.push(node);
  }

  /** @param {string} id */
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
    if (width && height && this.picture.width && this.picture.height) {
      for (const node of this.nodes) { // the picture grows as a whole
        node.x *= this.picture.width / width;
        node.y *= this.picture.height / height;
      }
    }
    this.layout();
    if (this.plan) this.picture.draw(this, this.plan, performance.now()); // it has become blank
  }

  layout() {
    const { nodes, hub, picture } = this;
    if (!picture.width) return;
    const places = Math.max(0, ...nodes.map((node) => node.place + 1));
    const plan = arrange(nodes.length, places, picture.width, picture.height);
    this.plan = plan;
    Object.assign(hub, { x: picture.width / 2, y: picture.height / 2, radius: plan.hub });
    for (const node of nodes) {
      node.home = plan.home(node.place);
      if (node.placed) continue;
      node.x = 0.3 * hub.x + 0.7 * node.home.x; // a newcomer drifts outwards
      node.y = 0.3 * hub.y + 0.7 * node.home.y;
      node.placed = true;
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

  /** @param {number} now */
  frame(now) {
    const { plan } = this;
    if (!plan) return;
    const began = performance.now();
    const seconds = clamp((now - this.last) / 1000, 0.001, 1 / 30);
    this.request = 0;
    this.last = now;
    const moving = !this.paused && this.move(plan, seconds);
    this.particles = this.particles.filter((particle) => now < particle.start + FLIGHT);
    this.gone = this.gone.filter((gone) => now < gone.start + FADE);
    if (this.pulse && now >= this.pulse.start + PULSE) this.pulse = null;
    this.picture.draw(this, plan, now);
    if (this.shown) this.readout.place(this.shown, this.picture.width, this.picture.height);
    this.frameMilliseconds[this.frames % this.frameMilliseconds.length] = performance.now() - began;
    this.frames += 1;
    const shining = this.calm
      && this.nodes.some((node) => now < Math.max(node.up, node.down) + FLIGHT);
    for (const node of this.nodes) if (now >= node.marked + MARK) node.refused = "";
    const marked = this.nodes.some((node) => node.refused);
    const flying = this.particles.length || this.gone.length || this.pulse;
    if (moving || shining || marked || flying) this.wake();
  }

  /** Returns whether anything still moves.
   * @param {Plan} plan
   * @param {number} seconds */
  move(plan, seconds) {
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
    this.settled = calm || settle(nodes, this.hub, plan, seconds);
    if (this.settled) this.name(plan);
    return moving || !this.settled;
  }

  /** Once all are in their places: whose name is there room for?
   * @param {Plan} plan */
  name(plan) {
    const { nodes, hub, picture } = this;
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

  /** @param {boolean} paused */
  pause(paused) {
    this.paused = paused;
    this.button.setAttribute("aria-pressed", String(paused));
    this.skip();
  }

  // Pointing, dragging, keys

  get shown() {
    return this.hovered || this.selected;
  }

  /** @param {Node | null} node */
  hover(node) {
    if (node === this.hovered) return;
    this.hovered = node;
    this.canvas.style.cursor = node ? "grab" : "";
    this.readout.show(this.shown, this.state);
    this.wake();
  }

  /** @param {Node | null} node */
  select(node) {
    this.selected = node;
    this.readout.show(this.shown, this.state);
    if (node) this.readout.say(node, this.state);
    this.wake();
  }

  /** The node under a mouse or finger; small ones are easier to hit than they look.
   * @param {MouseEvent | Touch} at */
  find({ clientX, clientY }) {
    const { left, top } = this.canvas.getBoundingClientRect();
    const x = clientX - left, y = clientY - top;
    /** @type {Node | null} */
    let nearest = null;
    let least = 1;
    for (const node of this.nodes) {
      const distance = Math.hypot(node.x - x, node.y - y) / Math.max(14, node.radius + 6);
      if (distance < least) [nearest, least] = [node, distance];
    }
    return { x, y, node: nearest };
  }

  /** A finger on a node drags it; anywhere else it scrolls the page.
   * @param {TouchEvent} event */
  touch(event) {
    if (event.touches.length === 1 && this.find(event.touches[0]).node) event.preventDefault();
  }

  /** @param {PointerEvent} event */
  press(event) {
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

  /** @param {PointerEvent} event */
  point(event) {
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

  drop() {
    this.drag = null;
    this.readout.show(this.shown, this.state);
  }

  /** @param {Node} node */
  release(node) {
    node.pinned = false;
    this.readout.show(this.shown, this.state);
    this.disturb();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const { nodes, selected } = this;
    const last = nodes.length - 1, at = selected ? nodes.indexOf(selected) : -1;
    const next = at < last ? at + 1 : 0, previous = at > 0 ? at - 1 : last;
    /** @type {Record<string, number>} */
    const goals = { ArrowRight: next, ArrowDown: next, ArrowLeft: previous, ArrowUp: previous,
      Home: 0, End: last };
    const goal = nodes[goals[event.key]];
    if (event.key === "Escape") this.leave();
    else if (goal) this.select(goal);
    else return;
    event.preventDefault();
  }

  /** Escape lets go of a node that was dragged, then of the peer, then of the picture. */
  leave() {
    const { shown } = this;
    if (!shown) {
      this.canvas.blur();
    } else if (shown.pinned) {
      this.release(shown);
    } else {
      this.hover(null);
      this.select(null);
    }
  }
}
