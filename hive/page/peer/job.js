// What a hive trains, as in hive/session/job.py: the description that every peer receives.

import { codecOf } from "./codec.js";
import { GltchError, require } from "./errors.js";
import { parametersOf } from "./network.js";
import { BLOB_BYTES, digest, whole } from "./protocol.js";
import { count, shown } from "./words.js";

/** @import { Config } from "./network.js" */
/** @import { Recipe } from "./optimizer.js" */

/** What a peer needs of the Sync in hive/learning/sync.py.
 * @typedef {object} Sync
 * @property {string} up codec of what a peer sends
 * @property {string} down codec of the committed update
 * @property {number} beta what a peer's error feedback keeps from round to round
 * @property {number} fragments of the weights; each round changes one
 * @property {boolean} overlap peers go on training while updates travel
 * @property {number} in_flight updates of a peer that travel at once */

/** @typedef {object} Job
 * @property {string} hive random identifier of this run
 * @property {string} size
 * @property {string} mode name of the sync preset
 * @property {Config} config
 * @property {Recipe} recipe
 * @property {Sync} sync
 * @property {string} characters the vocabulary
 * @property {string} text SHA-256 of the text that peers get, in UTF-8
 * @property {number} text_bytes
 * @property {string} whole_text SHA-256 of the text with what is held out; empty: peers get all of
 *   it, and train on the first nine tenths
 * @property {string} described all that was said, to compare */

/** What a peer agrees to build.
 * @type {Record<string, number>} */
const LARGEST = { vocab_size: 0x110000, block_size: 2 ** 16, n_layer: 256, n_head: 256,
  n_embd: 2 ** 14 };
const MOST_PARAMETERS = 2 ** 30;

/** What a field has to be, in words and as a test.
 * @typedef {{ words: string, allows: (value: any) => boolean, usual?: unknown }} Rule */

/** @type {(value: any) => boolean} */
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
/** @type {(usual: unknown, least: number, most?: number) => Rule} */
const counted = (usual, least, most = 2 ** 53) => (
  { usual, words: `a whole number from ${least} to ${most}`, allows: whole(least, most) });
/** @type {(usual: unknown, least: number, most: number) => Rule} */
const between = (usual, least, most) => ({ usual, words: `a number from ${least} to ${most}`,
  allows: (value) => isNumber(value) && least <= value && value <= most });
/** @type {(usual?: unknown) => Rule} */
const text = (usual) => (
  { usual, words: "a text", allows: (value) => typeof value === "string" });
/** @type {(usual?: unknown) => Rule} */
const flag = (usual) => (
  { usual, words: "true or false", allows: (value) => typeof value === "boolean" });
/** @type {(rule: Rule) => Rule} */
const maybe = (rule) => ({ usual: null, words: `${rule.words}, or nothing`,
  allows: (value) => value === null || rule.allows(value) });

const RATE = [1e-300, 1e36]; // above 0

/** What there may be; a missing field takes its usual value.
 * @type {Record<string, Record<string, Rule>>} */
const RULES = {
  config: { vocab_size: counted(65, 1), block_size: counted(128, 1), n_layer: counted(6, 1),
    n_head: counted(6, 1), n_embd: counted(192, 1), dropout: between(0.1, 0, 1 - 2 ** -53) },
  recipe: { steps: maybe(counted(null, 1)), minutes: maybe(between(null, RATE[0], RATE[1])),
    batch_size: counted(64, 1), optimizer: text("muon"),
    learning_rate: maybe(between(null, RATE[0], RATE[1])),
    embedding_learning_rate: between(0.02, RATE[0], RATE[1]),
    head_learning_rate: between(0.003, RATE[0], RATE[1]), weight_decay: between(0.1, 0, 1e6),
    warmup: counted(20, 0, 2 ** 31 - 1), cooldown: between(0.6, 0, 1),
    seed: counted(1337, 0, 2 ** 31 - 1), eval_every: counted(100, 1),
    sample_every: counted(500, 0, 2 ** 31 - 1), log_every: counted(10, 1), device: text("auto"),
    precision: text("auto"), compile: flag(false), low_memory: flag(false) },
  sync: { inner_steps: counted(1, 1, 2 ** 31 - 1), most_inner_steps: counted(1, 1, 2 ** 31 - 1),
    up: text("fp32"), down: text("fp32"), beta: between(1, 0, 1), outer_lr: between(1, 1e-3, 100),
    outer_momentum: between(0, 0, 1), fragments: counted(1, 1, 64), overlap: flag(false),
    in_flight: counted(1, 1, 8) },
  limits: { steps: maybe(counted(null, 1)), rounds: maybe(counted(null, 1)),
    minutes: maybe(between(null, RATE[0], 1e15)),
    target_loss: maybe(between(null, RATE[0], 1e15)) },
};

