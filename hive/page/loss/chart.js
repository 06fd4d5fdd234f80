// The loss of the run: curves to zoom into, a legend, and a read-out for pointer and keyboard.

import { make, setText } from "../dom.js";
import { bits, count, duration, nats } from "../format.js";
import { nearest, within } from "./curve.js";
import { History } from "./history.js";
import { Plot } from "./plot.js";

/** @import { HiveEvent, Maybe } from "../facts.d.ts" */
/** @import { State } from "../state.js" */
/** @import { Axis, Point } from "./curve.js" */
/** @import { Look } from "./plot.js" */

/** @typedef {"train" | "validation"} Series */

const PIXELS = 1.5; // per point
const ZOOM = 1.5; // of one press or one notch of the wheel
const NOTCH = 100; // the wheel's units
const CLICK = 6; // pixels that are not meant as a range

/** @param {(event: Event) => void} act
 * @param {Partial<HTMLButtonElement>} properties
 * @param {(Node | string)[]} children */
function button(act, properties, ...children) {
  return make("button", { type: "button", onclick: act, ...properties }, ...children);
}

/** A button that is on or off; `act` hears which.
 * @param {(on: boolean) => void} act
 * @param {boolean} on
 * @param {(Node | string)[]} children */
function toggle(act, on, ...children) {
  const pressed = button(() => {
    on = !on;
    pressed.ariaPressed = String(on);
    act(on);
  }, { ariaPressed: String(on) }, ...children);
  return pressed;
}

/** @param {Maybe} loss */
function inWords(loss) {
  return Number.isFinite(loss) ? `${nats(loss)} nats, ${bits(loss)} bits` : "not known";
}

export class LossChart {
  /** @type {"round" | "step"} */
  unit = "round"; // what a version counts
  /** @type {Look} */
  look = { axis: "round", form: "linear", smoothing: 0, train: true, validation: true };
  /** @type {Record<Series, Maybe>} */
  latest = { train: null, validation: null };
  /** @type {number | null} */
  cursor = null; // the round that is read out
  /** @type {{ from: number, to: number } | null} */
  drag = null; // the pixels of the range that is being drawn
  frame = 0;
  history = new History(() => this.changed());

  /** @param {HTMLElement} section in which everything is built */
  constructor(section) {
    this.values = { train: make("b"), validation: make("b") }; // the latest, in the legend
    this.axes = make("select", { onchange: () => this.chooseAxis() });
    this.all = button(() => this.lookAtAll(), {}, "Whole run");
    this.canvas = make("canvas", { role: "img", tabIndex: 0 });
    this.box = make("div", { className: "chart-box", ariaHidden: "true", hidden: true });
    this.notice = make("p", { className: "chart-notice", role: "status" });
    this.aloud = make("p", { className: "hidden-visually", ariaLive: "polite" });
    section.append(this.controls(), make("div", { className: "chart-plot" },
      this.canvas, this.box, this.notice, this.aloud), make("p", { className: "chart-hint quiet" },
      "Drag over a part to look at it closely; a double click shows the whole run."));
    this.offerAxes();
    this.plot = new Plot(this.canvas, this.history, this.look); // once the canvas is on the page
    this.listen();
  }

  /** How many points of the training loss are held. */
  get points() {
    return this.history.whole.points.length + (this.history.detail?.points.length ?? 0);
  }

  /** /api/state, after loading and when a new session has begun.
   * @param {State} state */
  update(state) {
    this.unit = state.unit;
    this.latest = { train: state.loss, validation: state.val_loss };
    this.plot.undone = [...state.undone];
    this.offerAxes();
    this.history.update(state);
  }

  /** @param {HiveEvent} event */
  event(event) {
    if (event.type === "committed") {
      this.latest.train = event.loss;
      if (event.undone !== null) this.plot.undone.push({ round: event.version, to: event.undone });
    } else if (event.type === "evaluated") this.latest.validation = event.val_loss;
    else return;
    this.history.event(event);
  }

  // ---- What is on the page

