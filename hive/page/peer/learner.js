// A peer's share of the training, as in hive/learning/worker.py: inner steps from the hive's
// weights, and what leaves the machine of what was learned.

import { ErrorFeedback } from "./feedback.js";

/** @import { Crew } from "./crew.js" */
/** @import { Part } from "./fragments.js" */
/** @import { Sync } from "./job.js" */

const AHEAD = 0.3; // as in hive/learning/sync.py: how much further than its update it goes

export class Learner {
  /** @param {Crew} crew
   * @param {Sync} sync */
  constructor(crew, sync) {
    this.crew = crew;
    this.codec = sync.up; // of what leaves this machine
    this.ahead = sync.overlap ? AHEAD : 0;
    this.anchor = crew.weights.slice(); // (P,), from where on progress is not taken yet
    this.feedback = new ErrorFeedback(this.anchor.length, sync.beta);
  }

  /** What follows is this step of a run of `total`, on the text's windows from this one on.
   * @param {number} step
   * @param {number | null} total
   * @param {number} window */
  begin(step, total, window) {
    Object.assign(this.crew, {
      step, total, firstWindow: window - step * this.crew.recipe.batch_size });
  }

  /** From where the weights of a part are to where they were.
   * @param {Part} part */
  progress({ start, stop }) {
    const moved = this.anchor.slice(start, stop), { weights } = this.crew;
    for (let i = 0; i < moved.length; i++) moved[i] -= weights[start + i];
    return moved;
  }

  /** Go on from these weights (P,); the optimizer keeps its state. Progress that was not taken
   * comes with later updates.
   * @param {Float32Array} weights */
  load(weights) {
    this.feedback.absorb(this.progress({ start: 0, stop: this.anchor.length }));
    this.crew.weights.set(weights);
    this.crew.changed = true;
    this.anchor.set(weights);
  }

  /** A part is again as in these weights (P,), but for progress that was not taken.
   * @param {Float32Array} weights
   * @param {Part} part */
  rebase(weights, part) {
    const moved = this.progress(part), { start } = part;
    this.crew.changed = true;
    for (let i = 0; i < moved.length; i++) {
      this.crew.weights[start + i] = weights[start + i] - moved[i];
      this.anchor[start + i] = weights[start + i];
    }
  }

  /** The update of a part. Training may go on, a little further in the same direction: what it
   * makes from now on is taken the next time.
   * @param {Part} part
   * @param {number} steps since the update before */
  take(part, steps) {
    const update = this.progress(part), { start, stop } = part, { weights } = this.crew;
    if (this.ahead) {
      this.crew.changed = true;
      for (let i = 0; i < update.length; i++) weights[start + i] -= this.ahead / steps * update[i];
    }
    this.anchor.set(weights.subarray(start, stop), start);
    return this.feedback.encode(this.codec, update, part);
  }
}
