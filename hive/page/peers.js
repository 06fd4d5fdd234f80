// The table of connected peers.

import { make, setText } from "./dom.js";
import { LIMITS, bytes, count, milliseconds, moment, percent } from "./format.js";

/** @import { Peer } from "./facts.d.ts" */
/** @import { State } from "./state.js" */

/** What a column shows of a peer, and what it is sorted by.
 * @typedef {object} Column
 * @property {string} title
 * @property {(peer: Peer) => string | number} key
 * @property {(peer: Peer) => string} show
 * @property {string} [className] */

/** @param {Peer} peer */
const working = ({ state, steps, quota, aside }) => (aside ? `set aside: ${aside}`
  : state === "training" && quota ? `training, ${steps} of ${quota}` : state);

/** @type {Column[]} */
const COLUMNS = [
  { title: "Name", key: (peer) => peer.name.toLowerCase(), show: (peer) => peer.name,
    className: "name" },
  { title: "Device", key: (peer) => peer.device, show: (peer) => peer.device },
  { title: "State", key: (peer) => peer.state, show: working },
  { title: "Characters/s", key: (peer) => peer.speed ?? 0, show: (peer) => count(peer.speed),
    className: "number" },
  { title: "Training", key: (peer) => peer.training ?? 0, show: (peer) => percent(peer.training),
    className: "number" },
  { title: "Limit", key: (peer) => LIMITS[peer.limit], show: (peer) => LIMITS[peer.limit] },
  { title: "Score", key: (peer) => peer.score, show: (peer) => percent(peer.score),
    className: "number" },
  { title: "Contribution", key: (peer) => peer.tokens, show: (peer) => percent(peer.share),
    className: "number" },
  { title: "Counted", key: (peer) => peer.counted, show: (peer) => count(peer.counted),
    className: "number" },
  { title: "Late", key: (peer) => peer.late, show: (peer) => count(peer.late),
    className: "number" },
  { title: "Rejected", key: (peer) => peer.rejected, show: (peer) => count(peer.rejected),
    className: "number" },
  { title: "Sent", key: (peer) => peer.bytes_up, show: (peer) => bytes(peer.bytes_up),
    className: "number" },
  { title: "Received", key: (peer) => peer.bytes_down, show: (peer) => bytes(peer.bytes_down),
    className: "number" },
  { title: "Ping", key: (peer) => peer.latency ?? Infinity,
    show: (peer) => milliseconds(peer.latency), className: "number" },
  { title: "Since", key: (peer) => peer.joined, show: (peer) => moment(peer.joined) },
];
const CONTRIBUTION = COLUMNS.findIndex(({ title }) => title === "Contribution");

export class PeersTable {
  /** @type {Map<string, Row>} */
  rows = new Map();
  sorted = CONTRIBUTION;
  descending = true;

  /** @param {State} state
   * @param {HTMLElement} head
   * @param {HTMLElement} body
   * @param {HTMLElement} nobody what is shown while it is empty */
  constructor(state, head, body, nobody) {
    this.state = state;
    this.head = head;
    this.body = body;
    this.nobody = nobody;
    COLUMNS.forEach(({ title, className = "" }, column) => {
      const button = make("button", { type: "button", onclick: () => this.sortBy(column) }, title);
      head.append(make("th", { scope: "col", className }, button));
    });
    this.markSorted();
  }

  /** @param {number} column */
  sortBy(column) {
    // The largest number first, but A before B.
    const numeric = COLUMNS[column].className === "number";
    this.descending = column === this.sorted ? !this.descending : numeric;
    this.sorted = column;
    this.markSorted();
    this.update();
  }

  markSorted() {
    [...this.head.children].forEach((cell, column) => {
      if (column !== this.sorted) cell.removeAttribute("aria-sort");
      else cell.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
    });
  }

  update() {
    const there = this.state.peers;
    this.nobody.hidden = there.size > 0;
    for (const [id, row] of this.rows) {
      if (there.has(id)) continue;
      row.element.remove();
      this.rows.delete(id);
    }
    const { key } = COLUMNS[this.sorted];
    const sign = this.descending ? -1 : 1;
    const peers = [...there.values()].sort((a, b) =>
      sign * compare(key(a), key(b)) || compare(a.peer, b.peer));
    peers.forEach((peer, place) => {
      const { element } = this.row(peer);
      const now = this.body.children[place];
      if (now !== element) this.body.insertBefore(element, now ?? null);
    });
  }

  /** @param {Peer} peer */
  row(peer) {
    const row = this.rows.get(peer.peer) ?? new Row();
    this.rows.set(peer.peer, row);
    row.show(peer, peer.peer === this.state.own);
    return row;
  }
}

class Row {
  tab = make("div", { className: "own-note" }, "this tab"); // under the name
  reason = make("div", { className: "reason" });
  cells = COLUMNS.map(() => make("div"));

  constructor() {
    this.element = make("tr", {}, ...COLUMNS.map(({ className = "" }, column) =>
      make("td", { className }, this.cells[column],
        ...(column ? [] : [this.tab, this.reason]))));
  }

  /** @param {Peer} peer
   * @param {boolean} own is it this tab? */
  show(peer, own) {
    this.tab.hidden = !own;
    COLUMNS.forEach(({ show }, column) => setText(this.cells[column], show(peer)));
    setText(this.reason, peer.reason && `latest refusal: ${peer.reason}`);
  }
}

/** @param {string | number} a
 * @param {string | number} b */
function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}
