import {
  type FineGatesConfig,
  fineGates,
  fineGatesMethod,
  type Method,
  unfreeze,
} from "../src/methods/index.js";
import type { TensorModel } from "../src/models/index.js";
import { rng } from "../src/runtime/index.js";
import { adam, constant } from "../src/training/index.js";
import {
  accuracy,
  adapted,
  atLeast,
  liveTensor,
  mixture,
  network,
  normals,
  type Points,
  pretrain,
  tune,
} from "./network.js";
import type { Check, Proof } from "./proof.js";

export interface FineGatesProofOptions {
  /** The implementation under test. */
  readonly method?: Method<FineGatesConfig>;
  /** Steps of every run. Default 3000. */
  readonly steps?: number;
  /** Target sparsities beside 0.3 whose closed gates are compared. Default 0 and 0.5. */
  readonly others?: readonly number[];
}

const [WIDTH, CLASSES, NOISE] = [32, 10, 10];

/**
 * What FineGates must do: by gates and biases alone a network learns to do without inputs that have become noise, and
 * as many gates close as it is told.
 */
export function fineGatesProof(options: FineGatesProofOptions = {}): Proof {
  const { method = fineGatesMethod, steps = 3000, others = [0, 0.5] } = options;
  return {
    name: "fine-gates",
    title: "gates close the inputs that have become noise, as many as they are told",
    papers: ["2412.12951"],
    async run() {
      const task = await noisyTask();
      return [...(await adaptation(method, task, steps)), ...(await control(method, task, steps, others))];
    },
  };
}

interface Task {
  readonly base: TensorModel;
  readonly train: Points;
  readonly test: Points;
  readonly noise: ReadonlySet<number>;
}

async function noisyTask(): Promise<Task> {
  const centres = normals(CLASSES * WIDTH, 0.45, "centres");
  const points = (seed: string, count: number) => mixture(centres, { classes: CLASSES, count, seed });
  const order = [...rng(0, "proof", "noise").permutation(WIDTH)].slice(0, NOISE);
  const disturbed = (seed: string, count: number): Points => {
    const clean = points(seed, count);
    const draws = normals(count * NOISE, 3, "disturbance", seed);
    for (let row = 0; row < count; row++)
      for (const [k, column] of order.entries())
        clean.x[row * WIDTH + column] = Number(draws[row * NOISE + k]);
    return clean;
  };
  return {
    base: await pretrain(network([WIDTH, 128, 64, CLASSES], { seed: "gates" }), points("clean", 8000), {
      steps: 1500,
      lr: 1e-3,
    }),
    train: disturbed("train", 4000),
    test: disturbed("test", 4000),
    noise: new Set(order),
  };
}

const configured = (method: Method<FineGatesConfig>, targetSparsity: number) => ({
  method,
  config: fineGates({ targetSparsity, targets: ["fc1", "fc2"], modulesToSave: ["fc3"] }).config,
});

const settings = (steps: number) => ({
  steps,
  lr: 5e-3,
  optimizer: adam({ lr: 5e-3, schedule: constant() }),
});

/** Gates of evaluation, clip(tanh ℓ + ½, 0, 1). */
const gatesOf = (logits: ArrayLike<number>): number[] =>
  Array.from(logits, (value) => Math.min(1, Math.max(0, Math.tanh(value) + 0.5)));

/** P(μ + N(0, ½²) + ½ > 0), counted. */
const openShare = (logits: ArrayLike<number>): number => {
  const draws = normals(400, 0.5, "openness");
  const open = Array.from(logits, (value) => {
    const mean = Math.tanh(value) + 0.5;
    return draws.filter((draw) => mean + draw > 0).length / draws.length;
  });
  return open.reduce((a, b) => a + b, 0) / open.length;
};

async function adaptation(method: Method<FineGatesConfig>, task: Task, steps: number): Promise<Check[]> {
  const { base, train, test, noise } = task;
  const head = await unfreeze(base, { select: /fc3/ });
  await tune(head, train, settings(steps));
  const model = await adapted(base, configured(method, 0.3), train, settings(steps));
  const [before, alone, own] = [
    await accuracy(base, test),
    await accuracy(head, test),
    await accuracy(model, test),
  ];
  const live = (path: string, part: string) => liveTensor(model, path, `gates_${part}`).data as Float32Array;
  const closed = gatesOf(live("fc1", "columns")).flatMap((gate, at) => (gate === 0 ? [at] : []));
  const right = closed.filter((at) => noise.has(at)).length;
  const gaps = ["fc1", "fc2"].flatMap((path) =>
    ["rows", "columns"].map((part) => Math.abs(openShare(live(path, part)) - 0.7)),
  );
  return [
    atLeast(
      `accuracy above the head alone (base ${before.toFixed(3)}, head ${alone.toFixed(3)})`,
      own - alone,
      0.08,
    ),
    atLeast(`inputs of noise that are closed, of ${NOISE}`, right, 8, NOISE),
    atLeast(`share of noise among the ${closed.length} closed inputs`, right / closed.length, 0.8),
    {
      what: "open gates away from the 70 % asked for, at most",
      measured: Math.max(...gaps),
      expected: 0,
      tolerance: 0.03,
    },
  ];
}

/** Closed gates at rising targets. */
async function control(
  method: Method<FineGatesConfig>,
  { base, train }: Task,
  steps: number,
  targets: readonly number[],
): Promise<Check[]> {
  const shares: number[] = [];
  for (const target of targets) {
    const model = await adapted(base, configured(method, target), train, settings(Math.ceil(steps / 3)));
    const all = ["fc1", "fc2"].flatMap((path) =>
      ["rows", "columns"].flatMap((part) =>
        gatesOf(liveTensor(model, path, `gates_${part}`).data as Float32Array),
      ),
    );
    shares.push(all.filter((gate) => gate === 0).length / all.length);
  }
  return shares
    .slice(1)
    .map((share, at) =>
      atLeast(
        `gates closed at ${targets[at + 1]} beyond those at ${targets[at]}`,
        share - Number(shares[at]),
        0.1,
      ),
    );
}
