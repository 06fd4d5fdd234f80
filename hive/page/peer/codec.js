// Updates as few bytes: the codecs of hive/learning/codec.py, bit for bit. Python's tensors hold
// fp32, JavaScript's numbers are fp64: each result is rounded to fp32 (Math.fround, or by storing
// it) just where PyTorch rounds.

import { require } from "./errors.js";
import { bytesOf } from "./sha256.js";

const { fround } = Math;

export const BLOCK = 128; // values that share a scale in q4 and q2
const CHUNK = 4096, KEPT = 64; // top64 keeps this many of each chunk
const [LOW, HIGH, BETWEEN] = [0.4528, 1.510, 0.9816].map(fround); // Lloyd and Max's four levels

// -------------------------------------------------------------------------------------------------
// Numbers of 16 bits
// -------------------------------------------------------------------------------------------------

const one = new Float32Array(1), bits = new Uint32Array(one.buffer);

/** The bf16 nearest to a number (not NaN), as its 16 bits; a tie goes to the even one.
 * @param {number} x */
export function toBf16(x) {
  one[0] = x;
  return (bits[0] + 0x7fff + ((bits[0] >>> 16) & 1)) >>> 16;
}

/** @param {number} half */
export function fromBf16(half) {
  bits[0] = half << 16;
  return one[0];
}

/** Writes numbers as bf16, and returns what they are then.
 * @param {DataView} to
 * @param {number} at
 * @param {number} x */
function putBf16(to, at, x) {
  const half = toBf16(x);
  to.setUint16(at, half, true);
  return fromBf16(half);
}

// -------------------------------------------------------------------------------------------------
// Sums, in the order in which PyTorch takes them
// -------------------------------------------------------------------------------------------------

const LANES = 16, SUMS = 4; // vectors of 16 numbers, of which four sums are taken side by side

/** The fp32 sum of 64 or 128 numbers.
 * @param {Float32Array} x */
function sum(x) {
  const lanes = new Float32Array(LANES * SUMS);
  for (let i = 0; i < x.length; i++) lanes[i % lanes.length] += x[i];
  for (let n = 1; n < SUMS; n++) {
    for (let i = 0; i < LANES; i++) lanes[i] += lanes[n * LANES + i];
  }
  let total = 0;
  for (let i = 0; i < LANES; i++) total = fround(total + lanes[i]);
  return total;
}

// -------------------------------------------------------------------------------------------------
// Codecs
// -------------------------------------------------------------------------------------------------

/** One way to write a vector as bytes.
 * @typedef {object} Codec
 * @property {(count: number) => number} size of this many values, in bytes
 * @property {(vector: Float32Array) => Uint8Array} encode
 * @property {(content: Uint8Array, count: number) => Float32Array} decode */

/** Calls `each(block, number)` with every block of a vector, the last one filled up with zeros.
 * @param {Float32Array} vector
 * @param {number} size
 * @param {(block: Float32Array, number: number) => void} each */
function forBlocks(vector, size, each) {
  for (let at = 0; at < vector.length; at += size) {
    let block = vector.subarray(at, at + size);
    if (block.length < size) {
      const filled = new Float32Array(size);
      filled.set(block);
      block = filled;
    }
    each(block, at / size);
  }
}

/** Two bits for each of some values, four in a byte: those of the first quarter are the lowest.
 * @param {Uint8Array} to
 * @param {number} at
 * @param {Uint8Array} levels */
function packLevels(to, at, levels) {
  const quarter = levels.length / 4;
  for (let i = 0; i < quarter; i++) {
    to[at + i] = levels[i] | (levels[quarter + i] << 2) | (levels[2 * quarter + i] << 4)
      | (levels[3 * quarter + i] << 6);
  }
}

/** The level of value i, of the `count` that were packed.
 * @param {Uint8Array} from
 * @param {number} at
 * @param {number} i
 * @param {number} count */
function levelAt(from, at, i, count) {
  const quarter = count / 4;
  return (from[at + (i % quarter)] >> (2 * Math.floor(i / quarter))) & 3;
}

/** Every value as it is.
 * @type {Codec} */
const FP32 = {
  size: (count) => 4 * count,
  encode: (vector) => bytesOf(vector.slice()),
  decode: (content) => new Float32Array(content.slice().buffer),
};

const ROUND = 12582912; // 1.5 * 2^23: behind it fp32 has no room for a fraction, and rounds to even

/** Blocks of 128 values as whole numbers from -7 to 7, and the size of one as bf16.
 * @type {Codec} */
