// The facts of the chosen model, and the lines that send the image shown to it from a program.

import { card, classifyPath } from "./api.js";
import { headers } from "./key.js";
import { byId, element, sentence, show } from "./dom.js";

const COLOURS = { L: "grey", RGB: "colour" };

let described = null;

/** Show what the model is, or nothing for null. */
export function describe(model) {
  show(byId("about"), model !== null);
  described = model;
  byId("card").open = false;
  if (model === null) return;
  const { accuracy, input_size: [width, height] } = model;
  const facts = [
    ["Network", model.architecture],
    ["Version", model.version],
    ["Input", `${width} × ${height}, ${COLOURS[model.mode] ?? model.mode}`],
    ["Classes", model.labels.length.toLocaleString("en")],
    ["Accuracy", accuracy === null ? "not measured" : measured(accuracy)],
    ["Precision", model.precision],
    ["Runtime", model.executor],
    ["Heat maps", model.cam ? "yes" : "no"],
  ];
  byId("facts").replaceChildren(
    ...facts.map(([name, value]) =>
      element("div", {}, [element("dt", { textContent: name }), element("dd", { textContent: value })]),
    ),
  );
}

byId("card").addEventListener("toggle", async () => {
  const model = described;
  if (model === null || !byId("card").open) return;
  const text = await card(model).catch((error) => sentence(error.message));
  if (model === described) byId("card-text").textContent = text;
});

function measured({ top1, images }) {
  return `${(100 * top1).toFixed(2)}% of ${images.toLocaleString("en")} test images`;
}

/** Show how to send an item of the batch with curl and with Python. */
export function explain(item, model) {
  show(byId("program"), item !== null && model !== null);
  if (item === null || model === null) return;
  const url = new URL(classifyPath(model), document.baseURI).href;
  const type = item.file.type.startsWith("image/") ? item.file.type : "application/octet-stream";
  const fields = { "Content-Type": type, ...(headers().Authorization && { Authorization: "Bearer YOUR_KEY" }) };
  const options = Object.entries(fields).map(([name, value]) => `-H ${shell(`${name}: ${value}`)} \\\n  `);
  byId("curl").textContent = `curl ${options.join("")}--data-binary ${shell(`@${item.name}`)} \\\n  ${shell(url)}`;
  byId("python").textContent = [
    "import requests",
    "",
    `url = ${JSON.stringify(url)}`,
    `headers = ${JSON.stringify(fields)}`,
    `with open(${JSON.stringify(item.name)}, "rb") as image:`,
    "    response = requests.post(url, data=image, headers=headers)",
    "response.raise_for_status()",
    'print(response.json()["results"][0]["predictions"])',
  ].join("\n");
}

/** A word for the shell. */
function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

for (const button of document.querySelectorAll("[data-copies]")) {
  show(button, Boolean(navigator.clipboard)); // browsers allow it over https, and for this machine
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(byId(button.dataset.copies).textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
