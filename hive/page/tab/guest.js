// How a tab that trains behaves as a guest: it is not frozen while it is hidden, rests on battery,
// and keeps the screen on only when asked. Browsers differ in what they have of this.

/** What browsers tell of a battery, which TypeScript does not know.
 * @typedef {EventTarget & { charging: boolean }} Battery */

/** @type {Navigator & { getBattery?: () => Promise<Battery> }} */
const browser = navigator;

/** What this one knows of. */
export const TELLS = { battery: "getBattery" in navigator, awake: "wakeLock" in navigator };

export class Guest {
  /** @type {Battery | null} */
  battery = null;
  /** @type {WakeLockSentinel | null} */
  screen = null;
  awake = false; // it was asked to keep the screen on
  release = () => {}; // the Web Lock

  /** @param {() => void} changed power came or went */
  constructor(changed) {
    this.changed = changed;
    document.addEventListener("visibilitychange", () => this.keepScreen()); // hiding ended it
  }

  get onBattery() {
    return this.battery?.charging === false;
  }

  /** While a page holds a Web Lock, browsers do not freeze it.
   * @param {boolean} awake */
  async arrive(awake) {
    this.awake = awake;
    const held = new Promise((resolve) => { this.release = () => resolve(null); });
    navigator.locks?.request("gltch-hive trains", { mode: "shared" }, () => held);
    await this.keepScreen();
    if (this.battery || !browser.getBattery) return;
    this.battery = await browser.getBattery();
    this.battery.addEventListener("chargingchange", () => this.changed());
  }

  leave() {
    this.release();
    this.awake = false;
    this.screen?.release();
    this.screen = null;
  }

  /** A browser may say no, as when its battery is low: training goes on without. */
  async keepScreen() {
    if (!this.awake || document.hidden) return;
    try {
      this.screen = await navigator.wakeLock.request("screen");
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
    }
  }
}
