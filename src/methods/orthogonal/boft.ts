import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { blockRotate, cayley, permute, skewPart, someIdentity } from "../algebra.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteCall, SiteShape, TensorSpec, TensorValues } from "../method.js";

const schema = siteConfigSchema.extend({
  blockSize: z
    .number()
    .int()
    .min(2)
    .default(4)
    .describe("width b of a rotation block; must divide the inputs"),
  blockNum: z
    .number()
    .int()
    .positive()
    .optional()
    .describe("number of blocks of a factor, in the place of blockSize"),
  factors: z.number().int().min(1).default(1).describe("butterfly factors m; 1 is OFT with a learned scale"),
  dropout: z
    .number()
    .min(0)
    .lt(1)
    .default(0)
    .describe("share of the blocks of one factor, chosen at random, that are left out while training"),
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

/** Width of a site's blocks. Throws `config-invalid` where its inputs do not allow the factors. */
function blockSizeOf(
  { path, inFeatures: width }: SiteShape,
  { blockSize, blockNum, factors: m }: BoftConfig,
): number {
  const b = blockNum ? width / blockNum : blockSize;
  const span = m > 1 ? b * 2 ** (m - 1) : b;
  if (Number.isInteger(b) && b > 1 && width % span === 0 && (m === 1 || b % 2 === 0)) return b;
  throw new TunesmithError(
    "config-invalid",
    `boft: ${path} has ${width} inputs, not a multiple of ${span} (blockSize ${b}, factors ${m})`,
    { fix: "choose a block size, or number, that divides the inputs; even when there are several factors" },
  );
}

/** w·Rᵀ for rows `[..., d]`, R = F_{m−1} … F₀ with Fᵢ = PᵢBᵢPᵢᵀ: F₀ᵀ comes first. `blocksAt` gives Bᵢ `[d / b, b, b]`. */
function rotate(rows: Value, factors: number, blocksAt: (level: number) => Value): Value {
  const width = rows.shape.at(-1) as number;
  let turned = rows;
  for (let level = 0; level < factors; level++) {
    const blocks = blocksAt(level);
    if (level === 0) {
      turned = blockRotate(turned, blocks);
      continue;
    }
    const order = butterflyOrder(width, blocks.shape[1] as number, level);
    turned = permute(blockRotate(permute(turned, inverted(order)), blocks), order);
  }
  return turned;
}

const rotationOf = ({ boft_R: generators }: TensorValues, level: number): Value =>
  cayley(skewPart(ops.squeeze(ops.slice(generators as Value, 0, level, level + 1), 0)));

const scaled = (rows: Value, s: Value): Value => ops.mul(rows, ops.unsqueeze(s, 1));

/** Rotations with some blocks of one factor replaced by the identity. */
function withDropout({ tensors: values, noise }: SiteCall, { factors, dropout }: BoftConfig) {
  const [, count] = (values.boft_R as Value).shape as [number, number];
  const draws = noise(ops.full([count], 0, "float32"), "uniform", "blocks");
  const turns = noise(ops.full([factors], 0, "float32"), "uniform", "factor");
  const isChosen = ops.equal(turns, ops.reduceMax(turns, [0]));
  return (level: number): Value => {
    const whole = rotationOf(values, level);
    const chosen = ops.unsqueeze(ops.slice(isChosen, 0, level, level + 1), 1, 2);
    return ops.where(chosen, someIdentity(whole, dropout, draws), whole);
  };
}

function tensors(site: SiteShape, config: BoftConfig): Record<string, TensorSpec> {
  const b = blockSizeOf(site, config);
  const { factors } = config;
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
  sized: (size) => ({ blockSize: size }),
  schema,
  kinds: ["linear", "conv"],
  tensors,
  weight: (weight, values, _, { factors }) =>
    scaled(
      rotate(weight, factors, (level) => rotationOf(values, level)),
      values.boft_s as Value,
    ),
  forward(call, config) {
    const { x, bias, gate, weight, apply, training, tensors: values } = call;
    const blocksAt =
      training && config.dropout > 0
        ? withDropout(call, config)
        : (level: number) => rotationOf(values, level);
    const turned = rotate(weight(), config.factors, blocksAt);
    // The strength goes into the factors: three passes over the weight instead of four.
    const part = scaled(turned, ops.mul(values.boft_s as Value, gate));
    const product = apply(x, ops.add(ops.mul(weight(), ops.sub(1, gate)), part));
    return bias ? ops.add(product, bias) : product;
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