const Q4 = {
  size: (count) => Math.ceil(count / BLOCK) * (BLOCK / 2 + 2),

  encode(vector) {
    const half = BLOCK / 2, number = Math.ceil(vector.length / BLOCK);
    const content = new Uint8Array(Q4.size(vector.length)), view = new DataView(content.buffer);
    const whole = new Uint8Array(BLOCK);
    forBlocks(vector, BLOCK, (block, n) => {
      let most = 0;
      for (const x of block) most = Math.max(most, Math.abs(x));
      const unit = putBf16(view, number * half + 2 * n, fround(most / 7));
      const inverse = fround(1 / unit), usable = Number.isFinite(inverse) ? inverse : 0;
      for (let i = 0; i < BLOCK; i++) {
        const scaled = Math.max(-8, Math.min(8, fround(block[i] * usable)));
        const rounded = fround(fround(scaled + ROUND) - ROUND);
        whole[i] = Math.max(-7, Math.min(7, rounded)) + 8;
      }
      for (let i = 0; i < half; i++) content[n * half + i] = whole[i] | (whole[half + i] << 4);
    });
    return content;
  },

  decode(content, count) {
    const half = BLOCK / 2, number = Math.ceil(count / BLOCK);
    const view = new DataView(content.buffer, content.byteOffset + number * half);
    const values = new Float32Array(number * BLOCK);
    for (let n = 0; n < number; n++) {
      const unit = fromBf16(view.getUint16(2 * n, true));
      for (let i = 0; i < half; i++) {
        const byte = content[n * half + i];
        values[n * BLOCK + i] = ((byte & 15) - 8) * unit;
        values[n * BLOCK + half + i] = ((byte >> 4) - 8) * unit;
      }
    }
    return values.subarray(0, count);
  },
};

/** Blocks of 128 values as one of four levels, small or large and minus or plus; the block's root
 * mean square as bf16.
 * @type {Codec} */
const Q2 = {
  size: (count) => Math.ceil(count / BLOCK) * (BLOCK / 4 + 2),

  encode(vector) {
    const quarter = BLOCK / 4, number = Math.ceil(vector.length / BLOCK);
    const content = new Uint8Array(Q2.size(vector.length)), view = new DataView(content.buffer);
    const squares = new Float32Array(BLOCK), levels = new Uint8Array(BLOCK);
    forBlocks(vector, BLOCK, (block, n) => {
      for (let i = 0; i < BLOCK; i++) squares[i] = block[i] * block[i];
      const mean = fround(sum(squares) / BLOCK);
      const rms = putBf16(view, number * quarter + 2 * n, fround(Math.sqrt(mean)));
      const between = fround(BETWEEN * rms);
      for (let i = 0; i < BLOCK; i++) {
        levels[i] = (block[i] < 0 ? 2 : 0) | (Math.abs(block[i]) > between ? 1 : 0);
      }
      packLevels(content, n * quarter, levels);
    });
    return content;
  },

  decode(content, count) {
    const quarter = BLOCK / 4, number = Math.ceil(count / BLOCK);
    const view = new DataView(content.buffer, content.byteOffset + number * quarter);
    const values = new Float32Array(number * BLOCK);
    for (let n = 0; n < number; n++) {
      const rms = fromBf16(view.getUint16(2 * n, true)), sizes = [LOW * rms, HIGH * rms];
      for (let i = 0; i < BLOCK; i++) {
        const level = levelAt(content, n * quarter, i, BLOCK);
        values[n * BLOCK + i] = level & 2 ? -sizes[level & 1] : sizes[level & 1];
      }
    }
    return values.subarray(0, count);
  },
};

const PLACES = (KEPT * 12) / 8, LEVELS = KEPT / 4; // bytes of a chunk in top64

/** The 64 largest of every 4096 values: where (12 bits), the sign and whether it is one of the
 * larger ones (2 bits); the mean size of the smaller and of the larger ones as bf16.
 * @type {Codec} */
