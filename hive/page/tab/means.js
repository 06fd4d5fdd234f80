// What a browser has, what training in it takes, and whether that fits. No part of the page: all it
// knows is passed in.

import { bytes, count } from "../format.js";
import { memoryOf, misfit } from "../peer/network.js";

/** @import { Run } from "../facts.d.ts" */

/** What a browser tells of its machine.
 * @typedef {object} Means
 * @property {boolean} workers does it have them, and WebAssembly with SIMD?
 * @property {number} cores
 * @property {number | null} memory bytes, at least; null: it does not say
 * @property {boolean} phone */

/** The network of a hive.
 * @typedef {Pick<Run, "parameters" | "context" | "vocabulary" | "join">} Hive */

const SHARE = 0.5; // of a machine's memory that a page may ask for
const ENGINE = 20e6; // bytes: a browser's own for each worker, about
const VECTORS = 6; // as long as the network, that a peer holds besides its workers
const TRAVELLING = 2; // for each worker: its gradients, and the weights that it gets

// A module with one function that adds vectors: where it is valid there is SIMD.
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10,
  1, 8, 0, 65, 0, 253, 15, 253, 98, 11);

export function computes() {
  return typeof Worker === "function" && typeof WebAssembly === "object"
    && WebAssembly.validate(SIMD);
}

/** What is said where a tab cannot train, whatever it is asked; empty: it can.
 * @param {Means} means
 * @param {Hive} hive
 * @returns {string} */
export function obstacle(means, hive) {
  if (!means.workers) {
    return "This browser cannot train: it has no WebAssembly with SIMD, or no workers. Take a newer "
      + "one, or join with Python.";
  }
  const { layers: n_layer = 0, width: n_embd = 0 } = hive.join?.network ?? {};
  const sentence = misfit({ n_layer, n_embd });
  if (sentence || mostWorkers(means, hive) > 0) return sentence;
  return `To train this network takes about ${bytes(memory(hive, 1))} of memory, and this device `
    + `has ${bytes(means.memory)}, of which a page may have ${bytes(allowance(means))}: use another `
    + "device.";
}

/** Bytes that this many workers take, and the peer to which they belong.
 * @param {Hive} hive
 * @param {number} workers */
export function memory({ parameters, context, vocabulary, join }, workers) {
  if (!join) return 0;
  const { layers: n_layer, heads: n_head, width: n_embd } = join.network;
  const one = memoryOf({ vocab_size: vocabulary, block_size: context, n_layer, n_head, n_embd });
  return 4 * parameters * VECTORS + ENGINE
    + workers * (one + 4 * parameters * TRAVELLING + ENGINE);
}

/** @param {Means} means */
const allowance = ({ memory: all }) => (all === null ? Infinity : SHARE * all);

/** Never all cores, unless there is only one; on a phone, which has to stay cool, half.
 * @param {Means} means
 * @param {Hive} hive
 * @returns {number} 0: there is not enough memory for one */
export function mostWorkers(means, hive) {
  const { cores, phone } = means;
  let workers = Math.max(1, phone ? Math.floor(cores / 2) : cores - 1);
  while (workers > 0 && memory(hive, workers) > allowance(means)) workers--;
  return workers;
}

/** @param {Means} means
 * @param {Hive} hive */
export function usualWorkers(means, hive) {
  const most = mostWorkers(means, hive);
  return means.phone ? Math.min(most, Math.max(1, Math.floor(means.cores / 4))) : most;
}

/** What it will use, before it starts.
 * @param {Means} means
 * @param {Hive} hive
 * @param {number} workers */
export function uses({ cores }, hive, workers) {
  const some = cores === 1 ? "the only core" : `${count(workers)} of ${count(cores)} cores`;
  return `It will use ${some} and about ${bytes(memory(hive, workers))} of memory, and fetch the `
    + `text and the weights (${bytes(4 * hive.parameters)}).`;
}

/** As others see it: "Firefox on Android, 2 workers".
 * @param {string} agent what the browser calls itself
 * @param {number} workers */
export function device(agent, workers) {
  const browsers = { "Edg": "Edge", "OPR": "Opera", "Firefox": "Firefox", "Chrome": "Chrome",
    "Safari": "Safari" };
  const systems = { "Android": "Android", "iPhone": "iOS", "iPad": "iOS", "CrOS": "ChromeOS",
    "Windows": "Windows", "Mac OS": "macOS", "Linux": "Linux" };
  const named = (/** @type {Record<string, string>} */ names) => (
    Object.entries(names).find(([mark]) => agent.includes(mark))?.[1]);
  const browser = named(browsers) ?? "a browser", system = named(systems);
  return `${browser}${system ? ` on ${system}` : ""}, ${workers} worker${workers > 1 ? "s" : ""}`;
}
