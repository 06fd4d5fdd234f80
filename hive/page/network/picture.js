// The picture of the network. It may have hundreds of nodes and particles, sixty times a second:
// whatever looks the same becomes one path, and a style is set once per frame.

import { contextOf } from "../dom.js";
import { clamp, nameOffset } from "./layout.js";
import { FADE, FLIGHT, PULSE } from "./scene.js";

/** @import { Direction } from "../facts.d.ts" */
/** @import { Body, Plan } from "./layout.js" */
/** @import { Scene } from "./scene.js" */

const TURN = 2 * Math.PI;
const FONT = "system-ui, sans-serif";
const KINDS = /** @type {const} */ (["cuda", "mps", "cpu", "tab"]);
const COLOURS = /** @type {const} */ (
  ["panel", "line", "text", "quiet", "accent", "good", "warn", "bad", ...KINDS]);

/** @typedef {typeof COLOURS[number]} Colour */

/** What a state looks like; shapes differ, not only colours.
 * @type {{ states: string[], colour: Colour, width: number, dash?: number[], double?: boolean }[]}
 */
const RINGS = [
  { states: ["joining"], colour: "quiet", width: 1.5, dash: [1.5, 3] },
  { states: ["waiting", "ready", "training"], colour: "quiet", width: 0.75 },
  { states: ["uploading"], colour: "accent", width: 1.5, double: true },
  { states: ["delivered"], colour: "good", width: 3 },
  { states: ["lagging"], colour: "warn", width: 2, dash: [7, 4] },
];
/** How names are written: this tab's, and those of others.
 * @type {[Colour, number][]} */
const [OWN, OTHERS] = [["accent", 700], ["quiet", 400]];
/** @type {[Direction, Colour][]} */
const DIRECTIONS = [["up", "accent"], ["down", "text"]];

