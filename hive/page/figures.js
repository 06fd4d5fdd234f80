// The run in numbers.

import { make, setText } from "./dom.js";
import { bits, bytes, count, duration, metric, nats } from "./format.js";

/** @import { Maybe } from "./facts.d.ts" */
/** @import { State } from "./state.js" */

const PHASES = {
  waiting: "waiting for peers", training: "training", committing: "combining the updates",
  paused: "paused", finished: "finished",
};

/** @param {Maybe} loss */
const inBits = (loss) => (loss === null ? "not yet" : `${bits(loss)} bits per character`);

export class Figures {
  /** @type {Map<string, HTMLElement[]>} */
  shown = new Map(); // the elements with value and note of each figure

  /** @param {HTMLElement} list
   * @param {HTMLElement} bar
   * @param {HTMLElement} filled the part of the bar that is behind us */
  constructor(list, bar, filled) {
    this.list = list;
    this.bar = bar;
    this.filled = filled;
  }

  /** @param {State} state */
  update(state) {
    const part = state.total ? Math.min(1, state.step / state.total) : null;
    this.bar.hidden = part === null;
    this.bar.setAttribute("aria-valuenow", String(Math.round(100 * (part ?? 0))));
    this.filled.style.width = `${100 * (part ?? 0)}%`;
    for (const [name, value, note] of this.facts(state)) this.show(name, value, note);
  }

  /** Name, value and note of each figure.
   * @param {State} state
   * @returns {Generator<[string, string, string]>} */
  *facts(state) {
    const single = state.mode === "single";
    const measuredAt = state.val_loss === null ? ""
      : `, after ${state.unit} ${count(state.evaluated)}`;
    yield ["Training loss", `${nats(state.loss)} nats`, inBits(state.loss)];
    yield ["Validation loss", `${nats(state.val_loss)} nats`, inBits(state.val_loss) + measuredAt];
    if (!single) {
      const now = state.phase === "training" ? `, ${duration(state.left)} left` : "";
      yield ["Round", count(state.version + (state.finished ? 0 : 1)),
        PHASES[state.phase] + now];
    }
    yield ["Step", count(state.step), state.total ? `of ${count(state.total)}` : "no end set"];
    yield ["Speed", metric(state.speed), "characters/s"];
    yield ["Arithmetic", metric(state.flops, "FLOP/s"), "achieved"];
    if (!single) {
      const { fastest, speedup } = state;
      const alone = speedup !== null && speedup < 1 ? "less than the fastest peer makes alone"
        : "the fastest peer's";
      yield ["Speed-up", speedup === null ? "–" : `${speedup.toFixed(2)}×`,
        fastest ? `${alone}, ${fastest.name}: ${metric(fastest.speed)}/s` : "nobody measured yet"];
    }
    yield ["Trained on", metric(state.tokens), "characters"];
    yield ["Training time", duration(state.seconds),
      state.remaining === null || state.finished ? ""
        : `about ${duration(state.remaining)} to go`];
    if (!single) {
      yield ["Received", bytes(state.bytes_up), "from peers, since the last start"];
      yield ["Sent", bytes(state.bytes_down), "to peers, since the last start"];
    }
  }

  /** @param {string} name
   * @param {string} value
   * @param {string} note */
  show(name, value, note) {
    const [fact, about] = this.shown.get(name) ?? this.add(name);
    setText(fact, value);
    setText(about, note);
  }

  /** @param {string} name */
  add(name) {
    const cells = ["value", "note"].map((className) => make("span", { className }));
    this.list.append(make("div", {}, make("dt", {}, name), make("dd", {}, ...cells)));
    this.shown.set(name, cells);
    return cells;
  }
}
