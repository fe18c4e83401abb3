import { gradients } from "../src/autodiff/index.js";
import { constant, input, makeGraph, ops, type Value } from "../src/graph/index.js";
import {
  callMethod,
  dirichletDivergence,
  type Method,
  type MontecloraConfig,
  monteclora,
  montecloraMethod,
  type SiteCall,
  type SiteShape,
  type VeloraConfig,
  velora,
  veloraMethod,
} from "../src/methods/index.js";
import { inputsOf } from "../src/models/index.js";
import { createSession, evaluate, rng } from "../src/runtime/index.js";
import { type Tensor, tensor } from "../src/tensor/index.js";
import { vanishes } from "./matrices.js";
import { priorChecks } from "./monteclora-priors.js";
import { gap, normals, times } from "./planted.js";
import type { Check, Proof } from "./proof.js";
import { memoryCheck } from "./velora-memory.js";

const [TOKENS, IN, OUT, RANK, GROUPS] = [6, 10, 5, 2, 4];
/** 4 groups of 3 features; the last two are zeros. */
const WIDTH = 3;
const ALPHA = 3;
const SCALE = ALPHA / RANK;
const site: SiteShape = { path: "map", kind: "linear", inFeatures: IN, outFeatures: OUT, hasBias: false };

type Numbers = Readonly<Record<string, Float32Array>>;
const SHAPES = {
  x: [TOKENS, IN],
  w: [OUT, IN],
  lora_A: [RANK, IN],
  lora_B: [OUT, RANK],
  lora_velora_embed: [WIDTH],
  seen: [TOKENS, OUT],
} as const;

const drawn = (): Numbers => {
  const all = Object.entries(SHAPES).map(([key, shape]) => {
    const data = normals(
      shape.reduce((a, b) => a * b, 1),
      "velora",
      key,
    );
    // Inputs that are not centred have a mean group.
    return [key, key === "x" ? data.map((value) => value + 0.5) : data] as const;
  });
  const numbers = Object.fromEntries(all) as Record<keyof typeof SHAPES, Float32Array>;
  const length = Math.hypot(...numbers.lora_velora_embed);
  return { ...numbers, lora_velora_embed: numbers.lora_velora_embed.map((value) => value / length) };
};

/** Output and gradients of Σ y ⊙ seen by A, B and x. */
async function pass(method: Method<VeloraConfig>, config: VeloraConfig, numbers: Numbers, training: boolean) {
  const width = (numbers.lora_velora_embed as Float32Array).length;
  const shapes: Readonly<Record<string, readonly number[]>> = { ...SHAPES, lora_velora_embed: [width] };
  const value = Object.fromEntries(
    Object.entries(shapes).map(([key, shape]) => [key, input(key, "float32", shape)]),
  ) as Record<keyof typeof SHAPES, Value>;
  const { x, w, seen, ...tensors } = value;
  const y = callMethod(method, config, { site, tensors, x, weight: w, training });
  const wrt = [tensors.lora_A, tensors.lora_B, x];
  const slopes = gradients(ops.reduceSum(ops.mul(y, seen), undefined, false), wrt);
  const outputs: [string, Value][] = [
    ["y", y],
    ...["a", "b", "x"].map((key, at): [string, Value] => [`d${key}`, slopes[at] as Value]),
  ];
  const feeds = Object.fromEntries(
    Object.entries(shapes).map(([key, shape]) => [
      key,
      tensor("float32", shape, numbers[key] as Float32Array),
    ]),
  );
  const results = await evaluate(makeGraph("velora", Object.values(value), outputs), feeds);
  return (key: string) => results[key]?.data as Float32Array;
}

const transposed = (a: ArrayLike<number>, rows: number, columns: number): Float32Array =>
  Float32Array.from({ length: rows * columns }, (_, at) =>
    Number(a[(at % rows) * columns + Math.floor(at / rows)]),
  );

/** Every group of every row, replaced by its component along `v`. */
function projected(x: Float32Array, v: Float32Array): Float32Array {
  const feature = (row: number, at: number) => (at < IN ? Number(x[row * IN + at]) : 0);
  return x.map((_, place) => {
    const [row, at] = [Math.floor(place / IN), place % IN];
    const first = at - (at % WIDTH);
    const code = v.reduce((sum, value, k) => sum + value * feature(row, first + k), 0);
    return code * Number(v[at % WIDTH]);
  });
}

function meanGroup(x: Float32Array): Float32Array {
  const sums = new Float32Array(WIDTH);
  x.forEach((value, place) => {
    const k = (place % IN) % WIDTH;
    sums[k] = Number(sums[k]) + value;
  });
  const length = Math.hypot(...sums);
  return sums.map((value) => value / length);
}

