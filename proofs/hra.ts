import {
  type Adaptation,
  type HraConfig,
  hra,
  hraMethod,
  lora,
  type Method,
  merge,
} from "../src/methods/index.js";
import {
  determinant,
  identity,
  identityMap,
  isTrue,
  liveOf,
  orthogonalGap,
  rankOfChange,
  rotation,
  shake,
  spectrumChange,
  turned,
  vanishes,
} from "./matrices.js";
import { atLeast, numbersOf } from "./network.js";
import { compute, gap, learn, norm, plus, start, times } from "./planted.js";
import type { Check, Proof } from "./proof.js";
import { type Repaired, rotatedTask } from "./rotated-task.js";

export interface HraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<HraConfig>;
  /** Leave the learning checks out. Default false. */
  readonly algebraOnly?: boolean;
}

const [WIDTH, RANK] = [20, 6];
const configOf = (options: Parameters<typeof hra>[0]) => hra(options).config;

/**
 * What HRA must do: the change is a chain of reflections in the right order, orthogonal and of low rank at once; it starts as the base
 * with gradients that are not zero, keeps singular values, and repairs rotated inputs better than LoRA of its size.
 */
export function hraProof({ method = hraMethod, algebraOnly = false }: HraProofOptions = {}): Proof {
  return {
    name: "hra",
    title: "HRA is a chain of reflections: orthogonal, of low rank, and better at rotations than LoRA",
    papers: ["2405.17484"],
    async run() {
      const checks = [...(await chain(method)), ...(await starts(method)), ...(await strict(method))];
      if (algebraOnly) return checks;
      return [...checks, ...(await learning(method)), ...(await regularised(method))];
    },
  };
}

/** (I − 2u₁u₁ᵀ)…(I − 2u_ru_rᵀ) of columns `[d, r]`, factor by factor. */
function reflections(v: Float32Array, d: number, r: number, reversed = false): Float32Array {
  let product = identity(d);
  const order = Array.from({ length: r }, (_, k) => (reversed ? r - 1 - k : k));
  for (const k of order) {
    const u = Float32Array.from({ length: d }, (_, i) => Number(v[i * r + k]));
    const square = norm(u) ** 2;
    const one = identity(d).map(
      (value, at) => value - (2 * Number(u[Math.floor(at / d)]) * Number(u[at % d])) / square,
    );
    product = times(product, one, [d, d, d]);
  }
  return product;
}

async function chain(method: Method<HraConfig>): Promise<Check[]> {
  const adaptation = { method, config: configOf({ rank: RANK, init: "random" }) };
  const map = identityMap(WIDTH);
  const live = await start(adaptation, [map]);
  shake(live, 1);
  const v = liveOf(live, "hra_u");
  const { weight: h, forward } = await compute(adaptation, map, live, identity(WIDTH));
  const expected = reflections(v, WIDTH, RANK);
  const back = reflections(v, WIDTH, RANK, true);
  const restored = times(h, back, [WIDTH, WIDTH, WIDTH]);
  const same = times(h, expected, [WIDTH, WIDTH, WIDTH]);
  return [
    vanishes("H against the product of its reflections", gap(h, expected), 1e-5),
    vanishes("activations against the same product", gap(forward, turned(WIDTH, WIDTH, expected)), 1e-5),
    vanishes("largest entry of HᵀH − I", orthogonalGap(WIDTH, h), 1e-5),
    { what: "determinant of six reflections", measured: determinant(WIDTH, h), expected: 1, tolerance: 1e-4 },
    {
      what: "rank of H − I",
      measured: rankOfChange(WIDTH, WIDTH, identity(WIDTH), h),
      expected: RANK,
      tolerance: 0,
    },
    vanishes("H undone by its reflections in reversed order", gap(restored, identity(WIDTH)), 1e-5),
    isTrue("the same order does not undo it", gap(same, identity(WIDTH)) > 0.1),
  ];
}