export class Picture {
  width = 0;
  height = 0;
  density = 1; // of the screen's pixels

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = contextOf(canvas);
    this.colours = this.readColours();
  }

  readColours() {
    const style = getComputedStyle(document.documentElement);
    return /** @type {Record<Colour, string>} */ (Object.fromEntries(COLOURS.map(
      (name) => [name, style.getPropertyValue(`--${name}`).trim()])));
  }

  /** The page may have become light or dark. */
  dress() {
    this.colours = this.readColours();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    this.density = devicePixelRatio;
    this.canvas.width = Math.round(width * this.density);
    this.canvas.height = Math.round(height * this.density);
    this.width = width;
    this.height = height;
  }

  /** @param {string} name */
  widthOf(name) {
    this.setFont(12);
    return this.context.measureText(name).width;
  }

  /** As much of a name as there is room for.
   * @param {string} name
   * @param {number} room */
  shorten(name, room) {
    const letters = [...name];
    let short = name;
    while (letters.length > 1 && this.widthOf(short) > room) {
      letters.pop();
      short = `${letters.join("")}…`;
    }
    return short;
  }

  /** @param {Scene} scene
   * @param {Plan} plan
   * @param {number} now */
  draw(scene, plan, now) {
    const { context } = this;
    context.setTransform(this.density, 0, 0, this.density, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.lineCap = "round";
    this.drawLines(scene, now);
    this.drawParticles(scene, plan, now);
    this.drawPulse(scene, plan, now);
    this.drawGone(scene, now);
    this.drawNodes(scene, plan);
    this.drawRings(scene, plan);
    this.drawHub(scene);
    this.drawNames(scene, plan);
  }

  /** @param {Scene} scene
   * @param {number} now */
  drawLines({ nodes, hub, calm }, now) {
    this.lines(nodes, hub);
    this.stroke("line", 1);
    if (!calm) return;
    for (const [direction, colour] of DIRECTIONS) { // they stand for particles
      this.lines(nodes.filter((node) => now < node[direction] + FLIGHT), hub);
      this.stroke(colour, 1.5);
    }
  }

  /** Up and down keep to their own sides of the line.
   * @param {Scene} scene
   * @param {Plan} plan
   * @param {number} now */
  drawParticles({ particles, hub }, plan, now) {
    for (const [way, colour] of DIRECTIONS) {
      this.context.beginPath();
      for (const { node, start, size, direction } of particles) {
        const time = (now - start) / FLIGHT;
        if (direction !== way || time < 0) continue;
        const x = node.x - hub.x, y = node.y - hub.y;
        const length = Math.hypot(x, y) || 1;
        const path = Math.max(0, length - hub.radius - node.radius - plan.ring);
        const eased = time * time * (3 - 2 * time);
        const along = (hub.radius + path * (way === "up" ? 1 - eased : eased)) / length;
        const aside = (way === "up" ? 0.6 : -0.6) * plan.particle / length;
        this.circle(hub.x + along * x - aside * y, hub.y + along * y + aside * x,
          Math.max(1, size * plan.particle));
      }
      this.fill(colour);
    }
  }

  /** @param {Scene} scene
   * @param {Plan} plan
   * @param {number} now */
  drawPulse({ pulse, hub, calm }, plan, now) {
    if (!pulse) return;
    const time = calm ? 0.4 : clamp((now - pulse.start) / PULSE, 0, 1);
    this.context.globalAlpha = 1 - time;
    this.circles([hub], 26 * time);
    this.stroke("accent", 2);
    this.circles(pulse.counted, 2 * plan.ring + 8 * time);
    this.stroke("good", 2);
    this.context.globalAlpha = 1;
  }

  /** @param {Scene} scene
   * @param {number} now */
  drawGone({ gone }, now) {
    for (const { node, start } of gone) {
      this.context.globalAlpha = clamp(1 - (now - start) / FADE, 0, 1);
      this.circles([node], 0);
      this.fill("quiet");
    }
    this.context.globalAlpha = 1;
  }

  /** @param {Scene} scene
   * @param {Plan} plan */
  drawNodes({ nodes, own }, plan) {
    this.circles(nodes, plan.ring);
    this.fill("panel");
    for (const kind of KINDS) {
      this.circles(nodes.filter((node) => node.peer.kind === kind), 0);
      this.fill(kind);
    }
    for (const { x, y, radius, peer } of nodes) { // a ring is this tab
      if (peer.peer !== own) continue;
      this.context.beginPath();
      this.circle(x, y, 0.45 * radius);
      this.fill("panel");
    }
  }

  /** @param {Scene} scene
   * @param {Plan} plan */
  drawRings({ nodes, shown }, plan) {
    for (const { states, colour, width, dash, double } of RINGS) {
      const alike = nodes.filter((node) => states.includes(node.peer.state));
      for (const more of double ? [plan.ring, 2 * plan.ring] : [plan.ring]) {
        this.circles(alike, more);
        this.stroke(colour, width, dash);
      }
    }
    this.context.beginPath();
    for (const { x, y, radius, progress, peer } of nodes) {
      if (peer.state !== "training" || !progress) continue;
      this.context.moveTo(x, y - radius - plan.ring);
      this.context.arc(x, y, radius + plan.ring, -TURN / 4, TURN * (progress - 0.25));
    }
    this.stroke("text", 2.5);
    if (!shown) return;
    this.circles([shown], 2 * plan.ring + 3);
    this.stroke("text", 2);
  }

  /** @param {Scene} scene */
  drawHub({ hub, caption, committing }) {
    const [unit, number, below] = caption;
    this.circles([hub], 0);
    this.fill("panel");
    this.stroke("accent", committing ? 4 : 2);
    this.write(unit, hub.x, hub.y - 16, "quiet", 11);
    this.write(number, hub.x, hub.y + 1, "text", 17, 600);
    this.write(below, hub.x, hub.y + 17, "quiet", 11);
  }

  /** Whose update did not count is marked on the inner side.
   * @param {Scene} scene
   * @param {Plan} plan */
  drawNames({ nodes, named, hub, own }, plan) {
    for (const node of named) {
      const [colour, weight] = node.peer.peer === own ? OWN : OTHERS;
      this.write(node.name, node.x, node.y + nameOffset(node, hub, plan), colour, 12, weight);
    }
    for (const node of nodes.filter((one) => one.refused)) {
      const word = plan.name ? node.refused : "!";
      const colour = node.refused === "late" ? "warn" : "bad";
      this.write(word, node.x, node.y - nameOffset(node, hub, plan), colour, 12, 600);
    }
  }

  // What all of it is made of

  /** @param {number} x
   * @param {number} y
   * @param {number} radius */
  circle(x, y, radius) {
    this.context.moveTo(x + radius, y);
    this.context.arc(x, y, radius, 0, TURN);
  }

  /** Circles round nodes, so much larger than these.
   * @param {Body[]} nodes
   * @param {number} more */
  circles(nodes, more) {
    this.context.beginPath();
    for (const { x, y, radius } of nodes) this.circle(x, y, radius + more);
  }

  /** @param {Body[]} nodes
   * @param {Body} hub */
  lines(nodes, hub) {
    this.context.beginPath();
    for (const { x, y } of nodes) {
      this.context.moveTo(hub.x, hub.y);
      this.context.lineTo(x, y);
    }
  }

  /** @param {Colour} colour
   * @param {number} width
   * @param {number[]} dash */
  stroke(colour, width, dash = []) {
    this.context.strokeStyle = this.colours[colour];
    this.context.lineWidth = width;
    this.context.setLineDash(dash);
    this.context.stroke();
  }

  /** @param {Colour} colour */
  fill(colour) {
    this.context.fillStyle = this.colours[colour];
    this.context.fill();
  }

  /** @param {number} size */
  setFont(size, weight = 400) {
    this.context.font = `${weight} ${size}px ${FONT}`;
  }

  /** @param {string} text
   * @param {number} x
   * @param {number} y
   * @param {Colour} colour
   * @param {number} size
   * @param {number} [weight] */
  write(text, x, y, colour, size, weight) {
    this.setFont(size, weight);
    this.context.textAlign = "center";
    this.context.textBaseline = "middle";
    this.context.fillStyle = this.colours[colour];
    this.context.fillText(text, x, y);
  }
}
