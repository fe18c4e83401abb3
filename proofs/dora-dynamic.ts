import { type DynamicDoraConfig, dynamicDora, dynamicDoraMethod, type Method } from "../src/methods/index.js";
import { svd } from "../src/runtime/index.js";
import {
  agreement,
  compute,
  disturb,
  learn,
  lowRank,
  norm,
  numbersOf,
  type PlantedMap,
  plant,
  plus,
  start,
  times,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface DynamicDoraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<DynamicDoraConfig>;
  /** Seeds of the learning check; none leaves it out. Default 1, 2, 3. */
  readonly seeds?: readonly number[];
}

const SIZE = 32;
const RANKS = [0, 1, 3, 6];

/** That components are left where they are needed: four maps whose updates have ranks 0, 1, 3 and 6, four each on average. */
export function dynamicDoraProof(options: DynamicDoraProofOptions = {}): Proof {
  const { method = dynamicDoraMethod, seeds = [1, 2, 3] } = options;
  return {
    name: "dora-dynamic",
    title: "dynamic-rank DoRA prunes the components of modules that need none",
    papers: ["2405.17357"],
    async run() {
      const checks = await identities(method);
      for (const seed of seeds) checks.push(...(await learning(method, seed)));
      return checks;
    },
  };
}

async function identities(method: Method<DynamicDoraConfig>): Promise<Check[]> {
  const map = plant("map", [6, 8], new Float32Array(48));
  const { config } = dynamicDora({ rank: 2, startFactor: 2, alpha: 6, dropout: 0, demWeight: 1 });
  const adaptation = { method, config };
  const live = await start(adaptation, [map]);
  disturb(live, 0.3);
  const [a, b, c] = ["lora_A", "lora_B", "lora_c"].map((key) => numbersOf(live, key)) as [
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  const scaled = b.map((value, at) => 1.5 * value * Number(c[at % 4]));
  return agreement("(alpha / start rank) B diag(c) A", adaptation, map, live, {
    weight: plus(map.weight, times(scaled, a, [6, 4, 8])),
  });
}

const maps = (seed: number): PlantedMap[] =>
  RANKS.map((rank, at) =>
    plant(`map${at}`, [SIZE, SIZE], lowRank(SIZE, SIZE, rank, 0.3, "dora", seed, at), seed),
  );

async function learning(method: Method<DynamicDoraConfig>, seed: number): Promise<Check[]> {
  const { config } = dynamicDora({ rank: 4, startFactor: 1.5, dropout: 0, pruneEvery: 50 });
  const adaptation = { method, config };
  const planted = maps(seed);
  let revived = 0;
  const kept = (sites: Parameters<NonNullable<Parameters<typeof learn>[2]["onStep"]>>[2]["sites"]) =>
    sites.map(
      ({ tensors }) =>
        Array.from((tensors.lora_c?.tensor.data ?? []) as Float32Array).filter((value) => value !== 0).length,
    );
  let frozen: number[] | undefined;
  const { live } = await learn(adaptation, planted, {
    ...{ steps: 1500, seed, lr: 5e-3 },
    onStep(step, _, { sites }) {
      if (step === 751) frozen = kept(sites);
      if (frozen && kept(sites).join() !== frozen.join()) revived++;
    },
  });
  const ranks = kept(live.sites);
  const errors: number[] = [];
  for (const [index, map] of planted.entries()) {
    const { weight } = await compute(adaptation, map, live, new Float32Array(SIZE), index);
    const size = norm(plus(map.target, map.weight, -1));
    errors.push(norm(plus(weight, map.target, -1)) / (size > 0 ? size : norm(map.weight)));
  }
  const last = planted[3] as PlantedMap;
  const values = svd({ rows: SIZE, cols: SIZE, data: plus(last.target, last.weight, -1) }).s;
  const uniform = Math.hypot(...Array.from(values).slice(4)) / Math.hypot(...values);
  return [
    between(`seed ${seed}: components left where none is needed`, Number(ranks[0]), 0, 0),
    between(`seed ${seed}: where six are needed`, Number(ranks[3]), 6, 6),
    between(
      `seed ${seed}: in all`,
      ranks.reduce((x, y) => x + y, 0),
      10,
      16,
    ),
    between(`seed ${seed}: updates after pruning at which a component came back`, revived, 0, 0),
    between(`seed ${seed}: largest relative error`, Math.max(...errors), 0, 0.02),
    between(`seed ${seed}: least relative error of rank 4 where six are needed`, uniform, 0.2, 1),
  ];
}
