import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteCall, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { tapped } from "../taps.js";
import { evaRanks } from "./eva-ranks.js";
import { type LoraInit, loraInitNeeds, loraInitSchema, loraInits } from "./lora-init.js";
import { loraOptions } from "./lora-options.js";
import { loraScale } from "./scale.js";

const schema = siteConfigSchema.extend({
  ...loraOptions,
  init: loraInitSchema.default("default").describe("how A and B start"),
  eva: z
    .strictObject({
      rho: z.number().min(1).default(2).describe("modules may get up to this many times their rank"),
      adjustScaling: z.boolean().default(true).describe("alpha follows the ranks, so that the scale stays"),
      whiten: z.boolean().default(false).describe("rows of A are shorter where inputs vary more"),
    })
    .optional()
    .describe(
      "of init eva: ranks by the variance they explain (rho, adjustScaling, whiten); default: equal ranks",
    ),
  dora: z.boolean().default(false).describe("learn row norms apart from directions (arXiv 2402.09353)"),
  loraBias: z.boolean().default(false).describe("give B a bias"),
});

/** Configuration of LoRA, after defaults. */
export type LoraConfig = z.infer<typeof schema>;

const nameA = (site: SiteShape) => (site.kind === "embedding" ? "lora_embedding_A" : "lora_A");
const nameB = (site: SiteShape) => (site.kind === "embedding" ? "lora_embedding_B" : "lora_B");

/** A and B as the update uses them: with a base-changing init, [A; A0] and [B, -B0], so that the base stays untouched. */
function factors(tensors: TensorValues, site: SiteShape): { a: Value; b: Value } {
  const [a, b] = [tensors[nameA(site)] as Value, tensors[nameB(site)] as Value];
  const { lora_A0: a0, lora_B0: b0 } = tensors;
  return a0 && b0 ? { a: ops.concat([a, a0], 0), b: ops.concat([b, ops.neg(b0)], 1) } : { a, b };
}

function tensors(site: SiteShape, config: LoraConfig): Record<string, TensorSpec> {
  const { rank, scale } = loraScale(site.path, config);
  const init = loraInits(config.init as LoraInit, site, rank, scale, config.eva?.whiten);
  const specs: Record<string, TensorSpec> = {
    [nameA(site)]: { shape: [rank, site.inFeatures], trainable: true, init: init.a },
    // MiCA's B stays where it starts.
    [nameB(site)]: { shape: [site.outFeatures, rank], trainable: config.init !== "mica", init: init.b },
  };
  if (init.changesBase) {
    specs.lora_A0 = { shape: [rank, site.inFeatures], trainable: false, init: init.a };
    specs.lora_B0 = { shape: [site.outFeatures, rank], trainable: false, init: init.b };
  }
  if (config.loraBias) {
    if (site.kind === "embedding") {
      throw new TunesmithError(
        "config-invalid",
        `loraBias: ${site.path} is an embedding, which takes no bias`,
        {
          fix: "leave the embedding out of the targets, or train without loraBias, as PEFT demands too",
        },
      );
    }
    specs.lora_bias = {
      shape: [site.outFeatures],
      trainable: true,
      init: ({ site: s }) => new Float32Array(s.outFeatures),
    };
  }
  if (config.dora) {
    const norms = async (weight: Promise<Float32Array>) => rowNorms(await weight, site);
    specs.lora_magnitude_vector = {
      shape: [site.outFeatures],
      trainable: true,
      init: (context) => norms(context.weight()),
    };
  }
  return specs;
}

/** DoRA's magnitudes start at the row norms of W0, so that the start is the base. */
function rowNorms(weight: Float32Array, site: SiteShape): Float32Array {
  return Float32Array.from({ length: site.outFeatures }, (_, row) => {
    let sum = 0;
    for (let at = row * site.inFeatures; at < (row + 1) * site.inFeatures; at++)
      sum += (weight[at] as number) ** 2;
    return Math.sqrt(sum);
  });
}

/** V = W + s·B·A, or W + s·(B·A − B0·A0): exactly W while A and B are what they started as. */
function additive(weight: Value, values: TensorValues, site: SiteShape, config: LoraConfig): Value {
  const [a, b] = [values[nameA(site)] as Value, values[nameB(site)] as Value];
  const { lora_A0: a0, lora_B0: b0 } = values;
  const { scale } = loraScale(site.path, config);
  if (!a0 || !b0) return ops.gemm(b, a, weight, { alpha: scale });
  const change = ops.sub(ops.matmul(b, a), ops.matmul(b0, a0));
  return ops.add(weight, ops.mul(change, scale));
}

