import assert from "node:assert/strict";
import { test } from "node:test";

import {
  bits, bytes, count, duration, metric, milliseconds, nats, percent,
} from "../../hive/page/format.js";

test("what has not been measured is a dash", () => {
  for (const say of [bits, bytes, count, duration, metric, milliseconds, nats, percent]) {
    assert.equal(say(null), "–");
    assert.equal(say(undefined), "–");
  }
});

test("zero is a number", () => {
  assert.deepEqual([count(0), bytes(0), percent(0), duration(0)], ["0", "0 B", "0.0%", "0 s"]);
});

test("numbers have three digits and a unit", () => {
  const said = [1, 999, 999.6, 1234, 9994, 9996, 99960, 1234567, 1e18, 1e24].map((value) =>
    metric(value, "B"));
  assert.deepEqual(said, ["1 B", "999 B", "1.00 kB", "1.23 kB", "9.99 kB", "10.0 kB", "100 kB",
    "1.23 MB", "1.00 EB", "1000000 EB"]);
});

test("losses are nats, or bits", () => {
  assert.deepEqual([nats(1.5), bits(Math.LN2), count(1234567), percent(0.4567)],
    ["1.5000", "1.0000", "1,234,567", "45.7%"]);
});

test("times are said as people say them", () => {
  const said = [7.2, 59.6, 125, 3725, 47.9 * 3600, 48 * 3600, -3].map(duration);
  assert.deepEqual(said, ["7 s", "1 min 00 s", "2 min 05 s", "1 h 02 min", "47 h 54 min",
    "2 d 00 h", "0 s"]);
  assert.deepEqual([milliseconds(0.0123), milliseconds(0.0012)], ["12 ms", "1.2 ms"]);
});
