// What a tab remembers of its peer over a reload of its page; another tab has its own.

/** @import { Choice } from "./form.js" */

const PLACE = "gltch-hive tab";

/** All that was chosen, but the key; the name is that which the hive gave.
 * @typedef {Omit<Choice, "key">} Remembered */

/** A browser that may keep nothing for this page throws.
 * @template Result
 * @param {() => Result} use
 * @returns {Result | null} */
function attempt(use) {
  try {
    return use();
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    return null;
  }
}

/** @param {Remembered} choice */
export function remember(choice) {
  attempt(() => sessionStorage.setItem(PLACE, JSON.stringify(choice)));
}

/** @returns {Remembered | null} */
export function remembered() {
  return JSON.parse(attempt(() => sessionStorage.getItem(PLACE)) ?? "null");
}
