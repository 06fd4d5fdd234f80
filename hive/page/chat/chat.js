// Talk to the network: it runs here, in a Web Worker (worker.js). The coordinator only gives the
// weights, and only when somebody sends something that they are needed for.

import { labelled, make } from "../dom.js";
import { bits, bytes, count, nats } from "../format.js";
import { TimeSlider } from "./time.js";
import { Transcript } from "./transcript.js";

/** @import { Answer, Loaded, Question } from "./messages.d.ts" */
/** @import { State } from "../state.js" */

export class Chat {
  transcript = new Transcript();
  time = new TimeSlider();
  /** @type {Loaded | null} */
  loaded = null; // the weights that the worker has
  /** @type {"loading" | "writing" | ""} */
  doing = "";
  task = 0; // answers to earlier messages are not for us any more
  /** @type {Worker | null} */
  worker = null;
  session = "";
  size = 0; // of the weights, in bytes
  fetching = ""; // what is said meanwhile

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

  /** @param {HTMLElement} section in which everything is built */
  constructor(section) {
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
    section.append(this.note, this.time.node, this.transcript.node, this.form);
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
    if (this.loaded && (chosen === null ? have >= newest : have === chosen)) {
      this.write(this.loaded);
      return;
    }
    this.become("loading");
    this.progress.removeAttribute("value"); // not known yet
    this.fetching = `Fetching the weights ${this.time.name(chosen ?? newest)}.`;
    this.say(this.fetching);
    const weights = "model.safetensors" + (chosen === null ? "" : `?round=${chosen}`);
    this.ask({ type: "load", url: new URL(weights, document.baseURI).href });
  }

  /** @param {Loaded} loaded */
  write(loaded) {
    const { text } = this.transcript, prompt = this.prompt.value;
    const gap = text && prompt && !text.endsWith("\n") ? "\n" : "";
    this.transcript.begin(this.time.name(loaded.round), prompt);
    this.prompt.value = "";
    this.describe(loaded);
    this.become("writing");
    this.ask({
      type: "write",
      prompt: text + gap + prompt,
      length: this.length.valueAsNumber,
      temperature: this.temperature.valueAsNumber,
      topK: this.topK.valueAsNumber || null,
    });
  }

  stop() {
    if (!this.doing) return;
    this.ask({ type: "stop" });
    if (this.doing === "loading") {
      this.say("Stopped: no new weights were loaded.");
      this.meter.textContent = "";
    }
    this.become("");
  }

  /** @param {Question} question */
  ask(question) {
    this.worker ??= this.startWorker();
    this.task++;
    this.worker.postMessage({ ...question, id: this.task });
  }

  startWorker() {
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    worker.addEventListener("message", ({ data }) => {
      if (data.id === this.task) this.hear(data);
    });
    worker.addEventListener("error", () => {
      this.worker = null; // the next message starts another
      this.loaded = null;
      this.fail("The program that runs the network could not be loaded: either the coordinator "
        + "does not answer, or this browser is too old (it needs module workers).");
    });
    return worker;
  }

  /** @param {Answer} answer of the worker */
  hear(answer) {
    switch (answer.type) {
      case "loading": this.showProgress(answer.received, answer.total ?? this.size); break;
      case "busy":
        this.say(`The coordinator is busy; asking again in ${answer.seconds} s.`);
        break;
      case "loaded":
        this.loaded = answer;
        this.write(answer);
        break;
      case "begun":
        this.transcript.text = answer.prompt;
        this.tellMissing(answer.missing);
        break;
      case "text":
        this.transcript.append(answer.text);
        this.showSpeed(answer.speed);
        break;
      case "written":
        this.showSpeed(answer.speed);
        this.become("");
        break;
      case "error": this.fail(answer.error);
    }
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
