import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { orthogonalColumns } from "../../runtime/linalg/index.js";
import { rng } from "../../runtime/random/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SharedSpec, SiteShape } from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(20).describe("directions r of each concept"),
  basis: z
    .enum(["shared-orthogonal", "gaussian", "registry"])
    .default("shared-orthogonal")
    .describe(
      "where directions come from: columns of a shared orthogonal matrix drawn at random, random numbers, or an assigned block of columns",
    ),
  basisSeed: z.number().int().default(0).describe("public seed of the shared matrix; the same for everybody"),
  conceptId: z
    .string()
    .default("")
    .describe("name of the concept, which draws its directions; must be given"),
  slot: z.number().int().nonnegative().optional().describe("which block of columns (basis registry)"),
  scale: z.number().default(1).describe("strength of the update"),
});

/** Configuration of orthogonal adaptation, after defaults. */
export type OrthogonalAdaptationConfig = z.infer<typeof schema>;

/** Name of the shared tensor with the directions of maps of `width` inputs. */
export const basisName = (width: number): string => `orthogonal_basis_${width}`;

/**
 * The frozen directions of one concept among `width` inputs, `[rank, width]`. Anybody who knows the public seed and the concept's
 * name, or its slot, gets the same numbers.
 *
 * Throws `config-invalid` without a name or slot, or for more directions than there are.
 */
export function conceptBasis(width: number, config: OrthogonalAdaptationConfig): Float32Array {
  const { rank, basis, basisSeed, conceptId } = config;
  if (rank > width) invalid(`rank ${rank} is more than the ${width} inputs of a target`, "use a lower rank");
  if (basis !== "registry" && conceptId === "") {
    invalid("conceptId is missing", "name the concept: concepts of one name share their directions");
  }
  const own = rng(conceptId, "concept", width);
  if (basis === "gaussian") return own.fillNormal(new Float32Array(rank * width), 0, 1 / Math.sqrt(width));
  const columns = basis === "registry" ? blockOf(width, config) : own.choice(width, rank);
  const normals = (index: number, count: number) =>
    rng(basisSeed, "orthogonal-adaptation", width, index).fillNormal(new Float64Array(count));
  return Float32Array.from(orthogonalColumns(width, columns, normals).data);
}

function blockOf(width: number, { rank, slot }: OrthogonalAdaptationConfig): Int32Array {
  const slots = Math.floor(width / rank);
  if (slot === undefined || slot >= slots) {
    const fix = `give a slot from 0 to ${slots - 1}, another for each concept`;
    invalid(`slot ${slot ?? "is missing"}: ${width} inputs hold ${slots} blocks of rank ${rank}`, fix);
  }
  return Int32Array.from({ length: rank }, (_, at) => slot * rank + at);
}

function invalid(problem: string, fix: string): never {
  throw new TunesmithError("config-invalid", `orthogonal-adaptation: ${problem}`, { fix });
}

/** One basis for all sites of a width. */
function bases(sites: readonly SiteShape[], config: OrthogonalAdaptationConfig): Record<string, SharedSpec> {
  const widths = [...new Set(sites.map(({ inFeatures }) => inFeatures))];
  const specs = widths.map((width): [string, SharedSpec] => [
    basisName(width),
    { shape: [config.rank, width], trainable: false, init: () => conceptBasis(width, config) },
  ]);
  return Object.fromEntries(specs);
}

/**
 * Orthogonal adaptation (arXiv 2312.02432): W' = W + A·Bᵀ with B frozen and nearly orthogonal to every other concept's, so that
 * adapters of many concepts, trained apart, add up in one model. That helps where inputs move with the training (token
 * rows by `trainableTokens`, other adapters below); frozen inputs that all concepts share interfere with any B.
 */
export const orthogonalAdaptationMethod = {
  name: "orthogonal-adaptation",
  summary: "low-rank update on frozen directions that other concepts do not use, for adding up",
  paper: "2312.02432",
  schema,
  kinds: ["linear", "conv"],
  shared: bases,
  tensors: (site, { rank }) => ({
    orthogonal_A: {
      shape: [site.outFeatures, rank],
      trainable: true,
      init: () => new Float32Array(site.outFeatures * rank),
    },
  }),
  weight(weight, values, site, { scale }) {
    const b = values[basisName(site.inFeatures)] as Value;
    return ops.gemm(values.orthogonal_A as Value, b, weight, { alpha: scale });
  },
  lowRank: (_, values, site, { scale }) => ({
    a: values[basisName(site.inFeatures)] as Value,
    b: ops.mul(values.orthogonal_A as Value, scale),
  }),
  forward({ x, y, gate, tensors: values, site, apply, mix }, { scale }) {
    const b = values[basisName(site.inFeatures)] as Value;
    return mix(ops.mul(apply(x, b), gate), values.orthogonal_A as Value, { onto: y, alpha: scale });
  },
} satisfies Method<OrthogonalAdaptationConfig>;

/**
 * Orthogonal adaptation with a configuration; see `mergeConcepts` for putting several together. Throws `config-invalid`
 * naming the field.
 *
 * @example
 * ```ts
 * import { orthogonalAdaptation } from "tunesmith/methods";
 * const adaptation = orthogonalAdaptation({ conceptId: "my-cat", rank: 20, trainableTokens: [512] });
 * ```
 */
export const orthogonalAdaptation = (
  config: z.input<typeof schema> = {},
): Adaptation<OrthogonalAdaptationConfig> => ({
  method: orthogonalAdaptationMethod,
  config: parseConfig("orthogonal-adaptation", schema, config),
});
