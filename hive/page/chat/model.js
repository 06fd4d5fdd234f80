// The network of gltch_2_7m.py in plain JavaScript, which goes through a text character by character
// and on beyond its end: 1. arithmetic, 2. the network, 3. chances, 4. reading and writing.

/** @import { Config, Weights } from "./weights.js" */

/** @typedef {{ weight: Float32Array, bias: Float32Array }} Norm */

/** Views of what belongs to one head, what it remembers of each position, and how much of its
 * attention each got from the newest.
 * @typedef {Record<"q" | "k" | "v" | "out" | "keys" | "values" | "weights", Float32Array>} Head */

// =================================================================================================
// 1. Arithmetic
//
// All vectors are Float32Arrays that are made once; sums are taken in JavaScript's 64 bits.
// =================================================================================================

/** out = matrix x. Row r begins at r * stride. Eight rows at a time: each x[i] is loaded once for
 * eight products, and eight sums that do not wait for each other keep the processor busy.
 * @param {Float32Array} out
 * @param {Float32Array} matrix
 * @param {Float32Array} x
 * @param {number} rows
 * @param {number} columns */
function multiply(out, matrix, x, rows, columns, stride = columns) {
  let row = 0;
  for (; row + 8 <= rows; row += 8) {
    const a = row * stride, b = a + stride, c = b + stride, d = c + stride;
    const e = d + stride, f = e + stride, g = f + stride, h = g + stride;
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
    for (let i = 0; i < columns; i++) {
      const value = x[i];
      s0 += value * matrix[a + i];
      s1 += value * matrix[b + i];
      s2 += value * matrix[c + i];
      s3 += value * matrix[d + i];
      s4 += value * matrix[e + i];
      s5 += value * matrix[f + i];
      s6 += value * matrix[g + i];
      s7 += value * matrix[h + i];
    }
    out[row] = s0;
    out[row + 1] = s1;
    out[row + 2] = s2;
    out[row + 3] = s3;
    out[row + 4] = s4;
    out[row + 5] = s5;
    out[row + 6] = s6;
    out[row + 7] = s7;
  }
  for (; row < rows; row++) {
    let sum = 0;
    for (let i = 0; i < columns; i++) sum += x[i] * matrix[row * stride + i];
    out[row] = sum;
  }
}

/** x = x + y
 * @param {Float32Array} x
 * @param {Float32Array} y */
function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
}

/** Layer norm: mean 0 and variance 1, then a weight and a bias for each number.
 * @param {Float32Array} out
 * @param {Float32Array} x
 * @param {Norm} norm */
function normalize(out, x, { weight, bias }) {
  let mean = 0, variance = 0;
  for (let i = 0; i < x.length; i++) mean += x[i] / x.length;
  for (let i = 0; i < x.length; i++) variance += (x[i] - mean) ** 2 / x.length;
  const scale = 1 / Math.sqrt(variance + 1e-5);
  for (let i = 0; i < x.length; i++) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

/** x = softmax(scale x), over its first `length` numbers.
 * @param {Float32Array} x
 * @param {number} length
 * @param {number} scale */
function softmax(x, length, scale) {
  let most = -Infinity, sum = 0;
  for (let i = 0; i < length; i++) most = Math.max(most, x[i]);
  for (let i = 0; i < length; i++) sum += x[i] = Math.exp((x[i] - most) * scale);
  for (let i = 0; i < length; i++) x[i] /= sum;
}

/** The error function to 1.5e-7: Abramowitz and Stegun, formula 7.1.26.
 * @param {number} x */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 +
    t * (-1.453152027 + t * 1.061405429))));
  const y = 1 - series * Math.exp(-x * x);
  return x < 0 ? -y : y;
}

/** x = gelu(x)
 * @param {Float32Array} x */
function gelu(x) {
  for (let i = 0; i < x.length; i++) x[i] *= 0.5 * (1 + erf(x[i] * Math.SQRT1_2));
}

// =================================================================================================
// 2. The network
//
// Characters go through one at a time. What each block computed for the earlier ones (keys and
// values) never changes, so it is kept.
// =================================================================================================

