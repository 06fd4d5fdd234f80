// Characters and their chances, for people.

const STEPS = [0.5, 1, 2, 3.5, 5.5]; // bits: where the next darker shade begins
export const SHADES = STEPS.length + 1;

const NAMES = new Map([["\n", "a line end"], [" ", "a space"], ["\t", "a tab"]]);
const SYMBOLS = new Map([["\n", "↵"], [" ", "␣"], ["\t", "⇥"]]);

/** How much a character surprised that had this chance.
 * @param {number} chance */
export const surprise = (chance) =>
  Math.max(0, -Math.log2(Math.max(chance, Number.MIN_VALUE)));

/** How dark its shade is, from 0, expected, to 5, hardly thought possible.
 * @param {number} chance */
export function shade(chance) {
  const bits = surprise(chance);
  return STEPS.filter((step) => bits >= step).length;
}

/** In a sentence.
 * @param {string} character */
export const named = (character) => NAMES.get(character) ?? `“${character}”`;

/** In a cell, where also a space must be seen.
 * @param {string} character */
export const symbol = (character) => SYMBOLS.get(character) ?? character;

/** 0.8305 -> "83.1%", 0.0004 -> "0.04%"
 * @param {number} chance */
export function odds(chance) {
  if (chance >= 0.0995 || chance === 0) return `${(100 * chance).toFixed(1)}%`;
  return chance < 0.00005 ? "<0.01%" : `${(100 * chance).toFixed(2)}%`;
}

/** The mean over a text, in bits per character.
 * @param {number[]} chances of its characters */
export const meanSurprise = (chances) =>
  chances.reduce((sum, chance) => sum + surprise(chance), 0) / chances.length;

/** The places of the most surprising characters, the worst first: those that stand out from the
 * text's mean by a bit at least.
 * @param {number[]} chances
 * @param {number} most */
export function worstPlaces(chances, most) {
  const least = meanSurprise(chances) + 1;
  return chances.map((_, place) => place).filter((place) => surprise(chances[place]) >= least)
    .sort((a, b) => chances[a] - chances[b]).slice(0, most);
}

/** How dark attention is drawn, from 0 to 1: the square root, so that little is seen, too, as a part
 * of the most, unless nothing stands out.
 * @param {Float32Array} weights */
export function darkness(weights) {
  const most = Math.max(0.1, ...weights);
  return weights.map((weight) => Math.sqrt(weight / most));
}

/** The places that got most attention, those with most first.
 * @param {Float32Array} weights
 * @param {number} most */
export const mostSeen = (weights, most) =>
  [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, most);
