import assert from "node:assert/strict";
import { test } from "node:test";

import { Shelf } from "../../hive/page/chat/shelf.js";

const MIB = 2 ** 20;
const weights = (round, bytes = MIB) => ({ round, bytes });

test("weights of a round are found again, but never as the newest", () => {
  const shelf = new Shelf();
  const three = weights(3);
  shelf.put(three);
  assert.equal(shelf.take(3), three);
  assert.equal(shelf.take(4), null);
  assert.equal(shelf.take(null), null);
  shelf.clear();
  assert.equal(shelf.take(3), null);
});

test("those that were not used for longest make room, and one always stays", () => {
  const shelf = new Shelf();
  for (const round of [1, 2, 3]) shelf.put(weights(round, 40 * MIB));
  shelf.take(1);
  shelf.put(weights(4, 40 * MIB));
  assert.deepEqual([1, 2, 3, 4].map((round) => shelf.take(round) !== null),
    [true, false, true, true]);
  shelf.put(weights(5, 1000 * MIB));
  assert.deepEqual(shelf.kept.map(({ round }) => round), [5]);
});

test("weights that are put twice are kept once", () => {
  const shelf = new Shelf();
  shelf.put(weights(1));
  const again = weights(1);
  shelf.put(again);
  assert.deepEqual(shelf.kept, [again]);
});
