// The peer's side of the conversation, as in hive/session/peer_session.py, which this follows line
// by line: what it says, what it holds, and what it waits for. tests/tab/ has both answer the same
// conversations. Only this one takes up what an earlier page left on its way: updates (`takeUp`), and
// what it was fetching (`onChallenge`).
//
// One session lives as long as its page and goes through any number of connections. It hears what
// happened, and answers with a list of effects (effects.d.ts). It takes what was said in that
// order, one after the other; what comes while it fetches or works waits in a bounded inbox.

import { codecOf, CODECS } from "./codec.js";
import { Conversation } from "./conversation.js";
import { Download } from "./download.js";
import { Errands } from "./errands.js";
import { GltchError, require } from "./errors.js";
import { Fragments } from "./fragments.js";
import { jobFrom } from "./job.js";
import { Offers } from "./offers.js";
import {
  ProtocolError, VERSION, checkVersions, demand, possession, proof,
} from "./protocol.js";
import { NOTHING, Outgoing, Progress, isDone } from "./update.js";
import { cleanName, count, shown } from "./words.js";

/** @import { Kind } from "../facts.d.ts" */
/** @import { Effect, Moment, Work } from "./effects.d.ts" */
/** @import { Job } from "./job.js" */
/** @import { Receiver } from "./protocol.js" */
/** @import { Blob, Challenge, Commit, Finished, Gone, Said, Send, Status, Told, Train, Verdict,
 *   Version, Welcome } from "./messages.d.ts" */
/** @import { Held, Kept, Task } from "./update.js" */

export const SILENCE_SECONDS = 45; // without a word from the coordinator: the connection is dead
const PROGRESS_SECONDS = 1; // between two reports from within a round
const REASON = 1000; // characters of what the coordinator gives as a reason, at most
export const MOST_FAILURES = 3; // rounds in a row whose loss was not finite
export const AHEAD = 100; // steps beyond what was asked for, while updates travel

/** As whom a hive knows this peer (null: not yet), and the updates for this job that an earlier
 * page left on their way.
 * @typedef {{ token: string | null, name: string, job?: string, updates?: Kept[] }} Identity */

/** The same, and what had arrived of a download.
 * @typedef {Identity & { partial?: Receiver | null }} Recalled */

/** What this peer was started with.
 * @typedef {object} About
 * @property {string} name
 * @property {Kind} kind of its device
 * @property {() => string} token makes 64 random hexadecimal digits
 * @property {string} [key]
 * @property {string} [device]
 * @property {string | null} [text] SHA-256 of the text that it was told to train on
 * @property {string} [process]
 * @property {number | null} [batchSize]
 * @property {string} [server] how it is called in lines for people
 * @property {(hive: string) => Recalled | null} [recall] as whom a hive knew the peer before */

/** What is trained. Not built: it has to be, and anew if training broke down.
 * @typedef {object} Trained
 * @property {Job | null} job null: nothing yet
 * @property {boolean} built
 * @property {number} parameters
 * @property {string} codec of its updates
 * @property {Fragments} fragments of its weights
 * @property {boolean} overlap training goes on while updates travel
 * @property {number} inFlight how many of them at once
 * @property {number} sequences in a step of this peer */

/** @param {Job | null} job
 * @returns {Trained} */
function unbuilt(job) {
  return { job, built: false, parameters: 0, codec: "", fragments: new Fragments(0, 1),
    overlap: false, inFlight: 1, sequences: 0 };
}

/** One peer over all its connections. */
export class PeerSession {
  hive = "";
  network = unbuilt(null);
  held = NOTHING;
  /** @type {Task | null} */
  task = null;
  progress = new Progress(); // what no update was made of yet
  offers = new Offers();
  latest = -1; // version that the round of its latest update starts from
  left = 0; // tokens of updates that did not count
  /** @type {number[]} */
  counted = []; // rounds, as the welcome told
  failures = 0; // of training, in a row
  talk = new Conversation();
  download = new Download();
  figures = { peers: 1, loss: NaN, valLoss: NaN, speed: 0 }; // for people
  work = new Errands();
  /** @type {Moment} */
  now = { steady: 0, unix: 0 };
  /** @type {Effect[]} */
  effects = [];

  /** @param {About} about */
  constructor({ key = "", device = "", text = null, batchSize = null, server = "the hive",
    recall = () => null, process, ...about }) {
    this.about = { ...about, key, device, text, batchSize, server, recall,
      process: process ?? about.token() };
    /** @type {Identity} */
    this.identity = { token: null, name: about.name };
  }

