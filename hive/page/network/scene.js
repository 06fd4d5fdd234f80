// What is to be seen of the network: who is there, where, and what is under way between them. It
// knows neither the canvas nor the clock.

import { arrange, clamp, legible, settle } from "./layout.js";

/** @import { Committed, Direction, Peer, Refused, Transfer } from "../facts.d.ts" */
/** @import { Body, Mover, Plan } from "./layout.js" */

/** A peer in the picture.
 * @typedef {object} Shown
 * @property {Peer} peer
 * @property {number} place counted from the middle
 * @property {boolean} placed has it been given its first home?
 * @property {string} name as much of it as there is room for
 * @property {number} goal the radius to be
 * @property {number} progress of its round, from 0 to 1
 * @property {string} refused what is said of its latest update: "late", "rejected" or nothing
 * @property {number} marked when that was
 * @property {number} up when the latest particle in this direction started
 * @property {number} down */

/** @typedef {Mover & Shown} Node */

/** A transfer: its size is the part of a whole piece that went over the wire.
 * @typedef {{ node: Node, direction: Direction, start: number, size: number }} Particle */

/** How names are written.
 * @typedef {object} Writer
 * @property {(name: string, room: number) => string} shorten
 * @property {(name: string) => number} widthOf */

export const FLIGHT = 700; // milliseconds a particle travels
export const PULSE = 900; // that the coordinator and its contributors shine after a commit
export const MARK = 1500; // that a node says its update was late or rejected
export const FADE = 1000; // until a peer that left is gone

const LARGE = 96 * 1024; // bytes: the protocol cuts larger contents into pieces of this size
const FOLLOW = 30; // milliseconds between particles on one line, else one would hide the other

export class Scene {
  /** @type {Map<string, Node>} */
  peers = new Map(); // from a peer's identifier to its node, in the order they came
  /** @type {Node[]} */
  nodes = []; // the same
  /** @type {Node[]} */
  named = []; // those whose names there is room for
  /** @type {Body} */
  hub = { x: 0, y: 0, ax: 0, ay: 0, radius: 0 }; // pushed at, but never moves
  /** @type {Plan | null} */
  plan = null; // once there is a canvas to fill
  settled = true; // all are in their places
  /** @type {Particle[]} */
  particles = [];
  /** @type {{ node: Node, start: number }[]} */
  gone = [];
  /** @type {{ start: number, counted: Node[] } | null} */
  pulse = null; // after a commit
  /** @type {[string, string, string]} */
  caption = ["", "", ""]; // of the hub
  committing = false;
  calm = false; // nothing flies
  own = ""; // the peer that is this tab
  /** @type {Node | null} */
  shown = null; // whose facts stand beside it

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

  /** Returns the node of the peer that left.
   * @param {string} id */
  remove(id) {
    const node = this.peers.get(id);
    this.peers.delete(id);
    this.nodes = [...this.peers.values()];
    this.named = this.named.filter((other) => other !== node);
    this.particles = this.particles.filter((particle) => particle.node !== node);
    return node;
  }

  // Where

  /** Places move together only when enough have left that the picture is full of holes. */
  gather() {
    const { nodes } = this;
    if (Math.max(...nodes.map((node) => node.place)) <= 2 * nodes.length + 4) return;
    [...nodes].sort((a, b) => a.place - b.place).forEach((node, i) => { node.place = i; });
  }

  /** Gives everybody a home on a canvas of this size.
   * @param {number} width
   * @param {number} height */
  lay(width, height) {
    const { nodes, hub } = this;
    const places = Math.max(0, ...nodes.map((node) => node.place + 1));
    const plan = arrange(nodes.length, places, width, height);
    this.plan = plan;
    Object.assign(hub, { x: width / 2, y: height / 2, radius: plan.hub });
    for (const node of nodes) {
      node.home = plan.home(node.place);
      if (node.placed) continue;
      node.x = 0.3 * hub.x + 0.7 * node.home.x; // a newcomer drifts outwards
      node.y = 0.3 * hub.y + 0.7 * node.home.y;
      node.placed = true;
    }
    this.weigh();
    this.settled = false;
  }

  /** The picture grows as a whole.
   * @param {number} wider
   * @param {number} higher factors */
  stretch(wider, higher) {
    for (const node of this.nodes) {
      node.x *= wider;
      node.y *= higher;
    }
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

  /** Returns whether anything still moves.
   * @param {Plan} plan
   * @param {number} seconds
   * @param {Writer} writer */
  move(plan, seconds, writer) {
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
    if (this.settled) this.name(plan, writer);
    return moving || !this.settled;
  }

  /** Once all are in their places: whose name is there room for?
   * @param {Plan} plan
   * @param {Writer} writer */
  name(plan, writer) {
    const { nodes, hub } = this;
    this.named = [];
    if (!plan.name) return;
    for (const node of nodes) node.name = writer.shorten(node.peer.name, plan.name);
    this.named = legible(nodes, nodes.map((node) => writer.widthOf(node.name)), hub, plan);
  }

  // What is under way

  /** Returns whether it can be seen.
   * @param {Transfer} transfer
   * @param {number} now */
  launch({ peer, direction, bytes }, now) {
    const node = this.peers.get(peer);
    if (!node) return false;
    const start = clamp(node[direction] + FOLLOW, now, now + FLIGHT);
    node[direction] = start;
    if (this.calm) return true; // its line shines instead
    this.particles.push({ node, direction, start, size: Math.min(1, Math.sqrt(bytes / LARGE)) });
    return true;
  }

  /** Rounds that follow at once share a pulse.
   * @param {Committed} round
   * @param {number} now */
  shine({ contributions }, now) {
    if (this.pulse && now < this.pulse.start + PULSE / 2) return;
    const counted = contributions.filter(({ verdict }) => verdict === "counted");
    this.pulse = { start: now,
      counted: counted.flatMap(({ peer }) => this.peers.get(peer) ?? []) };
  }

  /** @param {Refused} update
   * @param {number} now */
  mark({ peer, verdict }, now) {
    const node = this.peers.get(peer);
    if (node) Object.assign(node, { refused: verdict, marked: now });
  }

  /** What has flown, faded or shone is over.
   * @param {number} now */
  age(now) {
    this.particles = this.particles.filter((particle) => now < particle.start + FLIGHT);
    this.gone = this.gone.filter((gone) => now < gone.start + FADE);
    if (this.pulse && now >= this.pulse.start + PULSE) this.pulse = null;
    for (const node of this.nodes) if (now >= node.marked + MARK) node.refused = "";
  }

  /** Will the picture be another one soon, even if nobody moves?
   * @param {number} now */
  isAlive(now) {
    const shining = this.calm
      && this.nodes.some((node) => now < Math.max(node.up, node.down) + FLIGHT);
    return shining || this.nodes.some((node) => node.refused) || this.particles.length > 0
      || this.gone.length > 0 || this.pulse !== null;
  }

  /** Nothing is under way any more. */
  hush() {
    this.particles = [];
    this.gone = [];
    this.pulse = null;
  }
}
