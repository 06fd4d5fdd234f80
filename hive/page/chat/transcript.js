// What is written above the input.

import { make } from "../dom.js";
import { MarkedText } from "../inside/marked.js";

/** @import { Origin, Visit } from "../inside/marked.js" */
/** @import { Mark } from "./messages.d.ts" */

/** The conversation: what the visitor wrote, and how the network went on, in one running text. */
export class Transcript {
  text = ""; // what the network reads before it goes on
  turn = make("article"); // the latest, and what was written in it
  /** @type {MarkedText | null} */
  written = null;
  node = make("div", { className: "chat-log", tabIndex: 0 });

  /** @param {(visit: Visit) => void} open a character */
  constructor(open) {
    this.open = open;
    this.node.setAttribute("role", "log");
    this.node.setAttribute("aria-labelledby", "chat-title");
    this.clear();
  }

  clear() {
    this.text = "";
    this.node.replaceChildren(make("p", { className: "chat-empty",
      textContent: "Begin a text, and the network goes on, as often as you like. It knows " +
        "nothing but the text it is trained on, one character after the other." }));
  }

  /** @param {string} author which version of the network writes now
   * @param {string} prompt */
  begin(author, prompt) {
    this.node.querySelector(".chat-empty")?.remove();
    this.turn = make("article", { className: "chat-turn" },
      make("p", { className: "chat-author", textContent: author }),
      make("p", { className: "chat-text" }, make("b", { textContent: prompt })));
    this.node.append(this.turn);
    this.node.scrollTop = this.node.scrollHeight;
    this.node.setAttribute("aria-busy", "true"); // speak the whole when it is there
  }

  /** @param {Origin} origin of what comes now */
  goOn(origin) {
    this.written = new MarkedText(origin, this.open);
    this.turn.lastElementChild?.append(this.written.node);
  }

  /** @param {Mark[]} marks */
  append(marks) {
    const { scrollHeight, scrollTop, clientHeight } = this.node;
    const atEnd = scrollHeight - scrollTop - clientHeight < 30; // or has the reader scrolled up?
    this.text += marks.map(({ character }) => character).join("");
    this.written?.append(marks);
    if (atEnd) this.node.scrollTop = this.node.scrollHeight;
  }

  /** @param {string} text */
  note(text) {
    this.turn.append(make("p", { className: "chat-author", textContent: text }));
  }

  end() {
    this.node.removeAttribute("aria-busy");
  }
}
