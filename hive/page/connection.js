// The connection to the coordinator: questions, and its live events, with reconnecting.

import { setText } from "./dom.js";
import { duration } from "./format.js";

/** @import { HiveEvent } from "./facts.d.ts" */
/** @import { State } from "./state.js" */

const FIRST_WAIT = 500, LONGEST_WAIT = 15000, SILENCE = 10000; // milliseconds

/** The JSON at an address; null while the coordinator is away, which the connection line tells.
 * @param {string} address */
export async function ask(address) {
  try {
    const reply = await fetch(address, { cache: "no-store" });
    return reply.ok ? await reply.json() : null;
  } catch (error) {
    if (error instanceof TypeError) return null; // no connection
    throw error;
  }
}

/** Calls `hear(events)` with every message; after a break it goes on where it stopped. */
export class Connection {
  wait = FIRST_WAIT;
  /** @type {number | null} */
  heardAt = null;
  /** @type {number | null} */
  retryAt = null; // null: it is open, or being opened
  timer = 0;
  openedAt = 0;

  /** @param {State} state
   * @param {(events: HiveEvent[]) => void} hear */
  constructor(state, hear) {
    this.state = state;
    this.hear = hear;
    addEventListener("online", () => this.retry());
    addEventListener("pagehide", () => this.socket.close());
    this.socket = this.open();
  }

  /** @returns {WebSocket} */
  open() {
    const { session = "", seq = 0 } = this.state;
    const address = new URL(`api/events?session=${session}&since=${seq}`, location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    this.retryAt = null;
    this.openedAt = performance.now();
    this.socket = new WebSocket(address);
    this.socket.onmessage = (message) => {
      this.heardAt = performance.now();
      this.wait = FIRST_WAIT;
      this.hear(JSON.parse(message.data));
    };
    this.socket.onclose = () => this.retryLater();
    return this.socket;
  }

  /** A connection on which nothing comes any more may take a minute to close: do not wait. */
  abandon() {
    this.socket.onmessage = this.socket.onclose = null;
    this.socket.close();
    this.retryLater();
  }

  retryLater() {
    const wait = this.wait * (0.5 + Math.random()); // so that not all pages come back at once
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
    this.retryAt = performance.now() + wait;
    this.timer = setTimeout(() => this.open(), wait);
  }

  retry() {
    if (this.retryAt === null) return;
    clearTimeout(this.timer);
    this.open();
  }

  /** A coordinator says something every second: long silence is a dead connection. */
  check() {
    const since = Math.max(this.heardAt ?? 0, this.openedAt);
    if (this.retryAt === null && performance.now() - since > SILENCE) this.abandon();
  }

  get isLive() {
    return this.socket.readyState === WebSocket.OPEN;
  }
}

export class ConnectionLine {
  /** @param {HTMLElement} node
   * @param {Connection} connection */
  constructor(node, connection) {
    this.node = node;
    this.connection = connection;
  }

  /** @param {State} state */
  update(state) {
    const { heardAt, retryAt, isLive } = this.connection;
    const now = performance.now();
    const ago = heardAt === null ? "" : `last update ${duration((now - heardAt) / 1000)} ago`;
    if (isLive && state.paused) {
      this.show("paused", `Paused: ${state.paused}`);
    } else if (isLive && heardAt !== null) {
      this.show(state.finished ? "finished" : "live",
        state.finished ? `The run is over: ${state.finished}.` : `Live, ${ago}.`);
    } else if (state.finished) {
      this.show("finished", `The run is over: ${state.finished}. The coordinator has ended.`);
    } else if (retryAt === null) {
      this.show("connecting", ago ? `Connecting again, ${ago}…` : "Connecting…");
    } else {
      const next = `trying again in ${duration(Math.max(0, retryAt - now) / 1000)}`;
      this.show("gone", `The coordinator does not answer${ago && `, ${ago}`}; ${next}.`);
    }
  }

  /** @param {"live" | "paused" | "finished" | "connecting" | "gone"} state
   * @param {string} text */
  show(state, text) {
    this.node.dataset.state = state;
    document.body.dataset.connection = state;
    setText(this.node, text);
  }
}
