// Signal growth: models/studies/live/signal_growth.py.

import { band } from "./curves.js";
import { RandomTensors } from "./generator.js";
import { add, GAINS, mean, multiply, multiplyTransposed, Normalised, relu } from "./layers.js";

const IMAGES = 128;
const RHO = 1 - 1 / Math.PI; // variance of a rectified normal variable, as a share of its mean square

export function* compute({ blocks, width, init, normalised, seeds, first }) {
  const numbers = Array.from({ length: blocks + 1 }, (_, block) => block);
  const found = { plain: { activations: [], gradients: [] }, residual: { activations: [], gradients: [] } };
  let partial = null; // activations of the network that is computed
  const charts = () => {
    const result = { activations: {}, gradients: {} };
    for (const [name, rows] of Object.entries(found)) {
      const expected = theory(name === "residual", GAINS[init], normalised, blocks);
      for (const chart of Object.keys(result)) {
        result[chart][name] = { ...band(numbers, rows[chart], "range"), theory: expected[chart] };
        const isFirst = chart === "activations" && partial?.name === name && rows[chart].length === 0;
        if (isFirst) result[chart][name] = { x: numbers.slice(0, partial.squares.length), y: [...partial.squares] };
      }
    }
    return result;
  };
  for (let seed = first; seed < first + seeds; seed++) {
    for (const name of Object.keys(found)) {
      partial = { name, squares: [] };
      const gradients = yield* measure(name === "residual", { blocks, width, init, normalised }, new RandomTensors(seed), partial.squares, charts);
      found[name].activations.push(partial.squares);
      found[name].gradients.push(gradients);
      yield charts;
    }
  }
}

/** Adds the mean squares of the activations to `squares`; returns those of the gradients. */
function* measure(residual, { blocks, width, init, normalised }, draws, squares, charts) {
  const scale = Math.sqrt(GAINS[init] / width);
  const square = (values) => mean(values, (value) => value ** 2);
  let stream = draws.normal(IMAGES * width);
  squares.push(square(stream));
  const layers = [];
  for (let block = 0; block < blocks; block++) {
    let branch = stream;
    for (let layer = 0; layer < 2; layer++) {
      const before = new Normalised(branch, IMAGES, normalised);
      const weight = draws.normal(width * width, scale);
      layers.push({ before, weight });
      branch = multiply(relu(before.values), IMAGES, weight, width);
    }
    stream = residual ? add(stream, branch) : branch;
    squares.push(square(stream));
    yield charts;
  }
  let gradient = draws.normal(IMAGES * width);
  const gradients = [square(gradient)];
  while (layers.length > 0) {
    let through = gradient;
    for (const { before, weight } of [layers.pop(), layers.pop()]) {
      through = before.backward(multiplyTransposed(through, IMAGES, weight, width, before.values));
    }
    gradient = residual ? add(gradient, through) : through;
    gradients.push(square(gradient));
    yield;
  }
  return gradients.reverse();
}

/** Mean squares after 0, 1, ... blocks; `models.studies.signal_growth` derives the formulas. */
function theory(residual, gain, normalised, blocks) {
  const half = gain / 2;
  const numbers = Array.from({ length: blocks + 1 }, (_, block) => block);
  const kept = residual ? 1 : 0;
  if (!normalised) {
    const activations = numbers.map((block) => (kept + half ** 2) ** block);
    return { activations, gradients: [...activations].reverse() };
  }
  const activations = numbers.map((block) => (residual ? 1 + half * block : block === 0 ? 1 : half));
  const variance = numbers.map((block) => (residual ? 1 + half * RHO * block : block === 0 ? 1 : half * RHO));
  const gradients = [1];
  for (let block = blocks - 1; block >= 0; block--) gradients.push(gradients.at(-1) * (kept + half / (RHO * variance[block])));
  return { activations, gradients: gradients.reverse() };
}
