// The facts that the page receives: those of session/schema.py, as docs/api.md describes them. Only
// the checks read this file.

export type Maybe = number | null; // null: not measured yet

/** Where a peer is in its round. */
export type PeerState =
  "joining" | "waiting" | "ready" | "training" | "uploading" | "delivered" | "lagging";
/** Of a device; empty: it was here before peers said so. */
export type Kind = "" | "cuda" | "mps" | "cpu" | "tab";
/** What keeps a peer from doing more. */
export type Limit = "" | "device" | "uplink" | "round";
export type Phase = "waiting" | "training" | "committing" | "paused" | "finished";
export type Verdict = "counted" | "late" | "rejected";
export type Direction = "up" | "down";

export interface Peer {
  peer: string;
  name: string;
  device: string;
  kind: Kind;
  state: PeerState;
  steps: number;
  quota: number;
  speed: Maybe;
  training: Maybe;
  limit: Limit;
  bytes_up: number;
  bytes_down: number;
  latency: Maybe;
  joined: number;
  tokens: number;
  share: number;
  counted: number;
  late: number;
  rejected: number;
  reason: string;
  score: number;
  aside: string; // why it is set aside; empty: it is not
}

/** The round that is being made. */
export interface Round {
  quota: number;
  seconds: number;
  left: number;
}

export interface Fastest {
  name: string;
  speed: number;
}

/** Of the network: what a peer's memory depends on. */
export interface Shape {
  layers: number;
  heads: number;
  width: number;
}

/** Where and how peers join. */
export interface Join {
  port: number;
  locked: boolean;
  colab: string | null;
  browsers: boolean; // may tabs of this page?
  network: Shape;
  peer_sha256: string; // of peer.pyz
}

/** A round that went back to an earlier version. */
export interface Undone {
  round: number;
  to: number;
}

export interface Updates {
  counted: number;
  late: number;
  rejected: number;
}

/** What `measured` tells once a second. */
export interface Measured {
  phase: Phase;
  paused: string;
  version: number;
  step: number;
  total: Maybe;
  round: Round | null;
  seconds: number;
  remaining: Maybe;
  tokens: number;
  speed: Maybe;
  flops: Maybe;
  fastest: Fastest | null;
  speedup: Maybe;
  bytes_up: number;
  bytes_down: number;
}

/** /api/state */
export interface Run extends Measured {
  session: string;
  seq: number;
  now: number;
  mode: "hive" | "single";
  unit: "round" | "step";
  run: string;
  hive: string;
  size: string;
  sync: string;
  parameters: number;
  context: number;
  vocabulary: number;
  finished: string;
  loss: Maybe;
  val_loss: Maybe;
  best_val_loss: Maybe;
  evaluated: number;
  undone: Undone[];
  set_aside: number;
  started: Maybe;
  snapshots: number[] | null;
  join: Join | null;
  updates: Updates;
  peers: Peer[];
}

/** /api/history */
export interface Losses {
  first: number;
  last: number;
  every: number;
  rounds: number[];
  steps: number[];
  loss: Maybe[];
  low: Maybe[];
  high: Maybe[];
  committed: number[];
  evaluations: { rounds: number[]; steps: number[]; val_loss: Maybe[] };
}

/** One of /api/peers. */
export interface Contributor {
  peer: string;
  name: string;
  device: string;
  kind: Kind;
  connected: boolean;
  first_seen: number;
  last_seen: number;
  tokens: number;
  share: number;
  counted: number;
  late: number;
  rejected: number;
  reason: string;
  score: number;
  aside: string;
  banned: boolean;
  bytes: number;
}

/** One of /api/samples. */
export interface Sample {
  round: number;
  step: number;
  val_loss: Maybe;
  text: string;
}

export interface Contribution {
  peer: string;
  name: string;
  steps: number;
  tokens: number;
  loss: Maybe;
  bytes: number;
  verdict: Verdict;
  reason: string;
}

// The events. Every one has a number that grows by one, and its time.

interface Numbered<Type extends string> {
  type: Type;
  seq: number;
  at: number;
}

export interface Whole extends Numbered<"state">, Run {
  seq: number; // of both
}

export interface Joined extends Numbered<"joined"> {
  peer: Peer;
}

export interface Left extends Numbered<"left"> {
  peer: string;
}

export interface WentOn extends Numbered<"peer"> {
  peer: string;
  state: PeerState;
  steps: number;
  quota: number;
}

export interface Transfer extends Numbered<"transfer"> {
  peer: string;
  direction: Direction;
  content: "update" | "weights" | "text";
  bytes: number;
}

export interface Opened extends Numbered<"opened"> {
  version: number;
  quota: number;
  seconds: number;
}

export interface Closed extends Numbered<"closed"> {
  version: number;
}

export interface Committed extends Numbered<"committed"> {
  version: number;
  step: number;
  total: Maybe;
  loss: Maybe;
  opened: number;
  committed: number;
  undone: Maybe; // the version it went back to
  contributions: Contribution[];
  snapshots?: number[]; // of a single machine
}

export interface Refused extends Numbered<"refused"> {
  peer: string;
  verdict: "late" | "rejected";
  reason: string;
}

export interface Evaluated extends Numbered<"evaluated"> {
  version: number;
  step: number;
  val_loss: Maybe;
  best_val_loss: Maybe;
  text: string;
  snapshots?: number[]; // of a single machine
}

/** Those of a peer's numbers that have changed. */
export interface PeerNumbers {
  speed?: Maybe;
  training?: Maybe;
  limit?: Limit;
  bytes_up?: number;
  bytes_down?: number;
  latency?: Maybe;
  tokens?: number;
  counted?: number;
  late?: number;
  rejected?: number;
  score?: number;
  aside?: string;
}

export interface MeasuredNow extends Numbered<"measured">, Measured {
  peers: Record<string, PeerNumbers>;
}

export interface Finished extends Numbered<"finished"> {
  reason: string;
}

export type HiveEvent = Whole | Joined | Left | WentOn | Transfer | Opened | Closed | Committed
  | Refused | Evaluated | MeasuredNow | Finished;
