import {
  adapt,
  freeze,
  type Method,
  type MpoConfig,
  type MpoModel,
  mpo,
  mpoContract,
  mpoCounts,
  mpoDecompose,
  mpoMerge,
  mpoMethod,
  mpoModel,
  mpoShape,
  unfreeze,
} from "../src/methods/index.js";
import type { CausalLm } from "../src/models/index.js";
import { kronecker, type Matrix64, rng } from "../src/runtime/index.js";
import { liveOf, vanishes } from "./matrices.js";
import { sharedCapacity } from "./mpo-capacity.js";
import { compute, gap, norm, normals, plus, start } from "./planted.js";
import type { Check, Proof } from "./proof.js";
import { between } from "./proof.js";
import { freshLm, heldOut, type Language, language, learn, VOCABULARY } from "./tiny-lm.js";

export interface MpoProofOptions {
  /** The implementation under test. */
  readonly decompose?: typeof mpoDecompose;
  readonly make?: typeof mpoModel;
  readonly method?: Method<MpoConfig>;
  /** Updates of the learning checks, where 600 is the whole; 0 leaves them out. Default 600. */
  readonly steps?: number;
}

const CHAIN = { cores: 3 } as const;

/**
 * What MPOBERT must do. Chains are exact, their sizes those of the formula, truncation loses what was discarded, and a
 * Kronecker product is a chain of bonds 1, which a wrong order of axes does not make it. Central tensors are shared, the
 * others are not. A deepened model starts near its source and trains where random chains do not; outer tensors alone
 * reach most of what full fine-tuning does.
 *
 * Where the thresholds of the experiment as it was planned do not hold, the check says so, and measures:
 * - planned: within 10 % of the source's loss at the start. Holds for copies that write 0.1 of what they copy; the default of
 *   1/√(2·8) = 0.25 starts 38 % above;
 * - with one central tensor for a source whose two layers differ, the start is nearly a fresh model, and training makes up for it;
 * - planned: a loss 2 % below that of equal layers of as many numbers; see mpo-capacity.ts.
 */
export function mpoProof(options: MpoProofOptions = {}): Proof {
  const { decompose = mpoDecompose, make = mpoModel, method = mpoMethod, steps = 600 } = options;
  return {
    name: "mpo",
    title: "chains of tensors are exact, shared in the middle, and carry a shallow model into a deep one",
    papers: ["2303.16753"],
    async run() {
      const checks = [...algebra(decompose, steps > 0), ...(await moved(method)), ...(await sharing(make))];
      if (steps === 0) return checks;
      const source = await learnt(steps);
      const light = await lightTuning(source, method, steps);
      return [
        ...checks,
        ...(await deepening(source, make, steps)),
        ...light,
        ...(await sharedCapacity(make, steps)),
      ];
    },
  };
}

const random = (rows: number, cols: number, part = 0): Matrix64 => ({
  rows,
  cols,
  data: rng(1, "mpo", rows, cols, part).fillNormal(new Float64Array(rows * cols)),
});

const distance = (a: Float64Array, b: ArrayLike<number>): number =>
  Math.sqrt(a.reduce((sum, value, at) => sum + (value - Number(b[at])) ** 2, 0));

