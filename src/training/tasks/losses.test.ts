import { describe, expect, test } from "vitest";
import { gradients } from "../../autodiff/index.js";
import { input, makeGraph, ops, type Value } from "../../graph/index.js";
import { evaluate } from "../../runtime/index.js";
import { rng } from "../../runtime/random/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import type { TensorLoss } from "../index.js";
import { labelLoss } from "./classification.js";
import {
  classification,
  cosent,
  cosineSimilarity,
  ctcLoss,
  matryoshka,
  multiLabel,
  multipleNegatives,
  regression,
  reward,
  triplet,
} from "./index.js";

const draw = (name: string, shape: number[]) =>
  tensor("float32", shape, rng(3, name).fillNormal(new Float32Array(shape.reduce((a, b) => a * b, 1))));
const rowsOf = ({ data, shape }: Tensor): number[][] => {
  const width = shape.at(-1) as number;
  return Array.from({ length: data.length / width }, (_, row) =>
    Array.from(data.slice(row * width, (row + 1) * width), Number),
  );
};
const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
const dot = (a: readonly number[], b: readonly number[]) => sum(a.map((x, at) => x * (b[at] as number)));
const cosine = (a: readonly number[], b: readonly number[]) => dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
const logSoftmax = (row: readonly number[]) => {
  const norm = Math.log(sum(row.map(Math.exp)));
  return row.map((x) => x - norm);
};

/** Loss, and the gradient by what is drawn, checked against differences of the loss in all its directions. */
async function lossOf(
  build: (x: Value, feeds: Record<string, Value>) => Value,
  x: Tensor,
  extra: Record<string, Tensor> = {},
) {
  const variable = input("x", "float32", x.shape);
  const given = Object.fromEntries(
    Object.entries(extra).map(([name, { dtype, shape }]) => [name, input(name, dtype, shape)]),
  );
  const loss = ops.reshape(build(variable, given), []);
  const [slope] = gradients(loss, [variable]) as [Value];
  const graph = makeGraph(
    "loss",
    [variable, ...Object.values(given)],
    [
      ["loss", loss],
      ["slope", slope],
    ],
  );
  const run = async (data: Float32Array) => {
    const found = await evaluate(graph, { x: tensor("float32", x.shape, data), ...extra }, { threads: 1 });
    return { loss: Number(found.loss?.data[0]), slope: Array.from(found.slope?.data as Float32Array) };
  };
  const start = x.data as Float32Array;
  const { loss: value, slope: gradient } = await run(start);
  expect(gradient.every(Number.isFinite)).toBe(true);
  for (const name of ["one", "two", "three"]) {
    const direction = rng(5, name).fillNormal(new Float32Array(start.length));
    const moved = async (by: number) =>
      (await run(start.map((v, at) => v + by * (direction[at] as number)))).loss;
    const difference = ((await moved(5e-3)) - (await moved(-5e-3))) / 1e-2;
    expect(Math.abs(difference - dot(gradient, [...direction]))).toBeLessThan(
      0.01 * (1 + Math.abs(difference)),
    );
  }
  return value;
}

/** A task's loss of one output, with a last example that only fills the batch up. */
const taskLoss = (loss: TensorLoss, x: Tensor, targets: Record<string, Tensor>, batch: number) =>
  lossOf(
    (value, given) => {
      const { weights, ...rest } = given;
      return loss.sum({
        outputs: { [(loss.outputs ?? [])[0] ?? "logits"]: value },
        targets: rest,
        rowWeights: weights as Value,
      });
    },
    x,
    {
      ...targets,
      weights: tensor(
        "float32",
        [batch],
        Float32Array.from({ length: batch }, (_, at) => (at < batch - 1 ? 1 : 0)),
      ),
    },
  );

