import assert from "node:assert/strict";
import { test } from "node:test";

import {
  Scale, decimals, durationTicks, shortDuration, ticks, wholeTicks,
} from "../../hive/page/loss/scale.js";

test("pixels and values are each other's inverse", () => {
  for (const form of ["linear", "logarithmic"]) {
    const scale = new Scale(0.5, 8, 300, 20, form); // losses grow upwards
    assert.equal(scale.pixel(0.5), 300);
    assert.equal(scale.pixel(8), 20);
    for (const value of [0.5, 1, 2.5, 8]) {
      assert.ok(Math.abs(scale.value(scale.pixel(value)) - value) < 1e-12);
    }
  }
  assert.ok(Math.abs(new Scale(0.5, 8, 300, 20, "logarithmic").pixel(2) - 160) < 1e-9);
});

test("the same pixels in another unit are the same pixels", () => {
  const nats = new Scale(1, 4, 200, 0);
  assert.equal(nats.times(1 / Math.LN2).pixel(2 / Math.LN2), nats.pixel(2));
});

test("round values are inside, and about as many as there is room for", () => {
  assert.deepEqual(ticks({ low: 0, high: 1, form: "linear" }, 5), [0, 0.2, 0.4, 0.6000000000000001,
    0.8, 1]);
  assert.deepEqual(ticks({ low: 1.5, high: 4.2, form: "logarithmic" }, 6), [1.5, 2, 2.5, 3, 3.5, 4]);
  assert.deepEqual(ticks({ low: 0.01, high: 10, form: "logarithmic" }, 4), [0.01, 0.1, 1, 10]);
  assert.deepEqual(ticks({ low: 0.1, high: 10, form: "logarithmic" }, 9),
    [0.1, 0.2, 0.5, 1, 2, 5, 10]);
  for (let most = 2; most < 40; most += 1) {
    for (const [low, high] of [[0, 7], [3, 3.001], [120, 98765], [1e-5, 1e-4]]) {
      const values = ticks({ low, high, form: "linear" }, most);
      assert.ok(values.length >= 1 && values.length <= most + 1, `${low} ${high} ${most}`);
      assert.ok(values.every((value) => value >= low - 1e-9 && value <= high + 1e-9));
    }
  }
});

test("rounds have no fractions", () => {
  assert.deepEqual(wholeTicks({ low: 0, high: 2 }, 10), [0, 1, 2]);
});

test("times are cut where clocks cut them", () => {
  assert.deepEqual(durationTicks({ low: 0, high: 3600 }, 4), [0, 900, 1800, 2700, 3600]);
  assert.deepEqual(durationTicks({ low: 0, high: 3 * 86400 }, 3), [0, 86400, 172800, 259200]);
  assert.deepEqual(durationTicks({ low: 0, high: 1 }, 2), [0, 0.5, 1]);
});

test("labels have as many decimals as the one that needs most", () => {
  assert.deepEqual(decimals([0, 0.1 + 0.2, 1]), ["0.0", "0.3", "1.0"]);
  assert.deepEqual(decimals([1, 2]), ["1", "2"]);
});

test("round times are said shortly", () => {
  const said = [0.2, 5, 60, 90, 5400, 108000, 172800, 180000].map(shortDuration);
  assert.deepEqual(said, ["0.2 s", "5 s", "1 min", "1 min 30 s", "1 h 30 min", "30 h", "2 d",
    "2 d 2 h"]);
});
