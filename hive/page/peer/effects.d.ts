// What a peer's session wants done, as in hive/session/effects.py. Its host does it, in order. Only
// the checks read this file.

import type { Told } from "./messages.d.ts";

/** Now, on two clocks. */
export interface Moment {
  steady: number; // seconds of a clock that only goes forward: for waiting
  unix: number; // for what is written down
}

/** Slow work, one after the other in this order. Its end comes back with the ticket, as
 * `done(ticket, result, now)` or `failed(ticket, error, now)`. */
export interface Do {
  type: "do";
  ticket: number;
  lane: "work";
  what: Work;
  values: unknown[];
}

export type Work =
  | "text" // (job) -> the text of the run, or null if it is not here
  | "begin" // (job, text) -> number of parameters
  | "whole" // (content) -> [weights, their SHA-256]
  | "apply" // (weights, codec, content, part) -> the same
  | "load" // (weights)
  | "rebase" // (weights, part)
  | "task" // (step, total, window)
  | "take" // (part, steps) -> an update
  | "restore" // (codec, update, part): an earlier page made it
  | "settle" // (counted, part)
  | "forget"; // (parts)

export type Effect =
  | { type: "tell"; message: Told }
  | { type: "upload"; blob: string; content: Uint8Array; offset: number } // in chunks; `uploaded(
  // blob, now)` when it is out
  | { type: "keep"; token: string; name: string } // the identity, for when the page comes back
  | { type: "settled" } // the next wait before connecting may be short again
  | { type: "leave"; reason: string } // a new connection may begin another conversation
  | { type: "refuse"; reason: string } // trying again would change nothing
  | { type: "end"; reason: string } // the run is over
  | { type: "say"; kind: string; text: string } // for people
  | Do;
