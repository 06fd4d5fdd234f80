// Talk to the network: it runs here, in a Web Worker. The coordinator only gives the weights, and
// only when somebody sends something that they are needed for.

import { labelled, make } from "../dom.js";
import { bits, bytes, count, nats } from "../format.js";
import { shadeKey } from "../inside/marked.js";
import { TimeSlider } from "./time.js";
import { Transcript } from "./transcript.js";

/** @import { Answer, Loaded } from "./messages.d.ts" */
/** @import { Engine } from "./engine.js" */
/** @import { Inside } from "../inside/inside.js" */
/** @import { Origin } from "../inside/marked.js" */
/** @import { State } from "../state.js" */

export class Chat {
  /** @type {Loaded | null} */
  loaded = null; // the weights that it talked with last
  /** @type {"loading" | "writing" | ""} */
  doing = "";
  task = 0; // the question that is under way
  taste = { temperature: 0, topK: /** @type {number | null} */ (null) }; // of what is written
  session = "";
  size = 0; // of the weights, in bytes
  fetching = ""; // what is said meanwhile

  time = new TimeSlider("Version to talk to");
  note = make("p", { className: "chat-note" });
  prompt = make("textarea", { rows: 2, placeholder: "Begin a text", spellcheck: false });
  button = make("button", { type: "submit", className: "chat-send", disabled: true });
  heat = make("span", {}, "0.80");
  temperature = make("input", { type: "range", min: "0", max: "2", step: "0.05", value: "0.8" });
  topK = make("input", { type: "number", step: "1", min: "1", placeholder: "off" });
  length = make("input",
    { type: "number", step: "1", min: "1", max: "100000", value: "400", required: true });
  clear = make("button", { type: "button" }, "Clear");
  status = make("p", { className: "chat-status" });
  progress = make("progress", { hidden: true });
  meter = make("p", { className: "chat-meter" });

  /** @param {HTMLElement} section in which everything is built
   * @param {Engine} engine
   * @param {Inside} inside where a character that it wrote is looked at */
  constructor(section, engine, inside) {
    this.engine = engine;
    this.inside = inside;
    this.transcript = new Transcript((visit) => inside.open(visit));
    this.status.setAttribute("role", "status");
    this.progress.setAttribute("aria-label", "Download of the weights");
    this.form = make("form", { className: "chat-form" },
      labelled("Your text (Enter sends, Shift+Enter begins a new line)", this.prompt),
      make("div", { className: "chat-buttons" }, this.button, this.clear, this.meter,
        this.progress),
      this.status,
      make("div", { className: "chat-settings" },
        labelled("Temperature", this.temperature, this.heat),
        labelled("Top-k (empty: off)", this.topK), labelled("Characters", this.length)));
    section.append(this.note, this.time.node, this.transcript.node, shadeKey(), this.form);
    this.listen();
    this.become("");
  }

