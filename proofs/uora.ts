import { type HookContext, type Method, type UoraConfig, uora, uoraMethod } from "../src/methods/index.js";
import { adamw } from "../src/training/index.js";
import {
  agreement,
  compute,
  disturb,
  gap,
  learn,
  lowRank,
  norm,
  numbersOf,
  plant,
  plus,
  start,
  times,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface UoraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<UoraConfig>;
  /** Seeds of the learning check; none leaves it out. Default 1 to 4. */
  readonly seeds?: readonly number[];
}

/** What re-drawing idle rows changes and keeps, and that it helps. */
export function uoraProof({ method = uoraMethod, seeds = [1, 2, 3, 4] }: UoraProofOptions = {}): Proof {
  return {
    name: "uora",
    title: "UORA re-draws the frozen rows its scales have no use for, and fits more than with fixed ones",
    papers: ["2505.20154"],
    async run() {
      const checks = [...(await formula(method)), ...(await events(method))];
      return seeds.length > 0 ? [...checks, ...(await learning(method, seeds))] : checks;
    },
  };
}

const zero = (what: string, measured: number, tolerance = 1e-5): Check => ({
  what,
  measured,
  expected: 0,
  tolerance,
});

const [OUT, IN, RANK] = [12, 16, 6];
const map = plant("map", [OUT, IN], new Float32Array(OUT * IN));

/** M·Mᵀ of the rows of A, or of the columns of B, less I. */
function departure(
  data: Float32Array,
  count: number,
  at: (k: number, j: number) => number,
  width: number,
): number {
  let most = 0;
  for (let k = 0; k < count; k++)
    for (let l = 0; l < count; l++) {
      let sum = k === l ? -1 : 0;
      for (let j = 0; j < width; j++) sum += Number(data[at(k, j)]) * Number(data[at(l, j)]);
      most = Math.max(most, Math.abs(sum));
    }
  return most;
}

async function formula(method: Method<UoraConfig>): Promise<Check[]> {
  const adaptation = { method, config: uora({ rank: RANK }).config };
  const live = await start(adaptation, [map]);
  const [a, b] = [numbersOf(live, "uora_A"), numbersOf(live, "uora_B")];
  const orthonormal = [
    zero(
      "rows of A: distance from orthonormal",
      departure(a, RANK, (k, j) => k * IN + j, IN),
    ),
    zero(
      "columns of B: distance from orthonormal",
      departure(b, RANK, (k, j) => j * RANK + k, OUT),
    ),
  ];
  disturb(live, 0.3);
  const [d, scale] = [numbersOf(live, "uora_d"), numbersOf(live, "uora_b")];
  const left = b.map((value, at) => value * Number(scale[Math.floor(at / RANK)]) * Number(d[at % RANK]));
  const weight = plus(map.weight, times(left, a, [OUT, RANK, IN]));
  return [...orthonormal, ...(await agreement("diag(b) B diag(d) A", adaptation, map, live, { weight }))];
}

