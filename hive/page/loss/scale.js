// Axes: from values to pixels and back, and the round values that are written beside them.

/** How values spread over the pixels.
 * @typedef {"linear" | "logarithmic"} Form */

/** A part of an axis.
 * @typedef {{ low: number, high: number }} Span */

/** There and back.
 * @type {Record<Form, ((value: number) => number)[]>} */
const FORMS = {
  linear: [Number, Number],
  logarithmic: [Math.log, Math.exp],
};
const ALMOST = 1e-9; // 0.1 + 0.2 still counts as 0.3
const MINUTE = 60, HOUR = 3600, DAY = 86400;
const DURATIONS = [1, 2, 5, 10, 15, 30, ...[1, 2, 5, 10, 15, 30].map((n) => n * MINUTE),
  ...[1, 2, 3, 6, 12].map((n) => n * HOUR)];
/** @type {[string, number][]} */
const UNITS = [["d", DAY], ["h", HOUR], ["min", MINUTE], ["s", 1]];

/** The values from low to high lie on the pixels from start to end. */
export class Scale {
  /** @param {number} low
   * @param {number} high
   * @param {number} start
   * @param {number} end
   * @param {Form} form */
  constructor(low, high, start, end, form = "linear") {
    const [bend, unbend] = FORMS[form];
    this.bend = bend;
    this.unbend = unbend;
    this.low = low;
    this.high = high;
    this.start = start;
    this.end = end;
    this.form = form;
    this.origin = this.bend(low);
    this.span = this.bend(high) - this.origin;
  }

  /** @param {number} value */
  pixel(value) {
    return this.start + (this.end - this.start) * (this.bend(value) - this.origin) / this.span;
  }

  /** @param {number} pixel */
  value(pixel) {
    return this.unbend(this.origin + this.span * (pixel - this.start) / (this.end - this.start));
  }

  /** The same pixels in another unit.
   * @param {number} factor */
  times(factor) {
    return new Scale(this.low * factor, this.high * factor, this.start, this.end, this.form);
  }
}

/** About `most` round values of a scale.
 * @param {Span & { form: Form }} scale
 * @param {number} most */
export function ticks({ low, high, form }, most) {
  if (form === "linear" || high / low < 10) {
    return multiples(low, high, decimalStep((high - low) / most));
  }
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const powers = Array.from({ length: last - first + 1 }, (_, index) => 10 ** (first + index));
  const finer = powers.flatMap((power) => [power, 2 * power, 5 * power]);
  const inside = (/** @type {number} */ value) => low <= value && value <= high;
  return (finer.filter(inside).length <= most ? finer : powers).filter(inside);
}

/** @param {Span} scale
 * @param {number} most */
export function wholeTicks({ low, high }, most) {
  return multiples(low, high, Math.max(1, decimalStep((high - low) / most)));
}

/** @param {Span} scale
 * @param {number} most */
export function durationTicks({ low, high }, most) {
  const least = (high - low) / most;
  const step = least < 1 ? decimalStep(least)
    : DURATIONS.find((duration) => duration >= least) ?? DAY * decimalStep(least / DAY);
  return multiples(low, high, step);
}

/** The smallest of 1, 2 or 5 times a power of ten that is not below `least`.
 * @param {number} least */
function decimalStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  const enough = (/** @type {number} */ factor) => factor * power >= least * (1 - ALMOST);
  return power * ([1, 2, 5].find(enough) ?? 10);
}

/** @param {number} low
 * @param {number} high
 * @param {number} step */
function multiples(low, high, step) {
  const first = Math.ceil(low / step - ALMOST);
  const length = Math.floor(high / step + ALMOST) - first + 1;
  return Array.from({ length }, (_, index) => (first + index) * step);
}

/** Text for the values of an axis, all with as many decimals as the one that needs most.
 * @param {number[]} values */
export function decimals(values) {
  const needed = values.map((value) => String(+value.toPrecision(9)).split(".")[1]?.length ?? 0);
  return values.map((value) => value.toFixed(Math.max(0, ...needed)));
}

/** Text for a round value: 5400 -> "1 h 30 min", 108000 -> "30 h", 0.2 -> "0.2 s"
 * @param {number} seconds */
export function shortDuration(seconds) {
  if (seconds < 10) return `${+seconds.toFixed(3)} s`;
  let rest = Math.round(seconds);
  const parts = UNITS.slice(rest < 2 * DAY ? 1 : 0).map(([name, size]) => {
    const number = Math.floor(rest / size);
    rest -= number * size;
    return number ? `${number} ${name}` : "";
  });
  return parts.filter(Boolean).join(" ");
}
