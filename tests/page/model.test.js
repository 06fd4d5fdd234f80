import assert from "node:assert/strict";
import { test } from "node:test";

import { Transformer, chances, draw, mulberry32, readAlong, write } from "../../hive/page/chat/model.js";
import { parse } from "../../hive/page/chat/weights.js";

const CONFIG = { vocab_size: 5, block_size: 6, n_layer: 2, n_head: 2, n_embd: 4 };
const C = CONFIG.n_embd, V = CONFIG.vocab_size, T = CONFIG.block_size;
const SHAPES = {
  "token_embedding.weight": [V, C], "position_embedding.weight": [T, C],
  "norm.weight": [C], "norm.bias": [C], "head.weight": [V, C],
  ...Object.fromEntries([0, 1].flatMap((n) => [
    ["norm1.weight", [C]], ["norm1.bias", [C]],
    ["attention.qkv.weight", [3 * C, C]], ["attention.projection.weight", [C, C]],
    ["norm2.weight", [C]], ["norm2.bias", [C]],
    ["feed_forward.up.weight", [4 * C, C]], ["feed_forward.down.weight", [C, 4 * C]],
  ].map(([name, shape]) => [`blocks.${n}.${name}`, shape]))),
};

/** A file of weights as the coordinator writes it, with random numbers; `change` the header. */
function file({ about = {}, change = () => {}, padding = 0 } = {}) {
  const random = mulberry32(7);
  const header = { __metadata__: { gltch: JSON.stringify(
    { config: CONFIG, vocabulary: "aé\n😀z", round: 3, step: 40, ...about }) } };
  const numbers = [];
  for (const [name, shape] of Object.entries(SHAPES)) {
    const begin = 4 * numbers.length;
    for (let i = shape.reduce((a, b) => a * b); i > 0; i -= 1) numbers.push(2 * random() - 1);
    header[name] = { dtype: "F32", shape, data_offsets: [begin, 4 * numbers.length] };
  }
  change(header);
  let text = JSON.stringify(header);
  text += " ".repeat((4 - (new TextEncoder().encode(text).length % 4)) % 4 + padding);
  const bytes = new TextEncoder().encode(text);
  const buffer = new ArrayBuffer(8 + bytes.length + 4 * numbers.length);
  new DataView(buffer).setBigUint64(0, BigInt(bytes.length), true);
  new Uint8Array(buffer).set(bytes, 8);
  new Uint8Array(buffer).set(
    new Uint8Array(Float32Array.from(numbers).buffer), 8 + bytes.length);
  return buffer;
}

function scores(model, ids) {
  model.length = 0;
  for (const id of ids) model.read(id);
  return [...model.logits()];
}

test("a file is read wherever its numbers begin, and by code point", () => {
  const weights = parse(file());
  assert.deepEqual(weights.vocabulary, ["a", "é", "\n", "😀", "z"]);
  assert.deepEqual([weights.round, weights.step, weights.val_loss], [3, 40, null]);
  for (const padding of [1, 2, 3]) assert.deepEqual(parse(file({ padding })), weights);
});

test("a damaged file is refused with a sentence", () => {
  const whole = file();
  for (const length of [0, 7, 20, whole.byteLength - 1]) {
    assert.throws(() => parse(whole.slice(0, length)), /cannot be used: .*\.$/);
  }
  const damage = [
    [{ about: { config: { ...CONFIG, n_head: 3 } } }, /divided among its heads/],
    [{ about: { config: { ...CONFIG, n_layer: "2" } } }, /n_layer is missing/],
    [{ about: { vocabulary: "abc" } }, /vocabulary/],
    [{ change: (header) => { delete header["norm.bias"]; } }, /it has no norm\.bias/],
    [{ change: (header) => { header["norm.bias"].dtype = "F16"; } }, /not fp32/],
    [{ change: (header) => { header["head.weight"].shape = [C, V]; } }, /is not 5 x 4/],
    [{ change: (header) => { header["norm.bias"].data_offsets[0] -= 4; } }, /cut off/],
    [{ change: (header) => { delete header["norm.bias"].data_offsets; } }, /cut off/],
    [{ change: (header) => { delete header.__metadata__; } }, /description is not JSON/],
  ];
  for (const [how, sentence] of damage) assert.throws(() => parse(file(how)), sentence);
});

