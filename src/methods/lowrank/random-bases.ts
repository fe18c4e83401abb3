import { type Mt19937, mt19937 } from "../../runtime/random/index.js";
import { bfloat16ToFloat32, float32ToBfloat16 } from "../../tensor/index.js";

interface Sizes {
  readonly rank: number;
  readonly small: number;
  readonly large: number;
  /** n */
  readonly bases: number;
}

/** A `[r, 1, small]` and B `[large, n, r]`, each of standard deviation 1, as PEFT draws them: in bfloat16, or sparse. */
export function randomBases(
  { rank, small, large, bases }: Sizes,
  seed: number,
  density: "dense" | "sparse" | "very-sparse",
): { readonly a: Float32Array; readonly b: Float32Array } {
  const generator = mt19937(seed);
  if (density !== "dense") {
    const sparsity = density === "sparse" ? 3 : Math.sqrt(small);
    const a = signs(generator.uniform(rank * small), sparsity);
    const b = signs(generator.uniform(large * bases * rank), sparsity);
    return { a: scaled(a, deviation(a)), b: scaled(b, deviation(b)) };
  }
  const a = halfUniform(generator, rank * small, small);
  const b = new Float32Array(large * bases * rank);
  for (let basis = 0; basis < bases; basis++) {
    const drawn = halfUniform(generator, large * rank, rank);
    for (let row = 0; row < large; row++)
      b.set(drawn.subarray(row * rank, (row + 1) * rank), (row * bases + basis) * rank);
  }
  return { a: halfScaled(a), b: halfScaled(b) };
}

const half = (values: Float32Array): Float32Array => bfloat16ToFloat32(float32ToBfloat16(values));

/** Kaiming-uniform with a = √5 in bfloat16: what rounds to the upper bound becomes the lower one. */
function halfUniform(generator: Mt19937, count: number, fan: number): Float32Array {
  const bound = Math.sqrt(3) * (Math.sqrt(1 / 3) / Math.sqrt(fan));
  const [low, span] = [Math.fround(-bound), Math.fround(Math.fround(bound) - Math.fround(-bound))];
  const drawn = half(generator.uniform(count).map((unit) => unit * span + low));
  const [bottom, top] = half(Float32Array.of(-bound, bound)) as unknown as [number, number];
  return drawn.map((value) => (value >= top ? bottom : value));
}

function deviation(values: Float32Array): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return Math.sqrt(squares / (values.length - 1));
}

const scaled = (values: Float32Array, by: number): Float32Array => {
  const rounded = Math.fround(by);
  return values.map((value) => value / rounded);
};

const halfScaled = (values: Float32Array): Float32Array =>
  half(scaled(values, half(Float32Array.of(deviation(values)))[0] as number));

/** −1 and 1 with a chance of 1 / 2s each, 0 otherwise. */
const signs = (units: Float32Array, sparsity: number): Float32Array => {
  const edge = 1 / (2 * sparsity);
  return units.map((unit) => (unit < Math.fround(edge) ? -1 : unit > Math.fround(1 - edge) ? 1 : 0));
};