const TOP64 = {
  size: (count) => Math.ceil(count / CHUNK) * (PLACES + LEVELS + 4),

  encode(vector) {
    const number = Math.ceil(vector.length / CHUNK);
    const content = new Uint8Array(TOP64.size(vector.length)), view = new DataView(content.buffer);
    const kept = new Float32Array(KEPT), sizes = new Float32Array(KEPT);
    const levels = new Uint8Array(KEPT);
    forBlocks(vector, CHUNK, (chunk, n) => {
      const places = largest(chunk, KEPT);
      places.forEach((place, i) => {
        kept[i] = chunk[place];
        sizes[i] = Math.abs(kept[i]);
      });
      const mean = fround(sum(sizes) / KEPT);
      const large = sizes.map((size) => Number(size > mean));
      levels.forEach((_, i) => { levels[i] = (kept[i] < 0 ? 2 : 0) | large[i]; });
      packPlaces(content, n * PLACES, places);
      packLevels(content, number * PLACES + n * LEVELS, levels);
      for (const which of [0, 1]) {
        const chosen = large.map((is) => Number(is === which));
        const total = sum(sizes.map((size, i) => size * chosen[i]));
        const count = Math.max(1, chosen.reduce((a, b) => a + b, 0));
        putBf16(view, number * (PLACES + LEVELS) + 4 * n + 2 * which, fround(total / count));
      }
    });
    return content;
  },

  decode(content, count) {
    const number = Math.ceil(count / CHUNK), start = number * (PLACES + LEVELS);
    const view = new DataView(content.buffer, content.byteOffset + start);
    const values = new Float32Array(number * CHUNK);
    for (let n = 0; n < number; n++) {
      const sizes = [0, 2].map((way) => fromBf16(view.getUint16(4 * n + way, true)));
      for (let i = 0; i < KEPT; i++) {
        const level = levelAt(content, number * PLACES + n * LEVELS, i, KEPT);
        values[n * CHUNK + placeAt(content, n * PLACES, i)] = (
          level & 2 ? -sizes[level & 1] : sizes[level & 1]);
      }
    }
    return values.subarray(0, count);
  },
};

/** Where the largest values are, whatever their sign, in order. A heap holds the largest so far,
 * the smallest of them on top, and each value that is larger takes its place: the way of C++'s
 * std::partial_sort, which PyTorch calls, so that of equal values the same ones are kept.
 * @param {Float32Array} values
 * @param {number} count even
 * @returns {Uint16Array} */
function largest(values, count) {
  const sizes = values.map(Math.abs), heap = Uint16Array.from({ length: count }, (_, i) => i);
  for (let parent = count / 2 - 1; parent >= 0; parent--) sink(heap, sizes, parent, heap[parent]);
  for (let place = count; place < sizes.length; place++) {
    if (sizes[place] > sizes[heap[0]]) sink(heap, sizes, 0, place);
  }
  return heap.sort();
}

/** Fills a hole in the heap: the smaller child moves up, down to the last row, and from there the
 * new place rises as far as its size lets it.
 * @param {Uint16Array} heap
 * @param {Float32Array} sizes
 * @param {number} top the hole
 * @param {number} place the new one */
function sink(heap, sizes, top, place) {
  let hole = top;
  for (let child = 2 * hole + 2; child <= heap.length; child = 2 * hole + 2) {
    if (child === heap.length || sizes[heap[child]] > sizes[heap[child - 1]]) child--;
    heap[hole] = heap[child];
    hole = child;
  }
  for (let parent = (hole - 1) >> 1; hole > top && sizes[heap[parent]] > sizes[place];
    parent = (hole - 1) >> 1) {
    heap[hole] = heap[parent];
    hole = parent;
  }
  heap[hole] = place;
}

/** Two places of 12 bits in three bytes: all first bytes, all second ones, all third ones.
 * @param {Uint8Array} to
 * @param {number} at
 * @param {Uint16Array} places */
function packPlaces(to, at, places) {
  const pairs = KEPT / 2;
  for (let i = 0; i < pairs; i++) {
    const even = places[2 * i], odd = places[2 * i + 1];
    to[at + i] = even & 255;
    to[at + pairs + i] = (even >> 8) | ((odd & 15) << 4);
    to[at + 2 * pairs + i] = odd >> 4;
  }
}

/** @param {Uint8Array} from
 * @param {number} at
 * @param {number} i */
function placeAt(from, at, i) {
  const pairs = KEPT / 2, pair = at + (i >> 1), middle = from[pair + pairs];
  return i & 1 ? (middle >> 4) | (from[pair + 2 * pairs] << 4) : from[pair] | ((middle & 15) << 8);
}

/** @type {Record<string, Codec>} */
export const CODECS = { fp32: FP32, q4: Q4, q2: Q2, top64: TOP64 };

/** @param {string} codec
 * @returns {Codec} */
export function codecOf(codec) {
  require(Object.hasOwn(CODECS, codec),
    `There is no codec '${codec}'; known are ${Object.keys(CODECS).join(", ")}.`);
  return CODECS[codec];
}

/** Bytes of a flat vector (P,).
 * @param {string} codec
 * @param {Float32Array} vector */
export function encode(codec, vector) {
  return codecOf(codec).encode(vector);
}

/** The vector (count,) that the bytes stand for. Throws a sentence when codec or length are wrong.
 * @param {string} codec
 * @param {Uint8Array} content
 * @param {number} count */
export function decode(codec, content, count) {
  const expected = codecOf(codec).size(count);
  require(content.length === expected, `An update of ${count} values in ${codec} has `
    + `${expected} bytes, not ${content.length}.`);
  return CODECS[codec].decode(content, count);
}
