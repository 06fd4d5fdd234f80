import assert from "node:assert/strict";
import { test } from "node:test";

import { FLIGHT, MARK, PULSE, Scene } from "../../hive/page/network/scene.js";

const WRITER = { shorten: (name) => name, widthOf: (name) => 7 * name.length };
const peer = (id, tokens = 0) => ({ peer: id, name: id, steps: 0, quota: 0, tokens });

/** A scene with `size` peers, on a canvas. */
function scene(size) {
  const made = new Scene();
  for (let i = 0; i < size; i += 1) made.add(`p${i}`, peer(`p${i}`, 100 * i));
  made.lay(800, 400);
  return made;
}

function rest(made) {
  for (let step = 0; step < 3000; step += 1) if (!made.move(made.plan, 1 / 60, WRITER)) return;
  assert.fail("it never comes to rest");
}

test("everybody is named once all are in their places, the largest has contributed most", () => {
  const made = scene(5);
  assert.deepEqual(made.named, []);
  rest(made);
  assert.deepEqual(made.named.map(({ name }) => name), ["p0", "p1", "p2", "p3", "p4"]);
  const radii = made.nodes.map(({ radius }) => radius);
  assert.deepEqual(radii, [...radii].sort((a, b) => a - b));
});

test("who comes takes the place of who left, and the others keep theirs", () => {
  const made = scene(4);
  made.remove("p1");
  made.gather();
  made.add("new", peer("new"));
  assert.deepEqual(made.nodes.map(({ place }) => place), [0, 2, 3, 1]);
  for (let i = 4; i < 40; i += 1) made.add(`p${i}`, peer(`p${i}`));
  for (let i = 2; i < 38; i += 1) made.remove(`p${i}`);
  made.gather(); // by now it is full of holes
  assert.deepEqual(made.nodes.map(({ place }) => place).sort(), [0, 1, 2, 3]);
});

test("a transfer flies once, behind the one before, and then it is over", () => {
  const made = scene(2);
  const transfer = { peer: "p0", direction: "up", bytes: 96 * 1024 };
  assert.ok(made.launch(transfer, 1000) && made.launch(transfer, 1000));
  assert.equal(made.launch({ ...transfer, peer: "gone" }, 1000), false);
  const [first, second] = made.particles;
  assert.ok(first.start === 1000 && second.start > 1000 && first.size === 1);
  made.age(1000 + FLIGHT);
  assert.deepEqual(made.particles, [second]);
  made.age(second.start + FLIGHT);
  assert.equal(made.isAlive(second.start + FLIGHT), false);
});

test("nothing flies for who wants calm, but the line shines as long", () => {
  const made = scene(1);
  made.calm = true;
  assert.ok(made.launch({ peer: "p0", direction: "down", bytes: 1 }, 1000));
  assert.deepEqual([made.particles.length, made.isAlive(1000 + FLIGHT / 2),
    made.isAlive(1000 + 2 * FLIGHT)], [0, true, false]);
});

test("a commit shines where an update counted, and rounds that follow at once share it", () => {
  const made = scene(3);
  const contributions = [["p0", "counted"], ["p1", "late"], ["gone", "counted"]].map(
    ([id, verdict]) => ({ peer: id, verdict }));
  made.shine({ contributions }, 1000);
  made.shine({ contributions: [] }, 1010);
  assert.deepEqual(made.pulse, { start: 1000, counted: [made.nodes[0]] });
  made.age(1000 + PULSE);
  assert.equal(made.pulse, null);
});

test("an update that did not count is marked for a while", () => {
  const made = scene(1);
  made.mark({ peer: "p0", verdict: "late" }, 1000);
  made.age(1000 + MARK - 1);
  assert.equal(made.nodes[0].refused, "late");
  made.age(1000 + MARK);
  assert.equal(made.nodes[0].refused, "");
});
