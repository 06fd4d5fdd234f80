// A peer's update, from the task that it is trained in to the news whether it counts, as in
// hive/session/update.py.

import { nameOf } from "./protocol.js";

/** @import { Fragments, Part } from "./fragments.js" */
/** @import { Told } from "./messages.d.ts" */

/** The hive's weights, as this peer has them.
 * @typedef {object} Held
 * @property {number} version
 * @property {string} hash their SHA-256
 * @property {any} weights */

/** @type {Held} */
export const NOTHING = { version: 0, hash: "", weights: null };

/** Steps to make from these weights.
 * @typedef {object} Task
 * @property {Held} base
 * @property {number} quota
 * @property {number} most with those that are made while updates travel
 * @property {number} seconds for the quota
 * @property {number} began steady seconds */

/** All are made, or there is no time for another one.
 * @param {Task} task
 * @param {number} steps
 * @param {number} now */
export function isDone({ quota, seconds, began }, steps, now) {
  return steps >= quota || ((now - began) * (steps + 1)) / steps > seconds;
}

/** Steps that no update was made of yet. */
export class Progress {
  steps = 0;
  tokens = 0;
  losses = 0; // sum over the steps, nats per character
  seconds = 0; // spent training

  /** @param {number} tokens
   * @param {number} loss
   * @param {number} seconds */
  add(tokens, loss, seconds) {
    this.steps++;
    this.tokens += tokens;
    this.losses += loss;
    this.seconds += seconds;
  }

  get loss() {
    return this.losses / this.steps;
  }

  /** Characters a second. */
  get speed() {
    return this.tokens / Math.max(this.seconds, 1e-9);
  }
}

/** An update on its way, as a later page takes it up again.
 * @typedef {Pick<Outgoing, "version" | "base" | "weights" | "codec" | "update" | "sequences"
 *   | "part"> & { work: Pick<Progress, "steps" | "tokens" | "losses" | "seconds"> }} Kept */

/** An update on its way: nobody knows yet whether it counts. */
export class Outgoing {
  told = false; // on this connection
  offered = -Infinity; // when this was last told, or sent; Infinity while it is being sent
  sent = false; // since it was offered
  eager = false; // sent along with its first offer
  lastChance = false; // no error feedback keeps it any more

  /** @param {number} version of the weights that its round starts from
   * @param {Held} base what its peer held; earlier ones, if other updates were on their way
   * @param {string} codec
   * @param {Uint8Array} update
   * @param {number} sequences in a step
   * @param {Part} part of the weights
   * @param {Progress} work with the tokens of earlier updates that did not count */
  constructor(version, base, codec, update, sequences, part, work) {
    this.version = version;
    this.base = base.version;
    this.weights = base.hash;
    this.codec = codec;
    this.update = update;
    this.sequences = sequences;
    this.part = part;
    this.work = work;
    this.blob = nameOf(update);
  }

  /** @returns {Kept} */
  get kept() {
    const { version, base, weights, codec, update, sequences, part, work } = this;
    const { steps, tokens, losses, seconds } = work;
    return { version, base, weights, codec, update, sequences, part,
      work: { steps, tokens, losses, seconds } };
  }

  /** @param {Kept} kept */
  static from({ version, base, weights, codec, update, sequences, part, work }) {
    const progress = Object.assign(new Progress(), work);
    return new Outgoing(version, { version: base, hash: weights, weights: null }, codec, update,
      sequences, part, progress);
  }

  /** In one of these its peer counted, by what is written down.
   * @param {number[]} rounds
   * @param {Fragments} fragments */
  countedIn(rounds, fragments) {
    return rounds.some((number) => (
      number > this.version && fragments.ofRound(number).start === this.part.start));
  }

  /** What the coordinator hears of it now; `follows`: all of it comes at once.
   * @param {number} now
   * @param {boolean} follows
   * @returns {Told} */
  offer(now, follows) {
    Object.assign(this, { told: true, offered: now, sent: false, eager: follows });
    const { steps, tokens, seconds, loss } = this.work;
    return { type: "offer", version: this.version, base: this.base, weights: this.weights,
      codec: this.codec, update: this.blob, bytes: this.update.length, steps, tokens, seconds,
      loss: Number.isFinite(loss) ? loss : null, batch_size: this.sequences, follows };
  }
}