  controls() {
    const smoothing = make("input", { type: "range", max: "0.99", step: "0.01", value: "0" });
    smoothing.oninput = () => this.set({ smoothing: smoothing.valueAsNumber });
    const log = toggle((on) => this.set({ form: on ? "logarithmic" : "linear" }), false, "Log");
    const named = (/** @type {string} */ name) => ({ title: name, ariaLabel: name });
    return make("div", { className: "line chart-controls" },
      this.legendEntry("train", "Train"), this.legendEntry("validation", "Validation"),
      make("label", {}, "Over ", this.axes), log, make("label", {}, "Smoothing ", smoothing),
      make("span", { className: "chart-zoom" },
        button(() => this.zoom(ZOOM), named("Zoom out"), "−"),
        button(() => this.zoom(1 / ZOOM), named("Zoom in"), "+"), this.all));
  }

  /** @param {Series} series
   * @param {string} name */
  legendEntry(series, name) {
    const swatch = make("span", { className: `chart-swatch chart-${series}` });
    const entry = toggle((on) => this.set({ [series]: on }), true, swatch, `${name} `,
      this.values[series]);
    entry.className = "chart-entry";
    return entry;
  }

  /** On a single machine a round is a step. */
  offerAxes() {
    /** @type {[Axis, string][]} */
    const offered = this.unit === "step" ? [["round", "steps"], ["time", "time"]]
      : [["round", "rounds"], ["step", "steps"], ["time", "time"]];
    if (!offered.some(([axis]) => axis === this.look.axis)) this.look.axis = "round";
    this.axes.replaceChildren(...offered.map(([axis, name]) =>
      make("option", { value: axis, selected: axis === this.look.axis }, name)));
  }

  chooseAxis() {
    this.set({ axis: /** @type {Axis} */ (this.axes.value) }); // nothing else is offered
  }

  /** @param {Partial<Look>} look */
  set(look) {
    Object.assign(this.look, look);
    this.changed();
  }

