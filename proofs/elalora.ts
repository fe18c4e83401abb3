import {
  type ElaloraConfig,
  elalora,
  elaloraMethod,
  type HookContext,
  type Method,
  movesAt,
  ranksOf,
} from "../src/methods/index.js";
import {
  agreement,
  compute,
  disturb,
  gap,
  learn,
  lowRank,
  numbersOf,
  type PlantedMap,
  plant,
  plus,
  start,
  times,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface ElaloraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<ElaloraConfig>;
  /** Seeds of the learning check. Default 1 to 4. */
  readonly seeds?: readonly number[];
  readonly steps?: number;
}

const RANKS = [0, 1, 6, 9];
const SIZE = 32;
const own = {
  rank: 4,
  maxRank: 16,
  alpha: 16,
  maxPerLayer: 1,
  movePerEvent: 2,
  every: 50,
  rankWarmup: 0.125,
};

/** That components go where they are needed: four maps whose updates have ranks 0, 1, 6 and 9, with four components each. */
export function elaloraProof(options: ElaloraProofOptions = {}): Proof {
  const { method = elaloraMethod, seeds = [1, 2, 3, 4], steps = 2400 } = options;
  return {
    name: "elalora",
    title: "ElaLoRA's components move to the modules that need them, at a constant total",
    papers: ["2504.00254"],
    async run() {
      return [...(await identities(method)), ...schedule(), ...(await learning(method, seeds, steps))];
    },
  };
}

const maps = (seed: number): PlantedMap[] =>
  RANKS.map((rank, at) =>
    plant(`map${at}`, [SIZE, SIZE], lowRank(SIZE, SIZE, rank, 0.12 * Math.sqrt(rank), "ela", seed, at), seed),
  );

/** Zero errors where there is nothing to learn would divide by zero: the error of all maps together. */
async function train(method: Method<ElaloraConfig>, seed: number, steps: number, moves: boolean) {
  const { config } = elalora({ ...own, ...(moves ? {} : { rankWarmup: 1 }) });
  const planted = maps(seed);
  let [least, most, smallest] = [Number.POSITIVE_INFINITY, 0, Number.POSITIVE_INFINITY];
  const { live } = await learn({ method, config }, planted, {
    ...{ steps, seed, lr: 5e-3 },
    onStep: (_, __, { sites }) => {
      const ranks = ranksOf(sites);
      const total = ranks.reduce((a, b) => a + b, 0);
      [least, most, smallest] = [Math.min(least, total), Math.max(most, total), Math.min(smallest, ...ranks)];
    },
  });
  let [off, all] = [0, 0];
  for (const [index, map] of planted.entries()) {
    const { weight } = await compute({ method, config }, map, live, new Float32Array(SIZE), index);
    off += plus(weight, map.target, -1).reduce((sum, value) => sum + value * value, 0);
    all += plus(map.target, map.weight, -1).reduce((sum, value) => sum + value * value, 0);
  }
  return { ranks: ranksOf(live.sites), error: off / all, least, most, smallest };
}

async function learning(
  method: Method<ElaloraConfig>,
  seeds: readonly number[],
  steps: number,
): Promise<Check[]> {
  const checks: Check[] = [];
  let ratio = 0;
  for (const seed of seeds) {
    const moved = await train(method, seed, steps, true);
    const fixed = await train(method, seed, steps, false);
    const [a = 0, b = 0, c = 0, d = 0] = moved.ranks;
    checks.push(
      between(`seed ${seed}: least total rank at any time`, moved.least, 16, 16),
      between(`seed ${seed}: greatest total rank at any time`, moved.most, 16, 16),
      between(`seed ${seed}: smallest rank of a module`, moved.smallest, 1, 1),
      between(`seed ${seed}: rank where rank 0 is needed`, a, 1, 1),
      between(`seed ${seed}: rank where rank 1 is needed`, b, 1, 2),
      between(`seed ${seed}: rank where rank 6 is needed`, c, 5, 7),
      between(`seed ${seed}: rank where rank 9 is needed`, d, 7, 9),
    );
    ratio += moved.error / fixed.error / seeds.length;
  }
  checks.push(between("mean squared error over that of fixed ranks", ratio, 0, 0.2));
  return checks;
}

/** b_t of the paper's schedule. */
function schedule(): Check[] {
  const config = elalora({ ...own, movePerEvent: 4, every: 1 }).config;
  const at = (step: number) => movesAt({ step, steps: 2400 }, config);
  return [
    between("components moved at the first event of b = 4", at(301), 4, 4),
    between("in the middle, 4(1 - 1/8) = 3.5", at(1050), 3, 4),
    between("at the end of the dynamic phase", at(1800), 0, 0),
    between("while warming up", at(300), 0, 0),
    between("while stabilising", at(1801), 0, 0),
  ];
}

/** W' against the formula, and an event that must not change it where the component that goes does nothing. */
async function identities(method: Method<ElaloraConfig>): Promise<Check[]> {
  const { config } = elalora({
    rank: 3,
    maxRank: 4,
    alpha: 6,
    maxPerLayer: 1,
    movePerEvent: 1,
    every: 1,
    rankWarmup: 0,
  });
  const map = plant("map", [6, 8], lowRank(6, 8, 2, 0.3, "identity"));
  const adaptation = { method, config };
  const live = await start(adaptation, [map]);
  const atStart = await compute(adaptation, map, live, new Float32Array(8));
  const [a, e, b] = ["lora_A", "lora_E", "lora_B"].map((key) => numbersOf(live, key)) as [
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  disturb(live, 0.3);
  const mask = numbersOf(live, "lora_mask");
  mask.forEach((kept, k) => {
    if (kept === 1) return;
    e[k] = 0;
    a.fill(0, k * 8, (k + 1) * 8);
    for (let i = 0; i < 6; i++) b[i * 4 + k] = 0;
  });
  const scaled = a.map((value, at) => 2 * value * Number(e[Math.floor(at / 8)]));
  const weight = plus(map.weight, times(b, scaled, [6, 4, 8]));
  const checks = await agreement("s B diag(e) A", adaptation, map, live, { weight });
  // A component that does nothing goes, and one that does nothing yet comes.
  e[1] = 0;
  const before = await compute(adaptation, map, live, new Float32Array(8));
  const context: HookContext<ElaloraConfig> = { name: "default", config, ...live };
  const hooks = method.hooks?.(context);
  const params = new Map(
    ["lora_A", "lora_E", "lora_B"].map((key) => [`default/map.${key}`, numbersOf(live, key)] as const),
  );
  const gradients = new Map([...params].map(([name, data]) => [name, new Float32Array(data.length).fill(1)]));
  const at = { step: 1, steps: 100, learningRate: 1, params };
  hooks?.beforeUpdate?.(at);
  hooks?.afterBackward?.(at, gradients, new Map());
  hooks?.afterUpdate?.(at);
  const after = await compute(adaptation, map, live, new Float32Array(8));
  return [
    ...checks,
    { what: "change at the start", measured: gap(atStart.weight, map.weight), expected: 0, tolerance: 0 },
    {
      what: "change of W' at an event",
      measured: gap(after.weight, before.weight),
      expected: 0,
      tolerance: 1e-6,
    },
    {
      what: "components after an event",
      measured: mask.reduce((x, y) => x + y, 0),
      expected: 3,
      tolerance: 0,
    },
  ];
}
