// The loss curves of the run, drawn from what the coordinator recorded.
//
// The server sums up: however long the run is, a curve holds about as many points as the screen
// can show. Zooming in asks for the part again, finer; new rounds are appended as they come.

import { Scale, count, decimals, duration, durationTicks, ticks, wholeTicks } from "./scale.js";

const BITS = 1 / Math.LN2; // in a nat
const PIXELS = 1.5; // per point
const FEWEST = 200, MOST = 1800; // points to ask for
const PAUSE = 4000, HURRY = 150; // milliseconds before asking by itself, and when somebody waits
const MARGIN = 0.1; // of the visible part, asked for on either side as well
const CLOSEST = 4; // rounds to zoom into
const STEP = 1.5; // of the zoom
const CLICK = 6; // pixels that do not count as dragging
const FRAME = { left: 46, right: 46, top: 24, bottom: 26 };
const COLOURS = ["line", "text", "quiet", "panel", "accent", "train", "validation"];
const NOTHING = {
  first: 0, last: 0, every: Infinity, rounds: [], steps: [], loss: [], low: [], high: [],
  committed: [], evaluations: { rounds: [], steps: [], val_loss: [] },
};

// One answer of the server, and the events since, if it is `live`: if it reached to the end.
class Curve {
  constructor(answer, asked, live, started) {
    this.from = answer.first > 1 ? answer.first : 0;
    this.to = answer.last;
    this.every = answer.every;
    this.asked = asked; // points
    this.live = live;
    const { rounds, steps, loss, low, high, committed, evaluations } = answer;
    this.points = rounds.map((round, index) => ({
      first: (rounds[index - 1] ?? Math.max(0, round - this.every)) + 1, // of its rounds
      round, step: steps[index], time: committed[index] - started,
      loss: loss[index] ?? NaN, low: low[index] ?? NaN, high: high[index] ?? NaN,
    }));
    this.evaluations = evaluations.rounds.map((round, index) => (
      { round, step: evaluations.steps[index], loss: evaluations.val_loss[index] ?? NaN }));
  }

  addRound({ version: round, step, loss, committed }, started) {
    if (!this.live || round <= this.last) return;
    loss ??= NaN;
    const time = committed - started;
    this.points.push({ first: round, round, step, time, loss, low: loss, high: loss });
  }

  addEvaluation({ version: round, step, val_loss }) {
    this.evaluations = this.evaluations.filter((other) => other.round !== round);
    this.evaluations.push({ round, step, loss: val_loss ?? NaN });
  }

  get last() {
    return this.points.at(-1)?.round ?? this.from;
  }

  get full() {
    return this.points.length > 2 * this.asked;
  }

  covers({ from, to }) {
    return this.from <= from && (this.live || to <= this.to);
  }

  // Would asking for just this range, in so many points, show hardly more?
  fine({ from, to }, points) {
    return this.every === 1 || this.asked * (to - from) > 0.8 * points * (this.to - this.from);
  }

  // What is known of a round, step or time, in another of these units.
  translate(value, unit, other) {
    const index = firstNotBelow(this.points, unit, value);
    const after = this.points[index] ?? this.points.at(-1);
    if (!after || value >= after[unit]) return after?.[other] ?? 0;
    const before = this.points[index - 1] ?? { round: 0, step: 0, time: 0 };
    const part = (value - before[unit]) / (after[unit] - before[unit]);
    return before[other] + part * (after[other] - before[other]);
  }
}

export class LossChart {
  constructor(section) {
    this.axis = "round"; // or step, or time
    this.unit = "round";
    this.form = "linear";
    this.smoothing = 0;
    this.shows = { train: true, validation: true };
    this.view = null; // rounds from, to; null: the whole run
    this.detail = null; // the curve of the view, where the whole run's is too coarse
    this.cursor = null; // the round that is read out
    this.drag = null; // pixels from, to, while a range is being drawn
    this.timer = this.frame = this.askedAt = 0;
    this.begin(null);
    this.build(section);
    this.listen();
  }

  // How many points of the training loss are held.
  get points() {
    return this.whole.points.length + (this.detail?.points.length ?? 0);
  }

