// Random numbers: Philox2x32-10 (Salmon et al. 2011) and the transformation of Box and Muller, as in
// models/studies/live/generator.py. The key is the seed; the counter is the pair of numbers and the tensor.

const LOW = 0xd256d193 & 0xffff; // halves of the multiplier: products of halves are exact
const HIGH = 0xd256d193 >>> 16;
const MULTIPLIER = 0xd256d193;
const WEYL = 0x9e3779b9;
const ROUNDS = 10;
const RANGE = 2 ** 32;

/** Two random words for a counter of two words and a key, as [word, word]. */
export function words(first, second, key) {
  let left = first;
  let right = second;
  let round = key;
  for (let index = 0; index < ROUNDS; index++) {
    const low = left & 0xffff;
    const high = left >>> 16;
    const middle = low * HIGH;
    const other = high * LOW;
    const carry = ((low * LOW) >>> 16) + (middle & 0xffff) + (other & 0xffff);
    const upper = Math.imul(high, HIGH) + (middle >>> 16) + (other >>> 16) + (carry >>> 16);
    const lower = Math.imul(left, MULTIPLIER);
    left = (upper ^ round ^ right) >>> 0;
    right = lower >>> 0;
    round = (round + WEYL) >>> 0;
  }
  return [left, right];
}

/** Draws one tensor after the other for a seed. */
export class RandomTensors {
  #seed;
  #tensor = 0;

  constructor(seed) {
    this.#seed = seed;
  }

  /** The next tensor: `count` normal numbers of variance `scale` squared. */
  normal(count, scale = 1) {
    const numbers = new Float64Array(count);
    for (let place = 0; place < count; place += 2) {
      const [first, second] = words(place / 2, this.#tensor, this.#seed);
      const radius = Math.sqrt(-2 * Math.log((first + 0.5) / RANGE)); // a half keeps the logarithm finite
      const angle = 2 * Math.PI * ((second + 0.5) / RANGE);
      numbers[place] = radius * Math.cos(angle) * scale;
      if (place + 1 < count) numbers[place + 1] = radius * Math.sin(angle) * scale;
    }
    this.#tensor += 1;
    return numbers;
  }
}
