// What the network attended to: a small strip for each head, one row for each layer, and one of
// them enlarged over the text.

import { contextOf, make } from "../dom.js";
import { darkness, mostSeen, named, odds, symbol } from "./shade.js";

const MOST = 3; // places that are named

/** @typedef {{ layer: number, head: number }} Place */

export class Heads {
  /** @type {Float32Array[][]} */
  attention = []; // layers, heads, characters
  /** @type {string[]} */
  text = [];
  /** @type {Place} */
  chosen = { layer: 0, head: 0 };
  /** @type {HTMLElement[][]} */
  cells = [];

  name = make("p", { className: "heads-name" });
  context = make("p", { className: "heads-text" });
  grid = make("div", { className: "heads-grid" });
  node = make("div", { className: "heads" }, this.name, this.context, this.grid);

  constructor() {
    this.grid.setAttribute("role", "grid");
    this.grid.setAttribute("aria-label", "Attention of each head; arrow keys go through them");
    this.grid.addEventListener("pointerover", ({ target }) => this.enlarge(this.placeOf(target)));
    this.grid.addEventListener("pointerleave", () => this.enlarge(this.chosen));
    this.grid.addEventListener("click", ({ target }) => this.choose(this.placeOf(target)));
    this.grid.addEventListener("keydown", (event) => this.key(event));
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => this.draw());
  }

  /** @param {Float32Array[][]} attention
   * @param {string[]} text the characters that it saw */
  show(attention, text) {
    this.attention = attention;
    this.text = text;
    if (this.cells.length !== attention.length || this.cells[0].length !== attention[0].length) {
      this.build(attention.length, attention[0].length);
    }
    this.context.replaceChildren(...text.map((character, at) => make("span", {},
      character === "\n" || at === text.length - 1 ? symbol(character) : character)));
    this.draw();
    this.enlarge(this.chosen);
  }

  /** @param {number} layers
   * @param {number} heads */
  build(layers, heads) {
    this.chosen = { layer: 0, head: 0 };
    this.cells = Array.from({ length: layers }, () => Array.from({ length: heads }, () => {
      const cell = make("div", { className: "heads-cell", tabIndex: -1 }, make("canvas"));
      cell.setAttribute("role", "gridcell");
      return cell;
    }));
    this.cells[0][0].tabIndex = 0;
    this.grid.style.setProperty("--heads", String(heads));
    this.grid.replaceChildren(...this.cells.map((cells, layer) => {
      const title = make("div", { className: "heads-layer" }, String(layer + 1));
      title.setAttribute("role", "rowheader");
      title.setAttribute("aria-label", `Layer ${layer + 1}`);
      const row = make("div", { className: "heads-row" }, title, ...cells);
      row.setAttribute("role", "row");
      return row;
    }));
  }

  draw() {
    this.cells.forEach((cells, layer) => cells.forEach((cell, head) => {
      const canvas = /** @type {HTMLCanvasElement} */ (cell.firstChild);
      strip(canvas, this.attention[layer][head]);
      cell.setAttribute("aria-label", this.describe({ layer, head }));
    }));
  }

  /** @param {Place} place */
  describe({ layer, head }) {
    const weights = this.attention[layer][head], last = weights.length - 1;
    const seen = mostSeen(weights, MOST).filter((at, rank) => weights[at] >= 0.01 || rank === 0);
    const words = seen.map((at) => {
      const where = at === last ? "the last" : `${last - at} before the last`;
      return `${named(this.text[at])}, ${where}, ${odds(weights[at])}`;
    });
    return `Layer ${layer + 1}, head ${head + 1}: ${words.join("; ")}`;
  }

  /** @param {Place | null} place */
  enlarge(place) {
    if (!place || !this.attention.length) return;
    const shades = darkness(this.attention[place.layer][place.head]);
    [...this.context.children].forEach((character, at) => {
      /** @type {HTMLElement} */ (character).style.setProperty("--darkness", String(shades[at]));
    });
    this.name.textContent = this.describe(place);
    this.cells.flat().forEach((cell) => cell.classList.remove("is-large"));
    this.cells[place.layer][place.head].classList.add("is-large");
  }

  /** @param {Place | null} place */
  choose(place) {
    if (!place) return;
    this.cells[this.chosen.layer][this.chosen.head].tabIndex = -1;
    this.chosen = place;
    const cell = this.cells[place.layer][place.head];
    cell.tabIndex = 0;
    cell.focus();
    this.enlarge(place);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const { layer, head } = this.chosen, last = this.cells[0].length - 1;
    const to = {
      ArrowRight: { layer, head: Math.min(head + 1, last) },
      ArrowLeft: { layer, head: Math.max(head - 1, 0) },
      ArrowDown: { layer: Math.min(layer + 1, this.cells.length - 1), head },
      ArrowUp: { layer: Math.max(layer - 1, 0), head },
      Home: { layer, head: 0 },
      End: { layer, head: last },
    }[event.key];
    if (!to) return;
    this.choose(to);
    event.preventDefault();
  }

  /** @param {EventTarget | null} target
   * @returns {Place | null} */
  placeOf(target) {
    const cell = target instanceof Element ? target.closest(".heads-cell") : null;
    const layer = this.cells.findIndex((cells) => cells.some((one) => one === cell));
    return layer < 0 ? null
      : { layer, head: this.cells[layer].findIndex((one) => one === cell) };
  }
}

/** One pixel for each character; the style stretches it.
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} weights */
function strip(canvas, weights) {
  canvas.width = weights.length; // clears it, too
  canvas.height = 1;
  const context = contextOf(canvas);
  context.fillStyle = getComputedStyle(canvas).color;
  darkness(weights).forEach((alpha, at) => {
    context.globalAlpha = alpha;
    context.fillRect(at, 0, 1, 1);
  });
}
