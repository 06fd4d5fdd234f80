// What a peer says and sends on one connection, in order. A WebSocket takes everything at once and
// keeps it in memory, so that little is given to it at a time.

const AT_ONCE = 512 * 1024; // bytes that may wait in the socket
const AGAIN = 50; // milliseconds until it is looked at again: it does not tell when it has room

/** @typedef {{ frame: string | Uint8Array<ArrayBuffer> } | { out: string }} Item out: the blob of
 *   this name is in the socket as a whole */

export class Uplink {
  /** @type {Item[]} */
  waiting = [];
  bytes = 0; // that went out
  timer = 0;

  /** @param {WebSocket} socket
   * @param {(blob: string) => void} sent all of a blob is on the wire */
  constructor(socket, sent) {
    this.socket = socket;
    this.sent = sent;
  }

  /** @param {string} message */
  send(message) {
    this.waiting.push({ frame: message });
    this.pump();
  }

  /** @param {string} blob
   * @param {Iterable<Uint8Array<ArrayBuffer>>} chunks */
  sendBlob(blob, chunks) {
    for (const frame of chunks) this.waiting.push({ frame });
    this.waiting.push({ out: blob });
    this.pump();
  }

  pump() {
    clearTimeout(this.timer);
    for (let item = this.waiting[0]; item && this.hasRoom(item); item = this.waiting[0]) {
      this.waiting.shift();
      if ("out" in item) {
        this.sent(item.out);
      } else {
        this.socket.send(item.frame);
        this.bytes += item.frame.length;
      }
    }
    if (this.waiting.length) this.timer = setTimeout(() => this.pump(), AGAIN);
  }

  /** @param {Item} item */
  hasRoom(item) {
    return this.socket.bufferedAmount < ("out" in item ? 1 : AT_ONCE);
  }

  /** What is left of blobs does not go out any more. */
  end() {
    clearTimeout(this.timer);
    this.waiting = [];
  }
}
