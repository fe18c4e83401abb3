import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import type { TrainingHooks } from "../../models/index.js";
import { qr, transpose } from "../../runtime/linalg/index.js";
import { rng } from "../../runtime/random/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, HookContext, HookSite, InitContext, Method, SiteShape } from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(64).describe("rows r of the frozen projections"),
  dInitial: z.number().positive().default(0.1).describe("start of the scaling vector d"),
  every: z.number().int().positive().default(200).describe("updates between two re-drawings"),
  fraction: z
    .number()
    .min(0)
    .max(1)
    .default(0.25)
    .describe("share of the rows re-drawn: those of smallest |d|"),
  blend: z.number().min(0).max(1).default(0.5).describe("how much of a fresh row replaces the old one"),
  until: z.number().min(0).max(1).default(0.8).describe("share of the run after which nothing is re-drawn"),
  onReinit: z.enum(["keep", "zero"]).default("keep").describe("what happens to d of a re-drawn row"),
});

/** Configuration of UORA, after defaults. */
export type UoraConfig = z.infer<typeof schema>;

/** Uniform numbers made orthonormal: rows of A `[r, n]`; columns of B are its transpose `[n, r]`. */
function orthonormal({ uniform }: InitContext, n: number, rank: number): Float32Array {
  const { q } = qr({ rows: n, cols: rank, data: uniform(n * rank, -1, 1) });
  return Float32Array.from(q.data);
}

/** Throws `config-invalid` for more orthonormal rows than there are dimensions. */
function checkRank({ path, inFeatures, outFeatures }: SiteShape, rank: number): void {
  const most = Math.min(inFeatures, outFeatures);
  if (rank <= most) return;
  throw new TunesmithError(
    "config-invalid",
    `uora: rank ${rank} is above ${most}, the smaller side of ${path}: that many rows cannot be orthonormal`,
    { fix: `choose a rank of at most ${most}`, details: { path } },
  );
}

/**
 * Uniform orthogonal reinitialisation adaptation (arXiv 2505.20154): W' = W + diag(b)·B·diag(d)·A, A and B frozen, and
 * rows that d has no use for are drawn anew. Schedule and constants are a reconstruction: the paper's text was not read.
 */
export const uoraMethod = {
  name: "uora",
  summary: "trained scaling vectors over frozen projections whose idle rows are drawn anew",
  paper: "2505.20154",
  schema,
  kinds: ["linear"],
  tensors(site, { rank, dInitial }) {
    checkRank(site, rank);
    return {
      uora_A: {
        shape: [rank, site.inFeatures],
        trainable: false,
        init(context) {
          const q = { rows: site.inFeatures, cols: rank, data: orthonormal(context, site.inFeatures, rank) };
          return Float32Array.from(transpose(q).data);
        },
      },
      uora_B: {
        shape: [site.outFeatures, rank],
        trainable: false,
        init: (context) => orthonormal(context, site.outFeatures, rank),
      },
      uora_b: { shape: [site.outFeatures], trainable: true, init: () => new Float32Array(site.outFeatures) },
      uora_d: { shape: [rank], trainable: true, init: () => new Float32Array(rank).fill(dInitial) },
    };
  },
  additive: () => true,
  weight(weight, values) {
    const left = ops.mul(ops.unsqueeze(values.uora_b as Value, 1), values.uora_B as Value);
    return ops.gemm(ops.mul(left, values.uora_d as Value), values.uora_A as Value, weight);
  },
  forward({ x, y, gate, tensors: values, apply, mix, perFeature }) {
    const inner = ops.mul(apply(x, values.uora_A as Value), perFeature(values.uora_d as Value));
    const outer = mix(inner, values.uora_B as Value);
    return ops.add(y, ops.mul(ops.mul(outer, perFeature(values.uora_b as Value)), gate));
  },
  hooks: redraw,
} satisfies Method<UoraConfig>;

const numbers = (site: HookSite, key: string) => site.tensors[key]?.tensor.data as Float32Array;

/** Re-draws the rows of A and columns of B that |d| says are idle. */
function redraw({ config, sites }: HookContext<UoraConfig>): TrainingHooks {
  const { every, until, fraction, rank } = config;
  return {
    afterUpdate({ step, steps, forget }) {
      if (step % every !== 0 || step > until * steps) return;
      for (const site of sites) {
        const d = numbers(site, "uora_d");
        const idle = [...d.keys()]
          .sort((a, b) => Math.abs(d[a] as number) - Math.abs(d[b] as number) || a - b)
          .slice(0, Math.ceil(fraction * rank));
        forget?.(site.tensors.uora_d?.name ?? "", idle);
        for (const row of idle) {
          const { inFeatures, outFeatures, path } = site.shape;
          const random = (n: number, part: string) =>
            rng(step, "uora", path, row, part)
              .fillUniform(new Float32Array(n))
              .map((value) => 2 * value - 1);
          const a = { data: numbers(site, "uora_A"), start: row * inFeatures, stride: 1, count: inFeatures };
          const b = { data: numbers(site, "uora_B"), start: row, stride: rank, count: outFeatures };
          blendIn(
            a,
            others(rank, row, (k) => k * inFeatures),
            random(inFeatures, "A"),
            config.blend,
          );
          blendIn(
            b,
            others(rank, row, (k) => k),
            random(outFeatures, "B"),
            config.blend,
          );
          if (config.onReinit === "zero") d[row] = 0;
        }
      }
    },
  };
}

const others = (rank: number, row: number, start: (k: number) => number): number[] =>
  Array.from({ length: rank }, (_, k) => k).flatMap((k) => (k === row ? [] : [start(k)]));

interface Line {
  readonly data: Float32Array;
  readonly start: number;
  readonly stride: number;
  readonly count: number;
}

/** Replaces a line by a blend with a fresh one orthogonal to the others, of the same length. */
function blendIn(line: Line, rest: readonly number[], fresh: Float32Array, blend: number): void {
  const { data, start, stride, count } = line;
  const at = (from: number, index: number) => data[from + index * stride] as number;
  const old = Float64Array.from({ length: count }, (_, index) => at(start, index));
  const drawn = Float64Array.from(fresh);
  for (const other of rest) {
    let [dot, square] = [0, 0];
    for (let index = 0; index < count; index++) {
      dot += (drawn[index] as number) * at(other, index);
      square += at(other, index) ** 2;
    }
    if (square === 0) continue;
    for (let index = 0; index < count; index++)
      drawn[index] = (drawn[index] as number) - (dot / square) * at(other, index);
  }
  const length = Math.hypot(...old);
  const scale = length / (Math.hypot(...drawn) || 1);
  const mixed = old.map((value, index) => (1 - blend) * value + blend * scale * (drawn[index] as number));
  const back = length / (Math.hypot(...mixed) || 1);
  mixed.forEach((value, index) => {
    data[start + index * stride] = value * back;
  });
}

/**
 * UORA with a configuration. Throws `config-invalid` naming the field; so does adapting a map with a side below the rank.
 *
 * @example
 * ```ts
 * import { uora } from "tunesmith/methods";
 * const adaptation = uora({ rank: 64, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const uora = (config: z.input<typeof schema> = {}): Adaptation<UoraConfig> => ({
  method: uoraMethod,
  config: parseConfig("uora", schema, config),
});
