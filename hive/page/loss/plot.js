// The loss curves on a canvas: axes, lines, the cursor and the range that is being drawn.

import { contextOf } from "../dom.js";
import { count } from "../format.js";
import { within } from "./curve.js";
import {
  Scale, decimals, durationTicks, shortDuration, ticks, wholeTicks,
} from "./scale.js";

/** @import { Axis, Evaluation, Point } from "./curve.js" */
/** @import { History } from "./history.js" */
/** @import { Form } from "./scale.js" */
/** @import { Undone } from "../facts.d.ts" */

/** What is to be seen: over what, how, and which curves are on.
 * @typedef {object} Look
 * @property {Axis} axis
 * @property {Form} form of the loss scale
 * @property {number} smoothing
 * @property {boolean} train
 * @property {boolean} validation */

/** Pixels from the left and from the top.
 * @typedef {[number, number]} Place */

export const BITS = 1 / Math.LN2; // in a nat

const FRAME = { left: 46, right: 46, top: 24, bottom: 26 }; // pixels for text
const ROOM = { top: 8, bottom: 6 }; // between the curves and the frame
// Pixels at least between two of them.
const GAP = { dots: 9, losses: 28, lines: 16, round: 100, step: 100, time: 140 };
const COLOURS = /** @type {const} */ (
  ["line", "text", "quiet", "accent", "train", "validation"]);

/** A weight of 0 changes nothing. Dividing by the weights so far makes up for the beginning, when
 *  there is little to average.
 * @param {number[]} values
 * @param {number} weight */
function movingAverage(values, weight) {
  let sum = 0, weights = 0;
  return values.map((value) => {
    if (Number.isNaN(value)) return NaN;
    sum = weight * sum + (1 - weight) * value;
    weights = weight * weights + (1 - weight);
    return sum / weights;
  });
}

export class Plot {
  x = new Scale(0, 1, 0, 1);
  y = new Scale(0, 1, 0, 1);
  empty = true; // nothing is known of what is looked at: there are no axes either
  width = 0;
  height = 0;
  /** @type {Undone[]} */
  undone = []; // rounds that went back to an earlier one

