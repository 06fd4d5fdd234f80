import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Curve, nearest, within } from "../../hive/page/loss/curve.js";
import { History } from "../../hive/page/loss/history.js";

/** What the coordinator answers about rounds first to last, `every` of them in each point. */
function losses(first, last, every = 1) {
  const rounds = [];
  for (let round = first + every - 1; round <= last; round += every) rounds.push(round);
  return { first, last, every, rounds, steps: rounds.map((round) => 10 * round),
    loss: rounds.map((round) => 4 / round), low: rounds.map((round) => 3 / round),
    high: rounds.map((round) => 5 / round), committed: rounds.map((round) => 1000 + 2 * round),
    evaluations: { rounds: [last], steps: [10 * last], val_loss: [1.5] } };
}

function committed(version) {
  return { type: "committed", version, step: 10 * version, loss: 4 / version,
    opened: 1000 + 2 * version - 2, committed: 1000 + 2 * version };
}

// ---- A curve

test("a curve goes on with the events, and knows none twice", () => {
  const curve = new Curve(losses(1, 4), 200, true, 1000);
  for (const version of [3, 4, 5, 5, 6]) curve.add(committed(version));
  assert.deepEqual(curve.points.map(({ round }) => round), [1, 2, 3, 4, 5, 6]);
  const { first, round, step, time, loss } = curve.points[5];
  assert.deepEqual({ first, round, step, time, loss },
    { first: 6, round: 6, step: 60, time: 12, loss: 4 / 6 });
});

test("a curve of a part that is over does not grow", () => {
  const curve = new Curve(losses(1, 4), 200, false, 1000);
  curve.add(committed(5));
  assert.equal(curve.last, 4);
});

test("what was not measured is not a number, instead of zero", () => {
  const answer = { ...losses(1, 2), loss: [null, 2] };
  assert.deepEqual(new Curve(answer, 200, true, 1000).points.map(({ loss }) => loss), [NaN, 2]);
});

test("a later evaluation of the same round takes the place of the first", () => {
  const curve = new Curve(losses(1, 4), 200, true, 1000);
  curve.add({ type: "evaluated", version: 4, step: 40, val_loss: 1.25 });
  assert.deepEqual(curve.evaluations, [{ round: 4, step: 40, loss: 1.25 }]);
});

test("rounds, steps and times are translated into each other", () => {
  const curve = new Curve(losses(1, 8, 2), 200, true, 1000);
  assert.equal(curve.translate(4, "round", "step"), 40);
  assert.equal(curve.translate(5, "round", "time"), 10); // between two points
  assert.equal(curve.translate(10, "time", "round"), 5);
  assert.equal(curve.translate(1, "round", "step"), 10); // before the first
  assert.equal(curve.translate(99, "round", "step"), 80); // after the last
});

test("the nearest point, and those within a range, are found", () => {
  const { points } = new Curve(losses(1, 8, 2), 200, true, 1000);
  const rounds = (some) => some.map(({ round }) => round);
  assert.equal(nearest(points, "round", 4.9).round, 4);
  assert.equal(nearest(points, "round", -5).round, 2);
  assert.equal(nearest(points, "time", 1e9).round, 8);
  assert.equal(nearest([], "round", 1), undefined);
  assert.deepEqual(rounds(within(points, { from: 3, to: 6.5 })), [4, 6]);
  assert.deepEqual(rounds(within(points, { from: 3, to: 6.5 }, 1)), [2, 4, 6, 8]);
});

// ---- A history, which asks the coordinator

let asked, history;
const { fetch } = globalThis;

/** Each question waits for the test to answer it. */
beforeEach(() => {
  asked = [];
  globalThis.fetch = (address) => new Promise((resolve) => {
    asked.push({ address, answer: (facts) => resolve({ ok: facts !== null, json: () => facts }) });
  });
  history = new History(() => {});
});

afterEach(() => {
  clearTimeout(history.timer);
  globalThis.fetch = fetch;
});

/** Until something holds that must come true by itself. */
async function until(holds) {
  for (let turn = 0; turn < 2000 && !holds(); turn += 1) {
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.ok(holds(), "it never came true");
}

async function start(hive, facts) {
  history.update({ hive, session: "s", started: 1000 });
  const before = asked.length;
  await until(() => asked.length > before);
  asked.at(-1).answer(facts);
  await until(() => !history.asking);
}

test("an event that comes while a question is open is not lost", async () => {
  history.update({ hive: "a", session: "s", started: 1000 });
  await until(() => asked.length === 1);
  assert.equal(asked[0].address, "api/history?points=200");
  history.event(committed(5));
  asked[0].answer(losses(1, 4)); // made before round 5
  await until(() => history.whole.points.length > 1);
  assert.deepEqual(history.whole.points.map(({ round }) => round), [1, 2, 3, 4, 5]);
});

test("an answer about another run is not taken for this one's", async () => {
  history.update({ hive: "old", session: "s", started: 1000 });
  await until(() => asked.length === 1);
  history.update({ hive: "new", session: "t", started: 5000 });
  asked[0].answer(losses(1, 99));
  await until(() => asked.length === 2);
  assert.equal(history.whole.points.length, 0);
  asked[1].answer(losses(1, 3));
  await until(() => history.whole.points.length === 3);
});

test("a part that is looked at closely is asked for, with a margin", async () => {
  await start("a", losses(1, 10000, 50));
  history.look({ from: 4000, to: 5000 });
  await until(() => asked.length === 2);
  assert.equal(asked[1].address, "api/history?from=3900&to=5100&points=240");
  asked[1].answer(losses(3900, 5100, 5));
  await until(() => history.shown === history.detail);
  assert.deepEqual(history.range, { from: 4000, to: 5000 });
  assert.deepEqual(history.detail.evaluations.map(({ round }) => round), [5100, 10000]);
});

test("a visitor who looks at the newest rounds follows them", async () => {
  await start("a", losses(1, 100));
  history.look({ from: 80, to: 100 });
  history.event(committed(101));
  assert.deepEqual(history.view, { from: 81, to: 101 });
  history.look({ from: 20, to: 40 });
  history.event(committed(102));
  assert.deepEqual(history.view, { from: 20, to: 40 });
});

test("nobody can look beside the run, nor at less than four rounds", async () => {
  await start("a", losses(1, 100));
  history.look({ from: -50, to: 900 });
  assert.equal(history.view, null);
  history.look({ from: 50, to: 51 });
  assert.deepEqual(history.view, { from: 48.5, to: 52.5 });
});

test("a question that failed is reported, and the curve stays", async () => {
  await start("a", losses(1, 10));
  await start("a", null);
  assert.deepEqual([history.failed, history.whole.last], [true, 10]);
});
