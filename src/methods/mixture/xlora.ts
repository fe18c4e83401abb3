import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { type Model, probeOutputs, sitesOf } from "../../models/index.js";
import type { Adapter } from "../adapter.js";
import { lastHidden } from "../last-hidden.js";
import type { Adaptation, Method, SharedSpec, SiteCall, SiteConfig } from "../method.js";
import { sumOverRows, topRoutes, weightsOf } from "../routing.js";
import { addExperts, checkExpert, expertTensors } from "./experts.js";

const size = (standard: number) => z.number().int().positive().default(standard);

export const xloraSchema = z.strictObject({
  experts: z.array(z.string()).min(1).describe("folders of LoRA adapters for this model: the experts"),
  depth: size(1).describe("linear layers of the classifier that weighs the experts"),
  width: size(2048).describe("width of its hidden layers"),
  dropout: z.number().min(0).lt(1).default(0.2).describe("dropout behind its hidden layers while training"),
  layerwise: z.boolean().default(false).describe("weigh the experts at every module apart"),
  softmax: z.boolean().default(true).describe("weights are positive and add up to 1"),
  temperature: z
    .number()
    .positive()
    .default(1)
    .describe("divides the classifier's outputs before the softmax"),
  topK: z
    .number()
    .int()
    .positive()
    .optional()
    .describe("use only so many experts per token, those of the largest weights"),
  softmaxTopK: z.boolean().default(false).describe("a softmax over the weights of the experts that are used"),
  globalWeight: z.number().default(1).describe("factor of all experts"),
  passValue: z
    .number()
    .default(0)
    .describe("weight of every expert in the first pass, which gives what the classifier reads"),
  trainExperts: z.boolean().default(false).describe("train the experts too"),
});

/** Options of X-LoRA, after defaults. */
export type XloraOptions = z.infer<typeof xloraSchema>;

/** Configuration of an X-LoRA adapter: the options, the modules that some expert adapts, and the width of the model. */
export interface XloraConfig extends XloraOptions, Pick<SiteConfig, "targets"> {
  readonly hiddenSize: number;
}

/** X-LoRA over these experts. */
export interface XloraMethod extends Method<XloraConfig> {
  readonly experts: readonly Adapter[];
}

/** Names of the classifier's layers: PEFT counts activations and dropouts with them. */
function layerNames({ depth, dropout }: XloraConfig): string[] {
  const step = depth > 1 && dropout > 0 ? 3 : 2;
  return Array.from({ length: depth }, (_, at) => `classifier.layers.${at * step}`);
}

/** The classifier's tensors: PyTorch's linear layers. */
function classifier(modules: number, experts: number, config: XloraConfig): Record<string, SharedSpec> {
  const names = layerNames(config);
  const last = experts * (config.layerwise ? modules : 1);
  const uniform = (shape: readonly number[], bound: number): SharedSpec => ({
    shape,
    trainable: true,
    routed: true,
    init: (context) =>
      context.uniform(
        shape.reduce((a, b) => a * b, 1),
        -bound,
        bound,
      ),
  });
  const entries = names.flatMap((name, at): [string, SharedSpec][] => {
    const inn = at === 0 ? config.hiddenSize : config.width;
    const out = at === names.length - 1 ? last : config.width;
    const bound = 1 / Math.sqrt(inn);
    return [
      [`${name}.weight`, uniform([out, inn], bound)],
      [`${name}.bias`, uniform([out], bound)],
    ];
  });
  return Object.fromEntries(entries);
}

/** What the classifier makes of the hidden state, `[tokens, modules or 1, experts]`. */
function scalings(call: SiteCall, modules: number, experts: number, config: XloraConfig): Value {
  const { tensors, training, noise } = call;
  let h = call.hidden as Value;
  for (const [at, name] of layerNames(config).entries()) {
    if (at > 0) h = ops.relu(h);
    if (at > 0 && training && config.dropout > 0) {
      const kept = ops.greaterOrEqual(noise(h, "uniform", name), config.dropout);
      h = ops.where(kept, ops.mul(h, 1 / (1 - config.dropout)), 0);
    }
    h = ops.gemm(h, tensors[`${name}.weight`] as Value, tensors[`${name}.bias`] as Value, { transB: true });
  }
  const each = ops.reshape(h, [-1, config.layerwise ? modules : 1, experts], [h]);
  return config.softmax ? ops.softmax(ops.div(each, config.temperature)) : each;
}

