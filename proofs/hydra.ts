import { type HydraConfig, hydra, hydraMethod, type Method } from "../src/methods/index.js";
import { numericalRank, pseudoInverse, svd } from "../src/runtime/index.js";
import {
  agreement,
  compute,
  disturb,
  learn,
  lowRank,
  norm,
  normals,
  numbersOf,
  type PlantedMap,
  plant,
  plus,
  start,
  times,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface HydraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<HydraConfig>;
  /** Optimiser steps; 0 leaves learning out. Default 3000. */
  readonly steps?: number;
}

/** What each branch is, and what it cannot do alone. */
export function hydraProof({ method = hydraMethod, steps = 3000 }: HydraProofOptions = {}): Proof {
  return {
    name: "hydra",
    title:
      "Hydra's branches: one adds to the weight, one multiplies it, and each stalls where only the other can go",
    papers: ["2309.06922"],
    async run() {
      const checks = [...(await formula(method)), ...(await spaces(method))];
      return steps > 0 ? [...checks, ...(await learning(method, steps))] : checks;
    },
  };
}

async function formula(method: Method<HydraConfig>): Promise<Check[]> {
  const [out, inn, p, s] = [24, 40, 3, 2];
  const map = { ...plant("map", [out, inn], new Float32Array(out * inn)), bias: normals(out, "bias") };
  const adaptation = {
    method,
    config: hydra({ parallelRank: p, sequentialRank: s, scale: 0.7, branchBias: true }).config,
  };
  const live = await start(adaptation, [map]);
  disturb(live, 0.2);
  const get = (key: string) => numbersOf(live, `hydra_${key}`);
  const parallel = times(get("par_B"), get("par_A"), [out, p, inn]);
  const square = times(get("seq_B"), get("seq_A"), [out, s, out]);
  const weight = plus(plus(map.weight, parallel, 0.7), times(square, map.weight, [out, out, inn]), 0.7);
  const constants = plus(
    plus(times(get("par_B"), get("par_a"), [out, p, 1]), get("par_b")),
    plus(times(get("seq_B"), get("seq_a"), [out, s, 1]), get("seq_b")),
  );
  const bias = plus(plus(map.bias, times(square, map.bias, [out, out, 1]), 0.7), constants, 0.7);
  const found = await compute(adaptation, map, live, new Float32Array(inn));
  const rank = numericalRank({ rows: out, cols: inn, data: plus(found.weight, map.weight, -1) }, 1e-4);
  return [
    ...(await agreement("both branches with biases", adaptation, map, live, { weight, bias })),
    { what: "rank of the change", measured: rank, expected: p + s, tolerance: 0 },
  ];
}

/** A weight of rank 24 out of 32, and the projection on its row space. */
function singular(): { map: PlantedMap; onto: Float32Array } {
  const n = 32;
  const map = plant("singular", [n, n], new Float32Array(n * n));
  const { u, s, vt } = svd({ rows: n, cols: n, data: map.weight });
  const weight = new Float32Array(n * n);
  for (let k = 0; k < 24; k++)
    for (let at = 0; at < n * n; at++)
      weight[at] =
        Number(weight[at]) +
        Number(s[k]) * Number(u.data[Math.floor(at / n) * n + k]) * Number(vt.data[k * n + (at % n)]);
  const inverse = pseudoInverse({ rows: n, cols: n, data: weight }, 1e-4);
  return { map: { ...map, weight, target: weight }, onto: times(inverse.data, weight, [n, n, n]) };
}

/** W'·(I − W⁺W): what lies outside the row space of W. */
const outside = (weight: Float32Array, onto: Float32Array) =>
  norm(plus(weight, times(weight, onto, [32, 32, 32]), -1));

async function spaces(method: Method<HydraConfig>): Promise<Check[]> {
  const { map, onto } = singular();
  const left = async (parallelRank: number, sequentialRank: number) => {
    const adaptation = { method, config: hydra({ parallelRank, sequentialRank }).config };
    const live = await start(adaptation, [map]);
    disturb(live, 0.2);
    return outside((await compute(adaptation, map, live, new Float32Array(32))).weight, onto);
  };
  return [
    {
      what: "sequential branch: part outside the weight's row space",
      measured: await left(0, 3),
      expected: 0,
      tolerance: 1e-3,
    },
    between("parallel branch: the same", await left(3, 0), 0.1, 100),
  ];
}

/** W* = (I + P)·W + Q with P and Q of rank 2, W of rank 24 of 32. */
async function learning(method: Method<HydraConfig>, steps: number): Promise<Check[]> {
  const { map, onto } = singular();
  const n = 32;
  const [p, q] = [lowRank(n, n, 2, 0.15, "P"), lowRank(n, n, 2, 0.15, "Q")];
  const delta = plus(times(p, map.weight, [n, n, n]), q);
  const planted = { ...map, target: plus(map.weight, delta) };
  const values = svd({ rows: n, cols: n, data: delta }).s;
  const rest = Math.hypot(...Array.from(values).slice(2)) / norm(delta);
  const unreachable = outside(q, onto) / norm(delta);
  const error = async (parallelRank: number, sequentialRank: number) => {
    const adaptation = { method, config: hydra({ parallelRank, sequentialRank }).config };
    return Number((await learn(adaptation, [planted], { steps, lr: 5e-3, decay: true })).errors[0]);
  };
  return [
    between("relative error of both branches, rank 2 each", await error(2, 2), 0, 0.01),
    {
      what: "of the parallel one alone: the best of rank 2",
      measured: await error(2, 0),
      expected: rest,
      tolerance: 0.02,
      relative: true,
    },
    between(
      "of the sequential one alone, rank 8, over what lies outside the row space",
      (await error(0, 8)) / unreachable,
      1,
      2,
    ),
  ];
}
