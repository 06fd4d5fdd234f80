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

export type Order = ({ type: "join" } & Joining) | { type: "stop" };

export type Facts =
  | { type: "said"; kind: string; text: string } // a line for people
  | { type: "ended"; how: "finished" | "refused" | "stopped" | "failed"; why: string }
  | Figures;

export interface Figures {
  type: "figures";
  name: string; // of this peer
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
