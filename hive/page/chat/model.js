// The network of gltch_2_7m.py in plain JavaScript: it reads a file of weights and goes on writing
// a text, character by character. 1. the file, 2. arithmetic, 3. the network, 4. writing, and
// 5. what the page says to it when it runs as a Web Worker.

// =================================================================================================
// 1. The file
//
// A safetensors file is 8 bytes with the length of its header, the header (JSON: for each tensor
// its type, its shape and where it begins and ends), and then the numbers.
// =================================================================================================

function check(condition, why) {
  if (!condition) throw new Error(`The file with the weights cannot be used: ${why}.`);
}

function parseJson(text, what) {
  try {
    return JSON.parse(text);
  } catch {
    return check(false, `${what} is not JSON`);
  }
}

function checkConfig(config) {
  for (const name of ["vocab_size", "block_size", "n_layer", "n_head", "n_embd"]) {
    check(Number.isInteger(config?.[name]) && config[name] >= 1, `its ${name} is missing`);
  }
  check(config.n_embd % config.n_head === 0, "its width cannot be divided among its heads");
}

// The tensors of GLTCH.state_dict() and their shapes.
function shapesOf({ vocab_size: V, block_size: T, n_layer, n_embd: C }) {
  const shapes = {
    "token_embedding.weight": [V, C],
    "position_embedding.weight": [T, C],
    "norm.weight": [C],
    "norm.bias": [C],
    "head.weight": [V, C],
  };
  for (let n = 0; n < n_layer; n++) {
    Object.assign(shapes, {
      [`blocks.${n}.norm1.weight`]: [C],
      [`blocks.${n}.norm1.bias`]: [C],
      [`blocks.${n}.qkv.weight`]: [3 * C, C],
      [`blocks.${n}.projection.weight`]: [C, C],
      [`blocks.${n}.norm2.weight`]: [C],
      [`blocks.${n}.norm2.bias`]: [C],
      [`blocks.${n}.up.weight`]: [4 * C, C],
      [`blocks.${n}.down.weight`]: [C, 4 * C],
    });
  }
  return shapes;
}

function tensorOf(buffer, start, name, entry, shape) {
  check(entry, `it has no ${name}`);
  check(entry.dtype === "F32", `${name} is not fp32`);
  check(String(entry.shape) === String(shape), `${name} is not ${shape.join(" x ")}`);
  const [begin, end] = entry.data_offsets ?? [];
  const bytes = 4 * shape.reduce((product, size) => product * size);
  check(begin >= 0 && end - begin === bytes && start + end <= buffer.byteLength,
    `${name} is cut off`);
  // A view of the file where its place allows it, else a copy.
  const from = start + begin;
  return new Float32Array(from % 4 ? buffer.slice(from, from + bytes) : buffer,
    from % 4 ? 0 : from, bytes / 4);
}

// Config, vocabulary, tensors, and how far the training was. Throws a sentence if it is damaged.
export function parse(buffer) {
  check(buffer.byteLength >= 8, "it is empty");
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  check(start <= buffer.byteLength, "it is cut off");
  const header = parseJson(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)),
    "its header");
  const about = parseJson(header?.__metadata__?.gltch, "its description");
  checkConfig(about?.config);
  const vocabulary = Array.from(about.vocabulary ?? ""); // by code point, as Python does
  check(new Set(vocabulary).size === about.config.vocab_size &&
    vocabulary.length === about.config.vocab_size, "its vocabulary has the wrong length");
  const tensors = {};
  for (const [name, shape] of Object.entries(shapesOf(about.config))) {
    tensors[name] = tensorOf(buffer, start, name, header[name], shape);
  }
  const { config, round = null, step = null, val_loss = null } = about;
  return { config, vocabulary, tensors, round, step, val_loss };
}

// =================================================================================================
// 2. Arithmetic
//
// All vectors are Float32Arrays that are made once; sums are taken in JavaScript's 64 bits.
// =================================================================================================

