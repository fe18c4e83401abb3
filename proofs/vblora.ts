import { type Method, type VbloraConfig, vblora, vbloraMethod } from "../src/methods/index.js";
import { squareOf, trainedCount, vanishes } from "./matrices.js";
import { agreement, disturb, learn, normals, type PlantedMap, plant, plus, start, times } from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";
import { missedByRank, type Numbers, numbersAt } from "./structure.js";

export interface VbloraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<VbloraConfig>;
  /** Seeds of the learning check; none leaves it out. Default 1 and 2. */
  readonly seeds?: readonly number[];
}

const [MAPS, SIZE, RANK, LENGTH, TOP] = [8, 32, 2, 8, 2];
const VECTORS = 24;
const configOf = (vectors: number) =>
  vblora({ rank: RANK, vectors, vectorLength: LENGTH, topK: TOP, bankBound: 0.5 }).config;

/** Pieces of both factors of a map. */
const PIECES = (2 * RANK * SIZE) / LENGTH;
/** What a file needs: the bank, and for each piece all weights but one, which is one less the others. Indices are no floats. */
const STORED = VECTORS * LENGTH + MAPS * PIECES * (TOP - 1);

/** Every piece is a mixture of two vectors of one bank, so that little needs to be kept. */
export function vbloraProof({ method = vbloraMethod, seeds = [1, 2] }: VbloraProofOptions = {}): Proof {
  return {
    name: "vblora",
    title: "VB-LoRA shares one bank: rank 2 in less than LoRA's rank 1 takes, and nearer",
    papers: ["2405.15179"],
    async run() {
      const checks = [...(await kept(method)), ...(await chosen(method))];
      return seeds.length > 0 ? [...checks, ...(await learning(method, seeds))] : checks;
    },
  };
}

/** Indices and weights of a piece's largest logits: what a file keeps of it. */
function largest(logits: ArrayLike<number>, from: number): readonly (readonly [number, number])[] {
  const own = Array.from({ length: VECTORS }, (_, at) => [at, Number(logits[from + at])] as const)
    .sort(([, a], [, b]) => b - a)
    .slice(0, TOP);
  const sum = own.reduce((total, [, logit]) => total + Math.exp(logit), 0);
  return own.map(([at, logit]) => [at, Math.exp(logit) / sum]);
}

/** B·A out of the bank, the indices, and all weights but the last of each piece. */
function fromKept({ vblora_vector_bank: bank = [], ...all }: Numbers): Float32Array {
  const piece = (logits: ArrayLike<number>, at: number): number[] => {
    const choice = largest(logits, at * VECTORS);
    const known = choice.slice(0, -1).reduce((sum, [, weight]) => sum + weight, 0);
    return Array.from({ length: LENGTH }, (_, k) =>
      choice.reduce((sum, [vector, weight], which) => {
        const share = which < TOP - 1 ? weight : 1 - known;
        return sum + share * Number(bank[vector * LENGTH + k]);
      }, 0),
    );
  };
  const { vblora_logits_A: down = [], vblora_logits_B: up = [] } = all;
  const parts = SIZE / LENGTH;
  const a = Float32Array.from(Array.from({ length: RANK * parts }, (_, at) => piece(down, at)).flat());
  const b = new Float32Array(SIZE * RANK);
  for (let part = 0; part < parts; part++)
    for (let k = 0; k < RANK; k++)
      piece(up, part * RANK + k).forEach((value, at) => {
        b[(part * LENGTH + at) * RANK + k] = value;
      });
  return times(b, a, [SIZE, RANK, SIZE]);
}

async function kept(method: Method<VbloraConfig>): Promise<Check[]> {
  const adaptation = { method, config: configOf(VECTORS) };
  const maps = [0, 1].map((at) => plant(`map${at}`, [SIZE, SIZE], new Float32Array(SIZE ** 2), "vb"));
  const live = await start(adaptation, maps);
  disturb(live, 0.5);
  const checks: Check[] = [];
  for (const [index, map] of maps.entries()) {
    const weight = plus(map.weight, fromKept(numbersAt(live, index)));
    const one = { sites: live.sites.slice(index, index + 1), shared: live.shared };
    checks.push(
      ...(await agreement(`map ${index} from indices and ${TOP - 1} weight a piece`, adaptation, map, one, {
        weight,
      })),
    );
  }
  return [
    ...checks,
    {
      what: "trained numbers of two maps: one bank, and logits",
      measured: trainedCount(live),
      expected: VECTORS * LENGTH + 2 * PIECES * VECTORS,
      tolerance: 0,
    },
  ];
}