  changed() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.describe();
      this.draw();
    });
  }

  describe() {
    const { run, failed, outdated, whole, range, view } = this.history;
    setText(this.values.train, nats(this.latest.train));
    setText(this.values.validation, nats(this.latest.validation));
    this.all.disabled = !view;
    const waiting = run && !outdated && !whole.points.length;
    setText(this.notice, failed ? "The losses could not be loaded; trying again."
      : !this.look.train && !this.look.validation ? "Both curves are switched off."
      : waiting ? `The first ${this.unit} has not been committed yet.` : "");
    this.canvas.ariaLabel = "Loss curves, "
      + `${this.unit}s ${count(range.from)} to ${count(range.to)}. `
      + `Training loss: ${inWords(this.latest.train)}. `
      + `Validation loss: ${inWords(this.latest.validation)}. `
      + "Arrow keys read the points, plus and minus zoom, 0 shows the whole run.";
  }

  draw() {
    if (!this.canvas.clientWidth) return; // not on screen
    this.plot.draw();
    this.box.hidden = true;
    if (this.plot.empty) return;
    if (this.drag) this.plot.drawRange(this.drag.from, this.drag.to);
    const point = this.reading();
    if (point) this.placeBox(point, this.plot.drawCursor(point));
  }

  // ---- Zoom

  lookAtAll() {
    this.history.look(this.history.entire);
  }

  /** Around a pixel, or else the cursor, or else the middle.
   * @param {number} factor
   * @param {number} [pixel] */
  zoom(factor, pixel) {
    const { x } = this.plot;
    const point = this.reading();
    const centre = pixel !== undefined ? x.value(pixel)
      : point ? point[this.look.axis] : (x.low + x.high) / 2;
    this.lookBetween(centre + (x.low - centre) * factor, centre + (x.high - centre) * factor);
  }

  /** @param {number} low
   * @param {number} high on the axis */
  lookBetween(low, high) {
    const [from, to] = [low, high].map((value) => this.history.roundAt(value, this.look.axis));
    this.history.look({ from, to });
  }

  // ---- Read-out

  get visible() {
    return within(this.history.shown.points, this.history.range);
  }

  reading() {
    return this.cursor === null ? undefined : nearest(this.visible, "round", this.cursor);
  }

  /** @param {Point} [point] */
  read(point) {
    this.cursor = point ? point.round : null;
    this.changed();
  }

  /** Moves the cursor by a number of points, beginning with the newest.
   * @param {number} by */
  step(by) {
    const points = this.visible;
    if (!points.length) return;
    const read = this.reading();
    const here = read ? points.indexOf(read) : points.length;
    const point = points[Math.min(points.length - 1, Math.max(0, here + by))];
    this.read(point);
    setText(this.aloud, this.lines(point).map(([, text]) => text).join(", "));
  }

  /** What is said of a point: class and text of each line.
   * @param {Point} point */
  lines({ first, round, step, time, loss, low, high }) {
    const name = this.unit === "step" ? "Step" : "Round";
    const lines = [
      ["chart-head", first === round ? `${name} ${count(round)}`
        : `${name}s ${count(first)} to ${count(round)}`],
      ["quiet", (this.unit === "step" ? "" : `step ${count(step)}, `) + duration(time)],
      ["chart-train", `Train ${inWords(loss)}`],
    ];
    if (low < high) lines.push(["quiet", `between ${nats(low)} and ${nats(high)} nats`]);
    const evaluation = nearest(this.history.shown.evaluations, "round", round);
    if (evaluation) {
      lines.push(["chart-validation", `Validation ${inWords(evaluation.loss)}`]);
      if (evaluation.round !== round) {
        lines.push(["quiet", `of ${this.unit} ${count(evaluation.round)}`]);
      }
    }
    return lines;
  }

  /** Beside the cursor, where there is room.
   * @param {Point} point
   * @param {number} pixel */
  placeBox(point, pixel) {
    this.box.replaceChildren(...this.lines(point).map(([className, text]) =>
      make("p", { className }, text)));
    this.box.hidden = false;
    const room = this.plot.width - this.box.offsetWidth;
    const left = pixel < this.plot.width / 2 ? Math.min(room, pixel + 12)
      : Math.max(0, pixel - 12 - this.box.offsetWidth);
    this.box.style.transform = `translate(${Math.round(left)}px, ${this.plot.y.end + 4}px)`;
  }

  // ---- Pointer and keyboard

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", () => this.release());
    canvas.addEventListener("pointercancel", () => this.leave()); // the finger scrolls the page
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.leave();
    });
    canvas.addEventListener("blur", () => this.leave());
    canvas.addEventListener("dblclick", () => this.lookAtAll());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    new ResizeObserver(() => {
      this.history.resize(Math.round(this.canvas.clientWidth / PIXELS));
      this.changed();
    }).observe(this.canvas);
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => this.changed());
  }

  /** @param {PointerEvent} event */
  press(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    this.canvas.setPointerCapture(event.pointerId);
    const pixel = this.pixelOf(event);
    this.drag = { from: pixel, to: pixel };
    this.move(event);
  }

  /** Where the pointer is, or else the end of the axis that is nearest to it.
   * @param {MouseEvent} event */
  pixelOf(event) {
    const { start, end } = this.plot.x;
    return Math.min(end, Math.max(start, event.offsetX));
  }

  /** @param {PointerEvent} event */
  move(event) {
    const pixel = this.pixelOf(event);
    if (this.drag) this.drag.to = pixel;
    this.read(nearest(this.visible, this.look.axis, this.plot.x.value(pixel)));
  }

  release() {
    const { drag, plot } = this;
    this.drag = null;
    if (drag && Math.abs(drag.to - drag.from) > CLICK) {
      const [left, right] = [drag.from, drag.to].sort((a, b) => a - b);
      this.lookBetween(plot.x.value(left), plot.x.value(right));
    }
    this.changed();
  }

  leave() {
    this.drag = null;
    this.read();
  }

  /** @param {WheelEvent} event */
  wheel(event) {
    if (!event.ctrlKey) return; // the page scrolls
    event.preventDefault();
    this.zoom(ZOOM ** (event.deltaY / NOTCH), this.pixelOf(event));
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    /** @type {Record<string, () => void>} */
    const actions = {
      ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1),
      Home: () => this.step(-Infinity), End: () => this.step(Infinity),
      "+": () => this.zoom(1 / ZOOM), "=": () => this.zoom(1 / ZOOM), "-": () => this.zoom(ZOOM),
      0: () => this.lookAtAll(), Escape: () => this.lookAtAll(),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }
}
