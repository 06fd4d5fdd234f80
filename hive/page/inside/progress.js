// What one sees it learn by: the surprise of one text in every version that was asked.

import { make } from "../dom.js";

export class Progress {
  /** @type {Map<number, { name: string, bits: number }>} */
  measured = new Map();
  list = make("ol");
  node = make("div", { className: "progress", hidden: true },
    make("h3", {}, "Bits per character, in all versions that you asked"), this.list);

  clear() {
    this.measured.clear();
    this.node.hidden = true;
  }

  /** @param {number} round
   * @param {string} name
   * @param {number} bits */
  add(round, name, bits) {
    this.measured.set(round, { name, bits });
    const rows = [...this.measured].sort(([a], [b]) => a - b).map(([, row]) => row);
    const most = Math.max(...rows.map((row) => row.bits));
    this.list.replaceChildren(...rows.map((row) => {
      const bar = make("span", { className: "progress-bar" });
      bar.style.setProperty("--share", `${(100 * row.bits) / most}%`);
      return make("li", {}, make("span", {}, row.name), bar, make("b", {}, row.bits.toFixed(2)));
    }));
    this.node.hidden = rows.length < 2;
  }
}
