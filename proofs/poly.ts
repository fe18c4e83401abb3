import { input, makeGraph, type Value } from "../src/graph/index.js";
import {
  type Adaptation,
  type Adapted,
  adapt,
  byTask,
  callMethod,
  type Method,
  merge,
  type PolyConfig,
  poly,
  polyMethod,
  setTask,
} from "../src/methods/index.js";
import { inputsOf, type TensorModel } from "../src/models/index.js";
import { createSession, rng } from "../src/runtime/index.js";
import { tensor } from "../src/tensor/index.js";
import { adam, type ExampleSource, fit, linear, regression, tensorObjective } from "../src/training/index.js";
import { liveTensor, logits, network, normals } from "./network.js";
import { gap, times } from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface PolyProofOptions {
  /** The implementation under test. */
  readonly method?: Method<PolyConfig>;
  /** Train on several tasks as well. Default true. */
  readonly learning?: boolean;
}

const [SIZE, RANK, TASKS, SKILLS, SPLITS, ROWS] = [12, 2, 3, 3, 2, 384];
const PATH = "fc1";

/** That a task's update is mixed of skills as the paper says, sampled while training, and that tasks which share skills are learnt together. */
export function polyProof({ method = polyMethod, learning = true }: PolyProofOptions = {}): Proof {
  return {
    name: "poly",
    title:
      "Poly mixes each task's factors from shared skills, and one adapter serves tasks that contradict each other",
    papers: ["2202.13914", "2211.03831"],
    run: async () => [...(await checks(method)), ...(learning ? await learningChecks(method) : [])],
  };
}

const base = network([SIZE, SIZE], { seed: "poly" });
const points = (x: Float32Array) => ({ width: SIZE, x, labels: new Array<number>(x.length / SIZE).fill(0) });
const adaptation = (method: Method<PolyConfig>, tasks = TASKS): Adaptation => {
  const { config } = poly({ rank: RANK, tasks, skills: SKILLS, splits: SPLITS, targets: [PATH] });
  return { method, config } as unknown as Adaptation;
};

interface Factors {
  readonly a: Float32Array;
  readonly b: Float32Array;
  readonly logits: Float32Array;
}

/** x·A·B / r of a task in plain arithmetic. */
function update(x: Float32Array, { a, b, logits: all }: Factors, task: number): Float32Array {
  const part = SIZE / SPLITS;
  const [wholeA, wholeB] = [new Float32Array(SIZE * RANK), new Float32Array(RANK * SIZE)];
  for (let split = 0; split < SPLITS; split++) {
    const shares = Array.from({ length: SKILLS }, (_, skill) => {
      const z = Number(all[(task * SPLITS + split) * SKILLS + skill]);
      return 1 / (1 + Math.exp(-z));
    });
    const total = shares.reduce((sum, share) => sum + share, 0);
    for (const [skill, share] of shares.entries()) {
      const at = (split * SKILLS + skill) * part * RANK;
      for (let row = 0; row < part; row++)
        for (let k = 0; k < RANK; k++) {
          const [i, j] = [(split * part + row) * RANK + k, k * SIZE + split * part + row];
          wholeA[i] = Number(wholeA[i]) + (share / total) * Number(a[at + row * RANK + k]);
          wholeB[j] = Number(wholeB[j]) + (share / total) * Number(b[at + k * part + row]);
        }
    }
  }
  const u = times(x, wholeA, [x.length / SIZE, SIZE, RANK]);
  return Float32Array.from(times(u, wholeB, [x.length / SIZE, RANK, SIZE]), (value) => value / RANK);
}

/** The base and a task's update. */
async function plain(x: Float32Array, factors: Factors, task: number): Promise<Float32Array> {
  const before = await logits(base, points(x));
  return update(x, factors, task).map((value, at) => value + Number(before[at]));
}

