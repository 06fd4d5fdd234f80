// What the page (chat.js) and the Web Worker (worker.js) say to each other. Each message to the
// worker has a number, and each answer the number of what it answers. A new message ends what the
// one before began. Only the checks read this file.

import type { Maybe } from "../facts.d.ts";

export type Question =
  | { type: "load"; url: string } // answered with loading ..., perhaps busy, then loaded
  | Writing // with begun, text ..., written
  | { type: "logits"; prompt: string }
  | { type: "stop" }; // with nothing

export interface Writing {
  type: "write";
  prompt: string;
  length: number;
  temperature: number;
  topK: number | null; // null: all
  seed?: number;
}

/** The weights that are loaded now. */
export interface Loaded {
  type: "loaded";
  round: Maybe;
  step: Maybe;
  val_loss: Maybe;
  bytes: number;
}

export type Answer =
  | { type: "loading"; received: number; total: number | null } // null: the server does not say it
  | { type: "busy"; seconds: number } // until it is asked again
  | Loaded
  | { type: "begun"; prompt: string; missing: string[] } // understood of it, and what is not known
  | { type: "text"; text: string; speed: number } // characters per second since the beginning
  | { type: "written"; speed: number } // ... with all reading and waiting
  | { type: "logits"; logits: number[] }
  | { type: "error"; error: string }; // a sentence
