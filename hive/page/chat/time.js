import { labelled, make } from "../dom.js";
import { count } from "../format.js";

// Which version to talk to: the newest, at the right end, or one from before.
export class TimeSlider {
  constructor() {
    this.chosen = null; // a version, or null for the newest
    this.input = make("input", { type: "range", min: 0, max: 0, disabled: true });
    this.value = make("span");
    this.node = labelled("Version to talk to", this.input, this.value);
    this.input.addEventListener("input", () => {
      const place = this.input.valueAsNumber;
      this.chosen = place === this.last ? null : this.earlier ? this.earlier[place] : place;
      this.show();
    });
  }

  update({ version, unit, snapshots }) {
    this.unit = unit;
    this.newest = snapshots?.length ? snapshots[snapshots.length - 1] : version;
    this.earlier = snapshots && snapshots.slice(0, -1);
    this.last = this.earlier ? this.earlier.length : version;
    let place = this.earlier ? this.earlier.indexOf(this.chosen) : this.chosen ?? -1;
    if (place < 0 || place >= this.last) { // it is the newest, or it is not kept any more
      this.chosen = null;
      place = this.last;
    }
    this.input.max = this.last;
    this.input.value = place;
    this.input.disabled = this.last === 0;
    this.show();
  }

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
