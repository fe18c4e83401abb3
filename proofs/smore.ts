import {
  type Adaptation,
  lora,
  type Method,
  type SmoreConfig,
  smore,
  smoreMethod,
} from "../src/methods/index.js";
import { liveOf, vanishes } from "./matrices.js";
import {
  compute,
  disturb,
  gap,
  norm,
  normals,
  type PlantedMap,
  type PlantedSites,
  plus,
  shapeOf,
  start,
  times,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";
import { balance, type SmoreOptions as Options, type Own } from "./smore-balance.js";
import { type LearningOptions, learning } from "./smore-learning.js";
import { chosenTree, grown, type Numbers, update } from "./smore-tree.js";

export interface SmoreProofOptions {
  /** The implementation under test. */
  readonly method?: Method<SmoreConfig>;
  /** Of the learning check; false leaves it out. */
  readonly learning?: LearningOptions | false;
}

const [OUT, IN, ROWS] = [16, 6, 7];
const small = { experts: [4, 4], active: [2, 2], ranks: [2, 2], gateDim: 2, downDim: 2 } as const;
const asOptions = (options: unknown) => options as Options;

/** That its graph is the tree of experts the paper describes, and that it learns what a flat mixture of its size does not. */
export function smoreProof(options: SmoreProofOptions = {}): Proof {
  const { method = smoreMethod, learning: learned = {} } = options;
  return {
    name: "smore",
    title:
      "S'MoRE's trees of experts are what every path by itself gives, and learn more than a flat mixture",
    papers: ["2504.06426"],
    async run() {
      const own = (given: Options): Adaptation<SmoreConfig> => ({ method, config: smore(given).config });
      return [
        ...(await identities(own)),
        ...(await oneLayer(own)),
        ...(await shapes(own)),
        ...(await balance(own)),
        ...(learned ? await learning(method, learned) : []),
      ];
    },
  };
}

const mapOf = (weight: Float32Array): PlantedMap => ({
  path: "map",
  out: OUT,
  in: IN,
  weight,
  target: weight,
});
const frozen = mapOf(normals(OUT * IN, "smore", "w"));
const nothing = mapOf(new Float32Array(OUT * IN));
const points = normals(ROWS * IN, "smore", "x");

const rowsOf = (x: Float32Array, width = IN): number[][] =>
  Array.from({ length: x.length / width }, (_, row) => [...x.subarray(row * width, (row + 1) * width)]);

export const numbersOf =
  ({ sites }: PlantedSites): Numbers =>
  (name) =>
    (sites[0]?.tensors[`smore_${name}`]?.tensor.data as Float32Array | undefined) ?? new Float32Array(0);

/** Tensors after some training, as it were. */
async function moved(adaptation: Adaptation<SmoreConfig>, map: PlantedMap): Promise<PlantedSites> {
  const live = await start(adaptation, [map]);
  disturb(live, 0.4);
  return live;
}

/** Largest difference of what the adapter adds from the same by every path alone, in parts of the largest number. */
async function treeGap(own: Own, options: Options): Promise<number> {
  const adaptation = own(options);
  const live = await moved(adaptation, nothing);
  const { config } = adaptation;
  const numbers = numbersOf(live);
  const wanted = rowsOf(points).flatMap((x) => update(config, numbers, x, chosenTree(config, numbers, x)));
  const { forward } = await compute(adaptation, nothing, live, points);
  return gap(forward, wanted) / Math.max(...wanted.map(Math.abs));
}

const every = <T>(values: readonly T[], visit: (value: T) => Promise<number>): Promise<number> =>
  values.reduce(async (most, value) => Math.max(await most, await visit(value)), Promise.resolve(0));

const GATES = ["switch", "dense", "noisy"] as const;
const POSITIONS = ["all", "child", "child_v2"] as const;

function variants(): Options[] {
  const three = { experts: [3, 2, 3], ranks: [1, 2, 2], gateDim: 3, downDim: 4 };
  return [
    ...GATES.flatMap((gate) => [
      { ...small, gate, ...(gate === "dense" ? { active: undefined } : {}) },
      { ...three, gate, ...(gate === "dense" ? {} : { active: [1, 2, 3] }) },
    ]),
    ...POSITIONS.map((activationAt) => ({ ...small, activationAt, activation: "prelu" as const })),
    ...(["relu", "identity"] as const).map((activation) => ({ ...small, activation })),
    { ...small, sharedPool: true, alphas: [3, 1], activationAt: "child" as const },
    { ...small, active: [1, 1] },
    { ...small, active: [1, 1], gate: "noisy" as const },
  ].map(asOptions);
}

async function identities(own: Own): Promise<Check[]> {
  const starts = [
    ...GATES.map((gate) => ({ ...small, gate, active: undefined })),
    { ...small, init: "eq_1_layer" },
    { ...small, sharedPool: true, init: "eq_1_layer" },
  ].map(asOptions);
  const fresh = await every(starts, async (options) => {
    const live = await start(own(options), [frozen]);
    const { forward, merged } = await compute(own(options), frozen, live, points);
    return gap(forward, merged);
  });
  return [
    vanishes("change at the start", fresh, 0),
    vanishes(
      "outputs against every path by itself, all gates, activations and pools, relative",
      await every(variants(), (options) => treeGap(own, options)),
      1e-6,
    ),
    vanishes("change by another order of the experts and their keys, relative", await reordered(own), 1e-6),
  ];
}

const ORDER = [2, 0, 3, 1];

async function reordered(own: Own): Promise<number> {
  const adaptation = own(asOptions(small));
  const live = await moved(adaptation, nothing);
  const before = (await compute(adaptation, nothing, live, points)).forward.slice();
  for (const part of ["A", "A_bias", "B", "B_bias", "gate_keys"])
    for (const layer of [0, 1]) {
      const data = liveOf(live, `smore_${part}_${layer}`);
      const old = data.slice();
      const size = data.length / 4;
      for (const [to, from] of ORDER.entries())
        data.set(old.subarray(from * size, (from + 1) * size), to * size);
    }
  const { forward } = await compute(adaptation, nothing, live, points);
  return gap(forward, before) / Math.max(...before.map(Math.abs));
}

/** Gates that choose 3 and 1 at the root, and below them {3, 2} and {0, 1}, or the other way round; all scores 1/2. */
function steer(live: PlantedSites, swapped = false): void {
  const put = (name: string, data: readonly number[]) => liveOf(live, `smore_gate_${name}`).set(data);
  put("in_1", [0, 0, 0, 0]);
  put("in_bias_1", [0, 0]);
  put("out_bias_1", [20, 0]);
  put("keys_1", [0, 0, 1, 0, 0, 0, 1, 1]);
  const [three, one] = [
    [0, 0, 0, 1],
    [0, 0, 0, -1],
  ] as const;
  put("in_0", swapped ? [...one, ...three] : [...three, ...one]);
  put("in_bias_0", swapped ? [1, 0] : [0, 1]);
  put("out_0", [20, 0, 0, 20]);
  put("out_bias_0", [0, 0]);
  put("keys_0", [0, 1, 0, 1, 1, 0, 1, 0]);
}

/** Rows of A of one expert times x. */
const code = (a: ArrayLike<number>, expert: number, x: readonly number[]): number[] =>
  [0, 1].map((row) => x.reduce((sum, value, at) => sum + Number(a[(expert * 2 + row) * IN + at]) * value, 0));

/** The root's vector itself as the output. */
async function roots(
  own: Own,
  options: Options,
  change: (live: PlantedSites) => void,
): Promise<Float32Array> {
  const adaptation = own(options);
  const width = options?.sharedPool ? 8 : 16;
  const map = {
    ...nothing,
    out: width,
    weight: new Float32Array(width * IN),
    target: new Float32Array(width * IN),
  };
  const live = await start(adaptation, [map]);
  const proj = liveOf(live, "smore_proj");
  for (let at = 0; at < width; at++) proj[at * width + at] = 1;
  change(live);
  return (await compute(adaptation, map, live, points)).forward;
}

async function oneLayer(own: Own): Promise<Check[]> {
  const linear = { ...small, init: "eq_1_layer", activation: "identity" };
  const blocks = async (sharedPool: boolean) => {
    let numbers: Numbers = () => [];
    const found = await roots(own, asOptions({ ...linear, sharedPool }), (live) => {
      steer(live);
      numbers = numbersOf(live);
    });
    const [leaves, top] = [numbers("A_0"), numbers(sharedPool ? "A_0" : "A_1")];
    const wanted = rowsOf(points).flatMap((x) => {
      const upper = [0, 1, 2, 3].flatMap((i) => code(top, i, x).map((v) => (i % 2 === 1 ? v / 2 : 0)));
      const lower = [0, 1, 2, 3].flatMap((i) => code(leaves, i, x).map((v) => v / 4));
      return sharedPool ? upper.map((value, at) => value + Number(lower[at])) : [...upper, ...lower];
    });
    return gap(found, wanted);
  };
  const pair = async (activation: "identity" | "tanh") => {
    const [one, other] = await Promise.all(
      [false, true].map((swapped) =>
        roots(own, asOptions({ ...small, activation }), (live) => {
          disturb(live, 0.3);
          steer(live, swapped);
        }),
      ),
    );
    return gap(one as Float32Array, other as Float32Array) / norm(one as Float32Array);
  };
  return [
    vanishes(
      "started as one layer: blocks of the root against the experts of the tree",
      await blocks(false),
      1e-5,
    ),
    vanishes("with one pool, where experts count twice", await blocks(true), 1e-5),
    vanishes("linear: change by the same experts in another tree, relative", await pair("identity"), 1e-6),
    between("tanh: the same", await pair("tanh"), 1e-3, 10),
    vanishes("dense, one sub-layer: against a mixture of LoRAs", await mixtureGap(own), 1e-5),
    vanishes("one expert: against LoRA", await loraGap(own), 1e-5),
  ];
}

/** Σ pᵢ · (W·Bᵢ)·(Aᵢ·x). */
async function mixtureGap(own: Own): Promise<number> {
  const adaptation = own({
    experts: [3],
    ranks: [2],
    gate: "dense",
    activation: "identity",
    gateDim: 3,
    downDim: 2,
  });
  const live = await moved(adaptation, nothing);
  for (const part of ["A_bias_0", "B_bias_0", "proj_bias"]) liveOf(live, `smore_${part}`).fill(0);
  const numbers = numbersOf(live);
  const [a, b, proj] = [numbers("A_0"), numbers("B_0"), numbers("proj")];
  const wanted = rowsOf(points).flatMap((x) => {
    const sum = new Float32Array(OUT);
    for (const { expert, score } of chosenTree(adaptation.config, numbers, x)) {
      const own = Array.from(b).slice(expert * 12, (expert + 1) * 12);
      const wide = times(proj, own, [OUT, 6, 2]);
      sum.set(plus(sum, times(wide, code(a, expert, x), [OUT, 2, 1]), score));
    }
    return [...sum];
  });
  return gap((await compute(adaptation, nothing, live, points)).forward, wanted);
}

async function loraGap(own: Own): Promise<number> {
  const adaptation = own({ experts: [1], ranks: [2], activation: "identity", gateDim: 3, downDim: 2 });
  const live = await moved(adaptation, frozen);
  for (const part of ["A_bias_0", "B_bias_0", "proj_bias"]) liveOf(live, `smore_${part}`).fill(0);
  const plain = lora({ rank: 2, alpha: 2 });
  const other = await start(plain, [frozen]);
  const numbers = numbersOf(live);
  liveOf(other, "lora_A").set(numbers("A_0"));
  liveOf(other, "lora_B").set(times(numbers("proj"), numbers("B_0"), [OUT, 2, 2]));
  const one = await compute(adaptation, frozen, live, points);
  return gap(one.forward, (await compute(plain, frozen, other, points)).forward);
}

/** Trained numbers, and vectors of a shape that the formula gives. */
async function shapes(own: Own): Promise<Check[]> {
  const count = async (options: Options) => {
    const { method, config } = own(options);
    const specs = Object.values(method.tensors(shapeOf(frozen), config));
    return specs.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  };
  const gates = 2 * 7 + (2 * 3 + 2 * 3 + 8) + (2 * 5 + 2 * 3 + 8);
  const experts = 4 * (2 * 6 + 8 * 2 + 2 + 8) + 4 * (2 * 6 + 16 * 2 + 2 + 16);
  const live = await moved(own(asOptions(small)), nothing);
  const { config } = own(asOptions(small));
  const numbers = numbersOf(live);
  const root = grown(config, numbers, rowsOf(points)[0] as number[], []);
  return [
    {
      what: "trained numbers of a map",
      measured: await count(asOptions(small)),
      expected: experts + 16 * 9 + OUT * 17 + gates,
      tolerance: 0,
    },
    { what: "width of the root's vector", measured: root.length, expected: 16, tolerance: 0 },
  ];
}