// out = matrix x. Row r begins at r * stride. Eight rows at a time: each x[i] is loaded once for
// eight products, and eight sums that do not wait for each other keep the processor busy.
function multiply(out, matrix, x, rows, columns, stride = columns) {
  let row = 0;
  for (; row + 8 <= rows; row += 8) {
    const a = row * stride, b = a + stride, c = b + stride, d = c + stride;
    const e = d + stride, f = e + stride, g = f + stride, h = g + stride;
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
    for (let i = 0; i < columns; i++) {
      const value = x[i];
      s0 += value * matrix[a + i];
      s1 += value * matrix[b + i];
      s2 += value * matrix[c + i];
      s3 += value * matrix[d + i];
      s4 += value * matrix[e + i];
      s5 += value * matrix[f + i];
      s6 += value * matrix[g + i];
      s7 += value * matrix[h + i];
    }
    out[row] = s0;
    out[row + 1] = s1;
    out[row + 2] = s2;
    out[row + 3] = s3;
    out[row + 4] = s4;
    out[row + 5] = s5;
    out[row + 6] = s6;
    out[row + 7] = s7;
  }
  for (; row < rows; row++) {
    let sum = 0;
    for (let i = 0; i < columns; i++) sum += x[i] * matrix[row * stride + i];
    out[row] = sum;
  }
}

function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
}

// Layer norm: mean 0 and variance 1, then a weight and a bias for each number.
function normalize(out, x, { weight, bias }) {
  let mean = 0, variance = 0;
  for (let i = 0; i < x.length; i++) mean += x[i] / x.length;
  for (let i = 0; i < x.length; i++) variance += (x[i] - mean) ** 2 / x.length;
  const scale = 1 / Math.sqrt(variance + 1e-5);
  for (let i = 0; i < x.length; i++) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

// x = softmax(scale x), over its first `length` numbers.
function softmax(x, length, scale) {
  let most = -Infinity, sum = 0;
  for (let i = 0; i < length; i++) most = Math.max(most, x[i]);
  for (let i = 0; i < length; i++) sum += x[i] = Math.exp((x[i] - most) * scale);
  for (let i = 0; i < length; i++) x[i] /= sum;
}

// The error function to 1.5e-7: Abramowitz and Stegun, formula 7.1.26.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 +
    t * (-1.453152027 + t * 1.061405429))));
  const y = 1 - series * Math.exp(-x * x);
  return x < 0 ? -y : y;
}

function gelu(x) {
  for (let i = 0; i < x.length; i++) x[i] *= 0.5 * (1 + erf(x[i] * Math.SQRT1_2));
}

// =================================================================================================
// 3. The network
//
// Characters go through one at a time. What each block computed for the earlier ones (keys and
// values) never changes, so it is kept.
// =================================================================================================

// One layer: x + attention(norm1(x)), then x + feedForward(norm2(x)).
class Block {
  constructor(tensors, name, { n_embd: C, n_head, block_size: T }) {
    const weight = (part) => tensors[`${name}.${part}.weight`];
    this.norm1 = { weight: weight("norm1"), bias: tensors[`${name}.norm1.bias`] };
    this.norm2 = { weight: weight("norm2"), bias: tensors[`${name}.norm2.bias`] };
    this.weights = { qkv: weight("qkv"), projection: weight("projection"),
      up: weight("up"), down: weight("down") };
    this.normed = new Float32Array(C);
    this.qkv = new Float32Array(3 * C); // queries, keys and values of all heads
    this.gathered = new Float32Array(C); // what the heads found, side by side
    this.wide = new Float32Array(4 * C);
    this.change = new Float32Array(C);
    this.scores = new Float32Array(T);
    this.size = T;
    this.width = C / n_head;
    this.heads = Array.from({ length: n_head }, (_, head) => {
      const part = (vector, from) => vector.subarray(from, from + this.width);
      const from = head * this.width;
      return {
        q: part(this.qkv, from),
        k: part(this.qkv, C + from),
        v: part(this.qkv, 2 * C + from),
        out: part(this.gathered, from),
        keys: new Float32Array(T * this.width), // (T, width)
        values: new Float32Array(this.width * T), // (width, T): a sum over time is a row times x
      };
    });
  }

