// Small helpers for building the page. Text is always set as text, never as markup.

export const byId = (id) => document.getElementById(id);

/** An element with properties and children; `data-*`, `aria-*` and the like go into `attributes`. */
export function element(tag, properties = {}, children = [], attributes = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Show or hide an element. */
export function show(target, visible) {
  target.hidden = !visible;
}

/** Tell those who listen instead of looking. */
export function announce(text) {
  byId("status").textContent = text;
}

export const percent = (share) => `${(100 * share).toFixed(share >= 0.0995 ? 0 : 1)}%`;

export const milliseconds = (value) => `${value.toFixed(value >= 99.5 ? 0 : value >= 9.95 ? 1 : 2)} ms`;
