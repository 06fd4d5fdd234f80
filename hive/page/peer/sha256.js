// SHA-256 and HMAC. The browser's own (crypto.subtle) is missing on pages that came by plain http,
// as a hive at home serves them.

import { start } from "./kernels.js";

/** @import { Kernels } from "./kernels.js" */

const PIECE = 65536; // bytes that the kernel takes at once
const BLOCK = 64; // of the hash function

/** @type {Kernels | undefined} */
let kernels;

/** The bytes of any typed array, without copying them.
 * @param {ArrayBufferView} view */
export function bytesOf({ buffer, byteOffset, byteLength }) {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** @param {ArrayBufferView} content
 * @returns {Uint8Array} 32 bytes */
export function sha256(content) {
  kernels ??= start();
  const bytes = bytesOf(content);
  const piece = new Uint8Array(kernels.memory.buffer, kernels.sha256_piece(), PIECE);
  kernels.sha256_begin();
  for (let at = 0; at < bytes.length; at += PIECE) {
    const next = bytes.subarray(at, at + PIECE);
    piece.set(next);
    kernels.sha256_add(next.length);
  }
  kernels.sha256_end();
  return piece.slice(0, 32);
}

/** As a message authentication code (RFC 2104). Both are texts, of which the UTF-8 counts.
 * @param {string} key
 * @param {string} text */
export function hmac(key, text) {
  const encoder = new TextEncoder();
  /** @type {Uint8Array} */
  let secret = encoder.encode(key);
  if (secret.length > BLOCK) secret = sha256(secret);
  const padded = (/** @type {number} */ pad, /** @type {Uint8Array} */ content) => {
    const all = new Uint8Array(BLOCK + content.length).fill(pad, 0, BLOCK);
    secret.forEach((byte, i) => { all[i] ^= byte; });
    all.set(content, BLOCK);
    return sha256(all);
  };
  return hex(padded(0x5c, padded(0x36, encoder.encode(text))));
}

/** @param {Uint8Array} bytes */
export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {string} digits */
export function fromHex(digits) {
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}
