// What earlier updates left unsent, as ErrorFeedback in hive/learning/codec.py.

import { decode, encode } from "./codec.js";

/** @import { Part } from "./fragments.js" */

/** e <- beta e + update;  send Q(e);  e <- e - Q(e) once the other side has counted it. Until then,
 * and if it never does, e keeps the whole update. Of each part one update may be on its way. */
export class ErrorFeedback {
  /** What was sent of each part, by where it begins.
   * @type {Map<number, { codec: string, content: Uint8Array }>} */
  sent = new Map();

  /** @param {number} count
   * @param {number} beta */
  constructor(count, beta) {
    this.beta = beta;
    this.residual = new Float32Array(count); // (P,)
  }

  /** Add an update of a part and return what to send; `settle` says what became of it.
   * @param {string} codec
   * @param {Float32Array} update
   * @param {Part} part */
  encode(codec, update, { start, stop }) {
    const residual = this.residual.subarray(start, stop), beta = Math.fround(this.beta);
    if (this.beta !== 1) {
      for (let i = 0; i < residual.length; i++) residual[i] *= beta;
    }
    for (let i = 0; i < residual.length; i++) residual[i] += update[i];
    const content = encode(codec, residual);
    this.sent.set(start, { codec, content });
    return content;
  }

  /** An update of this part that an earlier page sent: of what that left unsent, only it is known.
   * @param {string} codec
   * @param {Uint8Array} content
   * @param {Part} part */
  restore(codec, content, { start, stop }) {
    this.residual.set(decode(codec, content, stop - start), start);
    this.sent.set(start, { codec, content });
  }

  /** The update of this part that was on its way.
   * @param {boolean} counted
   * @param {Part} part */
  settle(counted, { start, stop }) {
    const sent = this.sent.get(start);
    this.sent.delete(start);
    if (!counted || !sent) return;
    const residual = this.residual.subarray(start, stop);
    const arrived = decode(sent.codec, sent.content, residual.length);
    for (let i = 0; i < residual.length; i++) residual[i] -= arrived[i];
  }

  /** Keep an update of all parts (P,) for what is sent later.
   * @param {Float32Array} update */
  absorb(update) {
    for (let i = 0; i < update.length; i++) this.residual[i] += update[i];
  }

  /** Nothing of what was left unsent of these parts may come any more.
   * @param {Part[]} parts */
  forget(parts) {
    for (const { start, stop } of parts) {
      this.residual.fill(0, start, stop);
      this.sent.delete(start);
    }
  }
}