  /** When `wake` wants to be called, in steady seconds. A busy peer may not have
   * listened. */
  get deadline() {
    const { talk, work } = this;
    if (talk.phase === "away" || work.underWay.size || this.restingSoon) return Infinity;
    return talk.heardAt + SILENCE_SECONDS;
  }

  /** What was said waits for its turn. */
  get busy() {
    return Boolean(this.work.underWay.size || this.download.wanted || this.restingSoon);
  }

  /** It trains for a while and listens again when it is done. */
  get restingSoon() {
    return Boolean(this.task && !this.network.overlap);
  }

  /** Tokens of which updates were made, but none that counted, as far as it knows. */
  get carried() {
    return this.left + this.offers.tokens;
  }

  /** Its host makes one step after the other. */
  get training() {
    return Boolean(this.task && this.progress.steps < this.task.most);
  }

  // Effects

  /** What a host calls goes through here: it says the time, then what is to be done, in this
   * order. The one place where a broken rule ends a conversation.
   * @param {Moment} now
   * @param {() => void} happened */
  react(now, happened) {
    this.now = now;
    try {
      happened();
    } catch (error) {
      if (!(error instanceof GltchError)) throw error;
      this.download.partial = null; // whatever was wrong, it is not gone on with
      const passing = this.talk.phase !== "joining" && error instanceof ProtocolError;
      this.close({ type: passing ? "leave" : "refuse", reason: error.message });
    }
    const answer = this.effects;
    this.effects = [];
    return answer;
  }

  /** @param {Told} message */
  tell(message) {
    this.effects.push({ type: "tell", message });
  }

  /** @param {string} kind
   * @param {string} text */
  say(kind, text) {
    this.effects.push({ type: "say", kind, text });
  }

  /** @param {Work} what
   * @param {unknown[]} values
   * @param {(result: any) => void} [then] */
  do(what, values, then) {
    const ticket = this.work.ask(what, then);
    this.effects.push({ type: "do", ticket, lane: "work", what, values });
  }

  /** What was on its way goes on with the next connection; work for this one is forgotten. */
  part() {
    this.rest();
    this.talk.part();
    this.download.interrupt();
    this.work.forget("text", "begin");
  }

  /** The last effect of a conversation.
   * @param {Effect} effect */
  close(effect) {
    this.part();
    this.effects.push(effect);
  }

  // A connection begins and ends

  /** @param {Moment} now */
  connected(now) {
    return this.react(now, () => this.talk.begin(now.steady));
  }

  /** Show that this peer has the key, and as whom it was here before.
   * @param {Challenge} challenge */
  onChallenge({ hive, nonce, locked, protocol }) {
    const { about } = this;
    if (hive !== this.hive) {
      this.hive = hive;
      const known = about.recall(hive) ?? { token: null, name: about.name };
      const { partial = null, ...identity } = known;
      this.identity = identity;
      this.download.partial ??= partial;
    }
    require(locked || !about.key, "This hive needs no key: leave it out, or check that this is the "
      + "hive you meant.");
    const own = about.token(), { token, name } = this.identity;
    this.talk.nonces = [nonce, own];
    this.tell({ type: "hello", protocol: VERSION, nonce: own, name,
      proof: proof(about.key, "peer", nonce, own), device: about.device, kind: about.kind,
      process: about.process, text: about.text, token: token && possession(token, nonce, own) });
    checkVersions(VERSION, protocol);
    this.talk.awaited = ["welcome"];
  }

  /** Check that the coordinator has the key, and learn what is trained.
   * @param {Welcome} welcome */
  onWelcome(welcome) {
    const [nonce, own] = this.talk.nonces;
    demand(welcome.proof === proof(this.about.key, "coordinator", nonce, own), "The coordinator "
      + "does not have the key: this is another hive than the one to join.");
    const name = cleanName(welcome.name, this.identity.name);
    this.identity = { ...this.identity, name };
    if (welcome.token) { // a new identity; otherwise this peer is the one it was
      this.identity = { token: welcome.token, name };
      this.effects.push({ type: "keep", token: welcome.token, name });
    }
    const job = jobFrom(welcome.job);
    if (job.described !== this.network.job?.described) {
      this.network = unbuilt(job);
      this.held = NOTHING;
      this.offers.updates = [];
      this.startAnew();
    }
    if (this.offers.updates.length && welcome.token) { // by another peer, they might count twice
      this.say("given up", "an update, because another process is the peer that made it");
      this.giveUp(this.offers.updates);
    }
    this.counted = welcome.counted;
    this.settleCounted(welcome.counted);
    if (this.network.built) this.takePart();
    else this.begin(job);
  }

