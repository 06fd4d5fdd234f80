import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { before, test } from "node:test";

import { Crew } from "../../../hive/page/peer/crew.js";
import { GltchError } from "../../../hive/page/peer/errors.js";
import { load, start } from "../../../hive/page/peer/kernels.js";
import { Learner } from "../../../hive/page/peer/learner.js";
import { Network, parametersOf } from "../../../hive/page/peer/network.js";
import { partsOf, sharesOf, tensorsOf } from "../../../hive/page/peer/optimizer.js";
import { Trainee } from "../../../hive/page/peer/trainee.js";

const CONFIG = { vocab_size: 11, block_size: 16, n_layer: 2, n_head: 2, n_embd: 16, dropout: 0 };
const RECIPE = { batch_size: 4, optimizer: "muon", learning_rate: null, head_learning_rate: 0.003,
  embedding_learning_rate: 0.02, weight_decay: 0.1, warmup: 0, cooldown: 0.6, seed: 7 };

before(() => load(readFileSync(new URL("../../../hive/page/peer/kernels.wasm", import.meta.url))));

/** Numbers from -0.5 to 0.5 that are always the same.
 * @param {Float32Array} to */
function fill(to) {
  for (let i = 0; i < to.length; i++) to[i] = ((i * 7919) % 1000) / 1000 - 0.5;
}

const IDS = Uint8Array.from({ length: 500 }, (_, i) => (i * i) % CONFIG.vocab_size);

function trainee({ number = 0, of = 1, dropout = 0 } = {}) {
  return new Trainee({ config: { ...CONFIG, dropout }, recipe: RECIPE, ids: IDS, number, of,
    seed: new Uint32Array([1, 2, 3, 4]) });
}

function crewOf(workers, options) {
  const weights = new Float32Array(parametersOf(CONFIG));
  fill(weights);
  const members = Array.from({ length: workers }, (_, number) => {
    const one = trainee({ ...options, number, of: workers });
    return { ask: async (question) => structuredClone(one.answer(structuredClone(question))) };
  });
  return new Crew(CONFIG, RECIPE, weights, members);
}

test("a network that the kernels cannot train is refused with a sentence", () => {
  const sentence = (change, how) => assert.throws(
    () => new Network({ ...CONFIG, ...change }), (error) => (
      error instanceof GltchError && how.test(error.message) && error.message.endsWith(".")));
  sentence({ n_embd: 20 }, /width is a multiple of 16.* has 20/);
  sentence({ n_layer: 257 }, /at most 256 blocks.* has 257/);
  sentence({ n_embd: 16384, n_layer: 8 }, /takes \d+ MiB of memory/); // more than 32 bits can name
  sentence({ vocab_size: 4_000_000, n_embd: 64 }, /takes \d+ MiB of memory/);
});

test("a network that takes more memory than was allowed is refused before it is made", () => {
  const { bytes } = new Network(CONFIG);
  assert.doesNotThrow(() => new Network(CONFIG, bytes));
  assert.throws(() => new Network(CONFIG, bytes - 1), /takes 2 MiB of memory/);
});

test("an unknown optimizer is refused with a sentence", () => {
  assert.throws(() => partsOf(CONFIG, { ...RECIPE, optimizer: "lion" }),
    /optimizers muon, adamw, sgd, and this hive uses another one: .*\.$/);
  assert.throws(() => partsOf(CONFIG, { ...RECIPE, optimizer: "toString" }), GltchError);
});

test("every parameter belongs to one tensor, and is moved once", () => {
  for (const parts of [tensorsOf(CONFIG), partsOf(CONFIG, RECIPE)]) {
    let end = 0;
    for (const { at, rows, columns } of parts) {
      assert.equal(at, end);
      end = at + rows * columns;
    }
    assert.equal(end, parametersOf(CONFIG));
  }
});

test("each has its optimizer and rate: matrices of the blocks by Muon, the rest by AdamW", () => {
  const how = partsOf(CONFIG, RECIPE).map(
    ({ kind, rule }) => [kind, rule.how, rule.rate, rule.decay]);
  assert.deepEqual(new Set(how.map(String)), new Set([
    "embedding,adamw,0.02,0", "norm,adamw,0.02,0", "qkv,muon,0.02,0.1", "matrix,muon,0.02,0.1",
    "head,adamw,0.003,0"]));
  assert.equal(how.filter(([kind]) => kind === "qkv").length, 3 * CONFIG.n_layer);
});

