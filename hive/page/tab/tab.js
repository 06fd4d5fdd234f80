// This tab as a peer: a visitor sees what it will use, starts it with a click, sees how it goes, and
// can pause and stop it from wherever the page was scrolled to.

import { make, setText } from "../dom.js";
import { count } from "../format.js";
import { Contribution, doing } from "./contribution.js";
import { Form } from "./form.js";
import { Guest, TELLS } from "./guest.js";
import { computes, device } from "./means.js";
import { remember, remembered } from "./reload.js";
import { Trainer } from "./trainer.js";

/** @import { Peer } from "../facts.d.ts" */
/** @import { State } from "../state.js" */
/** @import { Choice } from "./form.js" */
/** @import { Means } from "./means.js" */
/** @import { Remembered } from "./reload.js" */

/** @returns {Means} */
function means() {
  /** @type {Navigator & { deviceMemory?: number }} */
  const { deviceMemory, hardwareConcurrency, userAgent } = navigator;
  return { workers: computes(), cores: hardwareConcurrency || 1,
    memory: deviceMemory ? deviceMemory * 1e9 : null,
    phone: /Android|iPhone|iPad|Mobile/.test(userAgent) };
}

/** The key may be behind the address, where no request contains it: http://hive:8080/#key=...
 * @param {string} fragment */
export function keyIn(fragment) {
  return new URLSearchParams(fragment.replace(/^#/, "")).get("key") ?? "";
}

export class Tab {
  trainer = new Trainer(() => this.show());
  guest = new Guest(() => this.power());
  form = new Form(means(), TELLS, (choice) => this.start(choice));
  contribution = new Contribution();
  status = make("p", { className: "tab-status" });
  pause = make("button", { type: "button" }, "Pause");
  stop = make("button", { type: "button" }, "Stop");
  summary = make("p");
  /** @type {Remembered | null} */
  chosen = remembered();
  resting = false; // it paused because of the battery
  /** @type {Peer | null} */
  peer = null; // as the hive saw it last

  /** @param {State} state
   * @param {HTMLElement} section in which it is offered
   * @param {HTMLElement} bar with what is always to be seen
   * @param {(id: string) => void} known as whom the hive knows this tab */
  constructor(state, section, bar, known) {
    this.state = state;
    this.section = section;
    this.bar = bar;
    this.known = known;
    this.status.setAttribute("role", "status");
    section.append(this.form.node, this.status, this.contribution.node);
    bar.append(this.summary, this.pause, this.stop);
    this.pause.onclick = () => this.toggle();
    this.stop.onclick = () => this.trainer.stop();
    this.form.key.value = keyIn(location.hash);
    if (this.chosen) {
      this.form.fill(this.chosen);
      this.trainer.sentence = `This tab trained as ${this.chosen.name} before. Start it again, and `
        + "it comes back as the same peer.";
    }
    this.show();
  }

  /** The whole state arrived. */
  update() {
    this.section.hidden = !this.state.join?.browsers;
    this.form.update(this.state);
    this.show();
  }

  /** @param {Choice} choice */
  async start({ key, ...choice }) {
    const scheme = location.protocol === "https:" ? "wss" : "ws", { name, workers } = choice;
    this.choose(choice);
    this.resting = false;
    this.trainer.start({ server: `${scheme}://${location.host}/hive`, name, workers,
      key: this.state.join?.locked ? key : "", device: device(navigator.userAgent, workers) });
    await this.guest.arrive(choice.awake);
    this.power();
  }

  toggle() {
    this.resting = false;
    if (this.trainer.mode === "paused") this.trainer.goOn();
    else this.trainer.pause("Paused: it computes nothing and keeps what it has.");
  }

  /** Power came or went: a visitor's own pause is left as it is. */
  power() {
    const { mode } = this.trainer, drains = this.guest.onBattery && !this.chosen?.battery;
    if (drains && mode === "training") {
      this.resting = true;
      this.trainer.pause("Paused: this device runs on its battery. It goes on with power.");
    } else if (!drains && this.resting && mode === "paused") {
      this.resting = false;
      this.trainer.goOn();
    }
  }

  /** What is shown of it. */
  show() {
    const { mode, figures, sentence, failed } = this.trainer;
    const id = figures?.peer ?? "";
    this.peer = this.state.peers.get(id) ?? (this.peer?.peer === id ? this.peer : null);
    this.known(mode === "idle" ? "" : id);
    this.form.node.hidden = mode !== "idle";
    this.bar.hidden = mode === "idle";
    setText(this.status, sentence);
    this.status.classList.toggle("tab-failed", failed);
    this.contribution.update(mode, figures, this.peer);
    setText(this.pause, mode === "paused" ? "Go on" : "Pause");
    this.pause.disabled = this.stop.disabled = mode === "stopping";
    setText(this.summary, `This tab: ${doing(mode, figures)}${this.tally()}`);
    if (mode === "idle") this.guest.leave();
    const name = figures?.name;
    if (this.chosen && name && name !== this.chosen.name) this.choose({ ...this.chosen, name });
  }

  /** @param {Remembered} choice */
  choose(choice) {
    this.chosen = choice;
    this.form.name.value = choice.name; // others may have the one that was asked for
    remember(choice);
  }

  /** ", 1,234 characters/s, 3 updates counted" */
  tally() {
    const { mode, figures } = this.trainer;
    const speed = mode === "training" && figures?.speed
      ? `, ${count(figures.speed)} characters/s` : "";
    const counted = this.peer?.counted ?? 0;
    return counted ? `${speed}, ${count(counted)} update${counted > 1 ? "s" : ""} counted` : speed;
  }
}
