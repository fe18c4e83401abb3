import { constant, ops, scope, type Value } from "../src/graph/index.js";
import {
  type Adaptation,
  type Adapted,
  adapt,
  beft,
  beftMethod,
  bitfit,
  bitfitMethod,
  lnTuning,
  lnTuningMethod,
  type Method,
  merge,
  type SiteConfig,
  setScale,
} from "../src/methods/index.js";
import { runModel, type TensorModel } from "../src/models/index.js";
import { pseudoInverse, rng } from "../src/runtime/index.js";
import { tensor } from "../src/tensor/index.js";
import { type ExampleSource, regression } from "../src/training/index.js";
import { matrixOf, vanishes } from "./matrices.js";
import { numbersOf, tune } from "./network.js";
import { gap, norm, normals, outputsOf, plus, times } from "./planted.js";
import type { Check, Proof } from "./proof.js";

const [WIDTH, OUT, ROWS] = [8, 24, 64];
const BOTH = 2 * OUT;

/** A norm with scale and shift; behind it side by side a map with a bias, `v_proj`, and one without, `k_proj`. */
interface Numbers {
  readonly scale: Float32Array;
  readonly shift: Float32Array;
  /** Of both maps, `[2·out]`; that of `k_proj` is what the model has no tensor for. */
  readonly bias: Float32Array;
}

const drawn = (name: string, count: number) => normals(count, "vectors", name);
/** `[2·out, width]` */
const WEIGHT = drawn("weight", BOTH * WIDTH).map((value) => value / Math.sqrt(WIDTH));
const BASE: Numbers = {
  scale: drawn("scale", WIDTH).map((value) => 1 + value / 4),
  shift: drawn("shift", WIDTH).map((value) => value / 4),
  bias: drawn("bias", BOTH).map((value, at) => (at < OUT ? value / 2 : 0)),
};

/** Rows in pairs x and −x, so that what is normalised has mean zero in every feature. */
const INPUTS = (() => {
  const half = drawn("x", (ROWS / 2) * WIDTH);
  return Float32Array.from([...half, ...half.map((value) => -value)]);
})();

const TENSORS = {
  "norm.weight": { data: BASE.scale, shape: [WIDTH] },
  "norm.bias": { data: BASE.shift, shape: [WIDTH] },
  "v_proj.weight": { data: WEIGHT.slice(0, OUT * WIDTH), shape: [OUT, WIDTH] },
  "v_proj.bias": { data: BASE.bias.slice(0, OUT), shape: [OUT] },
  "k_proj.weight": { data: WEIGHT.slice(OUT * WIDTH), shape: [OUT, WIDTH] },
};

function baseModel(): TensorModel {
  const made = Object.entries(TENSORS).map(
    ([name, { data, shape }]) => [name, constant(tensor("float32", shape, data), name)] as const,
  );
  const weights = new Map<string, Value>(made);
  const get = (name: keyof typeof TENSORS) => weights.get(name) as Value;
  return {
    ...{ task: "custom", architecture: "vectors", weights, parameters: new Map(), config: {} },
    ...{ defaultTargets: ["v_proj", "k_proj"], tokenizer: undefined, origin: undefined },
    inputs: [{ name: "x", dtype: "float32", shape: ["batch", WIDTH] }],
    probeAxes: { batch: 2 },
    build({ values: { x } }) {
      const z = scope("norm", () => ops.layerNorm(x as Value, get("norm.weight"), get("norm.bias"), EPSILON));
      const map = (name: "v_proj" | "k_proj", bias?: Value) =>
        scope(name, () => ops.gemm(z, get(`${name}.weight`), bias, { transB: true }));
      const y = ops.concat([map("v_proj", get("v_proj.bias")), map("k_proj")], 1);
      return { values: { logits: y }, boundaries: [] };
    },
  };
}

const EPSILON = 1e-6;

/** The inputs, each row brought to mean zero and variance one. */
const NORMALISED = (() => {
  const out = new Float32Array(ROWS * WIDTH);
  for (let row = 0; row < ROWS; row++) {
    const own = INPUTS.subarray(row * WIDTH, (row + 1) * WIDTH);
    const mean = own.reduce((sum, value) => sum + value, 0) / WIDTH;
    const variance = own.reduce((sum, value) => sum + (value - mean) ** 2, 0) / WIDTH;
    out.set(
      own.map((value) => (value - mean) / Math.sqrt(variance + EPSILON)),
      row * WIDTH,
    );
  }
  return out;
})();

