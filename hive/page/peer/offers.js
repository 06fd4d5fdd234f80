// A peer's updates whose fate it does not know yet, and what it says of them, as in
// hive/session/offers.py.

/** @import { Effect } from "./effects.d.ts" */
/** @import { Part } from "./fragments.js" */
/** @import { Send } from "./messages.d.ts" */
/** @import { Outgoing } from "./update.js" */

/** In order, each of another part of the weights. */
export class Offers {
  /** @type {Outgoing[]} */
  updates = [];

  /** That went into them. */
  get tokens() {
    return this.updates.reduce((sum, one) => sum + one.work.tokens, 0);
  }

  /** Is there one of this part?
   * @param {Part} part */
  holds(part) {
    return this.updates.some((one) => one.part.start === part.start);
  }

  /** That of the round which starts from this version.
   * @param {number} version */
  of(version) {
    return this.updates.find((one) => one.version === version);
  }

  /** @param {Outgoing} update */
  add(update) {
    this.updates.push(update);
    this.updates.sort((one, other) => one.version - other.version);
  }

  /** The first version from this one on whose round has none. That of a later one may be there
   * already, if the one before it came too late for a coordinator that began again.
   * @param {number} version */
  free(version) {
    while (this.of(version)) version += 1;
    return version;
  }

  /** Is there one whose fate it will hear, for the round from this version or before?
   * @param {number} version */
  awaited(version) {
    return this.updates.some((one) => one.version <= version);
  }

  /** All are to be offered, each when the one before is on the wire. */
  beginAgain() {
    for (const one of this.updates) one.told = false;
  }

  /** Offer what is not offered yet, as far as what comes before is on the wire. `follows`: do not
   * wait until it is wanted.
   * @param {number} now
   * @param {boolean} follows
   * @returns {Generator<Effect>} */
  * goOn(now, follows) {
    for (const one of this.updates) {
      if (!one.told) {
        yield { type: "tell", message: one.offer(now, follows) };
        if (follows) yield this.upload(one, 0);
      }
      if (!one.sent) break;
    }
  }

  /** Upload the offered update, from where an interrupted transfer stopped.
   * @param {Send} said
   * @returns {Generator<Effect>} */
  * send({ blob, offset }) {
    for (const [place, one] of this.updates.entries()) {
      if (one.blob !== blob || !(one.eager || !one.sent)) continue;
      if (one.eager) { // they were dropped, too
        for (const later of this.updates.slice(place + 1)) later.told = false;
      }
      one.eager = false; // it had to wait
      yield this.upload(one, offset);
    }
  }

  /** @param {Outgoing} one
   * @param {number} offset
   * @returns {Effect} */
  upload(one, offset) {
    one.offered = Infinity;
    one.sent = true;
    return { type: "upload", blob: one.blob, content: one.update, offset };
  }

  /** All of it is on the wire.
   * @param {string} blob
   * @param {number} now */
  uploaded(blob, now) {
    for (const one of this.updates) {
      if (one.sent && one.blob === blob) one.offered = now;
    }
  }

  /** So long this peer listened to nothing that was said of them.
   * @param {number} seconds */
  wait(seconds) {
    for (const one of this.updates) one.offered += seconds;
  }

  /** Is there one that nobody has said anything about since then?
   * @param {number} since */
  unheard(since) {
    return this.updates.some((one) => one.offered < since);
  }
}
