// Throughput, queue and latency, read from /metrics. Paused while the tab is hidden.

import { metrics } from "./api.js";
import { byId, show } from "./dom.js";

const EVERY = 2000; // ms
const KEPT = 60; // samples in a line
const LEAST = 15; // samples that fill the width of a line
const SVG = "http://www.w3.org/2000/svg";

const lines = { throughput: [], queue: [], latency: [] };
let before = null;

/** Start to watch; `onGone()` is called when the service does not answer. Hidden without access to the metrics. */
export function watch(onGone) {
  let timer = null;
  const tick = async () => {
    await sample().catch(() => {
      show(byId("live"), false);
      before = null;
      onGone();
    });
    timer = document.hidden ? null : setTimeout(tick, EVERY);
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    clearTimeout(timer);
    before = null; // the rate over the hidden time is not the current rate
    tick();
  });
  tick();
}

async function sample() {
  const text = await metrics();
  show(byId("live"), text !== null);
  if (text === null) return;
  const now = { at: performance.now(), ...read(text) };
  if (before !== null) {
    const latency = median(now.buckets, before.buckets);
    draw("throughput", (now.images - before.images) / ((now.at - before.at) / 1000), 1);
    draw("queue", now.queue, 0);
    draw("latency", latency, 1);
  }
  before = now;
}

/** The values that are shown, read from the text format of Prometheus. */
function read(text) {
  const found = { images: 0, queue: 0, buckets: new Map() };
  for (const line of text.split("\n")) {
    const [, name, labels, value] = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line) ?? [];
    if (name === "resnet_images_total") found.images += Number(value);
    if (name === "resnet_queue_images") found.queue += Number(value);
    if (name === "resnet_stage_seconds_bucket" && labels.includes('stage="total"')) {
      const bound = Number(/le="([^"]+)"/.exec(labels)[1].replace("+Inf", "Infinity"));
      found.buckets.set(bound, (found.buckets.get(bound) ?? 0) + Number(value));
    }
  }
  return found;
}

/** Median in ms between two readings of a cumulative histogram; null without samples. */
function median(now, earlier) {
  const counts = [...now].sort(([a], [b]) => a - b).map(([bound, count]) => [bound, count - (earlier.get(bound) ?? 0)]);
  const half = (counts.at(-1)?.[1] ?? 0) / 2;
  if (half === 0) return null;
  const place = counts.findIndex(([, count]) => count >= half);
  const [lower, below] = place === 0 ? [0, 0] : counts[place - 1];
  const [upper, above] = counts[place];
  if (upper === Infinity) return 1000 * lower;
  return 1000 * (lower + ((upper - lower) * (half - below)) / (above - below));
}

function draw(name, value, digits) {
  const samples = lines[name];
  samples.push(value ?? 0);
  if (samples.length > KEPT) samples.shift();
  byId(name).textContent = value === null ? "–" : value.toFixed(value < 10 ? digits : 0);
  byId(`${name}-line`).replaceChildren(sparkline(samples));
}

function sparkline(samples) {
  const most = Math.max(...samples, 1e-9);
  const span = Math.max(samples.length, LEAST) - 1;
  const points = samples.map((value, index) => `${span + 1 - samples.length + index},${19 - (18 * value) / most}`);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${span} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points.join(" "));
  svg.append(line);
  return svg;
}
