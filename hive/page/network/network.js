// The network, alive: the coordinator in the middle, a node per peer around it, and a particle for
// every transfer, when the coordinator reports it. Nothing is drawn that was not measured.

import { make } from "../dom.js";
import { count } from "../format.js";
import { clamp } from "./layout.js";
import { Picture } from "./picture.js";
import { Readout } from "./readout.js";
import { Scene } from "./scene.js";

/** @import { Committed, HiveEvent, Refused, Transfer } from "../facts.d.ts" */
/** @import { State } from "../state.js" */
/** @import { Node } from "./scene.js" */

const EDGE = 40; // pixels: nearer to the edge no node can be dragged
const MOMENTS = ["transfer", "refused", "committed"];
const LEGEND = {
  cuda: "CUDA GPU", mps: "Apple GPU", cpu: "CPU", tab: "browser tab", joining: "joining",
  waiting: "waiting", training: "training", uploading: "uploading", delivered: "delivered",
  lagging: "lagging", up: "to the coordinator", down: "to a peer", own: "this tab",
};

export class Network {
  frames = 0; // these three are for measurements
  transfers = 0;
  frameMilliseconds = new Float32Array(600);

  scene = new Scene();
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
    this.scene.calm = reduced.matches;
    reduced.addEventListener("change", () => {
      this.scene.calm = reduced.matches;
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
    for (const id of this.scene.peers.keys()) if (!peers.has(id)) this.remove(id);
    for (const [id, peer] of peers) this.scene.add(id, peer);
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
        this.scene.add(event.peer.peer, event.peer);
        this.rearrange();
        break;
      case "left":
        this.remove(event.peer);
        this.rearrange();
        break;
      case "peer":
        if (this.scene.shown?.peer.peer === event.peer) this.show();
        break;
      case "opened": case "closed": case "finished": this.describe(); break;
      case "transfer": case "committed": case "refused": this.flash(event); break;
      case "measured": this.measure();
    }
  }

  /** Only while it can be seen: nothing is replayed later.
   * @param {Transfer | Committed | Refused} event */
  flash(event) {
    if (event.type === "committed") this.describe();
    if (!this.isSeen) return;
    const now = performance.now();
    if (event.type === "committed") this.scene.shine(event, now);
    else if (event.type === "refused") this.scene.mark(event, now);
    else if (this.scene.launch(event, now)) this.transfers += 1;
  }

  /** The peer that is this tab.
   * @param {string} id */
  own(id) {
    this.scene.own = id;
    this.stage.classList.toggle("network-own", id !== "");
    this.wake();
  }

  measure() {
    this.scene.weigh();
    this.describe();
    this.show();
  }

  describe() {
    const { unit, version, loss, finished, phase } = this.state;
    this.scene.committing = phase === "committing";
    const over = finished || unit === "step";
    this.scene.caption = [unit, count(version + (over ? 0 : 1)),
      loss === null ? "" : `loss ${loss.toFixed(3)}`];
    this.why.textContent = finished ? "The run is over." : "Waiting for peers";
  }

  /** @param {string} id */
  remove(id) {
    const node = this.scene.remove(id);
    if (!node) return;
    if (this.isSeen && !this.scene.calm) this.scene.gone.push({ node, start: performance.now() });
    if (this.drag && this.drag.node === node) this.drag = null;
    if (this.hovered === node) this.hover(null);
    if (this.selected === node) {
      this.select(null);
      this.readout.aloud.textContent = `${node.peer.name} has left.`;
    }
  }

  /** Somebody came or left. */
  rearrange() {
    const { nodes } = this.scene;
    this.scene.gather();
    this.empty.hidden = nodes.length > 0;
    this.stage.classList.toggle("network-alone", nodes.length === 0);
    this.canvas.setAttribute("aria-label", `The coordinator and ${count(nodes.length)} `
      + `${nodes.length === 1 ? "peer" : "peers"}. Arrow keys go from peer to peer. `
      + (this.state.mode === "hive" ? "The table of peers below says the same." : ""));
    this.layout();
  }

  resize() {
    const { picture, scene } = this;
    const { width, height } = picture;
    picture.resize();
    if (width && height && picture.width && picture.height) {
      scene.stretch(picture.width / width, picture.height / height);
    }
    this.layout();
    if (scene.plan) picture.draw(scene, scene.plan, performance.now()); // it has become blank
  }

  layout() {
    const { width, height } = this.picture;
    if (!width) return;
    this.scene.lay(width, height);
    this.wake();
  }

  // Frames: only while something moves and can be seen

  get isSeen() {
    return this.onScreen && !document.hidden && !this.paused;
  }

  wake() {
    if (this.request || !this.scene.plan || !this.onScreen || document.hidden) return;
    this.request = requestAnimationFrame((now) => this.frame(now));
  }

  /** @param {number} now */
  frame(now) {
    const { scene, picture } = this;
    this.request = 0;
    if (!scene.plan) return;
    const began = performance.now();
    const seconds = clamp((now - this.last) / 1000, 0.001, 1 / 30);
    this.last = now;
    const moving = !this.paused && scene.move(scene.plan, seconds, picture);
    scene.age(now);
    picture.draw(scene, scene.plan, now);
    if (scene.shown) this.readout.place(scene.shown, picture.width, picture.height);
    this.frameMilliseconds[this.frames % this.frameMilliseconds.length] = performance.now() - began;
    this.frames += 1;
    if (moving || scene.isAlive(now)) this.wake();
  }

  /** What was under way when the picture stopped or starts again is over. */
  skip() {
    this.scene.hush();
    this.wake();
  }

  /** @param {boolean} paused */
  pause(paused) {
    this.paused = paused;
    this.button.setAttribute("aria-pressed", String(paused));
    this.skip();
  }

  // Pointing, dragging, keys

  /** Beside the node under the mouse, else the selected one, stands what is known about it. */
  show() {
    this.scene.shown = this.hovered ?? this.selected;
    this.readout.show(this.scene.shown, this.state);
  }

  /** @param {Node | null} node */
  hover(node) {
    if (node === this.hovered) return;
    this.hovered = node;
    this.canvas.style.cursor = node ? "grab" : "";
    this.show();
    this.wake();
  }

  /** @param {Node | null} node */
  select(node) {
    this.selected = node;
    this.show();
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
    for (const node of this.scene.nodes) {
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
    this.scene.settled = false;
    this.wake();
  }

  drop() {
    this.drag = null;
    this.show();
  }

  /** @param {Node} node */
  release(node) {
    node.pinned = false;
    this.show();
    this.scene.settled = false;
    this.wake();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const { selected, scene: { nodes } } = this;
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
    const { shown } = this.scene;
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
