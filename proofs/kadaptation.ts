import {
  type Adaptation,
  type KadaptationConfig,
  kadaptation,
  kadaptationMethod,
  lora,
  type Method,
} from "../src/methods/index.js";
import { kronecker, rng } from "../src/runtime/index.js";
import { isTrue, matrixOf, rankOfChange, shake, trainedCount, turned, vanishes } from "./matrices.js";
import {
  compute,
  gap,
  learn,
  normals,
  type PlantedMap,
  type PlantedSites,
  plus,
  start,
  times,
} from "./planted.js";
import type { Check, Proof } from "./proof.js";

export interface KadaptationProofOptions {
  /** The implementation under test. */
  readonly method?: Method<KadaptationConfig>;
  /** Steps of the learning check; 0 leaves it out. Default 2000. */
  readonly steps?: number;
}

type Options = Parameters<typeof kadaptation>[0];
const configOf = (options: Options) => kadaptation({ dropout: 0, ...options }).config;

/**
 * What KAdaptation must do: its update is the sum of Kronecker products whose left sides all layers share; it has gradients from the start,
 * which the authors' all-zero start has not; and it finds a planted sum of its form with far fewer numbers than LoRA of that rank.
 */
export function kadaptationProof(options: KadaptationProofOptions = {}): Proof {
  const { method = kadaptationMethod, steps = 2000 } = options;
  return {
    name: "kadaptation",
    title: "KAdaptation is a sum of Kronecker products, one side shared by all layers",
    papers: ["2203.16329"],
    async run() {
      const checks = [
        ...(await algebra(method)),
        ...(await gradientsAtStart(method)),
        ...(await ranks(method)),
        ...(await counts(method)),
      ];
      return steps === 0 ? checks : [...checks, ...(await learning(method, steps))];
    },
  };
}

const mapOf = (path: string, out: number, inn: number): PlantedMap => {
  const weight = normals(out * inn, "kadaptation", path);
  return { path, out, in: inn, weight, target: weight, bias: new Float32Array(out) };
};

const numbersOf = (live: PlantedSites, key: string, index = 0): Float32Array =>
  (live.sites[index]?.tensors[key] ?? live.shared[key])?.tensor.data as Float32Array;

/** Σᵢ Aᵢ ⊗ Bᵢ, product by product. */
function sumOf(live: PlantedSites, { out, in: inn }: PlantedMap, config: KadaptationConfig): Float32Array {
  const { summands: n, rank: r, ruleRank } = config;
  const [k, l] = [out / n, inn / n];
  const [left, right] = [numbersOf(live, "kadaptation_left_q"), numbersOf(live, "kadaptation_right_q")];
  const [u, v] = [numbersOf(live, "kadaptation_u"), numbersOf(live, "kadaptation_v")];
  let sum = new Float32Array(out * inn);
  for (let i = 0; i < n; i++) {
    const part = (data: Float32Array, size: number) => data.subarray(i * size, (i + 1) * size);
    const a = times(part(left, n * ruleRank), part(right, ruleRank * n), [n, ruleRank, n]);
    const b = times(part(u, k * r), part(v, r * l), [k, r, l]);
    sum = plus(sum, Float32Array.from(kronecker(matrixOf(n, n, a), matrixOf(k, l, b)).data)) as typeof sum;
  }
  return sum;
}

async function algebra(method: Method<KadaptationConfig>): Promise<Check[]> {
  let [still, merged, branch] = [0, 0, 0];
  for (const options of [
    { summands: 4 },
    { summands: 4, rank: 2, ruleRank: 3 },
    { summands: 8, scale: 2.5 },
  ] satisfies Options[]) {
    const adaptation = { method, config: configOf(options) };
    const map = mapOf("layers.0.q", 16, 24);
    const live = await start(adaptation, [map]);
    const x = normals(5 * 24, "x");
    still = Math.max(still, gap((await compute(adaptation, map, live, x)).weight, map.weight));
    shake(live, 1);
    const { weight, forward, bias } = await compute(adaptation, map, live, x);
    const expected = plus(map.weight, sumOf(live, map, adaptation.config), adaptation.config.scale);
    merged = Math.max(merged, gap(weight, expected));
    const own = numbersOf(live, "kadaptation_bias");
    const product = times(x, turned(16, 24, expected), [5, 24, 16]);
    branch = Math.max(
      branch,
      gap(
        forward,
        product.map((value, at) => value + Number(own[at % 16])),
      ),
      gap(bias ?? [], own),
    );
  }
  return [
    vanishes("change at the start", still, 0),
    vanishes("W' against W + s·Σ Aᵢ ⊗ Bᵢ", merged, 1e-4),
    vanishes("activations and bias against the same", branch, 1e-3),
  ];
}

