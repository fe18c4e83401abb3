import { type Adaptation, type Adapted, isAdapted } from "../src/methods/index.js";
import type { TensorModel } from "../src/models/index.js";
import { adam } from "../src/training/index.js";
import { transformed } from "./matrices.js";
import { accuracy, adapted, logits, mixture, network, normals, type Points, pretrain } from "./network.js";

const [WIDTH, HIDDEN, CLASSES] = [32, 64, 10];

/** A trained network 32-64-10 on a Gaussian mixture, and what becomes of it when inputs are transformed. */
export interface RotatedTask {
  readonly base: TensorModel;
  readonly baseAccuracy: number;
  /** Accuracy on inputs x·T without any adaptation. */
  untouched(by: Float32Array): Promise<number>;
  /** Adapts the first layer to inputs x·T: Adam at a constant rate, batches of 128. */
  repair(
    adaptation: Adaptation,
    by: Float32Array,
    options: { readonly lr: number; readonly steps?: number },
  ): Promise<Repaired>;
}

export interface Repaired {
  readonly model: Adapted<TensorModel>;
  readonly accuracy: number;
  /** Mean cross-entropy on the same fresh points. */
  readonly loss: number;
}

let known: Promise<RotatedTask> | undefined;

/** The task, made once. */
export function rotatedTask(): Promise<RotatedTask> {
  known ??= make();
  return known;
}

async function make(): Promise<RotatedTask> {
  const centres = normals(CLASSES * WIDTH, 0.6, "rotated", "centres");
  const points = (count: number, seed: string) => mixture(centres, { classes: CLASSES, count, seed });
  const [train, fresh, test] = [points(8000, "train"), points(20000, "adapt"), points(4000, "test")];
  const plain = network([WIDTH, HIDDEN, CLASSES], { seed: "rotated" });
  const base = await pretrain(plain, train, { steps: 1000, lr: 3e-3, batchSize: 128 });
  return {
    base,
    baseAccuracy: await accuracy(base, test),
    untouched: (by) => accuracy(base, transformed(test, by)),
    async repair({ method, config }, by, { lr, steps = 800 }) {
      const own = { method, config: { ...config, targets: ["fc1"] } };
      const optimizer = adam({ lr });
      const model = await adapted(base, own, transformed(fresh, by), {
        steps,
        lr,
        batchSize: 128,
        optimizer,
      });
      if (!isAdapted(model)) throw new Error("no adapter");
      const seen = transformed(test, by);
      const result = model as unknown as Adapted<TensorModel>;
      return { model: result, accuracy: await accuracy(model, seen), loss: await crossEntropy(model, seen) };
    },
  };
}

async function crossEntropy(model: TensorModel, points: Points): Promise<number> {
  const scores = await logits(model, points);
  const losses = points.labels.map((label, row) => {
    const own = scores.subarray(row * CLASSES, (row + 1) * CLASSES);
    const most = Math.max(...own);
    const sum = own.reduce((total, value) => total + Math.exp(value - most), 0);
    return most + Math.log(sum) - Number(own[label]);
  });
  return losses.reduce((a, b) => a + b, 0) / losses.length;
}
