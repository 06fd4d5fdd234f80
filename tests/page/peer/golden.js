// node golden.js SUBJECT: answers questions, as JSON on standard input, with what the page's peer
// computes. tests/tab/ compares that with Python and PyTorch. Bytes are in base64.
import { Buffer } from "node:buffer";
import { readFileSync } from "node:fs";

import { Crew } from "../../../hive/page/peer/crew.js";
import { ErrorFeedback } from "../../../hive/page/peer/feedback.js";
import { decode } from "../../../hive/page/peer/codec.js";
import { Fragments } from "../../../hive/page/peer/fragments.js";
import { load } from "../../../hive/page/peer/kernels.js";
import { Learner } from "../../../hive/page/peer/learner.js";
import { Network } from "../../../hive/page/peer/network.js";
import { lrFactor } from "../../../hive/page/peer/optimizer.js";
import { applyUpdate } from "../../../hive/page/peer/outer.js";
import { bytesOf, hex, hmac, sha256 } from "../../../hive/page/peer/sha256.js";
import { Trainee } from "../../../hive/page/peer/trainee.js";
import { Windows } from "../../../hive/page/peer/windows.js";
import { cleanName, shown } from "../../../hive/page/peer/words.js";

const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const floats = (text) => new Float32Array(bytes(text).buffer);
const base64 = (view) => Buffer.from(bytesOf(view)).toString("base64");

/** Updates of one part after another, and what each leaves. */
function feedback({ codec, beta, count, fragments, updates }) {
  const kept = new ErrorFeedback(count, beta), { parts } = new Fragments(count, fragments);
  return updates.map(({ part, update, counted }) => {
    const content = kept.encode(codec, floats(update), parts[part]);
    const { start, stop } = parts[part];
    const decoded = decode(codec, content, stop - start);
    kept.settle(counted, parts[part]);
    return { content: base64(content), decoded: base64(decoded),
      residual: base64(kept.residual) };
  });
}

function apply({ weights, codec, content, part }) {
  const after = applyUpdate(floats(weights), codec, bytes(content), part);
  return { weights: base64(after), digest: hex(sha256(after)) };
}

function order({ length, size, seed, indices }) {
  const windows = new Windows(new Uint8Array(length), size, seed);
  return indices.map((index) => windows.start(index));
}

function networkOf(config, weights) {
  const network = new Network(config);
  network.weights.set(floats(weights));
  return network;
}

/** Loss and gradients of one batch, in one go or in several. */
function gradients({ config, weights, ids, targets, pieces }) {
  const network = networkOf(config, weights), T = config.block_size, texts = ids.length / T;
  let loss = 0;
  for (let first = 0; first < texts; first += texts / pieces) {
    network.ids.set(ids.slice(first * T, (first + texts / pieces) * T));
    network.targets.set(targets.slice(first * T, (first + texts / pieces) * T));
    loss += network.learn(texts / pieces, 1 / ids.length);
  }
  return { loss, gradients: base64(network.gradients) };
}

/** The updates of a peer's rounds: each some steps, then what is taken of a part. */
async function rounds({ config, recipe, weights, ids, sync, workers, tasks }) {
  const members = Array.from({ length: workers }, (_, number) => new Trainee(
    { config, recipe, ids, number, of: workers, seed: new Uint32Array([1, 2, 3, number]) }));
  const crew = new Crew(config, recipe, floats(weights), members.map((trainee) => (
    { ask: async (question) => structuredClone(trainee.answer(structuredClone(question))) })));
  const learner = new Learner(crew, sync);
  const { parts } = new Fragments(crew.weights.length, sync.fragments), answers = [];
  for (const { step, total, window, steps, part, rebased } of tasks) {
    learner.begin(step, total, window);
    const losses = [];
    while (losses.length < steps) losses.push(await crew.trainStep());
    const update = learner.take(parts[part], steps);
    if (rebased) learner.rebase(floats(rebased), parts[part]);
    answers.push({ losses, update: base64(update), weights: base64(crew.weights) });
  }
  return answers;
}

const SUBJECTS = {
  feedback, apply, order, gradients, rounds,
  factor: ({ step, total, recipe }) => lrFactor(step, total, recipe),
  sha256: (content) => hex(sha256(bytes(content))),
  words: ({ text, longest }) => (
    { shown: shown(text, longest), name: cleanName(text, "otherwise") }),
  hmac: ({ key, text }) => hmac(key, text),
};

await load(readFileSync(new URL("../../../hive/page/peer/kernels.wasm", import.meta.url)));
const questions = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(await Promise.all(questions.map(SUBJECTS[process.argv[2]]))));
