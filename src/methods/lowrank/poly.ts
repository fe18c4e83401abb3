import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteCall, SiteShape, TensorSpec, TensorValues } from "../method.js";

const count = (standard: number) => z.number().int().positive().default(standard);

const schema = siteConfigSchema.extend({
  rank: count(8).describe("rank r of every skill"),
  tasks: count(1).describe("tasks, each with shares of its own in the skills"),
  skills: count(4).describe("low-rank updates that the tasks mix theirs from"),
  splits: count(1).describe(
    "parts of inputs and outputs that are mixed apart (multi-head routing, arXiv 2211.03831)",
  ),
  taskId: z.number().int().nonnegative().default(0).describe("which task it starts with; setTask changes it"),
});

/** Configuration of Poly, after defaults. */
export type PolyConfig = z.infer<typeof schema>;

/** Name of the switch that says which task is run. */
export const TASK_KEY = "poly_task";

function splitOf({ path, inFeatures, outFeatures }: SiteShape, { splits }: PolyConfig) {
  const [inn, out] = [inFeatures / splits, outFeatures / splits];
  if (Number.isInteger(inn) && Number.isInteger(out)) return { inn, out };
  throw new TunesmithError(
    "config-invalid",
    `splits: ${splits} does not divide both sides of ${path}, ${outFeatures} x ${inFeatures}`,
    { fix: "choose a common divisor", details: { path } },
  );
}

function tensors(site: SiteShape, config: PolyConfig): Record<string, TensorSpec> {
  const { rank, tasks, skills, splits } = config;
  const { inn, out } = splitOf(site, config);
  const a = splits * skills * inn * rank;
  return {
    poly_lora_A: {
      shape: [splits, skills, inn, rank],
      trainable: true,
      init: ({ uniform }) => uniform(a, -1 / Math.sqrt(inn), 1 / Math.sqrt(inn)),
    },
    poly_lora_B: {
      shape: [splits, skills, rank, out],
      trainable: true,
      init: () => new Float32Array(splits * skills * rank * out),
    },
    poly_logits: {
      shape: [tasks, splits * skills],
      trainable: true,
      routed: true,
      init: ({ uniform }) => uniform(tasks * splits * skills, -1e-3, 1e-3),
    },
  };
}

/** A sample of the relaxed Bernoulli distribution of these logits, at temperature 1; their probabilities outside training. */
function allocated(logits: Value, call?: Pick<SiteCall, "training" | "noise">): Value {
  if (!call?.training) return ops.sigmoid(logits);
  const u = ops.clip(call.noise(logits, "uniform"), 1e-7, 1 - 1e-7);
  return ops.sigmoid(ops.add(logits, ops.sub(ops.log(u), ops.log(ops.sub(1, u)))));
}

/** The task's factors, mixed from the skills: a `[r, in]` and b `[out, r]`. */
function factors(
  values: TensorValues,
  site: SiteShape,
  { rank, skills, splits }: PolyConfig,
  call?: Pick<SiteCall, "training" | "noise">,
): { readonly a: Value; readonly b: Value } {
  const own = ops.gather(values.poly_logits as Value, values[TASK_KEY] as Value);
  const shares = allocated(ops.reshape(own, [splits, skills]), call);
  const sums = ops.add(ops.reduceSum(shares, [1]), 1e-12);
  const weights = ops.unsqueeze(ops.div(shares, sums), 2, 3);
  const mixed = (skill: Value) => ops.reduceSum(ops.mul(skill, weights), [1], false);
  const a = ops.reshape(mixed(values.poly_lora_A as Value), [site.inFeatures, rank]);
  const b = ops.transpose(mixed(values.poly_lora_B as Value), [0, 2, 1]);
  return { a: ops.transpose(a, [1, 0]), b: ops.reshape(b, [site.outFeatures, rank]) };
}

/**
 * Polytropon (arXiv 2202.13914): W' = W + B·A / r, both mixed from the skills that a task allocates to itself. The allocation is sampled
 * while training. One task is run at a time: the one that `setTask` chose, or a batch of `byTask` brings.
 */
export const polyMethod = {
  name: "poly",
  summary: "low-rank updates mixed from skills that several tasks share",
  paper: "2202.13914",
  schema,
  kinds: ["linear"],
  shared(_, { tasks, taskId }) {
    checkTask(taskId, tasks);
    return {
      [TASK_KEY]: {
        shape: [],
        dtype: "int64",
        trainable: false,
        stored: false,
        init: () => BigInt64Array.of(BigInt(taskId)),
      },
    };
  },
  tensors,
  additive: () => true,
  weight(weight, values, site, config) {
    const { a, b } = factors(values, site, config);
    return ops.gemm(b, a, weight, { alpha: 1 / config.rank });
  },
  lowRank(_, values, site, config) {
    const { a, b } = factors(values, site, config);
    return { a, b: ops.mul(b, 1 / config.rank) };
  },
  forward(call, config) {
    const { x, y, gate, apply, mix, site, tensors: values } = call;
    const { a, b } = factors(values, site, config, call);
    return mix(ops.mul(apply(x, a), gate), b, { onto: y, alpha: 1 / config.rank });
  },
} satisfies Method<PolyConfig>;

/** Throws `config-invalid` for a task that there is not. */
export function checkTask(task: number, tasks: number): void {
  if (Number.isInteger(task) && task >= 0 && task < tasks) return;
  throw new TunesmithError("config-invalid", `poly: there is no task ${task}`, {
    fix: `tasks are counted from 0; this adapter has ${tasks}`,
  });
}

/**
 * Poly with a configuration. Defaults are PEFT's.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { poly } from "tunesmith/methods";
 * const adaptation = poly({ tasks: 8, skills: 4, splits: 4, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const poly = (config: z.input<typeof schema> = {}): Adaptation<PolyConfig> => ({
  method: polyMethod,
  config: parseConfig("poly", schema, config),
});
