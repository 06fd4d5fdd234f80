import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { load } from "../../hive/page/peer/kernels.js";
import { Network, memoryOf } from "../../hive/page/peer/network.js";
import {
  computes, device, memory, mostWorkers, obstacle, uses, usualWorkers,
} from "../../hive/page/tab/means.js";

const HIVE = { parameters: 2_708_736, context: 128, vocabulary: 65,
  join: { port: 1, locked: false, colab: null, browsers: true,
    network: { layers: 6, heads: 6, width: 192 }, peer_sha256: "" } };
const LAPTOP = { workers: true, cores: 8, memory: 8e9, phone: false };

test("a laptop keeps one core for itself, a phone half of them", () => {
  assert.equal(mostWorkers(LAPTOP, HIVE), 7);
  assert.equal(usualWorkers(LAPTOP, HIVE), 7);
  const phone = { ...LAPTOP, phone: true };
  assert.equal(mostWorkers(phone, HIVE), 4);
  assert.equal(usualWorkers(phone, HIVE), 2);
  for (const cores of [1, 2, 3]) assert.equal(usualWorkers({ ...phone, cores }, HIVE), 1);
});

test("with one core there is one worker, which is said", () => {
  const one = { ...LAPTOP, cores: 1 };
  assert.equal(mostWorkers(one, HIVE), 1);
  assert.match(uses(one, HIVE, 1), /^It will use the only core and about \d+ MB of memory/);
  assert.match(uses(LAPTOP, HIVE, 3), /^It will use 3 of 8 cores and about .* \(10\.8 MB\)\.$/);
});

test("workers are as many as half of the memory has room for", () => {
  const room = (workers) => ({ ...LAPTOP, memory: 2 * memory(HIVE, workers) });
  assert.equal(mostWorkers(room(3), HIVE), 3);
  assert.equal(mostWorkers({ ...LAPTOP, memory: 2 * memory(HIVE, 3) - 2 }, HIVE), 2);
  assert.equal(mostWorkers({ ...LAPTOP, memory: null }, HIVE), 7); // it does not say
});

test("where there is no room for one, or nothing to compute with, a sentence says so", () => {
  assert.equal(obstacle(LAPTOP, HIVE), "");
  assert.match(obstacle({ ...LAPTOP, memory: 0.25e9 }, HIVE),
    /^To train this network takes about \d+ MB of memory, and this device has 250 MB, .*\.$/);
  assert.match(obstacle({ ...LAPTOP, workers: false }, HIVE), /no WebAssembly with SIMD.*\.$/);
});

test("a network that the kernels cannot train is told before anything begins", () => {
  const width = { ...HIVE, join: { ...HIVE.join, network: { layers: 6, heads: 4, width: 100 } } };
  assert.match(obstacle(LAPTOP, width), /width is a multiple of 16, .* has 100: join with Python/);
});

test("it takes workers and WebAssembly with SIMD", () => {
  assert.equal(computes(), false); // node has the second only
  globalThis.Worker = class {};
  assert.equal(computes(), true);
  delete globalThis.Worker;
});

test("the memory that is told is what the kernels take, but for a twentieth", async () => {
  await load(readFileSync(new URL("../../hive/page/peer/kernels.wasm", import.meta.url)));
  for (const [vocab_size, block_size, n_layer, n_head, n_embd] of [
    [65, 128, 6, 6, 192], [65, 128, 5, 4, 128], [65, 256, 8, 5, 320], [4000, 512, 8, 8, 512]]) {
    const config = { vocab_size, block_size, n_layer, n_head, n_embd };
    const { bytes } = new Network({ ...config, dropout: 0 });
    assert.ok(Math.abs(memoryOf(config) / bytes - 1) < 0.05);
  }
});

test("a device is called by its browser, its system and its workers", () => {
  const agents = {
    "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0": "Firefox on Linux",
    "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/126.0 Mobile Safari/537.36":
      "Chrome on Android",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) Version/17.5 Safari/604.1":
      "Safari on iOS",
    "Mozilla/5.0 (Windows NT 10.0) Chrome/126.0 Safari/537.36 Edg/126.0": "Edge on Windows",
    "": "a browser",
  };
  for (const [agent, name] of Object.entries(agents)) {
    assert.equal(device(agent, 1), `${name}, 1 worker`);
    assert.equal(device(agent, 3), `${name}, 3 workers`);
  }
});
