// The Web Worker in which the network runs, so that the page stays alive while it writes.
// messages.d.ts says what it is told and what it answers.

import { Transformer, mulberry32, write } from "./model.js";
import { parse } from "./weights.js";

/** @import { Answer, Question, Writing } from "./messages.d.ts" */

/** @typedef {(answer: Answer) => void} Tell */

const PIECE = 30; // milliseconds of writing in one message

/** @param {number} milliseconds */
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** @param {Response} reply */
async function failure(reply) {
  const { error } = await reply.json().catch(() => ({}));
  return new Error(error ?? `The coordinator does not give the weights (${reply.status}).`);
}

/** The browser keeps the file and asks the server only whether it is still the same.
 * @param {string} url
 * @param {AbortSignal} signal
 * @param {Tell} tell
 * @returns {Promise<ArrayBuffer>} */
async function download(url, signal, tell) {
  const reply = await fetch(url, { signal });
  if (reply.status === 503 && reply.headers.has("Retry-After")) {
    const seconds = Number(reply.headers.get("Retry-After")) || 1;
    tell({ type: "busy", seconds });
    await sleep(1000 * seconds);
    return download(url, signal, tell);
  }
  if (!reply.ok || !reply.body) throw await failure(reply);
  const total = Number(reply.headers.get("Content-Length")) || null;
  let received = 0;
  const counted = reply.body.pipeThrough(new TransformStream({
    transform(bytes, controller) {
      received += bytes.length;
      tell({ type: "loading", received, total });
      controller.enqueue(bytes);
    },
  }));
  return new Response(counted).arrayBuffer();
}

/** Weights that are loaded: a network, and the characters it knows. */
class Loaded {
  /** @param {ArrayBuffer} file */
  constructor(file) {
    this.weights = parse(file);
    this.model = new Transformer(this.weights);
    this.number = new Map(this.weights.vocabulary.map((character, id) => [character, id]));
  }

  /** The numbers of a text; of an empty one those of a line end, or of whatever comes first.
   * @param {string} text */
  encode(text) {
    const ids = Array.from(text).flatMap((character) => this.number.get(character) ?? []);
    return ids.length ? ids : [this.number.get("\n") ?? 0];
  }
}

/** @type {Loaded | null} */
let loaded = null;

function ready() {
  if (!loaded) throw new Error("The weights are not loaded yet.");
  return loaded;
}

/** @param {string} url
 * @param {AbortSignal} signal
 * @param {Tell} tell */
async function load(url, signal, tell) {
  const file = await download(url, signal, tell).catch((error) => {
    throw error instanceof TypeError // the only thing that fetch says when nobody answers
      ? new Error("The weights could not be fetched: the coordinator does not answer.") : error;
  });
  if (signal.aborted) return;
  loaded = new Loaded(file);
  const { round, step, val_loss } = loaded.weights;
  tell({ type: "loaded", round, step, val_loss, bytes: file.byteLength });
}

/** @param {Writing} what
 * @param {AbortSignal} signal
 * @param {Tell} tell */
async function writeOn({ prompt, length, temperature, topK, seed = Date.now() }, signal, tell) {
  const { model, number, weights } = ready();
  const ids = ready().encode(prompt), characters = Array.from(prompt);
  const known = characters.filter((character) => number.has(character));
  const missing = new Set(characters.filter((character) => !number.has(character)));
  tell({ type: "begun", prompt: known.join(""), missing: [...missing] });

  const began = performance.now();
  let count = 0, text = "", shown = began;
  const speed = () => (1000 * count) / (performance.now() - began);
  const show = () => {
    if (text) tell({ type: "text", text, speed: speed() });
    text = "";
  };
  const random = mulberry32(seed);
  for (const id of write(model, ids, { length, temperature, topK, random })) {
    if (id !== null) {
      text += weights.vocabulary[id];
      count++;
    }
    if (performance.now() - shown < PIECE) continue;
    show();
    await sleep(0); // let a stop come in
    if (signal.aborted) return;
    shown = performance.now();
  }
  show();
  tell({ type: "written", speed: speed() });
}

/** @param {string} prompt
 * @param {Tell} tell */
function score(prompt, tell) {
  const { model } = ready();
  const ids = ready().encode(prompt).slice(-model.config.block_size);
  model.length = 0;
  for (const id of ids) model.read(id);
  tell({ type: "logits", logits: [...model.logits()] });
}

/** @param {Question} question
 * @param {AbortSignal} signal
 * @param {Tell} tell */
async function answer(question, signal, tell) {
  switch (question.type) {
    case "load": await load(question.url, signal, tell); break;
    case "write": await writeOn(question, signal, tell); break;
    case "logits": score(question.prompt, tell); break;
    case "stop": // whatever was going on has ended already
  }
}

let current = new AbortController();

self.onmessage = async (/** @type {MessageEvent<Question & { id: number }>} */ { data }) => {
  current.abort();
  const { signal } = current = new AbortController();
  /** @type {Tell} */
  const tell = (facts) => {
    if (!signal.aborted) self.postMessage({ ...facts, id: data.id });
  };
  try {
    await answer(data, signal, tell);
  } catch (error) {
    tell({ type: "error", error: error instanceof Error ? error.message : String(error) });
  }
};
