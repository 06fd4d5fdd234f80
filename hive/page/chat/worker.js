// The Web Worker in which the network runs, so that the page stays alive while it writes.
// messages.d.ts says what it is asked and what it answers. Several questions may be under way: each
// has a network of its own, and between two pieces of work each lets the others have their turn.

import { Transformer, chances, mulberry32, readAlong, write } from "./model.js";
import { Shelf } from "./shelf.js";
import { parse } from "./weights.js";

/** @import { Answer, Looking, Message, Moment, Question, Reading, Writing } from "./messages.d.ts" */
/** @import { Step } from "./model.js" */
/** @import { Weights } from "./weights.js" */

/** @typedef {(answer: Answer) => void} Tell */

const PIECE = 30; // milliseconds of work in one go, and of writing in one message
const LIKELIEST = 8; // of a moment, that are shown

// Weights

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

const shelf = new Shelf();

/** The weights that a question is for.
 * @param {Question} question
 * @param {AbortSignal} signal
 * @param {Tell} tell */
async function find({ round, url }, signal, tell) {
  let weights = shelf.take(round);
  if (!weights) {
    const file = await download(url, signal, tell).catch((error) => {
      throw error instanceof TypeError // the only thing that fetch says when nobody answers
        ? new Error("The weights could not be fetched: the coordinator does not answer.") : error;
    });
    weights = { ...parse(file), bytes: file.byteLength };
    shelf.put(weights);
  }
  const { step, val_loss, bytes } = weights;
  tell({ type: "loaded", round: weights.round, step, val_loss, bytes });
  return weights;
}

// Text

/** The numbers of a text, of what is known in it, and what is not.
 * @param {Weights} weights
 * @param {string} text */
function encode({ vocabulary }, text) {
  const number = new Map(vocabulary.map((character, id) => [character, id]));
  const characters = Array.from(text), known = characters.filter((one) => number.has(one));
  return {
    ids: known.flatMap((one) => number.get(one) ?? []),
    first: number.get("\n") ?? 0, // before a text stands a line end, or whatever comes first
    text: known.join(""),
    missing: [...new Set(characters.filter((one) => !number.has(one)))],
  };
}

/** All steps of some work, in pieces between which others have their turn.
 * @template Result
 * @param {Iterable<Result>} work
 * @param {AbortSignal} signal
 * @param {(result: Result, last: boolean) => void} hear whether it is the last of its piece, too */
async function inPieces(work, signal, hear) {
  let began = performance.now();
  for (const result of work) {
    const last = performance.now() - began >= PIECE;
    hear(result, last);
    if (!last) continue;
    await sleep(0); // let a stop come in
    if (signal.aborted) return;
    began = performance.now();
  }
}

// Answers

/** Tells the characters that come, and what was thought before the last of each piece.
 * @param {Weights} weights
 * @param {Transformer} model
 * @param {Iterable<Step | null>} steps
 * @param {AbortSignal} signal
 * @param {Tell} tell */
async function tellText({ vocabulary }, model, steps, signal, tell) {
  const began = performance.now();
  let count = 0;
  /** @type {Extract<Answer, { type: "text" }>["marks"]} */
  let marks = [];
  const speed = () => (1000 * count) / (performance.now() - began);
  const show = (/** @type {Moment | null} */ moment) => {
    if (marks.length) tell({ type: "text", marks, speed: speed(), moment });
    marks = [];
  };
  await inPieces(steps, signal, (step, last) => {
    if (step) {
      const { id, before, after, seen } = step;
      marks.push({ character: vocabulary[id], before: before[id], after: after[id], seen });
      count++;
    }
    if (last) show(step && momentOf(vocabulary, model, step.before, step.after));
  });
  show(null);
  tell({ type: "done", speed: speed() });
}

/** @param {string[]} vocabulary
 * @param {Transformer} model
 * @param {Float32Array} before
 * @param {Float32Array} after
 * @returns {Moment} */
function momentOf(vocabulary, model, before, after) {
  const order = vocabulary.map((_, id) => id).sort((a, b) => before[b] - before[a]);
  return {
    likeliest: order.slice(0, LIKELIEST).map((id) =>
      ({ character: vocabulary[id], before: before[id], after: after[id] })),
    attention: model.attention(),
  };
}

/** @param {Weights} weights
 * @param {Writing} what
 * @param {AbortSignal} signal
 * @param {Tell} tell */
async function writeOn(weights, { prompt, seed = Date.now(), ...how }, signal, tell) {
  const { ids, first, text, missing } = encode(weights, prompt);
  tell({ type: "begun", text, missing, context: text || weights.vocabulary[first] });
  const model = new Transformer(weights), random = mulberry32(seed);
  const steps = write(model, ids.length ? ids : [first], { ...how, random });
  await tellText(weights, model, steps, signal, tell);
}

/** @param {Weights} weights
 * @param {Reading} what
 * @param {AbortSignal} signal
 * @param {Tell} tell */
async function readText(weights, { text: given }, signal, tell) {
  const { ids, first, text, missing } = encode(weights, given);
  tell({ type: "begun", text, missing, context: weights.vocabulary[first] });
  const model = new Transformer(weights);
  await tellText(weights, model, readAlong(model, [first, ...ids]), signal, tell);
}

/** A network that has just read this.
 * @param {Weights} weights
 * @param {string} text
 * @param {AbortSignal} signal */
async function afterReading(weights, text, signal) {
  const model = new Transformer(weights), { ids, first } = encode(weights, text);
  const unread = ids.length ? ids.slice(-weights.config.block_size) : [first];
  await inPieces(unread, signal, (id) => model.read(id));
  return model;
}

/** @param {Weights} weights
 * @param {Looking} what
 * @param {AbortSignal} signal
 * @param {Tell} tell */
async function look(weights, { context, ...taste }, signal, tell) {
  const model = await afterReading(weights, context, signal), logits = model.logits();
  const moment = momentOf(weights.vocabulary, model, chances(logits), chances(logits, taste));
  tell({ type: "moment", moment });
}

/** @param {Question} question
 * @param {AbortSignal} signal
 * @param {Tell} tell */
async function answer(question, signal, tell) {
  const weights = await find(question, signal, tell);
  switch (question.type) {
    case "write": await writeOn(weights, question, signal, tell); break;
    case "read": await readText(weights, question, signal, tell); break;
    case "look": await look(weights, question, signal, tell); break;
    case "logits": {
      const model = await afterReading(weights, question.prompt, signal);
      tell({ type: "logits", logits: [...model.logits()] });
    }
  }
}

/** @type {Map<number, AbortController>} */
const tasks = new Map();

/** @param {Question} question
 * @param {number} id */
async function start(question, id) {
  const task = new AbortController(), { signal } = task;
  tasks.set(id, task);
  /** @type {Tell} */
  const tell = (facts) => {
    if (!signal.aborted) self.postMessage({ ...facts, id });
  };
  try {
    await answer(question, signal, tell);
  } catch (error) {
    tell({ type: "error", error: error instanceof Error ? error.message : String(error) });
  }
  tasks.delete(id);
}

self.onmessage = (/** @type {MessageEvent<Message>} */ { data }) => {
  switch (data.type) {
    case "stop": tasks.get(data.task)?.abort(); break;
    case "forget": shelf.clear(); break;
    default: start(data, data.id);
  }
};
