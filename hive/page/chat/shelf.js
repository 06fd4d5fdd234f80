// The weights that are here, so that going to and fro between rounds fetches them once.

/** @import { Weights } from "./weights.js" */

/** Weights and the size of their file.
 * @typedef {Weights & { bytes: number }} Book */

const MOST_BYTES = 2 ** 27; // one set may always be there

export class Shelf {
  /** @type {Book[]} */
  kept = []; // the one used last is the last

  /** @param {number | null} round null: the newest, of which only the coordinator knows */
  take(round) {
    const place = this.kept.findIndex((weights) => weights.round === round);
    if (round === null || place < 0) return null;
    this.kept.push(...this.kept.splice(place, 1));
    return this.kept[this.kept.length - 1];
  }

  /** @param {Book} weights */
  put(weights) {
    this.kept = [...this.kept.filter(({ round }) => round !== weights.round), weights];
    let bytes = this.kept.reduce((sum, one) => sum + one.bytes, 0);
    while (bytes > MOST_BYTES && this.kept.length > 1) bytes -= this.kept.shift()?.bytes ?? 0;
  }

  clear() {
    this.kept = [];
  }
}
