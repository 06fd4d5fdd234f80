// How much a text surprises the network, now and as it was after an earlier round.

import { labelled, make, setText } from "../dom.js";
import { bytes, count } from "../format.js";
import { TimeSlider } from "../chat/time.js";
import { MarkedText, shadeKey } from "./marked.js";
import { Progress } from "./progress.js";
import { meanSurprise, named, odds, surprise, worstPlaces } from "./shade.js";

/** @import { Engine } from "../chat/engine.js" */
/** @import { Answer } from "../chat/messages.d.ts" */
/** @import { State } from "../state.js" */
/** @import { Inside } from "./inside.js" */

const LONGEST = 1000; // characters
const WORST = 5; // places that are marked

/** One reading of the text, by the network of one round. */
class Reading {
  title = make("h3");
  text = make("p", { className: "chat-text surprise-text" });
  worst = make("p", { className: "quiet" });
  node = make("article", { hidden: true }, this.title, this.text, this.worst);
  task = 0;
  /** @type {MarkedText | null} */
  marked = null;
  round = /** @type {number | null} */ (null);
  bits = NaN; // per character, once it has read all

  /** @param {Surprise} panel
   * @param {string} name */
  constructor(panel, name) {
    this.panel = panel;
    this.name = name;
  }

  /** @param {string} text
   * @param {number | null} round null: the newest */
  begin(text, round) {
    const { engine } = this.panel;
    engine.stop(this.task);
    this.bits = NaN;
    this.task = engine.ask({ type: "read", text, round }, (answer) => this.hear(answer));
  }

  /** @param {Answer} answer */
  hear(answer) {
    switch (answer.type) {
      case "loading":
        this.panel.say(`Fetching the weights, ${bytes(answer.received)}.`);
        break;
      case "busy":
        this.panel.say(`The coordinator is busy; asking again in ${answer.seconds} s.`);
        break;
      case "loaded": this.round = answer.round; break;
      case "begun": this.open(answer); break;
      case "text": this.marked?.append(answer.marks); break;
      case "done": this.close(); break;
      case "error": this.panel.say(answer.error, true);
    }
  }

  /** @param {Extract<Answer, { type: "begun" }>} begun */
  open({ context, missing }) {
    this.panel.tellMissing(missing);
    this.marked = new MarkedText({ round: this.round, taste: null,
      version: this.panel.time.name(this.round), context: [context] }, (visit) =>
      this.panel.inside.open(visit));
    this.text.replaceChildren(this.marked.node);
    setText(this.title, `${this.name}, ${this.panel.time.name(this.round)}`);
    setText(this.worst, "");
    this.node.hidden = false;
  }

  close() {
    const marks = this.marked?.marks ?? [], chances = marks.map(({ before }) => before);
    if (!marks.length) return;
    this.bits = meanSurprise(chances);
    this.title.append(`: ${this.bits.toFixed(2)} bits per character`);
    const places = worstPlaces(chances, WORST);
    this.marked?.underline(places);
    const words = places.map((place) => `${named(marks[place].character)} ${odds(chances[place])}` +
      ` (${surprise(chances[place]).toFixed(1)} bits)`);
    setText(this.worst, words.length ? `Underlined, what it expected least: ${words.join(", ")}.`
      : "Nothing in it stands out.");
    this.panel.finished(this);
  }
}

export class Surprise {
  text = "";

  note = make("p", { className: "chat-note" });
  input = make("textarea", { rows: 2, maxLength: LONGEST, spellcheck: false,
    placeholder: "Type a text, and see how well the network could have guessed it" });
  button = make("button", { type: "submit", className: "chat-send", disabled: true }, "Measure");
  take = make("button", { type: "button" }, "Take what it wrote");
  status = make("p", { className: "chat-status" });
  missing = make("p", { className: "chat-author" });
  time = new TimeSlider("Then: an earlier version");
  which = make("p", { className: "quiet surprise-which" });
  now = new Reading(this, "Now");
  then = new Reading(this, "Then");
  progress = new Progress();

  /** @param {HTMLElement} section in which everything is built
   * @param {Engine} engine
   * @param {Inside} inside where a character of it is looked at
   * @param {() => string} written what the network wrote last */
  constructor(section, engine, inside, written) {
    this.engine = engine;
    this.inside = inside;
    this.status.setAttribute("role", "status");
    const form = make("form", { className: "chat-form" }, labelled("A text of yours", this.input),
      make("div", { className: "chat-buttons" }, this.button, this.take),
      this.status, this.missing);
    section.append(this.note, form, this.time.node, this.which, shadeKey(), this.now.node,
      this.then.node, this.progress.node);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.measure();
    });
    this.take.addEventListener("click", () => {
      this.input.value = Array.from(written()).slice(0, LONGEST).join("");
      if (this.input.value) this.measure();
      else this.say("It wrote nothing yet: let it write above.");
    });
    this.time.input.addEventListener("change", () => {
      if (this.text) this.then.begin(this.text, this.time.chosen);
    });
  }

  /** @param {State} state */
  update(state) {
    this.time.update(state);
    if (!this.time.moved) this.time.choose(0);
    this.button.disabled = false;
    setText(this.note, "The network reads a text of yours, here in your browser: the darker a " +
      "character, the less it expected it, from what stands before it. Nothing you type leaves " +
      `this page. Each version is ${bytes(4 * state.parameters)} to fetch.`);
    setText(this.which, state.snapshots === null
      ? `Every round can be shown, from before training to round ${count(this.time.newest)}: the `
        + "coordinator works them out from its journal."
      : "Steps that can be shown: " + (state.snapshots.map(count).join(", ") || "none yet") +
        ". This program keeps the weights of its evaluations in memory, the older, the fewer.");
  }

  measure() {
    this.text = this.input.value;
    if (!this.text) return this.say("There is no text yet.");
    this.progress.clear();
    this.now.begin(this.text, null);
    this.then.begin(this.text, this.time.chosen);
  }

  /** @param {Reading} reading */
  finished({ round, bits }) {
    this.progress.add(round ?? 0, this.time.name(round), bits);
    const { now, then } = this, less = then.bits - now.bits;
    if (Number.isNaN(less)) return;
    const which = this.time.name(then.round);
    this.say(now.round === then.round ? "Both are the same version: choose an earlier one."
      : `${Math.abs(less).toFixed(2)} bits per character ${less < 0 ? "more" : "less"} than ` +
        `${which}.`);
  }

  /** @param {string[]} missing */
  tellMissing(missing) {
    setText(this.missing, missing.length ? "Left out, because it has never seen them: " +
      missing.slice(0, 10).map((character) => JSON.stringify(character)).join(", ") : "");
  }

  /** @param {string} sentence */
  say(sentence, failed = false) {
    setText(this.status, sentence);
    this.status.classList.toggle("chat-failed", failed);
  }
}
