import { type Method, type TinyloraConfig, tinylora, tinyloraMethod } from "../src/methods/index.js";
import { leastSquares, qr, svd } from "../src/runtime/index.js";
import { adamw } from "../src/training/index.js";
import {
  agreement,
  disturb,
  gap,
  learn,
  norm,
  normals,
  numbersOf,
  type PlantedMap,
  type PlantedSites,
  plant,
  plus,
  start,
  times,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface TinyloraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<TinyloraConfig>;
  /** Whether to train. Default true. */
  readonly learns?: boolean;
}

/**
 * The frozen factors are the best approximation of the weight, and what u numbers reach is what theory says: the span of u
 * random matrices in the r² dimensions of changes of the leading directions, so that a random one is missed by √(1 − u/r²) on
 * average, none with u = r², and anything outside the leading directions always.
 */
export function tinyloraProof({ method = tinyloraMethod, learns = true }: TinyloraProofOptions = {}): Proof {
  return {
    name: "tinylora",
    title: "TinyLoRA: a change of a weight's leading directions in so many dimensions as it trains numbers",
    papers: ["2602.04118"],
    async run() {
      const still = [starts, formula, span, sharing];
      const checks = (await Promise.all(still.map((part) => part(method)))).flat();
      return learns ? [...checks, ...(await learning(method)), ...(await tying(method))] : checks;
    },
  };
}

const [OUT, IN, RANK] = [14, 10, 3];
const nothing = new Float32Array(OUT * IN);

/** A map whose singular values are all 1, so that every change of its leading directions counts the same. */
function evenMap(path: string): PlantedMap {
  const columns = (n: number, part: string) =>
    qr({ rows: n, cols: IN, data: normals(n * IN, "tinylora", path, part) }).q.data;
  const [u, v] = [columns(OUT, "u"), columns(IN, "v")];
  const weight = times(u, v, [OUT, IN, IN]);
  return { path, out: OUT, in: IN, weight, target: weight };
}

const zero = (what: string, measured: number, tolerance = 1e-5): Check => ({
  what,
  measured,
  expected: 0,
  tolerance,
});

const configOf = (options: Parameters<typeof tinylora>[0]) => tinylora({ rank: RANK, ...options }).config;

async function starts(method: Method<TinyloraConfig>): Promise<Check[]> {
  const map = plant("map", [OUT, IN], nothing, "tinylora");
  const live = await start({ method, config: configOf({ vectorLength: 700 }) }, [map]);
  const product = times(numbersOf(live, "tinylora_B"), numbersOf(live, "tinylora_A"), [OUT, RANK, IN]);
  const { s } = svd({ rows: OUT, cols: IN, data: map.weight });
  const lost = norm(s.subarray(RANK));
  const [a, b] = [numbersOf(live, "tinylora_A"), numbersOf(live, "tinylora_B")];
  const p = numbersOf(live, "tinylora_P");
  return [
    {
      what: "‖W − B·A‖ over that of the best approximation of the rank",
      measured: norm(plus(map.weight, product, -1)) / lost,
      expected: 1,
      tolerance: 1e-5,
    },
    { what: "‖A‖ over ‖B‖", measured: norm(a) / norm(b), expected: 1, tolerance: 1e-5 },
    // 6300 normal numbers: the square's mean is good to 1.8 %.
    {
      what: "r · variance of the entries of P",
      measured: (RANK * norm(p) ** 2) / p.length,
      expected: 1,
      tolerance: 0.06,
    },
    zero("the vector at the start", norm(numbersOf(live, "tinylora_v")), 0),
  ];
}

/** Σᵢ vᵢ·Pᵢ. */
const mixed = (v: ArrayLike<number>, p: ArrayLike<number>): Float32Array =>
  times(v, p, [1, v.length, RANK * RANK]);

const changed = (map: PlantedMap, live: PlantedSites, r: Float32Array, at = 0): Float32Array => {
  const left = times(numbersOf(live, "tinylora_B", at), r, [OUT, RANK, RANK]);
  return plus(map.weight, times(left, numbersOf(live, "tinylora_A", at), [OUT, RANK, IN]));
};

async function formula(method: Method<TinyloraConfig>): Promise<Check[]> {
  const map = plant("map", [OUT, IN], nothing, "tinylora");
  const adaptation = { method, config: configOf({ vectorLength: 5 }) };
  const live = await start(adaptation, [map]);
  disturb(live, 0.5);
  const r = mixed(numbersOf(live, "tinylora_v"), numbersOf(live, "tinylora_P"));
  return agreement("B·(Σ v·P)·A", adaptation, map, live, { weight: changed(map, live, r) });
}

const DIMENSIONS = RANK * RANK;
const planted = (seed: number) => normals(DIMENSIONS, "tinylora", "planted", seed).map((value) => value / 2);

