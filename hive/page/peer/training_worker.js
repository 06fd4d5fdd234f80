// A Web Worker of a crew (crew.js): told first of the network, then one question after the other.

import { GltchError } from "./errors.js";
import { load } from "./kernels.js";
import { Trainee } from "./trainee.js";

/** @import { Beginning, Question } from "./training.d.ts" */

/** @type {Trainee | undefined} */
let trainee;

/** @param {Beginning & { kernels: ArrayBuffer }} beginning */
async function begin({ kernels, ...beginning }) {
  await load(kernels);
  trainee = new Trainee(beginning);
}

/** @param {MessageEvent<(Beginning & { kernels: ArrayBuffer }) | Question>} message */
self.onmessage = async ({ data }) => {
  try {
    if ("kernels" in data) {
      await begin(data);
      self.postMessage({ answer: null });
    } else if (trainee) {
      const answer = trainee.answer(data);
      self.postMessage({ answer }, { transfer: answer.values ? [answer.values.buffer] : [] });
    }
  } catch (error) {
    if (!(error instanceof GltchError)) throw error;
    self.postMessage({ sentence: error.message });
  }
};