function algebra(decompose: typeof mpoDecompose, whole: boolean): Check[] {
  const weight = whole ? random(3072, 768) : random(96, 48);
  const chain = decompose(weight);
  const worst = mpoContract(chain).data.reduce(
    (most, value, at) => Math.max(most, Math.abs(value - Number(weight.data[at]))),
    0,
  );
  const small = random(64, 64);
  const cut = decompose(small, { ...CHAIN, truncate: 9 });
  const lost = distance(mpoContract(cut).data, small.data) ** 2;
  const product = [0, 1, 2, 3, 4].map((at) => random(2, 3, at)).reduce((a, b) => kronecker(a, b));
  const factors = { 32: [2, 2, 2, 2, 2], 243: [3, 3, 3, 3, 3] };
  const thin = decompose(product, { factors, truncate: 1 });
  const size = Math.sqrt(product.data.reduce((sum, value) => sum + value * value, 0));
  return [
    {
      what: `largest error of the chain of ${weight.rows} × ${weight.cols}`,
      measured: worst,
      expected: 0,
      tolerance: 1e-10,
    },
    {
      what: "outer numbers of 3072 × 768",
      measured: mpoCounts(mpoShape(3072, 768)).auxiliary,
      expected: 148880,
      tolerance: 0,
    },
    {
      what: "outer numbers of 768 × 768",
      measured: mpoCounts(mpoShape(768, 768)).auxiliary,
      expected: 256 + 65536 + 20736 + 81,
      tolerance: 0,
    },
    {
      what: "squared error of bonds of 9",
      measured: lost,
      expected: cut.discarded,
      tolerance: 1e-9,
      relative: true,
    },
    {
      what: "error of a Kronecker product with bonds of 1, relative",
      measured: distance(mpoContract(thin).data, product.data) / size,
      expected: 0,
      tolerance: 1e-10,
    },
  ];
}

/** W' with outer tensors moved, against the chain of them around LᵀWRᵀ. */
async function moved(method: Method<MpoConfig>): Promise<Check[]> {
  const [out, inn] = [24, 32];
  const map = {
    path: "map",
    out,
    in: inn,
    weight: normals(out * inn, "mpo"),
    target: new Float32Array(out * inn),
  };
  const adaptation = { method, config: mpo({ ...CHAIN, train: "all" }).config };
  const live = await start(adaptation, [map]);
  const still = await compute(adaptation, map, live, normals(5 * inn, "x"));
  const { shape, cores } = mpoDecompose({ rows: out, cols: inn, data: map.weight }, CHAIN);
  const change = cores.map((core, at) => normals(core.length, "move", at));
  ["mpo_T1", "mpo_central", "mpo_T3"].forEach((name, at) => {
    const data = liveOf(live, name);
    data.set(plus(data, change[at] as Float32Array));
  });
  const now = await compute(adaptation, map, live, normals(5 * inn, "x"));
  const expected = mpoContract({
    shape,
    cores: cores.map((core, at) => core.map((value, place) => value + Number(change[at]?.[place]))),
  });
  return [
    vanishes("change at the start", gap(still.weight, map.weight), 0),
    vanishes(
      "W' against the chain with its tensors moved",
      gap(now.weight, expected.data) / norm(expected.data),
      1e-6,
    ),
  ];
}

/** What is whose, in a model of twelve layers of 64 × 64. */
async function sharing(make: typeof mpoModel): Promise<Check[]> {
  const layers = 12;
  const model = await make(freshLm(layers, 64), { ...CHAIN, targets: ["q_proj"], rounds: 1, rest: false });
  const numbers = [...model.parameters.values()].reduce((sum, each) => sum + each.tensor.data.length, 0);
  const moves = async (suffix: RegExp) => {
    const parameter = [...model.parameters.values()].find(({ name }) => suffix.test(name));
    if (!parameter) return 0;
    const before = await mpoMerge(model);
    const data = parameter.tensor.data as Float32Array;
    const kept = data.slice();
    data[7] = Number(data[7]) + 1;
    const after = await mpoMerge(model);
    data.set(kept);
    return changedLayers(before, after);
  };
  return [
    { what: "numbers of 12 shared maps", measured: numbers, expected: 4096 + layers * 512, tolerance: 0 },
    {
      what: "layers that the central tensor moves",
      measured: await moves(/central$/),
      expected: layers,
      tolerance: 0,
    },
    {
      what: "layers that an outer tensor moves",
      measured: await moves(/\.5\..*T1$/),
      expected: 1,
      tolerance: 0,
    },
  ];
}

