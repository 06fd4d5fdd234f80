// A few words beside what is pointed at.

import { make } from "../dom.js";

const GAP = 4; // pixels

/** Its words are for the eyes: what is pointed at says the same to screen readers. */
export class Tip {
  node = make("div", { className: "tip", hidden: true });

  constructor() {
    this.node.setAttribute("aria-hidden", "true");
    document.body.append(this.node);
    addEventListener("scroll", () => this.hide(), { capture: true, passive: true });
  }

  /** @param {string} text
   * @param {Element} element */
  show(text, element) {
    const { node } = this, { left, top, bottom } = element.getBoundingClientRect();
    node.textContent = text;
    node.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = node;
    const room = document.documentElement.clientWidth - width - GAP;
    const above = top - height - GAP;
    node.style.setProperty("--x", `${Math.max(GAP, Math.min(left, room))}px`);
    node.style.setProperty("--y", `${above > 0 ? above : bottom + GAP}px`);
  }

  hide() {
    this.node.hidden = true;
  }
}
