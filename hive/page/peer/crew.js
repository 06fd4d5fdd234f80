// The workers that make every step of a peer together. They share no memory, which a browser gives
// only to pages with special headers: each makes the gradients of some of the texts, the gradients
// are summed here, each moves some of the parameters, and here the weights are put together again.

import { require } from "./errors.js";
import { partsOf, sharesOf } from "./optimizer.js";
import { gather, scatter } from "./trainee.js";

/** @import { Answer, Member, Question } from "./training.d.ts" */
/** @import { Config } from "./network.js" */
/** @import { Recipe } from "./optimizer.js" */

/** @param {Answer} answer */
function valuesOf({ values }) {
  if (!values) throw new Error("A worker keeps to itself what it should tell.");
  return values;
}

/** The steps of a run, as Trainer in gltch_2_7m.py makes them. */
export class Crew {
  step = 0;
  /** @type {number | null} */
  total = null; // null: not known yet
  firstWindow = 0; // that step 0 begins with, in the text's order
  changed = true; // the weights, by others than the crew

  /** @param {Config} config
   * @param {Recipe} recipe
   * @param {Float32Array} weights (P,), where the newest always are
   * @param {Member[]} members */
  constructor(config, recipe, weights, members) {
    this.recipe = recipe;
    this.block = config.block_size;
    this.weights = weights;
    this.members = members;
    this.shares = sharesOf(partsOf(config, recipe), members.length);
  }

  /** Characters in a step. */
  get tokens() {
    return this.recipe.batch_size * this.block;
  }

  /** One step on the next batch; returns its mean loss. Throws a sentence, with the weights
   * untouched, when the loss is not finite. */
  async trainStep() {
    const { step, total, shares } = this, learned = await this.askAll(this.lessons());
    const loss = learned.reduce((sum, answer) => sum + answer.loss, 0);
    require(Number.isFinite(loss), `The loss became ${loss} at step ${step + 1}.`);
    const gradients = this.members.length === 1 ? null : sumOf(learned.map(valuesOf));
    const moved = await this.askAll(shares.map((parts) => ({ type: "move", step, total,
      gradients: gradients && gather(gradients, parts) })));
    moved.forEach((answer, i) => scatter(this.weights, shares[i], valuesOf(answer)));
    this.changed = this.members.length > 1; // each has only its own new ones
    this.step++;
    return loss;
  }

  /** What each has to learn from: nearly equal shares of the batch.
   * @returns {Question[]} */
  lessons() {
    const { batch_size } = this.recipe, first = this.firstWindow + this.step * batch_size;
    const border = (/** @type {number} */ n) => (
      Math.floor((batch_size * n) / this.members.length));
    return this.members.map((_, n) => ({ type: "learn", first: first + border(n),
      count: border(n + 1) - border(n), weights: this.changed ? this.weights.slice() : null }));
  }

  /** @param {Question[]} questions */
  askAll(questions) {
    return Promise.all(this.members.map((member, i) => member.ask(questions[i])));
  }
}

/** In the order of the workers, so that a step is the same every time.
 * @param {Float32Array[]} vectors
 * @returns {Float32Array} the first one */
function sumOf([sum, ...others]) {
  for (const vector of others) {
    for (let i = 0; i < sum.length; i++) sum[i] += vector[i];
  }
  return sum;
}
