// All results of the batch together: images per class, and a table as a file.

import { byId, element, show } from "./dom.js";

const MOST = 12; // classes that are listed

/** Show the number of images per class, the most frequent class first. */
export function count(items) {
  const counts = new Map();
  for (const item of items) {
    const label = item.answer?.predictions[0].label;
    if (label !== undefined) counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  const sorted = [...counts].sort(([a, first], [b, second]) => second - first || a.localeCompare(b));
  const entries = sorted.slice(0, MOST).map(([label, images]) =>
    element("li", {}, [label, " ", element("b", { textContent: images })]),
  );
  if (sorted.length > MOST) entries.push(element("li", { textContent: `and ${sorted.length - MOST} more classes` }));
  byId("counts").replaceChildren(...entries);
  show(byId("counts"), items.length > 1 && entries.length > 0);
}

/** Save the results as resnet-classify writes them: a row per image and class, and an error with rank 0. */
export function save(items) {
  const rows = [["file", "rank", "label", "index", "probability", "error"]];
  for (const item of items) {
    if (item.error) rows.push([item.name, 0, "", "", "", item.error.message]);
    for (const [place, { label, index, probability }] of (item.answer?.predictions ?? []).entries()) {
      rows.push([item.name, place + 1, label, index, probability, ""]);
    }
  }
  const text = rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  element("a", { href: url, download: "classes.csv" }).click();
  URL.revokeObjectURL(url);
}

/** A cell of RFC 4180. */
function cell(value) {
  const text = String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
