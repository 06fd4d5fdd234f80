// Reads a file of weights. A safetensors file is 8 bytes with the length of its header, the header
// (JSON: for each tensor its type, its shape and where it begins and ends), and then the numbers.

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
