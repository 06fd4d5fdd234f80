// How to join.

import { element, make, setText } from "./dom.js";

/** @import { State } from "./state.js" */

export class Join {
  command = "";
  locked = false; // is a key needed?

  constructor() {
    for (const button of document.querySelectorAll("button")) {
      const { copy: source } = button.dataset;
      if (source) button.onclick = () => copy(element(source), button);
    }
  }

  /** @param {State} state */
  update(state) {
    if (!state.join) return;
    const { port, locked, colab, peer_sha256 } = state.join;
    const host = location.hostname;
    const server = location.protocol === "https:" ? `wss://${location.host}/hive`
      : `ws://${host.includes(":") ? `[${host}]` : host}:${port}`;
    const options = `--server ${server} --name my-node${locked ? " --key-file hive.key" : ""}`;
    const file = new URL(`peer.pyz`, document.baseURI).href;
    this.locked = locked;
    this.command = `python hive/peer.py ${options}`;
    setText(element("command"), this.command);
    setText(element("unix"), `curl -fO ${file}\npython3 peer.pyz ${options}`);
    setText(element("windows"), `curl.exe -fO ${file}\npython peer.pyz ${options}`);
    setText(element("peer-hash"), peer_sha256);
    const secure = location.protocol === "https:";
    setText(element("server"), `${secure ? "wss" : "ws"}://${location.host}/hive`);
    element("key-needed").hidden = !locked;
    const notebook = element("notebook", HTMLAnchorElement);
    if (colab) {
      notebook.href = colab;
      notebook.removeAttribute("download");
    }
    const away = !["localhost", "127.0.0.1", "[::1]"].includes(host);
    element("colab").hidden = !away && !colab;
    element("colab-server").hidden = !away && !colab;
  }
}

/** The clipboard needs HTTPS or localhost; elsewhere the text is selected, for Ctrl-C.
 * @param {HTMLElement} source
 * @param {HTMLButtonElement} button */
async function copy(source, button) {
  try {
    await navigator.clipboard.writeText(source.innerText);
    setText(button, "Copied");
  } catch {
    getSelection()?.selectAllChildren(source);
    setText(button, "Press Ctrl-C");
  }
  setTimeout(() => setText(button, "Copy"), 2000);
}

/** What the network shows while nobody is there.
 * @param {Join} join */
export function invitation(join) {
  const code = make("code");
  const button = make("button", { type: "button" }, "Copy");
  button.onclick = () => copy(code, button);
  const command = make("div", { className: "command" }, code, button);
  const key = make("p", { className: "quiet" },
    "The file hive.key holds the key of this hive: ask the person who runs it.");
  const box = make("div", {}, command, key);
  return { box, update: (/** @type {State} */ state) => {
    setText(code, join.command);
    key.hidden = !join.locked;
    box.hidden = Boolean(state.finished);
  } };
}
