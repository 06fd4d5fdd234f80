// Shows what the coordinator measured; nothing is invented here.

const EVERY = 1000; // milliseconds between two questions
const element = (id) => document.getElementById(id);
const count = (value) => Math.round(value).toLocaleString("en");
const nats = (value) => (value === null ? "not yet" : value.toFixed(4));

function bytes(value) {
  for (const unit of ["B", "kB", "MB"]) {
    if (value < 1000) return `${unit === "MB" ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} GB`;
}

function clock(seconds) {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

function cell(tag, text) {
  const node = document.createElement(tag);
  node.textContent = text;
  return node;
}

function showRun(state) {
  const facts = {
    "Round": count(state.version + (state.finished ? 0 : 1)),
    "Step": state.total ? `${count(state.step)} of ${count(state.total)}` : count(state.step),
    "Training loss (nats)": nats(state.loss),
    "Validation loss (nats)": nats(state.val_loss),
    "Peers": count(state.peers.length),
    "Training time": clock(state.seconds),
    "Received from peers": bytes(state.bytes_up),
    "Sent to peers": bytes(state.bytes_down),
  };
  element("run").replaceChildren(...Object.entries(facts).map(([name, value]) => {
    const pair = document.createElement("div");
    pair.append(cell("dt", name), cell("dd", value));
    return pair;
  }));
}

function showPeers(state) {
  element("nobody").hidden = state.peers.length > 0;
  element("peers").replaceChildren(...state.peers.map((peer) => {
    const row = document.createElement("tr");
    const facts = [peer.name, peer.device, peer.state, count(peer.speed), bytes(peer.bytes_up),
      bytes(peer.bytes_down)];
    row.append(...facts.map((fact) => cell("td", fact)));
    return row;
  }));
}

async function refresh() {
  try {
    const reply = await fetch("api/state", { cache: "no-store" });
    const state = await reply.json();
    showRun(state);
    showPeers(state);
    element("connection").textContent = state.finished
      ? `The run is over: ${state.finished}.`
      : `${state.size}, ${state.sync}`;
  } catch {
    element("connection").textContent = "The coordinator does not answer; trying again.";
  }
  setTimeout(refresh, EVERY);
}

refresh();
