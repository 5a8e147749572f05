// Finite steps: models/studies/live/finite_step.py and network.py.

import { band, line } from "./curves.js";
import { RandomTensors } from "./generator.js";
import { add, mean, multiply, multiplyTransposed, Normalised, relu, spaced, weightGradient } from "./layers.js";

const POINTS = 64; // inputs of the networks
const LENGTHS = 13; // lengths of the step
const SLICE = 48; // intervals of the loss along it
const EARLY = 3; // layers that take the step
const SMALLEST = 0.1; // relative slope under which the shortest steps show rounding errors

export function* compute({ layers, width, beta, normalised, longest, seeds, first }) {
  const lengths = Array.from({ length: LENGTHS }, (_, index) => 10 ** (-7 + (6 * index) / (LENGTHS - 1)));
  const along = Array.from({ length: SLICE + 1 }, (_, index) => (index / SLICE) * 10 ** longest);
  const rows = { plain: [], residual: [] };
  const losses = {};
  const charts = () => ({
    decrease: Object.fromEntries(Object.entries(rows).map(([name, found]) => [name, band(lengths, found, "quartiles")])),
    loss: { ...losses },
  });
  for (let seed = first; seed < first + seeds; seed++) {
    for (const name of Object.keys(rows)) {
      const step = new Step(new Network(name === "residual", { layers, width, beta, normalised }, new RandomTensors(seed)));
      yield;
      if (seed === first) {
        const values = [];
        for (const length of along) {
          values.push(step.loss(length) / step.before);
          const theory = along.map((each) => 1 - (each * step.slope) / step.before);
          losses[name] = { ...line(along.slice(0, values.length), values), theory };
          yield charts;
        }
      }
      if (step.slope >= SMALLEST * step.before) {
        const ratios = [];
        for (const length of lengths) {
          ratios.push((step.before - step.loss(length)) / (length * step.slope));
          yield;
        }
        rows[name].push(ratios);
      }
      yield charts;
    }
  }
}

/** A step of the early weights of a network down their gradient. */
class Step {
  #network;
  #x = spaced(-2, 2, POINTS);
  #target = this.#x.map((value) => Math.sin(Math.PI * value));
  #directions;

  constructor(network) {
    this.#network = network;
    const { output, record } = network.forward(this.#x, network.weights);
    const gradients = network.backward(output.map((value, index) => (value - this.#target[index]) / POINTS), record);
    const length = (tensors) => Math.sqrt(tensors.reduce((sum, each) => sum + each.reduce((s, v) => s + v * v, 0), 0));
    const norm = length(gradients);
    const size = length(network.weights.slice(0, EARLY));
    this.before = this.#meanSquare(output); // the loss without a step
    this.slope = norm * size; // predicted decrease per unit of the step's relative length
    const factor = norm > 0 ? size / norm : 0;
    this.#directions = gradients.map((gradient) => gradient.map((value) => -value * factor));
  }

  /** The loss after a step of this length, relative to the length of the early weights. */
  loss(length) {
    const { weights } = this.#network;
    const early = this.#directions.map((direction, layer) => add(weights[layer], direction, length));
    return this.#meanSquare(this.#network.forward(this.#x, [...early, ...weights.slice(EARLY)]).output);
  }

  #meanSquare(output) {
    return mean(output.map((value, index) => (value - this.#target[index]) ** 2)) / 2;
  }
}

/** Fully connected layers with He's initialisation; the first hidden layer is not normalised. */
class Network {
  #residual;
  #beta;
  #normalised;
  #biases = [];
  weights = [];

  constructor(residual, { layers, width, beta, normalised }, draws) {
    [this.#residual, this.#beta, this.#normalised] = [residual, beta, normalised];
    for (let layer = 0; layer < layers; layer++) {
      const [inputs, units] = [layer === 0 ? 1 : width, layer === layers - 1 ? 1 : width];
      const scale = Math.sqrt(2 / inputs);
      this.weights.push(draws.normal(inputs * units, scale));
      this.#biases.push(draws.normal(units, scale));
    }
  }

  /** The output for inputs with these weights, and the values before the ReLU of each layer. */
  forward(x, weights) {
    const linear = (values, layer) =>
      multiply(values, POINTS, weights[layer], this.#biases[layer].length, this.#biases[layer]);
    const record = [new Normalised(x, POINTS, false), new Normalised(linear(x, 0), POINTS, false)];
    // A residual network adds its branches to the output of its second layer.
    let stream = linear(relu(record[1].values), 1);
    const last = weights.length - 1;
    for (let layer = 2; layer <= last; layer++) {
      record.push(new Normalised(stream, POINTS, this.#normalised));
      const branch = linear(relu(record.at(-1).values), layer);
      stream = this.#residual && layer < last ? add(stream, branch, this.#beta) : branch;
    }
    return { output: stream, record };
  }

  /** The gradients of the early weights, from that of the output. */
  backward(gradient, record) {
    const last = this.weights.length - 1;
    const gradients = [];
    let stream = gradient;
    for (let layer = last; layer > 0; layer--) {
      const { values } = record[layer];
      const skips = this.#residual && layer >= 2 && layer < last;
      const branch = skips ? stream.map((value) => this.#beta * value) : stream;
      if (layer < EARLY) gradients[layer] = weightGradient(relu(values), branch, POINTS);
      const back = multiplyTransposed(branch, POINTS, this.weights[layer], branch.length / POINTS, values);
      const through = record[layer].backward(back);
      stream = skips ? add(stream, through) : through;
    }
    gradients[0] = weightGradient(record[0].values, stream, POINTS);
    return gradients;
  }
}
