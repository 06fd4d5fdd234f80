// The whole page: every event goes to those parts that show what it says.

import { Chat } from "./chat/chat.js";
import { Connection, ConnectionLine } from "./connection.js";
import { Contributors } from "./contributors.js";
import { element, setText } from "./dom.js";
import { Figures } from "./figures.js";
import { count } from "./format.js";
import { Join, invitation } from "./join.js";
import { LossChart } from "./loss/chart.js";
import { Network } from "./network/network.js";
import { PeersTable } from "./peers.js";
import { Samples } from "./samples.js";
import { State } from "./state.js";

const LATE = 1; // seconds: what came during a break is not shown as if it happened now

export class Page {
  constructor() {
    this.state = new State();
    this.join = new Join();
    this.invitation = invitation(this.join);
    this.network = new Network(element("network"));
    this.network.setEmpty(this.invitation.box);
    this.chart = new LossChart(element("chart"));
    this.chat = new Chat(element("chat"));
    this.figures = new Figures(element("figures"), element("progress"));
    this.table = new PeersTable(element("peers-head"), element("peers-body"), element("nobody"));
    this.contributors = new Contributors(element("contributors"), element("others"));
    this.samples = new Samples();
    this.connection = new Connection(this.state, (events) => this.hear(events));
    this.line = new ConnectionLine(element("connection"), this.connection);
    setInterval(() => this.tick(), 250);
  }

  hear(events) {
    const { at: now } = events.at(-1);
    for (const event of events) {
      this.state.apply(event);
      if (event.type === "state") {
        this.start();
        continue;
      }
      this.network.event(event, now - event.at > LATE);
      if (event.type === "committed" || event.type === "evaluated") this.chat.update(this.state);
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
    this.invitation.update(state);
    this.network.update(state);
    this.chart.update(state);
    this.chat.update(state);
    this.samples.outdated = true;
    this.tick();
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
    this.table.update(state);
    if (this.connection.isLive) this.contributors.refresh();
  }
}