  /** Get the text, from the cache if it was here before, and build the network anew.
   * @param {Job} job */
  begin(job) {
    this.do("text", [job], (content) => this.onText(job, content));
  }

  /** @param {Job} job
   * @param {Uint8Array | null} content */
  onText(job, content) {
    if (content) this.build(job, content);
    else this.fetch(job.text, job.text_bytes, (fetched) => this.build(job, fetched));
  }

  /** @param {Job} job
   * @param {Uint8Array | null} content */
  build(job, content) {
    this.do("begin", [job, content ?? new Uint8Array()],
      (parameters) => this.onBuilt(job, parameters));
  }

  /** @param {Job} job
   * @param {number} parameters */
  onBuilt(job, parameters) {
    const sequences = this.about.batchSize ?? job.recipe.batch_size, { sync } = job;
    const fragments = new Fragments(parameters, sync.fragments);
    this.network = { job, built: true, parameters, codec: sync.up, fragments,
      overlap: sync.overlap, inFlight: Math.min(sync.in_flight, fragments.parts.length),
      sequences };
    this.say("network", `${shown(job.size, 20)}: ${count(parameters)} parameters; `
      + `${shown(job.mode, 20)}, ${sequences} sequences a step`);
    if (this.held.hash) this.do("load", [this.held.weights]); // training broke down
    this.takeUp(job.described);
    if (this.talk.phase === "joining") this.takePart();
    else this.goOn();
  }

  /** What an earlier page left on its way, unless it counted meanwhile.
   * @param {string} described */
  takeUp(described) {
    const { token, name, job, updates = [] } = this.identity;
    this.identity = { token, name };
    if (job !== described || !updates.length) return;
    for (const one of updates.map(Outgoing.from)) {
      this.do("restore", [one.codec, one.update, one.part]);
      this.offers.updates.push(one);
      this.say("taken up", "an update that was on its way before");
    }
    this.settleCounted(this.counted);
  }

  takePart() {
    this.talk.takePart();
    this.say("joined", `${this.about.server} as ${this.identity.name}`);
    this.offerAgain();
    this.goOn();
  }

  /** Or first hear what becomes of the last update. */
  goOn() {
    if (!this.offers.awaited(this.held.version)) this.report();
  }

  /** The connection is gone; perhaps because the run is over.
   * @param {Moment} now */
  lost(now) {
    return this.react(now, () => {
      const finished = this.talk.inbox.find((said) => said.type === "finished");
      this.talk.inbox = [];
      this.part();
      if (finished) this.onFinished(finished);
    });
  }

  /** Somebody wants this peer to go.
   * @param {Moment} now */
  stop(now) {
    return this.react(now, () => {
      if (this.talk.phase === "taking part") this.tell({ type: "goodbye" });
    });
  }

  /** @param {Moment} now */
  wake(now) {
    return this.react(now, () => { this.leftInSilence(); });
  }

  /** Is it over, for the coordinator says nothing any more? */
  leftInSilence() {
    const silent = this.now.steady >= this.deadline;
    if (silent) this.close({ type: "leave", reason: "the coordinator has gone silent" });
    return silent;
  }

  // Words

  /** Answer what was waited for; the rest comes in its turn.
   * @param {Said} said
   * @param {Moment} now */
  heard(said, now) {
    return this.react(now, () => {
      this.talk.heardAt = now.steady;
      if (this.talk.phase === "away") return; // it was said to a conversation that is over
      if (said.type === "refused") throw new ProtocolError(shown(said.reason, REASON));
      if (this.talk.awaited.includes(said.type)) {
        this.talk.awaited = [];
        this.answer(said);
      } else {
        this.talk.keep(said);
      }
      if (this.restingSoon && this.progress.steps && this.over()) this.rest();
      this.takeTurns();
    });
  }

  /** @param {Said} said */
  answer(said) {
    switch (said.type) {
      case "challenge": this.onChallenge(said); break;
      case "welcome": this.onWelcome(said); break;
      case "blob": this.onBlob(said); break;
      case "gone": this.onGone(said); break;
      case "version": this.onVersion(said); break;
      case "commit": this.onCommit(said); break;
      case "train": this.onTrain(said); break;
      case "send": this.onSend(said); break;
      case "verdict": this.onVerdict(said); break;
      case "status": this.onStatus(said); break;
      case "finished": this.onFinished(said);
    }
  }