/** VeLoRA: LoRA's forward pass; the gradient of A sees inputs through one number a group, all other gradients are exact. */
export const veloraProof = (method: Method<VeloraConfig> = veloraMethod): Proof => ({
  name: "velora",
  title: "VeLoRA's gradient of A is that of inputs projected on one direction a group; all else is LoRA's",
  papers: ["2405.17991"],
  async run() {
    const numbers = drawn();
    const {
      x,
      w,
      lora_A: a,
      lora_B: b,
      seen,
    } = numbers as Required<Record<keyof typeof SHAPES, Float32Array>>;
    const checks: Check[] = [];
    const h = times(x, transposed(a, RANK, IN), [TOKENS, IN, RANK]);
    const update = times(b, a, [OUT, RANK, IN]).map((value) => SCALE * value);
    const changed = w.map((value, at) => value + Number(update[at]));
    const y = times(x, transposed(changed, OUT, IN), [TOKENS, IN, OUT]);
    const back = times(seen, b, [TOKENS, OUT, RANK]).map((value) => SCALE * value);
    const byB = times(transposed(seen, TOKENS, OUT), h, [OUT, TOKENS, RANK]).map((value) => SCALE * value);
    const byX = times(seen, changed, [TOKENS, OUT, IN]);
    const byA = (inputs: Float32Array) => times(transposed(back, TOKENS, RANK), inputs, [RANK, TOKENS, IN]);
    for (const direction of ["random", "batch"] as const) {
      const { config } = velora({ rank: RANK, alpha: ALPHA, groups: GROUPS, direction });
      const v = direction === "batch" ? meanGroup(x) : (numbers.lora_velora_embed as Float32Array);
      const seenInputs = projected(x, v);
      const found = await pass(method, config, numbers, true);
      checks.push(
        vanishes(`${direction}: forward pass while training against LoRA's`, gap(found("y"), y), 1e-4),
        vanishes(
          `${direction}: gradient of A against that of projected inputs`,
          gap(found("da"), byA(seenInputs)),
          1e-3,
        ),
        vanishes(`${direction}: gradient of B against LoRA's`, gap(found("db"), byB), 1e-3),
        vanishes(`${direction}: gradient of the input against LoRA's`, gap(found("dx"), byX), 1e-3),
      );
      if (direction === "batch") continue;
      const outside = await pass(method, config, numbers, false);
      checks.push(
        vanishes("outside training, gradient of A against LoRA's", gap(outside("da"), byA(x)), 1e-3),
      );
    }
    // With groups of one feature nothing is lost.
    const { config: fine } = velora({ rank: RANK, alpha: ALPHA, groups: IN, direction: "random" });
    const whole = await pass(method, fine, { ...numbers, lora_velora_embed: Float32Array.of(1) }, true);
    checks.push(
      vanishes("groups of one feature: gradient of A against LoRA's", gap(whole("da"), byA(x)), 1e-3),
      await memoryCheck(method),
    );
    return checks;
  },
});

const [SAMPLED_RANK, SAMPLED_IN, DRAWS] = [4, 40, 400];
const square: SiteShape = { ...site, inFeatures: SAMPLED_IN, outFeatures: SAMPLED_RANK };

