// The views of the studies: their charts, and their results in one sentence.

const PLAIN = { colour: "--plain", dash: "solid" };
const RESIDUAL = { colour: "--residual", dash: "dashed" };
const BOTH = { plain: PLAIN, residual: RESIDUAL };
const ORDERS = {
  "ReLU before addition": { colour: "--plain", dash: "solid" },
  "post-activation": { colour: "--residual", dash: "dashed" },
  "linear join": { colour: "--third", dash: "mixed" },
  "pre-activation": { colour: "--fourth", dash: "dotted" },
};
const NEAR = 2; // lag of the distance that the sentence is about, as in docs/studies/shattered-gradients.md

/** A number with three digits, and a minus sign. */
export function short(value) {
  if (value === undefined) return "unknown";
  const size = Math.abs(value);
  const digits = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(3)));
  return digits.replace("-", "−");
}

/** By study: charts by their names, with the axes as functions of the settings; and a sentence about all of them. */
export const VIEWS = {
  "shattered-gradients": {
    charts: {
      gradient: () => ({
        title: "Gradient of the first network along its input",
        x: { label: "input", range: [-2, 2] },
        y: { label: "gradient, own scale" },
        styles: BOTH,
        stack: 4,
      }),
      autocorrelation: () => ({
        title: "Autocorrelation of the gradient: mean, two standard errors",
        x: { label: "distance between inputs" },
        y: { label: "autocorrelation", range: [-0.3, 1.05] },
        styles: {
          ...BOTH,
          "white noise": { colour: "--muted", dash: "dotted" },
          "brown noise": { colour: "--text", dash: "mixed" },
        },
      }),
    },
    sentence({ autocorrelation: found }) {
      const at = (name) => short(found[name].y[NEAR]);
      const empty = ["plain", "residual"].filter((name) => found[name].y.length === 0);
      const left = empty.map((name) => ` The gradient of every ${name} network is constant, and has no autocorrelation.`);
      return `At a distance of ${short(found["white noise"].x[NEAR])} the autocorrelation is ${at("plain")} for plain and ${at("residual")} for residual networks; white noise has ${at("white noise")}, brown noise ${at("brown noise")}.${left.join("")}`;
    },
  },
  "signal-growth": {
    charts: {
      activations: ({ normalised }) => ({
        title: "Activations: mean and range",
        x: { label: "block" },
        y: { label: "mean square", log: !normalised },
        styles: BOTH,
        theory: "theory",
      }),
      gradients: () => ({
        title: "Gradients: mean and range",
        x: { label: "block" },
        y: { label: "mean square", log: true },
        styles: BOTH,
        theory: "theory",
      }),
    },
    sentence({ activations, gradients }) {
      const end = (curve) => `${short(curve.y.at(-1))} (theory ${short(curve.theory.at(-1))})`;
      const start = (curve) => `${short(curve.y[0])} (${short(curve.theory[0])})`;
      return `The mean square of activations after the last block is ${end(activations.plain)} in plain and ${end(activations.residual)} in residual networks; that of gradients before the first block is ${start(gradients.plain)} and ${start(gradients.residual)}.`;
    },
  },
  "order-of-operations": {
    charts: {
      mean: ({ normalised }) => ({
        title: "Mean of the values between blocks",
        x: { label: "block" },
        y: { label: "mean of the block's output", ...(normalised ? {} : { log: true }) },
        styles: ORDERS,
        theory: normalised && "theory",
      }),
      lowered: () => ({
        title: "Share of values that a branch lowers",
        x: { label: "block" },
        y: { label: "share below zero", range: [-0.03, 1] },
        styles: ORDERS,
      }),
    },
    sentence({ mean: means, lowered }) {
      const listed = Object.entries(means).map(([order, curve]) => `${short(curve.y.at(-1))} (${order})`);
      return `The mean after the last block is ${listed.join(", ")}. With the ReLU before the addition a branch lowers ${short(100 * Math.max(...lowered["ReLU before addition"].y))}% of the values, in pre-activation about ${short(100 * lowered["pre-activation"].y.at(-1))}%.`;
    },
  },
  "finite-step": {
    charts: {
      decrease: () => ({
        title: "Actual decrease of the loss / predicted: median, middle half",
        x: { label: "length of the step / length of the weights", log: true },
        y: { label: "actual / predicted", range: [-0.3, 1.2] },
        styles: BOTH,
      }),
      loss: () => ({
        title: "Loss along one step of the first network",
        x: { label: "length of the step / length of the weights" },
        y: { label: "loss / loss before" },
        styles: BOTH,
        theory: "prediction",
      }),
    },
    sentence({ decrease }) {
      const listed = Object.entries(decrease).map(([name, { x, y }]) => {
        if (y.length === 0) return `the gradient of every ${name} network is too small to measure`;
        const place = y.findIndex((value) => value < 0.5);
        return place < 0 ? `the prediction holds for all steps in ${name} networks` : `the ${name} networks lose half of the predicted decrease at steps of ${short(x[place])}`;
      });
      return `With the weights' length as the unit, ${listed.join(", and ")}.`;
    },
  },
};
