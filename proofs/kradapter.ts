import { type KradapterConfig, kradapter, kradapterMethod, type Method } from "../src/methods/index.js";
import { numericalRank, svd } from "../src/runtime/index.js";
import { adamw } from "../src/training/index.js";
import {
  agreement,
  compute,
  disturb,
  learn,
  normals,
  numbersOf,
  type PlantedMap,
  plant,
  plus,
  start,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface KradapterProofOptions {
  /** The implementation under test. */
  readonly method?: Method<KradapterConfig>;
  /** Optimiser steps of a fit; 0 leaves them out. Default 1500. */
  readonly steps?: number;
}

const [OUT, IN, LORA_RANK] = [96, 128, 10];

/** What a Khatri-Rao update can be: of full rank, near targets with flat spectra, far from those of low rank. */
export function kradapterProof({
  method = kradapterMethod,
  steps = 1500,
}: KradapterProofOptions = {}): Proof {
  return {
    name: "kradapter",
    title: "KRAdapter's update is of full rank: better than LoRA's for flat spectra, worse for low ranks",
    papers: ["2508.00230"],
    async run() {
      const checks = await algebra(method);
      for (const target of steps > 0 ? (Object.keys(TARGETS) as (keyof typeof TARGETS)[]) : [])
        checks.push(await fit(method, target, steps));
      return checks;
    },
  };
}

async function algebra(method: Method<KradapterConfig>): Promise<Check[]> {
  const checks: Check[] = [];
  for (const [out, inn] of [
    [96, 128],
    [64, 64],
    [48, 192],
    [40, 30],
  ] as const) {
    const map = plant(`map${out}x${inn}`, [out, inn], new Float32Array(out * inn));
    const adaptation = { method, config: kradapter({ scale: 3 }).config };
    const live = await start(adaptation, [map]);
    disturb(live, 0.3);
    const [u, v] = [numbersOf(live, "kr_u"), numbersOf(live, "kr_v")];
    const [small, large] = [Math.min(out, inn), Math.max(out, inn)];
    const [first, second] = [u.length / small, v.length / small];
    const weight = map.weight.map((value, at) => {
      const [i, j] = [Math.floor(at / inn), at % inn];
      const [row, column] = out === small ? [i, j] : [j, i];
      return (
        value +
        3 * Number(u[row * first + Math.floor(column / second)]) * Number(v[row * second + (column % second)])
      );
    });
    checks.push(...(await agreement(`${out} x ${inn}`, adaptation, map, live, { weight })));
    const found = await compute(adaptation, map, live, new Float32Array(inn));
    const rank = numericalRank({ rows: out, cols: inn, data: plus(found.weight, map.weight, -1) }, 1e-5);
    checks.push({
      what: `${out} x ${inn}: rank of the update`,
      measured: rank,
      expected: small,
      tolerance: 0,
    });
    checks.push(
      between(`${out} x ${inn}: width of the product over the large side`, (first * second) / large, 1, 1.25),
    );
  }
  return checks;
}

const matrix = (make: (i: number, j: number) => number): Float32Array =>
  Float32Array.from({ length: OUT * IN }, (_, at) => make(Math.floor(at / IN), at % IN));

const gaussian = () => normals(OUT * IN, "target");

/** A matrix with only its 24 largest singular values. */
function lowRanked(): Float32Array {
  const { u, s, vt } = svd({ rows: OUT, cols: IN, data: gaussian() });
  return matrix((i, j) => {
    let sum = 0;
    for (let k = 0; k < 24; k++)
      sum += Number(u.data[i * u.cols + k]) * Number(s[k]) * Number(vt.data[k * vt.cols + j]);
    return sum;
  });
}

/** Rows that are sinusoids of frequencies up to `most`, sampled over a second. */
function sinusoids(most: number): Float32Array {
  const [frequency, phase] = [normals(OUT, "frequency", most), normals(OUT, "phase", most)];
  return matrix((i, j) => {
    const f = (0.1 + 0.9 * Math.abs(Math.sin(40 * Number(frequency[i])))) * most;
    return Math.sin(2 * Math.PI * (f * (j / IN) + Number(phase[i])));
  });
}

/** What the mean error of singular values is over LoRA's best: below one where KRAdapter wins. */
const TARGETS = {
  Gaussian: { make: gaussian, low: 0, high: 1 / 1.5 },
  "high frequencies": { make: () => sinusoids(60), low: 0, high: 1 / 1.5 },
  "a quarter of the singular values": { make: lowRanked, low: 1.2, high: 10 },
  "low frequencies": { make: () => sinusoids(4), low: 1.2, high: 1000 },
} as const;

/** LoRA's part is the best there is of rank 10: the optimiser cannot be blamed. */
async function fit(
  method: Method<KradapterConfig>,
  name: keyof typeof TARGETS,
  steps: number,
): Promise<Check> {
  const { make, low, high } = TARGETS[name];
  const target = make();
  const map: PlantedMap = { path: name, out: OUT, in: IN, weight: new Float32Array(OUT * IN), target };
  const adaptation = { method, config: kradapter({ scale: 1 }).config };
  const optimizer = adamw({ lr: 0.03, weightDecay: 0 });
  const { live } = await learn(adaptation, [map], { steps, optimizer });
  const { weight } = await compute(adaptation, map, live, new Float32Array(IN));
  const values = (data: Float32Array) => svd({ rows: OUT, cols: IN, data }).s;
  const [own, wanted] = [values(weight), values(target)];
  let [error, best] = [0, 0];
  wanted.forEach((value, k) => {
    error += Math.abs(Number(value) - Number(own[k]));
    if (k >= LORA_RANK) best += Number(value);
  });
  return between(`${name}: error of singular values over that of LoRA's best`, error / best, low, high);
}