/** What the best vector misses of a change, by least squares. */
function missedOf(p: ArrayLike<number>, r: Float32Array): number {
  const u = p.length / DIMENSIONS;
  const columns = Float64Array.from({ length: p.length }, (_, at) =>
    Number(p[(at % u) * DIMENSIONS + Math.floor(at / u)]),
  );
  const v = leastSquares(
    { rows: DIMENSIONS, cols: u, data: columns },
    { rows: DIMENSIONS, cols: 1, data: Float64Array.from(r) },
  );
  return norm(plus(r, mixed(v.data, p), -1)) / norm(r);
}

/** Over 300 random changes, without training. */
async function span(method: Method<TinyloraConfig>): Promise<Check[]> {
  const map = evenMap("map");
  const checks: Check[] = [];
  for (const u of [1, 4, 8]) {
    const live = await start({ method, config: configOf({ vectorLength: u }) }, [map]);
    const p = numbersOf(live, "tinylora_P");
    const squares = Array.from({ length: 300 }, (_, seed) => missedOf(p, planted(seed)) ** 2);
    checks.push({
      what: `${u} numbers: mean square of what is missed of a random change`,
      measured: squares.reduce((a, b) => a + b, 0) / squares.length,
      expected: 1 - u / DIMENSIONS,
      tolerance: 0.04,
    });
  }
  return checks;
}

/** Trained, it misses what least squares say, nothing with r² numbers, and all of a change of other directions. */
async function learning(method: Method<TinyloraConfig>): Promise<Check[]> {
  const map = evenMap("map");
  const checks: Check[] = [];
  const trained = async (u: number, target: Float32Array) => {
    const optimizer = adamw({ lr: 5e-2, weightDecay: 0, schedule: (step) => 1 - step / 600 });
    const adaptation = { method, config: configOf({ vectorLength: u }) };
    return Number((await learn(adaptation, [{ ...map, target }], { steps: 600, optimizer })).errors[0]);
  };
  for (const u of [1, 4, 8, 12]) {
    const live = await start({ method, config: configOf({ vectorLength: u }) }, [map]);
    const r = planted(1000);
    checks.push({
      what: `${u} numbers, trained: what is missed of a change`,
      measured: await trained(u, changed(map, live, r)),
      expected: missedOf(numbersOf(live, "tinylora_P"), r),
      tolerance: 0.005,
    });
  }
  const live = await start({ method, config: configOf({ vectorLength: 12 }) }, [map]);
  const [a, b] = [numbersOf(live, "tinylora_A"), numbersOf(live, "tinylora_B")];
  // Of other directions of the weight: W less its leading part.
  const rest = plus(map.weight, times(b, a, [OUT, RANK, IN]), -1);
  checks.push({
    what: "12 numbers, trained: what is missed of a change of other directions",
    measured: await trained(12, plus(map.weight, rest, 0.3)),
    expected: 1,
    tolerance: 1e-3,
  });
  return checks;
}

/** Two maps have random matrices of their own, and one vector or two. */
async function sharing(method: Method<TinyloraConfig>): Promise<Check[]> {
  const maps = [evenMap("first"), evenMap("second")];
  const made = (weightTying: number) =>
    start({ method, config: configOf({ vectorLength: 5, weightTying }) }, maps);
  const [tied, free] = [await made(1), await made(0)];
  const count = ({ sites }: PlantedSites) => 5 * new Set(sites.map(({ tensors }) => tensors.tinylora_v)).size;
  const projection = (at: number) => numbersOf(tied, "tinylora_P", at);
  return [
    { what: "numbers of both maps, tied", measured: count(tied), expected: 5, tolerance: 0 },
    { what: "numbers of both maps, each its own", measured: count(free), expected: 10, tolerance: 0 },
    between("P of the two maps differ by", gap(projection(0), projection(1)), 0.1, 10),
  ];
}

/** Two maps with one vector: changes of one vector are found, of two not. */
async function tying(method: Method<TinyloraConfig>): Promise<Check[]> {
  const maps = [evenMap("first"), evenMap("second")];
  const worst = async (weightTying: number, vectors: readonly Float32Array[]) => {
    const adaptation = { method, config: configOf({ vectorLength: 5, weightTying }) };
    const live = await start(adaptation, maps);
    const own = maps.map((map, at) => ({
      ...map,
      target: changed(map, live, mixed(vectors[at] as Float32Array, numbersOf(live, "tinylora_P", at)), at),
    }));
    const optimizer = adamw({ lr: 5e-2, weightDecay: 0, schedule: (step) => 1 - step / 1000 });
    return Math.max(...(await learn(adaptation, own, { steps: 1000, optimizer })).errors);
  };
  const vector = (name: string) => normals(5, "tinylora", "tied", name).map((value) => value / 2);
  const [same, apart, free] = [
    await worst(1, [vector("a"), vector("a")]),
    await worst(1, [vector("a"), vector("b")]),
    await worst(0, [vector("a"), vector("b")]),
  ];
  return [
    zero("tied: what is missed of changes by one vector", same, 1e-3),
    between("tied: what is missed of changes by two vectors", apart, 0.3, 1.5),
    zero("each its own: what is missed of changes by two vectors", free, 1e-3),
  ];
}
