// Layers on matrices [rows x columns] in Float64Array, row by row: models/studies/live/layers.py.

export const GAINS = { he: 2, naive: 1 }; // variance of a weight, times the number of its layer's inputs
const EPSILON = 1e-5;

/** The places of a row's values that are not 0, and their number: half of the values behind a ReLU are. */
export function places(x, start, columns, found) {
  let count = 0;
  for (let column = 0; column < columns; column++) if (x[start + column] !== 0) found[count++] = column;
  return count;
}

/** x [rows, inner] times weight [inner, columns], plus a bias [columns] or nothing. Four terms are added at once. */
export function multiply(x, rows, weight, columns, bias = null) {
  const inner = x.length / rows;
  const out = new Float64Array(rows * columns);
  const found = new Int32Array(inner);
  for (let row = 0; row < rows; row++) {
    const from = row * inner;
    const to = row * columns;
    const count = places(x, from, inner, found);
    if (bias !== null) out.set(bias, to);
    let next = 0;
    for (; next + 3 < count; next += 4) {
      const x0 = x[from + found[next]];
      const x1 = x[from + found[next + 1]];
      const x2 = x[from + found[next + 2]];
      const x3 = x[from + found[next + 3]];
      const w0 = found[next] * columns;
      const w1 = found[next + 1] * columns;
      const w2 = found[next + 2] * columns;
      const w3 = found[next + 3] * columns;
      for (let j = 0; j < columns; j++) {
        out[to + j] += x0 * weight[w0 + j] + x1 * weight[w1 + j] + x2 * weight[w2 + j] + x3 * weight[w3 + j];
      }
    }
    for (; next < count; next++) {
      const value = x[from + found[next]];
      const at = found[next] * columns;
      for (let j = 0; j < columns; j++) out[to + j] += value * weight[at + j];
    }
  }
  return out;
}

/** d [rows, columns] times the transpose of weight [inner, columns], where `mask` [rows, inner] is positive; else 0. */
export function multiplyTransposed(d, rows, weight, columns, mask) {
  const inner = weight.length / columns;
  const out = new Float64Array(rows * inner);
  for (let row = 0; row < rows; row++) {
    const from = row * columns;
    for (let k = 0; k < inner; k++) {
      if (!(mask[row * inner + k] > 0)) continue;
      const at = k * columns;
      let even = 0;
      let odd = 0;
      let j = 0;
      for (; j + 1 < columns; j += 2) {
        even += d[from + j] * weight[at + j];
        odd += d[from + j + 1] * weight[at + j + 1];
      }
      if (j < columns) even += d[from + j] * weight[at + j];
      out[row * inner + k] = even + odd;
    }
  }
  return out;
}

/** The transpose of x [rows, inner] times d [rows, columns]: the gradient of a weight. */
export function weightGradient(x, d, rows) {
  const inner = x.length / rows;
  const columns = d.length / rows;
  const out = new Float64Array(inner * columns);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < inner; k++) {
      const value = x[row * inner + k];
      if (value === 0) continue;
      for (let j = 0; j < columns; j++) out[k * columns + j] += value * d[row * columns + j];
    }
  }
  return out;
}

/** The positive values of x; 0 for the others. Loops, since `map` of a typed array takes five times as long. */
export function relu(x) {
  const out = new Float64Array(x.length);
  for (let index = 0; index < x.length; index++) if (x[index] > 0) out[index] = x[index];
  return out;
}

/** x + scale * y. */
export function add(x, y, scale = 1) {
  const out = new Float64Array(x.length);
  for (let index = 0; index < x.length; index++) out[index] = x[index] + scale * y[index];
  return out;
}

/** The mean and the variance of each column of x [rows, columns]. */
export function statistics(x, rows) {
  const columns = x.length / rows;
  const mean = new Float64Array(columns);
  const variance = new Float64Array(columns);
  for (let at = 0; at < x.length; at += columns) for (let j = 0; j < columns; j++) mean[j] += x[at + j];
  for (let j = 0; j < columns; j++) mean[j] /= rows;
  for (let at = 0; at < x.length; at += columns) {
    for (let j = 0; j < columns; j++) {
      const centred = x[at + j] - mean[j];
      variance[j] += centred * centred;
    }
  }
  for (let j = 0; j < columns; j++) variance[j] /= rows;
  return { mean, variance };
}

/** Batch normalisation in training mode, or none: its output, and the gradient of its input. */
export class Normalised {
  constructor(x, rows, normalised) {
    this.rows = rows;
    this.values = x;
    this.inverse = null; // 1 / standard deviation
    if (!normalised) return;
    const { mean, variance } = statistics(x, rows);
    const columns = mean.length;
    this.inverse = variance.map((value) => 1 / Math.sqrt(value + EPSILON));
    this.values = new Float64Array(x.length);
    for (let at = 0; at < x.length; at += columns) {
      for (let j = 0; j < columns; j++) this.values[at + j] = (x[at + j] - mean[j]) * this.inverse[j];
    }
  }

  /** The gradient of the input from that of the output; the statistics depend on the input (Ioffe 2015). */
  backward(gradient) {
    if (this.inverse === null) return gradient;
    const { rows, values, inverse } = this;
    const columns = inverse.length;
    const mean = new Float64Array(columns);
    const along = new Float64Array(columns);
    for (let at = 0; at < values.length; at += columns) {
      for (let j = 0; j < columns; j++) {
        mean[j] += gradient[at + j];
        along[j] += gradient[at + j] * values[at + j];
      }
    }
    const out = new Float64Array(values.length);
    for (let at = 0; at < values.length; at += columns) {
      for (let j = 0; j < columns; j++) {
        out[at + j] = inverse[j] * (gradient[at + j] - (mean[j] + values[at + j] * along[j]) / rows);
      }
    }
    return out;
  }
}

/** `count` evenly spaced numbers from `start` to `end`. */
export const spaced = (start, end, count) =>
  Float64Array.from({ length: count }, (_, index) => start + ((end - start) * index) / (count - 1));

/** A mean over the values of f(value). */
export function mean(values, f = (value) => value) {
  let sum = 0;
  for (let index = 0; index < values.length; index++) sum += f(values[index]);
  return sum / values.length;
}
