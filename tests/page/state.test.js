import assert from "node:assert/strict";
import { test } from "node:test";

import { State } from "../../hive/page/state.js";

const peer = (id) => ({ peer: id, name: id, state: "waiting", steps: 0, quota: 0, tokens: 0,
  share: 0, counted: 0, late: 0, rejected: 0, reason: "", score: 1, aside: "" });

/** A state that has heard these events, after the whole state. */
function heard(...events) {
  const state = new State();
  const whole = { type: "state", at: 0, session: "s", seq: 7, version: 3, phase: "waiting",
    round: null, tokens: 0, snapshots: null, peers: [peer("a"), peer("b")] };
  [whole, ...events].forEach((event, index) => state.apply({ seq: 7 + index, ...event }));
  return state;
}

test("peers come and go, and a peer that is gone changes nothing", () => {
  const state = heard({ type: "joined", peer: peer("c") }, { type: "left", peer: "a" },
    { type: "peer", peer: "a", state: "training", steps: 1, quota: 2 },
    { type: "refused", peer: "a", verdict: "late", reason: "too late" });
  assert.deepEqual([...state.peers.keys()], ["b", "c"]);
  assert.equal(state.seq, 11);
});

test("a round opens, closes and is committed", () => {
  const opened = { type: "opened", version: 3, quota: 12, seconds: 5 };
  const state = heard(opened);
  assert.equal(state.phase, "training");
  assert.ok(state.left > 4 && state.left <= 5);
  assert.equal(heard(opened, { type: "closed", version: 3 }).phase, "committing");
  const over = heard(opened, { type: "committed", version: 4, step: 40, total: null, loss: 2 });
  assert.deepEqual([over.version, over.phase, over.round, over.left, over.snapshots],
    [4, "waiting", null, null, null]);
});

test("an update that did not count is counted as such, with its reason", () => {
  const { peers } = heard({ type: "refused", peer: "b", verdict: "rejected", reason: "not finite" });
  assert.deepEqual([peers.get("b").rejected, peers.get("b").late, peers.get("b").reason],
    [1, 0, "not finite"]);
});

test("what was measured reaches each peer that is there, and the shares add up", () => {
  const { peers, tokens } = heard({ type: "measured", phase: "training", version: 3, tokens: 300,
    peers: { a: { speed: 10, bytes_up: 1, bytes_down: 2, latency: 0.5, tokens: 300, counted: 3,
      late: 0, rejected: 1 }, gone: { tokens: 1 } } }, { type: "measured", phase: "training",
    version: 3, tokens: 400, peers: { b: { tokens: 100 } } });
  assert.equal(tokens, 400);
  assert.deepEqual([...peers.keys()], ["a", "b"]);
  assert.deepEqual([...peers.values()].map(({ share }) => share), [0.75, 0.25]);
  const { speed, bytes_up, bytes_down, latency, counted, late, rejected } = peers.get("a");
  assert.deepEqual([speed, bytes_up, bytes_down, latency, counted, late, rejected],
    [10, 1, 2, 0.5, 3, 0, 1]);
});