/** One event of two rows out of six. */
async function events(method: Method<UoraConfig>): Promise<Check[]> {
  const checks: Check[] = [];
  for (const [blend, onReinit] of [
    [0.5, "keep"],
    [1, "zero"],
  ] as const) {
    const adaptation = {
      method,
      config: uora({ rank: RANK, every: 10, fraction: 1 / 3, blend, onReinit }).config,
    };
    const live = await start(adaptation, [map]);
    disturb(live, 0.3);
    const [a, b, d, scale] = ["uora_A", "uora_B", "uora_d", "uora_b"].map((key) => numbersOf(live, key)) as [
      Float32Array,
      Float32Array,
      Float32Array,
      Float32Array,
    ];
    d.set([0.5, 0.001, -0.6, 0.7, -0.002, 0.8]);
    const [oldA, oldB] = [a.slice(), b.slice()];
    const x = new Float32Array(IN);
    const before = await compute(adaptation, map, live, x);
    const context: HookContext<UoraConfig> = { name: "default", config: adaptation.config, ...live };
    const hooks = method.hooks?.(context);
    const at = (step: number) => ({ step, steps: 20, learningRate: 1, params: new Map() });
    await hooks?.afterUpdate?.(at(9));
    const early = gap(a, oldA);
    await hooks?.afterUpdate?.(at(10));
    const [nowA, nowB] = [a.slice(), b.slice()];
    await hooks?.afterUpdate?.(at(20));
    const late = gap(a, nowA);
    const after = await compute(adaptation, map, live, x);
    const rowOf = (data: Float32Array, k: number) => data.slice(k * IN, (k + 1) * IN);
    const columnOf = (data: Float32Array, k: number) =>
      Float32Array.from({ length: OUT }, (_, i) => Number(data[i * RANK + k]));
    const moved = [0, 1, 2, 3, 4, 5].filter(
      (k) => gap(rowOf(nowA, k), rowOf(oldA, k)) > 0 && gap(columnOf(nowB, k), columnOf(oldB, k)) > 0,
    );
    const still = [0, 2, 3, 5].reduce(
      (most, k) =>
        Math.max(most, gap(rowOf(nowA, k), rowOf(oldA, k)), gap(columnOf(nowB, k), columnOf(oldB, k))),
      0,
    );
    const lengths = [1, 4].reduce(
      (most, k) =>
        Math.max(
          most,
          Math.abs(norm(rowOf(nowA, k)) - norm(rowOf(oldA, k))),
          Math.abs(norm(columnOf(nowB, k)) - norm(columnOf(oldB, k))),
        ),
      0,
    );
    const size = (k: number, own: Float32Array, other: Float32Array) =>
      norm(columnOf(own, k).map((value, i) => value * Number(scale[i]))) * norm(rowOf(other, k));
    const bound = [
      [1, 0.001],
      [4, 0.002],
    ].reduce((sum, [k = 0, value = 0]) => sum + value * (size(k, nowB, nowA) + size(k, oldB, oldA)), 0);
    const label = `blend ${blend}, ${onReinit}`;
    checks.push(
      zero(`${label}: change before an event and after the last`, early + late, 0),
      { what: `${label}: rows that moved`, measured: moved.length, expected: 2, tolerance: 0 },
      zero(`${label}: change of the rows that matter`, still, 0),
      zero(`${label}: change of the lengths of the others`, lengths),
      between(
        `${label}: change of W' over its bound`,
        norm(plus(after.weight, before.weight, -1)) / bound,
        1e-9,
        1,
      ),
    );
    if (blend === 1)
      checks.push(
        zero(
          `${label}: rows of A, distance from orthonormal`,
          departure(nowA, RANK, (k, j) => k * IN + j, IN),
        ),
      );
    if (onReinit === "zero")
      checks.push(
        zero(`${label}: d of the rows that moved`, Math.abs(Number(d[1])) + Math.abs(Number(d[4])), 0),
      );
  }
  return checks;
}

/** A random update of rank 2 and a rank too low for it: mean error over seeds with and without re-drawing. */
async function learning(method: Method<UoraConfig>, seeds: readonly number[]): Promise<Check[]> {
  const size = 48;
  const error = async (every: number, seed: number) => {
    const own = plant("learn", [size, size], lowRank(size, size, 2, 0.3, "uora", seed), seed);
    const adaptation = { method, config: uora({ rank: 16, every }).config };
    const optimizer = adamw({ lr: 2e-2, weightDecay: 0 });
    return Number((await learn(adaptation, [own], { steps: 4000, seed, optimizer })).errors[0]);
  };
  let [moving, fixed] = [0, 0];
  for (const seed of seeds) {
    moving += (await error(200, seed)) / seeds.length;
    fixed += (await error(10_000, seed)) / seeds.length;
  }
  return [
    between("mean relative error with fixed rows", fixed, 0.9, 1),
    between("with re-drawing, over that", moving / fixed, 0.9, 0.995),
  ];
}
