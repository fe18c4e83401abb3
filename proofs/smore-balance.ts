import { input, makeGraph, ops, type Value } from "../src/graph/index.js";
import { type Adaptation, callMethod, type SmoreConfig, type smore } from "../src/methods/index.js";
import { inputsOf } from "../src/models/index.js";
import { evaluate, rng } from "../src/runtime/index.js";
import { type Tensor, tensor } from "../src/tensor/index.js";
import { liveOf, vanishes } from "./matrices.js";
import { gap, type PlantedMap, type PlantedSites, shapeOf, start } from "./planted.js";
import type { Check } from "./proof.js";

export type SmoreOptions = Parameters<typeof smore>[0];

/** The implementation under test with options. */
export type Own = (options: SmoreOptions) => Adaptation<SmoreConfig>;

const [OUT, IN] = [16, 6];
const SMALL = { experts: [4, 4], active: [2, 2], ranks: [2, 2], gateDim: 4, downDim: 4 };
const nothing: PlantedMap = {
  ...{ path: "map", out: OUT, in: IN },
  ...{ weight: new Float32Array(OUT * IN), target: new Float32Array(OUT * IN) },
};

/** What one map adds to the loss in training, and counts. */
async function accounted(
  { method, config }: Adaptation<SmoreConfig>,
  live: PlantedSites,
  x: Float32Array,
  mask?: readonly number[],
) {
  const losses: Value[] = [];
  const outputs: [string, Value][] = [];
  const site = shapeOf(nothing);
  const own = Object.entries(live.sites[0]?.tensors ?? {});
  const rows = x.length / IN;
  const given = input("x", "float32", [rows, IN]);
  const valid = mask && input("mask", "float32", [rows]);
  callMethod(method, config, {
    site,
    tensors: Object.fromEntries(own.map(([key, { value }]) => [key, value])),
    x: given,
    weight: ops.full([OUT, IN], 0, "float32"),
    training: true,
    noise: (like) => input("noise", "float32", like.shape),
    addLoss: (term) => losses.push(term),
    tally: (name, sums) => outputs.push([name, sums]),
    ...(valid ? { mask: valid } : {}),
  });
  outputs.push(["loss", losses.reduce((a, b) => ops.add(a, b), ops.scalar(0))]);
  const graph = makeGraph("accounts", inputsOf(outputs.map(([, value]) => value)), outputs);
  const known: Record<string, Tensor> = {
    x: tensor("float32", [rows, IN], x),
    ...(mask ? { mask: tensor("float32", [rows], mask) } : {}),
    ...Object.fromEntries(own.map(([, { name, tensor: data }]) => [name, data])),
  };
  const found = await evaluate(
    graph,
    Object.fromEntries(graph.inputs.map(({ name }) => [String(name), known[String(name)] as Tensor])),
  );
  return {
    loss: Number(found.loss?.data[0]),
    counts: (layer: number) => Array.from(found[`chosen/${layer}`]?.data as Float32Array),
  };
}

/** Gates that send a token to the experts of its largest features. */
function sort(live: PlantedSites, strength: number): void {
  const one = (name: string, rows: number, columns: number) => {
    const data = liveOf(live, `smore_${name}`).fill(0);
    for (let at = 0; at < Math.min(rows, columns); at++) data[at * columns + at] = 1;
  };
  one("down", 4, IN);
  for (const [layer, columns] of [8, 4].entries()) {
    for (const [name, width] of [
      [`gate_in_${layer}`, columns],
      [`gate_out_${layer}`, 4],
      [`gate_keys_${layer}`, 4],
    ] as const)
      one(name, 4, width);
    for (const part of ["in", "out"]) liveOf(live, `smore_gate_${part}_bias_${layer}`).fill(0);
    const out = liveOf(live, `smore_gate_out_${layer}`);
    out.set(out.map((value) => value * strength));
  }
  liveOf(live, "smore_down_bias").fill(0);
}

/** Tokens with the given two features, in turn. */
const sorted = (pairs: readonly (readonly [number, number])[]): Float32Array => {
  const x = new Float32Array(pairs.length * IN);
  for (const [row, [first, second]] of pairs.entries()) {
    x[row * IN + first] = 1;
    x[row * IN + second] = 1;
  }
  return x;
};

/** Balance losses where they are known, padding, and counts. */
export async function balance(own: Own): Promise<Check[]> {
  const weight = 0.01;
  const adaptation = own({ ...SMALL, balance: weight });
  const live = await start(adaptation, [nothing]);
  sort(live, 3);
  const around = [0, 1, 2, 3].map((at) => [at, (at + 1) % 4] as const);
  const even = await accounted(adaptation, live, sorted(around));
  const masked = await accounted(
    adaptation,
    live,
    sorted([...around, [2, 3], [2, 3], [2, 3]]),
    [1, 1, 1, 1, 0, 0, 0],
  );
  const single = own({ ...SMALL, active: [1, 1], balance: weight });
  const tight = await start(single, [nothing]);
  sort(tight, 50);
  const collapsed = await accounted(
    single,
    tight,
    sorted([
      [2, 2],
      [2, 2],
      [2, 2],
    ]),
  );
  const random = rng(4, "smore").fillNormal(new Float32Array(3 * IN));
  const dense = own({ ...SMALL, active: undefined, gate: "dense" });
  return [
    {
      what: "balance loss at uniform routing, of weight times children of both sub-layers",
      measured: even.loss,
      expected: weight * 4,
      tolerance: 1e-6,
    },
    {
      what: "balance loss where every token goes to one expert",
      measured: collapsed.loss,
      expected: weight * 8,
      tolerance: 1e-6,
    },
    vanishes("what rows of padding change of it", masked.loss - even.loss, 1e-6),
    vanishes("and of the counts", gap(masked.counts(0), even.counts(0)), 0),
    vanishes("counts of the leaves' sub-layer against four each", gap(even.counts(0), [4, 4, 4, 4]), 0),
    vanishes(
      "balance loss of a dense gate",
      (await accounted(dense, await start(dense, [nothing]), random)).loss,
      0,
    ),
  ];
}
