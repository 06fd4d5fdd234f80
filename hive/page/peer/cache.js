// What a tab keeps for when its page comes back, as hive/cache.py: the text of the run, and its
// identity in each hive; besides, the updates that are on their way, and what has arrived of the text
// or the weights. All of it is in the browser's IndexedDB, which belongs to this origin.

import { Receiver, nameOf } from "./protocol.js";

/** @import { Recalled } from "./session.js" */
/** @import { Kept } from "./update.js" */

const NAME = "gltch-hive", VERSION = 2;
const MOST = 8; // identities that are kept, each with its updates; one text, and one download

/** As whom a tab that was started with this name is known to a hive, and what it left behind.
 * @typedef {object} Known
 * @property {string} hive
 * @property {string} asked the name
 * @property {string} token
 * @property {string} name
 * @property {string} job of the updates
 * @property {Kept[]} updates
 * @property {number} at when it was kept, Unix milliseconds */

/** A piece of a download.
 * @typedef {object} Chunk
 * @property {string} blob SHA-256 of the whole
 * @property {number} size of the whole
 * @property {number} offset
 * @property {Uint8Array} content */

/** @param {Receiver} download
 * @returns {Chunk[]} */
function chunksOf({ blob, size, parts }) {
  let offset = 0;
  return parts.map((content) => {
    const chunk = { blob, size, offset, content };
    offset += content.length;
    return chunk;
  });
}

/** What there is from the first byte on, of one download: two tabs may have left pieces of theirs.
 * @param {Chunk[]} chunks by blob and offset
 * @returns {Receiver | null} */
function begun(chunks) {
  const first = chunks.find(({ offset }) => offset === 0);
  if (!first) return null;
  const { blob, size } = first, parts = [];
  let length = 0;
  for (const { content, ...chunk } of chunks) {
    if (chunk.blob !== blob || chunk.offset !== length) continue;
    parts.push(content);
    length += content.length;
  }
  return Receiver.from(blob, size, parts);
}

/** @template Result
 * @param {IDBRequest<Result>} request
 * @returns {Promise<Result>} */
function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {IDBTransaction} transaction
 * @returns {Promise<void>} */
function completed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}

/** @returns {Promise<IDBDatabase>} */
function openDatabase() {
  const request = indexedDB.open(NAME, VERSION);
  request.onupgradeneeded = ({ oldVersion }) => {
    const { result: database } = request;
    if (oldVersion < 1) {
      database.createObjectStore("known", { keyPath: ["hive", "asked"] });
      database.createObjectStore("texts");
    }
    database.createObjectStore("chunks", { keyPath: ["blob", "offset"] });
  };
  const blocked = new Promise((_resolve, reject) => {
    request.onblocked = () => reject(new DOMException("another tab has an older version of the page"));
  });
  return Promise.race([answer(request), blocked]);
}

export class Cache {
  /** @type {IDBDatabase | null} */
  database = null;
  /** @type {Known[]} */
  known = []; // as it was when this page began
  /** @type {Known | null} */
  own = null; // this peer
  /** @type {Receiver | null} */
  download = null; // the one of which chunks are kept
  chunks = 0; // how many

  /** @param {(sentence: string) => void} complain a peer can do without all of it */
  constructor(complain) {
    this.complain = complain;
  }

  async open() {
    await this.attempt(async () => {
      this.database = await openDatabase();
      this.known = await answer(this.store("known", "readonly").getAll());
      this.download = begun(await answer(this.store("chunks", "readonly").getAll()));
      this.chunks = this.download?.parts.length ?? 0;
    });
  }

  /** A browser may keep nothing, or have no room.
   * @param {() => Promise<void>} keep */
  async attempt(keep) {
    try {
      await keep();
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
      this.complain(`This browser keeps nothing for later (${error.message}): after a reload this `
        + "tab begins anew.");
    }
  }

  /** @param {"known" | "texts" | "chunks"} name
   * @param {IDBTransactionMode} mode */
  store(name, mode) {
    if (!this.database) throw new DOMException("it has no database");
    return this.database.transaction(name, mode).objectStore(name);
  }

  /** @param {string} digest
   * @returns {Promise<Uint8Array | null>} */
  async readText(digest) {
    if (!this.database) return null;
    const content = await answer(this.store("texts", "readonly").get(digest));
    return content && nameOf(content) === digest ? content : null;
  }

  /** @param {string} digest
   * @param {Uint8Array} content */
  async keepText(digest, content) {
    await this.attempt(async () => {
      const texts = this.store("texts", "readwrite");
      await answer(texts.clear());
      await answer(texts.put(content, digest));
    });
  }

  /** What is kept of a download does for any peer.
   * @param {string} hive
   * @param {string} asked
   * @returns {Recalled} */
  recall(hive, asked) {
    this.own = this.known.find((one) => one.hive === hive && one.asked === asked) ?? null;
    const { token, name, job, updates } = this.own
      ?? { token: null, name: asked, job: "", updates: [] };
    return { token, name, job, updates, partial: this.download };
  }

  /** For a later page of the name that this one was started with, unless another tab has that.
   * @param {string} hive
   * @param {string} asked
   * @param {string} token
   * @param {string} name */
  async keepIdentity(hive, asked, token, name) {
    await this.attempt(async () => {
      const store = this.store("known", "readwrite");
      const taken = name !== asked && await answer(store.count([hive, asked])) > 0;
      this.own = { hive, asked: taken ? name : asked, token, name, job: "", updates: [],
        at: Date.now() };
      await answer(store.put(this.own));
      const all = await answer(store.getAll());
      const old = all.sort((a, b) => b.at - a.at).slice(MOST);
      for (const one of old) store.delete([one.hive, one.asked]);
    });
  }

  /** The updates that are on their way now.
   * @param {string} job
   * @param {Kept[]} updates */
  async keepUpdates(job, updates) {
    const { own } = this;
    if (!own) return;
    await this.attempt(async () => {
      Object.assign(own, { job, updates, at: Date.now() });
      await answer(this.store("known", "readwrite").put(own));
    });
  }

  /** What has arrived of the text or the weights; null: nothing that a later page wants.
   * @param {Receiver | null} download */
  async keepDownload(download) {
    const chunks = download ? chunksOf(download) : [], other = download !== this.download;
    const fresh = chunks.slice(other ? 0 : this.chunks);
    if (!this.database || !other && !fresh.length) return;
    this.download = download;
    this.chunks = chunks.length;
    await this.attempt(async () => {
      const store = this.store("chunks", "readwrite");
      if (other) store.clear();
      for (const chunk of fresh) store.put(chunk);
      await completed(store.transaction);
    });
  }
}
