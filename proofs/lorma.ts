import { type LormaConfig, lora, lorma, lormaMethod, type Method } from "../src/methods/index.js";
import { numericalRank, qr } from "../src/runtime/index.js";
import {
  agreement,
  compute,
  disturb,
  gap,
  learn,
  norm,
  normals,
  numbersOf,
  plant,
  plus,
  start,
  times,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface LormaProofOptions {
  /** The implementation under test. */
  readonly method?: Method<LormaConfig>;
  /** Optimiser steps; 0 leaves learning out. Default 1500. */
  readonly steps?: number;
}

/** What the multiplying matrix is, its rank, and which targets it reaches. */
export function lormaProof({ method = lormaMethod, steps = 1500 }: LormaProofOptions = {}): Proof {
  return {
    name: "lorma",
    title: "LoRMA's factors are of full rank from few numbers, and reach rotations of the weight",
    papers: ["2506.07621"],
    async run() {
      const checks = [...(await formulas(method)), ...(await ranks(method)), ...(await spaces(method))];
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
const one = (n: number) => Float32Array.from({ length: n * n }, (_, at) => (at % (n + 1) === 0 ? 1 : 0));

/** M in plain arithmetic. */
function factor(
  b: Float32Array,
  a: Float32Array,
  n: number,
  rank: number,
  { variant, alpha }: LormaConfig,
): Float32Array {
  const product = times(b, a, [n, rank, n]).map((value) => (value * alpha) / rank);
  if (variant === "plus") return plus(one(n), product);
  return product.map((_, at) => {
    const [i, j] = [Math.floor(at / n), at % n];
    return Number(product[i * n + ((((j - i) % n) + n) % n)]);
  });
}

async function formulas(method: Method<LormaConfig>): Promise<Check[]> {
  const checks: Check[] = [];
  const [out, inn, rank] = [12, 16, 3];
  const map = plant("map", [out, inn], new Float32Array(out * inn));
  for (const variant of ["plus", "pi"] as const)
    for (const side of ["pre", "post"] as const) {
      const adaptation = { method, config: lorma({ variant, side, rank, alpha: 5 }).config };
      const live = await start(adaptation, [map]);
      const atStart = await compute(adaptation, map, live, new Float32Array(inn));
      disturb(live, 0.2);
      const n = side === "pre" ? out : inn;
      const m = factor(numbersOf(live, "lorma_B"), numbersOf(live, "lorma_A"), n, rank, adaptation.config);
      const weight =
        side === "pre" ? times(m, map.weight, [out, out, inn]) : times(map.weight, m, [out, inn, inn]);
      checks.push(
        zero(`${variant} ${side}: change at the start`, gap(atStart.weight, map.weight), 1e-6),
        ...(await agreement(`${variant} ${side}`, adaptation, map, live, { weight })),
      );
    }
  return checks;
}

/** Over the identity as weight, W' is M. */
async function ranks(method: Method<LormaConfig>): Promise<Check[]> {
  const n = 32;
  const map = { ...plant("square", [n, n], new Float32Array(n * n)), weight: one(n) };
  const checks: Check[] = [];
  for (const rank of [1, 4]) {
    const adaptation = { method, config: lorma({ variant: "pi", rank }).config };
    const live = await start(adaptation, [map]);
    disturb(live, 1);
    const { weight } = await compute(adaptation, map, live, new Float32Array(n));
    const found = numericalRank({ rows: n, cols: n, data: weight }, 1e-5);
    checks.push({
      what: `pi of rank ${rank}: rank of the factor`,
      measured: found,
      expected: n,
      tolerance: 0,
    });
    if (rank > 1) continue;
    numbersOf(live, "lorma_B").fill(1);
    const even = await compute(adaptation, map, live, new Float32Array(n));
    const turned = even.weight.map((_, at) =>
      Number(even.weight[((Math.floor(at / n) + 1) % n) * n + (((at % n) + 1) % n)]),
    );
    checks.push(zero("pi of a constant B: distance from circulant", gap(turned, even.weight)));
  }
  return checks;
}

/** What the weight maps to zero stays zero with a factor before it. */
async function spaces(method: Method<LormaConfig>): Promise<Check[]> {
  const [out, inn] = [12, 16];
  const map = plant("map", [out, inn], new Float32Array(out * inn));
  const { q } = qr({ rows: inn, cols: inn, data: normals(inn * inn, "null") });
  const direction = Float32Array.from({ length: inn }, (_, j) => Number(q.data[j * inn]));
  const lost = times(map.weight, direction, [out, inn, 1]);
  const weight = map.weight.map(
    (value, at) => value - Number(lost[Math.floor(at / inn)]) * Number(direction[at % inn]),
  );
  const singular = { ...map, weight };
  const checks: Check[] = [];
  for (const variant of ["plus", "pi"] as const) {
    const adaptation = { method, config: lorma({ variant, rank: 3 }).config };
    const live = await start(adaptation, [singular]);
    disturb(live, 0.3);
    const { forward } = await compute(adaptation, singular, live, direction);
    checks.push(zero(`${variant}: output of what the weight maps to zero`, norm(forward)));
  }
  return checks;
}

async function learning(method: Method<LormaConfig>, steps: number): Promise<Check[]> {
  const n = 48;
  const base = plant("learn", [n, n], new Float32Array(n * n));
  /** Rotations by 0.8 in the first four planes of a random basis. */
  const { q } = qr({ rows: n, cols: n, data: normals(n * n, "planes") });
  const basis = Float32Array.from(q.data);
  const turned = one(n).map((value, at) => {
    const [i, j] = [Math.floor(at / n), at % n];
    if (Math.max(i, j) >= 8 || Math.floor(i / 2) !== Math.floor(j / 2)) return value;
    return i === j ? Math.cos(0.8) : (i < j ? -1 : 1) * Math.sin(0.8);
  });
  const back = basis.map((_, at) => Number(basis[(at % n) * n + Math.floor(at / n)]));
  const rotation = times(times(basis, turned, [n, n, n]), back, [n, n, n]);
  const blend = one(n).map((value, at) => 0.7 * value + (at % n === (Math.floor(at / n) + 1) % n ? 0.3 : 0));
  const target = (r: Float32Array) => ({ ...base, target: times(r, base.weight, [n, n, n]) });
  const options = { steps, lr: 5e-3, decay: true };
  const error = async (variant: LormaConfig["variant"], r: Float32Array) => {
    const adaptation = { method, config: lorma({ variant, rank: 8 }).config };
    return Number((await learn(adaptation, [target(r)], options)).errors[0]);
  };
  const plain = lora({ rank: 8, alpha: 16 });
  const plus8 = await error("plus", rotation);
  const pi8 = await error("pi", blend);
  const lora8 = Number((await learn(plain, [target(blend)], options)).errors[0]);
  return [
    between("a rotation in four planes: relative error of plus, rank 8", plus8, 0, 0.01),
    between("a blend of shifts: relative error of pi, rank 8", pi8, 0, 0.05),
    between("the same: relative error of LoRA, rank 8", lora8, 0.5, 1),
  ];
}
