import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { endsWithName } from "../../models/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SharedSpec, SiteShape } from "../method.js";
import { meanOverRows } from "../routing.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(32).describe("rank r of the update; larger than LoRA's"),
  stride: z
    .number()
    .int()
    .positive()
    .default(1)
    .describe("modules of a group, one after the other, that share A"),
  experts: z
    .number()
    .int()
    .min(2)
    .default(2)
    .describe("matrices B that all modules of a group mix theirs from"),
  scale: z.number().default(1).describe("factor of the update"),
});

/** Configuration of Lily, after defaults. */
export type LilyConfig = z.infer<typeof schema>;

/** What modules have to have in common to share: the target that names them, and the shape. An expression names one group. */
function groupOf({ path, inFeatures, outFeatures }: SiteShape, { targets }: LilyConfig): string {
  const isKeyword = typeof targets === "string" && targets.toLowerCase() === "all-linear";
  const named = Array.isArray(targets) ? targets.filter((target) => endsWithName(path, [target])) : [];
  const longest = named.toSorted((a, b) => b.length - a.length)[0] ?? path.slice(path.lastIndexOf(".") + 1);
  return `${typeof targets === "string" && !isKeyword ? "" : longest} ${outFeatures} ${inFeatures}`;
}

/** Modules that share, in their order. */
function groups(sites: readonly SiteShape[], config: LilyConfig): SiteShape[][] {
  const found = new Map<string, SiteShape[]>();
  for (const site of sites) {
    const key = groupOf(site, config);
    found.set(key, [...(found.get(key) ?? []), site]);
  }
  return [...found.values()];
}

/** A tensor that the first of some modules is named after. */
function lent(
  sites: readonly SiteShape[],
  as: string,
  spec: Omit<SharedSpec, "readers">,
): [string, SharedSpec] {
  const paths = sites.map(({ path }) => path);
  return [`${paths[0]}.${as}`, { ...spec, readers: { paths, as } }];
}

function shared(sites: readonly SiteShape[], config: LilyConfig): Record<string, SharedSpec> {
  const { rank, stride, experts } = config;
  const tensors = groups(sites, config).flatMap((group) => {
    const { inFeatures, outFeatures } = group[0] as SiteShape;
    const bound = 1 / Math.sqrt(inFeatures);
    const runs = Array.from({ length: Math.ceil(group.length / stride) }, (_, at) =>
      group.slice(at * stride, (at + 1) * stride),
    );
    return [
      ...runs.map((run) =>
        lent(run, "lily_A", {
          shape: [rank, inFeatures],
          trainable: true,
          init: ({ uniform }) => uniform(rank * inFeatures, -bound, bound),
        }),
      ),
      lent(group, "lily_B", {
        shape: [experts * rank, outFeatures],
        trainable: true,
        init: () => new Float32Array(experts * rank * outFeatures),
      }),
    ];
  });
  return Object.fromEntries(tensors);
}

/**
 * Lily (arXiv 2407.09946): y + s·(Σₑ pₑ·Bₑ)ᵀ·A·x, A shared by neighbouring layers and the experts B by all. The weights p are a router's
 * softmax, averaged over all tokens that are run together: what a row gets depends on the rows beside it.
 */
export const lilyMethod = {
  name: "lily",
  summary: "low-rank updates from factors that layers share, mixed by a router",
  paper: "2407.09946",
  schema,
  kinds: ["linear"],
  shared,
  tensors: (_, { rank, experts }) => ({
    lily_router: {
      shape: [experts, rank],
      trainable: true,
      routed: true,
      init: ({ uniform }) => uniform(experts * rank, -1 / Math.sqrt(rank), 1 / Math.sqrt(rank)),
    },
  }),
  unmergeable: () => "its router mixes it anew for every batch",
  weight: (weight) => weight,
  forward({ x, y, gate, site, apply, mask, tensors }, { rank, experts, scale }) {
    const { lily_A: a, lily_B: b, lily_router: router } = tensors as Record<string, Value>;
    const u = apply(x, a as Value);
    const shares = ops.softmax(ops.gemm(u, router as Value, undefined, { transB: true }));
    const all = ops.reshape(b as Value, [experts, rank * site.outFeatures]);
    const mixed = ops.matmul(meanOverRows(ops.unsqueeze(shares, 1), mask), all);
    const up = ops.reshape(mixed, [rank, site.outFeatures]);
    return ops.gemm(ops.mul(u, gate), up, y, { alpha: scale });
  },
} satisfies Method<LilyConfig>;

/**
 * Lily with a configuration. Defaults are PEFT's. Cannot be merged.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { lily } from "tunesmith/methods";
 * const adaptation = lily({ rank: 16, stride: 2, experts: 4, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const lily = (config: z.input<typeof schema> = {}): Adaptation<LilyConfig> => ({
  method: lilyMethod,
  config: parseConfig("lily", schema, config),
});
