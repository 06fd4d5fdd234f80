// What a visitor chooses before a tab trains, and what it will use.

import { labelled, make, setText } from "../dom.js";
import { mostWorkers, obstacle, uses, usualWorkers } from "./means.js";

/** @import { State } from "../state.js" */
/** @import { Means } from "./means.js" */

/** @typedef {object} Choice
 * @property {string} name
 * @property {string} key
 * @property {number} workers
 * @property {boolean} battery may it train on battery?
 * @property {boolean} awake may the screen not go dark? */

export class Form {
  name = make("input", { type: "text", maxLength: 32, value: "tab", required: true,
    autocomplete: "off", spellcheck: false });
  key = make("input", { type: "password", autocomplete: "off", required: true });
  chosen = make("span");
  workers = make("input", { type: "range", min: "1", step: "1" });
  battery = make("input", { type: "checkbox" });
  awake = make("input", { type: "checkbox" });
  uses = make("p");
  button = make("button", { type: "submit", className: "tab-start" }, "Train in this tab");
  /** @type {number | null} */
  preferred = null; // workers, in earlier pages
  /** @type {State | null} */
  state = null;

  /** @param {Means} means
   * @param {{ battery: boolean, awake: boolean }} tells what this browser knows of
   * @param {(choice: Choice) => void} start */
  constructor(means, tells, start) {
    this.means = means;
    this.keyLabel = labelled("Key of the hive", this.key);
    const option = (/** @type {HTMLElement} */ box, /** @type {string} */ text) => (
      make("label", { className: "tab-option" }, box, text));
    this.controls = make("div", { className: "tab-controls" },
      make("div", { className: "tab-settings" }, labelled("Name, shown to all", this.name),
        this.keyLabel, labelled("Workers", this.workers, this.chosen)),
      ...tells.battery ? [option(this.battery, "Train on battery, too (otherwise it pauses there)")]
        : [],
      ...tells.awake ? [option(this.awake, "Keep the screen on meanwhile")] : []);
    this.node = make("form", {}, this.controls, this.uses, this.button);
    this.workers.addEventListener("input", () => this.tell());
    this.node.addEventListener("submit", (event) => {
      event.preventDefault();
      start(this.choice);
    });
  }

  /** As it was before.
   * @param {Omit<Choice, "key">} choice */
  fill({ name, workers, battery, awake }) {
    this.name.value = name;
    this.preferred = workers;
    this.battery.checked = battery;
    this.awake.checked = awake;
  }

  /** @returns {Choice} */
  get choice() {
    return { name: this.name.value, key: this.key.value, workers: this.workers.valueAsNumber,
      battery: this.battery.checked, awake: this.awake.checked };
  }

  /** @param {State} state */
  update(state) {
    this.state = state;
    const locked = Boolean(state.join?.locked), sentence = obstacle(this.means, state);
    this.keyLabel.hidden = !locked;
    this.key.required = locked;
    this.controls.hidden = this.button.hidden = sentence !== "";
    setText(this.uses, sentence);
    if (sentence) return;
    const most = mostWorkers(this.means, state);
    if (this.workers.max !== String(most)) {
      this.workers.max = String(most);
      this.workers.value = String(this.preferred ?? usualWorkers(this.means, state));
    }
    this.tell();
  }

  tell() {
    const { valueAsNumber: workers } = this.workers;
    setText(this.chosen, String(workers));
    if (this.state) setText(this.uses, uses(this.means, this.state, workers));
  }
}
