import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { constant, ops, type Value } from "../../graph/index.js";
import { tensor } from "../../tensor/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorValues } from "../method.js";
import { loraOptions, plainFactors, uniformMatrix, zeroMatrix } from "./lora-options.js";
import { loraScale } from "./scale.js";

/** Maps that servers cut by inputs, and by outputs. */
const [BY_INPUTS, BY_OUTPUTS] = [
  ["o_proj", "out_proj", "down_proj", "c_proj", "fc2"],
  ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "c_attn", "c_fc", "fc1"],
];

const schema = siteConfigSchema.extend({
  ...loraOptions,
  blocks: z
    .number()
    .int()
    .positive()
    .default(2)
    .describe("blocks on the diagonal: parts that a server cuts the model in"),
  blockA: z
    .array(z.string())
    .default(BY_INPUTS)
    .describe("modules whose A is block-diagonal, by a part of their path: those cut by inputs"),
  blockB: z
    .array(z.string())
    .default(BY_OUTPUTS)
    .describe("modules whose B is block-diagonal: those cut by outputs"),
  strict: z.boolean().default(true).describe("refuse modules of neither list; otherwise they get plain LoRA"),
});

/** Configuration of BD-LoRA, after defaults. */
export type BdloraConfig = z.infer<typeof schema>;

const invalid = (message: string, fix: string, { path }: SiteShape) =>
  new TunesmithError("config-invalid", message, { fix, details: { path } });

/** Which factor of a site is block-diagonal, if any. */
function cutFactor(site: SiteShape, { blockA, blockB, strict }: BdloraConfig): "a" | "b" | undefined {
  const [isA, isB] = [blockA, blockB].map((names) => names.some((name) => site.path.includes(name)));
  if (isA && isB)
    throw invalid(`bdlora: ${site.path} is in blockA and in blockB`, "name it in one of them", site);
  if (strict && !isA && !isB)
    throw invalid(
      `bdlora: ${site.path} is neither in blockA nor in blockB`,
      "name it in one, or set strict: false",
      site,
    );
  return isA ? "a" : isB ? "b" : undefined;
}

function checkDivides(site: SiteShape, sizes: readonly number[], blocks: number): void {
  const wrong = sizes.find((size) => size % blocks !== 0);
  if (wrong !== undefined)
    throw invalid(
      `blocks: ${blocks} does not divide ${wrong} at ${site.path}`,
      "choose a divisor of rank and sizes",
      site,
    );
}

/** Blocks `[rows, columns / n]` on top of each other, put on the diagonal of `[rows, columns]`. */
function diagonal(stacked: Value, blocks: number): Value {
  const [rows, width] = stacked.shape as [number, number];
  const columns = width * blocks;
  const inside = Float32Array.from({ length: rows * columns }, (_, at) => {
    const block = Math.floor(Math.floor(at / columns) / (rows / blocks));
    return Math.floor((at % columns) / width) === block ? 1 : 0;
  });
  return ops.mul(ops.tile(stacked, [1, blocks]), constant(tensor("float32", [rows, columns], inside)));
}

/** A `[r, in]` and B `[out, r]`, whole. */
function factors(values: TensorValues, site: SiteShape, config: BdloraConfig): { a: Value; b: Value } {
  const cut = cutFactor(site, config);
  const [a, b] = [values.lora_A as Value, values.lora_B as Value];
  return {
    a: cut === "a" ? diagonal(a, config.blocks) : a,
    b: cut === "b" ? diagonal(b, config.blocks) : b,
  };
}

/**
 * BD-LoRA (arXiv 2510.23346): LoRA with one factor of each module block-diagonal, so that a server which cuts the model in as
 * many parts needs no more exchange between them.
 */
export const bdloraMethod = {
  name: "bdlora",
  summary: "low-rank update with one block-diagonal factor, for models served in parts",
  paper: "2510.23346",
  schema,
  kinds: ["linear"],
  tensors(site, config) {
    const { rank } = loraScale(site.path, config);
    const plain = plainFactors(site, rank);
    const cut = cutFactor(site, config);
    if (!cut) return plain;
    const { inFeatures, outFeatures } = site;
    checkDivides(site, [rank, cut === "a" ? inFeatures : outFeatures], config.blocks);
    if (cut === "b") return { ...plain, lora_B: zeroMatrix(outFeatures, rank / config.blocks) };
    const width = inFeatures / config.blocks;
    return { ...plain, lora_A: uniformMatrix(rank, width, Math.sqrt(6 / width)) };
  },
  additive: () => true,
  weight(weight, values, site, config) {
    const { a, b } = factors(values, site, config);
    return ops.gemm(b, a, weight, { alpha: loraScale(site.path, config).scale });
  },
  lowRank(_, values, site, config) {
    const { a, b } = factors(values, site, config);
    return { a, b: ops.mul(b, loraScale(site.path, config).scale) };
  },
  forward({ x, y, gate, site, tensors: values, apply, mix, dropped }, config) {
    const { a, b } = factors(values, site, config);
    const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
    return mix(ops.mul(apply(input, a), gate), b, { onto: y, alpha: loraScale(site.path, config).scale });
  },
} satisfies Method<BdloraConfig>;

/**
 * BD-LoRA with a configuration. PEFT names no modules and one block by default; here the usual names are known, and there
 * are two.
 *
 * Throws `config-invalid` naming the field, or a module that blocks do not divide.
 *
 * @example
 * ```ts
 * import { bdlora } from "tunesmith/methods";
 * const adaptation = bdlora({ rank: 8, blocks: 4, targets: "all-linear" });
 * ```
 */
export const bdlora = (config: z.input<typeof schema> = {}): Adaptation<BdloraConfig> => ({
  method: bdloraMethod,
  config: parseConfig("bdlora", schema, config),
});
