// The run in numbers.

import { make, setText } from "./dom.js";
import { bits, bytes, count, duration, metric, nats } from "./format.js";

const PHASES = {
  waiting: "waiting for peers", training: "training", committing: "combining the updates",
  finished: "finished",
};

export class Figures {
  constructor(list, bar) {
    Object.assign(this, { list, bar, shown: new Map() });
  }

  update(state) {
    const part = state.total ? Math.min(1, state.step / state.total) : null;
    this.bar.hidden = part === null;
    this.bar.setAttribute("aria-valuenow", Math.round(100 * (part ?? 0)));
    this.bar.firstElementChild.style.width = `${100 * (part ?? 0)}%`;
    for (const [name, value, note] of this.facts(state)) this.show(name, value, note);
  }

  /** [name, value, note] of each figure. */
  *facts(state) {
    const single = state.mode === "single";
    const inBits = (loss) => (loss == null ? "not yet" : `${bits(loss)} bits per character`);
    const measuredAt = state.val_loss == null ? ""
      : `, after ${state.unit} ${count(state.evaluated)}`;
    yield ["Training loss", `${nats(state.loss)} nats`, inBits(state.loss)];
    yield ["Validation loss", `${nats(state.val_loss)} nats`, inBits(state.val_loss) + measuredAt];
    if (!single) {
      const now = state.phase === "training" ? `, ${duration(state.left)} left` : "";
      yield ["Round", count(state.version + (state.finished ? 0 : 1)), PHASES[state.phase] + now];
    }
    yield ["Step", count(state.step), state.total ? `of ${count(state.total)}` : "no end set"];
    yield ["Speed", metric(state.speed), "characters/s"];
    yield ["Arithmetic", metric(state.flops, "FLOP/s"), "achieved"];
    if (!single) {
      const { fastest } = state;
      yield ["Speed-up", state.speedup == null ? "–" : `${state.speedup.toFixed(2)}×`,
        fastest ? `the fastest peer's, ${fastest.name}: ${metric(fastest.speed)}/s`
          : "nobody measured yet"];
    }
    yield ["Trained on", metric(state.tokens), "characters"];
    yield ["Training time", duration(state.seconds),
      state.remaining == null || state.finished ? "" : `about ${duration(state.remaining)} to go`];
    if (!single) {
      yield ["Received", bytes(state.bytes_up), "from peers, since the last start"];
      yield ["Sent", bytes(state.bytes_down), "to peers, since the last start"];
    }
  }

  show(name, value, note) {
    if (!this.shown.has(name)) {
      const [fact, about] = ["value", "note"].map((className) => make("span", { className }));
      this.list.append(make("div", {}, make("dt", {}, name), make("dd", {}, fact, about)));
      this.shown.set(name, [fact, about]);
    }
    const [fact, about] = this.shown.get(name);
    setText(fact, value);
    setText(about, note);
  }
}