const live = (model: Adapted<TensorModel>): Factors => {
  const get = (key: string) => liveTensor(model, PATH, key).data as Float32Array;
  return { a: get("poly_lora_A"), b: get("poly_lora_B"), logits: get("poly_logits") };
};

/** Skills of three tasks: of every part of the map each task has two of its three skills. */
const planted: Factors = {
  a: normals(SPLITS * SKILLS * (SIZE / SPLITS) * RANK, 1, "poly", "A"),
  b: normals(SPLITS * SKILLS * RANK * (SIZE / SPLITS), 1, "poly", "B"),
  logits: Float32Array.from({ length: TASKS * SPLITS * SKILLS }, (_, at) =>
    at % SKILLS === Math.floor(at / (SPLITS * SKILLS)) ? -6 : 6,
  ),
};

async function sourceOf(task: number): Promise<ExampleSource> {
  const x = normals(ROWS * SIZE, 1, "poly", "train", task);
  const wanted = await plain(x, planted, task);
  const row = (data: Float32Array, at: number) =>
    tensor("float32", [SIZE], data.subarray(at * SIZE, (at + 1) * SIZE));
  return {
    size: ROWS,
    hash: `poly ${task}`,
    at: (at) => ({ inputs: { x: row(x, at) }, targets: { value: row(wanted, at) } }),
  };
}

/** The largest share of a task's change that training leaves, over all tasks. */
async function errorLeft(model: Adapted<TensorModel>, number: (task: number) => number): Promise<number> {
  const loss = regression({ shape: [SIZE] });
  const sources = await Promise.all(Array.from({ length: TASKS }, (_, task) => sourceOf(task)));
  const objectives = sources.map((train) => tensorObjective(model, { train, batchSize: 32, loss }));
  // One allocation for all tasks: their objectives are of one.
  const tasks = new Set(sources.map((_, task) => number(task)));
  const steps = 300;
  const options = {
    steps,
    accumulate: TASKS,
    optimizer: adam({ lr: 4e-2, schedule: linear({ totalSteps: steps }) }),
    session: { threads: 1, worker: false },
  };
  if (tasks.size > 1) await fit(byTask(model, objectives), options);
  else await fit(tensorObjective(model, { train: joined(sources), batchSize: 32, loss }), options);
  const x = normals(128 * SIZE, 1, "poly", "test");
  const left: number[] = [];
  for (let task = 0; task < TASKS; task++) {
    setTask(model, "default", number(task));
    const [wanted, given] = [await plain(x, planted, task), await logits(model, points(x))];
    const change = update(x, planted, task);
    const square = (values: Float32Array) => values.reduce((sum, value) => sum + value ** 2, 0);
    left.push(square(given.map((value, at) => value - Number(wanted[at]))) / square(change));
  }
  return Math.max(...left);
}

const joined = (sources: readonly ExampleSource[]): ExampleSource => ({
  size: ROWS * sources.length,
  hash: "poly all",
  at: (index) => (sources[index % sources.length] as ExampleSource).at(Math.floor(index / sources.length)),
});

/**
 * How often the first of two skills gets the larger share in training, its logit z above the other's: two logistic numbers decide,
 * so theory says e^z·(e^z − 1 − z) / (e^z − 1)².
 */
