// A rollout: how the versions of the chosen model share its requests, and how far shadows agree with them.

import * as api from "./api.js";
import { byId, element, milliseconds, show } from "./dom.js";

const EVERY = 2000; // ms

let name = null;
let timer = null;
let shown = ""; // the images that are shown, so that they are only replaced by others

/** Watch the rollout of a model from now on. Paused while the tab is hidden. */
export function use(model) {
  if (model === name) return;
  name = model;
  tick();
}

async function tick() {
  clearTimeout(timer);
  const model = name;
  const found = await api.rollout(model).catch(() => null);
  if (model !== name) return;
  const active = found !== null && found.policy !== null;
  show(byId("rollout"), active);
  if (active) await draw(found);
  timer = document.hidden ? null : setTimeout(tick, active ? EVERY : 5 * EVERY);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && name !== null) tick();
});

async function draw({ model, policy, versions, shadows }) {
  byId("shares").replaceChildren(...versions.filter((each) => concerns(policy, each)).map(share));
  byId("shadows").replaceChildren(...shadows.map((each) => comparison(each, policy.rules)));
  const images = policy.keep_images > 0 ? await api.differing(model).catch(() => []) : [];
  show(byId("differing"), images.length > 0);
  const key = images.map(({ png }) => png.length + png.slice(-40)).join();
  if (key === shown) return;
  shown = key;
  byId("differing-images").replaceChildren(...images.map(difference));
}

/** Whether a version is in the policy. */
function concerns({ weights, shadow }, { version }) {
  return version in weights || version in shadow;
}

function share({ version, state, reason, share: part, images, failures }) {
  const served = state === "READY" ? `${images.toLocaleString("en")} images` : sentenceOf(state, reason);
  const failed = failures > 0 ? `, ${failures.toLocaleString("en")} requests failed` : "";
  return element("li", {}, [
    element("span", { className: "label", textContent: `Version ${version}` }),
    element("span", { className: "value", textContent: `${exact(part)} of the requests` }),
    bar([[0, part, "fill"]]),
    element("small", { textContent: `${served}${failed}` }),
  ]);
}

const sentenceOf = (state, reason) => (reason ? `${state.toLowerCase()}: ${reason}` : state.toLowerCase());

function comparison({ version, shadow, reason, waiting, dropped, failed, agreement: found }, rules) {
  const title = element("h3", { className: "small-heading", textContent: `Shadow: version ${shadow} beside version ${version}` });
  if (reason !== null) return element("div", { className: "shadow" }, [title, element("p", { textContent: reason })]);
  if (found.agreement === null) {
    return element("div", { className: "shadow" }, [title, element("p", { className: "muted", textContent: "No image was compared yet." })]);
  }
  const { value, low, high } = found.agreement;
  const facts = [
    ["Same label first", `${exact(value)} of ${found.images.toLocaleString("en")} images`],
    ["95 % confidence", `${exact(low)} to ${exact(high)}`],
    ["Distance of the probabilities", `${found.distance.value.toFixed(4)} (${found.distance.low.toFixed(4)} to ${found.distance.high.toFixed(4)})`],
    ["Time of a batch, median", `${time(found.first?.median)}, shadow ${time(found.second?.median)}`],
    ["Time of a batch, p99", `${time(found.first?.p99)}, shadow ${time(found.second?.p99)}`],
    ["Time per image", `${time(found.first?.per_image)}, shadow ${time(found.second?.per_image)}`],
    ["Not compared", `${waiting} wait, ${dropped} dropped, ${failed} failed`],
  ];
  if (rules !== null && String(rules.candidate) === shadow) facts.push(["Rules", decision(rules, found.images)]);
  const list = facts.map(([term, text]) =>
    element("div", {}, [element("dt", { textContent: term }), element("dd", { textContent: text })]),
  );
  const differ = found.classes.filter(({ images, agreed }) => agreed < images);
  return element("div", { className: "shadow" }, [
    title,
    bar([[low, high, "interval"], [0, value, "fill"]]),
    element("dl", {}, list),
    ...(differ.length > 0 ? [table(differ.slice(0, 10))] : []),
  ]);
}

function decision({ min_images: least, min_agreement: bound, dry_run: dry }, images) {
  const left = Math.max(0, least - images);
  const kept = dry ? ", only in the log" : "";
  return `${exact(bound)} needed after ${least.toLocaleString("en")} images; ${left.toLocaleString("en")} left${kept}`;
}

/** Classes with disagreements. */
function table(classes) {
  const cell = (tag, text) => element(tag, { textContent: text });
  const head = element("tr", {}, ["Class", "Images", "Same label"].map((text) => element("th", { textContent: text }, [], { scope: "col" })));
  const rows = classes.map(({ label, images, agreed }) =>
    element("tr", {}, [cell("td", label), cell("td", images.toLocaleString("en")), cell("td", exact(agreed / images))]),
  );
  return element("table", {}, [
    element("caption", { className: "muted", textContent: "Classes on which they differ most" }),
    element("thead", {}, [head]),
    element("tbody", {}, rows),
  ]);
}

function difference({ label, probability, shadow_label: other, shadow_probability: share, png }) {
  const text = `${label} ${exact(probability)}; shadow: ${other} ${exact(share)}`;
  return element("li", { className: "difference" }, [
    element("img", { src: `data:image/png;base64,${png}`, alt: "", className: "pixels" }),
    element("small", { textContent: text }),
  ]);
}

/** A bar from 0 to 1 with parts [[from, to, class]]. */
function bar(parts) {
  const made = element("span", { className: "track" }, [], { "aria-hidden": "true" });
  for (const [from, to, className] of parts) {
    const part = element("i", { className });
    part.style.setProperty("left", `${100 * from}%`);
    part.style.setProperty("width", `${100 * (to - from)}%`);
    made.append(part);
  }
  return made;
}

const exact = (part) => `${(100 * part).toFixed(part > 0.98 && part < 1 ? 2 : 1)}%`;
const time = (seconds) => (seconds === undefined || seconds === null ? "–" : milliseconds(1000 * seconds));
