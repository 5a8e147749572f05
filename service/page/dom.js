// Helpers to build the page. Text is always set as text, never as markup.

export const byId = (id) => document.getElementById(id);

/** An element with properties and children; `data-*`, `aria-*` and similar ones are `attributes`. */
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

/** Announce a text to screen readers. */
export function announce(text) {
  byId("status").textContent = text;
}

/** A probability as text; rounding never makes it 0% or 100%. */
export function percent(share) {
  if (share < 0.001) return "<0.1%";
  if (share < 0.0995 || share >= 0.995) return `${Math.min(100 * share, 99.9).toFixed(1)}%`;
  return `${(100 * share).toFixed(0)}%`;
}

/** A message of the service as a sentence, with a capital letter and a full stop. */
export const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${/[.?!]$/.test(text) ? "" : "."}`;

export const milliseconds = (value) => `${value.toFixed(value >= 99.5 ? 0 : value >= 9.95 ? 1 : 2)} ms`;