  // ---- What the page tells

  update(state) {
    if (state.hive !== this.hive) this.begin(state.hive);
    this.latest = { train: state.loss, validation: state.val_loss };
    this.started = state.started;
    this.outdated = true;
    this.unit = state.unit;
    this.offerAxes();
    this.refine(0);
    this.changed();
  }

  event(event) {
    if (event.type !== "committed" && event.type !== "evaluated") return;
    if (this.asking) this.arrived.push(event); // the answer may not know it yet
    if (event.type === "committed") {
      this.started ??= event.opened;
      this.latest.train = event.loss;
    } else {
      this.latest.validation = event.val_loss;
    }
    const before = this.whole.last;
    for (const curve of [this.whole, this.detail]) this.add(event, curve);
    if (this.view?.to >= before) this.shift(this.whole.last - before);
    this.refine();
    this.changed();
  }

  begin(hive) {
    this.hive = hive;
    this.whole = new Curve(NOTHING, 0, true, null);
    this.view = this.detail = this.cursor = null;
    this.latest = { train: null, validation: null };
    this.arrived = [];
    this.outdated = true;
    this.failed = false;
  }

  add(event, curve) {
    if (event.type === "committed") curve?.addRound(event, this.started);
    else curve?.addEvaluation(event);
  }

  shift(rounds) {
    this.view = { from: this.view.from + rounds, to: this.view.to + rounds };
  }

  // ---- Asking the coordinator

  get range() {
    return this.view ?? { from: this.whole.from, to: this.whole.last };
  }

  get shown() {
    return this.view && this.detail?.covers(this.view) ? this.detail : this.whole;
  }

  // The next question, null while the curves are as fine as the screen and hold no more.
  question() {
    const { whole, detail, view } = this;
    const points = Math.min(MOST, Math.max(FEWEST, Math.round(this.plot.clientWidth / PIXELS)));
    if (this.outdated || whole.full || !whole.fine({ from: whole.from, to: whole.last }, points)) {
      return { search: { points }, part: "whole", live: true };
    }
    if (!view || whole.fine(view, points)) return null;
    if (detail?.covers(view) && detail.fine(view, points) && !detail.full) return null;
    const margin = Math.ceil(MARGIN * (view.to - view.from));
    const from = Math.max(whole.from, view.from - margin);
    const to = Math.min(whole.last, view.to + margin);
    const search = { from, to, points: Math.ceil((1 + 2 * MARGIN) * points) };
    return { search, part: "detail", live: to === whole.last };
  }