describe("classes", () => {
  const logits = draw("logits", [4, 3]);
  const labels = [2, 0, 1, 0];
  const label = tensor("int64", [4], labels);
  test.each<[string, Parameters<typeof classification>[0], (logs: number[], y: number) => number]>([
    ["cross-entropy", {}, (logs, y) => -(logs[y] as number)],
    [
      "smoothed labels",
      { labelSmoothing: 0.1 },
      (logs, y) => -0.9 * (logs[y] as number) - (0.1 * sum(logs)) / logs.length,
    ],
    [
      "class weights",
      { classWeights: [1, 2, 0.5] },
      (logs, y) => -([1, 2, 0.5][y] as number) * (logs[y] as number),
    ],
    [
      "focal",
      { focalGamma: 2 },
      (logs, y) => -((1 - Math.exp(logs[y] as number)) ** 2) * (logs[y] as number),
    ],
  ])("%s", async (_, options, formula) => {
    const expected = rowsOf(logits).map((row, at) => formula(logSoftmax(row), labels[at] as number));
    const found = await taskLoss(classification(options), logits, { label }, 4);
    expect(found).toBeCloseTo(sum(expected.slice(0, 3)), 4);
  });

  test("several at once", async () => {
    const y = tensor("float32", [4, 3], [1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0]);
    const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
    const each = rowsOf(logits).map(
      (row, at) =>
        sum(
          row.map((x, k) =>
            (rowsOf(y)[at] as number[])[k] === 1 ? -Math.log(sigmoid(x)) : -Math.log(1 - sigmoid(x)),
          ),
        ) / 3,
    );
    expect(await taskLoss(multiLabel(), logits, { labels: y }, 4)).toBeCloseTo(sum(each.slice(0, 3)), 4);
  });
});

test.each(["mse", "mae", "huber"] as const)("numbers, %s", async (error) => {
  const [x, y] = [draw("x", [3, 4]), draw("y", [3, 4])];
  const each = rowsOf(x).map((row, at) =>
    row.map((value, k) => {
      const d = Math.abs(value - ((rowsOf(y)[at] as number[])[k] as number));
      if (error === "mse") return d * d;
      if (error === "mae") return d;
      return d <= 0.7 ? (d * d) / 2 : 0.7 * (d - 0.35);
    }),
  );
  const loss = regression({ shape: [4], error, delta: 0.7 });
  expect(await taskLoss(loss, x, { value: y }, 3)).toBeCloseTo(
    sum(each.slice(0, 2).map((row) => sum(row) / 4)),
    4,
  );
});

