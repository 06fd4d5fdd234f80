// What the coordinator said, kept up to date with its events.

/** The fields of /api/state, but `peers` is a Map. `roundAt`: when `round` was heard, here. */
export class State {
  peers = new Map();

  apply(event) {
    const { seq, at, type, ...fields } = event;
    this.seq = seq;
    this[`on_${type}`]?.(fields);
  }

  on_state(fields) {
    Object.assign(this, fields, { peers: byId(fields.peers), roundAt: performance.now() });
  }

  on_joined({ peer }) {
    this.peers.set(peer.peer, peer);
  }

  on_left({ peer }) {
    this.peers.delete(peer);
  }

  on_peer({ peer, ...fields }) {
    Object.assign(this.peers.get(peer) ?? {}, fields);
  }

  on_opened({ quota, seconds }) {
    this.round = { quota, seconds, left: seconds };
    this.roundAt = performance.now();
    this.phase = "training";
  }

  on_closed() {
    this.phase = "committing";
  }

  on_committed({ version, step, total, loss, snapshots = this.snapshots }) {
    Object.assign(this, { version, step, total, loss, snapshots, round: null, phase: "waiting" });
  }

  on_refused({ peer, verdict, reason }) {
    const refused = this.peers.get(peer);
    if (!refused) return;
    refused[verdict] += 1;
    refused.reason = reason;
  }

  on_evaluated({ version, val_loss, best_val_loss, snapshots = this.snapshots }) {
    Object.assign(this, { evaluated: version, val_loss, best_val_loss, snapshots });
  }

  on_measured({ peers, ...fields }) {
    Object.assign(this, fields, { roundAt: performance.now() });
    for (const [id, values] of Object.entries(peers)) {
      const peer = this.peers.get(id);
      if (!peer) continue;
      [peer.speed, peer.bytes_up, peer.bytes_down, peer.latency, peer.tokens, peer.counted,
        peer.late, peer.rejected] = values;
    }
    for (const peer of this.peers.values()) peer.share = peer.tokens / (this.tokens || 1);
  }

  on_finished({ reason }) {
    Object.assign(this, { finished: reason, phase: "finished", round: null });
  }

  /** Seconds until training of this round ends. */
  get left() {
    return this.round && Math.max(0, this.round.left - (performance.now() - this.roundAt) / 1000);
  }
}

function byId(peers) {
  return new Map(peers.map((peer) => [peer.peer, peer]));
}
