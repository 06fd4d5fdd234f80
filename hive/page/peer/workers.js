// The members of a crew as Web Workers, each with a network of its own.

import { GltchError } from "./errors.js";

/** @import { Answer, Beginning, Question } from "./training.d.ts" */

/** @typedef {{ answer: Answer | null } | { sentence: string }} Reply */

/** One worker, which is asked one thing at a time. */
export class HiredWorker {
  /** @type {{ resolve: (answer: any) => void, reject: (error: Error) => void } | null} */
  waiting = null;

  constructor() {
    this.worker = new Worker(new URL("training_worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.hear(data);
    this.worker.onerror = () => this.waiting?.reject(new GltchError("A worker of this page broke "
      + "down: the browser is too old, or short of memory. Use fewer workers."));
  }

  /** @param {Reply} reply */
  hear(reply) {
    const { waiting } = this;
    this.waiting = null;
    if ("answer" in reply) waiting?.resolve(reply.answer);
    else waiting?.reject(new GltchError(reply.sentence));
  }

  /** @param {Question | (Beginning & { kernels: ArrayBuffer })} message
   * @param {Transferable[]} moved what goes there without a copy, and is gone here
   * @returns {Promise<any>} */
  say(message, moved = []) {
    return new Promise((resolve, reject) => {
      this.waiting = { resolve, reject };
      this.worker.postMessage(message, moved);
    });
  }

  /** Its numbers were made for this question only.
   * @param {Question} question
   * @returns {Promise<Answer>} */
  ask(question) {
    const numbers = question.type === "learn" ? question.weights : question.gradients;
    return this.say(question, numbers ? [numbers.buffer] : []);
  }

  end() {
    this.worker.terminate();
  }
}

/** Workers that are ready to train. Throws a sentence, and leaves none behind, where one cannot.
 * @param {ArrayBuffer} kernels
 * @param {Omit<Beginning, "number" | "of" | "seed">} beginning
 * @param {number} of */
export async function hire(kernels, beginning, of) {
  const workers = Array.from({ length: of }, () => new HiredWorker());
  try {
    await Promise.all(workers.map((worker, number) => worker.say({ ...beginning, kernels, number,
      of, seed: crypto.getRandomValues(new Uint32Array(4)) })));
  } catch (error) {
    for (const worker of workers) worker.end();
    throw error;
  }
  return workers;
}
