// Reads a file of weights. A safetensors file is 8 bytes with the length of its header, the header
// (JSON: for each tensor its type, its shape and where it begins and ends), and then the numbers.

/** @import { Maybe } from "../facts.d.ts" */

/** The size of a network, as GLTCHConfig in gltch_2_7m.py.
 * @typedef {object} Config
 * @property {number} vocab_size
 * @property {number} block_size
 * @property {number} n_layer
 * @property {number} n_head
 * @property {number} n_embd */

/** What a file holds: the network, and how far its training was.
 * @typedef {object} Weights
 * @property {Config} config
 * @property {string[]} vocabulary
 * @property {Record<string, Float32Array>} tensors
 * @property {Maybe} round
 * @property {Maybe} step
 * @property {Maybe} val_loss */

/** A tensor, as the header describes it.
 * @typedef {{ dtype?: string, shape?: number[], data_offsets?: [number, number] }} Entry */

/** @param {unknown} condition
 * @param {string} why
 * @returns {asserts condition} */
function check(condition, why) {
  if (!condition) throw new Error(`The file with the weights cannot be used: ${why}.`);
}

/** @param {string} text
 * @param {string} what */
function parseJson(text, what) {
  try {
    return JSON.parse(text);
  } catch {
    return check(false, `${what} is not JSON`);
  }
}

/** @param {Partial<Config>} [found]
 * @returns {Config} */
function configOf(found) {
  const size = (/** @type {keyof Config} */ name) => {
    const value = found?.[name];
    check(value !== undefined && Number.isInteger(value) && value >= 1, `its ${name} is missing`);
    return value;
  };
  const config = { vocab_size: size("vocab_size"), block_size: size("block_size"),
    n_layer: size("n_layer"), n_head: size("n_head"), n_embd: size("n_embd") };
  check(config.n_embd % config.n_head === 0, "its width cannot be divided among its heads");
  return config;
}

/** The tensors of GLTCH.state_dict() and their shapes.
 * @param {Config} config */
function shapesOf({ vocab_size: V, block_size: T, n_layer, n_embd: C }) {
  /** @type {Record<string, number[]>} */
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
      [`blocks.${n}.attention.qkv.weight`]: [3 * C, C],
      [`blocks.${n}.attention.projection.weight`]: [C, C],
      [`blocks.${n}.norm2.weight`]: [C],
      [`blocks.${n}.norm2.bias`]: [C],
      [`blocks.${n}.feed_forward.up.weight`]: [4 * C, C],
      [`blocks.${n}.feed_forward.down.weight`]: [C, 4 * C],
    });
  }
  return shapes;
}

/** @param {ArrayBuffer} buffer
 * @param {number} start of the numbers
 * @param {string} name
 * @param {Entry | undefined} entry
 * @param {number[]} shape */
function tensorOf(buffer, start, name, entry, shape) {
  check(entry, `it has no ${name}`);
  check(entry.dtype === "F32", `${name} is not fp32`);
  check(String(entry.shape) === String(shape), `${name} is not ${shape.join(" x ")}`);
  const [begin, end] = entry.data_offsets ?? [-1, -1];
  const bytes = 4 * shape.reduce((product, size) => product * size);
  check(begin >= 0 && end - begin === bytes && start + end <= buffer.byteLength,
    `${name} is cut off`);
  // A view of the file where its place allows it, else a copy.
  const from = start + begin;
  return new Float32Array(from % 4 ? buffer.slice(from, from + bytes) : buffer,
    from % 4 ? 0 : from, bytes / 4);
}

/** Throws a sentence if the file is damaged.
 * @param {ArrayBuffer} buffer
 * @returns {Weights} */
export function parse(buffer) {
  check(buffer.byteLength >= 8, "it is empty");
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  check(start <= buffer.byteLength, "it is cut off");
  const header = parseJson(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)),
    "its header");
  const about = parseJson(header?.__metadata__?.gltch, "its description");
  const config = configOf(about?.config);
  const vocabulary = Array.from(about.vocabulary ?? ""); // by code point, as Python does
  check(new Set(vocabulary).size === config.vocab_size
    && vocabulary.length === config.vocab_size, "its vocabulary has the wrong length");
  /** @type {Weights["tensors"]} */
  const tensors = {};
  for (const [name, shape] of Object.entries(shapesOf(config))) {
    tensors[name] = tensorOf(buffer, start, name, header[name], shape);
  }
  const { round = null, step = null, val_loss = null } = about;
  return { config, vocabulary, tensors, round, step, val_loss };
}
