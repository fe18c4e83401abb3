import { gradients } from "../src/autodiff/index.js";
import { input, makeGraph, ops, type Value } from "../src/graph/index.js";
import { callMethod, type LoraConfig, lora, loraMethod, type Method } from "../src/methods/index.js";
import { evaluate } from "../src/runtime/index.js";
import { type Tensor, tensor } from "../src/tensor/index.js";
import { identity, turned } from "./matrices.js";
import { atLeast } from "./network.js";
import {
  compute,
  disturb,
  gap,
  norm,
  normals,
  type PlantedMap,
  plant,
  plus,
  shapeOf,
  start,
  times,
} from "./planted.js";
import type { Check } from "./proof.js";
import { matrix, type Numbers, numbersAt, structured } from "./structure.js";

const [OUT, IN, RANK] = [24, 32, 2];
const { config } = lora({ rank: RANK, alpha: 3, dora: true });
const SCALE = 3 / RANK;

const rowNorms = (weight: Float32Array): number[] =>
  Array.from({ length: OUT }, (_, i) => norm(weight.subarray(i * IN, (i + 1) * IN)));

/** V = W + s·B·A. */
const directions = ({ weight }: PlantedMap, { lora_A: a = [], lora_B: b = [] }: Numbers, scale = SCALE) =>
  plus(weight, times(b, a, [OUT, a.length / IN, IN]), scale);

/** W' = m ∘ V / ‖V‖, row by row. */
function formula(map: PlantedMap, all: Numbers, scale = SCALE) {
  const v = directions(map, all, scale);
  const norms = rowNorms(v);
  const m = all.lora_magnitude_vector ?? [];
  return {
    weight: matrix(OUT, IN, (i, j) => (Number(m[i]) / Number(norms[i])) * Number(v[i * IN + j])),
  };
}

/** Row norms are |m|, and the gradient is that of the norm held constant, not the exact one. */
async function gradient(method: Method<LoraConfig>): Promise<Check[]> {
  const map = plant("map", [OUT, IN], new Float32Array(OUT * IN), "dora");
  const adaptation = { method, config };
  const live = await start(adaptation, [map]);
  disturb(live, 0.3);
  const all = numbersAt(live);
  const { weight } = await compute(adaptation, map, live, new Float32Array(IN));
  const m = all.lora_magnitude_vector as Float32Array;
  // Of Σ G ∘ W', by A and B.
  const g = normals(OUT * IN, "dora", "G");
  const found = await gradientOf(method, map, all, g);
  const v = directions(map, all);
  const norms = rowNorms(v);
  const scaled = (data: Float32Array) =>
    matrix(OUT, IN, (i, j) => (Number(m[i]) / Number(norms[i])) * Number(data[i * IN + j]));
  const along = Array.from({ length: OUT }, (_, i) => {
    let sum = 0;
    for (let j = i * IN; j < (i + 1) * IN; j++) sum += Number(g[j]) * Number(v[j]);
    return sum / Number(norms[i]) ** 2;
  });
  const byA = (dv: Float32Array) =>
    times(turned(OUT, RANK, all.lora_B as Float32Array), dv, [RANK, OUT, IN]).map((value) => SCALE * value);
  const byB = (dv: Float32Array) =>
    times(dv, turned(RANK, IN, all.lora_A as Float32Array), [OUT, IN, RANK]).map((value) => SCALE * value);
  const held = scaled(g);
  const exact = scaled(
    matrix(OUT, IN, (i, j) => Number(g[i * IN + j]) - Number(along[i]) * Number(v[i * IN + j])),
  );
  const off = (key: string, wanted: Float32Array) =>
    norm(plus(found[key] as Float32Array, wanted, -1)) / norm(wanted);
  return [
    {
      what: "row norms of W' against |m|",
      measured: gap(rowNorms(weight), m.map(Math.abs)),
      expected: 0,
      tolerance: 1e-5,
    },
    ...(["lora_A", "lora_B"] as const).flatMap((key): Check[] => {
      const of = key === "lora_A" ? byA : byB;
      return [
        {
          what: `gradient by ${key} against that with the norm held`,
          measured: off(key, of(held)),
          expected: 0,
          tolerance: 1e-5,
        },
        atLeast(`the same against the exact one, by ${key}`, off(key, of(exact)), 0.01, 10),
      ];
    }),
  ];
}

async function gradientOf(
  method: Method<LoraConfig>,
  map: PlantedMap,
  all: Readonly<Record<string, Float32Array>>,
  g: Float32Array,
): Promise<Record<string, Float32Array>> {
  const site = shapeOf(map);
  const specs = Object.entries(method.tensors(site, config));
  const tensors = Object.fromEntries(
    specs.map(([key, { shape }]): [string, Value] => [key, input(key, "float32", shape)]),
  );
  const [x, w, by] = [
    input("x", "float32", [IN, IN]),
    input("w", "float32", [OUT, IN]),
    input("g", "float32", [IN, OUT]),
  ];
  const y = callMethod(method, config, { site, tensors, x, weight: w });
  const loss = ops.reduceSum(ops.mul(y, by), undefined, false);
  const names = ["lora_A", "lora_B"] as const;
  const grads = gradients(
    loss,
    names.map((key) => tensors[key] as Value),
  );
  const feeds: Record<string, Tensor> = {
    x: tensor("float32", [IN, IN], identity(IN)),
    w: tensor("float32", [OUT, IN], map.weight),
    g: tensor("float32", [IN, OUT], turned(OUT, IN, g)),
  };
  for (const [key, { shape }] of specs) feeds[key] = tensor("float32", shape, all[key] as Float32Array);
  const graph = makeGraph(
    "gradient",
    [x, w, by, ...Object.values(tensors)],
    names.map((key, at): [string, Value] => [`grad/${key}`, grads[at] as Value]),
  );
  const results = await evaluate(graph, feeds);
  return Object.fromEntries(names.map((key) => [key, results[`grad/${key}`]?.data as Float32Array]));
}

/** DoRA: sizes of rows apart from their directions. */
export const doraProof = structured(loraMethod as Method<LoraConfig>, {
  name: "dora",
  title: "DoRA keeps sizes of rows apart from their directions, and its gradient holds the norm constant",
  papers: ["2402.09353"],
  structures: [
    {
      label: `rank ${RANK}`,
      config,
      size: [OUT, IN],
      formula,
      planted: (key, length) => normals(length, "dora", key).map((value) => 1 + value / 4),
      count: RANK * (OUT + IN) + OUT,
      rank: OUT,
    },
    {
      // All rows longer or shorter, each by its own factor, and a little turned.
      label: "other sizes of rows",
      config: lora({ rank: 1, alpha: 1, dora: true }).config,
      size: [OUT, IN],
      formula: (map, all) => formula(map, all, 1),
      planted: (key, length) =>
        key === "lora_magnitude_vector"
          ? normals(length, "dora", key).map((value) => 1 + 0.5 * value)
          : normals(length, "dora", key).map((value) => 0.3 * value),
      count: OUT + IN + OUT,
      rank: OUT,
      learning: { steps: 1500 },
    },
  ],
  extra: gradient,
});
