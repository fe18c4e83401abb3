import { constant, ops, scope, type Value } from "../src/graph/index.js";
import { diffora, moduleKernels } from "../src/methods/index.js";
import type { TensorModel } from "../src/models/index.js";
import { rng } from "../src/runtime/index.js";
import { type Tensor, tensor } from "../src/tensor/index.js";
import { type TensorLoss, tensorObjective } from "../src/training/index.js";
import { normals } from "./network.js";

export const [WIDTH, MODULES, PLANTED, SAMPLES, NOISE] = [24, 12, 4, 24, 0.8];
export const session = { threads: 1, worker: false } as const;

/** Six kinds of maps in two layers, all side by side over one input, their outputs one after the other; all give 0. */
export function parallel(): { readonly model: TensorModel; readonly paths: readonly string[] } {
  const paths = Array.from({ length: MODULES }, (_, at) => `layers.${Math.floor(at / 6)}.kind${at % 6}`);
  const zeros = tensor("float32", [WIDTH, WIDTH], new Float32Array(WIDTH * WIDTH));
  const weights = new Map(
    paths.map((path): [string, Value] => [`${path}.weight`, constant(zeros, `${path}.weight`)]),
  );
  const model: TensorModel = {
    ...{ task: "custom", architecture: "parallel", weights, parameters: new Map(), config: {} },
    ...{ defaultTargets: paths, tokenizer: undefined, origin: undefined, probeAxes: { batch: 2 } },
    inputs: [{ name: "x", dtype: "float32", shape: ["batch", WIDTH] }],
    build({ values }) {
      const outputs = paths.map((path) => {
        const weight = weights.get(`${path}.weight`) as Value;
        return scope(path, () => ops.gemm(values.x as Value, weight, undefined, { transB: true }));
      });
      return { values: { y: ops.concat(outputs, 1) }, boundaries: [] };
    },
  };
  return { model, paths };
}

const squares: TensorLoss = {
  name: "squares",
  targets: [{ name: "y", dtype: "float32", shape: ["batch", MODULES * WIDTH] }],
  sum: ({ outputs, targets }) => {
    const errors = ops.square(ops.sub(outputs.y as Value, targets.y as Value));
    return ops.mul(ops.reduceSum(errors, undefined, false), 1 / WIDTH);
  },
};

/** Samples whose planted modules lack an update of rank 2; the others' targets are noise. */
export function samples(chosen: ReadonlySet<number>, seed: number, key: string) {
  const x = normals(SAMPLES * WIDTH, 1, "x", key, seed);
  const y = normals(SAMPLES * MODULES * WIDTH, NOISE, "noise", key, seed);
  for (const m of chosen) {
    const u = normals(2 * WIDTH, 1, "u", seed, m);
    const v = normals(2 * WIDTH, 1 / Math.sqrt(WIDTH), "v", seed, m);
    const dot = (k: number, row: number) =>
      v
        .subarray(k * WIDTH, (k + 1) * WIDTH)
        .reduce((sum, value, at) => sum + value * Number(x[row * WIDTH + at]), 0);
    for (let row = 0; row < SAMPLES; row++) {
      const [one, two] = [dot(0, row), dot(1, row)];
      for (let out = 0; out < WIDTH; out++)
        y[(row * MODULES + m) * WIDTH + out] = Number(u[2 * out]) * one + Number(u[2 * out + 1]) * two;
    }
  }
  return { x, y };
}

export function objectiveOver(model: TensorModel, { x, y }: ReturnType<typeof samples>, batchSize = SAMPLES) {
  const part = (data: Float32Array, row: number, width: number): Tensor =>
    tensor("float32", [width], data.subarray(row * width, (row + 1) * width));
  const train = {
    size: SAMPLES,
    hash: "planted",
    at: (row: number) => ({
      inputs: { x: part(x, row, WIDTH) },
      targets: { y: part(y, row, MODULES * WIDTH) },
    }),
  };
  return tensorObjective(model, { train, batchSize, loss: squares });
}

export const draw = (seed: number | string, count: number): number[] =>
  Array.from(rng(0, "proof", "draw", seed).permutation(MODULES)).slice(0, count);

/** Rank 2, and the rates of the specification. */
export const candidates = () =>
  diffora({ rank: 2, alpha: 2, perLayer: PLANTED / 2, scope: "global", gateLr: 3e-2, gateDecay: 0 });

/** Kernels of some modules over some samples. */
export const kernelsOf = (model: TensorModel, modules: readonly string[], data: ReturnType<typeof samples>) =>
  moduleKernels(objectiveOver(model, data, 1), { modules, samples: SAMPLES, session });