  // By itself the chart asks only now and then; somebody who zooms need not wait.
  refine(wait) {
    if (wait === undefined && (this.timer || this.asking)) return;
    if (!this.question()) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.timer = 0;
      const question = this.question();
      if (question) this.ask(question);
    }, wait ?? Math.max(0, this.askedAt + PAUSE - Date.now()));
  }

  async ask(question) {
    this.asking?.abort();
    const asking = this.asking = new AbortController();
    this.arrived = [];
    this.askedAt = Date.now();
    const address = `api/history?${new URLSearchParams(question.search)}`;
    let answer = null;
    try {
      const reply = await fetch(address, { cache: "no-store", signal: asking.signal });
      if (reply.ok) answer = await reply.json();
    } catch {
      if (asking.signal.aborted) return; // there is a newer question
    }
    this.asking = null;
    this.failed = answer === null;
    if (answer) this.receive(question, answer);
    this.refine();
    this.changed();
  }

  receive({ part, search, live }, answer) {
    this.started ??= answer.committed[0] ?? null;
    const curve = new Curve(answer, search.points, live, this.started);
    for (const event of this.arrived) this.add(event, curve);
    this[part] = curve;
    if (part === "whole") this.outdated = false;
  }

  // ---- Looking at a part

  look(from, to) {
    const { from: first, to: last } = { from: this.whole.from, to: this.whole.last };
    const spare = Math.max(0, CLOSEST - (to - from)) / 2;
    from = Math.max(first, Math.floor(from - spare));
    to = Math.min(last, Math.ceil(to + spare));
    this.view = from === first && to === last ? null : { from, to };
    this.refine(HURRY);
    this.changed();
  }

  lookAtAll() {
    this.look(this.whole.from, this.whole.last);
  }

  zoom(factor, pixel = this.cursor === null ? null : this.x.pixel(this.reading()[this.axis])) {
    const { low, high } = this.x;
    const centre = pixel === null ? (low + high) / 2 : this.x.value(pixel);
    this.look(...[low, high].map((value) => this.roundAt(centre + (value - centre) * factor)));
  }

  roundAt(value) {
    const { points } = this.shown; // the detail knows nothing of what lies beside it
    const inside = points.length && points[0][this.axis] <= value
      && value <= points.at(-1)[this.axis];
    return (inside ? this.shown : this.whole).translate(value, this.axis, "round");
  }

  // ---- What is on the page

  build(section) {
    this.legend = {
      train: this.legendEntry("train", "Train"),
      validation: this.legendEntry("validation", "Validation"),
    };
    this.axes = make("select", { onchange: () => this.set("axis", this.axes.value) });
    const log = toggle(["Log"], false, (on) => this.set("form", on ? "logarithmic" : "linear"));
    log.title = "Logarithmic loss axis";
    const smoothing = make("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: 0 });
    smoothing.oninput = () => this.set("smoothing", smoothing.valueAsNumber);
    this.all = make("button", { type: "button", onclick: () => this.lookAtAll() }, "Whole run");
    const closer = make("button", { type: "button", ariaLabel: "Zoom in", title: "Zoom in",
      onclick: () => this.zoom(1 / STEP) }, "+");
    const wider = make("button", { type: "button", ariaLabel: "Zoom out", title: "Zoom out",
      onclick: () => this.zoom(STEP) }, "−");
    this.canvas = make("canvas", { role: "img", tabIndex: 0 });
    this.context = this.canvas.getContext("2d");
    this.box = make("div", { className: "chart-box", ariaHidden: "true", hidden: true });
    this.notice = make("p", { className: "chart-notice", role: "status" });
    this.plot = make("div", { className: "chart-plot" }, this.canvas, this.box, this.notice);
    this.spoken = make("p", { className: "chart-spoken", ariaLive: "polite" });
    section.append(
      make("div", { className: "chart-controls" },
        make("div", { className: "chart-group" }, ...Object.values(this.legend)),
        make("div", { className: "chart-group" },
          make("label", {}, "Over ", this.axes), log,
          make("label", {}, "Smoothing ", smoothing)),
        make("div", { className: "chart-group" }, wider, closer, this.all)),
      this.plot, this.spoken);
    this.offerAxes();
  }

  legendEntry(series, name) {
    const swatch = make("span", { className: `chart-swatch chart-${series}` });
    return toggle([swatch, name, " ", make("output")], true, (on) => {
      this.shows[series] = on;
      this.changed();
    });
  }

  // On a single machine a round is a step.
  offerAxes() {
    const names = this.unit === "step" ? { round: "steps", time: "time" }
      : { round: "rounds", step: "steps", time: "time" };
    if (!(this.axis in names)) this.axis = "round";
    this.axes.replaceChildren(...Object.entries(names).map(([value, name]) =>
      make("option", { value, selected: value === this.axis }, name)));
  }

  set(name, value) {
    this[name] = value;
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
    for (const [series, entry] of Object.entries(this.legend)) {
      entry.querySelector("output").textContent = nats(this.latest[series]);
    }
    this.all.disabled = !this.view;
    const { from, to } = this.range;
    const waiting = this.outdated || this.whole.points.length ? ""
      : `The first ${this.unit} has not been committed yet.`;
    const failure = "The losses could not be loaded; trying again.";
    setText(this.notice, this.failed ? failure : waiting);
    this.canvas.ariaLabel = `Loss curves, ${this.unit}s ${count(from)} to ${count(to)}. `
      + `Training loss ${inWords(this.latest.train)}, `
      + `validation loss ${inWords(this.latest.validation)}. `
      + "Arrow keys read the points, plus and minus zoom, 0 shows the whole run.";
  }

  // ---- Pointer and keyboard

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", () => this.release());
    canvas.addEventListener("pointercancel", () => this.leave());
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.leave();
    });
    canvas.addEventListener("blur", () => this.leave());
    canvas.addEventListener("dblclick", () => this.lookAtAll());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return; // the page scrolls
      event.preventDefault();
      this.zoom(STEP ** (event.deltaY / 100), event.offsetX);
    }, { passive: false });
    new ResizeObserver(() => {
      this.refine();
      this.changed();
    }).observe(this.plot);
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => {
      this.colours = null;
      this.changed();
    });
  }

  press(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = { from: event.offsetX, to: event.offsetX };
    this.move(event);
  }

  move(event) {
    if (!this.x) return;
    if (this.drag) this.drag.to = event.offsetX;
    this.point(nearest(this.shown.points, this.axis, this.x.value(event.offsetX)));
  }

  release() {
    const { drag } = this;
    this.drag = null;
    if (drag && Math.abs(drag.to - drag.from) > CLICK) {
      const ends = [drag.from, drag.to].sort((a, b) => a - b);
      this.look(...ends.map((pixel) => this.roundAt(this.x.value(pixel))));
    }
    this.changed();
  }

  leave() {
    this.drag = null;
    this.point(undefined);
  }

  point(point) {
    this.cursor = point?.round ?? null;
    this.changed();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1),
      Home: () => this.step(-Infinity), End: () => this.step(Infinity),
      "+": () => this.zoom(1 / STEP), "=": () => this.zoom(1 / STEP), "-": () => this.zoom(STEP),
      0: () => this.lookAtAll(), Escape: () => this.lookAtAll(),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }

  // The read-out moves by so many points; it begins with the newest.
  step(by) {
    const points = within(this.shown.points, this.range);
    if (!points.length) return;
    const index = this.cursor === null ? (by > 0 ? Infinity : points.length)
      : points.indexOf(nearest(points, "round", this.cursor));
    this.point(points[Math.min(points.length - 1, Math.max(0, index + by))]);
    this.spoken.textContent = this.lines(this.reading()).map(([, text]) => text).join(". ");
  }

  reading() {
    return nearest(this.shown.points, "round", this.cursor);
  }

  // The read-out of a point: class and text of each line.
  lines({ first, round, step, time, loss, low, high }) {
    const evaluation = nearest(this.shown.evaluations, "round", round);
    const name = this.unit === "step" ? "Step" : "Round";
    const lines = [
      ["chart-head", first === round ? `${name} ${count(round)}`
        : `${name}s ${count(first)} to ${count(round)}`],
      ["chart-when", (this.unit === "step" ? "" : `step ${count(step)}, `) + duration(time)],
      ["chart-train", `Train ${inWords(loss)}`],
    ];
    if (low < high) lines.push(["chart-when", `between ${nats(low)} and ${nats(high)} nats`]);
    if (evaluation) {
      lines.push(["chart-validation", `Validation ${inWords(evaluation.loss)}`]);
      if (evaluation.round !== round) {
        lines.push(["chart-when", `of ${this.unit} ${count(evaluation.round)}`]);
      }
    }
    return lines;
  }

  // ---- Drawing

  draw() {
    const { clientWidth: width, clientHeight: height } = this.plot;
    if (!width || !height) return; // not on screen
    this.colours ??= readColours();
    this.fit(width, height);
    const [low, high] = [this.range.from, this.range.to].map((round) =>
      this.shown.translate(round, "round", this.axis));
    this.x = new Scale(low, high > low ? high : low + 1, FRAME.left, width - FRAME.right);
    this.y = this.lossScale(height);
    this.context.clearRect(0, 0, width, height);
    if (this.y) {
      this.drawAxes();
      this.drawCurves();
    }
    this.drawCursor();
    this.drawDrag();
  }

  fit(width, height) {
    const ratio = devicePixelRatio;
    const size = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== size[0] || this.canvas.height !== size[1]) {
      [this.canvas.width, this.canvas.height] = size;
    }
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.context.font = `12px ${getComputedStyle(this.canvas).fontFamily}`;
  }

  // Holds everything that is visible, null if nothing is.
  lossScale(height) {
    const { shows, shown, form } = this;
    const train = shows.train ? within(shown.points, this.range) : [];
    const validation = shows.validation ? within(shown.evaluations, this.range) : [];
    const values = [...train.flatMap(({ low, high }) => [low, high]),
      ...validation.map(({ loss }) => loss)]
      .filter((value) => Number.isFinite(value) && (form === "linear" || value > 0));
    if (!values.length) return null;
    const exact = new Scale(Math.min(...values) * 0.999, Math.max(...values) * 1.001 + 1e-3,
      height - FRAME.bottom - 6, FRAME.top + 8, form);
    const [bottom, top] = [height - FRAME.bottom, FRAME.top];
    return new Scale(exact.value(bottom), exact.value(top), bottom, top, form);
  }

  drawAxes() {
    const { context, colours, x, y } = this;
    const most = Math.max(2, (y.start - y.end) / 40);
    context.fillStyle = colours.quiet;
    context.textBaseline = "middle";
    this.lossLabels(y, most, x.start - 8, "right", true);
    this.lossLabels(y.times(BITS), most, x.end + 8, "left", false);
    context.textAlign = "left";
    context.fillText("nats per character", 0, 8);
    context.textAlign = "right";
    context.fillText("bits per character", x.end + FRAME.right, 8);
    this.drawRoundAxis();
  }

  lossLabels(scale, most, place, align, withGrid) {
    const { context, colours, x } = this;
    const values = ticks(scale, most);
    const labels = decimals(values);
    let free = Infinity; // pixels above the label before: logarithms crowd together
    context.textAlign = align;
    for (const [index, value] of values.entries()) {
      const height = scale.pixel(value);
      if (free - height < 16) continue;
      free = height;
      context.fillText(labels[index], place, height);
      if (withGrid) this.line([[x.start, height], [x.end, height]], colours.line);
    }
  }

  drawRoundAxis() {
    const { context, colours, x, y } = this;
    const most = Math.max(2, (x.end - x.start) / 100);
    const [values, label] = this.axis === "time" ? [durationTicks(x, most), duration]
      : [wholeTicks(x, most), count];
    this.line([[x.start, y.start], [x.end, y.start]], colours.quiet);
    context.textAlign = "center";
    for (const value of values) {
      const place = x.pixel(value);
      this.line([[place, y.start], [place, y.start + 4]], colours.quiet);
      const text = label(value);
      const half = context.measureText(text).width / 2;
      context.fillText(text, Math.min(place, x.end + FRAME.right - half), y.start + 15);
    }
  }

  drawCurves() {
    const { context, colours, x, y, shows, shown } = this;
    context.save();
    context.beginPath(); // dots at the edge stay whole
    context.rect(x.start - 4, y.end - 4, x.end - x.start + 8, y.start - y.end + 8);
    context.clip();
    const place = (point, loss) => [x.pixel(point[this.axis]), y.pixel(loss)];
    const points = within(shown.points, this.range, 1);
    if (shows.train && points.length) {
      const curve = points.map((point) => place(point, point.loss));
      this.band([...points.map((point) => place(point, point.high)),
        ...points.map((point) => place(point, point.low)).reverse()]);
      if (this.smoothing) {
        this.line(curve, colours.train, { alpha: 0.35 });
        const smooth = average(shown.points.map(({ loss }) => loss), this.smoothing);
        const begin = shown.points.indexOf(points[0]);
        this.line(points.map((point, index) => place(point, smooth[begin + index])),
          colours.train, { width: 2 });
      } else {
        this.line(curve, colours.train, { width: 1.5 });
      }
      this.dot(...curve.at(-1), 3, colours.train);
    }
    if (shows.validation) this.drawValidation();
    context.restore();
  }

  drawValidation() {
    const { shown, colours, x, y } = this;
    const at = (evaluation) => this.axis === "time"
      ? shown.translate(evaluation.round, "round", "time") : evaluation[this.axis];
    const places = within(shown.evaluations, this.range, 1)
      .map((evaluation) => [x.pixel(at(evaluation)), y.pixel(evaluation.loss)]);
    this.line(places, colours.validation, { width: 1.5, dash: [5, 3] });
    let free = -Infinity; // where there is room for the next dot
    for (const [left, height] of places) {
      if (left < free) continue;
      this.dot(left, height, 2.5, colours.validation);
      free = left + 9;
    }
  }

  drawCursor() {
    const point = this.cursor === null || !this.y ? undefined : this.reading();
    this.box.hidden = !point;
    if (!point) return;
    const { x, y, colours } = this;
    const place = x.pixel(point[this.axis]);
    this.line([[place, y.end], [place, y.start]], colours.quiet, { dash: [2, 3] });
    if (this.shows.train) this.dot(place, y.pixel(point.loss), 4, colours.text);
    this.box.replaceChildren(...this.lines(point).map(([className, text]) =>
      make("p", { className }, text)));
    const left = place < (x.start + x.end) / 2 ? place + 12
      : place - 12 - this.box.offsetWidth;
    this.box.style.transform = `translate(${Math.round(left)}px, ${y.end + 4}px)`;
  }

  drawDrag() {
    if (!this.drag || !this.y) return;
    const { context, colours, drag, y } = this;
    context.globalAlpha = 0.2;
    context.fillStyle = colours.accent;
    context.fillRect(drag.from, y.end, drag.to - drag.from, y.start - y.end);
    context.globalAlpha = 1;
  }

  band(places) {
    const { context } = this;
    this.trace(places.filter(([, height]) => Number.isFinite(height)));
    context.globalAlpha = 0.22;
    context.fillStyle = this.colours.train;
    context.fill();
    context.globalAlpha = 1;
  }

  line(places, colour, { width = 1, alpha = 1, dash = [] } = {}) {
    const { context } = this;
    this.trace(places);
    context.lineWidth = width;
    context.lineJoin = "round";
    context.strokeStyle = colour;
    context.globalAlpha = alpha;
    context.setLineDash(dash);
    context.stroke();
    context.globalAlpha = 1;
  }

  // A loss that is not a number leaves a gap.
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

  dot(left, height, radius, colour) {
    if (!Number.isFinite(height)) return;
    const { context } = this;
    context.beginPath();
    context.arc(left, height, radius, 0, 2 * Math.PI);
    context.fillStyle = colour;
    context.fill();
  }
}

