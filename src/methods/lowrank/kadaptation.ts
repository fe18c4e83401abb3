import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";

const schema = siteConfigSchema.extend({
  summands: z
    .number()
    .int()
    .positive()
    .default(32)
    .describe("Kronecker products n in the sum; must divide inputs and outputs"),
  rank: z.number().int().positive().default(1).describe("rank r of each site's own matrices"),
  ruleRank: z.number().int().positive().default(1).describe("rank of the matrices that sites share"),
  shareRules: z
    .boolean()
    .default(true)
    .describe("modules of one name in all layers share their left matrices"),
  scale: z.number().default(1).describe("factor of the update; the authors' code has 160"),
  dropout: z.number().min(0).lt(1).default(0.5).describe("dropout on the update itself while training"),
  ownBias: z.boolean().default(true).describe("give each site a bias"),
});

/** Configuration of KAdaptation, after defaults. */
export type KadaptationConfig = z.infer<typeof schema>;

/** What layers have in common: `q_proj` of `layers.3.self_attn.q_proj`. */
const kindOf = ({ path }: SiteShape): string =>
  path
    .split(".")
    .filter((part) => !/^\d+$/.test(part))
    .at(-1) ?? path;

const [LEFT, RIGHT] = ["kadaptation_left", "kadaptation_right"] as const;

/** A tensor of one site, or of all. */
interface RuleSpec extends Omit<TensorSpec, "init"> {
  init(context: Pick<InitContext, "uniform">): Float32Array;
}

/** Aᵢ = leftᵢ·rightᵢ: `[n, n, R]` and `[n, R, n]`. */
function rules({ summands: n, ruleRank }: KadaptationConfig): Record<string, RuleSpec> {
  const spec = (shape: readonly number[]): RuleSpec => ({
    shape,
    trainable: true,
    init: ({ uniform }) => uniform(n * n * ruleRank, -0.01, 0.01),
  });
  return { [LEFT]: spec([n, n, ruleRank]), [RIGHT]: spec([n, ruleRank, n]) };
}

function tensors(site: SiteShape, config: KadaptationConfig): Record<string, TensorSpec> {
  const { summands: n, rank, shareRules, ownBias } = config;
  const [k, l] = [site.outFeatures / n, site.inFeatures / n];
  if (!Number.isInteger(k) || !Number.isInteger(l)) {
    const problem = `kadaptation: ${n} summands do not divide ${site.path}, ${site.outFeatures} × ${site.inFeatures}`;
    throw new TunesmithError("config-invalid", problem, {
      fix: "choose a number of summands that divides inputs and outputs of every target",
    });
  }
  const bound = Math.sqrt(6 / (k + rank));
  return {
    // One factor starts at zero and one does not: with both at zero, as in the authors' code, nothing ever gets a gradient.
    kadaptation_u: {
      shape: [n, k, rank],
      trainable: true,
      init: ({ uniform }) => uniform(n * k * rank, -bound, bound),
    },
    kadaptation_v: { shape: [n, rank, l], trainable: true, init: () => new Float32Array(n * rank * l) },
    ...(ownBias
      ? {
          kadaptation_bias: {
            shape: [site.outFeatures],
            trainable: true,
            init: () => new Float32Array(site.outFeatures),
          },
        }
      : {}),
    ...(shareRules ? {} : rules(config)),
  };
}

/**
 * The update as a low-rank product: Σᵢ Aᵢ ⊗ Bᵢ with Aᵢ = Σ l·rᵀ and Bᵢ = Σ u·vᵀ is the sum of (l ⊗ u)·(r ⊗ v)ᵀ. Gives
 * `[out, n·R·r]` and `[n·R·r, in]`.
 */
function factors(
  values: TensorValues,
  site: SiteShape,
  { shareRules }: KadaptationConfig,
): { up: Value; down: Value } {
  const rule = (name: string) => values[shareRules ? `${name}_${kindOf(site)}` : name] as Value;
  const [left, right] = [rule(LEFT), rule(RIGHT)];
  const { kadaptation_u: u, kadaptation_v: v } = values as Record<"kadaptation_u" | "kadaptation_v", Value>;
  const up = ops.mul(
    ops.unsqueeze(ops.transpose(left, [1, 0, 2]), 1, 4),
    ops.unsqueeze(ops.transpose(u, [1, 0, 2]), 0, 3),
  );
  const down = ops.mul(ops.unsqueeze(right, 2, 4), ops.unsqueeze(v, 1, 3));
  return {
    up: ops.reshape(up, [site.outFeatures, -1]),
    down: ops.reshape(down, [-1, site.inFeatures]),
  };
}

/** Kronecker adaptation (arXiv 2203.16329): W' = W + s·Σᵢ Aᵢ ⊗ Bᵢ, the Aᵢ shared by layers, all of low rank. */
export const kadaptationMethod = {
  name: "kadaptation",
  summary: "sum of Kronecker products, one side shared by all layers",
  paper: "2203.16329",
  schema,
  kinds: ["linear", "conv"],
  shared: (sites, config) =>
    Object.fromEntries(
      (config.shareRules ? [...new Set(sites.map(kindOf))] : []).flatMap((kind) =>
        Object.entries(rules(config)).map(([name, spec]) => [`${name}_${kind}`, spec] as const),
      ),
    ),
  tensors,
  weight(weight, values, site, config) {
    const { up, down } = factors(values, site, config);
    return ops.gemm(up, down, weight, { alpha: config.scale });
  },
  lowRank(_, values, site, config) {
    const { up, down } = factors(values, site, config);
    return { a: down, b: ops.mul(up, config.scale) };
  },
  biasDelta: (values) => values.kadaptation_bias,
  forward(
    { x, y, gate, weight, bias, tensors: values, site, apply, mix, perFeature, dropped, training },
    config,
  ) {
    const { up, down } = factors(values, site, config);
    const { scale, dropout } = config;
    const own = values.kadaptation_bias && ops.mul(perFeature(values.kadaptation_bias), gate);
    if (!training || dropout === 0)
      return mix(ops.mul(apply(x, down), gate), up, { onto: own ? ops.add(y, own) : y, alpha: scale });
    // The update is dropped entry by entry, so the map is applied once, with the changed weight.
    const update = dropped(ops.matmul(up, down), dropout);
    const product = apply(x, ops.add(weight(), ops.mul(update, ops.mul(gate, scale))));
    return [own, bias].reduce<Value>((sum, term) => (term ? ops.add(sum, term) : sum), product);
  },
} satisfies Method<KadaptationConfig>;

/**
 * KAdaptation with a configuration. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { kadaptation } from "tunesmith/methods";
 * const adaptation = kadaptation({ summands: 16, targets: ["query", "value"] });
 * ```
 */
export const kadaptation = (config: z.input<typeof schema> = {}): Adaptation<KadaptationConfig> => ({
  method: kadaptationMethod,
  config: parseConfig("kadaptation", schema, config),
});
