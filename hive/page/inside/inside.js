// Look inside: the moment before a character, as the network saw it.

import { make, setText } from "../dom.js";
import { Chances } from "./chances.js";
import { Heads } from "./heads.js";
import { named, odds } from "./shade.js";

/** @import { Engine } from "../chat/engine.js" */
/** @import { Answer, Moment } from "../chat/messages.d.ts" */
/** @import { MarkedText, Visit } from "./marked.js" */

export class Inside {
  task = 0; // the question that is under way
  following = false; // what is written, as it goes on

  note = make("p", { className: "chat-note" }, "Choose a character that the network wrote or read " +
    "(click it, or go there with the arrow keys and press Enter) to see the moment before it: " +
    "what else it thought likely, and where it looked.");
  title = make("h3", { className: "inside-title" });
  about = make("p", { className: "inside-about" });
  status = make("p", { className: "chat-status" });
  follow = make("button", { type: "button" }, "Follow its writing");
  close = make("button", { type: "button", hidden: true }, "Close");
  chances = new Chances();
  heads = new Heads();
  moment = make("div", { hidden: true }, this.title, this.about, this.chances.node,
    make("h3", {}, "Where it looked"), this.heads.node,
    make("p", { className: "heads-legend" }, "Above, the characters it saw, the newest last: the "
      + "darker, the more attention. Below, the same for every head as a strip, one row for each "
      + "layer. Point at one, or choose it."));

  /** @param {HTMLElement} section in which everything is built
   * @param {Engine} engine */
  constructor(section, engine) {
    this.section = section;
    this.engine = engine;
    this.status.setAttribute("role", "status");
    section.append(this.note,
      make("div", { className: "line" }, this.follow, this.close, this.status), this.moment);
    this.follow.addEventListener("click", () => this.setFollowing(!this.following));
    this.close.addEventListener("click", () => this.shut());
    this.setFollowing(false);
  }

  /** @param {boolean} following */
  setFollowing(following) {
    this.following = following;
    this.follow.setAttribute("aria-pressed", String(following));
  }

  /** A character was chosen.
   * @param {Visit} visit */
  open(visit) {
    this.setFollowing(false);
    this.engine.stop(this.task);
    this.say(`Looking at the moment before ${named(visit.mark.character)}.`);
    const { round, taste } = visit.origin;
    this.task = this.engine.ask({
      type: "look", round, context: visit.context, temperature: 1, topK: null, ...taste,
    }, (answer) => this.hear(answer, visit));
  }

  /** @param {Answer} answer
   * @param {Visit} visit */
  hear(answer, visit) {
    if (answer.type === "error") this.say(answer.error, true);
    if (answer.type !== "moment") return;
    this.show(answer.moment, visit);
    const [{ character, before }] = answer.moment.likeliest;
    this.say(`Likeliest was ${named(character)}, ${odds(before)}.`);
    const { top } = this.title.getBoundingClientRect();
    if (top < 0 || top > 0.8 * innerHeight) this.section.scrollIntoView();
  }

  /** The newest character that was written, while somebody follows it.
   * @param {Moment | null} moment
   * @param {MarkedText | null} text */
  watch(moment, text) {
    if (!moment || !text || !this.following) return;
    this.say("");
    this.show(moment, text.visit(text.marks.length - 1));
  }

  /** @param {Moment} moment
   * @param {Visit} visit */
  show({ likeliest, attention }, { mark, origin: { version, taste }, context }) {
    setText(this.title, `Before ${named(mark.character)}`);
    const drawn = taste ? `It was drawn at ${odds(mark.after)}; the` : "The";
    setText(this.about, `${drawn} network ${version} thought it ${odds(mark.before)} likely.`);
    this.chances.show(likeliest, mark.character, taste);
    this.heads.show(attention, Array.from(context));
    this.moment.hidden = this.close.hidden = false;
    this.note.hidden = true;
  }

  shut() {
    this.engine.stop(this.task);
    this.setFollowing(false);
    this.say("");
    this.moment.hidden = this.close.hidden = true;
    this.note.hidden = false;
    this.follow.focus();
  }

  /** @param {string} sentence */
  say(sentence, failed = false) {
    setText(this.status, sentence);
    this.status.classList.toggle("chat-failed", failed);
  }
}
