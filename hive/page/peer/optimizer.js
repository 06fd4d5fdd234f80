// Which optimizer moves which parameters, and how far: `lr_factor`, `make_optimizers` and the rates
// of `train_step` in gltch_2_7m.py, parts 5 to 7.

import { require } from "./errors.js";

/** @import { Config, Network } from "./network.js" */

/** What matters here of the TrainConfig in gltch_2_7m.py.
 * @typedef {object} Recipe
 * @property {number} batch_size texts of a step
 * @property {string} optimizer
 * @property {number | null} learning_rate null: as is usual for the optimizer
 * @property {number} embedding_learning_rate
 * @property {number} head_learning_rate
 * @property {number} weight_decay
 * @property {number} warmup steps
 * @property {number} cooldown last part of the run
 * @property {number} seed */

/** A matrix or vector, from `at` on in the flat vector of parameters.
 * @typedef {{ at: number, rows: number, columns: number, kind: Kind }} Tensor */

/** @typedef {"embedding" | "norm" | "head" | "qkv" | "matrix"} Kind */

/** @typedef {{ how: "muon" | "adamw" | "sgd", rate: number, decay: number, epsilon: number }} Rule
 * */

/** @type {Record<string, number>} */
const USUAL_RATE = { muon: 0.02, adamw: 0.001, sgd: 0.1 };

/** Fraction of the full learning rate: linear warm-up, hold, linear cooldown to zero.
 * @param {number} step
 * @param {number | null} total steps of the run; null: not known yet
 * @param {Recipe} recipe */
export function lrFactor(step, total, { warmup, cooldown }) {
  const warm = step < warmup ? (step + 1) / warmup : 1;
  if (total === null || cooldown === 0) return warm;
  return Math.min(warm, Math.max(0, (total - step) / (cooldown * total)));
}

/** All parameters, in the order of PyTorch's `model.parameters()`.
 * @param {Config} config
 * @returns {Tensor[]} */
export function tensorsOf({ vocab_size: V, block_size: T, n_layer, n_embd: C }) {
  /** @type {Tensor[]} */
  const tensors = [];
  let at = 0;
  const add = (/** @type {Kind} */ kind, /** @type {number} */ rows, columns = C) => {
    tensors.push({ at, rows, columns, kind });
    at += rows * columns;
  };
  add("embedding", V);
  add("embedding", T);
  for (let n = 0; n < n_layer; n++) {
    add("norm", 2); // weight and bias
    add("qkv", 3 * C);
    add("matrix", C); // projection
    add("norm", 2);
    add("matrix", 4 * C); // up
    add("matrix", C, 4 * C); // down
  }
  add("norm", 2);
  add("head", V);
  return tensors;
}

/** @param {Kind} kind
 * @param {Recipe} recipe
 * @returns {Rule} */
function ruleOf(kind, recipe) {
  const { optimizer, learning_rate, weight_decay, head_learning_rate } = recipe;
  const rate = learning_rate ?? USUAL_RATE[optimizer];
  if (optimizer === "sgd") return { how: "sgd", rate, decay: 0, epsilon: 0 };
  if (kind === "qkv" || kind === "matrix") {
    const how = optimizer === "muon" ? "muon" : "adamw";
    return { how, rate, decay: weight_decay, epsilon: 1e-8 };
  }
  const slow = kind === "head" ? head_learning_rate : recipe.embedding_learning_rate;
  return { how: "adamw", rate: slow, decay: 0, epsilon: 1e-10 };
}

/** One unit of an optimizer's work: a tensor, or one of the three matrices in qkv.
 * @typedef {Tensor & { rule: Rule }} Part */

/** @param {Config} config
 * @param {Recipe} recipe
 * @returns {Part[]} */
export function partsOf(config, recipe) {
  require(Object.hasOwn(USUAL_RATE, recipe.optimizer), "A browser trains with the "
    + `optimizers ${Object.keys(USUAL_RATE).join(", ")}, and this hive uses another one: join with `
    + "Python instead.");
  return tensorsOf(config).flatMap((tensor) => {
    const rule = ruleOf(tensor.kind, recipe);
    if (tensor.kind !== "qkv") return { ...tensor, rule };
    const rows = tensor.rows / 3;
    return [0, 1, 2].map((n) => (
      { ...tensor, at: tensor.at + n * rows * tensor.columns, rows, rule }));
  });
}

/** How much work it is to move a part, roughly.
 * @param {Part} part */
function workOf({ rows, columns, rule }) {
  return rows * columns * (rule.how === "muon" ? Math.min(rows, columns) : 1);
}

/** Shares the parts out among workers, so that all have about the same work: the largest first,
 * each to the one that has least.
 * @param {Part[]} parts
 * @param {number} workers
 * @returns {Part[][]} by worker, in the order of the vector */
export function sharesOf(parts, workers) {
  const shares = Array.from({ length: workers }, () => (
    { work: 0, parts: /** @type {Part[]} */ ([]) }));
  for (const part of [...parts].sort((a, b) => workOf(b) - workOf(a))) {
    const least = shares.reduce((a, b) => (b.work < a.work ? b : a));
    least.parts.push(part);
    least.work += workOf(part);
  }
  return shares.map((share) => share.parts.sort((a, b) => a.at - b.at));
}

export class Optimizer {
  made = 0; // steps

  /** @param {Network} network
   * @param {Recipe} recipe
   * @param {Part[]} parts that this one moves */
  constructor(network, recipe, parts) {
    this.kernels = network.kernels;
    this.recipe = recipe;
    this.parts = parts;
  }

  /** Moves the weights by their gradients. `step` of `total` is where the run is.
   * @param {number} step
   * @param {number | null} total */
  update(step, total) {
    const factor = lrFactor(step, total, this.recipe);
    const momentum = 0.85 + 0.1 * Math.min(1, step / 300);
    this.made++;
    for (const part of this.parts) this.move(part, part.rule.rate * factor, momentum);
  }

  /** @param {Part} part
   * @param {number} rate
   * @param {number} momentum */
  move({ at, rows, columns, rule }, rate, momentum) {
    const { kernels, made } = this, count = rows * columns;
    switch (rule.how) {
      case "muon": kernels.muon(at, rows, columns, rate, rule.decay, momentum); break;
      case "adamw": kernels.adamw(at, count, rate, rule.decay, rule.epsilon, 1 - 0.9 ** made,
        1 - 0.99 ** made); break;
      case "sgd": kernels.sgd(at, count, rate);
    }
  }
}