/** What the model with these numbers gives, in plain arithmetic, `[rows, 2·out]`. */
const outputs = ({ scale, shift, bias }: Numbers): Float32Array =>
  outputsOf(
    { path: "", out: BOTH, in: WIDTH, weight: WEIGHT, target: WEIGHT, bias },
    NORMALISED.map((value, at) => value * Number(scale[at % WIDTH]) + Number(shift[at % WIDTH])),
  );

const run = async (model: TensorModel): Promise<Float32Array> =>
  (await runModel(model, { x: tensor("float32", [ROWS, WIDTH], INPUTS) })).logits?.data as Float32Array;

const half = (at: 0 | 1) => (value: number, index: number) => (index < OUT === (at === 0) ? value : 0);
const change = (name: string, count: number) => drawn(`planted ${name}`, count).map((value) => value / 2);
const SHIFT = change("shift", WIDTH);
const BIAS = change("bias", BOTH);
/** What is planted, one at a time. */
const PLANTED: Readonly<Record<string, Partial<Numbers>>> = {
  "a scale of the norm": { scale: plus(BASE.scale, change("scale", WIDTH)) },
  "a shift of the norm": { shift: plus(BASE.shift, SHIFT) },
  "a shift of the map with a bias": { bias: plus(BASE.bias, BIAS.map(half(0))) },
  "a shift of the map without": { bias: plus(BASE.bias, BIAS.map(half(1))) },
};

/** Share of `vector` that lies outside the column space of `weight` `[n, width]`. */
function outside(weight: Float32Array, vector: Float32Array): number {
  const n = vector.length;
  const inverse = Float32Array.from(pseudoInverse(matrixOf(n, WIDTH, weight)).data);
  const inside = times(weight, times(inverse, vector, [WIDTH, n, 1]), [n, WIDTH, 1]);
  return norm(plus(vector, inside, -1)) / norm(vector);
}

/** What the norm's shift does behind the maps. */
const SHIFTED = times(WEIGHT, SHIFT, [BOTH, WIDTH, 1]);
/** Shares that have to be missed, in the order of `PLANTED`; what is normalised has mean zero, so that no shift stands for a scale. */
const MISSED = {
  bitfit: [1, 0, 0, outside(WEIGHT.slice(OUT * WIDTH), BIAS.slice(OUT))],
  beft: [1, norm(SHIFTED.slice(OUT)) / norm(SHIFTED), 0, 1],
  "beft of both maps": [1, 0, 0, 0],
  "ln-tuning": [0, 0, outside(WEIGHT, BIAS.map(half(0))), outside(WEIGHT, BIAS.map(half(1)))],
};

const trainedOf = (model: Adapted<TensorModel>) =>
  [...model.parameters.values()].filter(({ trainable }) => trainable);

/** The model's numbers with what an adapter has learnt in their place. */
function numbersIn(model: Adapted<TensorModel>): Numbers {
  const found = (path: string) => model.parameters.get(`default/${path}`)?.tensor.data as Float32Array;
  const added = (path: string) => found(`${path}.beft_bias`) ?? new Float32Array(OUT);
  const own = found("v_proj.bias") ?? BASE.bias.slice(0, OUT);
  return {
    scale: found("norm.weight") ?? BASE.scale,
    shift: found("norm.bias") ?? BASE.shift,
    bias: Float32Array.from([...plus(own, added("v_proj")), ...added("k_proj")]),
  };
}

