// What only the page's session does; all else is compared with Python's (tests/tab/).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { before, test } from "node:test";

import { ErrorFeedback } from "../../../hive/page/peer/feedback.js";
import { encode } from "../../../hive/page/peer/codec.js";
import { jobFrom } from "../../../hive/page/peer/job.js";
import { load } from "../../../hive/page/peer/kernels.js";
import { parametersOf } from "../../../hive/page/peer/network.js";
import { VERSION, proof } from "../../../hive/page/peer/protocol.js";
import { PeerSession } from "../../../hive/page/peer/session.js";
import { Outgoing, Progress } from "../../../hive/page/peer/update.js";

before(() => load(readFileSync(new URL("../../../hive/page/peer/kernels.wasm", import.meta.url))));

const TOKEN = "7".repeat(64), NOW = { steady: 100, unix: 1e9 };
const JOB = { hive: "h", size: "tiny", mode: "diloco", characters: "ab", text: "0".repeat(64),
  text_bytes: 10, whole_text: "", limits: {}, recipe: {}, sync: { up: "q4", down: "q4" },
  config: { vocab_size: 2, block_size: 8, n_layer: 1, n_head: 1, n_embd: 16 } };
const COUNT = parametersOf(JOB.config);

/** An update of the round that starts from version 5, as an earlier page left it. */
function left() {
  const work = new Progress(), part = { start: 0, stop: COUNT };
  work.add(64, 3, 0.5);
  return new Outgoing(5, { version: 5, hash: "5".repeat(64), weights: null }, "q4",
    encode("q4", new Float32Array(COUNT).fill(0.25)), 4, part, work);
}

/** A new page joins; returns what its session says and asks for once the network is built. */
function joined({ job = JOB, ...welcome } = {}) {
  const update = left(), described = jobFrom(JOB).described;
  const recall = () => ({ token: TOKEN, name: "tab", job: described,
    updates: [structuredClone(update.kept)] });
  const session = new PeerSession({ name: "tab", token: () => "a".repeat(64), recall });
  session.connected(NOW);
  session.heard({ type: "challenge", protocol: VERSION, hive: "h", nonce: "b".repeat(64),
    locked: false }, NOW);
  const [{ ticket }] = session.heard({ type: "welcome", peer: "p", name: "tab", token: null,
    proof: proof("", "coordinator", "b".repeat(64), "a".repeat(64)), counted: [], job,
    ...welcome }, NOW).filter(({ type }) => type === "do");
  const built = session.done(ticket, new Uint8Array(10), NOW).at(-1);
  const effects = session.done(built.ticket, COUNT, NOW);
  return { session, update, told: effects.filter(({ type }) => type === "tell").map(
    ({ message }) => message), work: effects.filter(({ type }) => type === "do") };
}

test("an update that an earlier page left is offered again, just as it was", () => {
  const { update, told, work } = joined();
  assert.deepEqual(work.map(({ what }) => what), ["restore"]);
  const [offer, ready] = told;
  assert.deepEqual(offer, update.offer(NOW.steady, false));
  assert.deepEqual([ready.type, ready.version, ready.weights], ["ready", 0, null]);
});

test("if it counted meanwhile it is settled, and not offered", () => {
  const { session, told, work } = joined({ counted: [3, 6] });
  assert.deepEqual(told.map(({ type }) => type), ["ready"]);
  assert.deepEqual(work.map(({ what, values }) => [what, values[0]]),
    [["restore", "q4"], ["settle", true]]);
  assert.equal(session.carried, 0);
});

test("what another peer or another job left is not taken up", () => {
  for (const change of [{ token: "9".repeat(64) }, { job: { ...JOB, mode: "other" } }]) {
    const { session, told, work } = joined(change);
    assert.deepEqual(told.map(({ type }) => type), ["ready"]);
    assert.deepEqual(work, []);
    assert.deepEqual(session.offers.updates, []);
  }
});

test("what is taken up comes with the next update if it does not count, and only then", () => {
  const part = { start: 0, stop: COUNT }, { update } = left();
  for (const counted of [true, false]) {
    const feedback = new ErrorFeedback(COUNT, 1);
    feedback.restore("q4", update, part);
    feedback.settle(counted, part);
    const next = feedback.encode("q4", new Float32Array(COUNT), part);
    assert.deepEqual(next, encode("q4", new Float32Array(COUNT).fill(counted ? 0 : 0.25)));
  }
});
