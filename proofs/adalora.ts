import { type AdaloraConfig, adalora, adaloraMethod, type Method } from "../src/methods/index.js";
import { identity, turned } from "./matrices.js";
import {
  agreement,
  compute,
  disturb,
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
import { between, type Check, type Proof } from "./proof.js";
import { missedByRank, numbersAt } from "./structure.js";

export interface AdaloraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<AdaloraConfig>;
  /** Seeds of the learning check; none leaves it out. Default 1 and 2. */
  readonly seeds?: readonly number[];
}

/** Ranks of the planted updates, of as many triplets as the budget leaves. */
const RANKS = [0, 1, 3, 4];
const SIZE = 24;
const [INITIAL, TARGET, STEPS] = [6, 2, 800];
const [WARMUP, FINAL, INTERVAL] = [100, 300, 10];
const own = {
  initRank: INITIAL,
  targetRank: TARGET,
  alpha: INITIAL,
  rankWarmup: WARMUP,
  finalSteps: FINAL,
  interval: INTERVAL,
};

/** The budget goes where updates are planted, along the paper's schedule; orthogonality is asked for and had. */
export function adaloraProof({ method = adaloraMethod, seeds = [1, 2] }: AdaloraProofOptions = {}): Proof {
  return {
    name: "adalora",
    title: "AdaLoRA's budget ends where the updates are, along its cubic schedule",
    papers: ["2303.10512"],
    async run() {
      const checks = await formula(method);
      for (const seed of seeds) checks.push(...(await learning(method, seed)));
      return seeds.length > 0 ? [...checks, ...(await penalised(method))] : checks;
    },
  };
}

const productOf = ({ lora_A: a = [], lora_E: e = [], lora_B: b = [] }: Record<string, ArrayLike<number>>) => {
  const scaled = Float32Array.from(a).map((value, at) => value * Number(e[Math.floor(at / SIZE)]));
  return times(b, scaled, [SIZE, e.length, SIZE]);
};

async function formula(method: Method<AdaloraConfig>): Promise<Check[]> {
  const { config } = adalora({ initRank: 5, alpha: 9 });
  const map = plant("map", [SIZE, SIZE], new Float32Array(SIZE * SIZE), "adalora");
  const live = await start({ method, config }, [map]);
  const { weight: before } = await compute({ method, config }, map, live, new Float32Array(SIZE));
  disturb(live, 0.3);
  const weight = plus(map.weight, productOf(numbersAt(live)), 9 / (5 + 1e-5));
  return [
    { what: "change at the start", measured: gap(before, map.weight), expected: 0, tolerance: 0 },
    ...(await agreement("s B diag(e) A", { method, config }, map, live, { weight })),
  ];
}

/** Triplets that may be left after a step: the paper's cubic. */
function budgetAt(step: number): number {
  const [initial, target] = [INITIAL * RANKS.length, TARGET * RANKS.length];
  const [first, last] = [WARMUP, STEPS - FINAL];
  if (step <= first) return initial;
  if (step >= last) return target;
  return Math.floor(target + (initial - target) * (1 - (step - first) / (last - first)) ** 3);
}

const kept = ({ sites }: PlantedSites): number[] =>
  sites.map((_, index) => Number(numbersAt({ sites, shared: {} }, index).lora_E?.filter(Boolean).length));

async function learning(method: Method<AdaloraConfig>, seed: number): Promise<Check[]> {
  const { config } = adalora(own);
  // A little noise, so that every triplet is used for something.
  const maps = RANKS.map((rank, at) => {
    const delta = lowRank(SIZE, SIZE, rank, 0.2 * Math.sqrt(rank), "ada", seed, at);
    return plant(
      `map${at}`,
      [SIZE, SIZE],
      plus(delta, normals(SIZE * SIZE, "ada", "noise", seed, at), 0.003),
      seed,
    );
  });
  let wrong = 0;
  const { live } = await learn({ method, config }, maps, {
    ...{ steps: STEPS, lr: 0.02, decay: true, seed },
    onStep(step, _, now) {
      const total = kept(now).reduce((sum, count) => sum + count, 0);
      if (step > 1 && step % INTERVAL === 0 && total !== budgetAt(step)) wrong++;
    },
  });
  let [missed, fixed, all] = [0, 0, 0];
  for (const [index, map] of maps.entries()) {
    const { weight } = await compute({ method, config }, map, live, new Float32Array(SIZE), index);
    const delta = plus(map.target, map.weight, -1);
    missed += norm(plus(weight, map.target, -1)) ** 2;
    all += norm(delta) ** 2;
    fixed += (missedByRank(SIZE, SIZE, delta, TARGET) * norm(delta)) ** 2;
  }
  const counts = kept(live);
  return [
    { what: `seed ${seed}: steps off the cubic schedule`, measured: wrong, expected: 0, tolerance: 0 },
    ...RANKS.map((planted, at) => ({
      what: `seed ${seed}: triplets left where rank ${planted} is needed`,
      measured: Number(counts[at]),
      expected: planted,
      tolerance: 1,
    })),
    {
      what: `seed ${seed}: triplets left in all`,
      measured: counts.reduce((sum, count) => sum + count, 0),
      expected: TARGET * RANKS.length,
      tolerance: 0,
    },
    between(
      `seed ${seed}: squared error over that of the best of LoRA, rank ${TARGET} in every map`,
      missed / fixed,
      0,
      0.2,
    ),
    between(`seed ${seed}: what it misses of all updates`, Math.sqrt(missed / all), 0, 0.2),
  ];
}

/** Mean of ‖A·Aᵀ − I‖ and ‖Bᵀ·B − I‖ after training, with and without the penalty. */
async function penalised(method: Method<AdaloraConfig>): Promise<Check[]> {
  const map: PlantedMap = plant("map", [SIZE, SIZE], lowRank(SIZE, SIZE, 3, 0.3, "penalty"), "penalty");
  const departure = async (orthogonality: number) => {
    const { config } = adalora({ ...own, targetRank: INITIAL, finalSteps: 0, orthogonality });
    const { live } = await learn({ method, config }, [map], { steps: 400, lr: 0.02, decay: true });
    const { lora_A: a = [], lora_B: b = [] } = numbersAt(live);
    const [one, by] = [identity(INITIAL), [INITIAL, SIZE, INITIAL] as const];
    return (
      norm(plus(times(a, turned(INITIAL, SIZE, a), by), one, -1)) / 2 +
      norm(plus(times(turned(SIZE, INITIAL, b), b, by), one, -1)) / 2
    );
  };
  const [with5, without] = [await departure(0.5), await departure(0)];
  return [
    between("departure from orthogonality with the penalty, over that without", with5 / without, 0, 0.1),
  ];
}
