// One image: the picture, its classes as bars, the heat map of a class over it, and the time of its request.

import { byId, element, milliseconds, percent, sentence, show } from "./dom.js";

const SMALL = 96; // pixels; a smaller image is shown with visible pixels instead of smoothed
const STAGES = [
  ["decode_ms", "decode"],
  ["queue_ms", "queue"],
  ["inference_ms", "inference"],
];
const FAILURES = {
  image: "This image cannot be read",
  refused: "This image was not classified",
  gone: "The service is gone",
  key: "An API key is needed",
};

let shown = null;
let pinned = null; // index of the class whose heat map is kept
let wanted = null; // index of the class whose heat map is shown, once it is there

const image = byId("image");
const map = byId("map");

image.addEventListener("load", () => {
  const { naturalWidth: width, naturalHeight: height } = image;
  image.classList.toggle("pixels", Math.max(width, height) <= SMALL);
  frame(true, width, height);
});
image.addEventListener("error", () => frame(false, 16, 9));

/** Give the frame the proportions of the picture, so that the heat map covers the picture exactly. */
function frame(works, width, height) {
  byId("frame").style.aspectRatio = `${width} / ${height}`;
  byId("frame").style.setProperty("--aspect", width / height);
  show(image, works);
  show(byId("no-preview"), !works);
}

/** Show an item of the batch, or the empty state for null; `model` may have heat maps. */
export function view(item, model) {
  const changed = shown !== item;
  shown = item;
  pinned = changed ? null : pinned;
  show(byId("drop"), item === null);
  show(byId("picture"), item !== null);
  if (item !== null && changed) {
    image.src = item.url;
    image.alt = `The image ${item.name}`;
  }
  showMap(null);
  headline(item);
  bars(item?.answer?.predictions ?? [], Boolean(model?.cam));
  timing(item?.answer?.timing ?? null);
  mapsTime(item?.maps);
}

/** Show the heat maps of an item, which come after its classes. */
export function showMaps(item) {
  if (item !== shown) return;
  showMap(wanted);
  mapsTime(item.maps);
}

function headline(item) {
  const best = item?.answer?.predictions[0];
  const failure = item?.error ?? item?.problem;
  const [title, lead] = !item
    ? ["What is in the picture?", "Send an image to see its most probable classes, and a heat map of the pixels that support each class."]
    : failure
      ? [FAILURES[failure.kind], `${sentence(failure.message)}${item.problem ? " The image is sent again as soon as possible." : ""}`]
      : best
        ? [best.label, `${percent(best.probability)} sure`]
        : ["Classifying…", item.name];
  byId("headline").textContent = title;
  byId("lead").textContent = lead;
  byId("results").classList.toggle("failed", Boolean(failure));
}

function bars(predictions, withMaps) {
  const list = byId("bars");
  list.replaceChildren(...predictions.map((prediction, index) => element("li", {}, [bar(prediction, index, withMaps)])));
  show(list, predictions.length > 0);
  show(byId("hint"), withMaps && predictions.length > 0);
}

function bar(prediction, index, withMaps) {
  const button = element("button", { type: "button", className: "bar" }, [
    element("span", { className: "label", textContent: prediction.label }),
    element("span", { className: "value", textContent: percent(prediction.probability) }),
    element("span", { className: "track" }, [element("span", { className: "fill" })], { "aria-hidden": "true" }),
  ]);
  button.querySelector(".fill").style.width = `${100 * prediction.probability}%`;
  if (!withMaps) return button;
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("pointerenter", () => showMap(index));
  button.addEventListener("focus", () => showMap(index));
  button.addEventListener("pointerleave", () => showMap(focused() ?? pinned));
  button.addEventListener("blur", () => showMap(pinned));
  button.addEventListener("click", () => {
    pinned = pinned === index ? null : index;
    for (const [place, other] of [...byId("bars").querySelectorAll("button")].entries()) {
      other.setAttribute("aria-pressed", String(place === pinned));
    }
    showMap(pinned);
  });
  return button;
}

/** Index of the class with the keyboard focus. */
function focused() {
  const buttons = [...byId("bars").querySelectorAll("button")];
  const index = buttons.findIndex((button) => button.matches(":focus-visible"));
  return index < 0 ? null : index;
}

function showMap(index) {
  wanted = index;
  const picture = shown?.maps?.pictures[index];
  const label = shown?.answer?.predictions[index]?.label;
  if (picture) {
    map.src = `data:image/png;base64,${picture}`;
    map.alt = `Heat map of the pixels that support ${label}`;
  }
  show(map, Boolean(picture));
  show(byId("legend"), Boolean(picture));
  byId("caption").textContent = picture ? `Pixels that support “${label}”` : describe(shown);
}

function describe(item) {
  const info = item?.answer?.image;
  return info ? `${item.name} · ${info.width} × ${info.height} ${info.format}` : (item?.name ?? "");
}

function timing(values) {
  show(byId("timing"), values !== null);
  if (values === null) return;
  const parts = STAGES.map(([key, name]) => [name, values[key]]);
  const known = parts.reduce((sum, [, value]) => sum + value, 0);
  parts.push(["other", Math.max(0, values.total_ms - known)]);
  byId("stages").replaceChildren(
    ...parts.map(([name, value]) => {
      const piece = element("span", { className: `stage-${name}` });
      piece.style.flexGrow = value;
      return piece;
    }),
  );
  byId("stage-list").replaceChildren(
    ...[...parts, ["total", values.total_ms]].map(([name, value]) =>
      element("div", { className: `stage-${name}` }, [
        element("dt", { textContent: name }),
        element("dd", { textContent: milliseconds(value) }),
      ]),
    ),
  );
}

/** The time for the heat maps, which the page asks for in a second request. */
function mapsTime(maps) {
  const text = maps?.error
    ? `There are no heat maps: ${sentence(maps.error.message)}`
    : maps?.time
      ? `The heat maps took another ${milliseconds(maps.time)}, in a request of their own.`
      : "";
  byId("maps-time").textContent = text;
  show(byId("maps-time"), text !== "");
}
