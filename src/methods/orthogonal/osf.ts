import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { type Svd, slice, svd } from "../../runtime/linalg/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { patternValue } from "../targets.js";

const keptSchema = z.number().positive();

const schema = siteConfigSchema.extend({
  keptRank: keptSchema
    .optional()
    .describe("singular directions that stay: a number of them, or a share below 1; default: half"),
  keptPattern: z.record(z.string(), keptSchema).default({}).describe("the same by module pattern"),
});

/** Configuration of OSF, after defaults. */
export type OsfConfig = z.infer<typeof schema>;

/** Directions kept and trained at a site. Throws `config-invalid` where nothing is left of either. */
function ranks(site: SiteShape, { keptRank, keptPattern }: OsfConfig): { kept: number; trained: number } {
  const most = Math.min(site.inFeatures, site.outFeatures);
  const asked = patternValue(keptPattern, site.path, keptRank ?? 0.5);
  const kept = Math.floor(asked < 1 ? most * asked : asked);
  if (kept >= 1 && kept < most) return { kept, trained: most - kept };
  throw new TunesmithError(
    "config-invalid",
    `osf: keptRank ${asked} keeps ${kept} of the ${most} directions of ${site.path}`,
    {
      fix: `keep at least 1 and at most ${most - 1}`,
      details: { path: site.path },
    },
  );
}

async function decomposed({ site, weight }: InitContext): Promise<Svd> {
  return svd({ rows: site.outFeatures, cols: site.inFeatures, data: await weight() });
}

/** A part of the decomposition; computed once for all tensors of a site. */
const part =
  (take: (whole: Svd) => Float64Array): TensorSpec["init"] =>
  async (context) =>
    Float32Array.from(take(await context.once("svd", () => decomposed(context))));

function tensors(site: SiteShape, config: OsfConfig): Record<string, TensorSpec> {
  const { inFeatures: inn, outFeatures: out } = site;
  const { kept, trained } = ranks(site, config);
  const columns = (from: number, to: number) => part(({ u }) => slice(u, 0, out, from, to).data);
  const rows = (from: number, to: number) => part(({ vt }) => slice(vt, from, to).data);
  const [low, s] = [columns(kept, kept + trained), part((whole) => whole.s.slice(kept))];
  const right = rows(kept, kept + trained);
  const frozen = (shape: readonly number[], init: TensorSpec["init"]): TensorSpec => ({
    shape,
    trainable: false,
    stored: false,
    init,
  });
  const specs: Record<string, TensorSpec> = {
    U_low: { shape: [out, trained], trainable: true, init: low },
    S_low: { shape: [trained], trainable: true, init: s },
    V_low: { shape: [trained, inn], trainable: true, init: right },
    U_start: frozen([out, trained], low),
    S_start: frozen([trained], s),
    V_start: frozen([trained, inn], right),
  };
  // A square factor's kept directions are what its trained ones leave: only the other side needs them by name.
  if (out > inn) specs.U_kept = frozen([out, kept], columns(0, kept));
  if (inn > out) specs.V_kept = frozen([kept, inn], rows(0, kept));
  return specs;
}

/** The value, whose gradient loses what lies along the columns of `basis`, or keeps only that. */
function projected(value: Value, basis: Value, keep: boolean): Value {
  return ops.customVjp(value, [value], [basis], ({ saved: [found] }, dy) => {
    const q = found as Value;
    const along = ops.matmul(q, ops.gemm(q, dy, undefined, { transA: true }));
    return [keep ? along : ops.sub(dy, along)];
  });
}

/** The trained part as a product, U·diag(S) `[out, n]` and V `[n, in]`, and what it started as, negative. */
function factors(values: TensorValues): Record<"now" | "start", { a: Value; b: Value }> {
  const turned = (value: Value) => ops.transpose(value, [1, 0]);
  const u = values.U_kept
    ? projected(values.U_low as Value, values.U_kept, false)
    : projected(values.U_low as Value, values.U_start as Value, true);
  const v = values.V_kept
    ? projected(turned(values.V_low as Value), turned(values.V_kept), false)
    : projected(turned(values.V_low as Value), turned(values.V_start as Value), true);
  return {
    now: { a: turned(v), b: ops.mul(u, values.S_low as Value) },
    start: {
      a: values.V_start as Value,
      b: ops.mul(values.U_start as Value, ops.neg(values.S_start as Value)),
    },
  };
}

/** Both as one product. */
function lowRank(values: TensorValues): { a: Value; b: Value } {
  const { now, start } = factors(values);
  return { a: ops.concat([now.a, start.a], 0), b: ops.concat([now.b, start.b], 1) };
}

/** W with the trained part as it is, at a strength. */
function changedWeight(weight: Value, values: TensorValues, gate?: Value): Value {
  const { now, start } = factors(values);
  const scaled = (b: Value) => (gate ? ops.mul(b, gate) : b);
  return ops.gemm(scaled(now.b), now.a, ops.gemm(scaled(start.b), start.a, weight));
}

/**
 * Whether a step over so many rows takes fewer multiplications with W' than with its n directions apart: the gradient of the whole
 * weight, and making W' and the gradients of its factors, against five thin products of both parts with the rows.
 */
function isLong(rows: unknown, { inFeatures: inn, outFeatures: out }: SiteShape, n: number): boolean {
  return typeof rows === "number" && inn * out * (rows + 4 * n) < 5 * rows * n * (inn + out);
}

/**
 * Orthogonal subspace fine-tuning (arXiv 2504.07097): the largest singular directions of W stay, the rest is trained, and
 * gradients are kept orthogonal to what stays: W' = U_kept·S_kept·V_kept + U·S·V.
 */
export const osfMethod = {
  name: "osf",
  summary: "the smaller singular directions trained, at right angles to the larger ones",
  paper: "2504.07097",
  schema,
  kinds: ["linear"],
  tensors,
  weight: (weight, values) => changedWeight(weight, values),
  lowRank: (_, values) => lowRank(values),
  forward({ x, y, bias, gate, tensors: values, site, weight, apply, mix }, config) {
    if (!isLong(x.shape[0], site, ranks(site, config).trained)) {
      const { a, b } = lowRank(values);
      return mix(ops.mul(apply(x, a), gate), b, { onto: y });
    }
    const product = apply(x, changedWeight(weight(), values, gate));
    return bias ? ops.add(product, bias) : product;
  },
} satisfies Method<OsfConfig>;

/**
 * OSF with a configuration. Defaults are PEFT's: half of the directions stay. What stays is read off the base again when an
 * adapter is loaded, so files hold the trained part alone. Optimisers that scale gradients entry by entry leave the
 * orthogonal space a little, as in the reference.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { osf } from "tunesmith/methods";
 * const adaptation = osf({ keptRank: 0.75, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const osf = (config: z.input<typeof schema> = {}): Adaptation<OsfConfig> => ({
  method: osfMethod,
  config: parseConfig("osf", schema, config),
});
