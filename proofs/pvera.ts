import { input, makeGraph, ops, type Value } from "../src/graph/index.js";
import { callMethod, type Method, type PveraConfig, pvera, pveraMethod } from "../src/methods/index.js";
import { inputsOf } from "../src/models/index.js";
import { evaluate } from "../src/runtime/index.js";
import { tensor } from "../src/tensor/index.js";
import {
  agreement,
  compute,
  disturb,
  gap,
  normals,
  numbersOf,
  type PlantedSites,
  plant,
  plus,
  shapeOf,
  start,
  times,
} from "./planted.js";
import type { Check, Proof } from "./proof.js";

export interface PveraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<PveraConfig>;
}

const [OUT, IN, RANK] = [12, 16, 8];

/** That PVeRA's code is the Gaussian it is said to be, and VeRA's without noise. */
export function pveraProof({ method = pveraMethod }: PveraProofOptions = {}): Proof {
  return {
    name: "pvera",
    title: "PVeRA's outputs have the mean and the variance of its Gaussian code; its prior is a divergence",
    papers: ["2512.07703"],
    run: () => checks(method),
  };
}

const map = plant("map", [OUT, IN], new Float32Array(OUT * IN));

/** Output and loss term of a training pass over `x` `[tokens, in]` with given noise `[tokens, r]`. */
async function trained(
  method: Method<PveraConfig>,
  config: PveraConfig,
  live: PlantedSites,
  x: Float32Array,
  noise: Float32Array,
) {
  const tokens = x.length / IN;
  const own = [...Object.values(live.sites[0]?.tensors ?? {}), ...Object.values(live.shared)];
  const keys = [...Object.entries(live.sites[0]?.tensors ?? {}), ...Object.entries(live.shared)];
  const losses: Value[] = [];
  const y = callMethod(method, config, {
    site: shapeOf(map),
    tensors: Object.fromEntries(keys.map(([key, { value }]) => [key, value])),
    x: input("x", "float32", [tokens, IN]),
    weight: input("w", "float32", [OUT, IN]),
    training: true,
    noise: () => input("noise", "float32", [tokens, RANK]),
    addLoss: (term) => losses.push(term),
  });
  const loss = losses.reduce((a, b) => ops.add(a, b), ops.scalar(0));
  const graph = makeGraph("pvera", inputsOf([y, loss]), [
    ["y", y],
    ["loss", loss],
  ]);
  const all = {
    ...Object.fromEntries(own.map((each) => [each.name, each.tensor])),
    x: tensor("float32", [tokens, IN], x),
    w: tensor("float32", [OUT, IN], map.weight),
    noise: tensor("float32", [tokens, RANK], noise),
  };
  const names = new Set(graph.inputs.map(({ name }) => String(name)));
  const found = await evaluate(
    graph,
    Object.fromEntries(Object.entries(all).filter(([name]) => names.has(name))),
  );
  return { y: found.y?.data as Float32Array, loss: Number(found.loss?.data[0]) };
}

async function checks(method: Method<PveraConfig>): Promise<Check[]> {
  const { config } = pvera({ rank: RANK, alpha: 2, klWeight: 1 });
  const adaptation = { method, config };
  const live = await start(adaptation, [map]);
  const zero = (what: string, measured: number, tolerance = 1e-5): Check => ({
    what,
    measured,
    expected: 0,
    tolerance,
  });
  const x = normals(IN, "x").map((value) => value / 2);
  const samples = 4096;
  const many = Float32Array.from({ length: samples * IN }, (_, at) => Number(x[at % IN]));
  const noise = normals(samples * RANK, "noise");
  const atStart = await trained(method, config, live, many, noise);
  const plain = times(map.weight, x, [OUT, IN, 1]);
  disturb(live, 0.3);
  const [a, b] = [numbersOf(live, "pvera_A"), numbersOf(live, "pvera_B")];
  const [d, scale] = [numbersOf(live, "pvera_lambda_d"), numbersOf(live, "pvera_lambda_b")];
  const means = times(a, x, [2 * RANK, IN, 1]).map((value, k) => value * Number(d[k]));
  const mean = means.subarray(0, RANK);
  const logVariance = means.subarray(RANK);
  const scaledB = b
    .subarray(0, OUT * RANK)
    .map((value, at) => 2 * value * Number(scale[Math.floor(at / RANK)]));
  const scaledA = a.subarray(0, RANK * IN).map((value, at) => value * Number(d[Math.floor(at / IN)]));
  const weight = plus(map.weight, times(scaledB, scaledA, [OUT, RANK, IN]));
  const sampled = await trained(method, config, live, many, noise);
  const quiet = await trained(method, config, live, x, new Float32Array(RANK));
  const evaluated = await compute(adaptation, map, live, x);
  let [offMean, offVariance] = [0, 0];
  for (let i = 0; i < OUT; i++) {
    const own = Array.from({ length: samples }, (_, at) => Number(sampled.y[at * OUT + i]));
    const average = own.reduce((sum, value) => sum + value, 0) / samples;
    const variance = own.reduce((sum, value) => sum + (value - average) ** 2, 0) / (samples - 1);
    const wanted = Array.from(
      logVariance,
      (lv, k) => Number(scaledB[i * RANK + k]) ** 2 * Math.exp(lv),
    ).reduce((s, v) => s + v, 0);
    offMean = Math.max(
      offMean,
      Math.abs(average - Number(evaluated.forward[i])) / Math.sqrt(wanted / samples),
    );
    offVariance = Math.max(offVariance, Math.abs(variance / wanted - 1));
  }
  const divergence =
    Array.from(
      mean,
      (m, k) => -0.5 * (1 + Number(logVariance[k]) - m * m - Math.exp(Number(logVariance[k]))),
    ).reduce((s, v) => s + v, 0) / RANK;
  d.fill(0);
  const still = await trained(method, config, live, x, new Float32Array(RANK));
  return [
    zero("change at the start, with noise", gap(atStart.y.subarray(0, OUT), plain)),
    ...(await agreementAt(adaptation, live, weight, d, means)),
    {
      what: "distance of the sampled mean from the merged output, in standard errors",
      measured: offMean,
      expected: 2,
      tolerance: 2,
    },
    zero("relative distance of the sampled variance from its formula", offVariance, 0.1),
    zero("a pass without noise against evaluation", gap(quiet.y, evaluated.forward)),
    {
      what: "the divergence against its formula",
      measured: sampled.loss,
      expected: divergence,
      tolerance: 1e-4,
    },
    zero("the divergence of a standard normal code", still.loss, 0),
  ];
}

/** The formula of the merged weight, with d as it was. */
async function agreementAt(
  adaptation: { method: Method<PveraConfig>; config: PveraConfig },
  live: PlantedSites,
  weight: Float32Array,
  d: Float32Array,
  means: Float32Array,
): Promise<Check[]> {
  const x = normals(IN, "x").map((value) => value / 2);
  const rows = times(numbersOf(live, "pvera_A"), x, [2 * RANK, IN, 1]);
  d.set(means.map((value, k) => value / Number(rows[k])));
  const found = await agreement("mean code", adaptation, map, live, { weight });
  d.fill(0);
  return found;
}
