// The Web Worker in which the network runs, so that the page stays alive while it writes.
//
// Each message to it has a `type` and an `id`, and each answer the `id` of what it answers. A new
// message ends what the one before began.
//
//   load {url}                                     loading {received, total} ..., perhaps busy
//                                                  {seconds}, then loaded {round, step, val_loss,
//                                                  bytes}
//   write {prompt, length, temperature, topK, seed}  begun {prompt: what was understood of it,
//                                                  missing: [characters it does not know]}, then
//                                                  text {text, speed} ..., then written {speed}
//   logits {prompt}                                logits {logits: [...]}
//   stop {}                                        nothing
//
// What goes wrong is answered with error {error: "a sentence"}. `total` is null if the server does
// not say it; `speed` is characters per second since the beginning, with all reading and waiting.

import { Transformer, mulberry32, write } from "./model.js";
import { parse } from "./weights.js";

const PIECE = 30; // milliseconds of writing in one message
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function failure(reply) {
  const { error } = await reply.json().catch(() => ({}));
  return new Error(error ?? `The coordinator does not give the weights (${reply.status}).`);
}

// The browser keeps the file and asks the server only whether it is still the same.
async function download(url, signal, tell) {
  const reply = await fetch(url, { signal });
  if (reply.status === 503 && reply.headers.has("Retry-After")) {
    const seconds = Number(reply.headers.get("Retry-After")) || 1;
    tell("busy", { seconds });
    await sleep(1000 * seconds);
    return download(url, signal, tell);
  }
  if (!reply.ok) throw await failure(reply);
  const total = Number(reply.headers.get("Content-Length")) || null;
  let received = 0;
  const counted = reply.body.pipeThrough(new TransformStream({
    transform(bytes, controller) {
      received += bytes.length;
      tell("loading", { received, total });
      controller.enqueue(bytes);
    },
  }));
  return new Response(counted).arrayBuffer();
}

class Tasks {
  async load({ url }, signal, tell) {
    const buffer = await download(url, signal, tell).catch((error) => {
      throw error instanceof TypeError // the only thing that fetch says when nobody answers
        ? new Error("The weights could not be fetched: the coordinator does not answer.") : error;
    });
    if (signal.aborted) return;
    const { config, vocabulary, tensors, round, step, val_loss } = parse(buffer);
    this.model = new Transformer({ config, tensors });
    this.vocabulary = vocabulary;
    this.number = new Map(vocabulary.map((character, id) => [character, id]));
    tell("loaded", { round, step, val_loss, bytes: buffer.byteLength });
  }

  // The numbers of a text; of an empty one those of a line end, or of whatever comes first.
  encode(text) {
    if (!this.model) throw new Error("The weights are not loaded yet.");
    const ids = Array.from(text, (character) => this.number.get(character))
      .filter((id) => id !== undefined);
    return ids.length ? ids : [this.number.get("\n") ?? 0];
  }

  async write({ prompt, length, temperature, topK, seed = Date.now() }, signal, tell) {
    const ids = this.encode(prompt), characters = Array.from(prompt);
    const known = characters.filter((character) => this.number.has(character));
    const missing = new Set(characters.filter((character) => !this.number.has(character)));
    tell("begun", { prompt: known.join(""), missing: [...missing] });

    const began = performance.now();
    let count = 0, text = "", shown = began;
    const speed = () => (1000 * count) / (performance.now() - began);
    const show = () => {
      if (text) tell("text", { text, speed: speed() });
      text = "";
    };
    const random = mulberry32(seed);
    for (const id of write(this.model, ids, { length, temperature, topK, random })) {
      if (id !== null) {
        text += this.vocabulary[id];
        count++;
      }
      if (performance.now() - shown < PIECE) continue;
      show();
      await sleep(0); // let a stop come in
      if (signal.aborted) return;
      shown = performance.now();
    }
    show();
    tell("written", { speed: speed() });
  }

  logits({ prompt }, signal, tell) {
    const ids = this.encode(prompt).slice(-this.model.config.block_size);
    this.model.length = 0;
    for (const id of ids) this.model.read(id);
    tell("logits", { logits: [...this.model.logits()] });
  }

  stop() {}
}

const tasks = new Tasks();
let current = new AbortController();
self.onmessage = async ({ data }) => {
  current.abort();
  const { signal } = current = new AbortController();
  const tell = (type, facts) => {
    if (!signal.aborted) self.postMessage({ ...facts, type, id: data.id });
  };
  try {
    await tasks[data.type](data, signal, tell);
  } catch (error) {
    tell("error", { error: error.message });
  }
};
