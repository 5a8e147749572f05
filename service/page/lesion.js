// Blocks that can be deleted from the network: the classes of the image that is shown, without them.

import * as api from "./api.js";
import { byId, element, percent, sentence, show } from "./dom.js";

let model = null;
let item = null;
let deleted = new Set(); // numbers of blocks
let asked = ""; // the image and the blocks of the last request
let asking = false;

/** Show the blocks of a model, and the classes of an item of the batch without those that are deleted. */
export function use(shown, chosen) {
  if (chosen?.name !== model?.name || chosen?.version !== model?.version) offer(chosen);
  const able = Boolean(model?.lesions) && Boolean(shown?.answer);
  if (item !== shown) clear();
  item = able ? shown : null;
  show(byId("lesion"), able);
  update();
}

function offer(chosen) {
  model = chosen;
  deleted = new Set();
  clear();
  const stages = new Map();
  for (const [place, block] of (model?.lesions ?? []).entries()) {
    const stage = block.name.split(",")[0];
    stages.set(stage, [...(stages.get(stage) ?? []), toggle(place + 1, block)]);
  }
  byId("blocks").replaceChildren(
    ...[...stages].map(([stage, toggles]) =>
      element("div", { className: "blocks-stage" }, [element("span", { className: "muted", textContent: stage }, [], { "aria-hidden": "true" }), ...toggles]),
    ),
  );
}

function toggle(number, { name, changes_shape: changes }) {
  const title = `Delete ${name}${changes ? ", whose shortcut changes the shape" : ""}`;
  const button = element("button", { type: "button", className: changes ? "block changes" : "block", textContent: number, title }, [], {
    "aria-label": title,
    "aria-pressed": "false",
  });
  button.addEventListener("click", () => {
    if (!deleted.delete(number)) deleted.add(number);
    press();
    update();
  });
  return button;
}

/** Show on the buttons which blocks are deleted. */
function press() {
  for (const [place, button] of [...byId("blocks").querySelectorAll("button")].entries()) {
    button.setAttribute("aria-pressed", String(deleted.has(place + 1)));
  }
}

function clear() {
  asked = "";
  byId("lesion-answer").textContent = "";
  byId("lesion-bars").replaceChildren();
  show(byId("lesion-bars"), false);
}

/** Ask for the classes without the deleted blocks; one request at a time, the last choice of blocks at the end. */
async function update() {
  show(byId("restore"), deleted.size > 0);
  if (deleted.size === 0) clear();
  while (!asking && item !== null && deleted.size > 0) {
    const blocks = [...deleted].sort((a, b) => a - b);
    const wanted = `${item.url} ${blocks}`;
    if (wanted === asked) return;
    asking = true;
    const [file, of] = [item.file, model];
    const found = await api.lesion(file, of, blocks).catch((error) => ({ error }));
    asking = false;
    if (item?.file !== file || model !== of || deleted.size === 0) continue;
    asked = wanted;
    draw(found, blocks);
  }
}

function draw({ whole, predictions, error }, blocks) {
  if (error) {
    byId("lesion-answer").textContent = sentence(error.message);
    show(byId("lesion-bars"), false);
    return;
  }
  const [before, after] = [whole[0], predictions[0]];
  const without = `Without ${blocks.length === 1 ? `block ${blocks[0]}` : `${blocks.length} blocks`}`;
  const values = `${percent(before.probability)} with all blocks, ${percent(after.probability)} now`;
  byId("lesion-answer").textContent = before.index === after.index
    ? `${without}, the label is still ${after.label}: ${values}.`
    : `${without}, the label is ${after.label} instead of ${before.label}: ${values}.`;
  byId("lesion-bars").replaceChildren(...predictions.map((each) => element("li", {}, [bar(each)])));
  show(byId("lesion-bars"), true);
}

function bar({ label, probability }) {
  const made = element("div", { className: "bar" }, [
    element("span", { className: "label", textContent: label }),
    element("span", { className: "value", textContent: percent(probability) }),
    element("span", { className: "track" }, [element("span", { className: "fill" })], { "aria-hidden": "true" }),
  ]);
  made.querySelector(".fill").style.width = `${100 * probability}%`;
  return made;
}

byId("restore").addEventListener("click", () => {
  deleted.clear();
  press();
  update();
  byId("blocks").querySelector("button").focus(); // this one is hidden now
});
