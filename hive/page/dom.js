// Elements of the page. Text goes in as text, never as markup: names are hostile.

/** A new element with properties (className, type, ariaLabel, ...) and children or text. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Changes only what differs: neither a selection nor a screen reader is disturbed. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