  forward(x, position) { // x (C) is changed in place
    const C = x.length, { normed, gathered, wide, change, weights } = this;
    normalize(normed, x, this.norm1);
    multiply(this.qkv, weights.qkv, normed, 3 * C, C);
    for (const head of this.heads) this.attend(head, position);
    multiply(change, weights.projection, gathered, C, C);
    add(x, change);

    normalize(normed, x, this.norm2);
    multiply(wide, weights.up, normed, 4 * C, C);
    gelu(wide);
    multiply(change, weights.down, wide, C, 4 * C);
    add(x, change);
  }

  // The newest position gathers values from itself and from the positions before it.
  attend({ q, k, v, out, keys, values }, position) {
    const { scores, width, size } = this;
    keys.set(k, position * width);
    for (let i = 0; i < width; i++) values[i * size + position] = v[i];
    multiply(scores, keys, q, position + 1, width);
    softmax(scores, position + 1, 1 / Math.sqrt(width));
    multiply(out, values, scores, width, position + 1, size);
  }
}

// The whole network, with a memory of the characters it has read. Setting `length` to 0 forgets.
export class Transformer {
  constructor({ config, tensors }) {
    this.config = config;
    this.tokens = tensors["token_embedding.weight"];
    this.positions = tensors["position_embedding.weight"];
    this.blocks = Array.from({ length: config.n_layer },
      (_, n) => new Block(tensors, `blocks.${n}`, config));
    this.norm = { weight: tensors["norm.weight"], bias: tensors["norm.bias"] };
    this.head = tensors["head.weight"];
    this.x = new Float32Array(config.n_embd);
    this.normed = new Float32Array(config.n_embd);
    this.scores = new Float32Array(config.vocab_size);
    this.length = 0; // characters read, at most config.block_size
  }

  read(id) {
    const { x, tokens, positions } = this, C = x.length;
    for (let i = 0; i < C; i++) x[i] = tokens[id * C + i] + positions[this.length * C + i];
    for (const block of this.blocks) block.forward(x, this.length);
    this.length++;
  }

  // A score for every possible next character. The array is used again by the next call.
  logits() {
    normalize(this.normed, this.x, this.norm);
    multiply(this.scores, this.head, this.normed, this.config.vocab_size, this.config.n_embd);
    return this.scores;
  }
}

// =================================================================================================
// 4. Writing
//
// Predict, choose, append, over and over.
// =================================================================================================

// Random numbers from 0 to 1 that are the same for the same seed (mulberry32, by Tommy Ettinger).
export function mulberry32(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

// The number of the next character. Changes the logits. Without topK all may be chosen.
export function choose(logits, temperature, topK, random) {
  if (temperature < 1e-6) return logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
  if (topK && topK < logits.length) {
    const least = logits.slice().sort()[logits.length - topK];
    for (let i = 0; i < logits.length; i++) if (logits[i] < least) logits[i] = -Infinity;
  }
  softmax(logits, logits.length, 1 / temperature);
  let left = random(), last = 0;
  for (let i = 0; i < logits.length; i++) {
    if (logits[i] === 0) continue;
    last = i; // rounding may leave a little over: then it is the last one possible
    left -= logits[i];
    if (left < 0) break;
  }
  return last;
}

// Goes on after `ids` by `length` characters. Yields the number of each new one, and null after
// each that was only read, so that whoever listens can stop at any time. When the context is full,
// its newer half is read again and writing goes on from there: positions are learned, so a window
// that slides would change everything that was kept.
export function* write(model, ids, { length, temperature, topK, random }) {
  const size = model.config.block_size, half = Math.max(1, size >> 1);
  const text = ids.slice(-size);
  let unread = text.slice();
  model.length = 0;
  for (let written = 0; written < length; written++) {
    if (model.length + unread.length > size) {
      unread = text.slice(-half);
      model.length = 0;
    }
    for (const id of unread) {
      model.read(id);
      yield null;
    }
    const id = choose(model.logits(), temperature, topK, random);
    text.push(id);
    unread = [id];
    yield id;
  }
}

// =================================================================================================
// 5. The worker
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
// =================================================================================================

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

function listen() {
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
}

if (typeof WorkerGlobalScope !== "undefined" && self instanceof WorkerGlobalScope) listen();
