import { type Method, type UniloraConfig, unilora, uniloraMethod } from "../src/methods/index.js";
import { adamw } from "../src/training/index.js";
import {
  agreement,
  disturb,
  learn,
  lowRank,
  norm,
  normals,
  numbersOf,
  type PlantedSites,
  plant,
  plus,
  start,
  times,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface UniloraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<UniloraConfig>;
  /** Whether to train. Default true. */
  readonly learns?: boolean;
}

/**
 * The projection from the short vector keeps lengths, spreads it evenly and as NumPy draws it; updates that it can express
 * are found, and how much of others is missed depends on its length alone. The paper gives no numbers for such small maps: the
 * bounds of what is missed were set after a first run (0.53 to 1.03 for all but the longest vector).
 */
export function uniloraProof({ method = uniloraMethod, learns = true }: UniloraProofOptions = {}): Proof {
  return {
    name: "unilora",
    title: "Uni-LoRA: every entry of every factor is one of a few numbers, chosen once at random",
    papers: ["2506.00799"],
    async run() {
      const checks = [...(await projection(method)), ...(await formula(method))];
      return learns ? [...checks, ...(await learning(method))] : checks;
    },
  };
}

const [SIZE, RANK] = [12, 2];
/** Entries of both maps' factors. */
const ENTRIES = 2 * 2 * RANK * SIZE;
const maps = ["a", "b"].map((path) => plant(path, [SIZE, SIZE], new Float32Array(SIZE * SIZE), "unilora"));

const adaptationOf = (method: Method<UniloraConfig>, length: number) => ({
  method,
  config: unilora({ rank: RANK, thetaLength: length, bound: 0.3 }).config,
});

/** First places of numpy.random.default_rng(42) for 96 entries of 7 numbers. */
const NUMPY = [0, 2, 3, 4, 6, 1, 6, 2, 4, 2, 0, 1, 5, 1, 1, 6];

const placesOf = (live: PlantedSites): number[] =>
  maps.flatMap((_, at) =>
    ["A", "B"].flatMap((factor) => Array.from(numbersOf(live, `unilora_indices_${factor}`, at), Number)),
  );

/** A factor of a map, in plain arithmetic. */
function factor(live: PlantedSites, at: number, name: "A" | "B", theta: Float32Array): Float32Array {
  const counts = new Map<number, number>();
  for (const place of placesOf(live)) counts.set(place, (counts.get(place) ?? 0) + 1);
  return Float32Array.from(numbersOf(live, `unilora_indices_${name}`, at), (place) => {
    const number = Number(place);
    return Number(theta[number]) / Math.sqrt(Number(counts.get(number)));
  });
}

const targetOf = (live: PlantedSites, at: number, theta: Float32Array): Float32Array => {
  const [a, b] = [factor(live, at, "A", theta), factor(live, at, "B", theta)];
  return plus(maps[at]?.weight as Float32Array, times(b, a, [SIZE, RANK, SIZE]));
};

async function projection(method: Method<UniloraConfig>): Promise<Check[]> {
  const live = await start(adaptationOf(method, 7), maps);
  const places = placesOf(live);
  const counts = Array.from({ length: 7 }, (_, number) => places.filter((each) => each === number).length);
  const theta = numbersOf(live, "unilora_theta_d");
  // What the method itself makes of its vector: entries of A and B times their scales.
  const entries = maps.flatMap((_, at) =>
    ["A", "B"].flatMap((name) => {
      const scales = numbersOf(live, `unilora_scales_${name}`, at);
      const own = numbersOf(live, `unilora_indices_${name}`, at);
      return Array.from(own, (place, k) => Number(theta[Number(place)]) * Number(scales[k]));
    }),
  );
  return [
    { what: "entries of all factors", measured: places.length, expected: ENTRIES, tolerance: 0 },
    {
      what: "places that are not NumPy's",
      measured: NUMPY.filter((place, at) => place !== places[at]).length,
      expected: 0,
      tolerance: 0,
    },
    {
      what: "uses of the most used number, less those of the least used",
      measured: Math.max(...counts) - Math.min(...counts),
      expected: 1,
      tolerance: 0,
    },
    {
      what: "length of all factors together, over that of the vector",
      measured: norm(entries) / norm(theta),
      expected: 1,
      tolerance: 1e-6,
    },
  ];
}

async function formula(method: Method<UniloraConfig>): Promise<Check[]> {
  const adaptation = adaptationOf(method, 20);
  const live = await start(adaptation, maps);
  disturb(live, 1);
  const theta = numbersOf(live, "unilora_theta_d");
  const [map] = maps;
  if (!map) return [];
  return agreement("B·A from the vector", adaptation, map, live, { weight: targetOf(live, 0, theta) });
}

/** Both maps at once, from their own start. */
async function learning(method: Method<UniloraConfig>): Promise<Check[]> {
  const checks: Check[] = [];
  const worst = async (length: number, targets: readonly Float32Array[]) => {
    const own = maps.map((map, at) => ({ ...map, target: targets[at] as Float32Array }));
    const optimizer = adamw({ lr: 2e-2, weightDecay: 0, schedule: (step) => 1 - step / 1100 });
    const { errors, live } = await learn(adaptationOf(method, length), own, { steps: 1100, optimizer });
    const trained = new Set(
      [...live.sites.flatMap(({ tensors }) => Object.values(tensors)), ...Object.values(live.shared)].filter(
        ({ trainable }) => trainable,
      ),
    );
    const count = [...trained].reduce((sum, { tensor }) => sum + tensor.data.length, 0);
    return { errors, count };
  };
  for (const length of [12, 48]) {
    const live = await start(adaptationOf(method, length), maps);
    // Entries of one size, whatever the length.
    const theta = normals(length, "theta", length).map((value) => 0.7 * value * Math.sqrt(ENTRIES / length));
    const { errors, count } = await worst(
      length,
      maps.map((_, at) => targetOf(live, at, theta)),
    );
    checks.push(
      { what: `${length} numbers: trained for both maps`, measured: count, expected: length, tolerance: 0 },
      between(`${length} numbers: what is missed of an update of theirs`, Math.max(...errors), 0, 0.01),
    );
  }
  const others = maps.map(({ weight, path }) =>
    plus(weight, lowRank(SIZE, SIZE, RANK, 0.5, "unilora", path)),
  );
  const mean = ({ errors }: { readonly errors: readonly number[] }) =>
    errors.reduce((sum, error) => sum + error, 0) / errors.length;
  for (const [length, low, high] of [
    [12, 0.8, 1.1],
    [48, 0.4, 0.95],
    [ENTRIES, 0, 0.01],
  ] as const) {
    const missed = mean(await worst(length, others));
    checks.push(between(`${length} numbers: what is missed of any update of rank 2`, missed, low, high));
  }
  return checks;
}
