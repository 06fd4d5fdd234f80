// A curve of losses, as an answer of the server tells it, and the events since; its points in the
// order of their rounds.

/** @import { Committed, Evaluated, Losses } from "../facts.d.ts" */

/** What lies on an axis: the number of a round, or its steps, or its seconds.
 * @typedef {"round" | "step" | "time"} Axis */

/** The training loss of some rounds in a row, which ended with this round.
 * @typedef {object} Point
 * @property {number} first of the rounds it stands for
 * @property {number} round
 * @property {number} step
 * @property {number} time
 * @property {number} loss NaN where it is not known
 * @property {number} low
 * @property {number} high */

/** @typedef {{ round: number, step: number, loss: number }} Evaluation */

/** Rounds, maybe in between.
 * @typedef {{ from: number, to: number }} Range */

const START = { round: 0, step: 0, time: 0 };

/** An answer of the server to a question for a number of points. */
export class Curve {
  /** @param {Losses} answer
   * @param {number} asked
   * @param {boolean} live does it reach to the newest round? Then events go on where it ends.
   * @param {number | null} started when the first round began */
  constructor(answer, asked, live, started) {
    const { first, last, every, rounds, steps, loss, low, high, committed, evaluations } = answer;
    this.from = first > 1 ? first : 0; // the initial weights may have been evaluated
    this.to = last;
    this.every = every;
    this.asked = asked;
    this.live = live;
    this.started = started;
    /** @type {Point[]} */
    this.points = rounds.map((round, index) => ({
      first: index ? rounds[index - 1] + 1 : Math.max(1, first),
      round, step: steps[index], time: committed[index] - (started ?? 0),
      loss: loss[index] ?? NaN, low: low[index] ?? NaN, high: high[index] ?? NaN,
    }));
    /** @type {Evaluation[]} */
    this.evaluations = evaluations.rounds.map((round, index) => (
      { round, step: evaluations.steps[index], loss: evaluations.val_loss[index] ?? NaN }));
  }

  get last() {
    return this.points.at(-1)?.round ?? this.from;
  }

  get full() {
    return this.points.length > 2 * this.asked;
  }

  /** @param {Committed | Evaluated} event */
  add(event) {
    const { version: round, step } = event;
    if (event.type === "evaluated") {
      this.evaluations = this.evaluations.filter((other) => other.round !== round);
      this.evaluations.push({ round, step, loss: event.val_loss ?? NaN });
    } else if (this.live && round > this.last) {
      const loss = event.loss ?? NaN;
      this.started ??= event.opened;
      const time = event.committed - this.started;
      this.points.push({ first: this.last + 1, round, step, time, loss, low: loss, high: loss });
    }
  }

  /** Evaluations are rare: the nearest may be far from a part of the run.
   * @param {Evaluation[]} evaluations */
  surround(evaluations) {
    this.evaluations = [
      ...evaluations.filter(({ round }) => round < this.from), ...this.evaluations,
      ...evaluations.filter(({ round }) => round > this.to)];
  }

  /** @param {Range} range */
  covers({ from, to }) {
    return this.from <= from && (this.live || to <= this.to);
  }

  /** Would asking for just this range, in this many points, show hardly more?
   * @param {Range} range
   * @param {number} points */
  fine({ from, to }, points) {
    return this.every === 1 || this.asked * (to - from) > 0.8 * points * (this.to - this.from);
  }

  /** Where a round, step or time lies in another of these units.
   * @param {number} value
   * @param {Axis} unit
   * @param {Axis} other */
  translate(value, unit, other) {
    const index = firstNotBelow(this.points, unit, value);
    const after = this.points[index] ?? this.points.at(-1);
    if (!after || value >= after[unit]) return after?.[other] ?? 0;
    const before = this.points[index - 1] ?? START;
    const part = (value - before[unit]) / (after[unit] - before[unit]);
    return before[other] + part * (after[other] - before[other]);
  }
}

/** @template {Axis} Unit
 * @param {Record<Unit, number>[]} points
 * @param {Unit} unit
 * @param {number} value */
function firstNotBelow(points, unit, value) {
  let [low, high] = [0, points.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][unit] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** @template {Axis} Unit
 * @template {Record<Unit, number>} Any
 * @param {Any[]} points
 * @param {Unit} unit
 * @param {number} value
 * @returns {Any | undefined} */
export function nearest(points, unit, value) {
  const index = firstNotBelow(points, unit, value);
  const [before, after] = [points[index - 1], points[index]];
  if (!before || !after) return before ?? after;
  return value - before[unit] < after[unit] - value ? before : after;
}

/** Those of a range of rounds, and some more on either side of it.
 * @template {Evaluation} Any
 * @param {Any[]} points
 * @param {Range} range */
export function within(points, { from, to }, more = 0) {
  const begin = Math.max(0, firstNotBelow(points, "round", from) - more);
  return points.slice(begin, firstNotBelow(points, "round", Math.floor(to) + 1) + more);
}
