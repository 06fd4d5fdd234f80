// How it goes with the peer of this tab, and what it has contributed.

import { make, setText } from "../dom.js";
import { bytes, count, metric, nats, percent } from "../format.js";

/** @import { Peer } from "../facts.d.ts" */
/** @import { Figures } from "../peer/joining.d.ts" */
/** @import { Mode } from "./trainer.js" */

const DOING = { connecting: "joining", training: "training", sending: "sending",
  waiting: "waiting for the round" };

/** What it does, in a word.
 * @param {Mode} mode
 * @param {Figures | null} figures */
export function doing(mode, figures) {
  return mode === "training" ? DOING[figures?.doing ?? "connecting"] : mode;
}

export class Contribution {
  /** @type {Map<string, HTMLElement>} */
  shown = new Map();
  node = make("dl", { className: "tab-figures", hidden: true });

  /** @param {Mode} mode
   * @param {Figures | null} figures
   * @param {Peer | null} peer as the hive sees it, or saw it last */
  update(mode, figures, peer) {
    this.node.hidden = figures === null;
    if (!figures) return;
    const { loss, step, total } = figures;
    this.show("State", doing(mode, figures) + (peer?.aside ? `; set aside: ${peer.aside}` : ""));
    this.show("Characters/s", count(figures.speed || null));
    this.show("Updates counted", peer ? count(peer.counted) : "–");
    this.show("Late, rejected", peer ? `${count(peer.late)}, ${count(peer.rejected)}` : "–");
    if (peer?.reason) this.show("Latest refusal", peer.reason);
    this.show("Your share", peer ? `${percent(peer.share)}, ${metric(peer.tokens)} characters`
      : "–");
    this.show("Step", total ? `${count(step)} of ${count(total)}` : count(step));
    this.show("Training loss", `${nats(Number.isNaN(loss) ? null : loss)} nats`);
    this.show("Sent, received", `${bytes(figures.up)}, ${bytes(figures.down)}`);
  }

  /** @param {string} name
   * @param {string} value */
  show(name, value) {
    let fact = this.shown.get(name);
    if (!fact) {
      fact = make("dd");
      this.shown.set(name, fact);
      this.node.append(make("div", {}, make("dt", {}, name), fact));
    }
    setText(fact, value);
  }
}
