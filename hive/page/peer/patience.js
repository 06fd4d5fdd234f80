// How long a peer waits before each attempt to connect, as in hive/session/patience.py.

const FIRST_WAIT = 0.5, LONGEST_WAIT = 30; // seconds before the next attempt
const WAITED_SHARE = 0.25; // ... of all that was waited before

/** A coordinator that was only started again is found again soon, and one that is gone for long is
 * left in peace. */
export class Patience {
  waited = 0;

  /** Seconds; `random` draws from 0 to 1, so that not all come at once.
   * @param {() => number} random */
  next(random) {
    const wait = Math.min(Math.max(FIRST_WAIT, WAITED_SHARE * this.waited), LONGEST_WAIT);
    this.waited += wait;
    return wait * (0.5 + random());
  }
}
