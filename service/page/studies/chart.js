// A chart on a canvas: lines, bands, axes. Colours are those of the style sheet, so that light and dark follow it.

const FONT = 12; // px
const GAP = 6;
const HEIGHT = 260;
const DASHES = { solid: [], dashed: [6, 4], dotted: [2, 3], mixed: [8, 3, 2, 3] };

/**
 * Draw curves. `view` has `x` and `y`, each with a `label` and, where wanted, `log` and a `range`; `styles`, by the name
 * of a curve, with a CSS variable (`colour`) and a `dash`; `stack`, which gives each curve a strip of its own; and
 * `theory`, the name of the dotted line.
 */
export function draw(canvas, view, curves) {
  const width = canvas.clientWidth;
  const scale = devicePixelRatio;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(HEIGHT * scale);
  const pen = canvas.getContext("2d");
  const css = getComputedStyle(canvas);
  const colour = (name) => css.getPropertyValue(name).trim();
  pen.scale(scale, scale);
  pen.font = `${FONT}px ${css.fontFamily}`;
  const drawn = Object.entries(view.styles).filter(([name]) => curves[name]?.x.length > 0);
  const x = axis(view.x, drawn.flatMap(([name]) => curves[name].x));
  const y = view.stack ? { low: -view.stack, high: view.stack, ticks: [], place: linear(-view.stack, view.stack) } : axis(view.y, extent(drawn, curves, view.theory === "theory"));
  const labels = y.ticks.map((tick) => text(tick, view.y.log));
  const left = Math.ceil(Math.max(0, ...labels.map((label) => pen.measureText(label).width))) + FONT + 3 * GAP;
  const box = { left, right: width - GAP, top: GAP, bottom: HEIGHT - 2 * FONT - 3 * GAP };
  const toX = (value) => box.left + x.place(value) * (box.right - box.left);
  const toY = (value) => box.bottom - y.place(value) * (box.bottom - box.top);
  frame(pen, { view, box, x, y, toX, toY, labels, line: colour("--line"), muted: colour("--muted") });
  pen.save();
  pen.beginPath();
  pen.rect(box.left, box.top, box.right - box.left, box.bottom - box.top);
  pen.clip();
  for (const [index, [name, style]] of drawn.entries()) {
    const share = (box.bottom - box.top) / drawn.length;
    const inStrip = (value) => box.top + share * (index + 1) - y.place(value) * share;
    curve(pen, curves[name], toX, view.stack ? inStrip : toY, colour(style.colour), style.dash);
  }
  // Theory lies over the marks of all networks.
  for (const [name] of drawn) {
    if (curves[name].theory?.length > 0) path(pen, curves[name].x, curves[name].theory, toX, toY, colour("--text"), "dotted", 1.25);
  }
  pen.restore();
}

function curve(pen, { x, y, low, high }, toX, toY, colour, dash) {
  if (low?.length > 0) {
    pen.beginPath();
    x.forEach((value, index) => pen.lineTo(toX(value), toY(high[index])));
    [...x.keys()].reverse().forEach((index) => pen.lineTo(toX(x[index]), toY(low[index])));
    pen.globalAlpha = 0.2;
    pen.fillStyle = colour;
    pen.fill();
    pen.globalAlpha = 1;
  }
  path(pen, x, y, toX, toY, colour, dash, 1.75);
  if (x.length > 1) return;
  pen.beginPath(); // a single point is no line
  pen.arc(toX(x[0]), toY(y[0]), 2.5, 0, 2 * Math.PI);
  pen.fillStyle = colour;
  pen.fill();
}

function path(pen, x, y, toX, toY, colour, dash, width) {
  pen.beginPath();
  x.forEach((value, index) => index < y.length && pen.lineTo(toX(value), toY(y[index])));
  pen.setLineDash(DASHES[dash]);
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.lineJoin = "round";
  pen.stroke();
  pen.setLineDash([]);
}

function frame(pen, { view, box, x, y, toX, toY, labels, line, muted }) {
  pen.strokeStyle = line;
  pen.lineWidth = 1;
  pen.fillStyle = muted;
  pen.textBaseline = "middle";
  pen.textAlign = "right";
  y.ticks.forEach((tick, index) => {
    stroke(pen, box.left, toY(tick), box.right, toY(tick));
    pen.fillText(labels[index], box.left - GAP, toY(tick));
  });
  pen.textBaseline = "top";
  pen.textAlign = "center";
  for (const tick of x.ticks) {
    const label = text(tick, view.x.log);
    const half = pen.measureText(label).width / 2;
    stroke(pen, toX(tick), box.bottom, toX(tick), box.bottom + GAP / 2);
    pen.fillText(label, Math.min(toX(tick), box.right - half), box.bottom + GAP);
  }
  stroke(pen, box.left, box.bottom, box.right, box.bottom);
  pen.fillText(view.x.label, (box.left + box.right) / 2, box.bottom + FONT + 2 * GAP);
  pen.save();
  pen.translate(GAP, (box.top + box.bottom) / 2);
  pen.rotate(-Math.PI / 2);
  pen.fillText(view.y.label, 0, 0);
  pen.restore();
}

function stroke(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(x1, Math.round(y1) + 0.5);
  pen.lineTo(x2, Math.round(y2) + 0.5);
  pen.stroke();
}

/** All values that the vertical axis must show. The prediction of a steep loss may leave the chart. */
function extent(drawn, curves, withTheory) {
  return drawn.flatMap(([name]) => {
    const { y, low, high, theory } = curves[name];
    return [...y, ...(low ?? []), ...(high ?? []), ...((withTheory && theory) || [])];
  });
}

const linear = (low, high) => (value) => (value - low) / (high - low);
const logarithmic = (low, high) => (value) => Math.log(value / low) / Math.log(high / low);

/** The range of an axis, its ticks, and the place of a value as a share of the range. */
function axis({ log = false, range = null }, values) {
  const used = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  let [low, high] = range ?? [Math.min(...used), Math.max(...used)];
  if (!(high > low)) [low, high] = log ? [low / 10 || 0.1, high * 10 || 10] : [(low || 0) - 1, (high || 0) + 1];
  if (log) return { low, high, ticks: decades(low, high), place: logarithmic(low, high) };
  if (range === null) {
    const margin = 0.04 * (high - low);
    [low, high] = [low - margin, high + margin];
  }
  const step = roundStep((high - low) / 5);
  const ticks = [];
  for (let index = Math.ceil(low / step); index * step <= high; index++) ticks.push(index * step);
  return { low, high, ticks, place: linear(low, high) };
}

function decades(low, high) {
  const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  const step = Math.max(1, Math.ceil((last - first) / 6));
  const ticks = [];
  for (let power = first; power <= last; power += step) ticks.push(10 ** power);
  return ticks.length > 1 ? ticks : [low, high];
}

/** 1, 2 or 5 times a power of ten. */
function roundStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= least * 0.999);
}

const DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** A tick as text; powers of ten for logarithmic axes that are long. */
function text(value, log) {
  const power = Math.round(Math.log10(value));
  if (log && Math.abs(value / 10 ** power - 1) < 1e-6 && (power < -2 || power > 3)) {
    return `10${power < 0 ? "⁻" : ""}${[...String(Math.abs(power))].map((digit) => DIGITS[digit]).join("")}`;
  }
  const short = Number(value.toPrecision(3));
  const shown = Math.abs(short) >= 1e5 || (short !== 0 && Math.abs(short) < 1e-3) ? short.toExponential() : String(short);
  return shown.replaceAll("-", "−");
}
