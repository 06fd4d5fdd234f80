// What the page and the Web Worker that is its peer (worker.js) say to each other. Only the checks
// read this file.

/** How to join. */
export interface Joining {
  server: string; // ws://... or wss://...
  key: string;
  name: string;
  device: string; // as others see it
  workers: number;
}

/** "pause" leaves the hive for a while: nobody has to wait for this peer, and all that it has stays
 * here. "train" goes on. */
export type Order = ({ type: "join" } & Joining) | { type: "train" | "pause" | "stop" };

export type Facts =
  | { type: "said"; kind: string; text: string } // a line for people
  | { type: "paused" } // nothing is computed any more
  | { type: "ended"; how: "finished" | "refused" | "stopped" | "failed"; why: string }
  | Figures;

/** What it does now; "sending" while it does not train. */
export type Doing = "connecting" | "training" | "sending" | "waiting";

export interface Figures {
  type: "figures";
  peer: string; // its identifier in the hive; empty: it was never welcome
  name: string; // of this peer
  doing: Doing;
  version: number;
  step: number;
  total: number | null;
  peers: number;
  loss: number;
  valLoss: number;
  speed: number; // characters a second
  carried: number; // characters that may still count
  up: number; // bytes
  down: number;
}