test("what is remembered of a text is what reading it again would give", () => {
  const model = new Transformer(parse(file()));
  const whole = scores(model, [0, 1, 2, 3]);
  model.length = 0;
  for (const id of [0, 1, 2]) model.read(id);
  model.logits(); // asking does not disturb
  model.read(3);
  assert.deepEqual([...model.logits()], whole);
  scores(model, [4, 4, 4, 4, 4, 4]);
  assert.deepEqual(scores(model, [0, 1, 2, 3]), whole); // and forgetting leaves nothing
});

test("the same seed writes the same text, as long as was asked for, in any context", () => {
  const model = new Transformer(parse(file()));
  const texts = [1, 1, 2].map((seed) => [...write(model, [0], {
    length: 50, temperature: 1, topK: null, random: mulberry32(seed) })]
    .flatMap((step) => step?.id ?? []));
  assert.deepEqual(texts[0], texts[1]);
  assert.notDeepEqual(texts[0], texts[2]);
  assert.equal(texts[0].length, 50);
  assert.ok(texts.flat().every((id) => id >= 0 && id < V));
});

test("a temperature of zero takes the likeliest, top-k only the likeliest", () => {
  const logits = Float32Array.from([1, 5, 2, 4, 3]);
  const choose = (temperature, topK, random) => draw(chances(logits, { temperature, topK }), random);
  assert.equal(choose(0, null, () => 0.99), 1);
  const random = mulberry32(5);
  const chosen = new Set(Array.from({ length: 500 }, () => choose(5, 2, random)));
  assert.deepEqual(chosen, new Set([1, 3]));
});

test("choices are as likely as their scores say", () => {
  const random = mulberry32(11);
  const seen = [0, 0, 0];
  for (let i = 0; i < 20000; i += 1) {
    seen[draw(chances(Float32Array.from([0.1, 0.3, 0.6].map(Math.log))), random)] += 1;
  }
  seen.forEach((times, id) => assert.ok(Math.abs(times / 20000 - [0.1, 0.3, 0.6][id]) < 0.02));
});

test("what is written carries the chances that reading the same text finds", () => {
  const model = new Transformer(parse(file()));
  const written = [...write(model, [0], {
    length: 40, temperature: 0.5, topK: 3, random: mulberry32(3) })].filter((step) => step);
  const found = [...readAlong(model, [0, ...written.map(({ id }) => id)])].filter((step) => step);
  assert.deepEqual(found.map(({ before }) => before), written.map(({ before }) => before));
  for (const { id, before, after } of written) {
    assert.equal(after.filter((chance) => chance > 0).length, 3);
    assert.ok(after[id] > 0 && before.every((chance) => chance > 0));
  }
});

test("a step says how much was in sight: all of it, and of a full context the newer half", () => {
  const model = new Transformer(parse(file()));
  const seen = [...readAlong(model, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0])]
    .flatMap((step) => step?.seen ?? []);
  assert.deepEqual(seen, [1, 2, 3, 4, 5, 6, 3, 4, 5, 6]);
  assert.equal(T, 6);
});

test("the attention of each head is over what was read, and adds to one", () => {
  const model = new Transformer(parse(file()));
  scores(model, [0, 1, 2, 3]);
  const attention = model.attention();
  assert.deepEqual(attention.map((heads) => heads.map((row) => row.length)), [[4, 4], [4, 4]]);
  for (const row of attention.flat()) {
    assert.ok(Math.abs(row.reduce((sum, weight) => sum + weight) - 1) < 1e-6);
  }
  const kept = structuredClone(attention);
  model.read(4);
  assert.deepEqual(attention, kept); // what was given away stays
});
