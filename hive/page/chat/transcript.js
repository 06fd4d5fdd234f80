import { make } from "../dom.js";

// The conversation: what the visitor wrote, and how the network went on, in one running text.
export class Transcript {
  constructor() {
    this.node = make("div", { className: "chat-log", tabIndex: 0 });
    this.node.setAttribute("role", "log");
    this.node.setAttribute("aria-labelledby", "chat-title");
    this.clear();
  }

  clear() {
    this.text = ""; // what the network reads before it goes on
    this.node.replaceChildren(make("p", { className: "chat-empty",
      textContent: "Begin a text, and the network goes on, as often as you like. It knows " +
        "nothing but the text it is trained on, one character after the other." }));
  }

  // `author` says which version of the network writes now.
  begin(author, prompt) {
    this.node.querySelector(".chat-empty")?.remove();
    this.written = make("span");
    this.turn = make("article", { className: "chat-turn" },
      make("p", { className: "chat-author", textContent: author }),
      make("p", { className: "chat-text" }, make("b", { textContent: prompt }), this.written));
    this.node.append(this.turn);
    this.node.scrollTop = this.node.scrollHeight;
    this.node.setAttribute("aria-busy", "true"); // speak the whole when it is there
  }

  append(text) {
    const { scrollHeight, scrollTop, clientHeight } = this.node;
    const atEnd = scrollHeight - scrollTop - clientHeight < 30; // or has the reader scrolled up?
    this.text += text;
    this.written.append(text);
    if (atEnd) this.node.scrollTop = this.node.scrollHeight;
  }

  note(text) {
    this.turn.append(make("p", { className: "chat-author", textContent: text }));
  }

  end() {
    this.node.removeAttribute("aria-busy");
  }
}
