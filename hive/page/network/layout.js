// Where the nodes of the network are: a place for everybody, and the motion that leads there.

/** @typedef {{ x: number, y: number }} Spot */

/** Something round: where it is, and what pushes it.
 * @typedef {object} Body
 * @property {number} x
 * @property {number} y
 * @property {number} ax
 * @property {number} ay
 * @property {number} radius */

/** What moves: with a speed, and a home that draws it unless it is pinned.
 * @typedef {Body & { vx: number, vy: number, home: Spot, pinned: boolean }} Mover */

/** Sizes, and the places.
 * @typedef {object} Plan
 * @property {number} hub
 * @property {number} largest of a node
 * @property {number} smallest
 * @property {number} ring from a node to the ring round it
 * @property {number} gap from this ring to the next
 * @property {number} particle
 * @property {number} name the width there is for one
 * @property {(place: number) => Spot} home */

const GOLDEN = Math.PI * (3 - Math.sqrt(5)); // steps of this angle always land in a wide gap
const NAMED = 24; // with more peers than these, names are only in the read-out
const PULL = 50; // towards a node's home
const PUSH = 250; // off its neighbours
const FRICTION = 11;

const MARGIN = 54; // for rings and names at the edge

/** @param {number} value
 * @param {number} low
 * @param {number} high */
export const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

/** Sizes that suit a number of peers and places on a canvas of this size, and the places.
 * @param {number} peers
 * @param {number} places
 * @param {number} width
 * @param {number} height
 * @returns {Plan} */
export function arrange(peers, places, width, height) {
  const margin = peers > NAMED ? MARGIN / 2 : MARGIN;
  const high = height / 2 - margin;
  const wide = Math.min(width / 2 - margin, high * (1.7 + peers / 40));
  const room = Math.sqrt(Math.PI * wide * high / Math.max(1, peers)); // side of a peer's own square
  const largest = clamp(0.26 * room, 4, 24);
  const hub = clamp(high / 4, 40, 46);
  const inner = Math.max(1 - peers / 25, (hub + 2 * largest) / high); // few: a ring; many: a disc
  return {
    hub, largest, smallest: Math.max(2.5, 0.36 * largest),
    ring: clamp(0.05 * room, 2, 4),
    gap: clamp(0.1 * room, 2, 12),
    particle: clamp(0.05 * room, 2, 4.5),
    name: peers > NAMED ? 0 : Math.min(1.2 * room, 2 * MARGIN),
    home(place) {
      const reach = Math.sqrt(inner ** 2 + (1 - inner ** 2) * (place + 0.5) / places);
      const angle = place * GOLDEN - 0.6;
      return { x: width / 2 + wide * reach * Math.cos(angle),
        y: height / 2 + high * reach * Math.sin(angle) };
    },
  };
}

/** How far from a node's middle its name is: on the outer side, where no line is.
 * @param {Body} node
 * @param {Body} hub
 * @param {Plan} plan */
export function nameOffset({ y, radius }, hub, plan) {
  return (y < hub.y ? -1 : 1) * (radius + 2 * plan.ring + 12);
}

/** The nodes whose names, so wide, can be read: they cover no other node and no earlier name.
 * @template {Body} Any
 * @param {Any[]} nodes
 * @param {number[]} widths
 * @param {Body} hub
 * @param {Plan} plan */
export function legible(nodes, widths, hub, plan) {
  const boxes = [hub, ...nodes].map(({ x, y, radius }) => {
    const reach = radius + 2 * plan.ring;
    return { x, y, wide: reach, high: reach };
  });
  return nodes.filter((node, i) => {
    const y = node.y + nameOffset(node, hub, plan);
    const box = { x: node.x, y, wide: widths[i] / 2, high: 7 };
    const free = boxes.every((other) => Math.abs(box.x - other.x) > box.wide + other.wide
      || Math.abs(box.y - other.y) > box.high + other.high);
    if (free) boxes.push(box);
    return free;
  });
}

/** A step of time: every node is drawn to its home, and pushed off whom it would touch. Pinned ones
 * stay. Returns whether all have come to rest.
 * @param {Mover[]} nodes
 * @param {Body} hub
 * @param {Plan} plan
 * @param {number} seconds */
export function settle(nodes, hub, { ring, gap }, seconds) {
  for (const node of nodes) {
    node.ax = PULL * (node.home.x - node.x) - FRICTION * node.vx;
    node.ay = PULL * (node.home.y - node.y) - FRICTION * node.vy;
  }
  nodes.forEach((node, i) => {
    part(node, hub, 2 * ring + gap);
    for (let j = 0; j < i; j += 1) part(node, nodes[j], 2 * ring + gap);
  });
  let resting = true;
  for (const node of nodes) {
    if (node.pinned) continue;
    node.vx += seconds * node.ax;
    node.vy += seconds * node.ay;
    node.x += seconds * node.vx;
    node.y += seconds * node.vy;
    resting = resting && Math.abs(node.vx) + Math.abs(node.vy) < 1
      && Math.abs(node.ax) + Math.abs(node.ay) < 20;
  }
  return resting;
}

/** @param {Body} a
 * @param {Body} b
 * @param {number} between */
function part(a, b, between) {
  const x = a.x - b.x, y = a.y - b.y;
  const apart = a.radius + b.radius + between;
  if (x * x + y * y >= apart * apart) return;
  const distance = Math.hypot(x, y) || 1;
  const push = PUSH * (apart - distance) / distance;
  a.ax += push * x;
  a.ay += push * y;
  b.ax -= push * x;
  b.ay -= push * y;
}
