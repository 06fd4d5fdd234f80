// What the page says about a run.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionLine } from "../../hive/page/connection.js";
import { Figures } from "../../hive/page/figures.js";

const RUN = { mode: "hive", unit: "round", version: 3, step: 9, total: 90, val_loss: null,
  loss: null, phase: "training", paused: "", left: 4, finished: "", speed: 1, flops: 1,
  speedup: null, fastest: null, peers: new Map(), updates: { counted: 0, late: 0, rejected: 0 } };

function noteOf(figure, changes) {
  for (const [name, , note] of Figures.prototype.facts({ ...RUN, ...changes })) {
    if (name === figure) return note;
  }
}

const roundOf = (changes) => noteOf("Round", changes);

/** State and words of the line at the top. */
function lineOf(changes) {
  const said = [], connection = { heardAt: 0, retryAt: null, isLive: true };
  const line = { connection, show: (...words) => said.push(...words) };
  ConnectionLine.prototype.update.call(line, { ...RUN, ...changes });
  return said;
}

test("a run that waits for room on the disk says so, and at the top of the page why", () => {
  const paused = { phase: "paused", paused: "The disk is full." };
  assert.equal(roundOf(paused), "paused");
  assert.deepEqual(lineOf(paused), ["paused", "Paused: The disk is full."]);
  assert.match(roundOf({}), /^training, .* left$/);
  assert.deepEqual(lineOf({})[0], "live");
});

test("a hive that makes less than its fastest peer alone says so", () => {
  const fastest = { name: "ada", speed: 2000 };
  assert.equal(noteOf("Speed-up", { fastest, speedup: 1.5 }), "the fastest peer's, ada: 2.00 k/s");
  assert.equal(noteOf("Speed-up", { fastest, speedup: 0.73 }),
    "less than the fastest peer makes alone, ada: 2.00 k/s");
  assert.equal(noteOf("Speed-up", {}), "nobody measured yet");
});