test("dropout leaves out its part of what the branches add, by the seed", () => {
  const loss = (limit, seed) => {
    const { network, windows } = trainee();
    fill(network.weights);
    network.seed(new Uint32Array(seed));
    windows.fill(network.ids, network.targets, 0, 4);
    return network.learn(4, 1 / 64, limit);
  };
  assert.equal(loss(26, [1, 2, 3, 4]), loss(26, [1, 2, 3, 4]));
  assert.notEqual(loss(26, [1, 2, 3, 4]), loss(26, [5, 6, 7, 8]));
  assert.notEqual(loss(26, [1, 2, 3, 4]), loss(0, [1, 2, 3, 4]));
  assert.equal(loss(0, [1, 2, 3, 4]), loss(0, [5, 6, 7, 8]));
});

test("with dropout, gradients are the slopes of the loss under the same mask", () => {
  const { network, windows } = trainee();
  fill(network.weights);
  const loss = () => {
    network.seed(new Uint32Array([9, 8, 7, 6]));
    network.forgetGradients();
    windows.fill(network.ids, network.targets, 0, 4);
    return network.learn(4, 1 / 64, 128); // half of it
  };
  loss();
  const gradients = network.gradients.slice();
  for (const { at, rows, columns, kind } of tensorsOf(CONFIG)) {
    const slope = gradients.subarray(at, at + rows * columns);
    const length = Math.hypot(...slope), earlier = network.weights.slice();
    const along = (/** @type {number} */ size) => {
      network.weights.set(earlier.subarray(at, at + slope.length).map(
        (w, i) => w + (size * slope[i]) / length), at);
      return loss();
    };
    const measured = (along(0.02) - along(-0.02)) / 0.04;
    network.weights.set(earlier);
    assert.ok(Math.abs(measured / length - 1) < 0.03, `${kind} at ${at}: ${measured} ${length}`);
  }
});

test("a loss that is not finite is reported, and moves nothing", async () => {
  const crew = crewOf(2);
  crew.weights[0] = NaN;
  const earlier = crew.weights.slice();
  await assert.rejects(crew.trainStep(), /The loss became NaN at step 1\.$/);
  assert.deepEqual(crew.weights, earlier);
  assert.equal(crew.step, 0);
});

test("learning goes on: the loss of a text that repeats falls", async () => {
  const crew = crewOf(1, { dropout: 0.1 }), losses = [];
  while (losses.length < 60) losses.push(await crew.trainStep());
  assert.ok(losses.at(-1) < 0.6 * losses[0], `${losses[0]} ${losses.at(-1)}`);
});

test("workers share texts and parameters, and learn what one alone would", async () => {
  const shares = sharesOf(partsOf(CONFIG, RECIPE), 3);
  assert.deepEqual(shares.flat().sort((a, b) => a.at - b.at), partsOf(CONFIG, RECIPE));
  const alone = crewOf(1), three = crewOf(3), begin = alone.weights.slice();
  for (let step = 0; step < 3; step++) {
    const [one, other] = [await alone.trainStep(), await three.trainStep()];
    assert.ok(Math.abs(one / other - 1) < 1e-5, `${one} ${other}`);
  }
  const distance = (a, b) => Math.hypot(...a.map((w, i) => w - b[i]));
  assert.ok(distance(alone.weights, three.weights) < 1e-3 * distance(alone.weights, begin));
});

test("more workers than texts are no harm", async () => {
  assert.ok(Number.isFinite(await crewOf(6).trainStep()));
});

test("progress that was not taken comes with later updates", async () => {
  const learner = new Learner(crewOf(1), { up: "fp32", beta: 1, overlap: false });
  const whole = { start: 0, stop: learner.anchor.length };
  const begin = learner.anchor.slice();
  learner.begin(0, null, 0);
  await learner.crew.trainStep();
  const trained = learner.crew.weights.slice();
  learner.load(begin);
  assert.deepEqual(learner.crew.weights, begin);
  const update = new Float32Array(learner.take(whole, 1).slice().buffer);
  assert.deepEqual(update, begin.map((w, i) => w - trained[i]));
});

test("two networks do not share their memory", () => {
  const one = new Network(CONFIG), other = new Network(CONFIG);
  fill(one.weights);
  assert.ok(other.weights.every((w) => w === 0));
  assert.notEqual(start().memory, start().memory);
});
