// What the network writes.

import { ask } from "./connection.js";
import { element, setText } from "./dom.js";
import { count, nats } from "./format.js";

/** @import { Evaluated, Sample } from "./facts.d.ts" */
/** @import { State } from "./state.js" */

const MOST_SAMPLES = 1000;

/** One sample, the newest unless somebody looks back, and the first for comparison. */
export class Samples {
  text = element("sample", HTMLPreElement);
  about = element("sample-about");
  first = element("first", HTMLPreElement);
  firstAbout = element("first-about");
  older = element("older", HTMLButtonElement);
  newer = element("newer", HTMLButtonElement);
  /** @type {Sample[]} */
  samples = []; // oldest first
  place = -1;
  outdated = true;
  asking = false;
  unit = "";
  hive = ""; // whose samples these are

  constructor() {
    this.older.onclick = () => this.show(this.place - 1);
    this.newer.onclick = () => this.show(this.place + 1);
  }

  /** Those from before this page was opened, or lost its connection: until they are here.
   * @param {State} state */
  async load(state) {
    if (this.asking || !this.outdated) return;
    this.asking = true;
    /** @type {{ samples: Sample[], first: Sample | null } | null} */
    const answer = await ask("api/samples?limit=100");
    this.asking = false;
    if (!answer) return;
    const { samples, first } = answer;
    samples.reverse();
    if (first && first.round < samples[0].round) samples.unshift(first);
    const newest = samples.at(-1)?.round ?? -1;
    const meanwhile = this.hive === state.hive ? this.samples : [];
    this.unit = state.unit;
    this.hive = state.hive;
    this.outdated = false;
    this.samples = [...samples, ...meanwhile.filter(({ round }) => round > newest)];
    this.text.hidden = this.first.hidden = this.firstAbout.hidden = true;
    setText(this.about, "Nothing yet: the first sample comes with the next evaluation.");
    this.show(this.samples.length - 1);
  }

  /** @param {Evaluated} event */
  add({ version, step, val_loss, text }) {
    if (this.samples.some(({ round }) => round === version)) return;
    const follows = this.place === this.samples.length - 1; // a visitor who looks back is left in peace
    this.samples.push({ round: version, step, val_loss, text });
    if (this.samples.length > MOST_SAMPLES) {
      this.samples.splice(1, 1); // the first one stays
      this.place = Math.max(0, this.place - 1);
    }
    this.show(follows ? this.samples.length - 1 : this.place);
  }

  /** @param {number} place */
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

  /** @param {HTMLElement} node
   * @param {HTMLElement} about
   * @param {Sample} sample
   * @param {string} before */
  fill(node, about, { round, val_loss, text }, before) {
    node.hidden = false;
    setText(node, text);
    setText(about, `${before}after ${this.unit} ${count(round)}, `
      + `validation loss ${nats(val_loss)}`);
  }
}
