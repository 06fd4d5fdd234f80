// What is known about one peer, in words: beside its node, and for a screen reader.

import { make } from "../dom.js";
import { LIMITS, NOT_YET, bytes, count, metric, milliseconds, moment, percent } from "../format.js";
import { clamp } from "./layout.js";

/** @import { Peer } from "../facts.d.ts" */
/** @import { State } from "../state.js" */
/** @import { Node } from "./scene.js" */

/** What of the run the words depend on.
 * @typedef {Pick<State, "unit" | "version" | "own">} Now */

const WORKING = ["training", "uploading", "delivered", "lagging"];

/** @param {Peer} peer
 * @param {Now} now */
const named = ({ peer, name }, { own }) => (peer === own ? `${name} (this tab)` : name);

export class Readout {
  constructor() {
    this.element = make("div", { className: "network-readout" });
    this.element.setAttribute("aria-hidden", "true"); // `aloud` says the same
    this.element.hidden = true;
    this.name = make("strong");
    this.facts = make("dl");
    this.pinned = make("p", {}, "Stays where you put it. Double click or Escape lets go.");
    this.element.append(this.name, this.facts, this.pinned);
    this.aloud = make("p", { className: "hidden-visually" });
    this.aloud.setAttribute("aria-live", "polite");
  }

  /** @param {Node | null} node
   * @param {Now} now */
  show(node, now) {
    this.element.hidden = !node;
    if (!node) return;
    this.name.textContent = named(node.peer, now);
    this.pinned.hidden = !node.pinned;
    this.facts.replaceChildren(...this.about(node.peer, now).flatMap(
      ([title, value]) => [make("dt", {}, title), make("dd", {}, value)]));
  }

  /** @param {Node} node
   * @param {Now} now */
  say(node, now) {
    const facts = this.about(node.peer, now).map((fact) => fact.join(": "));
    this.aloud.textContent = [named(node.peer, now), ...facts].join(". ");
  }

  /** @param {Peer} peer
   * @param {Now} now
   * @returns {[string, string][]} */
  about(peer, { unit, version }) {
    const round = peer.state === "lagging" ? "an earlier one" : count(version + 1);
    const works = peer.quota && WORKING.includes(peer.state);
    /** @type {[string, string][]} */
    const travel = unit === "step" ? [] : [
      ["Training", peer.limit ? `${percent(peer.training)}, limit: ${LIMITS[peer.limit]}`
        : NOT_YET],
      ["Sent", bytes(peer.bytes_up)],
      ["Received", bytes(peer.bytes_down)],
      ["Ping", milliseconds(peer.latency)],
    ];
    return [
      ["Device", peer.device],
      ["State", peer.state],
      ["Speed", peer.speed == null ? NOT_YET : `${count(peer.speed)} characters/s`],
      [unit === "step" ? "Step" : "Round",
        works ? `${round}, ${peer.steps} of ${peer.quota} steps` : NOT_YET],
      ...travel,
      ["Share", `${percent(peer.share)}, ${metric(peer.tokens)} characters`],
      ["Since", moment(peer.joined)],
    ];
  }

  /** Beside the node, on the outer side if there is room. The style sheet knows the width, and puts
   * it under a narrow picture.
   * @param {Node} node
   * @param {number} width
   * @param {number} height */
  place({ x, y, radius }, width, height) {
    const wide = 272, away = radius + 16;
    const [left, right] = [x - away - wide, x + away];
    const outer = x < width / 2 ? left : right, inner = x < width / 2 ? right : left;
    const at = outer >= 0 && outer + wide <= width ? outer : inner;
    const { style } = this.element;
    style.setProperty("--x", `${clamp(at, 0, Math.max(0, width - wide))}px`);
    style.setProperty("--y", `${y}px`);
    style.setProperty("--up", `${-100 * y / height}%`);
  }
}
