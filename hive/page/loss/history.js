// The losses so far: what the coordinator answered about the whole run and about the part that is
// looked at, and the events since.
//
// The server sums up, so however long the run is, a curve holds about as many points as the screen
// can show. Live events add points; when there are too many, the question is asked again.

import { Curve } from "./curve.js";

/** @import { Committed, Evaluated, Losses, Run } from "../facts.d.ts" */
/** @import { Axis, Range } from "./curve.js" */

/** What is asked of the coordinator: for which curve, and will that reach to the newest round?
 * @typedef {object} Question
 * @property {"whole" | "detail"} curve
 * @property {boolean} live
 * @property {{ points: number, from?: number, to?: number }} search */

const FEWEST = 200, MOST = 1800; // points to ask for
const PAUSE = 4000, HURRY = 150; // milliseconds before asking by itself, and when somebody waits
const MARGIN = 0.1; // of the part that is looked at, asked for on either side as well
const CLOSEST = 4; // rounds to look at
/** @type {Losses} */
const NOTHING = {
  first: 0, last: 0, every: 1, rounds: [], steps: [], loss: [], low: [], high: [], committed: [],
  evaluations: { rounds: [], steps: [], val_loss: [] },
};

export class History {
  wanted = FEWEST; // points that the screen can show
  asked = 0; // when the last question was asked
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  timer = undefined; // of the next
  /** @type {AbortController | null} */
  asking = null; // the one that is not answered yet
  run = "";
  whole = new Curve(NOTHING, 0, true, null);
  /** @type {Curve | null} */
  detail = null; // the curve of the view, where that of the whole run is too coarse
  /** @type {Range | null} */
  view = null; // null: the whole run
  outdated = false;
  failed = false;
  /** @type {(Committed | Evaluated)[]} */
  arrived = []; // events since the question

  /** @param {() => void} changed is called when there is something else to see */
  constructor(changed) {
    this.changed = changed;
  }

  /** Another run: no answer about the one before may be taken for its.
   * @param {string} run */
  begin(run) {
    this.asking?.abort();
    this.asking = null;
    this.run = run;
    this.whole = new Curve(NOTHING, 0, true, null);
    this.detail = this.view = null;
    this.failed = false;
    this.arrived = [];
  }

  /** A new session has begun: what is known may be out of date, or of another run.
   * @param {Pick<Run, "hive" | "session" | "started">} state */
  update(state) {
    const run = state.hive || state.session; // a single machine's run ends with the session
    if (run !== this.run) this.begin(run);
    this.whole.started ??= state.started;
    this.outdated = true;
    this.refine(0);
    this.changed();
  }

  /** @param {Committed | Evaluated} event */
  event(event) {
    if (this.asking) this.arrived.push(event); // the answer may not know it yet
    const { last } = this.whole;
    this.whole.add(event);
    this.detail?.add(event);
    if (this.view && this.view.to >= last) { // it follows
      const made = this.whole.last - last;
      this.view = { from: this.view.from + made, to: this.view.to + made };
    }
    this.refine();
    this.changed();
  }

  // ---- What is looked at

  get entire() {
    return { from: this.whole.from, to: this.whole.last };
  }

  get range() {
    return this.view ?? this.entire;
  }

  get shown() {
    const { view, detail, whole } = this;
    return view && detail?.covers(view) && detail.points.length ? detail : whole;
  }

  /** @param {Range} range */
  look({ from, to }) {
    const { entire } = this;
    const spare = Math.max(0, CLOSEST - (to - from)) / 2;
    from = Math.max(entire.from, from - spare);
    to = Math.min(entire.to, to + spare);
    this.view = from === entire.from && to === entire.to ? null : { from, to };
    this.refine(HURRY);
    this.changed();
  }

  /** The round at a step or time; the detail knows nothing of what lies beside it.
   * @param {number} value
   * @param {Axis} unit */
  roundAt(value, unit) {
    const { points } = this.shown;
    const [first, last] = [points[0], points[points.length - 1]];
    const inside = first && first[unit] <= value && value <= last[unit];
    return (inside ? this.shown : this.whole).translate(value, unit, "round");
  }

  // ---- Asking the coordinator

  /** @param {number} pixels across the plot */
  resize(pixels) {
    this.wanted = Math.min(MOST, Math.max(FEWEST, pixels));
    this.refine();
  }

  /** The next question; null while the curves are as fine as the screen and hold no more.
   * @returns {Question | null} */
  question() {
    const { whole, detail, view, wanted } = this;
    if (this.outdated || whole.full || !whole.fine(this.entire, wanted)) {
      return { curve: "whole", live: true, search: { points: wanted } };
    }
    if (!view || whole.fine(view, wanted)) return null;
    if (detail?.covers(view) && detail.fine(view, wanted) && !detail.full) return null;
    const margin = MARGIN * (view.to - view.from);
    const from = Math.max(whole.from, Math.floor(view.from - margin));
    const to = Math.min(whole.last, Math.ceil(view.to + margin));
    const points = Math.ceil((1 + 2 * MARGIN) * wanted);
    return { curve: "detail", live: to === whole.last, search: { from, to, points } };
  }

  /** Asks what there is to ask: now and then by itself, sooner if somebody waits for it.
   * @param {number} [wait] */
  refine(wait) {
    if (wait === undefined && (this.timer || this.asking)) return;
    if (!this.question()) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.timer = undefined;
      const question = this.question();
      if (question) this.ask(question);
    }, wait ?? Math.max(0, this.asked + PAUSE - Date.now()));
  }

  /** @param {Question} question */
  async ask(question) {
    this.asking?.abort();
    const asking = this.asking = new AbortController();
    this.asked = Date.now();
    this.arrived = [];
    const search = Object.entries(question.search).map(([name, value]) => `${name}=${value}`);
    /** @type {Losses | null} */
    let answer = null;
    try {
      const reply = await fetch(`api/history?${search.join("&")}`,
        { cache: "no-store", signal: asking.signal });
      if (reply.ok) answer = await reply.json();
    } catch {
      // no answer: `failed` says so
    }
    if (asking.signal.aborted) return; // nobody waits for it any more
    this.asking = null;
    this.failed = answer === null;
    if (answer) this.receive(question, answer);
    this.refine();
    this.changed();
  }

  /** @param {Question} question
   * @param {Losses} answer */
  receive({ curve: name, live, search }, answer) {
    const started = this.whole.started ?? answer.committed[0];
    const curve = new Curve(answer, search.points, live, started);
    if (name === "whole") this.outdated = false;
    else curve.surround(this.whole.evaluations);
    for (const event of this.arrived) curve.add(event);
    this[name] = curve;
  }
}
