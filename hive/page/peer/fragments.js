// Which part of the weights a round changes, as in hive/learning/fragments.py.

import { BLOCK } from "./codec.js";

/** A part of the flat vector of weights.
 * @typedef {{ start: number, stop: number }} Part */

/** `count` values in `number` nearly equal parts; in fewer, if there are not as many blocks. */
export class Fragments {
  /** @param {number} count
   * @param {number} number */
  constructor(count, number) {
    const blocks = Math.ceil(count / BLOCK), parts = Math.max(1, Math.min(number, blocks));
    const border = (/** @type {number} */ i) => (
      Math.min(count, BLOCK * Math.floor((blocks * i) / parts)));
    /** @type {Part[]} */
    this.parts = Array.from({ length: parts },
      (_, i) => ({ start: border(i), stop: border(i + 1) }));
  }

  /** Which part changes in the round that makes version `number`, from 1 on.
   * @param {number} number */
  index(number) {
    return (number - 1) % this.parts.length;
  }

  /** @param {number} number */
  ofRound(number) {
    return this.parts[this.index(number)];
  }

  /** How many values that round changes.
   * @param {number} number */
  values(number) {
    const { start, stop } = this.ofRound(number);
    return stop - start;
  }
}
