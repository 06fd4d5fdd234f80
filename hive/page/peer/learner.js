// A peer's share of the training, as in hive/learning/worker.py: inner steps from the hive's
// weights, and what leaves the machine of what was learned.

import { require } from "./errors.js";
import { ErrorFeedback } from "./feedback.js";
import { Optimizer } from "./optimizer.js";

/** @import { Part } from "./fragments.js" */
/** @import { Network } from "./network.js" */
/** @import { Recipe } from "./optimizer.js" */
/** @import { Windows } from "./windows.js" */

/** The steps of a run, by one worker. Weights, gradients and the optimizer's state are in the
 * network's memory. */
export class Trainer {
  step = 0;
  /** @type {number | null} */
  total = null; // null: not known yet
  firstWindow = 0; // that step 0 begins with, in the text's order

  /** @param {Network} network
   * @param {Recipe} recipe
   * @param {Windows} windows */
  constructor(network, recipe, windows) {
    this.network = network;
    this.recipe = recipe;
    this.windows = windows;
    this.optimizer = new Optimizer(network, recipe);
  }

  /** @returns {Float32Array} (P,), where they are */
  get weights() {
    return this.network.weights;
  }

  /** Adds the gradients of some windows; each character counts 1 / (characters of the step).
   * Returns their part of the mean loss.
   * @param {number} first
   * @param {number} count */
  backpropagate(first, count) {
    const { network, windows } = this;
    const weight = 1 / (this.recipe.batch_size * windows.size);
    let loss = 0;
    for (let done = 0; done < count; done += network.texts) {
      const texts = Math.min(network.texts, count - done);
      windows.fill(network.ids, network.targets, first + done, texts);
      loss += network.learn(texts, weight);
    }
    return loss;
  }

  /** One step on the next batch; returns its mean loss. Throws a sentence, with the weights
   * untouched, when the loss is not finite. */
  trainStep() {
    const { step, total, recipe, network } = this;
    network.forgetGradients();
    const loss = this.backpropagate(this.firstWindow + step * recipe.batch_size, recipe.batch_size);
    require(Number.isFinite(loss), `The loss became ${loss} at step ${step + 1}.`);
    this.optimizer.update(step, total);
    this.step++;
    return loss;
  }
}

export class Learner {
  /** @param {Trainer} trainer
   * @param {string} codec of what leaves this machine
   * @param {number} beta */
  constructor(trainer, codec, beta) {
    this.trainer = trainer;
    this.codec = codec;
    this.anchor = trainer.weights.slice(); // (P,), from where on progress is not taken yet
    this.feedback = new ErrorFeedback(this.anchor.length, beta);
  }

  /** What follows is this step of a run of so many, on the text's windows from this one on.
   * @param {number} step
   * @param {number | null} total
   * @param {number} window */
  begin(step, total, window) {
    Object.assign(this.trainer, {
      step, total, firstWindow: window - step * this.trainer.recipe.batch_size });
  }

  /** From where the weights of a part are to where they were.
   * @param {Part} part */
  progress({ start, stop }) {
    const moved = this.anchor.slice(start, stop), { weights } = this.trainer;
    for (let i = 0; i < moved.length; i++) moved[i] -= weights[start + i];
    return moved;
  }

  /** Go on from these weights (P,); the optimizer keeps its state. Progress that was not taken
   * comes with later updates.
   * @param {Float32Array} weights */
  load(weights) {
    this.feedback.absorb(this.progress({ start: 0, stop: this.anchor.length }));
    this.trainer.weights.set(weights);
    this.anchor.set(weights);
  }

  /** A part is again as in these weights (P,), but for progress that was not taken.
   * @param {Float32Array} weights
   * @param {Part} part */
  rebase(weights, part) {
    const moved = this.progress(part), { start } = part;
    for (let i = 0; i < moved.length; i++) {
      this.trainer.weights[start + i] = weights[start + i] - moved[i];
      this.anchor[start + i] = weights[start + i];
    }
  }

  /** The update of a part. Training may go on: what it makes from now on is taken the next time.
   * @param {Part} part */
  take(part) {
    const update = this.progress(part), { start, stop } = part;
    this.anchor.set(this.trainer.weights.subarray(start, stop), start);
    return this.feedback.encode(this.codec, update, part);
  }
}
