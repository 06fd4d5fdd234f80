// The network of gltch_2_7m.py in the kernels' memory: where its numbers are, and how its gradients
// are made.

import { require } from "./errors.js";
import { start } from "./kernels.js";

const PAGE = 65536; // bytes by which WebAssembly's memory grows
const AT_ONCE = 512; // characters of a micro-batch: more are no faster, and take more memory
const VECTOR = 16; // numbers in the largest step of the kernels
const MOST_BLOCKS = 256; // of which the kernels remember where they are

/** The shape of the network, as Config in gltch_2_7m.py.
 * @typedef {object} Config
 * @property {number} vocab_size
 * @property {number} block_size
 * @property {number} n_layer
 * @property {number} n_head
 * @property {number} n_embd
 * @property {number} dropout */

/** Number of parameters, without building the network.
 * @param {Omit<Config, "dropout" | "n_head">} config */
export function parametersOf({ vocab_size, block_size, n_layer, n_embd: C }) {
  return C * (2 * vocab_size + block_size + 2) + n_layer * (12 * C * C + 4 * C);
}

/** Texts in a micro-batch.
 * @param {Pick<Config, "block_size">} config */
export function textsAtOnce({ block_size }) {
  return Math.max(1, Math.floor(AT_ONCE / block_size));
}

/** Bytes that training takes in one worker, about: what `lay_out` in kernels/network.c says, but for
 * small things.
 * @param {Omit<Config, "dropout">} config */
export function memoryOf(config) {
  const { vocab_size: V, block_size: T, n_layer, n_head, n_embd: C } = config;
  const M = textsAtOnce(config) * T; // characters at once
  const block = 10.5 * M * C + M * T * n_head; // of activations
  return 4 * (4 * parametersOf(config) + n_layer * block + M * (13 * C + V) + 12 * C * C);
}

/** Why the kernels cannot train such a network; empty: they can.
 * @param {Pick<Config, "n_embd" | "n_layer">} config */
export function misfit({ n_embd, n_layer }) {
  if (n_embd % VECTOR) {
    return `A browser trains networks whose width is a multiple of ${VECTOR}, and this hive's has `
      + `${n_embd}: join with Python instead.`;
  }
  return n_layer <= MOST_BLOCKS ? "" : `A browser trains networks of at most ${MOST_BLOCKS} blocks, `
    + `and this hive's has ${n_layer}: join with Python instead.`;
}

export class Network {
  /** Throws a sentence when it does not fit, into the kernels or into `most` bytes of memory.
   * @param {Config} config */
  constructor(config, most = Infinity) {
    const sentence = misfit(config);
    require(!sentence, sentence);
    const { vocab_size: V, block_size: T, n_embd: C, n_layer, n_head } = config;
    this.config = config;
    this.parameters = parametersOf(config);
    this.texts = textsAtOnce(config);
    this.limit = Math.min(Math.round(256 * config.dropout), 255); // of dropout, in 256ths
    this.kernels = start();
    this.bytes = this.kernels.lay_out(V, T, C, n_layer, n_head, this.texts);
    this.reserve(most);
    const { memory: { buffer } } = this.kernels, M = this.texts * T;
    const vector = (/** @type {number} */ at) => new Float32Array(buffer, at, this.parameters);
    this.weights = vector(this.kernels.parameters_at()); // (P,)
    this.gradients = vector(this.kernels.gradients_at()); // (P,)
    this.ids = new Int32Array(buffer, this.kernels.ids_at(), M); // of the micro-batch
    this.targets = new Int32Array(buffer, this.kernels.targets_at(), M);
  }

  /** @param {number} most */
  reserve(most) {
    const { memory } = this.kernels;
    const sentence = `The hive's network takes ${Math.ceil(this.bytes / 2 ** 20)} MiB of memory, `
      + "which this browser does not have to give: use fewer workers, or join with Python.";
    require(this.bytes <= most, sentence);
    try {
      memory.grow(Math.max(0, Math.ceil((this.bytes - memory.buffer.byteLength) / PAGE)));
    } catch (error) {
      require(!(error instanceof RangeError || error instanceof TypeError), sentence);
      throw error;
    }
  }

  /** Makes dropout's random numbers those of a seed.
   * @param {Uint32Array} seed four numbers */
  seed([a, b, c, d]) {
    this.kernels.seed(a, b, c, d);
  }

  /** Adds to the gradients those of the first `texts` rows of ids and targets; `weight` is what
   * each character counts. Returns the sum of their losses, times weight.
   * @param {number} texts
   * @param {number} weight */
  learn(texts, weight, limit = this.limit) {
    return this.kernels.learn(texts, weight, limit);
  }

  forgetGradients() {
    this.kernels.forget_gradients(0, this.parameters);
  }
}
