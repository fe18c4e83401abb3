import { ops, type Value } from "../src/graph/index.js";
import {
  type Adaptation,
  adapt,
  lora,
  type Method,
  type RosaConfig,
  rosa,
  rosaMethod,
  type SiteConfig,
} from "../src/methods/index.js";
import { runModel, type TensorModel } from "../src/models/index.js";
import { tensor } from "../src/tensor/index.js";
import { adam, constant, type ExampleSource, type TensorLoss } from "../src/training/index.js";
import { adapted, liveTensor, network, normals, numbersOf, tune } from "./network.js";
import type { Check, Proof } from "./proof.js";

export interface RosaProofOptions {
  /** The implementation under test. */
  readonly method?: Method<RosaConfig>;
  /** Steps of every run. Default 1500. */
  readonly steps?: number;
  /** Leave out what LoRA and a sparse update reach by themselves. Default false. */
  readonly alone?: boolean;
}

const N = 64;
const PLANTED = 41;

/**
 * What RoSA is for (robust PCA): an update that is a matrix of low rank and a few large entries, which neither a low-rank
 * nor a sparse update of as many numbers can be.
 */
export function rosaProof({
  method = rosaMethod,
  steps = 1500,
  alone = false,
}: RosaProofOptions = {}): Proof {
  return {
    name: "rosa",
    title: "RoSA learns a low-rank update and a sparse one together, with entries that gradients find",
    papers: ["2401.04679"],
    async run() {
      const task = await plantedTask();
      const own = await together(method, task, steps);
      const checks = [...own.checks, ...(await asLora(method, task))];
      return alone ? checks : [...checks, await againstEither(method, task, own.error, steps)];
    },
  };
}

interface Task {
  readonly base: TensorModel;
  readonly train: ExampleSource;
  readonly test: { readonly x: Float32Array; readonly y: Float32Array };
  /** Flat positions of the large entries. */
  readonly planted: ReadonlySet<number>;
}

/** y = (W + rank 2 + 41 entries of ±2)·x + noise. */
async function plantedTask(): Promise<Task> {
  const base = network([N, N], { seed: "rosa" });
  const [weight, bias] = [(await numbersOf(base, "fc1.weight")).slice(), await numbersOf(base, "fc1.bias")];
  const [u, v] = [normals(N * 2, 1, "u"), normals(2 * N, 1 / 8, "v")];
  for (let at = 0; at < N * N; at++)
    for (let k = 0; k < 2; k++)
      weight[at] = Number(weight[at]) + Number(u[Math.floor(at / N) * 2 + k]) * Number(v[k * N + (at % N)]);
  const draws = normals(N * N, 1, "places");
  const order = [...draws.keys()].sort((a, b) => Number(draws[a]) - Number(draws[b])).slice(0, PLANTED);
  for (const [at, place] of order.entries()) weight[place] = Number(weight[place]) + (at % 2 ? 2 : -2);
  const points = (name: string, count: number, noise: number) => {
    const x = normals(count * N, 1, "x", name);
    const y = normals(count * N, noise, "noise", name);
    for (let row = 0; row < count; row++)
      for (let i = 0; i < N; i++) {
        let sum = Number(bias[i]);
        for (let j = 0; j < N; j++) sum += Number(weight[i * N + j]) * Number(x[row * N + j]);
        y[row * N + i] = Number(y[row * N + i]) + sum;
      }
    return { x, y };
  };
  const { x, y } = points("train", 4000, 0.1);
  const row = (data: Float32Array, at: number) => tensor("float32", [N], data.subarray(at * N, (at + 1) * N));
  return {
    base,
    test: points("test", 1000, 0),
    planted: new Set(order),
    train: {
      size: 4000,
      hash: "planted",
      at: (index) => ({ inputs: { x: row(x, index) }, targets: { y: row(y, index) } }),
    },
  };
}

const squares: TensorLoss = {
  name: "squares",
  targets: [{ name: "y", dtype: "float32", shape: ["batch", N] }],
  sum({ outputs, targets, rowWeights }) {
    const errors = ops.square(ops.sub(outputs.logits as Value, targets.y as Value));
    return ops.reduceSum(ops.mul(ops.reduceMean(errors, [1], false), rowWeights), undefined, false);
  },
};

const settings = (steps: number) => ({
  steps,
  lr: 5e-3,
  loss: squares,
  optimizer: adam({ lr: 5e-3, schedule: constant() }),
});

/** Mean square of the error on fresh points, over that of the base. */
async function errorOf(model: TensorModel, { x, y }: Task["test"]): Promise<number> {
  const { logits } = await runModel(model, { x: tensor("float32", [x.length / N, N], x) });
  const found = logits?.data as Float32Array;
  return found.reduce((sum, value, at) => sum + (value - Number(y[at])) ** 2, 0) / y.length;
}

async function reached<C extends SiteConfig>(adaptation: Adaptation<C>, task: Task, steps: number) {
  const model = await adapted(task.base, adaptation, task.train, settings(steps));
  return { model, error: await errorOf(model, task.test) };
}

/** Rank 2 and 6.25 % of the entries: 512 numbers. */
async function together(method: Method<RosaConfig>, task: Task, steps: number) {
  const { config } = rosa({ rank: 2, alpha: 2, density: 0.0625, maskAfter: 64 });
  const { model, error } = await reached({ method, config }, task, steps);
  const places = [...(liveTensor(model, "fc1", "rosa_places").data as BigInt64Array)].map(Number);
  const found = places.filter((place) => task.planted.has(place)).length;
  const checks: Check[] = [
    {
      what: "entries of a site",
      measured: new Set(places).size,
      expected: Math.floor(0.0625 * N * N),
      tolerance: 0,
    },
    { what: "planted entries that are found", measured: found / PLANTED, expected: 1, tolerance: 0.05 },
    {
      what: "mean square error, rank 2 with 6.25 % of the entries",
      measured: error,
      expected: 0,
      tolerance: 5e-3,
    },
  ];
  return { checks, error };
}

/** Density 0 is LoRA, number for number. */
async function asLora(method: Method<RosaConfig>, { base, train }: Task): Promise<Check[]> {
  const { config } = rosa({ rank: 4, alpha: 8, density: 0 });
  const own = await tune(await adapt(base, { method, config }), train, settings(25));
  const other = await tune(await adapt(base, lora({ rank: 4, alpha: 8 })), train, settings(25));
  const gap = own.reduce((most, loss, at) => Math.max(most, Math.abs(loss - Number(other[at]))), 0);
  return [{ what: "losses at density 0 against LoRA's", measured: gap, expected: 0, tolerance: 0 }];
}

async function againstEither(
  method: Method<RosaConfig>,
  task: Task,
  error: number,
  steps: number,
): Promise<Check> {
  const lowRank = await reached(lora({ rank: 4, alpha: 4 }), task, steps);
  const { config } = rosa({ rank: 0, density: 0.125 });
  const sparse = await reached({ method, config }, task, steps);
  const names = `LoRA ${lowRank.error.toFixed(2)}, sparse ${sparse.error.toFixed(2)}`;
  return {
    what: `error over the better of either alone at as many numbers (${names})`,
    measured: error / Math.min(lowRank.error, sparse.error),
    expected: 0,
    tolerance: 0.05,
  };
}
