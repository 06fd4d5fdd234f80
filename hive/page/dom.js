// Elements of the page. Text goes in as text, never as markup: names are hostile.

/** The element of index.html with this identifier, and maybe of just this kind.
 * @template {HTMLElement} [Kind=HTMLElement]
 * @param {string} id
 * @param {new () => Kind} [kind]
 * @returns {Kind} */
export function element(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof (kind ?? HTMLElement))) throw new Error(`The page has no such #${id}.`);
  return /** @type {Kind} */ (found);
}

/** A new element with properties (className, type, ariaLabel, ...) and children or text.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Partial<HTMLElementTagNameMap[Tag]>} properties
 * @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[Tag]} */
export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Changes only what differs: neither a selection nor a screen reader is disturbed.
 * @param {Node} node
 * @param {string} text */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A control under its name; with `value`, what it is set to stands beside the name.
 * @param {string} name
 * @param {HTMLElement} control
 * @param {HTMLElement | string} value */
export function labelled(name, control, value = "") {
  return make("label", {}, make("span", {}, name, value), control);
}

/** What draws on a canvas.
 * @param {HTMLCanvasElement} canvas */
export function contextOf(canvas) {
  const context = canvas.getContext("2d");
  if (!context) throw new Error("This browser cannot draw on a canvas.");
  return context;
}