  /** Answer what was said, one after the other, until something takes time. */
  takeTurns() {
    const { talk } = this, { job, built } = this.network;
    if (job && !built && talk.phase === "taking part" && !this.busy) this.begin(job);
    while (talk.phase === "taking part" && !this.busy) {
      const said = talk.inbox.shift();
      if (!said) return;
      // Where there is something to do, the connection is a good one.
      if (said.type !== "status" && said.type !== "finished" && !talk.settled) {
        talk.settled = true;
        this.effects.push({ type: "settled" });
      }
      this.answer(said);
    }
  }

  /** Was it said that the round is over, or the run? */
  over() {
    return this.talk.waits("commit", "finished");
  }

  /** What came was no message at all.
   * @param {ProtocolError} error
   * @param {Moment} now */
  broken(error, now) {
    return this.react(now, () => {
      if (this.talk.phase !== "away") throw error;
    });
  }

  // Work

  /** @param {number} ticket
   * @param {any} result
   * @param {Moment} now */
  done(ticket, result, now) {
    return this.react(now, () => {
      this.talk.heardAt = now.steady;
      const one = this.work.end(ticket);
      if (!one) return;
      one.then(result);
      this.takeTurns();
    });
  }

  /** @param {number} ticket
   * @param {GltchError} error
   * @param {Moment} now */
  failed(ticket, error, now) {
    return this.react(now, () => {
      this.work.end(ticket);
      throw error;
    });
  }

  // Downloads

  /** Ask for a blob, or for the rest of one that was interrupted, unless it comes unasked.
   * @param {string} blob
   * @param {number} limit
   * @param {(content: Uint8Array | null) => void} then
   * @param {Commit | null} commit that it is the update of: only who has the weights before wants it
   * */
  fetch(blob, limit, then, commit = null) {
    const since = this.now.steady, lasting = !commit;
    const offset = this.download.begin({ blob, limit, since, then, lasting });
    this.talk.awaited = ["blob", "gone"];
    if (!commit?.follows) this.tell({ type: "fetch", blob, offset });
  }

  /** @param {Blob} said */
  onBlob(said) {
    this.download.announced(said);
    this.arrive();
  }

  /** @param {Gone} said */
  onGone(said) {
    this.download.gone(said.blob).then(null);
  }

  /** It goes where it belongs, whatever else this peer is doing.
   * @param {Uint8Array} content
   * @param {Moment} now */
  chunk(content, now) {
    return this.react(now, () => {
      this.talk.heardAt = now.steady;
      if (this.talk.phase === "away") return;
      this.download.add(content);
      this.arrive();
      this.takeTurns();
    });
  }

  arrive() {
    const taken = this.download.take();
    if (!taken) return;
    const { wanted, receiver } = taken;
    this.offers.wait(this.now.steady - wanted.since);
    wanted.then(receiver.result());
  }

  // The weights

  /** Tell which weights this peer holds; the coordinator sends a task or what is missing. */
  report() {
    if (this.talk.phase !== "taking part" || !this.network.built) return;
    this.tell({ type: "ready", version: this.held.version, weights: this.held.hash || null,
      batch_size: this.network.sequences });
  }

  /** Unless newer weights are told of already: with every answer those of before are gone, so
   * a peer that listens seldom would never get any. */
  askAgain() {
    if (!this.talk.waits("version")) this.report();
  }

  /** The weights as a whole: at the start, or after too long an absence. If newer are told of
   * already, these may be gone, and asking for them would only bring another answer.
   * @param {Version} said */
  onVersion(said) {
    if (this.talk.waits("version")) return;
    this.fetch(said.weights, 4 * this.network.parameters,
      (content) => this.takeWhole(said, content));
  }

  /** @param {Version} said
   * @param {Uint8Array | null} content */
  takeWhole(said, content) {
    if (!content) {
      this.askAgain(); // there are newer ones
      return;
    }
    demand(content.length === 4 * this.network.parameters,
      "The weights have another size than the network.");
    this.settleCounted(said.counted);
    this.do("whole", [content], (result) => {
      this.hold(said, false, result);
      this.offerAgain();
    });
  }

