// The page's side of the Web Worker (worker.js): who asked what, and so who hears the answer.

/** @import { Answer, Question } from "./messages.d.ts" */
/** @import { State } from "../state.js" */

/** @typedef {(answer: Answer) => void} Hear */

/** A question, before it is said where its weights are.
 * @template {Question} Kind
 * @typedef {Kind extends Question ? Omit<Kind, "url"> : never} Open */

export class Engine {
  /** @type {Worker | null} */
  worker = null; // none before somebody asks something
  id = 0;
  /** @type {Map<number, Hear>} */
  waiting = new Map();
  session = "";

  /** What is kept may be of another run.
   * @param {State} state */
  update({ session }) {
    if (session !== this.session) this.worker?.postMessage({ type: "forget", id: 0 });
    this.session = session;
  }

  /** The weights of its round are fetched if they are not here. Returns the question's number.
   * @param {Open<Question>} question
   * @param {Hear} hear every answer to it */
  ask(question, hear) {
    this.worker ??= this.start();
    this.id += 1;
    this.waiting.set(this.id, hear);
    const place = "model.safetensors" + (question.round === null ? "" : `?round=${question.round}`);
    this.worker.postMessage(
      { ...question, url: new URL(place, document.baseURI).href, id: this.id });
    return this.id;
  }

  /** No more answers are heard.
   * @param {number} task */
  stop(task) {
    if (this.waiting.delete(task)) this.worker?.postMessage({ type: "stop", task, id: 0 });
  }

  start() {
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    worker.addEventListener("message", ({ data }) => {
      const hear = this.waiting.get(data.id);
      if (["done", "moment", "logits", "error"].includes(data.type)) this.waiting.delete(data.id);
      hear?.(data);
    });
    worker.addEventListener("error", () => {
      const left = [...this.waiting.values()];
      this.worker = null; // the next question starts another
      this.waiting.clear();
      const error = "The program that runs the network could not be loaded: either the "
        + "coordinator does not answer, or this browser is too old (it needs module workers).";
      for (const hear of left) hear({ type: "error", error });
    });
    return worker;
  }
}
