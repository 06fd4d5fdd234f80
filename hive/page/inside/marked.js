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
  /** @type {HTMLElement[]} */
  characters = [];
  /** @type {Map<EventTarget | null, number>} */
  places = new Map();
  line = make("span", { className: "marked-line" }); // the last
  node = make("span", { className: "marked" });

  /** @param {Origin} origin
   * @param {(visit: Visit) => void} open */
  constructor(origin, open) {
    this.origin = origin;
    this.open = open;
    const { node } = this;
    node.append(this.line);
    node.addEventListener("click", ({ target }) => this.choose(target));
    node.addEventListener("keydown", (event) => this.key(event));
    node.addEventListener("pointerover", ({ target }) => this.tell(target));
    node.addEventListener("focusin", ({ target }) => this.tell(target));
    for (const end of ["pointerleave", "focusout"]) node.addEventListener(end, () => tip.hide());
  }

  /** Lines are elements, so that a long text is not laid out as a whole for each character.
   * @param {Mark[]} marks */
  append(marks) {
    for (const mark of marks) {
      const character = make("span", {}, mark.character);
      character.dataset.shade = String(shade(mark.before));
      this.places.set(character, this.marks.length);
      this.marks.push(mark);
      this.characters.push(character);
      this.line.append(character);
      if (mark.character === "\n") {
        character.className = "marked-end";
        this.line = make("span", { className: "marked-line" });
        this.node.append(this.line);
      }
    }
    if (this.marks.length === marks.length) this.offer(0);
  }

  /** @param {number[]} places */
  underline(places) {
    for (const place of places) this.characters[place].classList.add("marked-worst");
  }

  /** Only one character is a button at a time: a text is for reading, and Tab should leave it.
   * @param {number} place */
  offer(place) {
    const character = this.characters[place], mark = this.marks[place];
    this.current = place;
    character.tabIndex = 0;
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
    const before = this.characters[this.current]; // is text again
    for (const name of ["role", "aria-label", "tabindex"]) before.removeAttribute(name);
    this.offer(Math.max(0, Math.min(this.marks.length - 1, place)));
    this.characters[this.current].focus();
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
    tip.show(`${named(mark.character)} ${chanceOf(mark, this.origin)}`,
      this.characters[place]);
  }
}
