import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import type { Parameter, TrainingHooks } from "../../models/index.js";
import { identity, qr, svd, transpose } from "../../runtime/linalg/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type {
  Adaptation,
  HookContext,
  InitContext,
  Method,
  SiteShape,
  TensorSpec,
  TensorValues,
} from "../method.js";
import { type StiefelState, stiefelState, stiefelStep } from "./stiefel.js";

const schema = siteConfigSchema.extend({
  variant: z
    .enum(["svd", "lq"])
    .default("svd")
    .describe("what is trained: singular values, or the diagonal of the LQ decomposition"),
  kron: z
    .array(z.number().int().positive())
    .length(3)
    .optional()
    .describe("sizes of the three rotations, whose product is the inputs; default: the most even ones"),
  rotationRate: z
    .number()
    .positive()
    .default(1)
    .describe("learning rate of the rotations, as a multiple of the optimiser's"),
  retraction: z.enum(["polar", "cayley"]).default("polar").describe("how rotations stay orthogonal"),
  start: z.number().default(0).describe("start of the change of the spectrum; the authors' code has 0.001"),
});

/** Configuration of SODA, after defaults. */
export type SodaConfig = z.infer<typeof schema>;

const FACTORS = ["soda_Q1", "soda_Q2", "soda_Q3"] as const;

/** The three factors of `n` with the smallest sum of squares, ascending. */
export function evenFactors(n: number): [number, number, number] {
  let best: [number, number, number] = [1, 1, n];
  const cost = (sizes: readonly number[]) => sizes.reduce((sum, size) => sum + size * size, 0);
  for (let a = 1; a ** 3 <= n; a++) {
    if (n % a !== 0) continue;
    for (let b = a; a * b * b <= n; b++) {
      const sizes: [number, number, number] = [a, b, n / a / b];
      if ((n / a) % b === 0 && cost(sizes) < cost(best)) best = sizes;
    }
  }
  return best;
}

function sizesOf({ path, inFeatures }: SiteShape, { kron }: SodaConfig): readonly number[] {
  const sizes = kron ?? evenFactors(inFeatures);
  if (sizes.reduce((a, b) => a * b, 1) === inFeatures) return sizes;
  throw new TunesmithError(
    "config-invalid",
    `soda: ${path} has ${inFeatures} inputs, not ${sizes.join(" · ")}`,
    { fix: "give sizes whose product is the inputs of every target, or leave kron out" },
  );
}

const rankOf = ({ inFeatures, outFeatures }: SiteShape): number => Math.min(inFeatures, outFeatures);

/** Left vectors, spectrum and basis of W, as far as the variant has them. */
async function decompose({ weight, site }: InitContext, { variant }: SodaConfig) {
  const matrix = { rows: site.outFeatures, cols: site.inFeatures, data: await weight() };
  if (variant === "svd") {
    const { u, s, vt } = svd(matrix);
    return { u: u.data, s, basis: vt.data };
  }
  // W = L·Q₀ from Wᵀ = Q₀ᵀ·Lᵀ.
  const basis = transpose(qr(transpose(matrix)).q).data;
  return { u: new Float64Array(), s: new Float64Array(), basis };
}

function tensors(site: SiteShape, config: SodaConfig): Record<string, TensorSpec> {
  const rank = rankOf(site);
  const parts = (context: InitContext) => context.once("spectrum", () => decompose(context, config));
  // The weight gives these back.
  const frozen = (shape: readonly number[], name: "u" | "s" | "basis"): TensorSpec => ({
    shape,
    trainable: false,
    stored: false,
    init: async (context) => Float32Array.from((await parts(context))[name]),
  });
  const specs: Record<string, TensorSpec> = {
    soda_delta: { shape: [rank], trainable: true, init: () => new Float32Array(rank).fill(config.start) },
    soda_basis: frozen([rank, site.inFeatures], "basis"),
  };
  if (config.variant === "svd") {
    specs.soda_U = frozen([site.outFeatures, rank], "u");
    specs.soda_S = frozen([rank], "s");
  }
  sizesOf(site, config).forEach((size, at) => {
    const init = () => Float32Array.from(identity(size).data);
    specs[FACTORS[at] as string] = { shape: [size, size], trainable: true, init };
  });
  return specs;
}

const rotationsOf = (values: TensorValues): Value[] => FACTORS.map((name) => values[name] as Value);

/** Factors whose product is no wider than this are multiplied first: one product takes less time than two that are so small. */
const JOINED = 64;

function kronecker(a: Value, b: Value): Value {
  const [n, m] = [a.shape[0] as number, b.shape[0] as number];
  const blocks = ops.mul(ops.reshape(a, [n, 1, n, 1]), ops.reshape(b, [1, m, 1, m]));
  return ops.reshape(blocks, [n * m, n * m]);
}

function joined(factors: readonly Value[]): Value[] {
  const list: Value[] = [];
  for (const factor of factors.toReversed()) {
    const [next] = list;
    const fits = next && (factor.shape[0] as number) * (next.shape[0] as number) <= JOINED;
    if (fits) list[0] = kronecker(factor, next);
    else list.unshift(factor);
  }
  return list;
}

