// The likeliest characters of a moment, as bars.

import { make } from "../dom.js";
import { named, odds, symbol } from "./shade.js";

/** @import { Moment } from "../chat/messages.d.ts" */
/** @import { Origin } from "./marked.js" */

/** @param {number} chance
 * @param {string} kind */
function bar(chance, kind) {
  const filled = make("div", { className: `chances-bar is-${kind}` });
  filled.style.setProperty("--chance", `${100 * chance}%`);
  return make("td", {}, filled, make("span", {}, odds(chance)));
}

/** @param {Origin["taste"]} taste */
function tasteOf(taste) {
  if (!taste) return "";
  const few = taste.topK ? `, top ${taste.topK}` : "";
  return `At temperature ${taste.temperature.toFixed(2)}${few}`;
}

export class Chances {
  head = make("tr");
  body = make("tbody");
  node = make("table", { className: "chances" }, make("thead", {}, this.head), this.body);

  /** @param {Moment["likeliest"]} likeliest
   * @param {string} chosen the character that came
   * @param {Origin["taste"]} taste */
  show(likeliest, chosen, taste) {
    const titles = ["Next", "What it thinks", ...taste ? [tasteOf(taste)] : []];
    this.head.replaceChildren(...titles.map((title) => make("th", { scope: "col" }, title)));
    this.body.replaceChildren(...likeliest.map(({ character, before, after }) => {
      const came = character === chosen;
      const name = make("th", { scope: "row" }, symbol(character));
      name.setAttribute("aria-label", named(character) + (came ? ", which came" : ""));
      return make("tr", { className: came ? "is-chosen" : "" }, name,
        bar(before, "before"), ...taste ? [bar(after, "after")] : []);
    }));
  }
}
