// The page's side of the Web Worker that is its peer (../peer/worker.js), from start to end.

/** @import { Facts, Figures, Joining } from "../peer/joining.d.ts" */

const TOO_OLD = "The program that trains could not be loaded: either the coordinator does not "
  + "answer, or this browser is too old (it needs module workers).";

/** What a tab's peer is doing.
 * @typedef {"idle" | "training" | "paused" | "stopping"} Mode */

export class Trainer {
  /** @type {Mode} */
  mode = "idle";
  /** @type {Figures | null} */
  figures = null;
  sentence = ""; // the latest for people
  failed = false; // it is about something that went wrong
  /** @type {Worker | null} */
  worker = null;

  /** @param {() => void} changed */
  constructor(changed) {
    this.changed = changed;
  }

  /** @param {Joining} joining */
  start(joining) {
    this.worker = new Worker(new URL("../peer/worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.hear(data);
    this.worker.onerror = ({ message }) => this.hear({ type: "ended", how: "failed",
      why: this.figures ? `The program that trains broke down: ${message}` : TOO_OLD });
    this.worker.postMessage({ type: "join", ...joining });
    this.figures = null;
    this.become("training", "Joining.");
  }

  /** @param {string} why */
  pause(why) {
    this.worker?.postMessage({ type: "pause" });
    this.become("paused", why);
  }

  goOn() {
    this.worker?.postMessage({ type: "train" });
    this.become("training", "Joining again.");
  }

  stop() {
    this.worker?.postMessage({ type: "stop" });
    this.become("stopping", "Stopping after this step.");
  }

  /** @param {Mode} mode
   * @param {string} sentence */
  become(mode, sentence, failed = false) {
    Object.assign(this, { mode, sentence, failed });
    this.changed();
  }

  /** @param {Facts} facts */
  hear(facts) {
    switch (facts.type) {
      case "figures":
        this.figures = facts;
        this.changed();
        break;
      case "said": this.say(facts.kind, facts.text); break;
      case "ended": this.end(facts.how, facts.why); break;
      case "paused": // as it was told to
    }
  }

  /** Only what a visitor wants to know.
   * @param {string} kind
   * @param {string} text */
  say(kind, text) {
    /** @type {Record<string, string>} */
    const sentences = {
      joined: `Joined as ${text.slice(text.indexOf(" as ") + 4)}.`,
      waiting: `There is ${text}.`,
      rejected: `An update was rejected: ${text}`,
      "given up": `Gave up ${text}.`,
      trouble: text,
      "not kept": text,
    };
    const sentence = sentences[kind];
    if (sentence && this.mode === "training") this.become("training", sentence, kind !== "joined");
  }

  /** @param {"finished" | "refused" | "stopped" | "failed"} how
   * @param {string} why */
  end(how, why) {
    this.worker?.terminate();
    this.worker = null;
    const sentences = { finished: `The run is over: ${why}.`, refused: why, failed: why,
      stopped: "Stopped. What counted stays in the model." };
    this.become("idle", sentences[how], how === "refused" || how === "failed");
  }
}
