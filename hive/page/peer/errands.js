// Slow work that a peer's session has asked its host for, as in hive/session/errands.py.

/** @import { Work } from "./effects.d.ts" */

/** Its end is waited for.
 * @typedef {{ what: Work, then: (result: any) => void }} Errand */

export class Errands {
  ticket = 0;
  /** @type {Map<number, Errand>} */
  underWay = new Map();

  /** Returns its ticket. Nobody waits for what leads to nothing.
   * @param {Work} what
   * @param {((result: any) => void) | undefined} then */
  ask(what, then) {
    this.ticket++;
    if (then) this.underWay.set(this.ticket, { what, then });
    return this.ticket;
  }

  /** What it was about, if its end is still waited for.
   * @param {number} ticket */
  end(ticket) {
    const one = this.underWay.get(ticket);
    this.underWay.delete(ticket);
    return one;
  }

  /** @param {Work[]} names */
  forget(...names) {
    for (const [ticket, { what }] of this.underWay) {
      if (names.includes(what)) this.underWay.delete(ticket);
    }
  }
}