/** One layer: x + attention(norm1(x)), then x + feedForward(norm2(x)). */
class Block {
  /** @param {Record<string, Float32Array>} tensors
   * @param {string} name
   * @param {Config} config */
  constructor(tensors, name, { n_embd: C, n_head, block_size: T }) {
    const weight = (/** @type {string} */ part) => tensors[`${name}.${part}.weight`];
    this.norm1 = { weight: weight("norm1"), bias: tensors[`${name}.norm1.bias`] };
    this.norm2 = { weight: weight("norm2"), bias: tensors[`${name}.norm2.bias`] };
    this.weights = {
      qkv: weight("attention.qkv"), projection: weight("attention.projection"),
      up: weight("feed_forward.up"), down: weight("feed_forward.down") };
    this.normed = new Float32Array(C);
    this.qkv = new Float32Array(3 * C); // queries, keys and values of all heads
    this.gathered = new Float32Array(C); // what the heads found, side by side
    this.wide = new Float32Array(4 * C);
    this.change = new Float32Array(C);
    this.size = T;
    this.width = C / n_head;
    this.heads = Array.from({ length: n_head }, (_, head) => {
      const from = head * this.width;
      const part = (/** @type {Float32Array} */ vector, offset = 0) =>
        vector.subarray(offset + from, offset + from + this.width);
      return {
        q: part(this.qkv),
        k: part(this.qkv, C),
        v: part(this.qkv, 2 * C),
        out: part(this.gathered),
        keys: new Float32Array(T * this.width), // (T, width)
        values: new Float32Array(this.width * T), // (width, T): a sum over time is a row times x
        weights: new Float32Array(T), // those up to the newest position add to 1
      };
    });
  }

  /** @param {Float32Array} x (C), is changed in place
   * @param {number} position */
  forward(x, position) {
    const C = x.length, { normed, gathered, wide, change, weights } = this;
    normalize(normed, x, this.norm1);
    multiply(this.qkv, weights.qkv, normed, 3 * C, C);
    for (const head of this.heads) this.attend(head, position);
    multiply(change, weights.projection, gathered, C, C);
    add(x, change);

    normalize(normed, x, this.norm2);
    multiply(wide, weights.up, normed, 4 * C, C);
    gelu(wide);
    multiply(change, weights.down, wide, C, 4 * C);
    add(x, change);
  }

  /** The newest position gathers values from itself and from the positions before it.
   * @param {Head} head
   * @param {number} position */
  attend({ q, k, v, out, keys, values, weights }, position) {
    const { width, size } = this;
    keys.set(k, position * width);
    for (let i = 0; i < width; i++) values[i * size + position] = v[i];
    multiply(weights, keys, q, position + 1, width);
    softmax(weights, position + 1, 1 / Math.sqrt(width));
    multiply(out, values, weights, width, position + 1, size);
  }
}

/** The whole network, and a memory of what it has read. Setting `length` to 0 forgets. */
export class Transformer {
  /** @param {Pick<Weights, "config" | "tensors">} weights */
  constructor({ config, tensors }) {
    this.config = config;
    this.tokens = tensors["token_embedding.weight"];
    this.positions = tensors["position_embedding.weight"];
    this.blocks = Array.from({ length: config.n_layer },
      (_, n) => new Block(tensors, `blocks.${n}`, config));
    this.norm = { weight: tensors["norm.weight"], bias: tensors["norm.bias"] };
    this.head = tensors["head.weight"];
    this.x = new Float32Array(config.n_embd);
    this.normed = new Float32Array(config.n_embd);
    this.scores = new Float32Array(config.vocab_size);
    this.length = 0; // characters read, at most config.block_size
  }

  /** @param {number} id */
  read(id) {
    const { x, tokens, positions } = this, C = x.length;
    for (let i = 0; i < C; i++) x[i] = tokens[id * C + i] + positions[this.length * C + i];
    for (const block of this.blocks) block.forward(x, this.length);
    this.length++;
  }