/** What the first two updates move. */
async function gradientsAtStart(method: Method<KadaptationConfig>): Promise<Check[]> {
  const map = { ...mapOf("layers.0.q", 16, 24), target: normals(16 * 24, "elsewhere") };
  const adaptation = { method, config: configOf({ summands: 4 }) };
  const moved = async (steps: number, key: string, zero = false) => {
    const live = await start(adaptation, [map]);
    if (zero) numbersOf(live, "kadaptation_u").fill(0);
    const before = numbersOf(live, key).slice();
    await learn(adaptation, [map], { steps, lr: 1e-2, live });
    return gap(numbersOf(live, key), before);
  };
  const rest = ["kadaptation_u", "kadaptation_left_q", "kadaptation_right_q"];
  const second = await Promise.all(rest.map((key) => moved(2, key)));
  return [
    isTrue(
      "the factor that starts at zero moves at the first update",
      (await moved(1, "kadaptation_v")) > 1e-4,
    ),
    isTrue(
      "all others at the second",
      second.every((value) => value > 1e-4),
    ),
    vanishes(
      "movement from the authors' start, both factors zero",
      await moved(20, "kadaptation_v", true),
      0,
    ),
  ];
}

async function ranks(method: Method<KadaptationConfig>): Promise<Check[]> {
  const rankOf = async (options: Options) => {
    const map = mapOf("layers.0.q", 32, 32);
    const adaptation = { method, config: configOf(options) };
    const live = await start(adaptation, [map]);
    shake(live, 1);
    const { weight } = await compute(adaptation, map, live, new Float32Array(32));
    return rankOfChange(32, 32, map.weight, weight);
  };
  return [
    {
      what: "rank, 4 products of rank 1",
      measured: await rankOf({ summands: 4 }),
      expected: 4,
      tolerance: 0,
    },
    {
      what: "rank, 4 with left sides of rank 2",
      measured: await rankOf({ summands: 4, ruleRank: 2 }),
      expected: 8,
      tolerance: 0,
    },
  ];
}

/** ViT-B of CLIP: 12 layers of width 768, query and value; the paper has one bias for both, here each has its own. */
async function counts(method: Method<KadaptationConfig>): Promise<Check[]> {
  const maps = Array.from({ length: 12 }, (_, layer) =>
    ["q", "v"].map((name) => `layers.${layer}.${name}`),
  ).flat();
  const config = configOf({ summands: 32, ownBias: false });
  const flat = new Float32Array(0);
  const live = await start(
    { method, config },
    maps.map((path) => ({ path, out: 768, in: 768, weight: flat, target: flat })),
  );
  return [
    {
      ...{ what: "numbers of a ViT-B with one bias per layer", measured: trainedCount(live) + 12 * 768 },
      ...{ expected: 50176, tolerance: 0 },
    },
  ];
}

/** Four layers whose targets share left sides: the sum finds them, LoRA of equal size does not. */
async function learning(method: Method<KadaptationConfig>, steps: number): Promise<Check[]> {
  const [d, n] = [32, 4];
  const layers = [0, 1, 2, 3].map((layer) => mapOf(`layers.${layer}.q`, d, d));
  const left = rng(3, "left").fillNormal(new Float64Array(n * n));
  const right = rng(3, "right").fillNormal(new Float64Array(n * n));
  const maps = layers.map((map, layer) => {
    let target = map.weight;
    for (let i = 0; i < n; i++) {
      const a = times(left.subarray(i * n, (i + 1) * n), right.subarray(i * n, (i + 1) * n), [n, 1, n]);
      const b = times(normals(d / n, "u", layer, i), normals(d / n, "v", layer, i), [d / n, 1, d / n]);
      target = plus(
        target,
        Float32Array.from(kronecker(matrixOf(n, n, a), matrixOf(d / n, d / n, b)).data),
        0.3,
      );
    }
    return { ...map, target };
  });
  const mean = (errors: readonly number[]) =>
    errors.reduce((sum, error) => sum + error ** 2, 0) / errors.length;
  const adaptation = { method, config: configOf({ summands: n, ownBias: false }) };
  const own = await learn(adaptation, maps, { steps, lr: 2e-2, decay: true });
  const plain = lora({ rank: 1, alpha: 1 }) as unknown as Adaptation;
  const one = await learn(plain, maps, { steps, lr: 2e-2, decay: true });
  const count = trainedCount(own.live);
  return [
    {
      what: "numbers, against LoRA rank 1",
      measured: count / trainedCount(one.live),
      expected: 1,
      tolerance: 0.15,
    },
    vanishes("share of the squared distance left", mean(own.errors), 0.05),
    {
      ...{ what: "the same by LoRA rank 1 (at least 0.3)", measured: mean(one.errors) },
      ...{ expected: 0.65, tolerance: 0.35 },
    },
  ];
}
