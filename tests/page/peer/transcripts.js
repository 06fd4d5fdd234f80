// node transcripts.js FILE: what Python's PeerSession was told and answered, line by line
// (tests/tab/test_session_in_node.py writes it); here the page's session hears the same. Prints
// the first difference of each conversation, and how often what was told and answered.
import { Buffer } from "node:buffer";
import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";

import { GltchError } from "../../../hive/page/peer/errors.js";
import { jobFrom } from "../../../hive/page/peer/job.js";
import { load } from "../../../hive/page/peer/kernels.js";
import { ProtocolError } from "../../../hive/page/peer/protocol.js";
import { PeerSession } from "../../../hive/page/peer/session.js";

/** Values as JSON has them, and as the session takes them. Weights are only a name here. */
function decode(value) {
  if (Array.isArray(value)) return value.map(decode);
  if (typeof value !== "object" || value === null) return value;
  if ("bytes of" in value) return new Uint8Array(Buffer.from(value["bytes of"], "base64"));
  if ("job" in value && Object.keys(value).length === 1) return jobFrom(value.job);
  if ("number" in value) return Number(value.number);
  if ("sentence" in value) {
    return new (value.protocol ? ProtocolError : GltchError)(value.sentence);
  }
  return value;
}

function encode(value) {
  if (value instanceof Uint8Array) return { "bytes of": Buffer.from(value).toString("base64") };
  if (Array.isArray(value)) return value.map(encode);
  if (typeof value === "number" && !Number.isFinite(value)) return { number: String(value) };
  if (typeof value !== "object" || value === null) return value;
  if ("described" in value) return { job: value.described };
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, encode(one)]));
}

/** Jobs are told apart by all that they say. */
const normal = (value) => encode(decode(value));
const normalEffect = (effect) => (
  effect.type === "do" ? { ...effect, values: normal(effect.values) } : normal(effect));

/** What exactly is wrong with a job each says in its own words. */
const plain = (effect) => (effect.type !== "refuse" ? effect
  : { ...effect, reason: effect.reason.replace(/cannot be used \(.*\)/, "cannot be used") });

function different({ about, lines }, seen) {
  let tokens = [], recalled = null;
  const session = new PeerSession({ ...about, token: () => tokens.shift(),
    recall: () => recalled });
  for (const [number, line] of lines.entries()) {
    ({ tokens, recalled } = line);
    const [steady, unix] = line.now;
    const effects = session[line.call](...decode(line.values), { steady, unix });
    const answer = {
      effects: effects.map(encode).map(plain), deadline: encode(session.deadline),
      training: session.training, carried: session.carried, busy: session.busy };
    const expected = {
      ...line.answer, effects: line.answer.effects.map(normalEffect).map(plain) };
    if (!isDeepStrictEqual(answer, expected)) return { number, line, answer, expected };
    const told = line.call === "heard" ? `heard ${line.values[0].type}` : line.call;
    for (const what of [told, ...effects.map(({ type, message, what: work }) => (
      `answered ${type} ${message?.type ?? work ?? ""}`.trim()))]) {
      seen[what] = (seen[what] ?? 0) + 1;
    }
  }
  return null;
}

await load(readFileSync(new URL("../../../hive/page/peer/kernels.wasm", import.meta.url)));
const seen = {};
const differences = JSON.parse(readFileSync(process.argv[2], "utf8")).map(
  (conversation) => different(conversation, seen));
console.log(JSON.stringify({ differences: differences.filter(Boolean), seen }));
