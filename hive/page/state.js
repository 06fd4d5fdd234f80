// What the coordinator said, kept up to date with its events.

/** @import { HiveEvent, MeasuredNow, Peer, Refused, Run, Whole } from "./facts.d.ts" */

/** The fields of /api/state, which come with the first event. */
const Told = /** @type {new () => Omit<Run, "peers">} */ (class {});

export class State extends Told {
  /** @type {Map<string, Peer>} */
  peers = new Map();
  roundAt = 0; // when `round` was heard, here
  own = ""; // identifier of the peer that is this tab; empty: it does not train

  /** @param {HiveEvent} event */
  apply(event) {
    this.seq = event.seq;
    switch (event.type) {
      case "state": this.begin(event); break;
      case "joined": this.peers.set(event.peer.peer, event.peer); break;
      case "left": this.peers.delete(event.peer); break;
      case "peer": {
        const { state, steps, quota } = event;
        Object.assign(this.peers.get(event.peer) ?? {}, { state, steps, quota });
        break;
      }
      case "opened":
        this.round = { quota: event.quota, seconds: event.seconds, left: event.seconds };
        this.roundAt = performance.now();
        this.phase = "training";
        break;
      case "closed": this.phase = "committing"; break;
      case "committed": {
        const { version, step, total, loss, snapshots = this.snapshots } = event;
        Object.assign(this, { version, step, total, loss, snapshots, round: null });
        this.phase = "waiting";
        break;
      }
      case "refused": this.refuse(event); break;
      case "evaluated": {
        const { version: evaluated, val_loss, best_val_loss, snapshots = this.snapshots } = event;
        Object.assign(this, { evaluated, val_loss, best_val_loss, snapshots });
        break;
      }
      case "measured": this.measure(event); break;
      case "finished":
        Object.assign(this, { finished: event.reason, phase: "finished", round: null });
    }
  }

  /** @param {Whole} event */
  begin({ at, type, peers, ...fields }) {
    Object.assign(this, fields);
    this.peers = new Map(peers.map((peer) => [peer.peer, peer]));
    this.roundAt = performance.now();
  }

  /** @param {Refused} event */
  refuse({ peer, verdict, reason }) {
    const refused = this.peers.get(peer);
    if (!refused) return;
    refused[verdict] += 1;
    refused.reason = reason;
  }

  /** @param {MeasuredNow} event */
  measure({ at, type, peers, ...fields }) {
    Object.assign(this, fields);
    this.roundAt = performance.now();
    for (const [id, numbers] of Object.entries(peers)) {
      Object.assign(this.peers.get(id) ?? {}, numbers);
    }
    for (const peer of this.peers.values()) peer.share = peer.tokens / (this.tokens || 1);
  }

  /** Seconds until training of this round ends. */
  get left() {
    return this.round && Math.max(0, this.round.left - (performance.now() - this.roundAt) / 1000);
  }
}
