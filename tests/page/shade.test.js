import assert from "node:assert/strict";
import { test } from "node:test";

import {
  SHADES, darkness, meanSurprise, mostSeen, named, odds, shade, surprise, symbol, worstPlaces,
} from "../../hive/page/inside/shade.js";

test("what is less likely is darker, from the first shade to the last", () => {
  const shades = [1, 0.6, 0.4, 0.2, 0.05, 0.001, 0].map(shade);
  assert.deepEqual(shades, [0, 1, 2, 3, 4, 5, 5]);
  assert.equal(new Set(shades).size, SHADES);
});

test("a surprise is in bits, and finite also for what was thought impossible", () => {
  assert.equal(surprise(1), 0);
  assert.equal(surprise(1 / 8), 3);
  assert.ok(Number.isFinite(surprise(0)));
  assert.equal(meanSurprise([0.5, 0.125]), 2);
});

test("the worst places stand out from the mean, the worst first", () => {
  assert.deepEqual(worstPlaces([0.9, 0.01, 0.8, 0.001, 0.9, 0.9], 5), [3, 1]);
  assert.deepEqual(worstPlaces([0.9, 0.01, 0.8, 0.001, 0.9, 0.9], 1), [3]);
  assert.deepEqual(worstPlaces([0.015, 0.015, 0.015], 5), []); // as before training
});

test("chances for people", () => {
  assert.deepEqual([1, 0.8305, 0.0996, 0.0123, 0.0004, 0.00001, 0].map(odds),
    ["100.0%", "83.0%", "10.0%", "1.23%", "0.04%", "<0.01%", "0.0%"]);
});

test("also characters without ink have a name and a symbol", () => {
  assert.deepEqual(["a", " ", "\n"].map(named), ["“a”", "a space", "a line end"]);
  assert.deepEqual(["a", " ", "\n"].map(symbol), ["a", "␣", "↵"]);
});

test("attention is as dark as its part of the most, and pale where nothing stands out", () => {
  assert.deepEqual([...darkness(Float32Array.from([0.2, 0.8, 0]))], [0.5, 1, 0]);
  assert.ok(Math.max(...darkness(new Float32Array(100).fill(0.01))) < 0.4);
});

test("the places with most attention come first", () => {
  assert.deepEqual(mostSeen(Float32Array.from([0.1, 0.5, 0.1, 0.3]), 2), [1, 3]);
});
