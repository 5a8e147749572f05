// Connects the parts of the page: images by drop, paste, file dialog, camera or example go to the batch.

import * as api from "./api.js";
import { Batch } from "./batch.js";
import * as camera from "./camera.js";
import { byId, element, sentence, show } from "./dom.js";
import * as key from "./key.js";
import * as lesion from "./lesion.js";
import * as live from "./live.js";
import { describe, explain } from "./model.js";
import * as rollout from "./rollout.js";
import { showMaps, view } from "./viewer.js";

const RETRY = 1000; // ms until the next request to a service that loads its models, or is gone

const batch = new Batch(showItem, connect);
let models = [];
let connecting = false;

function showItem(item) {
  view(item, batch.model);
  explain(item, batch.model);
  lesion.use(item, batch.model);
  if (item?.answer && !item.maps && batch.model.cam) loadMaps(item, batch.model);
}

/** Heat maps of the image that is shown, apart from its classification: the time of that is then what a client pays. */
async function loadMaps(item, model) {
  const { answer } = item;
  item.maps = { pictures: [] };
  const maps = await api.heatMaps(item.file, model).catch((error) => ({ pictures: [], error }));
  if (item.answer !== answer) return; // of another model by now
  item.maps = maps;
  showMaps(item);
}

function takeFiles() {
  byId("files").addEventListener("change", (event) => {
    batch.add(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
  byId("clear").addEventListener("click", () => {
    batch.clear();
    byId("files").focus();
  });
  byId("drop").addEventListener("click", () => byId("files").click());
  document.addEventListener("paste", (event) => batch.add(event.clipboardData.files));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    batch.add(event.dataTransfer.files);
  });
}

/** Wait for the service, ask for a key where one is needed, then offer the models and send the images that wait. */
async function connect() {
  if (connecting) return;
  connecting = true;
  let found = [];
  while (found.length === 0) {
    try {
      found = await api.models();
      notice(found.length === 0 ? "The models are being loaded." : "");
    } catch (error) {
      notice(error.kind === "key" ? "" : sentence(error.message));
      if (error.kind === "key") {
        await key.ask(error.message);
        continue;
      }
    }
    if (found.length === 0) await new Promise((resolve) => setTimeout(resolve, RETRY));
  }
  connecting = false;
  models = found;
  key.accepted();
  fill(byId("model"), [...new Set(models.map((model) => model.name))]);
  offerVersions();
}

function offerVersions() {
  fill(byId("version"), models.filter((model) => model.name === byId("model").value).map((model) => model.version));
  choose();
}

function choose() {
  const model = models.find(({ name, version }) => name === byId("model").value && version === byId("version").value);
  if (!model.labels) return load(model);
  describe(model);
  rollout.use(model.name);
  batch.use(model);
}

/** Have a model loaded that is not in memory, and choose it unless another one was chosen meanwhile. */
async function load(model) {
  notice(`Loading ${model.name}.`);
  try {
    Object.assign(model, await api.model(model.name));
    notice("");
    if (byId("model").value === model.name) offerVersions();
  } catch (error) {
    notice(sentence(error.message));
  }
}

/** Set the options of a list, and keep the chosen one if it is still among them. */
function fill(select, values) {
  const chosen = select.value;
  select.replaceChildren(...values.map((value) => element("option", { value, textContent: value })));
  if (values.includes(chosen)) select.value = chosen;
  select.disabled = false;
}

async function offerExamples() {
  const names = await api.examples();
  const items = names.map((name) => {
    const path = `examples/${encodeURIComponent(name)}`;
    const title = name.replace(/\.\w+$/, "").replaceAll("-", " ");
    const button = element("button", { type: "button", className: "example" }, [
      element("img", { src: path, alt: "" }),
      element("span", { textContent: title }),
    ]);
    button.addEventListener("click", async () => {
      batch.add([new File([await (await fetch(path)).blob()], name)]);
    });
    return element("li", {}, [button]);
  });
  byId("examples").querySelector("ul").replaceChildren(...items);
  show(byId("examples"), items.length > 0);
}

function notice(text) {
  byId("notice").textContent = text;
  show(byId("notice"), text !== "");
}

byId("model").addEventListener("change", offerVersions);
byId("version").addEventListener("change", choose);
takeFiles();
camera.offer((photo) => batch.add([photo]));
connect();
offerExamples().catch(() => show(byId("examples"), false));
live.watch(connect);
