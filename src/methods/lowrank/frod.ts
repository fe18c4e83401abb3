import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { leastSquares, type Matrix, type Matrix64, solve, transpose } from "../../runtime/linalg/index.js";
import { mt19937 } from "../../runtime/random/index.js";
import { addAt, identityMatrix } from "../algebra.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type {
  Adaptation,
  InitContext,
  Method,
  SharedInitContext,
  SharedSpec,
  SiteShape,
  TensorSpec,
  TensorValues,
} from "../method.js";
import { commonBasis } from "./common-basis.js";

const schema = siteConfigSchema.extend({
  sparseRate: z
    .number()
    .gt(0)
    .max(1)
    .default(0.01)
    .describe("share of the entries off the diagonal that are trained"),
  ridge: z
    .number()
    .positive()
    .default(1e-3)
    .describe("what is added to Gram matrices before they are inverted"),
  positionSeed: z.number().int().nonnegative().default(0).describe("seed of the places of those entries"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
  basis: z
    .enum(["own", "peft"])
    .default("own")
    .describe("who computed the common basis; peft is for adapters that PEFT wrote"),
});

/** Configuration of FRoD, after defaults. */
export type FrodConfig = z.infer<typeof schema>;

/** Modules of one role in different blocks share a basis: `self_attn_q_proj` of `layers.3.self_attn.q_proj`. */
function categoryOf(path: string): string {
  const parts = path.split(".");
  const [over, parent, name] = [parts.at(-3), parts.at(-2), parts.at(-1) as string];
  if (parent === undefined || /^\d+$/.test(parent)) return name;
  if (parent === "output" && name === "dense" && over === "attention") return "attention_output";
  return `${parent}_${name}`;
}

/** Sites by category, in the order of their names. */
function categories(sites: readonly SiteShape[]): (readonly [string, readonly SiteShape[]])[] {
  const groups = new Map<string, SiteShape[]>();
  for (const site of sites) {
    const own = groups.get(categoryOf(site.path)) ?? [];
    groups.set(categoryOf(site.path), [...own, site]);
  }
  for (const [name, own] of groups) {
    const other = own.find(({ inFeatures }) => inFeatures !== own[0]?.inFeatures);
    if (!other) continue;
    throw new TunesmithError(
      "config-invalid",
      `frod: ${other.path} and ${own[0]?.path} share the basis '${name}', but have different inputs`,
      { fix: "adapt them by adapters of their own", details: { path: other.path } },
    );
  }
  return [...groups].sort(([a], [b]) => (a < b ? -1 : 1));
}

const entriesOf = (inFeatures: number, { sparseRate }: FrodConfig): number =>
  Math.min(Math.max(1, Math.floor(inFeatures * inFeatures * sparseRate)), inFeatures * (inFeatures - 1));

/** Rows, then columns, of each category's trained entries, from PyTorch's generator as PEFT draws them. */
function positions(sites: readonly SiteShape[], config: FrodConfig): ReadonlyMap<string, BigInt64Array> {
  const generator = mt19937(config.positionSeed);
  return new Map(
    categories(sites).map(([name, [first]]) => {
      const size = first?.inFeatures ?? 0;
      const count = entriesOf(size, config);
      const drawn = generator.randperm(size * (size - 1)).subarray(0, count);
      const places = new BigInt64Array(2 * count);
      drawn.forEach((place, at) => {
        const row = Math.floor(place / (size - 1));
        const column = place % (size - 1);
        places[at] = BigInt(row);
        places[count + at] = BigInt(column >= row ? column + 1 : column);
      });
      return [name, places] as const;
    }),
  );
}

async function computed(
  own: readonly SiteShape[],
  { weight }: SharedInitContext,
  { ridge, basis }: FrodConfig,
): Promise<Float32Array> {
  if (basis === "peft") {
    throw new TunesmithError(
      "config-invalid",
      "frod: a basis that PEFT computed comes from its files alone",
      {
        fix: "leave basis out, or load an adapter that PEFT wrote",
      },
    );
  }
  const matrices: Matrix[] = [];
  for (const { path, outFeatures: rows, inFeatures: cols } of own)
    matrices.push({ rows, cols, data: (await weight?.(path)) ?? new Float32Array(rows * cols) });
  return Float32Array.from(commonBasis(matrices, ridge).data);
}

function shared(sites: readonly SiteShape[], config: FrodConfig): Record<string, SharedSpec> {
  const specs: Record<string, SharedSpec> = {};
  for (const [name, own] of categories(sites)) {
    const size = own[0]?.inFeatures ?? 0;
    specs[`frod_V.${name}`] = {
      shape: [size, size],
      trainable: false,
      init: (context) => computed(own, context, config),
    };
    specs[`frod_s_indices.${name}`] = {
      shape: [2, entriesOf(size, config)],
      dtype: "int64",
      trainable: false,
      init: async ({ once }) =>
        (await once("positions", async () => positions(sites, config))).get(name) as BigInt64Array,
    };
    specs[`frod_s_size.${name}`] = {
      shape: [2],
      dtype: "int64",
      trainable: false,
      init: () => BigInt64Array.of(BigInt(size), BigInt(size)),
    };
  }
  return specs;
}

/** W·V⁻ᵀ as U `[out, in]` with columns of length 1, and their lengths. */
async function decomposed({ site, weight, shared: sharedTensor }: InitContext) {
  const { outFeatures: out, inFeatures: inn } = site;
  const v: Matrix = {
    rows: inn,
    cols: inn,
    data: sharedTensor?.(`frod_V.${categoryOf(site.path)}`) as Float32Array,
  };
  const columns = solved(v, transpose({ rows: out, cols: inn, data: await weight() }));
  const [u, lengths] = [new Float32Array(out * inn), new Float32Array(inn)];
  for (let k = 0; k < inn; k++) {
    const row = columns.data.subarray(k * out, (k + 1) * out);
    const length = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
    lengths[k] = length;
    if (length > 1e-12)
      row.forEach((value, at) => {
        u[at * inn + k] = value / length;
      });
  }
  return { u, lengths };
}

function solved(v: Matrix, right: Matrix): Matrix64 {
  try {
    return solve(v, right);
  } catch (error) {
    if (!(error instanceof TunesmithError) || error.code !== "numerical-failure") throw error;
    return leastSquares(v, right, 1e-6);
  }
}

function tensors(site: SiteShape, config: FrodConfig): Record<string, TensorSpec> {
  const { outFeatures: out, inFeatures: inn } = site;
  if (inn < 2) {
    throw new TunesmithError("config-invalid", `frod: ${site.path} has one input, nothing off a diagonal`, {
      fix: "leave it out of the targets",
    });
  }
  const both = (context: InitContext) => context.once("parts", () => decomposed(context));
  const count = entriesOf(inn, config);
  const lengths = async (context: InitContext) => (await both(context)).lengths.slice();
  return {
    frod_lambda_l: { shape: [inn], trainable: true, init: lengths },
    frod_lambda_s_values: { shape: [count], trainable: true, init: () => new Float32Array(count) },
    frod_start: { shape: [inn], trainable: false, stored: false, init: lengths },
    frod_U: {
      shape: [out, inn],
      trainable: false,
      stored: false,
      init: async (context) => (await both(context)).u,
    },
  };
}

/** Vᵀ, the change of what stands between the bases, S + diag(λ − λ₀), and U. */
function parts(values: TensorValues, { path, inFeatures }: SiteShape) {
  const name = categoryOf(path);
  const at = (row: number) =>
    ops.squeeze(ops.slice(values[`frod_s_indices.${name}`] as Value, 0, row, row + 1), 0);
  const places = ops.add(ops.mul(at(0), inFeatures), at(1));
  const moved = ops.sub(values.frod_lambda_l as Value, values.frod_start as Value);
  const diagonal = ops.mul(identityMatrix(inFeatures), moved);
  return {
    v: ops.transpose(values[`frod_V.${name}`] as Value, [1, 0]),
    change: addAt(diagonal, places, values.frod_lambda_s_values as Value),
    u: values.frod_U as Value,
  };
}

/** W + U·C·Vᵀ, the smaller of the two inner products first. */
function changedWeight(weight: Value, change: Value, u: Value, v: Value): Value {
  const [out, inn] = u.shape as [number, number];
  return out <= inn ? ops.gemm(ops.matmul(u, change), v, weight) : ops.gemm(u, ops.matmul(change, v), weight);
}

/**
 * Whether a step over so many rows takes fewer multiplications with W' than with its factors one after the other: the gradient of
 * the whole weight, and making W' and its gradient, against three more products with the rows in both directions.
 */
function isLong(rows: unknown, { inFeatures: inn, outFeatures: out }: SiteShape): boolean {
  const making = inn * inn * (out + Math.min(inn, out));
  return typeof rows === "number" && 2 * making < rows * inn * (out + 5 * inn);
}

/**
 * FRoD (doi 10.1609/aaai.v40i31.39813): W = U·diag(λ)·Vᵀ with V common to all modules of a role; trained are λ and a few
 * entries S beside the diagonal: W' = W + U·(S + diag(λ − λ₀))·Vᵀ.
 */
export const frodMethod = {
  name: "frod",
  summary: "scales and a few rotations in a basis that modules of one role share",
  paper: "https://doi.org/10.1609/aaai.v40i31.39813",
  schema,
  kinds: ["linear"],
  shared,
  tensors,
  weight(weight, values, site) {
    const { u, change, v } = parts(values, site);
    return changedWeight(weight, change, u, v);
  },
  forward({ x, y, gate, tensors: values, site, apply, mix, dropped, weight, bias }, { dropout }) {
    const { u, change, v } = parts(values, site);
    if (dropout > 0 || !isLong(x.shape[0], site)) {
      const input = dropout > 0 ? dropped(x, dropout) : x;
      return mix(ops.mul(mix(apply(input, v), change), gate), u, { onto: y });
    }
    const product = apply(x, changedWeight(weight(), ops.mul(change, gate), u, v));
    return bias ? ops.add(product, bias) : product;
  },
} satisfies Method<FrodConfig>;

/**
 * FRoD with a configuration. Defaults are PEFT's. The common basis is computed from the weights when an adapter is made,
 * which takes a while for wide inputs, and stored with it, once per role; U is computed from both again. PEFT takes its U from a
 * basis that it computes itself whatever the file says, so that it reads its own adapters only: others are saved in a folder that
 * it refuses.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { frod } from "tunesmith/methods";
 * const adaptation = frod({ sparseRate: 0.02, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const frod = (config: z.input<typeof schema> = {}): Adaptation<FrodConfig> => ({
  method: frodMethod,
  config: parseConfig("frod", schema, config),
});
