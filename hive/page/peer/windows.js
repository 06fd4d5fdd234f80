// The order in which training sees the text, as in gltch_2_7m.py, part 3: the same windows for the
// same seed as PyTorch makes, for which PyTorch's random numbers are needed.

import { require } from "./errors.js";

const SIZE = 624, MIDDLE = 397; // of the generator's state

/** The Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998): 32 random bits at a time. */
export class MersenneTwister {
  /** @param {number} seed of which the lower 32 bits count, as in PyTorch */
  constructor(seed) {
    const state = this.state = new Uint32Array(SIZE);
    state[0] = seed % 2 ** 32;
    for (let i = 1; i < SIZE; i++) {
      const before = state[i - 1];
      state[i] = Math.imul(1812433253, before ^ (before >>> 30)) + i;
    }
    this.at = SIZE;
  }

  renew() {
    const { state } = this;
    for (let i = 0; i < SIZE; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + MIDDLE) % SIZE] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.at = 0;
  }

  /** @returns {number} from 0 to 2^32 - 1 */
  next() {
    if (this.at === SIZE) this.renew();
    let y = this.state[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** The numbers from 0 to count - 1 in random order, as torch.randperm.
   * @param {number} count */
  permutation(count) {
    const order = Int32Array.from({ length: count }, (_, i) => i);
    for (let i = 0; i < count - 1; i++) {
      const chosen = i + (this.next() % (count - i));
      [order[i], order[chosen]] = [order[chosen], order[i]];
    }
    return order;
  }
}

/** Windows of `size` characters and their successor. Every epoch visits each window once, in random
 * order and from a new random offset. */
export class Windows {
  epoch = -1;
  offset = 0;
  order = new Int32Array();

  /** @param {ArrayLike<number>} ids of the training text
   * @param {number} size
   * @param {number} seed */
  constructor(ids, size, seed) {
    require(ids.length > size, `The training text has ${ids.length} characters, but one window of `
      + `the network takes ${size + 1}: use a longer text.`);
    this.ids = ids;
    this.size = size;
    this.seed = seed;
    this.perEpoch = Math.max(1, Math.floor((ids.length - 1) / size) - 1); // room for the offset
  }

  /** Where a window begins in the text.
   * @param {number} index */
  start(index) {
    const { size, perEpoch } = this;
    const epoch = Math.floor(index / perEpoch);
    if (epoch !== this.epoch) {
      const random = new MersenneTwister(this.seed * 1_000_003 + epoch);
      this.offset = random.next() % Math.min(size, this.ids.length - perEpoch * size);
      this.order = random.permutation(perEpoch);
      this.epoch = epoch;
    }
    return this.offset + this.order[index % perEpoch] * size;
  }

  /** Puts `count` windows, and the characters that follow each of theirs, one behind the other.
   * @param {Int32Array} ids
   * @param {Int32Array} targets
   * @param {number} first
   * @param {number} count */
  fill(ids, targets, first, count) {
    const { size } = this;
    for (let n = 0; n < count; n++) {
      const start = this.start(first + n);
      for (let i = 0; i < size; i++) {
        ids[n * size + i] = this.ids[start + i];
        targets[n * size + i] = this.ids[start + i + 1];
      }
    }
  }
}
