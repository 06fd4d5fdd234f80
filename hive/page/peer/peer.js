// A peer over all its connections, as in hive/peer.py: the WebSocket, the workers and the clock
// around its session.

import { Cache } from "./cache.js";
import { Crew } from "./crew.js";
import { GltchError } from "./errors.js";
import { Learner } from "./learner.js";
import { parametersOf } from "./network.js";
import { applyUpdate } from "./outer.js";
import { Patience } from "./patience.js";
import { ProtocolError, chunks, nameOf, pack, unpack } from "./protocol.js";
import { PeerSession } from "./session.js";
import { hex } from "./sha256.js";
import { trainingIds } from "./text.js";
import { Uplink } from "./uplink.js";
import { hire } from "./workers.js";

/** @import { Do, Effect, Moment, Work } from "./effects.d.ts" */
/** @import { Part } from "./fragments.js" */
/** @import { Job } from "./job.js" */
/** @import { Doing, Facts, Joining } from "./joining.d.ts" */
/** @import { HiredWorker } from "./workers.js" */

const LISTEN = 250; // milliseconds; then the session may notice silence
const GOODBYE = 1000; // milliseconds for the last words to go out

/** @typedef {{ chunk: Uint8Array } | { text: string } | { sent: string } | { closed: string }} Mail
 * */

/** How a peer ended: the run is over, nobody wants it, or it was stopped.
 * @typedef {{ how: "finished" | "refused" | "stopped", why: string }} Ending */

/** How one connection ended: for good, for a pause, or another one may begin another conversation.
 * @typedef {Ending | { how: "paused" | "broken", why: string }} Parting */

/** @returns {Moment} */
function now() {
  return { steady: performance.now() / 1000, unix: Date.now() / 1000 };
}