/** m / ‖V‖ per output row, the norm held constant in the backward pass as in the paper, `[out, 1]`. */
function doraFactor(v: Value, magnitude: Value): Value {
  const norm = ops.stopGradient(ops.sqrt(ops.reduceSum(ops.square(v), [1])));
  return ops.div(ops.unsqueeze(magnitude, 1), norm);
}

/** y + gate·s·B·A·x, B's product accumulated onto y inside one Gemm. */
function update(
  { apply, mix, site, tensors }: SiteCall,
  [y, x, gate]: readonly [Value, Value, Value],
  config: LoraConfig,
) {
  const { a, b } = factors(tensors, site);
  const h = tapped(site.path, () => apply(x, a));
  return mix(ops.mul(h, gate), b, { onto: y, alpha: loraScale(site.path, config).scale });
}

/** Low-Rank Adaptation (arXiv 2106.09685): W' = W + s·B·A, with DoRA, rsLoRA and the initialisations of PEFT. */
export const loraMethod = {
  name: "lora",
  summary: "low-rank update B·A of a frozen weight",
  paper: "2106.09685",
  schema,
  kinds: ["linear", "embedding", "conv"],
  tensors,
  needs: ({ init }) => loraInitNeeds(init as LoraInit),
  async settle(config, context) {
    const { init, eva } = config;
    if (!eva) return config;
    if (init !== "eva") {
      throw new TunesmithError("config-invalid", `lora: eva does nothing with init '${init}'`, {
        fix: "set init to eva, or leave it out",
      });
    }
    const shared = await evaRanks(config, eva, context);
    const kept = context.sites.flatMap(({ path }) => (shared.ranks.get(path) === 0 ? [] : [path]));
    return {
      ...config,
      ...shared.config,
      ...{ targets: kept, exclude: undefined, layers: undefined, layersPattern: undefined },
    };
  },
  additive: ({ dora }) => !dora,
  lowRank(_, values, site, config) {
    if (config.dora || site.kind === "embedding") return undefined;
    const { a, b } = factors(values, site);
    return { a, b: ops.mul(b, loraScale(site.path, config).scale) };
  },
  weight(weight, values, site, config) {
    const v = additive(weight, values, site, config);
    const magnitude = values.lora_magnitude_vector;
    return magnitude ? ops.mul(v, doraFactor(v, magnitude)) : v;
  },
  biasDelta(values, site, config) {
    return values.lora_bias && ops.mul(values.lora_bias, loraScale(site.path, config).scale);
  },
  forward(call, config) {
    const { x, y, gate, tensors: values, site, weight, bias, apply, perFeature } = call;
    const input = config.dropout > 0 && site.kind !== "embedding" ? call.dropped(x, config.dropout) : x;
    const { scale } = loraScale(site.path, config);
    const biased = (value: Value) =>
      values.lora_bias ? ops.add(value, ops.mul(ops.mul(perFeature(values.lora_bias), scale), gate)) : value;
    const magnitude = values.lora_magnitude_vector;
    if (!magnitude) return biased(update(call, [y, input, gate], config));
    // y + (f − 1)·W0·x_d + f·s·B·A·x_d with f = m/‖V‖; without dropout W0·x_d is y less its bias.
    const factor = doraFactor(additive(weight(), values, site, config), magnitude);
    const linear = input === x ? (bias ? ops.sub(y, bias) : y) : apply(input, weight());
    const whole = update(call, [linear, input, ops.scalar(1)], config);
    const full = ops.sub(ops.mul(whole, perFeature(ops.squeeze(factor, 1))), linear);
    return biased(ops.add(y, ops.mul(full, gate)));
  },
} satisfies Method<LoraConfig>;

/**
 * LoRA with a configuration. Defaults are PEFT's: rank 8, alpha 8, no dropout, no bias.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { lora } from "tunesmith/methods";
 * const adaptation = lora({ rank: 8, alpha: 16, targets: ["q_proj", "v_proj"] });
 * console.log(adaptation.config.rank);
 * ```
 */
export function lora(config: z.input<typeof schema> = {}): Adaptation<LoraConfig> {
  return { method: loraMethod, config: parseConfig("lora", schema, config) };
}