/** A as passes see it, `[draws][rank · in]`: the map's weight is 0, its input and B are the identity. */
async function samplesOf(
  method: Method<MontecloraConfig>,
  config: MontecloraConfig,
  training: boolean,
  concentration: number,
): Promise<{ readonly draws: readonly Float32Array[]; readonly a: Float32Array }> {
  const shapes = {
    ...{ x: [SAMPLED_IN, SAMPLED_IN], w: [SAMPLED_RANK, SAMPLED_IN], lora_A: [SAMPLED_RANK, SAMPLED_IN] },
    ...{
      lora_B: [SAMPLED_RANK, SAMPLED_RANK],
      std_prior: [SAMPLED_RANK],
      expert_weights_prior: [config.samples],
    },
  };
  const value = Object.fromEntries(
    Object.entries(shapes).map(([key, shape]) => [key, input(key, "float32", shape)]),
  ) as Record<keyof typeof shapes, Value>;
  const { x, w, ...tensors } = value;
  const drawnShapes = new Map<string, readonly number[]>();
  const noise: SiteCall["noise"] = (like, _kind, key = "") => {
    drawnShapes.set(`noise_${key}`, like.shape as number[]);
    return input(`noise_${key}`, "float32", like.shape as number[]);
  };
  const y = callMethod(method, config, { site: square, tensors, x, weight: w, training, noise });
  const graph = makeGraph("samples", inputsOf([y]), [["y", y]]);
  const eye = (n: number) => Float32Array.from({ length: n * n }, (_, at) => (at % (n + 1) === 0 ? 1 : 0));
  const a = normals(SAMPLED_RANK * SAMPLED_IN, "a");
  const fixed: Numbers = {
    ...{
      x: eye(SAMPLED_IN),
      w: new Float32Array(SAMPLED_RANK * SAMPLED_IN),
      lora_A: a,
      lora_B: eye(SAMPLED_RANK),
    },
    ...{ std_prior: new Float32Array(SAMPLED_RANK).fill(-0.5 * Math.log(SAMPLED_RANK)) },
    expert_weights_prior: new Float32Array(config.samples).fill(concentration),
  };
  const session = await createSession(graph, { threads: 1 });
  const draws: Float32Array[] = [];
  for (let draw = 0; draw < (training ? DRAWS : 1); draw++) {
    const random = rng(draw, "monteclora");
    const feeds: Record<string, Tensor> = {};
    for (const { name } of graph.inputs) {
      const key = String(name);
      const shape = drawnShapes.get(key);
      feeds[key] = shape
        ? tensor(
            "float32",
            shape,
            random.fillNormal(new Float32Array(shape.reduce((p, q) => p * q, 1)), 0, 1),
          )
        : tensor("float32", shapes[key as keyof typeof shapes], fixed[key] as Float32Array);
    }
    const found = (await session.run(feeds)).y?.data as Float32Array;
    draws.push(transposed(found, SAMPLED_IN, SAMPLED_RANK));
  }
  await session.release();
  return { draws, a };
}

/** Mean difference from A in standard errors, and the variance around it. */
function spreadOf({ draws, a }: Awaited<ReturnType<typeof samplesOf>>) {
  let [sum, squares] = [0, 0];
  for (const draw of draws)
    draw.forEach((value, at) => {
      const difference = value - Number(a[at]);
      sum += difference;
      squares += difference ** 2;
    });
  const count = draws.length * a.length;
  return { bias: Math.abs(sum / count) / Math.sqrt(squares / count / count), variance: squares / count };
}

/** MonteCLoRA: samples of A around A, that average out by their number; LoRA outside training. */
export const montecloraProof = (
  method: Method<MontecloraConfig> = montecloraMethod,
  divergence = dirichletDivergence,
): Proof => ({
  name: "monteclora",
  title:
    "MonteCLoRA trains with A averaged over samples whose noise shrinks with their number, and is LoRA afterwards",
  papers: ["2411.04358"],
  async run() {
    const of = (samples: number) =>
      monteclora({ rank: SAMPLED_RANK, alpha: SAMPLED_RANK, samples, noiseScale: 0.1 }).config;
    // Large concentrations make the samples' weights equal, so that the mean of n has an n-th of the variance.
    const EVEN = 12;
    const [few, many] = [
      spreadOf(await samplesOf(method, of(4), true, EVEN)),
      spreadOf(await samplesOf(method, of(16), true, EVEN)),
    ];
    const still = await samplesOf(method, of(4), false, EVEN);
    const kl = async (alpha: readonly number[], prior: number) => {
      const value = divergence(constant(tensor("float32", [alpha.length], Float32Array.from(alpha))), prior);
      return Number((await evaluate(makeGraph("kl", [], [["kl", value]]), {})).kl?.data[0]);
    };
    return [
      vanishes("outside training, A of the pass against A", gap(still.draws[0] as Float32Array, still.a), 0),
      vanishes("4 samples: mean of what passes see against A, in standard errors", few.bias, 4),
      vanishes("16 samples: the same", many.bias, 4),
      // Wishart's diagonal has the mean r·exp(2·std) = 1, cut below at a thousandth.
      {
        what: "4 samples: variance of A",
        measured: few.variance,
        expected: 0.01 / 4,
        tolerance: 0.1,
        relative: true,
      },
      {
        what: "variance of 4 samples over that of 16",
        measured: few.variance / many.variance,
        expected: 4,
        tolerance: 0.1,
        relative: true,
      },
      vanishes("divergence of the prior from itself", await kl([0.7, 0.7, 0.7], 0.7), 1e-5),
      // Of Beta(2, 1) from the uniform Beta(1, 1): the mean of ln 2x under density 2x, ln 2 − ½.
      {
        what: "divergence of Beta(2, 1) from the uniform",
        measured: await kl([2, 1], 1),
        expected: Math.log(2) - 0.5,
        tolerance: 1e-5,
      },
      ...(await priorChecks(method)),
    ];
  },
});