  /** A round is over: take its update, and tell that it is in.
   * @param {Commit} said */
  onCommit(said) {
    const { held, network } = this;
    if (said.version <= held.version) return;
    if (said.version !== held.version + 1 || !held.hash) {
      this.askAgain(); // something was missed
      return;
    }
    demand(Object.hasOwn(CODECS, said.codec), "The coordinator uses an unknown codec.");
    const size = codecOf(said.codec).size(network.fragments.values(said.version));
    this.fetch(said.update, size, (content) => this.takeUpdate(said, size, content), said);
  }

  /** @param {Commit} said
   * @param {number} size
   * @param {Uint8Array | null} content */
  takeUpdate(said, size, content) {
    if (!content) {
      this.askAgain();
      return;
    }
    demand(content.length === size, "The update has another size than its codec makes.");
    if (said.counted) this.settleCounted([said.version]);
    const part = this.network.fragments.ofRound(said.version);
    this.do("apply", [this.held.weights, said.codec, content, part],
      (result) => this.hold(said, said.follows, result));
  }

  /** From now on these are the weights, if they are bit for bit what they should be.
   * @param {Version | Commit} said
   * @param {boolean} taskFollows
   * @param {[weights: any, digest: string]} result */
  hold(said, taskFollows, [weights, digest]) {
    if (digest === said.weights) {
      this.held = { version: said.version, hash: digest, weights };
      if (said.type === "version") this.do("load", [weights]);
      else this.rebase(said.version);
    } else {
      this.held = NOTHING; // never train from weights that nobody else has
    }
    const last = said.version - (said.type === "commit" ? 1 : 0);
    if (!this.offers.awaited(last) && !(taskFollows && this.held.hash)) {
      this.report(); // or first hear what becomes of the last update
    }
  }

  /** What that round changed is again as the hive has it, but for progress of its own that no
   * update was made of.
   * @param {number} version */
  rebase(version) {
    this.do("rebase", [this.held.weights, this.network.fragments.ofRound(version)]);
  }

  // Training, and what becomes of it

  /** Make steps from the weights of this round, and offer what comes out.
   * @param {Train} said */
  onTrain({ version, weights, quota, seconds, step, total, window }) {
    const { held, network, offers: { updates } } = this;
    const known = version === held.version && weights === held.hash;
    if (!known || updates.length >= network.inFlight) return;
    this.latest = version - 1;
    const most = quota + (network.overlap ? AHEAD : 0);
    this.task = { base: held, quota, most, seconds, began: this.now.steady };
    this.do("task", [step, total, window]);
    if (this.restingSoon && this.progress.steps >= quota) {
      this.rest(); // it made them when nobody asked any more
    }
  }

  /** A step is made: go on, or make an update of what there is.
   * @param {number} tokens
   * @param {number} loss
   * @param {number} seconds
   * @param {Moment} now */
  stepped(tokens, loss, seconds, now) {
    return this.react(now, () => {
      this.figures.loss = loss;
      this.progress.add(tokens, loss, seconds);
      const { task, progress: { steps } } = this;
      if (!task) return;
      if (this.restingSoon && (this.over() || isDone(task, steps, now.steady))) {
        this.rest();
      } else if (now.steady - this.talk.toldAt > PROGRESS_SECONDS) {
        this.talk.toldAt = now.steady;
        this.tell({ type: "progress", version: this.held.version, steps });
      }
    });
  }

  /** All that was said is heard. A peer that trains on sends what is due now, between two steps and
   * from the newest weights; of each round one update, and not too many at once. It never waits, so
   * this is also when it notices silence.
   * @param {Moment} now */
  caughtUp(now) {
    return this.react(now, () => {
      if (this.leftInSilence()) return;
      const { task, held, network, latest } = this;
      const version = this.offers.free(Math.max(held.version, latest + 1));
      if (task && network.overlap && task.base === held && this.progress.steps >= task.quota
        && !this.busy && !this.talk.inbox.length && version < held.version + network.inFlight
        && this.offers.updates.length < network.inFlight
        && !this.offers.holds(this.partOf(version))) {
        this.makeUpdate(task.base, version);
      }
    });
  }

  /** No step more of this task. */
  rest() {
    const { task } = this;
    this.task = null;
    if (task && this.progress.steps && !this.network.overlap) {
      this.makeUpdate(task.base, task.base.version);
    }
  }

