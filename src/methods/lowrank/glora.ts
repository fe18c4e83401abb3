import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { drawPaths, gloraChoices, gloraRank } from "./glora-paths.js";

const factor = z
  .string()
  .regex(/^(lora(-\d+)?|vector|constant|none)$/, "lora, lora-RANK, vector, constant or none");
const prompt = z.string().regex(/^(lora(-\d+)?|vector|none)$/, "lora, lora-RANK, vector or none");
const shift = z.enum(["vector", "constant", "none"]);
const forms = z.strictObject({ a: factor, b: factor, c: prompt, d: shift, e: shift });

/** The form of each of the five support tensors of one module. */
export type GloraForms = z.infer<typeof forms>;

const schema = siteConfigSchema.extend({
  ranks: z.array(z.number().int().positive()).min(1).default([4]).describe("ranks that lora forms may have"),
  a: factor.default("lora").describe("form of A, which scales the weight"),
  b: factor.default("lora").describe("form of B, which is added to the weight"),
  c: prompt.default("lora").describe("form of C, a prompt: W·C is added to the bias"),
  d: shift.default("constant").describe("form of D, which scales the bias"),
  e: shift.default("constant").describe("form of E, which is added to the bias"),
  chosen: z
    .record(z.string(), forms)
    .default({})
    .describe("forms of single modules, by path, as a search finds them"),
  newBias: z.boolean().default(false).describe("C and E also at modules without a bias, which get one"),
  supernet: z
    .boolean()
    .default(false)
    .describe("train all forms at once: every update draws one per tensor and module"),
});

/** Configuration of GLoRA, after defaults. */
export type GloraConfig = z.infer<typeof schema>;

/** Forms of one module outside a supernet; tensors that act on a bias need one. */
export function gloraForms({ path, hasBias }: SiteShape, config: GloraConfig): GloraForms {
  const own = config.chosen[path] ?? config;
  const biased = hasBias || config.newBias;
  return {
    a: own.a,
    b: own.b,
    c: biased ? own.c : "none",
    d: hasBias ? own.d : "none",
    e: biased ? own.e : "none",
  };
}

type Numbers = (shape: readonly number[]) => TensorSpec;

const zeros: Numbers = (shape) => ({
  shape,
  trainable: true,
  init: () => new Float32Array(shape.reduce((x, y) => x * y, 1)),
});

/** Xu, Kaiming-uniform as PEFT's. */
const random: Numbers = ([rows = 1, columns = 1]) => ({
  shape: [rows, columns],
  trainable: true,
  init: ({ uniform }: InitContext) =>
    uniform(rows * columns, -1 / Math.sqrt(columns), 1 / Math.sqrt(columns)),
});

/** Tensors of one support tensor of `rows` by `columns` in one form. */
function support(
  name: string,
  form: string,
  [rows, columns]: readonly [number, number],
  ranks: readonly number[],
): Record<string, TensorSpec> {
  if (form === "none") return {};
  if (form === "constant") return { [`glora_${name}.X`]: zeros([1]) };
  if (form === "vector") return { [`glora_${name}.X`]: zeros(columns === 0 ? [rows] : [rows, 1]) };
  const rank = gloraRank(form, ranks);
  return { [`glora_${name}.Xd`]: zeros([rows, rank]), [`glora_${name}.Xu`]: random([rank, columns]) };
}

function tensors(site: SiteShape, config: GloraConfig): Record<string, TensorSpec> {
  const { ranks, supernet } = config;
  const chosen = gloraForms(site, config);
  const form = (own: string, whole: string) => (supernet && own !== "none" ? whole : own);
  const [inn, out] = [site.inFeatures, site.outFeatures];
  const specs = {
    ...support("A", supernet ? "lora" : chosen.a, [out, inn], ranks),
    ...support("B", supernet ? "lora" : chosen.b, [out, inn], ranks),
    ...support("C", form(chosen.c, "lora"), [inn, 1], ranks),
    ...support("D", form(chosen.d, "vector"), [out, 0], ranks),
    ...support("E", form(chosen.e, "vector"), [out, 0], ranks),
  };
  if (!supernet) return specs;
  const paths = gloraChoices(site, config);
  return {
    ...specs,
    glora_paths: { shape: [paths.size], trainable: false, init: () => paths.masks(chosen) },
  };
}

