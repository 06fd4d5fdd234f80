// What travels between coordinator and peers, as in hive/session/protocol.py: control messages in
// JSON, and blobs, named by their SHA-256 and cut into chunks.

import { GltchError } from "./errors.js";
import { fromHex, hex, hmac, sha256 } from "./sha256.js";
import { count } from "./words.js";

/** @import { Said, Told } from "./messages.d.ts" */

export const VERSION = 3;
export const CHUNK_BYTES = 96 * 1024; // of content in one binary message
const MESSAGE_BYTES = 2 ** 20; // the longest message of either kind
export const BLOB_BYTES = 2 ** 31; // the largest blob anyone accepts
const HEADER = 16; // of a chunk: start of the blob's SHA-256, offset
export const MOST_LOSS = 1e6; // nats
const LATELY = 64; // rounds in which updates counted that are told

/** The other side broke the protocol; the message says how, and the connection ends. */
export class ProtocolError extends GltchError {}

/** @param {unknown} condition
 * @param {string} sentence
 * @returns {asserts condition} */
export function demand(condition, sentence) {
  if (!condition) throw new ProtocolError(sentence);
}

// -------------------------------------------------------------------------------------------------
// Control messages
// -------------------------------------------------------------------------------------------------

/** What a field of a message may be.
 * @typedef {(value: any) => boolean} Field */

/** @type {(longest?: number) => Field} */
const text = (longest = 200) => (value) => typeof value === "string"
  && (value.length <= longest || Array.from(value).length <= longest);

/** @type {(...words: string[]) => Field} */
const oneOf = (...words) => (value) => words.includes(value);

/** @type {(least: number, most: number) => Field} */
const number = (least, most) => (value) => (
  typeof value === "number" && least <= value && value <= most);

/** @type {(least?: number, most?: number) => Field} */
export const whole = (least = 0, most = 2 ** 53) => (value) => (
  Number.isInteger(value) && least <= value && value <= most);

/** @type {Field} */
const flag = (value) => typeof value === "boolean";

/** @type {Field} */
const object = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** Of a SHA-256, an HMAC or a random token.
 * @type {Field} */
export const digest = (value) => typeof value === "string" && /^[0-9a-f]{64}$/.test(value);

/** @type {(field: Field) => Field} */
const maybe = (field) => (value) => value === null || field(value);

/** @type {(field: Field, most: number) => Field} */
const several = (field, most) => (value) => (
  Array.isArray(value) && value.length <= most && value.every(field));

const SECONDS = number(0, 1e9), LOSS = maybe(number(-MOST_LOSS, MOST_LOSS));
const BYTES = whole(0, BLOB_BYTES);

/** @type {Record<string, Record<string, Field>>} */
export const MESSAGES = {
  // The handshake. Each side proves that it has the key without showing it.
  challenge: { protocol: whole(), hive: text(64), nonce: digest, locked: flag },
  hello: { protocol: whole(), nonce: digest, proof: digest, name: text(), device: text(),
    kind: oneOf("cuda", "mps", "cpu", "tab"), process: digest, token: maybe(digest),
    text: maybe(digest) },
  welcome: { proof: digest, peer: text(64), name: text(32), token: maybe(digest),
    counted: several(whole(), LATELY), job: object },
  refused: { reason: text(1000) },
  // What the weights are now, and what to do with them.
  ready: { version: whole(), weights: maybe(digest), batch_size: whole(1, 2 ** 20) },
  version: { version: whole(), weights: digest, step: whole(),
    counted: several(whole(), LATELY) },
  train: { version: whole(), weights: digest, step: whole(), total: maybe(whole(1)),
    quota: whole(1, 2 ** 31), seconds: SECONDS, window: whole() },
  commit: { version: whole(1), weights: digest, codec: text(16), update: digest, bytes: BYTES,
    step: whole(), counted: flag, follows: flag },
  status: { version: whole(), peers: whole(), loss: LOSS, val_loss: LOSS },
  finished: { reason: text(1000) },
  // Transfers: the peer offers or asks, the coordinator answers with where to begin.
  offer: { version: whole(), base: whole(), weights: digest, codec: text(16), update: digest,
    bytes: BYTES, steps: whole(1, 2 ** 31), tokens: whole(1), loss: maybe(number(0, MOST_LOSS)),
    seconds: SECONDS, batch_size: whole(1, 2 ** 20), follows: flag },
  send: { blob: digest, offset: BYTES },
  verdict: { version: whole(), verdict: text(16), reason: text(1000) },
  fetch: { blob: digest, offset: BYTES },
  blob: { blob: digest, bytes: BYTES, offset: BYTES },
  gone: { blob: digest },
  progress: { version: whole(), steps: whole() },
  goodbye: {},
};

/** @param {any} message
 * @returns {asserts message is Said} */
