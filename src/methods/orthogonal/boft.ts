import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { blockRotate, cayley, permute, skewPart } from "../algebra.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorSpec } from "../method.js";

const schema = siteConfigSchema.extend({
  blockSize: z
    .number()
    .int()
    .min(2)
    .default(4)
    .describe("width b of a rotation block; must divide the inputs"),
  factors: z.number().int().min(1).default(1).describe("butterfly factors m; 1 is OFT with a learned scale"),
});

/** Configuration of BOFT, after defaults. */
export type BoftConfig = z.infer<typeof schema>;

/** Position by position, where factor `level` takes its coordinates from: within 2^level blocks, even half-blocks first. */
export function butterflyOrder(width: number, blockSize: number, level: number): number[] {
  const half = blockSize / 2;
  const group = 2 ** (level + 1);
  return Array.from({ length: width }, (_, at) => {
    const [piece, inside] = [Math.floor(at / half), at % half];
    const [start, offset] = [Math.floor(piece / group) * group, piece % group];
    const source = offset < group / 2 ? 2 * offset : 2 * (offset - group / 2) + 1;
    return (start + source) * half + inside;
  });
}

const inverted = (order: readonly number[]): number[] => {
  const back = new Array<number>(order.length);
  order.forEach((from, to) => {
    back[from] = to;
  });
  return back;
};

function checkShape({ path, inFeatures: width }: SiteShape, { blockSize: b, factors: m }: BoftConfig): void {
  const span = m > 1 ? b * 2 ** (m - 1) : b;
  if (width % span === 0 && (m === 1 || b % 2 === 0)) return;
  throw new TunesmithError(
    "config-invalid",
    `boft: ${path} has ${width} inputs, not a multiple of ${span} (blockSize ${b}, factors ${m})`,
    { fix: "choose a block size that divides the inputs, even when there are several factors" },
  );
}

/** w·Rᵀ for rows `[..., d]`, R = F_{m−1} … F₀ with Fᵢ = PᵢBᵢPᵢᵀ: F₀ᵀ comes first. */
function rotate(rows: Value, generators: Value, { blockSize, factors }: BoftConfig): Value {
  const width = rows.shape.at(-1) as number;
  let turned = rows;
  for (let level = 0; level < factors; level++) {
    const blocks = cayley(skewPart(ops.squeeze(ops.slice(generators, 0, level, level + 1), 0)));
    const order = butterflyOrder(width, blockSize, level);
    turned = permute(blockRotate(permute(turned, inverted(order)), blocks), order);
  }
  return turned;
}

function tensors(site: SiteShape, config: BoftConfig): Record<string, TensorSpec> {
  checkShape(site, config);
  const { blockSize: b, factors } = config;
  const shape = [factors, site.inFeatures / b, b, b];
  return {
    boft_R: { shape, trainable: true, init: () => new Float32Array(factors * site.inFeatures * b) },
    boft_s: {
      shape: [site.outFeatures],
      trainable: true,
      init: () => new Float32Array(site.outFeatures).fill(1),
    },
  };
}

/**
 * Butterfly orthogonal fine-tuning (arXiv 2311.06243): W' = diag(s)·W·Rᵀ, with R a product of sparse orthogonal factors.
 * Angles and norms among W's rows stay what they were.
 */
export const boftMethod = {
  name: "boft",
  summary: "inputs rotated by a butterfly of small orthogonal blocks",
  paper: "2311.06243",
  schema,
  kinds: ["linear", "conv"],
  tensors,
  weight(weight, values, _, config) {
    const turned = rotate(weight, values.boft_R as Value, config);
    return ops.mul(turned, ops.unsqueeze(values.boft_s as Value, 1));
  },
} satisfies Method<BoftConfig>;

/**
 * BOFT with a configuration. Defaults are PEFT's: blocks of 4, one factor.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { boft } from "tunesmith/methods";
 * const adaptation = boft({ blockSize: 8, factors: 2, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const boft = (config: z.input<typeof schema> = {}): Adaptation<BoftConfig> => ({
  method: boftMethod,
  config: parseConfig("boft", schema, config),
});
