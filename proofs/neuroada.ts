import { ops, type Value } from "../src/graph/index.js";
import {
  type Adaptation,
  adapt,
  type Method,
  merge,
  type NeuroadaConfig,
  neuroada,
  neuroadaMethod,
  unfreeze,
} from "../src/methods/index.js";
import type { TensorModel } from "../src/models/index.js";
import {
  accuracy,
  adapted,
  atLeast,
  mixture,
  network,
  normals,
  numbersOf,
  type Points,
  pretrain,
  tune,
} from "./network.js";
import type { Check, Proof } from "./proof.js";

export interface NeuroadaProofOptions {
  /** The implementation under test. */
  readonly method?: Method<NeuroadaConfig>;
  /** Steps of the learning check; 0 leaves it out. Default 1500. */
  readonly steps?: number;
}

const [WIDTH, HIDDEN, CLASSES] = [32, 64, 10];

/**
 * What NeuroAda must do: its places are the k largest weights of every row and nothing else changes; with all places it is
 * full fine-tuning; on a new task accuracy rises with k, and the largest weights are better places than whole rows or
 * the smallest weights.
 */
export function neuroadaProof({ method = neuroadaMethod, steps = 1500 }: NeuroadaProofOptions = {}): Proof {
  return {
    name: "neuroada",
    title: "a few trained connections of every neuron learn a new task",
    papers: ["2510.18940"],
    async run() {
      const task = await newTask(1);
      const checks = [...(await places(method, task)), await allPlaces(method, task)];
      return steps > 0 ? [...checks, ...(await learning(method, task, steps))] : checks;
    },
  };
}

interface Task {
  readonly base: TensorModel;
  readonly train: Points;
  readonly test: Points;
}

/** A network that knows one mixture, and points of another. */
async function newTask(seed: number): Promise<Task> {
  const centres = (name: string) => normals(CLASSES * WIDTH, 0.6, "centres", name, seed);
  const [old, fresh] = [centres("old"), centres("new")];
  const points = (from: Float32Array, name: string, count: number) =>
    mixture(from, { classes: CLASSES, count, seed: `${name} ${seed}` });
  const start = network([WIDTH, HIDDEN, CLASSES], { seed });
  return {
    base: await pretrain(start, points(old, "old", 6000), { steps: 1500, lr: 2e-3 }),
    train: points(fresh, "train", 3000),
    test: points(fresh, "test", 2000),
  };
}

const using = (
  method: Method<NeuroadaConfig>,
  connections: number,
  select: NeuroadaConfig["select"] = "magnitude",
): Adaptation<NeuroadaConfig> => {
  const { config } = neuroada({ connections, select });
  return { method, config };
};

/** Changed entries against a full sort of every row. */
async function places(method: Method<NeuroadaConfig>, { base, train }: Task): Promise<Check[]> {
  const connections = 3;
  const options = { steps: 20, lr: 1e-2 };
  const merged = await merge(await adapted(base, using(method, connections), train, options));
  let [outside, inside] = [0, 0];
  for (const [name, columns] of [
    ["fc1.weight", WIDTH],
    ["fc2.weight", HIDDEN],
  ] as const) {
    const [before, after] = [await numbersOf(base, name), await numbersOf(merged, name)];
    const rows = before.length / columns;
    for (let row = 0; row < rows; row++) {
      const own = [...before.subarray(row * columns, (row + 1) * columns)];
      const order = [...own.keys()].sort(
        (a, b) => Math.abs(Number(own[b])) - Math.abs(Number(own[a])) || a - b,
      );
      const wanted = new Set(order.slice(0, connections));
      for (const [column, value] of own.entries()) {
        if (after[row * columns + column] === value) continue;
        if (wanted.has(column)) inside++;
        else outside++;
      }
    }
  }
  return [
    {
      what: "changed entries that are not among their row's 3 largest",
      measured: outside,
      expected: 0,
      tolerance: 0,
    },
    {
      what: "changed entries",
      measured: inside,
      expected: connections * (HIDDEN + CLASSES),
      tolerance: 4,
    },
  ];
}

/** All connections, against the weights themselves trained. */
async function allPlaces(method: Method<NeuroadaConfig>, { base, train }: Task): Promise<Check> {
  const options = { steps: 60, lr: 1e-3 };
  const full = await unfreeze(base, { select: /weight$/ });
  const wanted = await tune(full, train, options);
  const model = await adapt(base, using(method, HIDDEN));
  const found = await tune(model, train, options);
  const gap = wanted.reduce((most, loss, at) => Math.max(most, Math.abs(loss - Number(found[at]))), 0);
  return { what: "all places against full fine-tuning, loss", measured: gap, expected: 0, tolerance: 1e-4 };
}

/** As many numbers in random whole rows: what neurons that share a budget unevenly can learn. */
const wholeRows = (connections: number): Adaptation<NeuroadaConfig> => {
  const rowsOf = (out: number, inn: number) => Math.max(1, Math.round((out * connections) / inn));
  const { config } = neuroada({});
  const method: Method<NeuroadaConfig> = {
    ...neuroadaMethod,
    needs: () => [],
    tensors({ outFeatures, inFeatures }) {
      const count = rowsOf(outFeatures, inFeatures);
      const shape = [count, inFeatures];
      return {
        values: { shape, trainable: true, init: () => new Float32Array(count * inFeatures) },
        rows: {
          shape: [count],
          dtype: "int64",
          trainable: false,
          init({ uniform }) {
            const draws = uniform(outFeatures, 0, 1);
            const order = [...draws.keys()].sort((a, b) => Number(draws[a]) - Number(draws[b]));
            return BigInt64Array.from(order.slice(0, count), BigInt);
          },
        },
      };
    },
    weight: (weight, { values, rows }) =>
      ops.scatterNd(weight, ops.unsqueeze(rows as Value, 1), values as Value, "add"),
  };
  return { method, config };
};

async function learning(
  method: Method<NeuroadaConfig>,
  { base, train, test }: Task,
  steps: number,
): Promise<Check[]> {
  const options = { steps, lr: 5e-3 };
  const reached = async (adaptation: Adaptation<NeuroadaConfig>) =>
    accuracy(await adapted(base, adaptation, train, options), test);
  const byCount: number[] = [];
  for (const connections of [1, 2, 4, 8]) byCount.push(await reached(using(method, connections)));
  const rises = byCount.slice(1).map((value, at) => value - Number(byCount[at]));
  const [rows, smallest] = [await reached(wholeRows(4)), await reached(using(method, 4, "reverse"))];
  const own = Number(byCount[2]);
  return [
    {
      what: "accuracy with 8 connections per neuron",
      measured: Number(byCount[3]),
      expected: 0.82,
      tolerance: 0.05,
    },
    atLeast("smallest rise of accuracy from 1 to 2, 4 and 8 connections", Math.min(...rises), 1e-3),
    atLeast(`accuracy at 4 above that of whole rows (${rows.toFixed(3)})`, own - rows, 0.1),
    atLeast(
      `accuracy at 4 above that of the smallest weights (${smallest.toFixed(3)})`,
      own - smallest,
      0.02,
    ),
  ];
}
