import {
  type Adaptation,
  type DeloraConfig,
  delora,
  deloraMethod,
  lora,
  type Method,
  type SiteConfig,
} from "../src/methods/index.js";
import { vanishes } from "./matrices.js";
import { atLeast } from "./network.js";
import {
  compute,
  gap,
  learn,
  lowRank,
  norm,
  normals,
  type PlantedMap,
  type PlantedSites,
  plant,
  plus,
  start,
  times,
} from "./planted.js";
import { between, type Check } from "./proof.js";
import { matrix, numbersAt, structured } from "./structure.js";

const [OUT, IN, RANK, BOUNDARY] = [24, 32, 3, 4];
const { config } = delora({ rank: RANK, boundary: BOUNDARY });

/** Norms of columns of W, which scale the update's. */
const columnNorms = ({ weight }: PlantedMap): number[] =>
  Array.from({ length: IN }, (_, j) => norm(weight.filter((__, at) => at % IN === j)));

/** ‖ΔW·diag(w)⁻¹‖ / λ: what DeLoRA keeps at one at most. */
function strength(map: PlantedMap, weight: Float32Array, lambda: number): number {
  const columns = columnNorms(map);
  return (
    norm(matrix(OUT, IN, (i, j) => (Number(weight[i * IN + j]) - at(map, i, j)) / Number(columns[j]))) /
    lambda
  );
}
const at = ({ weight }: PlantedMap, i: number, j: number) => Number(weight[i * IN + j]);

const planted = plant("map", [OUT, IN], lowRank(OUT, IN, RANK, 0.3, "delora"), "delora");

/** Factors of any size and direction: the bound holds, is met when all point the same way, and does not depend on sizes. */
async function bound(method: Method<DeloraConfig>): Promise<Check[]> {
  const adaptation = { method, config };
  const weightWith = async (change: (all: Record<string, Float32Array>) => void) => {
    const live = await start(adaptation, [planted]);
    const all = numbersAt(live);
    all.delora_A?.set(normals(RANK * IN, "a"));
    all.delora_B?.set(normals(OUT * RANK, "b"));
    change(all);
    return (await compute(adaptation, planted, live, new Float32Array(IN))).weight;
  };
  const as = await weightWith(() => {});
  const larger = await weightWith(({ delora_A: a, delora_B: b }) => {
    a?.set(a.map((value, k) => value * (k < IN ? 50 : 3)));
    b?.set(b.map((value) => value / 20));
  });
  const same = await weightWith(({ delora_A: a, delora_B: b }) => {
    a?.set(a.map((_, k) => Number(a[k % IN])));
    b?.set(b.map((_, k) => Number(b[k - (k % RANK)])));
  });
  const twice = await weightWith(({ delora_lambda: lambda }) => lambda?.set([2 * BOUNDARY]));
  return [
    between("strength over λ, factors of all directions", strength(planted, as, BOUNDARY), 0, 1),
    {
      what: "strength over λ, one direction",
      measured: strength(planted, same, BOUNDARY),
      expected: 1,
      tolerance: 1e-5,
    },
    vanishes("change of W' when factors grow and shrink", gap(as, larger), 1e-5),
    vanishes(
      "twice λ, twice the update",
      gap(
        plus(twice, planted.weight, -1),
        plus(as, planted.weight, -1).map((value) => 2 * value),
      ),
      1e-5,
    ),
  ];
}

/** The method with λ held: what remains is direction. */
const withoutLambda = (method: Method<DeloraConfig>): Method<DeloraConfig> => ({
  ...method,
  tensors(site, own) {
    const all = method.tensors(site, own);
    const { delora_lambda: lambda } = all;
    return lambda ? { ...all, delora_lambda: { ...lambda, trainable: false } } : all;
  },
});

/** The largest ‖ΔW·diag(w)⁻¹‖ / λ on the way, by the learning rate. */
async function largest<C extends SiteConfig>(
  adaptation: Adaptation<C>,
  lr: number,
  product: (live: PlantedSites) => Float32Array,
): Promise<number> {
  let most = 0;
  await learn(adaptation, [planted], {
    ...{ steps: 150, lr },
    onStep(_, __, live) {
      most = Math.max(most, strength(planted, plus(planted.weight, product(live)), BOUNDARY));
    },
  });
  return most;
}

async function rates(method: Method<DeloraConfig>): Promise<Check[]> {
  const columns = columnNorms(planted);
  const own = (live: PlantedSites) => deltaOf(numbersAt(live), columns);
  const plain = (live: PlantedSites) => {
    const { lora_A: a = [], lora_B: b = [] } = numbersAt(live);
    return times(b, a, [OUT, RANK, IN]);
  };
  const checks: Check[] = [];
  for (const lr of [1e-3, 1e-1, 10]) {
    const held = { method: withoutLambda(method), config };
    checks.push(
      between(`rate ${lr}: largest strength over λ in 150 steps`, await largest(held, lr, own), 0, 1 + 1e-5),
    );
  }
  const { method: ordinary, config: its } = lora({ rank: RANK, alpha: RANK });
  const lost = await largest({ method: ordinary, config: its }, 10, plain);
  return [...checks, atLeast("rate 10: the same by LoRA", lost, 100, 1e9)];
}

/** B·diag(λ / (r·‖aᵢ‖·‖bᵢ‖))·A·diag(w). */
function deltaOf(all: Readonly<Record<string, ArrayLike<number>>>, columns: readonly number[]): Float32Array {
  const { delora_A: a = [], delora_B: b = [], delora_lambda: lambda = [] } = all;
  const r = a.length / IN;
  const scales = Array.from({ length: r }, (_, k) => {
    const row = Float32Array.from({ length: IN }, (__, j) => Number(a[k * IN + j]));
    const column = Float32Array.from({ length: OUT }, (__, i) => Number(b[i * r + k]));
    return Number(lambda[0]) / (r * Math.max(norm(row), 1e-4) * Math.max(norm(column), 1e-4));
  });
  return matrix(OUT, IN, (i, j) => {
    let sum = 0;
    for (let k = 0; k < r; k++) sum += Number(b[i * r + k]) * Number(scales[k]) * Number(a[k * IN + j]);
    return sum * Number(columns[j]);
  });
}

/** DeLoRA: direction by A and B, size by λ. */
export const deloraProof = structured(deloraMethod, {
  name: "delora",
  title: "DeLoRA bounds its update by λ, whatever the learning rate",
  papers: ["2503.18225"],
  structures: [
    {
      label: `rank ${RANK}`,
      config,
      size: [OUT, IN],
      formula: (map, all) => ({ weight: plus(map.weight, deltaOf(all, columnNorms(map))) }),
      planted: (key, length) =>
        key === "delora_lambda" ? Float32Array.of(2 * BOUNDARY) : normals(length, "delora", key),
      count: RANK * (OUT + IN) + 1,
      rank: RANK,
      // LoRA of its rank can be the same update: what differs is the way there.
      learning: { steps: 4000, lr: 0.01, loraMisses: 0 },
    },
  ],
  extra: async (method, learns) => [...(await bound(method)), ...(learns ? await rates(method) : [])],
});