/** A support tensor, shaped to broadcast over what it acts on; undefined for none. */
function term(name: "A" | "B" | "C" | "D" | "E", values: TensorValues, site: SiteShape, config: GloraConfig) {
  const [x, down, up] = [values[`glora_${name}.X`], values[`glora_${name}.Xd`], values[`glora_${name}.Xu`]];
  const paths = values.glora_paths;
  if (!paths) return down && up ? ops.matmul(down, up) : x;
  const choices = gloraChoices(site, config);
  const mask = (form: string) => ops.slice(paths, 0, choices.at(name, form), choices.at(name, form) + 1);
  if (x) {
    const constant = ops.mul(ops.slice(x, 0, 0, 1), mask("constant"));
    return ops.add(ops.mul(x, mask("vector")), constant);
  }
  if (!down || !up) return undefined;
  // Column k of Xd counts in every lora form of a rank above k.
  const rank = up.shape[0] as number;
  const columns = Array.from({ length: rank }, (_, k) => {
    const larger = config.ranks.filter((each) => each > k).map((each) => mask(`lora-${each}`));
    return larger.reduce((left, right) => ops.add(left, right));
  });
  const product = ops.matmul(ops.mul(down, ops.concat(columns, 0)), up);
  const first = ops.slice(down, 1, 0, 1);
  const vector = ops.mul(first, mask("vector"));
  const simple =
    name === "C" ? vector : ops.add(vector, ops.mul(ops.slice(first, 0, 0, 1), mask("constant")));
  return ops.add(product, simple);
}

/** Generalised LoRA (arXiv 2306.07967): W' = W + W∘A + B and b' = b + b∘D + E + W·C, each tensor in a form of its own. */
export const gloraMethod = {
  name: "glora",
  summary: "weights and biases scaled and shifted by tensors whose form is chosen per module",
  paper: "2306.07967",
  sized: (size) => ({ ranks: [size] }),
  schema,
  kinds: ["linear"],
  tensors,
  weight(weight, values, site, config) {
    const [a, b] = [term("A", values, site, config), term("B", values, site, config)];
    const scaled = a ? ops.add(weight, ops.mul(weight, a)) : weight;
    return b ? ops.add(scaled, b) : scaled;
  },
  biasDelta(values, site, config, bias, weight) {
    const [c, d, e] = (["C", "D", "E"] as const).map((name) => term(name, values, site, config));
    const zero = () => ops.full([site.outFeatures], 0, "float32");
    const parts = [
      ...(bias && d ? [ops.mul(bias, d)] : []),
      ...(e ? [ops.add(zero(), e)] : []),
      ...(c ? [ops.squeeze(ops.matmul(weight(), c), 1)] : []),
    ];
    return parts.length > 0 ? parts.reduce((left, right) => ops.add(left, right)) : undefined;
  },
  hooks: drawPaths,
} satisfies Method<GloraConfig>;

/**
 * GLoRA with a configuration. With `supernet`, train, then let `searchGlora` choose the forms and `extractGlora` keep those
 * alone; without, all modules have the forms given.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { glora } from "tunesmith/methods";
 * const supernet = glora({ supernet: true, ranks: [2, 4], targets: "all-linear" });
 * const scales = glora({ a: "vector", b: "none", c: "none", d: "vector", e: "vector" });
 * ```
 */
export function glora(config: z.input<typeof schema> = {}): Adaptation<GloraConfig> {
  const parsed = parseConfig("glora", schema, config);
  for (const { a, b, c } of [parsed, ...Object.values(parsed.chosen)])
    for (const form of [a, b, c]) checkRank(form, parsed.ranks);
  return { method: gloraMethod, config: parsed };
}

function checkRank(form: string, ranks: readonly number[]): void {
  const rank = /^lora-(\d+)$/.exec(form)?.[1];
  if (rank === undefined || ranks.includes(Number(rank))) return;
  throw new TunesmithError("config-invalid", `glora: form '${form}' has a rank that is not in ranks`, {
    fix: `ranks: ${ranks.join(", ")}`,
  });
}
