import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import type { TrainingHooks } from "../../models/index.js";
import { addAt } from "../algebra.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import { loraScale } from "../lowrank/scale.js";
import type {
  Adaptation,
  HookContext,
  HookSite,
  Method,
  SiteShape,
  TensorSpec,
  TensorValues,
} from "../method.js";
import { largest } from "./places.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().min(0).default(8).describe("rank r of the low-rank part; 0: sparse alone (SpA)"),
  alpha: z.number().positive().default(8).describe("the low-rank part is scaled by alpha / rank"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the low-rank part"),
  density: z
    .number()
    .min(0)
    .lt(1)
    .default(0.003)
    .describe("share d of each weight's entries that is trained"),
  maskAfter: z
    .number()
    .int()
    .min(0)
    .default(0)
    .describe("updates N of the low-rank part alone before the mask is chosen"),
  maskGrads: z.number().int().min(1).default(1).describe("updates k whose gradients choose the mask"),
  maskMode: z
    .enum(["mean_squared", "mean"])
    .default("mean_squared")
    .describe("score of an entry: mean of squared gradients, or size of the mean gradient"),
});

/** Configuration of RoSA, after defaults. */
export type RosaConfig = z.infer<typeof schema>;

const entriesOf = (site: SiteShape, { density }: RosaConfig): number =>
  Math.floor(density * site.outFeatures * site.inFeatures);

function tensors(site: SiteShape, config: RosaConfig): Record<string, TensorSpec> {
  const { rank } = config;
  const count = entriesOf(site, config);
  const specs: Record<string, TensorSpec> = {};
  if (rank > 0) {
    const bound = 1 / Math.sqrt(site.inFeatures);
    specs.lora_A = {
      shape: [rank, site.inFeatures],
      trainable: true,
      init: (context) => context.uniform(rank * site.inFeatures, -bound, bound),
    };
    specs.lora_B = {
      shape: [site.outFeatures, rank],
      trainable: true,
      init: () => new Float32Array(site.outFeatures * rank),
    };
  }
  if (count > 0) {
    specs.rosa_values = { shape: [count], trainable: true, init: () => new Float32Array(count) };
    // Any places will do until the mask is chosen: the values stay zero until then.
    specs.rosa_places = {
      shape: [count],
      dtype: "int64",
      trainable: false,
      init: () => BigInt64Array.from({ length: count }, (_, at) => BigInt(at)),
    };
  }
  return specs;
}

/** `matrix` `[out, in]` plus the sparse part times `gate`. */
function withSparse(
  matrix: Value,
  { rosa_values: values, rosa_places: places }: TensorValues,
  gate?: Value,
): Value {
  if (!values || !places) return matrix;
  return addAt(matrix, places, gate ? ops.mul(values, gate) : values);
}

/** Low-rank and sparse corrections together (arXiv 2401.04679): W' = W + (α/r)·B·A + S, S on a support chosen by gradients. */
export const rosaMethod = {
  name: "rosa",
  summary: "low-rank update and a sparse one on entries that gradients choose",
  paper: "2401.04679",
  schema,
  kinds: ["linear"],
  tensors,
  weight(weight, values, site, config) {
    const sparse = withSparse(weight, values);
    const { lora_A: a, lora_B: b } = values;
    return a && b ? ops.gemm(b, a, sparse, { alpha: loraScale(site.path, config).scale }) : sparse;
  },
  forward({ x, y: base, bias, gate, tensors: values, site, weight, apply, mix, dropped }, config) {
    const { lora_A: a, lora_B: b, rosa_values: sparse } = values;
    // S is added to W and both are multiplied at once; its gradient is read off the weight's at the support.
    const product = sparse ? apply(x, withSparse(weight(), values, gate)) : undefined;
    const y = product ? (bias ? ops.add(product, bias) : product) : base;
    if (!a || !b) return y;
    const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
    return mix(ops.mul(apply(input, a), gate), b, { onto: y, alpha: loraScale(site.path, config).scale });
  },
  hooks: chooseMasks,
} satisfies Method<RosaConfig>;

/** The low-rank part warms up; then gradients of the whole weights choose each site's entries; then both parts train. */
function chooseMasks({ config, sites }: HookContext<RosaConfig>): TrainingHooks {
  const { maskAfter, maskGrads, maskMode } = config;
  const sparse = sites.filter(({ tensors }) => tensors.rosa_values);
  const values = new Set(sparse.map(({ tensors }) => tensors.rosa_values?.name));
  const scores = new Map<HookSite, Float64Array>();
  const isCollecting = (step: number) => step > maskAfter && step <= maskAfter + maskGrads;
  const isChosen = (step: number) => step > maskAfter + maskGrads;
  return {
    wantedWeights: ({ step }) => (isCollecting(step) ? sparse.map(({ weightName }) => weightName) : []),
    isTrained(name, { step }) {
      return values.has(name) ? isChosen(step) : config.rank > 0;
    },
    afterBackward({ step }, _, weights) {
      if (!isCollecting(step)) return;
      for (const site of sparse) {
        const gradient = site.oriented(weights.get(site.weightName) as Float32Array);
        const sum = scores.get(site) ?? new Float64Array(gradient.length);
        gradient.forEach((value, at) => {
          sum[at] = (sum[at] as number) + (maskMode === "mean" ? value : value * value);
        });
        scores.set(site, sum);
      }
    },
    afterUpdate({ step }) {
      if (step !== maskAfter + maskGrads) return;
      for (const [site, sum] of scores) {
        const places = site.tensors.rosa_places?.tensor.data as BigInt64Array;
        largest(Float32Array.from(sum), places.length).forEach((place, at) => {
          places[at] = BigInt(place);
        });
      }
      scores.clear();
    },
  };
}

/**
 * RoSA with a configuration. Defaults are the official ones, with the mask chosen in the first update.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { rosa } from "tunesmith/methods";
 * const adaptation = rosa({ rank: 8, density: 0.006, maskAfter: 64, targets: "all-linear" });
 * ```
 */
export const rosa = (config: z.input<typeof schema> = {}): Adaptation<RosaConfig> => ({
  method: rosaMethod,
  config: parseConfig("rosa", schema, config),
});
