// A text whose characters carry their chances: as a shade, as a number when one is pointed at or
// reached with the arrow keys, and a way to what stood behind it.

import { make } from "../dom.js";
import { SHADES, named, odds, shade, surprise } from "./shade.js";
import { Tip } from "./tip.js";

/** @import { Mark } from "../chat/messages.d.ts" */

/** What a character is part of.
 * @typedef {object} Origin
 * @property {number | null} round whose weights these chances are of
 * @property {string} version the same in words
 * @property {string[]} context the characters before the first
 * @property {{ temperature: number, topK: number | null } | null} taste null: none was drawn */

/** A character, and all that is needed to see the moment before it.
 * @typedef {{ mark: Mark, origin: Origin, context: string }} Visit */

const KEYS = new Map([["ArrowRight", 1], ["ArrowLeft", -1], ["Home", -Infinity],
  ["End", Infinity]]);

/** @param {Mark} mark
 * @param {Origin} origin */
function chanceOf({ before, after }, { taste }) {
  const drawn = taste && after !== before ? `, drawn at ${odds(after)}` : "";
  return `${odds(before)} likely${drawn}, ${surprise(before).toFixed(1)} bits`;
}

const tip = new Tip();

/** What the shades mean. */
export function shadeKey() {
  const shades = Array.from({ length: SHADES }, (_, at) => {
    const sample = make("i");
    sample.dataset.shade = String(at);
    return sample;
  });
  return make("p", { className: "marked-key" }, "expected", make("span", {}, ...shades),
    "a surprise");
}

export class MarkedText {
  /** @type {Mark[]} */
  marks = [];
  current = 0; // the one that the keyboard reaches
  /** @type {Map<EventTarget | null, number>} */
  places = new Map();
  node = make("span", { className: "marked" });

  /** @param {Origin} origin
   * @param {(visit: Visit) => void} open */
  constructor(origin, open) {
    this.origin = origin;
    this.open = open;
    const { node } = this;
    node.addEventListener("click", ({ target }) => this.choose(target));
    node.addEventListener("keydown", (event) => this.key(event));
    node.addEventListener("pointerover", ({ target }) => this.tell(target));
    node.addEventListener("focusin", ({ target }) => this.tell(target));
    for (const end of ["pointerleave", "focusout"]) node.addEventListener(end, () => tip.hide());
  }

  /** @param {Mark[]} marks */
  append(marks) {
    for (const mark of marks) {
      const character = make("span", {}, mark.character);
      character.dataset.shade = String(shade(mark.before));
      if (mark.character === "\n") character.className = "marked-end";
      this.places.set(character, this.marks.length);
      this.marks.push(mark);
      this.node.append(character);
      if (this.marks.length === 1) this.label(character, mark, 0);
    }
  }

  /** @param {number[]} places */
  underline(places) {
    for (const place of places) this.at(place).classList.add("marked-worst");
  }

  /** @param {number} place
   * @returns {HTMLElement} */
  at(place) {
    return /** @type {HTMLElement} */ (this.node.children[place]);
  }

  /** Only one character is a button at a time: a text is for reading, and Tab should leave it.
   * @param {HTMLElement} character
   * @param {Mark} mark
   * @param {0 | -1} tabIndex */
  label(character, mark, tabIndex) {
    character.tabIndex = tabIndex;
    character.setAttribute("role", "button");
    character.setAttribute("aria-label",
      `${named(mark.character)}, ${chanceOf(mark, this.origin)}: look inside`);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const step = KEYS.get(event.key);
    if (event.key === "Enter" || event.key === " ") this.choose(event.target);
    else if (step === undefined) return;
    else this.go(this.current + step);
    event.preventDefault();
  }

  /** @param {number} place */
  go(place) {
    this.leave();
    this.current = Math.max(0, Math.min(this.marks.length - 1, place));
    this.label(this.at(this.current), this.marks[this.current], 0);
    this.at(this.current).focus();
  }

  /** The one that was the button is text again. */
  leave() {
    const before = this.at(this.current);
    for (const name of ["role", "aria-label", "tabindex"]) before.removeAttribute(name);
  }

  /** @param {EventTarget | null} target */
  choose(target) {
    const place = this.places.get(target);
    if (place === undefined) return;
    this.go(place);
    this.open(this.visit(place));
  }

  /** @param {number} place
   * @returns {Visit} */
  visit(place) {
    const { origin, marks } = this, mark = marks[place];
    const written = marks.slice(Math.max(0, place - mark.seen), place);
    const text = [...origin.context.slice(-mark.seen), ...written.map(({ character }) => character)];
    return { mark, origin, context: text.slice(-mark.seen).join("") };
  }

  /** Its chance, beside it.
   * @param {EventTarget | null} target */
  tell(target) {
    const place = this.places.get(target);
    if (place === undefined) return tip.hide();
    const mark = this.marks[place];
    tip.show(`${named(mark.character)} ${chanceOf(mark, this.origin)}`, this.at(place));
  }
}