  /** A score for every possible next character. The array is used again by the next call. */
  logits() {
    normalize(this.normed, this.x, this.norm);
    multiply(this.scores, this.head, this.normed, this.config.vocab_size, this.config.n_embd);
    return this.scores;
  }

  /** How the newest position spread its attention over itself and those before it, oldest first:
   * one row for each layer and head. */
  attention() { // (layers, heads, length)
    return this.blocks.map((block) =>
      block.heads.map(({ weights }) => weights.slice(0, this.length)));
  }
}

// =================================================================================================
// 3. Chances
//
// From the network's scores to the character that comes next.
// =================================================================================================

/** How a character is chosen. Without topK all may be; at a temperature of 0 it is the likeliest.
 * @typedef {{ temperature: number, topK: number | null }} Taste */

/** @type {Taste} */
const AS_IT_IS = { temperature: 1, topK: null };

/** The chance of each character to be chosen. Without taste it is what the network itself thinks.
 * @param {Float32Array} logits */
export function chances(logits, { temperature, topK } = AS_IT_IS) {
  if (temperature < 1e-6) {
    const most = logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
    return new Float32Array(logits.length).fill(1, most, most + 1);
  }
  const found = logits.slice();
  if (topK && topK < logits.length) {
    const least = logits.slice().sort()[logits.length - topK];
    for (let i = 0; i < logits.length; i++) if (logits[i] < least) found[i] = -Infinity;
  }
  softmax(found, found.length, 1 / temperature);
  return found;
}

/** The number of a character, each as often as its chance says.
 * @param {Float32Array} chance
 * @param {() => number} random */
export function draw(chance, random) {
  let left = random(), last = 0;
  for (let i = 0; i < chance.length; i++) {
    if (chance[i] === 0) continue;
    last = i; // rounding may leave a little over: then it is the last one possible
    left -= chance[i];
    if (left < 0) break;
  }
  return last;
}

/** Random numbers from 0 to 1 that are the same for the same seed (mulberry32, by Tommy Ettinger).
 * @param {number} seed */
export function mulberry32(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

// =================================================================================================
// 4. Reading and writing
//
// Predict, learn which character comes, go on from there, over and over.
// =================================================================================================

/** A character that came; the chances of all characters before it came, as the network sees them
 * and as taste left them; and how many characters the network had in sight.
 * @typedef {{ id: number, before: Float32Array, after: Float32Array, seen: number }} Step */

/** Goes on after `ids` by `length` characters: `next` hears their chances and says which it is.
 * Yields a step for each, and null after each that was only read, so that the caller can stop
 * at any time. When the context is full, its newer half is read again and it goes on from there:
 * positions are learned, so a window that slides would change everything that was kept.
 * @param {Transformer} model
 * @param {number[]} ids
 * @param {number} length
 * @param {Taste} taste
 * @param {(chance: Float32Array) => number} next
 * @returns {Generator<Step | null>} */
function* goOn(model, ids, length, taste, next) {
  const size = model.config.block_size, half = Math.max(1, size >> 1);
  const text = ids.slice(-size);
  let unread = text.slice();
  model.length = 0;
  for (let count = 0; count < length; count++) {
    if (model.length + unread.length > size) {
      unread = text.slice(-half);
      model.length = 0;
    }
    for (const id of unread) {
      model.read(id);
      yield null;
    }
    const logits = model.logits(), after = chances(logits, taste), id = next(after);
    text.push(id);
    unread = [id];
    yield { id, before: chances(logits), after, seen: model.length };
  }
}

/** Writes: each character is drawn.
 * @param {Transformer} model
 * @param {number[]} ids
 * @param {Taste & { length: number, random: () => number }} how */
export function write(model, ids, { length, random, ...taste }) {
  return goOn(model, ids, length, taste, (chance) => draw(chance, random));
}

/** Reads: each character after the first stands there already.
 * @param {Transformer} model
 * @param {number[]} ids */
export function readAlong(model, ids) {
  let place = 0;
  return goOn(model, ids.slice(0, 1), ids.length - 1, AS_IT_IS, () => ids[++place]);
}
