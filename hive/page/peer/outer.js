// The one way in which the hive's weights ever change, as in hive/learning/outer.py.

import { decode } from "./codec.js";

/** @import { Part } from "./fragments.js" */

/** The weights (P,) after a committed update of a part.
 * @param {Float32Array} weights
 * @param {string} codec
 * @param {Uint8Array} content
 * @param {Part} part */
export function applyUpdate(weights, codec, content, { start, stop }) {
  const update = decode(codec, content, stop - start), after = weights.slice();
  for (let i = 0; i < update.length; i++) after[start + i] -= update[i];
  return after;
}
