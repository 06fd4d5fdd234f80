// What a crew (crew.js) and each of its workers (trainee.js) say to each other. Only the checks read
// this file.

import type { Config } from "./network.js";
import type { Recipe } from "./optimizer.js";

/** The first message to a worker. */
export interface Beginning {
  config: Config;
  recipe: Recipe;
  ids: Uint8Array | Uint16Array | Int32Array; // of the training text
  number: number; // of this worker, from 0 on
  of: number; // workers
  seed: Uint32Array; // four random numbers, for dropout
  most?: number; // bytes of memory
}

export interface Learning {
  type: "learn";
  first: number; // window
  count: number;
  weights: Float32Array | null; // null: it has them
}

export interface Moving {
  type: "move";
  step: number;
  total: number | null;
  gradients: Float32Array | null; // of its parts, summed over all; null: it has them
}

export type Question = Learning | Moving;

export interface Answer {
  loss: number; // its part of the mean
  values: Float32Array | null; // after "learn" all gradients, after "move" the weights of its parts
}

/** A worker, or what stands in for one. */
export interface Member {
  ask(question: Question): Promise<Answer>;
}