export function checkMessage(message) {
  const kind = String(message.type);
  demand(Object.hasOwn(MESSAGES, kind), `There is no message type '${kind.slice(0, 40)}' in `
    + `version ${VERSION} of the protocol.`);
  const fields = Object.entries(MESSAGES[kind]);
  demand(Object.keys(message).length === fields.length + 1
    && fields.every(([name]) => Object.hasOwn(message, name)), `A ${kind} message of version `
    + `${VERSION} of the protocol has the fields `
    + `${fields.map(([name]) => name).join(", ") || "none"}; this one differs.`);
  for (const [name, holds] of fields) {
    demand(holds(message[name]), `The field ${name} of a ${kind} message cannot be `
      + `${String(JSON.stringify(message[name])).slice(0, 60)}.`);
  }
}

/** A control message; fails at home rather than at the other end when it is not a valid one.
 * @param {Told} message */
export function pack(message) {
  checkMessage(message);
  return JSON.stringify(message);
}

/** The fields of a control message. Throws a ProtocolError for anything else.
 * @param {string} content
 * @returns {Said} */
export function unpack(content) {
  demand(content.length <= MESSAGE_BYTES, "A control message is too long.");
  let message;
  try {
    message = JSON.parse(content);
  } catch {
    throw new ProtocolError("A control message is not JSON.");
  }
  demand(object(message), "A control message is not a JSON object.");
  checkMessage(message);
  return message;
}


// -------------------------------------------------------------------------------------------------
// Blobs
// -------------------------------------------------------------------------------------------------

/** @param {Uint8Array} content */
export function nameOf(content) {
  return hex(sha256(content));
}

/** The binary messages that carry a blob from an offset on.
 * @param {string} blob
 * @param {Uint8Array} content
 * @param {number} offset */
export function* chunks(blob, content, offset = 0) {
  for (let begin = offset; begin < content.length; begin += CHUNK_BYTES) {
    const part = content.subarray(begin, begin + CHUNK_BYTES);
    const chunk = new Uint8Array(HEADER + part.length);
    chunk.set(fromHex(blob.slice(0, 16)));
    new DataView(chunk.buffer).setBigUint64(8, BigInt(begin));
    chunk.set(part, HEADER);
    yield chunk;
  }
}

/** Collects the chunks of one blob, in order, and checks the whole. Memory grows with what has
 * arrived, not with what was announced. */
export class Receiver {
  /** @type {Uint8Array[]} */
  parts = [];
  length = 0; // of what is there

  /** @param {string} blob
   * @param {number} size
   * @param {number} limit */
  constructor(blob, size, limit = BLOB_BYTES) {
    demand(size <= limit, `A transfer of ${count(size)} bytes was announced; at most `
      + `${count(limit)} are accepted.`);
    this.blob = blob;
    this.size = size;
  }

  /** One of which these chunks are there already.
   * @param {string} blob
   * @param {number} size
   * @param {Uint8Array[]} parts */
  static from(blob, size, parts) {
    const receiver = new Receiver(blob, size);
    receiver.parts = parts;
    receiver.length = parts.reduce((length, part) => length + part.length, 0);
    return receiver;
  }

  get complete() {
    return this.length === this.size;
  }

  /** Throws a ProtocolError when the chunk is not the next one of this blob.
   * @param {Uint8Array} chunk */
  add(chunk) {
    demand(chunk.length >= HEADER, "A binary message is too short for a chunk.");
    const offset = new DataView(chunk.buffer, chunk.byteOffset).getBigUint64(8);
    const part = chunk.slice(HEADER);
    demand(hex(chunk.subarray(0, 8)) === this.blob.slice(0, 16),
      "A chunk belongs to no transfer.");
    demand(offset === BigInt(this.length) && part.length > 0
      && part.length <= this.size - this.length, `A chunk at ${offset} with ${part.length} bytes `
      + `does not continue a transfer of which ${this.length} of ${this.size} bytes are there.`);
    this.parts.push(part);
    this.length += part.length;
  }

  /** The whole blob. Throws a ProtocolError when it is not what was announced. */
  result() {
    const content = new Uint8Array(this.length);
    let at = 0;
    for (const part of this.parts) {
      content.set(part, at);
      at += part.length;
    }
    demand(nameOf(content) === this.blob, "A transfer arrived damaged: its SHA-256 differs.");
    return content;
  }
}

// -------------------------------------------------------------------------------------------------
// The handshake
// -------------------------------------------------------------------------------------------------

/** HMAC over both nonces: shows that one has the key, for this connection and role only.
 * @param {string} key
 * @param {"peer" | "coordinator"} role
 * @param {string} first
 * @param {string} second */
export function proof(key, role, first, second) {
  return hmac(key, `gltch-hive ${role} ${first} ${second}`);
}

/** The same with a session token, of which the SHA-256 is the key.
 * @param {string} token
 * @param {string} first
 * @param {string} second */
export function possession(token, first, second) {
  const key = nameOf(new TextEncoder().encode(token));
  return hmac(key, `gltch-hive token ${first} ${second}`);
}

/** Throws a ProtocolError with a sentence that says which side is behind.
 * @param {number} peer
 * @param {number} coordinator */
export function checkVersions(peer, coordinator) {
  demand(peer === coordinator, `The peer speaks version ${peer} of the protocol, the coordinator `
    + `version ${coordinator}: update the ${peer < coordinator ? "peer" : "coordinator"} `
    + "(git pull).");
}
