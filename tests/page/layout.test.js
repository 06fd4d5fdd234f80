import assert from "node:assert/strict";
import { test } from "node:test";

import { arrange, legible, settle } from "../../hive/page/network/layout.js";

const WIDTH = 800, HEIGHT = 400;

function crowd(size) {
  const plan = arrange(size, size, WIDTH, HEIGHT);
  const hub = { x: WIDTH / 2, y: HEIGHT / 2, ax: 0, ay: 0, radius: plan.hub };
  const nodes = Array.from({ length: size }, (_, place) => {
    const home = plan.home(place);
    return { ...home, home, vx: 0, vy: 0, ax: 0, ay: 0, radius: plan.largest, pinned: false };
  });
  return { plan, hub, nodes };
}

function rest({ plan, hub, nodes }) {
  for (let step = 0; step < 3000; step += 1) if (settle(nodes, hub, plan, 1 / 60)) return;
  assert.fail("the nodes never come to rest");
}

test("every place is on the canvas and off the hub", () => {
  for (const size of [1, 2, 8, 24, 25, 200, 1000]) {
    const { plan, hub, nodes } = crowd(size);
    for (const { x, y } of nodes) {
      assert.ok(x > 0 && x < WIDTH && y > 0 && y < HEIGHT, `${size}`);
      if (size <= 24) assert.ok(Math.hypot(x - hub.x, y - hub.y) >= plan.hub);
    }
  }
});

test("nodes come to rest, and do not cover each other", () => {
  for (const size of [1, 5, 24, 60]) {
    const scene = crowd(size);
    rest(scene);
    for (const [i, a] of scene.nodes.entries()) {
      for (const b of scene.nodes.slice(0, i)) {
        assert.ok(Math.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius, `${size}`);
      }
    }
  }
});

test("two nodes in the same spot part", () => {
  const scene = crowd(2);
  for (const node of scene.nodes) Object.assign(node, { x: 100.5, y: 100 });
  scene.nodes[1].x += 0.001;
  rest(scene);
  const [a, b] = scene.nodes;
  assert.ok(Math.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius);
});

test("a pinned node stays where it is", () => {
  const scene = crowd(6);
  Object.assign(scene.nodes[2], { x: 77, y: 55, pinned: true });
  rest(scene);
  assert.deepEqual([scene.nodes[2].x, scene.nodes[2].y], [77, 55]);
});

test("names that would cover a node or another name are left out", () => {
  const { plan, hub } = crowd(3);
  const nodes = [100, 130, 400].map((x) => ({ x, y: 80, ax: 0, ay: 0, radius: 10 }));
  assert.deepEqual(legible(nodes, [60, 60, 60], hub, plan), [nodes[0], nodes[2]]);
  assert.deepEqual(legible(nodes, [10, 10, 10], hub, plan), nodes);
});
