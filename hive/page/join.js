// How to join.

import { element, make, setText } from "./dom.js";

export class Join {
  constructor() {
    for (const button of document.querySelectorAll("button[data-copy]")) {
      button.onclick = () => copy(element(button.dataset.copy).textContent, button);
    }
  }

  update(state) {
    if (!state.join) return;
    const { port, locked, colab } = state.join;
    this.locked = locked;
    const host = location.hostname;
    const server = location.protocol === "https:" ? `wss://${location.host}/hive`
      : `ws://${host.includes(":") ? `[${host}]` : host}:${port}`;
    const key = locked ? " --key-file hive.key" : "";
    this.command = `python hive/peer.py --server ${server} --name my-node${key}`;
    setText(element("command"), this.command);
    setText(element("server"), server);
    element("key-needed").hidden = !locked;
    if (colab) {
      element("notebook").href = colab;
      element("notebook").removeAttribute("download");
    }
    const away = !["localhost", "127.0.0.1", "[::1]"].includes(host);
    element("colab").hidden = !away && !colab;
    element("server").parentElement.hidden = element("colab").hidden;
  }
}

/** The clipboard needs HTTPS or localhost; elsewhere the text is selected, for Ctrl-C. */
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    setText(button, "Copied");
  } catch {
    const source = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(source);
    setText(button, "Press Ctrl-C");
  }
  setTimeout(() => setText(button, "Copy"), 2000);
}

/** What the network shows while nobody is there. */
export function invitation(join) {
  const code = make("code");
  const button = make("button", { type: "button" }, "Copy");
  button.onclick = () => copy(code.textContent, button);
  const box = make("div", { className: "command" }, code, button);
  const key = make("p", { className: "quiet" },
    "The file hive.key holds the key of this hive: ask whoever runs it.");
  const whole = make("div", {}, box, key);
  return { box: whole, update: (state) => {
    setText(code, join.command ?? "");
    key.hidden = !join.locked;
    whole.hidden = Boolean(state.finished);
  } };
}
