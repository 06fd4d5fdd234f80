// The Web Worker in which the peer of a page lives (joining.d.ts has its messages).
// Its training is in workers of its own, so that it always hears.

import { load } from "./kernels.js";
import { Peer } from "./peer.js";

/** @import { Facts, Joining, Order } from "./joining.d.ts" */

/** @type {Peer | null} */
let peer = null;

/** @param {Facts} facts */
const tell = (facts) => self.postMessage(facts);

/** @param {Joining} joining */
async function join(joining) {
  const reply = await fetch(new URL("kernels.wasm", import.meta.url));
  const kernels = await reply.arrayBuffer();
  await load(kernels);
  peer = new Peer(joining, kernels, tell);
  const { how, why } = await peer.run();
  peer.dismiss();
  peer = null;
  tell({ type: "ended", how, why });
}

self.onmessage = (/** @type {MessageEvent<Order>} */ { data }) => {
  if (data.type !== "join") {
    peer?.want(data.type);
    return;
  }
  join(data).catch((error) => tell({ type: "ended", how: "failed", why: String(error) }));
};
