// Order of operations: models/studies/live/order_of_operations.py.

import { band } from "./curves.js";
import { RandomTensors } from "./generator.js";
import { add, mean, multiply, Normalised, relu } from "./layers.js";

const IMAGES = 128;
const BEFORE = "ReLU before addition";
const ORDERS = [BEFORE, "post-activation", "linear join", "pre-activation"];

export function* compute({ blocks, width, normalised, seeds, first }) {
  const found = Object.fromEntries(ORDERS.map((order) => [order, { mean: [], lowered: [] }]));
  let partial = null;
  const numbers = Array.from({ length: blocks }, (_, index) => index + 1);
  const charts = () => {
    const result = { mean: {}, lowered: {} };
    for (const [order, rows] of Object.entries(found)) {
      for (const chart of Object.keys(result)) {
        const isFirst = partial?.order === order && rows[chart].length === 0;
        result[chart][order] = isFirst
          ? { x: numbers.slice(0, partial[chart].length), y: [...partial[chart]] }
          : band(numbers, rows[chart], "range");
      }
    }
    // A normalised, rectified unit adds the mean of a rectified normal variable.
    const means = result.mean[BEFORE];
    means.theory = normalised ? means.x.map((block) => (block + 1) / Math.sqrt(2 * Math.PI)) : [];
    return result;
  };
  for (let seed = first; seed < first + seeds; seed++) {
    for (const order of ORDERS) {
      partial = { order, mean: [], lowered: [] };
      yield* measure({ blocks, width, normalised }, new RandomTensors(seed), partial, charts);
      for (const chart of ["mean", "lowered"]) found[order][chart].push(partial[chart]);
      yield charts;
    }
  }
}

/** Adds the mean of each block's output, and the share of negative values of its branch, to `into`. */
function* measure({ blocks, width, normalised }, draws, into, charts) {
  const normal = (x) => new Normalised(x, IMAGES, normalised).values;
  const times = (x, weight) => multiply(x, IMAGES, weight, width);
  const scale = Math.sqrt(2 / width);
  let stream = draws.normal(IMAGES * width);
  if (into.order !== "pre-activation") stream = relu(stream);
  for (let block = 0; block < blocks; block++) {
    const first = draws.normal(width * width, scale);
    const second = draws.normal(width * width, scale);
    let branch;
    if (into.order === "pre-activation") {
      branch = times(relu(normal(times(relu(normal(stream)), first))), second);
      stream = add(stream, branch);
    } else {
      const joined = normal(times(stream, first));
      branch = normal(times(relu(joined), second));
      if (into.order === BEFORE) {
        branch = relu(branch);
        stream = add(stream, branch);
      } else {
        stream = relu(add(branch, into.order === "linear join" ? joined : stream));
      }
    }
    into.mean.push(mean(stream));
    into.lowered.push(mean(branch, (value) => (value < 0 ? 1 : 0)));
    yield charts;
  }
}