// ---- Points, in the order of their rounds

function firstNotBelow(points, unit, value) {
  let [low, high] = [0, points.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][unit] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nearest(points, unit, value) {
  const index = firstNotBelow(points, unit, value);
  const [before, after] = [points[index - 1], points[index]];
  if (!before || !after) return before ?? after;
  return value - before[unit] < after[unit] - value ? before : after;
}

// Those of a range of rounds, and so many on either side of it.
function within(points, { from, to }, more = 0) {
  const begin = Math.max(0, firstNotBelow(points, "round", from) - more);
  return points.slice(begin, firstNotBelow(points, "round", to + 1) + more);
}

// Exponential moving average; dividing by the weights so far makes up for the empty beginning.
function average(values, weight) {
  let sum = 0, weights = 0;
  return values.map((value) => {
    if (Number.isNaN(value)) return NaN;
    sum = weight * sum + (1 - weight) * value;
    weights = weight * weights + (1 - weight);
    return sum / weights;
  });
}

// ---- Words and elements

function nats(loss) {
  return Number.isFinite(loss) ? loss.toFixed(4) : "—";
}

function inWords(loss) {
  return Number.isFinite(loss) ? `${loss.toFixed(4)} nats, ${(loss * BITS).toFixed(4)} bits`
    : "not known";
}

function readColours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`)]));
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function toggle(children, on, act) {
  const button = make("button", { type: "button", ariaPressed: String(on) }, ...children);
  button.onclick = () => {
    const pressed = button.ariaPressed !== "true";
    button.ariaPressed = String(pressed);
    act(pressed);
  };
  return button;
}

// Screen readers speak what is set, even if it is the same.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
