// The text of a run, from the bytes that travel, as in hive/text.py.

import { require } from "./errors.js";

/** @import { Job } from "./job.js" */

/** The numbers of the characters that training sees: the first nine tenths. Throws a sentence when
 * the text has characters that the job does not know.
 * @param {Job} job
 * @param {Uint8Array} content */
export function trainingIds({ characters }, content) {
  const text = Array.from(new TextDecoder("utf-8", { ignoreBOM: true }).decode(content));
  const number = new Map(Array.from(characters, (character, id) => [character, id]));
  const ids = number.size <= 256 ? new Uint8Array(text.length) : new Int32Array(text.length);
  text.forEach((character, place) => {
    const id = number.get(character);
    require(id !== undefined, "The text is not the one this hive trains on.");
    ids[place] = id;
  });
  return ids.subarray(0, Math.floor((text.length * 9) / 10));
}