/** Start, count, formula, strength and merging. */
async function identities<C extends SiteConfig>(
  label: string,
  adaptation: Adaptation<C>,
  count: number,
): Promise<Check[]> {
  const base = baseModel();
  const model = await adapt(base, adaptation);
  const before = await run(base);
  const start = gap(await run(model), before);
  const trained = trainedOf(model);
  for (const { name, tensor: own } of trained) {
    const data = own.data as Float32Array;
    data.set(plus(data, rng(3, name).fillNormal(new Float32Array(data.length), 0, 0.3)));
  }
  const after = await run(model);
  const merged = await merge(model);
  const untouched = gap(await numbersOf(merged, "v_proj.weight"), TENSORS["v_proj.weight"].data);
  const whole = await run(merged);
  setScale(model, "default", 0.5);
  const middle = plus(before, plus(after, before, -1), 0.5);
  return [
    vanishes(`${label}: change at the start`, start, 0),
    {
      what: `${label}: trained numbers`,
      measured: trained.reduce((sum, { tensor: { data } }) => sum + data.length, 0),
      expected: count,
      tolerance: 0,
    },
    vanishes(`${label}: outputs against the formula`, gap(after, outputs(numbersIn(model))), 1e-5),
    vanishes(`${label}: merged model against the adapted one`, gap(whole, after), 1e-5),
    vanishes(`${label}: change of a weight by merging`, untouched, 0),
    vanishes(`${label}: half the strength against half the change`, gap(await run(model), middle), 1e-5),
  ];
}

/** All rows at once: the means over them are exact. */
const source = (wanted: Float32Array): ExampleSource => ({
  size: ROWS,
  hash: "planted",
  at: (row) => ({
    inputs: { x: tensor("float32", [WIDTH], INPUTS.slice(row * WIDTH, (row + 1) * WIDTH)) },
    targets: { value: tensor("float32", [BOTH], wanted.slice(row * BOTH, (row + 1) * BOTH)) },
  }),
});

/** What training misses of each planted change, against what the method must. */
async function learning<C extends SiteConfig>(
  label: string,
  adaptation: Adaptation<C>,
  missed: readonly number[],
): Promise<Check[]> {
  const checks: Check[] = [];
  for (const [at, [what, planted]] of Object.entries(PLANTED).entries()) {
    const wanted = outputs({ ...BASE, ...planted });
    const model = await adapt(baseModel(), adaptation);
    await tune(model, source(wanted), { ...LEARNING, loss: regression({ shape: [BOTH] }) });
    checks.push({
      what: `${label}: what ${LEARNING.steps} steps miss of ${what}`,
      measured: norm(plus(await run(model), wanted, -1)) / norm(plus(outputs(BASE), wanted, -1)),
      expected: Number(missed[at]),
      tolerance: 0.001,
    });
  }
  return checks;
}

/** Where everything is found, nothing is left to change. */
const LEARNING = { steps: 300, lr: 0.05, batchSize: ROWS, guardZeroUpdates: false };

interface Case<C extends SiteConfig> {
  readonly label: keyof typeof MISSED;
  readonly config: C;
  readonly count: number;
}

/**
 * The proof of a method that trains vectors. Its errors are those of least squares: what a change of scales and shifts cannot
 * reach is missed to the digit, by every method alike.
 */
const vectors =
  <C extends SiteConfig>(
    standard: Method<C>,
    { title, papers, cases }: Pick<Proof, "title" | "papers"> & { readonly cases: readonly Case<C>[] },
  ) =>
  ({
    method = standard,
  }: {
    /** The implementation under test. */ readonly method?: Method<C>;
  } = {}): Proof => ({
    ...{ name: standard.name, title, papers },
    async run() {
      const checks: Check[] = [];
      for (const { label, config, count } of cases) {
        checks.push(...(await identities(label, { method, config }, count)));
        checks.push(...(await learning(label, { method, config }, MISSED[label])));
      }
      return checks;
    },
  });

/** BitFit trains the biases there are, that of the norm among them. */
export const bitfitProof = vectors(bitfitMethod, {
  title: "BitFit finds shifts wherever the model has a bias, and no scale",
  papers: ["2106.10199"],
  cases: [{ label: "bitfit", config: bitfit().config, count: WIDTH + OUT }],
});

/** BEFT adds biases, to maps that have none too. */
export const beftProof = vectors(beftMethod, {
  title: "BEFT finds shifts of the maps it is told, which need no bias of their own",
  papers: ["2509.15974"],
  cases: [
    { label: "beft", config: beft().config, count: OUT },
    { label: "beft of both maps", config: beft({ targets: ["v_proj", "k_proj"] }).config, count: BOTH },
  ],
});

/** LN tuning trains scales and shifts of norms. */
export const lnTuningProof = vectors(lnTuningMethod, {
  title: "LN tuning finds scales and shifts of norms, and of the maps behind what these reach",
  papers: ["2312.11420"],
  cases: [{ label: "ln-tuning", config: lnTuning().config, count: 2 * WIDTH }],
});
