// One of the workers that train together: it has the whole network, makes the gradients of its
// share of a step's texts, and moves its share of the parameters. crew.js says who does what.

import { Network } from "./network.js";
import { Optimizer, partsOf, sharesOf } from "./optimizer.js";
import { Windows } from "./windows.js";

/** @import { Answer, Beginning, Learning, Moving, Question } from "./training.d.ts" */
/** @import { Part } from "./optimizer.js" */

/** The values of some parts of a vector, one behind the other.
 * @param {Float32Array} vector
 * @param {Part[]} parts */
export function gather(vector, parts) {
  const count = parts.reduce((sum, { rows, columns }) => sum + rows * columns, 0);
  const values = new Float32Array(count);
  let to = 0;
  for (const { at, rows, columns } of parts) {
    values.set(vector.subarray(at, at + rows * columns), to);
    to += rows * columns;
  }
  return values;
}

/** Puts them back.
 * @param {Float32Array} vector
 * @param {Part[]} parts
 * @param {Float32Array} values */
export function scatter(vector, parts, values) {
  let from = 0;
  for (const { at, rows, columns } of parts) {
    vector.set(values.subarray(from, from + rows * columns), at);
    from += rows * columns;
  }
}

export class Trainee {
  /** Throws a sentence when the network cannot be trained here.
   * @param {Beginning} beginning */
  constructor({ config, recipe, ids, number, of, seed, most }) {
    this.recipe = recipe;
    this.alone = of === 1;
    this.parts = sharesOf(partsOf(config, recipe), of)[number];
    this.network = new Network(config, most);
    this.network.seed(seed);
    this.windows = new Windows(ids, config.block_size, recipe.seed);
    this.optimizer = new Optimizer(this.network, recipe, this.parts);
  }

  /** Makes the gradients of some windows; each character counts 1 / (characters of the step).
   * @param {Learning} question
   * @returns {Answer} */
  learn({ first, count, weights }) {
    const { network, windows } = this;
    const weight = 1 / (this.recipe.batch_size * windows.size);
    let loss = 0;
    if (weights) network.weights.set(weights);
    network.forgetGradients();
    for (let done = 0; done < count; done += network.texts) {
      const texts = Math.min(network.texts, count - done);
      windows.fill(network.ids, network.targets, first + done, texts);
      loss += network.learn(texts, weight);
    }
    return { loss, values: this.alone ? null : network.gradients.slice() };
  }

  /** Moves its parameters by their gradients, its own if it is alone.
   * @param {Moving} question
   * @returns {Answer} */
  move({ step, total, gradients }) {
    const { network, parts } = this;
    if (gradients) scatter(network.gradients, parts, gradients);
    this.optimizer.update(step, total);
    return { loss: 0, values: gather(network.weights, parts) };
  }

  /** @param {Question} question */
  answer(question) {
    return question.type === "learn" ? this.learn(question) : this.move(question);
  }
}