/** @param {number} milliseconds */
function sleep(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

export class Peer {
  /** @type {Do[]} */
  toDo = [];
  /** @type {Mail[]} */
  mail = [];
  wakeUp = () => {}; // the host, while it waits for mail
  /** @type {WebSocket | undefined} */
  socket;
  /** @type {Uplink | undefined} */
  uplink;
  /** @type {Parting | null} */
  ending = null;
  /** @type {"train" | "pause" | "stop"} */
  wanted = "train"; // by the page
  id = ""; // of this peer, in the hive
  patience = new Patience();
  bytes = { up: 0, down: 0 }; // on earlier connections; down on all
  /** @type {HiredWorker[]} */
  workers = [];
  /** @type {Learner | null} */
  learner = null; // made for a job
  cache = new Cache((sentence) => this.say("not kept", sentence));
  kept = ""; // the names of the updates that are in it
  keeping = Promise.resolve();

  /** @param {Joining} joining
   * @param {ArrayBuffer} kernels
   * @param {(facts: Facts) => void} tell the page */
  constructor(joining, kernels, tell) {
    this.joining = joining;
    this.kernels = kernels;
    this.tell = tell;
    const { key, name, device, server } = joining;
    const token = () => hex(crypto.getRandomValues(new Uint8Array(32)));
    const recall = (/** @type {string} */ hive) => this.cache.recall(hive, name);
    this.session = new PeerSession({ name, key, device, kind: "tab", server, token, recall });
    /** @type {Record<Work, (...values: any[]) => any>} */
    this.works = {
      text: (job) => this.cache.readText(job.text),
      begin: (job, content) => this.begin(job, content),
      whole: (content) => this.whole(content),
      apply: (weights, codec, update, part) => this.apply(weights, codec, update, part),
      load: (weights) => this.trained.load(weights),
      rebase: (weights, part) => this.trained.rebase(weights, part),
      task: (step, total, window) => this.trained.begin(step, total, window),
      take: (part, steps) => this.trained.take(part, steps),
      restore: (codec, update, part) => this.trained.feedback.restore(codec, update, part),
      settle: (counted, part) => this.trained.feedback.settle(counted, part),
      forget: (parts) => this.trained.feedback.forget(parts),
    };
  }

  get trained() {
    if (!this.learner) throw new Error("The session asked for training before it began.");
    return this.learner;
  }

  // One connection after the other

  /** Until the run is over, nobody wants this peer, or it is stopped.
   * @returns {Promise<Ending>} */
  async run() {
    await this.cache.open();
    for (;;) {
      if (this.wanted === "pause") await this.pause();
      if (this.wanted === "stop") return { how: "stopped", why: "" };
      const { how, why } = await this.converse();
      if (how === "finished" || how === "refused") return { how, why };
      if (how !== "broken") continue;
      const until = now().steady + this.patience.next(Math.random);
      this.say("waiting", `no connection to the hive (${why}); trying again`);
      while (this.wanted === "train" && now().steady < until) await sleep(100);
    }
  }

  /** Takes effect after the step that is being made.
   * @param {Peer["wanted"]} wanted */
  want(wanted) {
    this.wanted = wanted;
    this.wakeUp();
  }

  async pause() {
    this.tell({ type: "paused" });
    while (this.wanted === "pause") {
      await new Promise((resolve) => { this.wakeUp = () => resolve(null); });
    }
  }

  /** One connection, from its first word to its last.
   * @returns {Promise<Parting>} */
  async converse() {
    this.ending = null;
    this.mail = [];
    this.bytes.up += this.uplink?.bytes ?? 0;
    const socket = this.socket = new WebSocket(this.joining.server);
    socket.binaryType = "arraybuffer";
    const uplink = this.uplink = new Uplink(socket, (sent) => this.post({ sent }));
    socket.onmessage = ({ data }) => this.post(
      typeof data === "string" ? { text: data } : { chunk: new Uint8Array(data) });
    socket.onclose = ({ reason }) => this.post({ closed: reason || "it was closed" });
    this.carryOut(this.session.connected(now()));
    while (!this.ending) await this.goOn();
    await this.sayGoodbye();
    uplink.end();
    socket.onmessage = socket.onclose = null;
    socket.close();
    this.carryOut(this.session.lost(now()));
    await this.finishWork(); // what was trained becomes an update, for the next time
    await this.keepUpdates();
    this.show();
    return this.ending;
  }

  async goOn() {
    if (this.wanted !== "train") {
      this.carryOut(this.session.stop(now()));
      this.ending = { how: this.wanted === "stop" ? "stopped" : "paused", why: "" };
      return;
    }
    if (!this.toDo.length) this.carryOut(this.session.caughtUp(now()));
    const work = this.toDo.shift();
    if (work) await this.doWork(work);
    else if (this.learner && this.session.training) await this.step(this.learner);
    else if (!await this.listen()) this.carryOut(this.session.wake(now()));
  }

  async finishWork() {
    for (let work = this.toDo.shift(); work; work = this.toDo.shift()) await this.doWork(work);
  }

  async sayGoodbye() {
    const until = now().steady + GOODBYE / 1000;
    while (this.socket?.readyState === WebSocket.OPEN && this.socket.bufferedAmount
      && now().steady < until) await sleep(LISTEN / 10);
  }

  /** @param {Effect[]} effects */
  carryOut(effects) {
    for (const effect of effects) this.carryOutOne(effect);
  }

  /** What takes long waits for its turn.
   * @param {Effect} effect */
  carryOutOne(effect) {
    switch (effect.type) {
      case "tell": this.uplink?.send(pack(effect.message)); break;
      case "upload":
        this.uplink?.sendBlob(effect.blob, chunks(effect.blob, effect.content, effect.offset));
        break;
      case "do": this.toDo.push(effect); break;
      case "say": this.say(effect.kind, effect.text); break;
      case "settled": this.patience = new Patience(); break;
      case "leave": this.ending = { how: "broken", why: effect.reason }; break;
      case "refuse": this.ending = { how: "refused", why: effect.reason }; break;
      case "end": this.ending = { how: "finished", why: effect.reason }; break;
      case "keep":
        this.cache.keepIdentity(this.session.hive, this.joining.name, effect.token, effect.name);
    }
  }

  /** Those that are on their way, if they are others than before. */
  keepUpdates() {
    const { offers: { updates }, network: { job } } = this.session;
    const names = updates.map(({ blob }) => blob).join(" ");
    if (names !== this.kept && job) {
      this.kept = names;
      this.keeping = this.cache.keepUpdates(job.described, updates.map((one) => one.kept));
    }
    return this.keeping;
  }

  /** Until it is welcome, this page has nothing better than what an earlier one left. */
  keepDownload() {
    const { download, network: { job } } = this.session;
    if (job) this.cache.keepDownload(download.kept);
  }

  // What comes

  /** @param {Mail} mail */
  post(mail) {
    this.mail.push(mail);
    this.wakeUp();
  }

  /** Pass on the next that comes; false when nothing does for a while. */
  async listen() {
    if (!this.mail.length) {
      await new Promise((resolve) => {
        this.wakeUp = () => resolve(null);
        setTimeout(resolve, LISTEN);
      });
    }
    const mail = this.mail.shift();
    if (mail) {
      this.carryOut(this.open(mail));
      this.keepDownload();
    }
    this.show();
    return Boolean(mail);
  }

  /** Listen to what was said during a step, and do what it leads to. */
  async catchUp() {
    while (this.mail.length && !this.ending) {
      await this.listen();
      await this.finishWork();
    }
    this.carryOut(this.session.wake(now()));
  }

  /** @param {Mail} mail
   * @returns {Effect[]} */
  open(mail) {
    if ("closed" in mail) {
      this.ending = { how: "broken", why: mail.closed };
      return [];
    }
    if ("sent" in mail) return this.session.uploaded(mail.sent, now());
    if ("chunk" in mail) {
      this.bytes.down += mail.chunk.length;
      return this.session.chunk(mail.chunk, now());
    }
    this.bytes.down += mail.text.length;
    try {
      const said = unpack(mail.text);
      if (said.type === "welcome") this.id = said.peer;
      return this.session.heard(said, now());
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      return this.session.broken(error, now());
    }
  }

  // Work

  /** @param {Do} work */
  async doWork({ ticket, what, values }) {
    try {
      const result = await this.works[what](...values);
      this.carryOut(this.session.done(ticket, result, now()));
      this.keepUpdates();
    } catch (error) {
      if (!(error instanceof GltchError)) throw error;
      this.carryOut(this.session.failed(ticket, error, now()));
    }
  }

  /** Build the network and the optimizer, in all workers.
   * @param {Job} job
   * @param {Uint8Array} content
   * @returns {Promise<number>} parameters */
  async begin({ config, recipe, sync, ...job }, content) {
    this.dismiss();
    const ids = trainingIds({ config, recipe, sync, ...job }, content);
    this.workers = await hire(this.kernels, { config, recipe, ids }, this.joining.workers);
    const count = parametersOf(config);
    const crew = new Crew(config, recipe, new Float32Array(count), this.workers);
    this.cache.keepText(job.text, content);
    this.learner = new Learner(crew, sync);
    return count;
  }

  /** The workers, and their memory, are not needed any more. */
  dismiss() {
    for (const worker of this.workers) worker.end();
    this.workers = [];
    this.learner = null;
  }

  /** @param {Uint8Array} content */
  whole(content) {
    return [new Float32Array(content.slice().buffer), nameOf(content)];
  }

  /** @param {Float32Array} weights
   * @param {string} codec
   * @param {Uint8Array} update
   * @param {Part} part */
  apply(weights, codec, update, part) {
    const after = applyUpdate(weights, codec, update, part);
    return [after, nameOf(new Uint8Array(after.buffer))];
  }

  /** One step of training, in all workers.
   * @param {Learner} learner */
  async step({ crew }) {
    const began = now().steady;
    try {
      const loss = await crew.trainStep();
      this.carryOut(this.session.stepped(crew.tokens, loss, now().steady - began, now()));
    } catch (error) {
      if (!(error instanceof GltchError)) throw error;
      this.carryOut(this.session.brokeDown(error, now()));
    }
    await this.catchUp();
    this.show();
  }

  // What is shown

  /** @param {string} kind
   * @param {string} text */
  say(kind, text) {
    this.tell({ type: "said", kind, text });
  }

  /** @returns {Doing} */
  get doing() {
    if (this.session.talk.phase !== "taking part") return "connecting";
    if (this.session.training) return "training";
    return this.uplink?.waiting.length ? "sending" : "waiting";
  }

  show() {
    const { figures, held, identity, carried } = this.session, crew = this.learner?.crew;
    this.tell({ type: "figures", ...figures, peer: this.id, name: identity.name,
      doing: this.doing, version: held.version, step: crew?.step ?? 0,
      total: crew?.total ?? null, carried, up: this.bytes.up + (this.uplink?.bytes ?? 0),
      down: this.bytes.down });
  }
}
