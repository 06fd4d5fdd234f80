// Talk to the network: it runs here, in a Web Worker (worker.js). The coordinator only gives the
// weights, and only when somebody sends something that they are needed for.

import { labelled, make } from "../dom.js";
import { bits, bytes, count, nats } from "../format.js";
import { TimeSlider } from "./time.js";
import { Transcript } from "./transcript.js";

export class Chat {
  constructor(section) {
    this.transcript = new Transcript();
    this.time = new TimeSlider();
    this.loaded = null; // what the worker said of the weights it has
    this.doing = ""; // "loading", "writing", or nothing
    this.task = 0; // answers to earlier messages are not for us any more
    this.makeControls();
    section.append(this.note, this.time.node, this.transcript.node, this.form);
  }

  makeControls() {
    const number = (properties) => make("input", { type: "number", step: 1, ...properties });
    this.note = make("p", { className: "chat-note" });
    this.prompt = make("textarea", { rows: 2, placeholder: "Begin a text", spellcheck: false });
    this.button = make("button", { type: "submit", className: "chat-send", disabled: true });
    this.heat = make("span", { textContent: "0.80" });
    this.temperature = make("input", { type: "range", min: 0, max: 2, step: 0.05, value: 0.8 });
    this.topK = number({ min: 1, placeholder: "off" });
    this.length = number({ min: 1, max: 100000, value: 400, required: true });
    const clear = make("button", { type: "button", textContent: "Clear" });
    this.status = make("p", { className: "chat-status" });
    this.status.setAttribute("role", "status");
    this.progress = make("progress", { hidden: true });
    this.progress.setAttribute("aria-label", "Download of the weights");
    this.meter = make("p", { className: "chat-meter" });

    this.form = make("form", { className: "chat-form" },
      labelled("Your text (Enter sends, Shift+Enter begins a new line)", this.prompt),
      make("div", { className: "chat-buttons" }, this.button, clear, this.meter, this.progress),
      this.status,
      make("div", { className: "chat-settings" },
        labelled("Temperature", this.temperature, this.heat),
        labelled("Top-k (empty: off)", this.topK), labelled("Characters", this.length)));

    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.doing ? this.stop() : this.send();
    });
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.doing) this.button.click();
    });
    this.temperature.addEventListener("input", () => {
      this.heat.textContent = this.temperature.valueAsNumber.toFixed(2);
    });
    clear.addEventListener("click", () => {
      this.stop();
      this.transcript.clear();
      this.prompt.focus();
    });
    this.become("");
  }

  // The state of docs/api.md. Nothing is fetched here.
  update(state) {
    if (state.session !== this.session) this.loaded = null; // they may be of another run
    this.session = state.session;
    this.size = 4 * state.parameters; // fp32
    this.time.update(state);
    this.button.disabled = false;
    this.note.textContent = "The network runs here, in your browser, and nothing you write " +
      `leaves it. Send fetches the weights (${bytes(this.size)}) unless they are here already.`;
  }

  become(doing) {
    this.doing = doing;
    this.button.textContent = doing ? "Stop" : "Send";
    this.progress.hidden = doing !== "loading";
    if (!doing) this.transcript.end();
  }

  say(sentence, failed = false) {
    if (this.status.textContent !== sentence) this.status.textContent = sentence; // spoken once
    this.status.classList.toggle("chat-failed", failed);
  }

  // Fetch the chosen weights if they are not here, then write.
  send() {
    const { chosen, newest } = this.time;
    const have = this.loaded?.round ?? -1;
    if (chosen === null ? have >= newest : have === chosen) return this.write();
    this.become("loading");
    this.progress.removeAttribute("value"); // not known yet
    this.fetching = `Fetching the weights ${this.time.name(chosen ?? newest)}.`;
    this.say(this.fetching);
    const weights = "model.safetensors" + (chosen === null ? "" : `?round=${chosen}`);
    this.ask("load", { url: new URL(weights, document.baseURI).href });
  }

  write() {
    const { text } = this.transcript, prompt = this.prompt.value;
    const gap = text && prompt && !text.endsWith("\n") ? "\n" : "";
    this.transcript.begin(this.time.name(this.loaded.round), prompt);
    this.prompt.value = "";
    this.describe();
    this.become("writing");
    this.ask("write", {
      prompt: text + gap + prompt,
      length: this.length.valueAsNumber,
      temperature: this.temperature.valueAsNumber,
      topK: this.topK.valueAsNumber || null,
    });
  }

  stop() {
    if (!this.doing) return;
    this.ask("stop");
    if (this.doing === "loading") {
      this.say("Stopped: no new weights were loaded.");
      this.meter.textContent = "";
    }
    this.become("");
  }

  ask(type, facts = {}) {
    this.worker = this.worker ?? this.startWorker();
    this.task++;
    this.worker.postMessage({ type, id: this.task, ...facts });
  }

  startWorker() {
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    worker.addEventListener("message", ({ data }) => {
      if (data.id === this.task) this[`on${data.type}`](data);
    });
    worker.addEventListener("error", () => {
      this.worker = null; // the next message starts another
      this.loaded = null;
      this.onerror({ error: "The program that runs the network could not be loaded: either the "
        + "coordinator does not answer, or this browser is too old (it needs module workers)." });
    });
    return worker;
  }

  // What the worker answers

  onloading({ received, total }) {
    this.say(this.fetching);
    this.progress.max = total ?? this.size;
    this.progress.value = received;
    this.meter.textContent = `${bytes(received)} of ${bytes(this.progress.max)}`;
  }

  onbusy({ seconds }) {
    this.say(`The coordinator is busy; asking again in ${seconds} s.`);
  }

  onloaded(facts) {
    this.loaded = facts;
    this.write();
  }

  onbegun({ prompt, missing }) {
    this.transcript.text = prompt;
    if (!missing.length) return;
    const few = missing.slice(0, 10).map((character) => JSON.stringify(character)).join(", ");
    const more = missing.length > 10 ? `, and ${missing.length - 10} more` : "";
    this.transcript.note(`Left out, because it has never seen them: ${few}${more}`);
  }

  ontext({ text, speed }) {
    this.transcript.append(text);
    this.showSpeed(speed);
  }

  onwritten({ speed }) {
    this.showSpeed(speed);
    this.become("");
  }

  onerror({ error }) {
    this.say(error, true);
    this.meter.textContent = "";
    this.become("");
  }

  describe() {
    const { round, step, val_loss, bytes: size } = this.loaded;
    const loss = val_loss === null ? ""
      : `, validation loss ${nats(val_loss)} nats (${bits(val_loss)} bits)`;
    this.say(`Loaded: ${this.time.name(round)}, step ${count(step)}${loss}, ${bytes(size)}.`);
  }

  showSpeed(speed) {
    this.meter.textContent = `${count(speed)} characters/s, measured here`;
  }
}
