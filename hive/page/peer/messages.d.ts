// The fields of the messages between a peer and its coordinator, as hive/session/messages.py has
// them; protocol.js says what may be in them. Only the checks read this file.

export interface Challenge {
  type: "challenge";
  protocol: number;
  hive: string;
  nonce: string;
  locked: boolean;
}

export interface Welcome {
  type: "welcome";
  proof: string;
  peer: string;
  name: string;
  token: string | null;
  counted: number[]; // rounds
  job: Record<string, unknown>;
}

export interface Refused {
  type: "refused";
  reason: string;
}

export interface Version {
  type: "version";
  version: number;
  weights: string;
  step: number;
  counted: number[]; // rounds
}

export interface Train {
  type: "train";
  version: number;
  weights: string;
  step: number;
  total: number | null;
  quota: number;
  seconds: number;
  window: number;
}

export interface Commit {
  type: "commit";
  version: number;
  weights: string;
  codec: string;
  update: string;
  bytes: number;
  step: number;
  counted: boolean;
  follows: boolean; // its content comes at once, and then the next task
}

export interface Status {
  type: "status";
  version: number;
  peers: number;
  loss: number | null;
  val_loss: number | null;
}

export interface Finished {
  type: "finished";
  reason: string;
}

export interface Send {
  type: "send";
  blob: string;
  offset: number;
}

export interface Verdict {
  type: "verdict";
  version: number;
  verdict: string;
  reason: string;
}

export interface Blob {
  type: "blob";
  blob: string;
  bytes: number;
  offset: number;
}

export interface Gone {
  type: "gone";
  blob: string;
}

/** What a coordinator says. */
export type Said = Challenge | Welcome | Refused | Version | Train | Commit | Status | Finished
  | Send | Verdict | Blob | Gone;

/** What a peer says. */
export type Told = { type: string } & Record<string, unknown>;