/** A step moves the logits of the chosen vectors alone. */
async function chosen(method: Method<VbloraConfig>): Promise<Check[]> {
  const adaptation = { method, config: configOf(VECTORS) };
  const [map] = targets(1);
  if (!map) throw new Error("no map");
  const live = await start(adaptation, [map]);
  const before = numbersAt(live).vblora_logits_A?.slice() ?? new Float32Array(0);
  await learn(adaptation, [map], { steps: 1, lr: 1e-3, live });
  const after = numbersAt(live).vblora_logits_A ?? new Float32Array(0);
  let [moved, others] = [0, 0];
  for (let at = 0; at < before.length; at += VECTORS) {
    const own = new Set(largest(before, at).map(([vector]) => vector));
    for (let vector = 0; vector < VECTORS; vector++) {
      if (after[at + vector] === before[at + vector]) continue;
      if (own.has(vector)) moved++;
      else others++;
    }
  }
  return [
    {
      what: "logits that one step moves, of chosen vectors",
      measured: moved,
      expected: (PIECES / 2) * TOP,
      tolerance: 0,
    },
    vanishes("of others", others, 0),
  ];
}

/** Maps whose updates of rank 2 are put together from a bank of eight vectors. */
function targets(count: number): PlantedMap[] {
  const bank = normals(8 * LENGTH, "vb", "bank");
  const piece = (...key: (string | number)[]): number[] => {
    const [first = 0, second = 0, logit = 0] = normals(3, "vb", "piece", ...key);
    const i = Math.floor(Math.abs(first) * 1000) % 8;
    const j = (i + 1 + (Math.floor(Math.abs(second) * 1000) % 7)) % 8;
    const weight = 1 / (1 + Math.exp(-logit));
    return Array.from(
      { length: LENGTH },
      (_, k) => weight * Number(bank[i * LENGTH + k]) + (1 - weight) * Number(bank[j * LENGTH + k]),
    );
  };
  const factor = (map: number, side: string) =>
    Float32Array.from(Array.from({ length: (RANK * SIZE) / LENGTH }, (_, at) => piece(map, side, at)).flat());
  return Array.from({ length: count }, (_, map) => {
    const [a, rows] = [factor(map, "a"), factor(map, "b")];
    const b = Float32Array.from({ length: SIZE * RANK }, (__, at) =>
      Number(rows[(at % RANK) * SIZE + Math.floor(at / RANK)]),
    );
    const delta = times(b, a, [SIZE, RANK, SIZE]).map((value) => 0.3 * value);
    return plant(`map${map}`, [SIZE, SIZE], delta, "vb");
  });
}

/**
 * Against the best that LoRA of rank 1 can do. Which vectors a piece takes is a choice that gradients find only in part: planted
 * updates of eight vectors are not found again, but come nearer than LoRA's. The bound was set after trial runs.
 */
async function learning(method: Method<VbloraConfig>, seeds: readonly number[]): Promise<Check[]> {
  const maps = targets(MAPS);
  const squares = maps.map(({ target, weight }) => squareOf(plus(target, weight, -1)));
  const best = maps.reduce(
    (sum, { target, weight }, at) =>
      sum + missedByRank(SIZE, SIZE, plus(target, weight, -1), 1) ** 2 * Number(squares[at]),
    0,
  );
  let missed = 0;
  for (const seed of seeds) {
    const { errors } = await learn({ method, config: configOf(VECTORS) }, maps, {
      ...{ steps: 1200, lr: 0.01, decay: true, seed },
    });
    missed += errors.reduce((sum, error, at) => sum + error ** 2 * Number(squares[at]), 0) / seeds.length;
  }
  return [
    between(
      `floats to keep, ${MAPS} maps, over those of LoRA of rank 1`,
      STORED / (MAPS * 2 * SIZE),
      0,
      0.65,
    ),
    between("squared error over that of LoRA's best of rank 1", missed / best, 0, 0.8),
  ];
}