  /** For the round that starts from this version.
   * @param {Held} base
   * @param {number} version */
  makeUpdate(base, version) {
    const { progress } = this;
    this.progress = new Progress();
    this.latest = version;
    this.do("take", [this.partOf(version), progress.steps],
      (update) => this.made(base, version, progress, update));
  }

  /** @param {Held} base
   * @param {number} version
   * @param {Progress} progress
   * @param {Uint8Array} update */
  made(base, version, progress, update) {
    const { codec, sequences, overlap } = this.network;
    this.failures = 0;
    this.figures.speed = progress.speed;
    progress.tokens += this.left;
    this.left = 0;
    this.offers.add(
      new Outgoing(version, base, codec, update, sequences, this.partOf(version), progress));
    if (!this.talk.waits("finished")) this.offerOn(overlap);
  }

  /** What the round changes that starts from this version.
   * @param {number} version */
  partOf(version) {
    return this.network.fragments.ofRound(version + 1);
  }

  /** Training may do so a few times: it begins again from the hive's weights.
   * @param {GltchError} error
   * @param {Moment} now */
  brokeDown(error, now) {
    return this.react(now, () => {
      this.startAnew();
      this.failures++;
      if (this.failures >= MOST_FAILURES) throw error;
      this.say("trouble", `${error.message} Starting again from the hive's weights.`);
      this.network = { ...this.network, built: false };
      this.takeTurns();
    });
  }

  /** Nothing is left of what was trained but the updates that are on their way: of each part one,
   * for the news of it are told by the round, and must not be taken for another's. */
  startAnew() {
    this.task = null;
    this.left = 0;
    this.progress = new Progress();
    for (const one of this.offers.updates) one.lastChance = true;
  }

  /** All updates, each when the one before is on the wire. */
  offerAgain() {
    this.offers.beginAgain();
    this.offerOn(false);
  }

  /** Or later, as soon as it takes part again.
   * @param {boolean} follows */
  offerOn(follows) {
    if (this.talk.phase !== "taking part") return;
    this.effects.push(...this.offers.goOn(this.now.steady, follows));
  }

  /** @param {Send} said */
  onSend(said) {
    this.effects.push(...this.offers.send(said));
    this.offerOn(this.network.overlap);
  }

  /** All of it is on the wire.
   * @param {string} blob
   * @param {Moment} now */
  uploaded(blob, now) {
    return this.react(now, () => {
      this.talk.heardAt = now.steady;
      this.offers.uploaded(blob, now.steady);
    });
  }

  /** An accepted update counts with the commit; a late one comes again with the next.
   * @param {Verdict} said */
  onVerdict({ version, verdict, reason }) {
    demand(["accepted", "late", "rejected"].includes(verdict), "There is no such verdict.");
    const judged = this.offers.of(version);
    if (!judged) return;
    if (verdict === "accepted") {
      judged.sent = true;
    } else if (verdict === "rejected") {
      this.say("rejected", shown(reason, REASON));
      this.giveUp([judged]);
      this.report();
    } else {
      this.settle(judged, false);
      this.report();
    }
    this.offerOn(this.network.overlap);
  }

  /** And all that is carried, but for what else is on its way: none of it may come again.
   * @param {Outgoing[]} updates */
  giveUp(updates) {
    for (const one of [...updates]) this.settle(one, false);
    this.do("forget", [this.network.fragments.parts.filter((part) => !this.offers.holds(part))]);
    this.left = 0;
  }

  /** Updates of this peer counted in these.
   * @param {number[]} rounds */
  settleCounted(rounds) {
    for (const one of [...this.offers.updates]) {
      if (one.countedIn(rounds, this.network.fragments)) this.settle(one, true);
    }
  }

  /** @param {Outgoing} one
   * @param {boolean} counted */
  settle(one, counted) {
    this.do("settle", [counted, one.part]);
    this.offers.updates = this.offers.updates.filter((other) => other !== one);
    if (counted || one.lastChance) return;
    this.left += one.work.tokens;
    if (this.held.hash) this.rebase(one.version + 1); // it is kept in the error feedback now
  }

  /** @param {Status} said */
  onStatus({ peers, val_loss }) {
    if (this.offers.unheard(this.now.steady - SILENCE_SECONDS)) {
      this.offerAgain(); // nobody ever said what became of it
    }
    this.figures.peers = peers;
    this.figures.valLoss = val_loss ?? NaN;
  }

  /** @param {Finished} said */
  onFinished(said) {
    this.close({ type: "end", reason: shown(said.reason, REASON) });
  }
}
