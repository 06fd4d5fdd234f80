// Numbers for people. Every value may be null: not measured yet.

/** @typedef {number | null | undefined} Value */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const NOT_YET = "–";

/** 1234567 -> "1,234,567"
 * @param {Value} value */
export const count = (value) => (value == null ? NOT_YET : whole.format(value));

/** Three digits and a unit: 1234567 -> "1.23 M"
 * @param {Value} value */
export function metric(value, unit = "") {
  if (value == null) return NOT_YET;
  const names = ["", "k", "M", "G", "T", "P", "E"];
  let power = 0;
  while (Math.abs(value) >= 999.5 && power < names.length - 1) {
    value /= 1000;
    power += 1;
  }
  const digits = power === 0 ? 0 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return `${value.toFixed(digits)} ${names[power]}${unit}`.trim();
}

/** @param {Value} value */
export const bytes = (value) => metric(value, "B");

/** @param {Value} value */
export const nats = (value) => (value == null ? NOT_YET : value.toFixed(4));

/** @param {Value} value */
export const bits = (value) => (value == null ? NOT_YET : (value / Math.LN2).toFixed(4));

/** @param {Value} value */
export const percent = (value) => (value == null ? NOT_YET : `${(100 * value).toFixed(1)}%`);

/** What keeps a peer from doing more. */
export const LIMITS = { "": NOT_YET, device: "its device", uplink: "its uplink",
  round: "the round" };

/** 3725 -> "1 h 02 min", 125 -> "2 min 05 s", 7.2 -> "7 s"
 * @param {Value} seconds */
export function duration(seconds) {
  if (seconds == null) return NOT_YET;
  const total = Math.max(0, Math.round(seconds));
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  const [h, min, s] = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  if (h >= 48) return `${Math.floor(h / 24)} d ${two(h % 24)} h`;
  if (h) return `${h} h ${two(min)} min`;
  return min ? `${min} min ${two(s)} s` : `${s} s`;
}

/** Unix seconds -> "24 Nov, 04:13", in the visitor's own time
 * @param {number} seconds */
export const moment = (seconds) => new Date(1000 * seconds).toLocaleString("en-GB",
  { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

/** A ping of 0.0123 s -> "12 ms"
 * @param {Value} seconds */
export const milliseconds = (seconds) =>
  seconds == null ? NOT_YET : `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