/** The weights `[tokens, 1, experts]` that count, of those that the classifier gives. */
function chosen(weights: Value, { topK, softmaxTopK }: XloraConfig): Value {
  const experts = weights.shape[2] as number;
  if (topK === undefined && !softmaxTopK) return weights;
  const score = (taken: Value) => (softmaxTopK ? ops.softmax(taken) : taken);
  return weightsOf(topRoutes(weights, Math.min(topK ?? experts, experts), score));
}

/** The experts' weights at a module, `[tokens, experts]`; undefined where they are zero. One classifier run serves the whole pass. */
function weightsAt(call: SiteCall, modules: readonly string[], experts: number, config: XloraConfig) {
  const { hidden, pass, site } = call;
  const at = config.layerwise ? modules.indexOf(site.path) : 0;
  const known = pass.get(`weights/${at}`);
  if (known) return known;
  if (!hidden && config.passValue === 0) return undefined;
  // In the backward pass of a block that is computed again, the first pass is not.
  const all =
    pass.get("scalings") ??
    (hidden
      ? ops.keep(scalings(call, modules.length, experts, config))
      : ops.full([1, 1, experts], config.passValue, "float32"));
  pass.set("scalings", all);
  const own = hidden && config.layerwise ? ops.slice(all, 1, at, at + 1) : all;
  const weights = ops.squeeze(chosen(own, config), 1);
  pass.set(`weights/${at}`, weights);
  return weights;
}

/** Throws `target-unsupported` where a module does not see the tokens that the hidden state is of. */
function checkRows({ site, y, hidden }: SiteCall): void {
  const [own, seen] = [y.shape[0], hidden?.shape[0]];
  if (typeof own !== "number" || typeof seen !== "number" || own === seen) return;
  throw new TunesmithError(
    "target-unsupported",
    `${site.path} sees ${own} rows, the last hidden state has ${seen}: experts are weighed by token`,
    { fix: "leave it out of the experts' targets", details: { path: site.path } },
  );
}

/**
 * X-LoRA (arXiv 2402.07148): y + Σₑ wₑ·sₑ·Bₑ·Aₑ·x. A first pass without the experts gives a hidden state per token; a classifier
 * makes the experts' weights of it. Only the classifier is trained.
 */
export const xloraOver = (experts: readonly Adapter[]): XloraMethod => ({
  name: "xlora",
  summary: "trained LoRA adapters, weighed anew for every token by a classifier",
  paper: "2402.07148",
  // Of files; targets and width come from experts and model.
  schema: z.object(xloraSchema.shape) as unknown as z.ZodType<XloraConfig>,
  kinds: ["linear", "embedding"],
  twoPasses: true,
  experts,
  tensors: () => ({}),
  shared: (sites, config) => ({
    ...classifier(sites.length, experts.length, config),
    ...expertTensors(experts, config.trainExperts),
  }),
  unmergeable: () => "its experts are weighed anew for every token",
  weight: (weight) => weight,
  forward(call, config) {
    const { y, mask, tally } = call;
    checkRows(call);
    const weights = weightsAt(call, config.targets as readonly string[], experts.length, config);
    if (!weights) return y;
    tally("weights", sumOverRows(ops.unsqueeze(weights, 1), mask));
    return addExperts(call, weights, experts, config.globalWeight);
  },
});

/** The adaptation of a model by experts that were read for it. Throws `adapter-invalid`, `target-unsupported`. */
export function overExperts(
  base: Model,
  options: XloraOptions,
  experts: readonly Adapter[],
): Adaptation<XloraConfig> {
  for (const [at, expert] of experts.entries())
    checkExpert(expert, `'${options.experts[at]}'`, { name: "X-LoRA", kinds: ["linear", "embedding"] });
  const outputs = probeOutputs(base);
  const paths = [...new Set(sitesOf(outputs).map(({ path }) => path))];
  const targets = paths.filter((path) => experts.some(({ sites }) => sites.has(path)));
  const hiddenSize = lastHidden(outputs, "xlora").shape[1] as number;
  return { method: xloraOver(experts), config: { ...options, targets, hiddenSize } };
}
