import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape } from "../method.js";
import { patternValue } from "../targets.js";

const schema = siteConfigSchema.extend({
  blockSize: z
    .number()
    .int()
    .positive()
    .default(256)
    .describe("size b of the circulant blocks; divides both sides"),
  blockSizePattern: z
    .record(z.string(), z.number().int().positive())
    .default({})
    .describe("blockSize by module pattern"),
  init: z
    .enum(["zero", "xavier_uniform", "kaiming_uniform", "gaussian"])
    .default("zero")
    .describe("start of the kernels; PEFT's default is xavier_uniform, which does not start as the base"),
});

/** Configuration of C3A, after defaults. */
export type C3aConfig = z.infer<typeof schema>;

/** Kernels `[out / b, in / b, b]`. Throws `config-invalid` where b does not divide. */
function kernelShape({ path, inFeatures, outFeatures }: SiteShape, config: C3aConfig): readonly number[] {
  const size = patternValue(config.blockSizePattern, path, config.blockSize);
  if (inFeatures % size === 0 && outFeatures % size === 0)
    return [outFeatures / size, inFeatures / size, size];
  throw new TunesmithError(
    "config-invalid",
    `blockSize: ${size} does not divide both sides of ${path}, ${outFeatures} x ${inFeatures}`,
    { fix: "choose a common divisor", details: { path } },
  );
}

function start({ site, normal, uniform }: InitContext, count: number, init: C3aConfig["init"]): Float32Array {
  if (init === "zero") return new Float32Array(count);
  if (init === "gaussian") return normal(count);
  const { inFeatures, outFeatures } = site;
  const bound =
    init === "xavier_uniform" ? Math.sqrt(6 / (inFeatures + outFeatures)) : Math.sqrt(1 / inFeatures);
  return uniform(count, -bound, bound);
}

/** C3A (arXiv 2407.19342): W' = W + blocks of circulant matrices, entry (i, j) of a block k[(j − i) mod b] / in. */
export const c3aMethod = {
  name: "c3a",
  summary: "blocks of circulant matrices added to the weight",
  paper: "2407.19342",
  sized: (size) => ({ blockSize: size }),
  schema,
  kinds: ["linear"],
  tensors(site, config) {
    const shape = kernelShape(site, config);
    const count = shape.reduce((a, b) => a * b, 1);
    return { c3a_kernel: { shape, trainable: true, init: (context) => start(context, count, config.init) } };
  },
  additive: () => true,
  weight(weight, { c3a_kernel: kernel }, { inFeatures, outFeatures }) {
    const size = (kernel as Value).shape[2] as number;
    // Row i of a row of blocks: each block's kernel, turned i places to the right.
    const turns = Array.from({ length: size * inFeatures }, (_, at) => {
      const [row, column] = [Math.floor(at / inFeatures), at % inFeatures];
      const within = column % size;
      return column - within + ((within - row + size) % size);
    });
    const rows = ops.reshape(kernel as Value, [outFeatures / size, inFeatures]);
    const picked = ops.gather(rows, ops.reshape(ops.ints(turns), [size, inFeatures]), 1);
    const blocks = ops.reshape(picked, [outFeatures, inFeatures]);
    return ops.add(weight, ops.div(blocks, inFeatures));
  },
} satisfies Method<C3aConfig>;

/**
 * C3A with a configuration. It starts as the base, unlike PEFT's default.
 *
 * Throws `config-invalid` naming the field; so does adapting a weight that the blocks do not divide.
 *
 * @example
 * ```ts
 * import { c3a } from "tunesmith/methods";
 * const adaptation = c3a({ blockSize: 64, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const c3a = (config: z.input<typeof schema> = {}): Adaptation<C3aConfig> => ({
  method: c3aMethod,
  config: parseConfig("c3a", schema, config),
});