async function starts(method: Method<HraConfig>): Promise<Check[]> {
  const adaptation = { method, config: configOf({ rank: RANK }) };
  const map = identityMap(WIDTH, rotation(WIDTH, 2));
  const live = await start(adaptation, [map]);
  const before = liveOf(live, "hra_u").slice();
  const { weight } = await compute(adaptation, map, live, new Float32Array(WIDTH));
  await learn(adaptation, [map], { steps: 1, lr: 1e-3, live });
  const moved = liveOf(live, "hra_u").filter((value, at) => value !== before[at]).length;
  return [
    vanishes("H − I at the paired start", gap(weight, identity(WIDTH)), 1e-6),
    {
      what: "share of numbers with a gradient there",
      measured: moved / before.length,
      expected: 1,
      tolerance: 0.01,
    },
  ];
}

/** One block reflection I − 2UUᵀ. */
async function strict(method: Method<HraConfig>): Promise<Check[]> {
  const adaptation = { method, config: configOf({ rank: RANK, gramSchmidt: true, init: "random" }) };
  const map = identityMap(WIDTH);
  const live = await start(adaptation, [map]);
  shake(live, 1);
  const { weight: h } = await compute(adaptation, map, live, new Float32Array(WIDTH));
  const trace = Array.from({ length: WIDTH }, (_, at) => Number(h[at * (WIDTH + 1)])).reduce((a, b) => a + b);
  return [
    vanishes("strict: H² − I", gap(times(h, h, [WIDTH, WIDTH, WIDTH]), identity(WIDTH)), 1e-5),
    { what: "strict: trace of H", measured: trace, expected: WIDTH - 2 * RANK, tolerance: 1e-4 },
  ];
}

const weightOf = async ({ model }: Repaired) => numbersOf(await merge(model), "fc1.weight");

async function learning(method: Method<HraConfig>): Promise<Check[]> {
  const task = await rotatedTask();
  const by = rotation(32, 5);
  const own = (rank: number) => ({ method, config: configOf({ rank }) }) as unknown as Adaptation;
  const found = new Map<number, Repaired>();
  for (const rank of [2, 4, 6, 8, 16]) found.set(rank, await task.repair(own(rank), by, { lr: 1e-2 }));
  const at = (rank: number) => Number(found.get(rank)?.accuracy);
  const plain = lora({ rank: 2, alpha: 2 }) as unknown as Adaptation;
  const two = await task.repair(plain, by, { lr: 1e-2 });
  const base = await numbersOf(task.base, "fc1.weight");
  const short = await task.repair(own(8), by, { lr: 1e-2, steps: 200 });
  const reference = { 2: 0.28, 4: 0.52, 6: 0.74, 8: 0.84, 16: 0.87 };
  return [
    ...Object.entries(reference).map(([rank, expected]) => ({
      ...{ what: `accuracy, rank ${rank}`, measured: at(Number(rank)), expected },
      tolerance: 0.15,
    })),
    isTrue(
      "accuracy rises with the rank up to 16",
      [4, 6, 8, 16].every((rank, k) => at(rank) > at([2, 4, 6, 8][k] as number)),
    ),
    atLeast("rank 6 above LoRA rank 2, 192 numbers each", at(6) - two.accuracy, 0.15),
    vanishes(
      "change of singular values by 200 steps",
      spectrumChange(64, 32, base, await weightOf(short)),
      1e-5,
    ),
    atLeast("the same by LoRA", spectrumChange(64, 32, base, await weightOf(two)), 0.01, 100),
  ];
}

/** ‖I − UᵀU‖ after 300 steps with the regulariser, and without. */
async function regularised(method: Method<HraConfig>): Promise<Check[]> {
  const task = await rotatedTask();
  const gapOf = async (regularizer: number) => {
    const adaptation = { method, config: configOf({ rank: 8, regularizer }) } as unknown as Adaptation;
    const { model } = await task.repair(adaptation, rotation(32, 5), { lr: 1e-2, steps: 300 });
    const v = model.adapters.get("default")?.sites.get("fc1")?.tensors.hra_u?.tensor.data as Float32Array;
    const lengths = Array.from({ length: 8 }, (_, k) => norm(v.filter((__, at) => at % 8 === k)));
    const u = v.map((value, at) => value / Number(lengths[at % 8]));
    return norm(plus(times(turned(32, 8, u), u, [8, 32, 8]), identity(8), -1));
  };
  return [
    vanishes("‖I − UᵀU‖ with weight 10", await gapOf(10), 0.1),
    atLeast("‖I − UᵀU‖ without", await gapOf(0), 0.5, 4),
  ];
}
