// What can be put right by somebody: the message is one sentence that says what and how. Anything
// else that is thrown is a mistake in this program.

export class GltchError extends Error {}

/** @param {unknown} condition
 * @param {string} sentence
 * @returns {asserts condition} */
export function require(condition, sentence) {
  if (!condition) throw new GltchError(sentence);
}
