import { type LolduConfig, loldu, lolduMethod, lora, type Method } from "../src/methods/index.js";
import { numericalRank } from "../src/runtime/index.js";
import {
  agreement,
  compute,
  gap,
  learn,
  normals,
  numbersOf,
  type PlantedMap,
  plant,
  plus,
  start,
  times,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface LolduProofOptions {
  /** The implementation under test. */
  readonly method?: Method<LolduConfig>;
  /** Optimiser steps; 0 leaves learning out. Default 1500. */
  readonly steps?: number;
}

/** That the pivots are the weight's own, and what they can and cannot reach. */
export function lolduProof({ method = lolduMethod, steps = 1500 }: LolduProofOptions = {}): Proof {
  return {
    name: "loldu",
    title: "LoLDU trains the pivots of a weight, which reach changes of pivots and hardly any other",
    papers: ["2410.13618"],
    async run() {
      const checks: Check[] = [];
      for (const [out, inn] of [
        [8, 8],
        [12, 7],
        [7, 12],
        [64, 64],
      ] as const)
        checks.push(...(await algebra(method, out, inn)));
      return steps > 0 ? [...checks, ...(await learning(method, steps))] : checks;
    },
  };
}

const zero = (what: string, measured: number, tolerance = 1e-5): Check => ({
  what,
  measured,
  expected: 0,
  tolerance,
});

const parts = async (
  method: Method<LolduConfig>,
  map: PlantedMap,
  options: Parameters<typeof loldu>[0] = {},
) => {
  const adaptation = { method, config: loldu(options).config };
  const live = await start(adaptation, [map]);
  const [l, z, u, first] = ["loldu_L", "loldu_z", "loldu_U", "loldu_start"].map((key) =>
    numbersOf(live, key),
  ) as [Float32Array, Float32Array, Float32Array, Float32Array];
  return { adaptation, live, l, z, u, first };
};

const product = (l: Float32Array, z: Float32Array, u: Float32Array, { out, in: inn }: PlantedMap) =>
  times(
    l.map((value, at) => value * Number(z[at % z.length])),
    u,
    [out, z.length, inn],
  );

async function algebra(method: Method<LolduConfig>, out: number, inn: number): Promise<Check[]> {
  const map = plant(`map${out}x${inn}`, [out, inn], new Float32Array(out * inn));
  const label = `${out} x ${inn}`;
  const { adaptation, live, l, z, u } = await parts(method, map);
  const checks = [
    zero(`${label}: P L D U against the weight`, gap(product(l, z, u, map), map.weight)),
    between(
      `${label}: largest entry of L`,
      l.reduce((most, value) => Math.max(most, Math.abs(value)), 0),
      0.999,
      1 + 1e-6,
    ),
    zero(
      `${label}: diagonal of U less 1`,
      z.reduce((most, _, k) => Math.max(most, Math.abs(Number(u[k * inn + k]) - 1)), 0),
    ),
  ];
  z.set(z.map((value) => 1.7 * value));
  checks.push(
    ...(await agreement(`${label}: all pivots times 1.7`, adaptation, map, live, {
      weight: map.weight.map((value) => 1.7 * value),
    })),
  );
  const some = await parts(method, map, { rank: 4, scale: 3 });
  const atStart = await compute(some.adaptation, map, some.live, new Float32Array(inn));
  some.z[1] = Number(some.z[1]) + 0.5;
  some.z[3] = Number(some.z[3]) - 0.4;
  const moved = product(some.l, plus(some.z, some.first, -1), some.u, map).map((value) => 3 * value);
  checks.push(
    zero(`${label}: change at the start`, gap(atStart.weight, map.weight), 0),
    ...(await agreement(`${label}: rank 4, scale 3`, some.adaptation, map, some.live, {
      weight: plus(map.weight, moved),
    })),
  );
  const { weight } = await compute(some.adaptation, map, some.live, new Float32Array(inn));
  const rank = numericalRank({ rows: out, cols: inn, data: plus(weight, map.weight, -1) }, 1e-4);
  checks.push({
    what: `${label}: rank of the change when two pivots move`,
    measured: rank,
    expected: 2,
    tolerance: 0,
  });
  return checks;
}

async function learning(method: Method<LolduConfig>, steps: number): Promise<Check[]> {
  const n = 64;
  const base = plant("learn", [n, n], new Float32Array(n * n));
  const { adaptation, l, z, u } = await parts(method, base);
  const factors = normals(n, "pivots").map((value) => Math.exp(0.5 * value));
  const rescaled = {
    ...base,
    target: product(
      l,
      z.map((value, k) => value * Number(factors[k])),
      u,
      base,
    ),
  };
  const generic = {
    ...base,
    target: plus(
      base.weight,
      normals(n * n, "generic").map((value) => value / 8),
    ),
  };
  const options = { steps, lr: 2e-2, decay: true };
  const pivots = Number((await learn(adaptation, [rescaled], options)).errors[0]);
  const lora1 = Number((await learn(lora({ rank: 1, alpha: 1 }), [rescaled], options)).errors[0]);
  const noise = Number((await learn(adaptation, [generic], options)).errors[0]);
  return [
    between("rescaled pivots: squared error left", pivots ** 2, 0, 0.01),
    between("the same, over that of LoRA of rank 1 and twice the numbers", (pivots / lora1) ** 2, 0, 0.1),
    between("a Gaussian change: relative error left", noise, 0.97, 1),
  ];
}
