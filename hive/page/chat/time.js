// The slider through the versions of the network.

import { labelled, make } from "../dom.js";
import { count } from "../format.js";

/** @import { Maybe } from "../facts.d.ts" */
/** @import { State } from "../state.js" */

/** Which version is meant: the newest, at the right end, or one from before. */
export class TimeSlider {
  /** @type {number | null} */
  chosen = null; // a version, or null for the newest
  unit = "";
  newest = 0;
  /** @type {number[] | null} */
  earlier = null; // the versions before that can be had; null: all
  last = 0; // place on the slider
  moved = false; // somebody chose

  /** @param {string} label */
  constructor(label) {
    this.input = make("input", { type: "range", min: "0", max: "0", disabled: true });
    this.value = make("span");
    this.node = labelled(label, this.input, this.value);
    this.input.addEventListener("input", () => {
      this.moved = true;
      this.choose(this.input.valueAsNumber);
    });
  }

  /** @param {number} place on the slider */
  choose(place) {
    this.chosen = place === this.last ? null : this.earlier ? this.earlier[place] : place;
    this.input.value = String(place);
    this.show();
  }

  /** @param {State} state */
  update({ version, unit, snapshots }) {
    this.unit = unit;
    this.newest = snapshots?.length ? snapshots[snapshots.length - 1] : version;
    this.earlier = snapshots && snapshots.slice(0, -1);
    this.last = this.earlier ? this.earlier.length : version;
    let place = this.chosen ?? -1;
    if (this.earlier) place = this.earlier.indexOf(place);
    if (place < 0 || place >= this.last) { // it is the newest, or it is not kept any more
      this.chosen = null;
      place = this.last;
    }
    this.input.max = String(this.last);
    this.input.value = String(place);
    this.input.disabled = this.last === 0;
    this.show();
  }

  /** @param {Maybe} version */
  name(version) {
    return version === 0 ? "before training" : `after ${this.unit} ${count(version)}`;
  }

  show() {
    const text = this.chosen === null ? `the newest, ${this.name(this.newest)}`
      : `as it was ${this.name(this.chosen)}`;
    this.value.textContent = text;
    this.input.setAttribute("aria-valuetext", text);
  }
}