async function firstWins(method: Method<PolyConfig>, z: number, draws = 1500): Promise<number> {
  const { config } = poly({ rank: 1, skills: 2, targets: [PATH] });
  const site = { path: PATH, kind: "linear", inFeatures: 1, outFeatures: 1, hasBias: false } as const;
  // With A = (1, 0) and B = (1, 1) the update of x = 1 is the first skill's share.
  const numbers = {
    poly_lora_A: tensor("float32", [1, 2, 1, 1], [1, 0]),
    poly_lora_B: tensor("float32", [1, 2, 1, 1], [1, 1]),
    poly_logits: tensor("float32", [1, 2], [z, 0]),
    poly_task: tensor("int64", [], [0n]),
    x: tensor("float32", [1, 1], [1]),
    w: tensor("float32", [1, 1], [0]),
  };
  const values = Object.fromEntries(
    Object.entries(numbers).map(([name, { dtype, shape }]) => [name, input(name, dtype, shape)] as const),
  ) as Record<keyof typeof numbers, Value>;
  const { x, w, ...tensors } = values;
  const noise = (like: Value) => input("u", "float32", like.shape);
  const share = callMethod(method, config, { site, tensors, x, weight: w, training: true, noise });
  const session = await createSession(makeGraph("sample", inputsOf([share]), [["share", share]]), {
    threads: 1,
  });
  const uniform = rng(1, "poly").fillUniform(new Float32Array(2 * draws), 0, 1);
  const read = Object.entries(numbers).filter(([name]) => session.inputNames.includes(name));
  const isSampled = session.inputNames.includes("u");
  let wins = 0;
  for (let at = 0; at < draws; at++) {
    const u = tensor("float32", [1, 2], uniform.slice(2 * at, 2 * at + 2));
    const feeds = { ...Object.fromEntries(read), ...(isSampled ? { u } : {}) };
    const { share: own } = await session.run(feeds);
    if (Number(own?.data[0]) > 0.5) wins++;
  }
  await session.release();
  return wins / draws;
}

const winsInTheory = (z: number): number => (Math.exp(z) * (Math.exp(z) - 1 - z)) / (Math.exp(z) - 1) ** 2;

async function checks(method: Method<PolyConfig>): Promise<Check[]> {
  const zero = (what: string, measured: number, tolerance = 1e-4): Check => ({
    what,
    measured,
    expected: 0,
    tolerance,
  });
  const x = normals(5 * SIZE, 1, "poly", "few");
  const model = await adapt(base, adaptation(method));
  const start = gap(await logits(model, points(x)), await logits(base, points(x)));
  for (const { name, trainable, tensor: own } of model.parameters.values())
    if (trainable) rng(2, name).fillNormal(own.data as Float32Array, 0, 0.7);
  const [apart, merged, others]: [number[], number[], Float32Array[]] = [[], [], []];
  for (let task = 0; task < TASKS; task++) {
    setTask(model, "default", task);
    const given = await logits(model, points(x));
    apart.push(gap(given, await plain(x, live(model), task)));
    merged.push(gap(await logits(await merge(model), points(x)), given));
    others.push(given);
  }
  const numbers = [...model.parameters.values()].reduce(
    (sum, { trainable, tensor: { data } }) => sum + (trainable ? data.length : 0),
    0,
  );
  const z = 1.5;
  return [
    zero("change at the start", start, 0),
    zero("outputs of every task against plain arithmetic", Math.max(...apart)),
    zero("merged at every task", Math.max(...merged)),
    between(
      "how far two tasks are apart",
      gap(others[0] as Float32Array, others[1] as Float32Array),
      1e-2,
      1e2,
    ),
    {
      what: "trained numbers: S·r·(in + out) + T·Q·S",
      measured: numbers,
      expected: SKILLS * RANK * 2 * SIZE + TASKS * SPLITS * SKILLS,
      tolerance: 0,
    },
    // Five standard deviations of 1500 draws.
    {
      what: "how often a sampled skill wins against one of a logit 1.5 below",
      measured: await firstWins(method, z),
      expected: winsInTheory(z),
      tolerance: 5 * Math.sqrt((winsInTheory(z) * (1 - winsInTheory(z))) / 1500),
    },
  ];
}

async function learningChecks(method: Method<PolyConfig>): Promise<Check[]> {
  const each = await errorLeft(await adapt(base, adaptation(method)), (task) => task);
  const one = await errorLeft(await adapt(base, adaptation(method, 1)), () => 0);
  return [
    between("error left, the worst task of three that share skills", each, 0, 0.1),
    between("the same with one allocation for all three", one, 0.3, 2),
  ];
}