describe("vectors", () => {
  const x = draw("vectors", [12, 5]);
  const grouped = (rows: number) => {
    const all = rowsOf(x);
    return Array.from({ length: all.length / rows }, (_, at) => all.slice(at * rows, (at + 1) * rows));
  };

  test.each([2, 3])("multiple negatives ranking, %i texts an example", async (rows) => {
    const kept = grouped(rows).slice(0, -1);
    const candidates = Array.from({ length: rows - 1 }, (_, place) =>
      kept.map((group) => group[place + 1] as number[]),
    ).flat();
    const expected = kept.map((group, at) => {
      const scores = candidates.map((other) => 4 * cosine(group[0] as number[], other));
      return -(logSoftmax(scores)[at] as number);
    });
    const loss = multipleNegatives({ rows, scale: 4 });
    expect(await taskLoss(loss, x, {}, 12 / rows)).toBeCloseTo(sum(expected), 3);
  });

  test("triplets", async () => {
    const far = (a: number[], b: number[]) => Math.hypot(...a.map((v, at) => v - (b[at] as number)));
    const expected = grouped(3)
      .slice(0, -1)
      .map(([a, p, n]) =>
        Math.max(0, far(a as number[], p as number[]) - far(a as number[], n as number[]) + 1),
      );
    expect(await taskLoss(triplet({ margin: 1 }), x, {}, 4)).toBeCloseTo(sum(expected), 4);
  });

  const value = tensor("float32", [6], [0.9, 0.1, 0.5, 0.5, 0.3, 1]);
  const cosines = grouped(2).map(([a, b]) => cosine(a as number[], b as number[]));

  test("cosine similarity", async () => {
    const expected = cosines.map((c, at) => (c - Number(value.data[at])) ** 2);
    expect(await taskLoss(cosineSimilarity(), x, { value }, 6)).toBeCloseTo(sum(expected.slice(0, 5)), 4);
  });

  test("CoSENT", async () => {
    let total = 1;
    for (let i = 0; i < 5; i++)
      for (let j = 0; j < 5; j++)
        if (Number(value.data[i]) < Number(value.data[j]))
          total += Math.exp(3 * ((cosines[i] as number) - (cosines[j] as number)));
    expect(await taskLoss(cosent({ scale: 3 }), x, { value }, 6)).toBeCloseTo(5 * Math.log(total), 3);
  });

  test("Matryoshka adds up the loss of the vectors' beginnings", async () => {
    const short = tensor(
      "float32",
      [12, 2],
      rowsOf(x).flatMap((row) => row.slice(0, 2)),
    );
    const loss = multipleNegatives({ scale: 4 });
    const [whole, part] = [await taskLoss(loss, x, {}, 6), await taskLoss(loss, short, {}, 6)];
    const both = await taskLoss(matryoshka(loss, [5, 2], { weights: [1, 0.5] }), x, {}, 6);
    expect(both).toBeCloseTo(whole + 0.5 * part, 3);
  });

  test("rewards", async () => {
    const numbers = draw("rewards", [6, 1]);
    const each = [0, 1].map((pair) => {
      const [c, r] = [Number(numbers.data[2 * pair]), Number(numbers.data[2 * pair + 1])];
      return Math.log1p(Math.exp(r - c)) + 0.1 * (c + r) ** 2;
    });
    expect(await taskLoss(reward({ centering: 0.1 }), numbers, {}, 3)).toBeCloseTo(sum(each), 4);
  });
});

describe("CTC", () => {
  /** Sums over every path of classes whose collapsed form is the labels. */
  function byHand(rows: number[][], labels: readonly number[], blank: number): number {
    const logs = rows.map(logSoftmax);
    const classes = (logs[0] as number[]).length;
    let total = 0;
    for (let code = 0; code < classes ** rows.length; code++) {
      const path = rows.map((_, step) => Math.floor(code / classes ** step) % classes);
      const collapsed = path.filter((state, at) => state !== path[at - 1] && state !== blank);
      if (collapsed.join() !== labels.join()) continue;
      total += Math.exp(sum(path.map((state, step) => (logs[step] as number[])[state] as number)));
    }
    return -Math.log(total);
  }

  test.each([0, 3])("equals the sum over all alignments, blank %i", async (blank) => {
    const scores = draw("frames", [4, 5, 4]);
    const lists = [[1, 2], [2, 2, 1], [1], []].map((list) =>
      list.map((label) => (label === blank ? 0 : label)),
    );
    const labels = tensor(
      "int64",
      [4, 3],
      lists.flatMap((list) => [...list, -100, -100, -100].slice(0, 3)),
    );
    const frames = tensor("int64", [4], [5, 5, 3, 4]);
    const found = await lossOf(
      (x, given) =>
        ops.reduceSum(ctcLoss(x, given.labels as Value, given.frames as Value, blank), undefined, false),
      scores,
      { labels, frames },
    );
    const all = rowsOf(scores);
    const expected = lists.map((list, at) =>
      byHand(all.slice(5 * at, 5 * at + Number(frames.data[at])), list, blank),
    );
    expect(found).toBeCloseTo(sum(expected), 3);
  });
});

test("labels of one row at a time are picked", async () => {
  const logits = draw("single", [2, 3]);
  const found = await lossOf(
    (x, given) => ops.reduceSum(labelLoss(x, given.labels as Value), undefined, false),
    logits,
    { labels: tensor("int64", [2, 1], [1, 2]) },
  );
  const logs = rowsOf(logits).map(logSoftmax);
  expect(found).toBeCloseTo(-(logs[0]?.[1] as number) - (logs[1]?.[2] as number), 4);
});
