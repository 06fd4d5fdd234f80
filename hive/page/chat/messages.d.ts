// What the page (engine.js) and the Web Worker (worker.js) say to each other. Each message to the
// worker has a number, and each answer the number of what it answers. Only the checks read this
// file.

import type { Maybe } from "../facts.d.ts";

/** Which weights should answer: those after a round (null: the newest), from this address unless
 * the worker has them. */
interface Asked {
  round: number | null;
  url: string;
}

export interface Writing extends Asked {
  type: "write";
  prompt: string;
  length: number;
  temperature: number;
  topK: number | null; // null: all
  seed?: number;
}

/** How much does each character of a text surprise it? */
export interface Reading extends Asked {
  type: "read";
  text: string;
}

/** What did it think before the character that followed this? */
export interface Looking extends Asked {
  type: "look";
  context: string;
  temperature: number;
  topK: number | null;
}

export interface Scoring extends Asked {
  type: "logits";
  prompt: string;
}

/** Each is answered with loading ..., perhaps busy, then loaded, and then */
export type Question =
  | Writing // begun, text ..., done
  | Reading // begun, text ..., done
  | Looking // moment
  | Scoring; // logits

export type Message = { id: number } & (Question
  | { type: "stop"; task: number } // this question needs no more answers
  | { type: "forget" }); // the weights that are here

/** The weights that answer. */
export interface Loaded {
  type: "loaded";
  round: Maybe;
  step: Maybe;
  val_loss: Maybe;
  bytes: number;
}

/** A character that was written or read. */
export interface Mark {
  character: string;
  before: number; // its chance, as the network saw it
  after: number; // ... and as temperature and top-k left it
  seen: number; // this many characters before it
}

/** What the network thought before a character. */
export interface Moment {
  likeliest: Omit<Mark, "seen">[];
  attention: Float32Array[][]; // layers, heads, the characters that it saw
}

export type Answer =
  | { type: "loading"; received: number; total: number | null } // null: the server does not say it
  | { type: "busy"; seconds: number } // until it is asked again
  | Loaded
  | { type: "begun"; text: string; missing: string[]; context: string } // what is understood, what
    // is not known, and what stands before the first character to come
  | { type: "text"; marks: Mark[]; speed: number; // characters per second since the beginning
      moment: Moment | null } // before the last of them
  | { type: "done"; speed: number } // ... with all reading and waiting
  | { type: "moment"; moment: Moment }
  | { type: "logits"; logits: number[] }
  | { type: "error"; error: string }; // a sentence
