// Curves of a chart: a line, and a band over the seeds. models/studies/live/curves.py.

import { mean } from "./layers.js";

export const line = (x, y) => ({ x: [...x], y: [...y] });

/**
 * A line with a band, from one row of values per network: the mean and two standard errors of it ("error"), the mean
 * and the range ("range"), or the median and the middle half ("quartiles"). Empty without networks.
 */
export function band(x, rows, kind) {
  if (rows.length === 0) return { x: [], y: [], low: [], high: [] };
  const curve = { x: [...x], y: [], low: [], high: [] };
  for (let place = 0; place < curve.x.length; place++) {
    const values = rows.map((row) => row[place]);
    const [low, middle, high] = SUMMARIES[kind](values);
    curve.y.push(middle);
    curve.low.push(low);
    curve.high.push(high);
  }
  return curve;
}

const SUMMARIES = {
  error(values) {
    const middle = mean(values);
    const error = (2 * Math.sqrt(mean(values, (value) => (value - middle) ** 2))) / Math.sqrt(values.length);
    return [middle - error, middle, middle + error];
  },
  range: (values) => [Math.min(...values), mean(values), Math.max(...values)],
  quartiles(values) {
    const sorted = [...values].sort((a, b) => a - b);
    return [0.25, 0.5, 0.75].map((share) => {
      const place = share * (sorted.length - 1);
      const below = Math.floor(place);
      const above = Math.min(below + 1, sorted.length - 1);
      return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
    });
  },
};
