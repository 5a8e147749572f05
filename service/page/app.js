// Connects the parts of the page: images by drop, paste, file dialog, camera or example go to the batch.

import * as api from "./api.js";
import { Batch } from "./batch.js";
import * as camera from "./camera.js";
import { byId, element, sentence, show } from "./dom.js";
import * as live from "./live.js";
import { view } from "./viewer.js";

const RETRY = 1000; // ms until the next request to a service that still loads its models

const batch = new Batch(view);

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

async function offerModels() {
  let models = [];
  while (models.length === 0) {
    try {
      models = await api.models();
      notice(models.length === 0 ? "The models are being loaded." : "");
    } catch (error) {
      notice(sentence(error.message));
    }
    if (models.length === 0) await new Promise((resolve) => setTimeout(resolve, RETRY));
  }
  const [name, version] = [byId("model"), byId("version")];
  const ofName = () => models.filter((model) => model.name === name.value);
  const chosen = () => batch.use(ofName().find((model) => model.version === version.value));
  const offerVersions = () => {
    fill(version, ofName().map((model) => model.version));
    chosen();
  };
  fill(name, [...new Set(models.map((model) => model.name))]);
  name.addEventListener("change", offerVersions);
  version.addEventListener("change", chosen);
  offerVersions();
}

function fill(select, values) {
  select.replaceChildren(...values.map((value) => element("option", { value, textContent: value })));
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

takeFiles();
camera.offer((photo) => batch.add([photo]));
offerModels();
offerExamples();
live.watch();
