// Where a peer's conversation with its coordinator stands, and what was said and has to wait, as in
// hive/session/conversation.py.

import { demand } from "./protocol.js";

/** @import { Said } from "./messages.d.ts" */

export const MOST_KEPT = 256; // messages that wait while this peer trains or fetches
const LATER = ["version", "commit", "train", "send", "verdict", "status", "finished"]; // may wait

/** away: no connection, or one that is given up. joining: until the network is built. taking part:
 * it was welcome; from now on a new start may mend what goes wrong.
 * @typedef {"away" | "joining" | "taking part"} Phase */

/** One after the other, on one connection each. */
export class Conversation {
  /** @type {Phase} */
  phase = "away";
  joined = false; // ever
  settled = false; // the connection is known to be a good one
  /** @type {Said["type"][]} */
  awaited = []; // kinds of message that are answered at once
  nonces = ["", ""]; // the coordinator's, this peer's
  /** @type {Said[]} */
  inbox = [];
  heardAt = -Infinity; // steady seconds
  toldAt = -Infinity;

  /** @param {number} now */
  begin(now) {
    this.phase = "joining";
    this.settled = false;
    this.awaited = ["challenge"];
    this.inbox = [];
    this.heardAt = now;
  }

  part() {
    this.phase = "away";
    this.awaited = [];
  }

  takePart() {
    this.phase = "taking part";
    this.joined = true;
  }

  /** For its turn. Of what is said while this peer is busy, the newest status and not too much
   * else.
   * @param {Said} said */
  keep(said) {
    demand(LATER.includes(said.type), `A coordinator does not send ${said.type} messages now.`);
    if (said.type === "status") this.inbox = this.inbox.filter((one) => one.type !== "status");
    demand(this.inbox.length < MOST_KEPT, "The coordinator says more than it hears.");
    this.inbox.push(said);
  }

  /** Was something of these kinds said that nobody has answered yet?
   * @param {Said["type"][]} kinds */
  waits(...kinds) {
    return this.inbox.some((said) => kinds.includes(said.type));
  }
}
