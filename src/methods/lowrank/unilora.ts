import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { numpyGenerator } from "../../runtime/random/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type {
  Adaptation,
  Method,
  SharedInitContext,
  SharedSpec,
  SiteShape,
  TensorValues,
} from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(4).describe("rank r of the update"),
  thetaLength: z
    .number()
    .int()
    .positive()
    .default(256)
    .describe("trained numbers, of which every entry of every factor is one"),
  projectionSeed: z
    .number()
    .int()
    .nonnegative()
    .default(42)
    .describe("seed of the choice of a number for every entry"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
  bound: z
    .number()
    .positive()
    .default(0.02)
    .describe("the numbers start uniform between plus and minus this"),
  saveIndices: z.boolean().default(false).describe("write the choice into files, beside its seed"),
});

/** Configuration of Uni-LoRA, after defaults. */
export type UniloraConfig = z.infer<typeof schema>;

/** Entries of a site's A, then of its B. */
const sizesOf = ({ inFeatures, outFeatures }: SiteShape, { rank }: UniloraConfig) => ({
  A: { shape: [rank, inFeatures], count: rank * inFeatures },
  B: { shape: [outFeatures, rank], count: outFeatures * rank },
});

interface Choice {
  /** Of all entries: A and B of the first site, then of the next. */
  readonly indices: Int32Array;
  /** How often each number is taken. */
  readonly counts: Float64Array;
}

/** As PEFT draws it: every number equally often, or once more, in random order. */
function choice({ sites, once }: SharedInitContext, config: UniloraConfig): Promise<Choice> {
  return once("choice", async () => {
    const { thetaLength: length, projectionSeed } = config;
    const total = sites.reduce((sum, site) => sum + totalOf(site, config), 0);
    const random = numpyGenerator(projectionSeed);
    const each = Math.floor(total / length);
    const indices = new Int32Array(total);
    for (let number = 0; number < length; number++) indices.fill(number, number * each, (number + 1) * each);
    if (total % length > 0) indices.set(random.choice(length, total % length), each * length);
    random.shuffle(indices);
    const counts = new Float64Array(length);
    for (const index of indices) counts[index] = (counts[index] as number) + 1;
    return { indices, counts };
  });
}

const totalOf = (site: SiteShape, config: UniloraConfig): number => {
  const { A, B } = sizesOf(site, config);
  return A.count + B.count;
};

function shared(sites: readonly SiteShape[], config: UniloraConfig): Record<string, SharedSpec> {
  const specs: Record<string, SharedSpec> = {
    unilora_theta_d: {
      shape: [config.thetaLength],
      trainable: true,
      init: ({ uniform }) => uniform(config.thetaLength, -config.bound, config.bound),
    },
  };
  let offset = 0;
  for (const site of sites) {
    for (const [factor, { shape, count }] of Object.entries(sizesOf(site, config))) {
      const [from, to] = [offset, offset + count];
      const part = async (context: SharedInitContext) => {
        const { indices, counts } = await choice(context, config);
        return { own: indices.subarray(from, to), counts };
      };
      const lent = (as: string): Omit<SharedSpec, "init"> => ({
        shape,
        trainable: false,
        stored: config.saveIndices,
        readers: { paths: [site.path], as },
      });
      specs[`${site.path}.unilora_indices_${factor}`] = {
        ...lent(`unilora_indices_${factor}`),
        dtype: "int64",
        init: async (context) => BigInt64Array.from((await part(context)).own, BigInt),
      };
      specs[`${site.path}.unilora_scales_${factor}`] = {
        ...lent(`unilora_scales_${factor}`),
        async init(context) {
          const { own, counts } = await part(context);
          return Float32Array.from(own, (index) => 1 / Math.fround(Math.sqrt(counts[index] as number)));
        },
      };
      offset = to;
    }
  }
  return specs;
}

/** A `[r, in]` and B `[out, r]`. */
function factors(values: TensorValues): { a: Value; b: Value } {
  const factor = (name: "A" | "B") =>
    ops.mul(
      ops.gather(values.unilora_theta_d as Value, values[`unilora_indices_${name}`] as Value),
      values[`unilora_scales_${name}`] as Value,
    );
  return { a: factor("A"), b: factor("B") };
}

/**
 * Uni-LoRA (arXiv 2506.00799): W' = W + B·A, every entry of every A and B one of a few trained numbers θ, over the root of how
 * often that is taken: the projection from θ is an isometry. It starts near the base, not as it: at θ = 0 nothing would
 * get a gradient.
 */
export const uniloraMethod = {
  name: "unilora",
  summary: "low-rank updates whose entries are all taken from one short vector",
  paper: "2506.00799",
  schema,
  kinds: ["linear"],
  shared,
  tensors: () => ({}),
  additive: () => true,
  sized: (size) => ({ thetaLength: 16 * size }),
  lowRank: (_, values) => factors(values),
  weight(weight, values) {
    const { a, b } = factors(values);
    return ops.gemm(b, a, weight);
  },
  forward({ x, y, gate, apply, mix, dropped, tensors: values }, { dropout }) {
    const { a, b } = factors(values);
    const input = dropout > 0 ? dropped(x, dropout) : x;
    return mix(ops.mul(apply(input, a), gate), b, { onto: y });
  },
} satisfies Method<UniloraConfig>;

/**
 * Uni-LoRA with a configuration. Defaults are PEFT's.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { unilora } from "tunesmith/methods";
 * const adaptation = unilora({ thetaLength: 512, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const unilora = (config: z.input<typeof schema> = {}): Adaptation<UniloraConfig> => ({
  method: uniloraMethod,
  config: parseConfig("unilora", schema, config),
});
