// What a peer fetches, as in hive/session/download.py: one blob at a time. What has arrived of an
// interrupted one is kept, also for a later page.

import { Receiver, demand } from "./protocol.js";

/** @import { Blob } from "./messages.d.ts" */

/** A blob that was asked for on this connection.
 * @typedef {object} Wanted
 * @property {string} blob
 * @property {number} limit bytes, at most
 * @property {number} since steady seconds
 * @property {boolean} lasting a later page would ask for it, too
 * @property {(content: Uint8Array | null) => void} then null: the coordinator no longer has it */

export class Download {
  /** @type {Wanted | null} */
  wanted = null;
  coming = false; // the answer was that it comes
  /** @type {Receiver | null} */
  partial = null; // of what is wanted, or was
  lasting = true; // so is this

  /** Returns from where on it has to come.
   * @param {Wanted} wanted */
  begin(wanted) {
    if (this.partial?.blob !== wanted.blob) this.partial = null;
    this.wanted = wanted;
    this.lasting = wanted.lasting;
    return this.partial?.length ?? 0;
  }

  /** @param {Blob} said */
  announced(said) {
    const wanted = this.asked(said.blob);
    this.partial ??= new Receiver(wanted.blob, said.bytes, wanted.limit);
    demand(said.bytes === this.partial.size,
      "The coordinator changed the size of a transfer that was interrupted.");
    this.coming = true;
  }

  /** @param {string} blob */
  gone(blob) {
    const wanted = this.asked(blob);
    this.wanted = this.partial = null;
    return wanted;
  }

  /** @param {string} blob
   * @returns {Wanted} */
  asked(blob) {
    demand(this.wanted?.blob === blob, "The coordinator answers another question.");
    return this.wanted;
  }

  /** @param {Uint8Array} chunk */
  add(chunk) {
    demand(this.coming && this.partial, "A chunk came that nobody asked for.");
    this.partial.add(chunk);
  }

  /** What was wanted, once all of it is there. */
  take() {
    const { wanted, partial: receiver } = this;
    if (!wanted || !receiver?.complete) return null;
    this.interrupt();
    this.partial = null;
    return { wanted, receiver };
  }

  /** What a later page may go on with.
   * @returns {Receiver | null} */
  get kept() {
    return this.lasting ? this.partial : null;
  }

  /** The connection is given up. */
  interrupt() {
    this.wanted = null;
    this.coming = false;
  }
}