  /** @param {HTMLCanvasElement} canvas
   * @param {History} history
   * @param {Look} look */
  constructor(canvas, history, look) {
    this.canvas = canvas;
    this.context = contextOf(canvas);
    this.history = history;
    this.look = look;
    this.colours = this.readColours();
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => {
      this.colours = this.readColours();
    });
  }

  get range() {
    return this.history.range;
  }

  get curve() {
    return this.history.shown;
  }

  draw() {
    const { look } = this;
    this.fit();
    this.x = this.roundScale();
    const y = this.lossScale();
    this.empty = !y;
    if (!y) return;
    this.y = y;
    this.drawLosses();
    this.drawRounds();
    this.context.save();
    this.clip();
    this.drawUndone();
    if (look.train) this.drawTrain();
    if (look.validation) this.drawValidation();
    this.context.restore();
  }

  /** As many pixels as the screen has, and empty. */
  fit() {
    const { canvas, context } = this;
    this.width = canvas.clientWidth;
    this.height = canvas.clientHeight;
    canvas.width = Math.round(this.width * devicePixelRatio);
    canvas.height = Math.round(this.height * devicePixelRatio);
    context.scale(devicePixelRatio, devicePixelRatio);
    context.font = `12px ${getComputedStyle(canvas).fontFamily}`;
    context.textBaseline = "middle";
    context.lineJoin = "round";
  }

  readColours() {
    const style = getComputedStyle(this.canvas);
    return /** @type {Record<typeof COLOURS[number], string>} */ (Object.fromEntries(
      COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`)])));
  }

  roundScale() {
    const { from, to } = this.range;
    const [low, high] = [from, to].map((round) => this.acrossRound(round));
    return new Scale(low, high > low ? high : low + 1, FRAME.left, this.width - FRAME.right);
  }

  /** The losses to show, and those of some neighbours.
   * @param {number} more */
  losses(more) {
    const { curve, range, look } = this;
    const train = look.train ? within(curve.points, range, more) : [];
    const validation = look.validation ? within(curve.evaluations, range, more) : [];
    return [...train.flatMap(({ low, high }) => [low, high]), ...validation.map(({ loss }) => loss)]
      .filter((loss) => Number.isFinite(loss) && (look.form === "linear" || loss > 0));
  }

  /** Holds everything that is visible, else the ends of the lines across; null without any. */
  lossScale() {
    const { look, height } = this;
    const losses = [this.losses(0), this.losses(1)].find(({ length }) => length);
    if (!losses) return null;
    let [low, high] = [Math.min(...losses), Math.max(...losses)];
    if (low === high) [low, high] = [0.8 * low, 1.25 * (high || 1)];
    const [bottom, top] = [height - FRAME.bottom, FRAME.top];
    const inner = new Scale(low, high, bottom - ROOM.bottom, top + ROOM.top, look.form);
    return new Scale(inner.value(bottom), inner.value(top), bottom, top, look.form);
  }

  /** Where a point or an evaluation, which has no time, lies on the horizontal axis.
   * @param {Point | Evaluation} point */
  across(point) {
    const { axis } = this.look;
    return axis === "step" ? point.step : axis === "time" && "time" in point ? point.time
      : this.acrossRound(point.round);
  }

  /** @param {number} round maybe in between */
  acrossRound(round) {
    const { axis } = this.look;
    return axis === "round" ? round : this.curve.translate(round, "round", axis);
  }

  /** @param {Point | Evaluation} point
   * @returns {Place} */
  place(point, loss = point.loss) {
    return [this.x.pixel(this.across(point)), this.y.pixel(loss)];
  }

  // ---- Axes

  drawLosses() {
    const { x, y } = this;
    this.labelLosses(y, (label, height) => {
      this.line([[x.start, height], [x.end, height]], this.colours.line);
      this.text(label, x.start - 8, height, "right");
    });
    this.labelLosses(y.times(BITS), (label, height) => this.text(label, x.end + 8, height, "left"));
    this.text("nats per character", 0, 8, "left");
    this.text("bits per character", this.width, 8, "right");
  }

  /** @param {Scale} scale
   * @param {(label: string, height: number) => void} write */
  labelLosses(scale, write) {
    const values = ticks(scale, Math.max(2, (scale.start - scale.end) / GAP.losses));
    const labels = decimals(values);
    let free = Infinity; // above the label before: logarithms crowd together
    for (const [index, value] of values.entries()) {
      const height = scale.pixel(value);
      if (height > free) continue;
      free = height - GAP.lines;
      write(labels[index], height);
    }
  }

  drawRounds() {
    const { x, y, colours, width } = this;
    const { axis } = this.look;
    const most = Math.max(2, (x.end - x.start) / GAP[axis]);
    const values = axis === "time" ? durationTicks(x, most) : wholeTicks(x, most);
    const label = axis === "time" ? shortDuration : count;
    this.line([[x.start, y.start], [x.end, y.start]], colours.quiet);
    for (const value of values) {
      const left = x.pixel(value), text = label(value);
      const half = this.context.measureText(text).width / 2;
      this.line([[left, y.start], [left, y.start + 4]], colours.quiet);
      this.text(text, Math.min(left, width - half), y.start + 15, "center");
    }
  }

  // ---- Curves

  /** Nothing beside the frame, but dots on it stay whole. */
  clip() {
    const { context, x, y } = this;
    context.beginPath();
    context.rect(x.start - 4, y.end - 4, x.end - x.start + 8, y.start - y.end + 8);
    context.clip();
  }

  drawTrain() {
    const { curve, colours, look } = this;
    const points = within(curve.points, this.range, 1);
    if (!points.length) return;
    const line = points.map((point) => this.place(point));
    this.band([...points.map((point) => this.place(point, point.high)),
      ...points.map((point) => this.place(point, point.low)).reverse()], colours.train);
    this.line(line, colours.train, look.smoothing ? { alpha: 0.35 } : { width: 1.5 });
    if (look.smoothing) {
      const smooth = movingAverage(curve.points.map(({ loss }) => loss), look.smoothing);
      const first = curve.points.indexOf(points[0]);
      this.line(points.map((point, index) => this.place(point, smooth[first + index])),
        colours.train, { width: 2 });
    }
    const last = points.length - 1;
    if (points[last] === curve.points.at(-1)) this.dot(line[last], 3, colours.train);
  }

  /** A line where a round went back to an earlier one. */
  drawUndone() {
    const { x, y, colours, range } = this;
    for (const { round, to } of this.undone) {
      if (round < range.from || round > range.to) continue;
      const left = x.pixel(this.acrossRound(round));
      this.line([[left, y.start], [left, y.end]], colours.accent, { dash: [1, 3] });
      this.text(`↩ ${count(to)}`, left + 4, y.end + 8, "left");
    }
  }

  drawValidation() {
    const { validation } = this.colours;
    const line = within(this.curve.evaluations, this.range, 1).map((point) => this.place(point));
    this.line(line, validation, { width: 1.5, dash: [5, 3] });
    let free = -Infinity; // right of the dot before
    for (const place of line) {
      if (place[0] < free) continue;
      free = place[0] + GAP.dots;
      this.dot(place, 2.5, validation);
    }
  }

  /** Through a point, and the pixels where it is.
   * @param {Point} point */
  drawCursor(point) {
    const { y, colours } = this;
    const [left, height] = this.place(point);
    this.line([[left, y.start], [left, y.end]], colours.quiet, { dash: [2, 3] });
    if (this.look.train) this.dot([left, height], 4, colours.text);
    return left;
  }

  /** The range that is being drawn, in pixels.
   * @param {number} from
   * @param {number} to */
  drawRange(from, to) {
    const { y } = this;
    this.band([[from, y.start], [from, y.end], [to, y.end], [to, y.start]], this.colours.accent);
  }

  // ---- Strokes

  /** A loss that is not a number leaves a gap.
   * @param {Place[]} places */
  trace(places) {
    const { context } = this;
    let down = false;
    context.beginPath();
    for (const [left, height] of places) {
      const known = Number.isFinite(height);
      if (known && down) context.lineTo(left, height);
      else if (known) context.moveTo(left, height);
      down = known;
    }
  }

  /** @param {Place[]} places
   * @param {string} colour
   * @param {{ width?: number, alpha?: number, dash?: number[] }} style */
  line(places, colour, { width = 1, alpha = 1, dash = [] } = {}) {
    const { context } = this;
    this.trace(places);
    context.setLineDash(dash);
    Object.assign(context, { lineWidth: width, strokeStyle: colour, globalAlpha: alpha });
    context.stroke();
    context.globalAlpha = 1;
  }

  /** @param {Place[]} places
   * @param {string} colour */
  band(places, colour) {
    const { context } = this;
    this.trace(places.filter(([, height]) => Number.isFinite(height)));
    Object.assign(context, { fillStyle: colour, globalAlpha: 0.22 });
    context.fill();
    context.globalAlpha = 1;
  }

  /** @param {Place} place
   * @param {number} radius
   * @param {string} colour */
  dot([left, height], radius, colour) {
    if (!Number.isFinite(height)) return;
    const { context } = this;
    context.beginPath();
    context.arc(left, height, radius, 0, 2 * Math.PI);
    context.fillStyle = colour;
    context.fill();
  }

  /** @param {string} text
   * @param {number} left
   * @param {number} height
   * @param {CanvasTextAlign} align */
  text(text, left, height, align) {
    const { context } = this;
    Object.assign(context, { fillStyle: this.colours.quiet, textAlign: align });
    context.fillText(text, left, height);
  }
}