/** Rows `[..., n₁n₂n₃]` times Q₁ ⊗ Q₂ ⊗ Q₃, an axis or two at a time; the whole matrix is not formed unless it is small. */
export function timesKronecker(rows: Value, factors: readonly Value[]): Value {
  let turned = rows;
  let after = rows.shape.at(-1) as number;
  for (const factor of joined(factors)) {
    const size = factor.shape[0] as number;
    after /= size;
    turned =
      after === 1
        ? ops.matmul(ops.reshape(turned, [-1, size], [turned]), factor)
        : ops.matmul(ops.transposeLast(factor), ops.reshape(turned, [-1, size, after], [turned]));
  }
  return ops.reshape(turned, rows.shape, [rows]);
}

/** What is added to the spectrum `[r]`; singular values stop at zero. */
function spectrumChange({ soda_delta: delta, soda_S: s }: TensorValues): Value {
  return s ? ops.sub(ops.relu(ops.add(s, delta as Value)), s) : (delta as Value);
}

/**
 * Spectral orthogonal decomposition adaptation (arXiv 2405.21050): W' = (W + U·diag(relu(S + δ) − S)·Vᵀ)·Qᵀ with Q a
 * Kronecker product of three orthogonal matrices, trained on their manifold. Written as a change of W, it is the base
 * exactly at the start, and acts on what other adapters made of W.
 */
export const sodaMethod = {
  name: "soda",
  summary: "singular values shifted and their basis rotated by a Kronecker product of small rotations",
  paper: "2405.21050",
  schema,
  kinds: ["linear", "conv"],
  tensors,
  weight(weight, values) {
    const basis = values.soda_basis as Value;
    const rows = ops.mul(basis, ops.unsqueeze(spectrumChange(values), 1));
    const added = values.soda_U
      ? ops.matmul(values.soda_U, rows)
      : padded(rows, weight.shape[0] as number, 0);
    return timesKronecker(ops.add(weight, added), rotationsOf(values).map(ops.transposeLast));
  },
  forward({ x, bias, gate, tensors: values, site, weight, apply, mix, perFeature }) {
    if (site.kind !== "linear") return undefined;
    const turned = timesKronecker(x, rotationsOf(values));
    // W is linear: the strength can blend inputs instead of outputs, which saves a product with W.
    const product = apply(ops.add(x, ops.mul(ops.sub(turned, x), gate)), weight());
    const y = bias ? ops.add(product, bias) : product;
    const change = perFeature(ops.mul(spectrumChange(values), gate));
    const spectral = ops.mul(apply(turned, values.soda_basis as Value), change);
    return values.soda_U
      ? mix(spectral, values.soda_U, { onto: y })
      : ops.add(y, padded(spectral, site.outFeatures, 1));
  },
  hooks: onManifold,
} satisfies Method<SodaConfig>;

/** Zeros after the entries of one axis of a matrix. */
function padded(matrix: Value, length: number, axis: 0 | 1): Value {
  const missing = length - (matrix.shape[axis] as number);
  const after = axis === 0 ? [missing, 0] : [0, missing];
  return missing === 0 ? matrix : ops.pad(matrix, [0, 0], after);
}

/** Rotations are kept from the optimiser and stepped on their manifold, with moments of their own. */
function onManifold({ config, sites }: HookContext<SodaConfig>): TrainingHooks {
  const rotations = new Map(
    sites.flatMap(({ tensors: own }) =>
      FACTORS.map((name) => own[name] as Parameter).map((each) => [each.name, each] as const),
    ),
  );
  const states = new Map<string, StiefelState>();
  const sums = new Map<string, Float64Array>();
  return {
    beforeUpdate: () => sums.clear(),
    isTrained: (name) => !rotations.has(name),
    afterBackward(_, gradients) {
      for (const name of rotations.keys()) {
        const gradient = gradients.get(name);
        if (!gradient) continue;
        const sum = sums.get(name) ?? new Float64Array(gradient.length);
        gradient.forEach((value, at) => {
          sum[at] = (sum[at] as number) + value;
        });
        sums.set(name, sum);
      }
    },
    afterUpdate({ learningRate }) {
      for (const [name, sum] of sums) {
        const { data, shape } = (rotations.get(name) as Parameter).tensor;
        const state = states.get(name) ?? stiefelState(shape[0] as number);
        states.set(name, state);
        stiefelStep(data as Float32Array, sum, state, {
          lr: learningRate * config.rotationRate,
          retraction: config.retraction,
        });
      }
    },
    state: () => Object.fromEntries(states),
    restore(saved) {
      states.clear();
      for (const [name, state] of Object.entries(saved as Record<string, StiefelState>))
        states.set(name, { step: state.step, m: [...state.m], v: [...state.v] });
    },
  };
}

/**
 * SODA with a configuration. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { soda } from "tunesmith/methods";
 * const adaptation = soda({ targets: ["to_q", "to_k", "to_v"], rotationRate: 0.5 });
 * ```
 */
export const soda = (config: z.input<typeof schema> = {}): Adaptation<SodaConfig> => ({
  method: sodaMethod,
  config: parseConfig("soda", schema, config),
});