function changedLayers(before: CausalLm, after: CausalLm): number {
  const numbers = (model: CausalLm, name: string) => {
    const source = model.weights.get(name)?.source;
    return source?.kind === "constant" && "data" in source.data
      ? (source.data.data as Float32Array)
      : undefined;
  };
  return [...before.weights.keys()].filter((name) => {
    const [a, b] = [numbers(before, name), numbers(after, name)];
    return name.endsWith("q_proj.weight") && a?.some((value, at) => value !== b?.[at]);
  }).length;
}

interface Source {
  readonly model: CausalLm;
  readonly data: Language;
  readonly loss: number;
}

const SEED = 1;

/** Two layers that know the language. */
async function learnt(steps: number): Promise<Source> {
  const data = language({ seed: SEED });
  const fresh = await unfreeze(freshLm(2, 64));
  await learn(fresh, data, { steps, lr: 3e-3 });
  const model = freeze(fresh);
  return { model, data, loss: await heldOut(model, data) };
}

async function deepening(
  { model, data, loss }: Source,
  make: typeof mpoModel,
  steps: number,
): Promise<Check[]> {
  const depth = 8;
  const deep = (groups: number, copyScale?: number, rounds = 10) =>
    make(model, { ...CHAIN, depth, groups, copyScale, rounds });
  const kept = await deep(2, 0.1);
  const one = await deep(1, 0.1);
  const start = [await heldOut(kept, data), await heldOut(one, data), await heldOut(await deep(2), data)];
  const budget = { steps: Math.round(steps / 4), lr: 3e-3 };
  const losses = await learn(kept, data, budget);
  await learn(one, data, budget);
  const drawn = randomSides(await deep(1, 1, 0));
  await learn(drawn, data, budget);
  const [end, shared, lost] = [
    await heldOut(kept, data),
    await heldOut(one, data),
    await heldOut(drawn, data),
  ];
  return [
    between("loss of 8 layers made of 2, over that of the 2", Number(start[0]) / loss, 0.9, 1.1),
    between(
      "the same with the default scale of copies (planned: within 10 %, which does not hold)",
      Number(start[2]) / loss,
      1.1,
      1.6,
    ),
    between(`with 0.1, after ${budget.steps} updates: it stays there`, end / loss, 0.5, 1.1),
    between(
      "largest loss of a batch on the way, over that of knowing nothing",
      Math.max(...losses) / Math.log(VOCABULARY),
      0,
      0.9,
    ),
    between(
      "start with one central tensor for layers that differ (measured: not near)",
      Number(start[1]) / loss,
      1.1,
      4,
    ),
    between("random outer tensors, not scaled: loss above it after as many updates", lost - shared, 0.1, 20),
  ];
}

/** Outer tensors drawn anew, as long as the orthonormal ones are. */
function randomSides(model: MpoModel<CausalLm>): MpoModel<CausalLm> {
  for (const { name, tensor } of model.parameters.values()) {
    if (!/\.T\d+$/.test(name)) continue;
    rng(3, name).fillNormal(tensor.data as Float32Array, 0, 1 / Math.sqrt(Math.sqrt(tensor.data.length)));
  }
  return model;
}

async function lightTuning({ model }: Source, method: Method<MpoConfig>, steps: number): Promise<Check[]> {
  const other = language({ seed: SEED, shifted: 0.3 });
  const before = await heldOut(model, other);
  const full = await unfreeze(model);
  await learn(full, other, { steps, lr: 5e-3 });
  const light = await adapt(model, { method, config: mpo({ ...CHAIN, targets: "all-linear" }).config });
  await learn(light, other, { steps, lr: 3e-2 });
  const gain = before - (await heldOut(full, other));
  const count = [...light.parameters.values()].reduce(
    (sum, { trainable, tensor }) => sum + (trainable ? tensor.data.length : 0),
    0,
  );
  return [
    { what: "numbers that light fine-tuning trains", measured: count, expected: 14 * 512, tolerance: 0 },
    between(
      "its share of what full fine-tuning gains on a shifted task (at least 0.9)",
      (before - (await heldOut(light, other))) / gain,
      0.9,
      1.2,
    ),
  ];
}
