// Everybody who ever contributed.

import { ask } from "./connection.js";
import { make, setText } from "./dom.js";
import { count, metric, moment, percent } from "./format.js";

/** @import { Contributor } from "./facts.d.ts" */

const MOST_SHOWN = 60;
const PAUSE = 5000; // milliseconds between two questions

/** From the journal; asked again while the run goes on. */
export class Contributors {
  askedAt = -Infinity;

  /** @param {HTMLElement} list
   * @param {HTMLElement} others how many more there are */
  constructor(list, others) {
    this.list = list;
    this.others = others;
  }

  async refresh() {
    if (performance.now() - this.askedAt < PAUSE) return;
    this.askedAt = performance.now();
    /** @type {{ contributors: Contributor[] } | null} */
    const answer = await ask("api/peers");
    if (answer) this.show(answer.contributors);
  }

  /** @param {Contributor[]} contributors */
  show(contributors) {
    this.list.replaceChildren(...contributors.slice(0, MOST_SHOWN).map((one) => this.item(one)));
    this.others.hidden = contributors.length <= MOST_SHOWN;
    setText(this.others, `and ${count(contributors.length - MOST_SHOWN)} more`);
  }

  /** @param {Contributor} one */
  item(one) {
    const filled = make("div");
    filled.style.width = `${100 * one.share}%`;
    const seen = one.connected ? "connected now" : `last seen ${moment(one.last_seen)}`;
    const refused = one.late + one.rejected ? `, ${one.late} late, ${one.rejected} rejected` : "";
    const aside = one.banned ? "banned" : one.aside && `set aside: ${one.aside}`;
    return make("li", { className: one.connected ? "connected" : "" },
      make("span", { className: "name" }, one.name),
      make("span", { className: "share" }, percent(one.share)),
      ...aside ? [make("div", { className: "aside" }, aside)] : [],
      make("div", { className: "bar" }, filled),
      make("div", { className: "note" }, `${metric(one.tokens)} characters in `
        + `${count(one.counted)} updates${refused}; ${seen}`));
  }
}