/** @type {Record<string, (value: any) => boolean>} */
const OTHERS = {
  hive: text().allows, size: text().allows, mode: text().allows, characters: text().allows,
  text: digest, text_bytes: whole(0, BLOB_BYTES),
  whole_text: (value) => value === "" || digest(value) };

/** @param {Record<string, unknown>} values
 * @param {Record<string, Rule>} rules */
function build(values, rules) {
  const unknown = Object.keys(values).filter((name) => !Object.hasOwn(rules, name)).sort();
  require(!unknown.length, `unknown: ${unknown.join(", ")}`);
  return Object.fromEntries(Object.entries(rules).map(([name, { words, allows, usual }]) => {
    const value = Object.hasOwn(values, name) ? values[name] : usual;
    require(allows(value), `${name} must be ${words}, not ${JSON.stringify(value)}`);
    return [name, value];
  }));
}

/** @param {Record<string, any>} said
 * @returns {Job} */
function read(said) {
  /** @type {Record<string, any>} */
  const value = { whole_text: "", ...said }; // a run of before a part was held out has none
  const names = [...Object.keys(RULES), ...Object.keys(OTHERS)];
  require(Object.keys(value).length === names.length
    && names.every((name) => Object.hasOwn(value, name)), "it has other fields");
  for (const name of Object.keys(RULES)) {
    require(typeof value[name] === "object" && value[name], `${name} has the wrong type`);
  }
  for (const [name, allows] of Object.entries(OTHERS)) {
    require(allows(value[name]), `${name} has the wrong type`);
  }
  const job = { ...value, ...Object.fromEntries(
    Object.entries(RULES).map(([name, rules]) => [name, build(value[name], rules)])) };
  const { config, sync, characters } = /** @type {Job} */ (/** @type {unknown} */ (job));
  const known = Array.from(characters);
  require(config.n_embd % config.n_head === 0, "its width cannot be divided among its heads");
  require(new Set(known).size === known.length && known.length === config.vocab_size,
    "the vocabulary does not fit");
  const most = sync.overlap ? sync.fragments : 1;
  require(sync.in_flight <= most, `in_flight must be a whole number from 1 to ${most}`);
  codecOf(sync.up);
  codecOf(sync.down);
  return /** @type {Job} */ ({ ...job, described: JSON.stringify(job, [...names,
    ...Object.values(RULES).flatMap(Object.keys)].sort()) });
}

/** Throws a sentence for anything that is not a job this machine should take on.
 * @param {Record<string, unknown>} value
 * @returns {Job} */
export function jobFrom(value) {
  let job;
  try {
    job = read(value);
  } catch (error) {
    if (!(error instanceof GltchError)) throw error;
    throw new GltchError("The coordinator's description of the run cannot be used "
      + `(${shown(error.message).replace(/\.+$/, "")}): it may be of another version.`);
  }
  const { config } = job;
  for (const [name, most] of Object.entries(LARGEST)) {
    const given = config[/** @type {keyof Config} */ (name)];
    require(given <= most, "The hive's network is larger than this peer agrees to build: "
      + `${name} is ${shown(count(given), 40)}.`);
  }
  const parameters = parametersOf(config);
  require(parameters <= MOST_PARAMETERS, `The hive's network has ${count(parameters)} parameters; `
    + `a peer takes ${count(MOST_PARAMETERS)}.`);
  return job;
}
