// The whole page: every event goes to those parts that show what it says.

import { Chat } from "./chat/chat.js";
import { Engine } from "./chat/engine.js";
import { Connection, ConnectionLine } from "./connection.js";
import { Contributors } from "./contributors.js";
import { element, setText } from "./dom.js";
import { Figures } from "./figures.js";
import { count } from "./format.js";
import { Inside } from "./inside/inside.js";
import { Surprise } from "./inside/surprise.js";
import { Join, invitation } from "./join.js";
import { LossChart } from "./loss/chart.js";
import { Network } from "./network/network.js";
import { PeersTable } from "./peers.js";
import { Samples } from "./samples.js";
import { State } from "./state.js";
import { Tab } from "./tab/tab.js";

/** @import { HiveEvent } from "./facts.d.ts" */

const LATE = 1; // seconds: what came during a break is not shown as if it happened now

export class Page {
  state = new State();
  join = new Join();
  invitation = invitation(this.join);
  network = new Network(this.state, element("network"));
  tab = new Tab(this.state, element("tab"), element("tab-bar"), (id) => this.own(id));
  chart = new LossChart(element("chart"));
  engine = new Engine();
  inside = new Inside(element("inside"), this.engine);
  chat = new Chat(element("chat"), this.engine, this.inside);
  surprise = new Surprise(
    element("surprise"), this.engine, this.inside, () => this.chat.transcript.text);
  figures = new Figures(element("figures"), element("progress"), element("done"));
  table = new PeersTable(
    this.state, element("peers-head"), element("peers-body"), element("nobody"));
  contributors = new Contributors(element("contributors"), element("others"));
  samples = new Samples();
  connection = new Connection(this.state, (events) => this.hear(events));
  line = new ConnectionLine(element("connection"), this.connection);

  constructor() {
    this.network.setEmpty(this.invitation.box);
    setInterval(() => this.tick(), 250);
  }

  /** @param {HiveEvent[]} events in the order in which they happened, one at least */
  hear(events) {
    const { at: now } = events[events.length - 1];
    for (const event of events) {
      this.state.apply(event);
      if (event.type === "state") {
        this.start();
        continue;
      }
      this.network.event(event, now - event.at > LATE);
      if (event.type === "committed" || event.type === "evaluated") this.updateVersions();
      if (event.type === "evaluated") this.samples.add(event);
      if (event.type === "finished") this.invitation.update(this.state);
      this.chart.event(event);
    }
  }

  /** The whole state arrived: at the beginning, and after too long a break. */
  start() {
    const { state } = this;
    const single = state.mode === "single";
    const facts = [state.size, `${count(state.parameters)} parameters`, state.sync];
    document.body.dataset.mode = state.mode;
    setText(element("title"), single ? "GLTCH" : "GLTCH Hive");
    setText(element("network-title"), single ? "This machine" : "The hive");
    setText(element("about"), `${state.run}: ${facts.filter(Boolean).join(", ")}`);
    this.join.update(state);
    this.tab.update();
    this.invitation.update(state);
    this.network.update();
    this.chart.update(state);
    this.engine.update(state);
    this.updateVersions();
    this.samples.outdated = true;
    this.tick();
  }

  /** This tab trains, and the hive knows it by this identifier; empty: not any more.
   * @param {string} id */
  own(id) {
    if (id === this.state.own) return;
    this.state.own = id;
    this.network.own(id);
  }

  /** There is another version of the network. */
  updateVersions() {
    this.chat.update(this.state);
    this.surprise.update(this.state);
  }

  /** What need not be shown more than a few times a second. */
  tick() {
    const { state } = this;
    this.connection.check();
    this.line.update(state);
    if (state.session === undefined || document.hidden) return;
    this.figures.update(state);
    if (this.connection.isLive) this.samples.load(state);
    if (state.mode === "single") return;
    this.tab.show();
    this.table.update();
    if (this.connection.isLive) this.contributors.refresh();
  }
}
