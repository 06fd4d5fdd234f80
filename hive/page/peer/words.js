// What others wrote, fit to be shown to people, as in hive/network/words.py.

const INVISIBLE = /^(?:\u115f|\u1160|\u17b4|\u17b5|\u2800|\u3164|\uffa0|\u{1d159})$/u; // as nothing
const PRINTABLE = /^[\p{L}\p{N}\p{P}\p{S}\p{M}]$/u;
/* eslint-disable no-control-regex -- they are what is looked for */
const SPACE = /^[\p{Z}\t-\r\u001c-\u001f\u0085]$/u; // what Python takes for one
const ESCAPE = new RegExp([
  /(?:\u001b\[|\u009b)[0-?]*[ -/]*[@-~]/u, // colours, cursor movements
  /(?:\u001b[\]PX^_]|[\u0090\u0098\u009d-\u009f])[^\u0007\u001b\u009c]*/u, // titles, links, device
  /\u001b[ -/]*[0-~]?/u, // strings; the rest
].map(({ source }) => source).join("|"), "gu");
/* eslint-enable no-control-regex */

const NAME_LENGTH = 32; // characters

/** Printable characters, by single spaces. A character that is neither one nor a space becomes
 * nothing.
 * @param {string} text
 * @param {(character: string) => boolean} isSpace */
function printable(text, isSpace) {
  const kept = Array.from(text, (character) => {
    if (PRINTABLE.test(character) && !INVISIBLE.test(character)) return character;
    return isSpace(character) ? " " : "";
  });
  return kept.join("").split(" ").filter(Boolean).join(" ");
}

/** What came from outside: printable, on one line, of limited length, in one direction.
 * @param {string} text */
export function shown(text, longest = 200) {
  const plain = Array.from(text).slice(0, 8 * longest).join("").replace(ESCAPE, "");
  const line = Array.from(printable(plain, (character) => SPACE.test(character)));
  return line.length <= longest ? line.join("")
    : `${line.slice(0, longest - 3).join("").trimEnd()}...`;
}

/** A name fit to be shown, with something to see; `otherwise` where nothing of it is.
 * @param {string} name
 * @param {string} otherwise */
export function cleanName(name, otherwise) {
  const line = Array.from(printable(name, (character) => character === " "));
  const short = line.slice(0, NAME_LENGTH).join("").trim();
  return /[^\p{M}\p{Z}]/u.test(short) ? short : otherwise; // marks need a letter
}

/** A whole number for people.
 * @param {number | bigint} number */
export function count(number) {
  return number.toLocaleString("en-US");
}
