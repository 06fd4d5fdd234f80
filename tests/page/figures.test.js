// What the page says about a run.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Figures } from "../../hive/page/figures.js";

const RUN = { mode: "hive", unit: "round", version: 3, step: 9, total: 90, val_loss: null,
  loss: null, phase: "training", paused: "", left: 4, finished: "", speed: 1, flops: 1,
  speedup: null, fastest: null, peers: new Map(), updates: { counted: 0, late: 0, rejected: 0 } };

function roundOf(changes) {
  for (const [name, , note] of Figures.prototype.facts({ ...RUN, ...changes })) {
    if (name === "Round") return note;
  }
}

test("a run that waits for room on the disk says so, and why", () => {
  assert.equal(roundOf({ phase: "paused", paused: "The disk is full." }),
    "paused: The disk is full.");
  assert.match(roundOf({}), /^training, .* left$/);
});
