// The program that computes: kernels.wasm, compiled from kernels/*.c. It is fetched once; each
// network, and the hash, has a copy of its own with its own memory. A section of the file is the
// same program for browsers with relaxed SIMD, in which it is faster.

/** What the C files export, by the names there. Places are bytes from the memory's beginning.
 * @typedef {object} Kernels
 * @property {WebAssembly.Memory} memory
 * @property {(vocabulary: number, context: number, width: number, layers: number, heads: number,
 *   texts: number) => number} lay_out
 * @property {() => number} parameters_at
 * @property {() => number} gradients_at
 * @property {() => number} ids_at
 * @property {() => number} targets_at
 * @property {(texts: number, weight: number, limit: number) => number} learn
 * @property {(at: number, count: number) => void} forget_gradients
 * @property {(a: number, b: number, c: number, d: number) => void} seed
 * @property {(at: number, rows: number, columns: number, rate: number, decay: number,
 *   keep: number) => void} muon
 * @property {(at: number, count: number, rate: number, decay: number, epsilon: number,
 *   bias1: number, bias2: number) => void} adamw
 * @property {(at: number, count: number, rate: number) => void} sgd
 * @property {() => number} sha256_piece
 * @property {() => void} sha256_begin
 * @property {(count: number) => void} sha256_add
 * @property {() => void} sha256_end */

/** @type {WebAssembly.Module | undefined} */
let program;

/** Before anything else here is used.
 * @param {BufferSource} content of kernels.wasm */
export async function load(content) {
  const plain = await WebAssembly.compile(content);
  const [fused] = WebAssembly.Module.customSections(plain, "fused");
  program = fused && WebAssembly.validate(fused) ? await WebAssembly.compile(fused) : plain;
}

/** A new copy.
 * @returns {Kernels} */
export function start() {
  if (!program) throw new Error("The kernels are not loaded yet.");
  const { exports } = new WebAssembly.Instance(program);
  return /** @type {Kernels} */ (/** @type {unknown} */ (exports));
}
