// Shattered gradients: models/studies/live/shattered_gradients.py, step by step. `compute` yields a function that gives
// the charts up to now, or nothing where only time has passed.

import { band, line } from "./curves.js";
import { RandomTensors } from "./generator.js";
import { GAINS, mean, places, spaced, statistics } from "./layers.js";

const POINTS = 256;
const LAGS = 40;
const CONSTANT = 1e-8; // relative deviation under which differences of a gradient are rounding errors

export function* compute({ layers, width, init, beta, normalised, seeds, first }) {
  const x = spaced(-2, 2, POINTS);
  const distances = Array.from({ length: LAGS + 1 }, (_, lag) => lag * (4 / (POINTS - 1)));
  const rows = { plain: [], residual: [], "white noise": [], "brown noise": [] };
  const gradients = {};
  const charts = () => ({
    gradient: { ...gradients },
    autocorrelation: Object.fromEntries(
      Object.entries(rows).map(([name, found]) => [name, band(distances, found, "error")]),
    ),
  });
  for (let seed = first; seed < first + seeds; seed++) {
    for (const name of Object.keys(rows)) {
      const gradient = name.endsWith("noise")
        ? noise(name, seed)
        : yield* gradientOf(name === "residual", x, { layers, width, init, beta, normalised }, new RandomTensors(seed));
      const { size, deviation } = spread(gradient);
      const constant = deviation <= CONSTANT * size;
      if (seed === first && !name.endsWith("noise")) {
        const scale = constant ? size || 1 : deviation;
        gradients[name] = line(x, gradient.map((value) => value / scale));
      }
      if (!constant) rows[name].push(autocorrelation(gradient));
      yield charts;
    }
  }
}

function noise(name, seed) {
  const values = new RandomTensors(seed).normal(POINTS);
  if (name === "brown noise") for (let place = 1; place < POINTS; place++) values[place] += values[place - 1];
  return values;
}

/** d output / d input at each point; values and their derivatives with respect to the input go forward together. */
function* gradientOf(residual, x, { layers, width, init, beta, normalised }, draws) {
  const linear = (dual, inputs, units) => {
    const scale = Math.sqrt(GAINS[init] / inputs);
    const weight = draws.normal(inputs * units, scale);
    const bias = draws.normal(units, scale);
    return multiply(dual, inputs, weight, bias);
  };
  const activate = (dual) => relu(normalised ? standardise(dual) : dual);
  let hidden = relu(linear({ value: x, slope: new Float64Array(POINTS).fill(1) }, 1, width));
  if (residual) {
    hidden = linear(hidden, width, width);
    for (let layer = 3; layer < layers; layer++) {
      const branch = linear(activate(hidden), width, width);
      for (const part of ["value", "slope"]) {
        for (let at = 0; at < hidden[part].length; at++) hidden[part][at] += beta * branch[part][at];
      }
      yield;
    }
    hidden = activate(hidden);
  } else {
    for (let layer = 2; layer < layers; layer++) {
      hidden = activate(linear(hidden, width, width));
      yield;
    }
  }
  return linear(hidden, width, 1).slope;
}

/** As `multiply` of layers.js, on values and slopes at once: a slope is 0 wherever the value is. */
function multiply({ value, slope }, inputs, weight, bias) {
  const units = bias.length;
  const out = { value: new Float64Array(POINTS * units), slope: new Float64Array(POINTS * units) };
  const [outValue, outSlope] = [out.value, out.slope];
  const found = new Int32Array(inputs);
  for (let point = 0; point < POINTS; point++) {
    const from = point * inputs;
    const to = point * units;
    const count = places(value, from, inputs, found);
    outValue.set(bias, to);
    let next = 0;
    for (; next + 3 < count; next += 4) {
      const f0 = from + found[next];
      const f1 = from + found[next + 1];
      const f2 = from + found[next + 2];
      const f3 = from + found[next + 3];
      const [v0, v1, v2, v3] = [value[f0], value[f1], value[f2], value[f3]];
      const [s0, s1, s2, s3] = [slope[f0], slope[f1], slope[f2], slope[f3]];
      let at0 = found[next] * units;
      let at1 = found[next + 1] * units;
      let at2 = found[next + 2] * units;
      let at3 = found[next + 3] * units;
      for (let j = to; j < to + units; j++) {
        const w0 = weight[at0++];
        const w1 = weight[at1++];
        const w2 = weight[at2++];
        const w3 = weight[at3++];
        outValue[j] += v0 * w0 + v1 * w1 + v2 * w2 + v3 * w3;
        outSlope[j] += s0 * w0 + s1 * w1 + s2 * w2 + s3 * w3;
      }
    }
    for (; next < count; next++) {
      const at = found[next] * units;
      const v0 = value[from + found[next]];
      const s0 = slope[from + found[next]];
      for (let j = 0; j < units; j++) {
        outValue[to + j] += v0 * weight[at + j];
        outSlope[to + j] += s0 * weight[at + j];
      }
    }
  }
  return out;
}

function relu({ value, slope }) {
  const out = { value: new Float64Array(value.length), slope: new Float64Array(value.length) };
  for (let at = 0; at < value.length; at++) {
    if (!(value[at] > 0)) continue;
    out.value[at] = value[at];
    out.slope[at] = slope[at];
  }
  return out;
}

/** Batch normalisation as it is in inference: its statistics are constants to the gradient. */
function standardise({ value, slope }) {
  const { mean: middle, variance } = statistics(value, POINTS);
  const columns = middle.length;
  const deviation = variance.map((each) => Math.sqrt(each) + 1e-5);
  const out = { value: new Float64Array(value.length), slope: new Float64Array(value.length) };
  for (let at = 0; at < value.length; at += columns) {
    for (let j = 0; j < columns; j++) {
      out.value[at + j] = (value[at + j] - middle[j]) / deviation[j];
      out.slope[at + j] = slope[at + j] / deviation[j];
    }
  }
  return out;
}

/** Root mean square, and standard deviation. */
function spread(values) {
  const middle = mean(values);
  return {
    size: Math.sqrt(mean(values, (value) => value ** 2)),
    deviation: Math.sqrt(mean(values, (value) => (value - middle) ** 2)),
  };
}

/** Of the values about their mean, at 0, 1, ... LAGS points; 1 at 0. */
export function autocorrelation(values) {
  const middle = mean(values);
  const centred = values.map((value) => value - middle);
  const products = Array.from({ length: LAGS + 1 }, (_, lag) => {
    let sum = 0;
    for (let place = lag; place < centred.length; place++) sum += centred[place - lag] * centred[place];
    return sum;
  });
  return products.map((product) => product / products[0]);
}
