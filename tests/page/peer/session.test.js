// What only the page's session does; all else is compared with Python's (tests/tab/).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { ErrorFeedback } from "../../../hive/page/peer/feedback.js";
import { encode } from "../../../hive/page/peer/codec.js";
import { jobFrom } from "../../../hive/page/peer/job.js";
import { load } from "../../../hive/page/peer/kernels.js";
import { parametersOf } from "../../../hive/page/peer/network.js";
import { Receiver, VERSION, chunks, nameOf, proof } from "../../../hive/page/peer/protocol.js";
import { PeerSession } from "../../../hive/page/peer/session.js";
import { Outgoing, Progress } from "../../../hive/page/peer/update.js";

await load(readFileSync(new URL("../../../hive/page/peer/kernels.wasm", import.meta.url)));

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

/** A new page is welcome; returns the ticket with which its session asks for the text. */
function welcomed({ update = left(), job = JOB, partial = null, ...welcome } = {}) {
  const recall = () => ({ token: TOKEN, name: "tab", job: jobFrom(JOB).described,
    updates: [structuredClone(update.kept)], partial });
  const session = new PeerSession({ name: "tab", token: () => "a".repeat(64), recall });
  session.connected(NOW);
  session.heard({ type: "challenge", protocol: VERSION, hive: "h", nonce: "b".repeat(64),
    locked: false }, NOW);
  const [{ ticket }] = session.heard({ type: "welcome", peer: "p", name: "tab", token: null,
    proof: proof("", "coordinator", "b".repeat(64), "a".repeat(64)), counted: [], job,
    ...welcome }, NOW).filter(({ type }) => type === "do");
  return { session, ticket };
}

/** It joins; returns what its session says and asks for once the network is built. */
function joined(settings) {
  const update = left(), { session, ticket } = welcomed({ update, ...settings });
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

const WEIGHTS = new Uint8Array(new Float32Array(COUNT).fill(0.5).buffer);
const WHOLE = nameOf(WEIGHTS), HALF = WEIGHTS.length / 2;

/** What an earlier page had got of some weights. */
function half(blob = WHOLE, content = WEIGHTS.slice(0, HALF)) {
  return Receiver.from(blob, WEIGHTS.length, [content]);
}

/** The weights are told of; returns how the session asks for them. */
function asks(session) {
  session.heard({ type: "verdict", version: 5, verdict: "accepted", reason: "" }, NOW);
  return session.heard({ type: "version", version: 9, weights: WHOLE, step: 9, counted: [] }, NOW)
    .find(({ message }) => message?.type === "fetch").message;
}

/** They come from this byte on; returns what the session answers to the last chunk. */
function come(session, offset) {
  session.heard({ type: "blob", blob: WHOLE, bytes: WEIGHTS.length, offset }, NOW);
  let effects = [];
  for (const chunk of chunks(WHOLE, WEIGHTS, offset)) effects = session.chunk(chunk, NOW);
  return effects;
}

test("weights of which an earlier page had got half go on from there", () => {
  const { session } = joined({ partial: half() });
  assert.deepEqual(asks(session), { type: "fetch", blob: WHOLE, offset: HALF });
  const [{ what, values: [content] }] = come(session, HALF);
  assert.equal(what, "whole");
  assert.deepEqual(content, WEIGHTS);
});

test("so does a text", () => {
  const { session, ticket } = welcomed({ partial: Receiver.from(JOB.text, JOB.text_bytes,
    [new Uint8Array(4), new Uint8Array(3)]) });
  const [{ message }] = session.done(ticket, null, NOW);
  assert.deepEqual(message, { type: "fetch", blob: JOB.text, offset: 7 });
});

test("what an earlier page had got of others is dropped", () => {
  const { session } = joined({ partial: half("e".repeat(64)) });
  assert.deepEqual(asks(session), { type: "fetch", blob: WHOLE, offset: 0 });
  assert.equal(session.download.kept, null);
});

test("if it was damaged it is found out by the SHA-256, and fetched from the beginning", () => {
  const { session } = joined({ partial: half(WHOLE, new Uint8Array(HALF)) });
  asks(session);
  const [{ type, reason }] = come(session, HALF);
  assert.deepEqual([type, reason],
    ["leave", "A transfer arrived damaged: its SHA-256 differs."]);
  assert.equal(session.download.kept, null);
});

test("weights that were interrupted are there for a later page, a round's update is not", () => {
  const { session } = joined(), update = "c".repeat(64);
  asks(session);
  session.heard({ type: "blob", blob: WHOLE, bytes: WEIGHTS.length, offset: 0 }, NOW);
  session.lost(NOW);
  assert.equal(session.download.kept.blob, WHOLE);

  const other = joined().session;
  asks(other);
  const whole = come(other, 0).find(({ type }) => type === "do");
  const loading = other.done(whole.ticket, [WEIGHTS, WHOLE], NOW).find(({ type }) => type === "do");
  other.done(loading.ticket, null, NOW);
  other.heard({ type: "commit", version: 10, weights: "d".repeat(64), codec: "q4", update, bytes: 9,
    step: 10, counted: false, follows: false }, NOW);
  other.heard({ type: "blob", blob: update, bytes: 9, offset: 0 }, NOW);
  assert.equal(other.download.partial.blob, update);
  assert.equal(other.download.kept, null);
});
