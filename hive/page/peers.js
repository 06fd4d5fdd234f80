// The table of who is connected.

import { make, setText } from "./dom.js";
import { bytes, count, milliseconds, moment, percent } from "./format.js";

const working = ({ state, steps, quota }) =>
  (state === "training" && quota ? `training, ${steps} of ${quota}` : state);

// Title, what to sort by, what to show, class.
const COLUMNS = [
  ["Name", (peer) => peer.name.toLowerCase(), (peer) => peer.name, "name"],
  ["Device", (peer) => peer.device, (peer) => peer.device],
  ["State", (peer) => peer.state, working],
  ["Characters/s", (peer) => peer.speed, (peer) => count(peer.speed), "number"],
  ["Contribution", (peer) => peer.tokens, (peer) => percent(peer.share), "number"],
  ["Counted", (peer) => peer.counted, (peer) => count(peer.counted), "number"],
  ["Late", (peer) => peer.late, (peer) => count(peer.late), "number"],
  ["Rejected", (peer) => peer.rejected, (peer) => count(peer.rejected), "number"],
  ["Sent", (peer) => peer.bytes_up, (peer) => bytes(peer.bytes_up), "number"],
  ["Received", (peer) => peer.bytes_down, (peer) => bytes(peer.bytes_down), "number"],
  ["Ping", (peer) => peer.latency ?? Infinity, (peer) => milliseconds(peer.latency), "number"],
  ["Since", (peer) => peer.joined, (peer) => moment(peer.joined)],
];

export class PeersTable {
  constructor(head, body, nobody) {
    Object.assign(this, { head, body, nobody, rows: new Map(), sorted: 4, descending: true });
    COLUMNS.forEach(([title, , , className = ""], column) => {
      const button = make("button", { type: "button", onclick: () => this.sortBy(column) }, title);
      head.append(make("th", { scope: "col", className }, button));
    });
    this.markSorted();
  }

  sortBy(column) {
    const numeric = COLUMNS[column][3] === "number"; // the largest number first, but A before B
    this.descending = column === this.sorted ? !this.descending : numeric;
    this.sorted = column;
    this.markSorted();
    this.update(this.state);
  }

  markSorted() {
    [...this.head.children].forEach((cell, column) => {
      if (column !== this.sorted) cell.removeAttribute("aria-sort");
      else cell.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
    });
  }

  update(state) {
    this.state = state;
    this.nobody.hidden = state.peers.size > 0;
    for (const [id, row] of this.rows) {
      if (state.peers.has(id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    const key = COLUMNS[this.sorted][1];
    const sign = this.descending ? -1 : 1;
    const peers = [...state.peers.values()].sort((a, b) =>
      sign * compare(key(a), key(b)) || compare(a.peer, b.peer));
    peers.forEach((peer, place) => {
      const row = this.row(peer);
      if (this.body.children[place] !== row) this.body.insertBefore(row, this.body.children[place]);
    });
  }

  row(peer) {
    if (!this.rows.has(peer.peer)) {
      const cells = COLUMNS.map(([, , , className = ""]) => make("td", { className }, make("div")));
      cells[0].append(make("div", { className: "reason" }));
      this.rows.set(peer.peer, make("tr", {}, ...cells));
    }
    const row = this.rows.get(peer.peer);
    COLUMNS.forEach(([, , show], column) =>
      setText(row.children[column].firstElementChild, show(peer)));
    const { reason } = peer;
    setText(row.firstElementChild.lastElementChild, reason && `latest refusal: ${reason}`);
    return row;
  }
}

function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}
