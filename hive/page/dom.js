// Elements of the page. Text goes in as text, never as markup: names are hostile.

export const element = (id) => document.getElementById(id);

/** A new element with properties (className, type, ariaLabel, ...) and children or text. */
export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Changes only what differs: neither a selection nor a screen reader is disturbed. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A control under its name; with `value`, what it is set to stands beside the name. */
export function labelled(name, control, value = "") {
  return make("label", {}, make("span", {}, name, value), control);
}