  listen() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.doing) this.stop();
      else this.send();
    });
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.doing) this.button.click();
    });
    this.temperature.addEventListener("input", () => {
      this.heat.textContent = this.temperature.valueAsNumber.toFixed(2);
    });
    this.clear.addEventListener("click", () => {
      this.stop();
      this.transcript.clear();
      this.prompt.focus();
    });
  }

  /** Nothing is fetched here.
   * @param {State} state */
  update(state) {
    if (state.session !== this.session) this.loaded = null; // they may be of another run
    this.session = state.session;
    this.size = 4 * state.parameters; // fp32
    this.time.update(state);
    this.button.disabled = false;
    this.note.textContent = "The network runs here, in your browser, and nothing you write " +
      `leaves it. Send fetches the weights (${bytes(this.size)}) unless they are here already.`;
  }

  /** @param {Chat["doing"]} doing */
  become(doing) {
    this.doing = doing;
    this.button.textContent = doing ? "Stop" : "Send";
    this.progress.hidden = doing !== "loading";
    if (!doing) this.transcript.end();
  }

  /** @param {string} sentence */
  say(sentence, failed = false) {
    if (this.status.textContent !== sentence) this.status.textContent = sentence; // spoken once
    this.status.classList.toggle("chat-failed", failed);
  }

  /** Fetch the chosen weights if they are not here, then write. */
  send() {
    const { chosen, newest } = this.time;
    const have = this.loaded?.round ?? -1;
    this.become("loading");
    this.progress.removeAttribute("value"); // not known yet
    this.fetching = `Fetching the weights ${this.time.name(chosen ?? newest)}.`;
    this.say(this.fetching);
    const { text } = this.transcript, prompt = this.prompt.value;
    const gap = text && prompt && !text.endsWith("\n") ? "\n" : "";
    this.taste = { temperature: this.temperature.valueAsNumber,
      topK: this.topK.valueAsNumber || null };
    this.task = this.engine.ask({
      type: "write",
      round: chosen ?? (have >= newest ? have : null),
      prompt: text + gap + prompt,
      length: this.length.valueAsNumber,
      ...this.taste,
    }, (answer) => this.hear(answer, prompt));
  }

  /** @param {Loaded} loaded
   * @param {string} prompt */
  begin(loaded, prompt) {
    this.loaded = loaded;
    this.transcript.begin(this.time.name(loaded.round), prompt);
    this.prompt.value = "";
    this.describe(loaded);
    this.become("writing");
  }

  stop() {
    if (!this.doing) return;
    this.engine.stop(this.task);
    if (this.doing === "loading") {
      this.say("Stopped: no new weights were loaded.");
      this.meter.textContent = "";
    }
    this.become("");
  }

  /** @param {Answer} answer of the network
   * @param {string} prompt that began the turn */
  hear(answer, prompt) {
    switch (answer.type) {
      case "loading": this.showProgress(answer.received, answer.total ?? this.size); break;
      case "busy":
        this.say(`The coordinator is busy; asking again in ${answer.seconds} s.`);
        break;
      case "loaded": this.begin(answer, prompt); break;
      case "begun":
        this.transcript.text = answer.text;
        this.transcript.goOn(this.origin(answer.context));
        this.tellMissing(answer.missing);
        break;
      case "text":
        this.transcript.append(answer.marks);
        this.showSpeed(answer.speed);
        this.inside.watch(answer.moment, this.transcript.written);
        break;
      case "done":
        this.showSpeed(answer.speed);
        this.become("");
        break;
      case "error": this.fail(answer.error);
    }
  }

  /** What is written now.
   * @param {string} context
   * @returns {Origin} */
  origin(context) {
    const round = this.loaded?.round ?? null;
    return { round, version: this.time.name(round), context: Array.from(context),
      taste: this.taste };
  }

  /** @param {number} received
   * @param {number} total */
  showProgress(received, total) {
    this.say(this.fetching);
    this.progress.max = total;
    this.progress.value = received;
    this.meter.textContent = `${bytes(received)} of ${bytes(total)}`;
  }

  /** @param {string[]} missing */
  tellMissing(missing) {
    if (!missing.length) return;
    const few = missing.slice(0, 10).map((character) => JSON.stringify(character)).join(", ");
    const more = missing.length > 10 ? `, and ${missing.length - 10} more` : "";
    this.transcript.note(`Left out, because it has never seen them: ${few}${more}`);
  }

  /** @param {string} error */
  fail(error) {
    this.say(error, true);
    this.meter.textContent = "";
    this.become("");
  }

  /** @param {Loaded} loaded */
  describe({ round, step, val_loss, bytes: size }) {
    const loss = val_loss === null ? ""
      : `, validation loss ${nats(val_loss)} nats (${bits(val_loss)} bits)`;
    this.say(`Loaded: ${this.time.name(round)}, step ${count(step)}${loss}, ${bytes(size)}.`);
  }

  /** @param {number} speed */
  showSpeed(speed) {
    this.meter.textContent = `${count(speed)} characters/s, measured here`;
  }
}
