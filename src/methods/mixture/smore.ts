import { z } from "zod";
import { type Dim, ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteCall, TensorValues } from "../method.js";
import { countsOf, sumOverRows, weightsOf } from "../routing.js";
import { asRows, byPlace, type Gated, gated, linear } from "./smore-gate.js";
import { activeOf, smoreTensors } from "./smore-tensors.js";

const sizes = z.array(z.number().int().positive()).min(1);

const schema = siteConfigSchema
  .extend({
    experts: sizes.default([4, 4]).describe("experts per sub-layer, from the leaves of the tree to its root"),
    active: sizes
      .optional()
      .describe("children of each node, as experts; default 2, all with the dense gate"),
    ranks: sizes.default([8, 8]).describe("rank of the experts, as experts"),
    alphas: z
      .array(z.number().positive())
      .optional()
      .describe("experts are scaled by alpha / rank, as experts; default the ranks"),
    gate: z
      .enum(["switch", "dense", "noisy"])
      .default("switch")
      .describe(
        "how tokens are routed: top of a softmax, all of it, or top of logits with noise in training",
      ),
    gateDim: z.number().int().positive().default(32).describe("width of the gates' queries and keys"),
    downDim: z.number().int().positive().default(32).describe("width of a token as the gates see it"),
    activation: z
      .enum(["tanh", "relu", "prelu", "identity"])
      .default("tanh")
      .describe("nonlinearity of the nodes"),
    activationAt: z
      .enum(["all", "child", "child_v2"])
      .default("all")
      .describe("what it acts on: the sum at a node, or what comes from a child (v2: scored with the rest)"),
    sharedPool: z.boolean().default(false).describe("one pool of experts for all sub-layers"),
    init: z
      .enum(["w_final_zero", "eq_1_layer"])
      .default("w_final_zero")
      .describe("random, or as a mixture of one layer; zero at the output either way"),
    balance: z.number().min(0).default(0.01).describe("weight of the loss that keeps all experts in use"),
  })
  .superRefine((config, context) => {
    const { experts, ranks, sharedPool, gate } = config;
    const refuse = (path: string, message: string) =>
      context.addIssue({ code: "custom", path: [path], message });
    for (const key of ["ranks", "active", "alphas"] as const) {
      const given = config[key];
      if (given && given.length !== experts.length)
        refuse(key, `${given.length} numbers for ${experts.length} sub-layers`);
    }
    const tooMany = config.active?.findIndex((count, at) => count > Number(experts[at])) ?? -1;
    if (tooMany >= 0) refuse("active", `more than the ${experts[tooMany]} experts of sub-layer ${tooMany}`);
    if (gate === "dense" && config.active?.some((count, at) => count !== experts[at]))
      refuse("active", "the dense gate takes all experts; leave it out");
    if (sharedPool && new Set(experts).size * new Set(ranks).size > 1)
      refuse("sharedPool", "a shared pool needs equal experts and ranks in all sub-layers");
  });

/** Configuration of S'MoRE, after defaults. */
export type SmoreConfig = z.infer<typeof schema>;

const activate = (x: Value, kind: SmoreConfig["activation"], slope: Value | undefined): Value => {
  if (kind === "identity") return x;
  if (kind !== "prelu") return ops[kind](x);
  return ops.add(ops.relu(x), ops.mul(ops.min(x, 0), slope as Value));
};

/** What is read off the input: the codes A·x + a of every pool of experts, and the token as the gates see it. */
interface Readings {
  readonly codes: readonly Value[];
  readonly token: Value;
}

/** All of them by one product, which passes over the input, and over its gradient, once. */
function readings(x: Value, values: TensorValues, { experts, sharedPool }: SmoreConfig): Readings {
  const get = (name: string) => values[`smore_${name}`] as Value;
  const pools = sharedPool ? [0] : [...experts.keys()];
  const matrices = pools.map((pool) => ops.reshape(get(`A_${pool}`), [-1, x.shape.at(-1) as number]));
  const biases = pools.map((pool) => ops.reshape(get(`A_bias_${pool}`), [-1]));
  const all = [...matrices, get("down")];
  const product = linear(x, ops.concat(all, 0), ops.concat([...biases, get("down_bias")], 0));
  const parts = ops.split(
    product,
    all.map(({ shape }) => shape[0] as number),
    1,
  );
  return { codes: parts.slice(0, -1), token: parts.at(-1) as Value };
}

/** Residuals e of every expert of a sub-layer, `[tokens, s, d]`: λ·(B·(A·x + a) + b). */
function residuals(
  codes: Value,
  values: TensorValues,
  { ranks, alphas, sharedPool }: SmoreConfig,
  layer: number,
): Value {
  const pool = sharedPool ? 0 : layer;
  const get = (name: string) => values[`smore_${name}_${pool}`] as Value;
  const [experts, , rank] = get("B").shape as [number, number, number];
  const apart = ops.reshape(codes, [codes.shape[0] as Dim, experts, rank], [codes]);
  const widened = ops.matmul(ops.transpose(apart, [1, 0, 2]), ops.transposeLast(get("B")));
  const all = ops.transpose(ops.add(widened, ops.unsqueeze(get("B_bias"), 1)), [1, 0, 2]);
  const scale = (alphas?.[layer] ?? rank) / Number(ranks[layer]);
  return scale === 1 ? all : ops.mul(all, scale);
}

/** `[tokens, n, k, d]` of children as `[tokens, n·k, d]`, and of scores without the last axis. */
function perPath(value: Value, paths: number): Value {
  const [tokens, , , ...rest] = value.shape;
  return ops.reshape(value, [tokens as Dim, paths, ...rest]);
}

/** Routes of every sub-layer, top-down: what a place knows is the token, and the keys of the experts above it. */
function routes(call: SiteCall, config: SmoreConfig, token: Value): Gated[] {
  const values = call.tensors as Record<string, Value>;
  const { experts } = config;
  const active = activeOf(config);
  const found: Gated[] = [];
  let known = ops.unsqueeze(token, 1);
  for (let layer = experts.length - 1; layer >= 0; layer--) {
    const get = (name: string) => values[`smore_gate_${name}_${layer}`];
    const tensors = {
      into: get("in") as Value,
      intoBias: get("in_bias") as Value,
      out: get("out") as Value,
      outBias: get("out_bias") as Value,
      keys: get("keys") as Value,
      noise: get("noise"),
    };
    const shape = { kind: config.gate, experts: Number(experts[layer]), active: Number(active[layer]) };
    const gate = gated(known, tensors, shape, call, String(layer));
    found[layer] = gate;
    if (layer > 0) known = childrenOf(known, gate);
  }
  return found;
}

/** What the children of every place know, `[tokens, n·k, in + g]`. */
function childrenOf(known: Value, { chosen, seenKeys }: Gated): Value {
  const [tokens, places, width] = known.shape as [Dim, number, number];
  const count = chosen.shape[2] as number;
  const repeated = ops.expand(ops.unsqueeze(known, 2), [tokens, places, count, width], [known]);
  return perPath(ops.concat([repeated, ops.matmul(chosen, seenKeys)], 3), places * count);
}

/** Children's terms `[tokens, n·k, d]` added up per place, `[tokens, n, d]`. */
function summed(terms: Value, [places, count]: readonly [number, number]): Value {
  const [tokens, , width] = terms.shape as [Dim, number, number];
  return ops.reduceSum(ops.reshape(terms, [tokens, places, count, width], [terms]), [2], false);
}

/** The root's vector `[tokens, d_L]`, bottom-up. */
function propagated(
  values: TensorValues,
  config: SmoreConfig,
  gates: readonly Gated[],
  codes: readonly Value[],
): Value {
  const everywhere = config.activationAt === "all";
  const act = (x: Value, layer: number) => activate(x, config.activation, values[`smore_slope_${layer}`]);
  let below: Value | undefined;
  for (const [layer, gate] of gates.entries()) {
    const all = residuals(codes[config.sharedPool ? 0 : layer] as Value, values, config, layer);
    if (!below) {
      // Of leaves the token alone decides, so that every expert is activated once and weighed per place.
      below = ops.matmul(weightsOf(gate), everywhere ? act(all, layer) : all);
      continue;
    }
    const [, places, count] = gate.chosen.shape as [unknown, number, number];
    const own = ops.matmul(perPath(gate.chosen, places * count), all);
    const scores = ops.unsqueeze(perPath(gate.scores, places * count), -1);
    const [w, bias] = [values[`smore_W_${layer}`] as Value, values[`smore_W_bias_${layer}`] as Value];
    const carried = (x: Value) => byPlace(linear(asRows(x), w, bias), x);
    const terms = {
      all: (x: Value) => ops.mul(scores, act(ops.add(own, carried(x)), layer)),
      child: (x: Value) => ops.add(ops.mul(scores, own), carried(act(x, layer))),
      child_v2: (x: Value) => ops.mul(scores, ops.add(own, carried(act(x, layer)))),
    };
    below = summed(terms[config.activationAt](below), [places, count]);
  }
  return ops.squeeze(below as Value, 1);
}

/** What routing adds to the loss, and what there is to see of it. */
function account(
  { training, addLoss, tally, mask }: SiteCall,
  { balance }: SmoreConfig,
  gates: readonly Gated[],
) {
  for (const [layer, gate] of gates.entries()) {
    tally(`chosen/${layer}`, sumOverRows(countsOf(gate), mask));
    tally(`scores/${layer}`, sumOverRows(weightsOf(gate), mask));
    if (training && balance > 0 && gate.balance) addLoss(ops.mul(gate.balance, balance));
  }
}

/**
 * S'MoRE (arXiv 2504.06426): a tree of low-rank experts per map. Each token chooses children top-down, every choice seeing
 * those above it; vectors run bottom-up through the chosen tree, which gives many more experts than there are
 * weights for. Every expert of a sub-layer is computed once per token, however many paths take it.
 */
export const smoreMethod = {
  name: "smore",
  summary: "trees of low-rank experts through which every token is routed",
  paper: "2504.06426",
  schema,
  kinds: ["linear"],
  tensors: (site, config) => smoreTensors(site, config),
  sized: (size) => ({
    ranks: [size, size],
    gateDim: Math.min(32, 4 * size),
    downDim: Math.min(32, 4 * size),
  }),
  unmergeable: () => "its update depends on the token",
  weight: (weight) => weight,
  forward(call, config) {
    const { y, gate, mix, tensors: values } = call;
    const { codes, token } = readings(call.x, values, config);
    const chosen = routes(call, config, token);
    account(call, config, chosen);
    const root = propagated(values, config, chosen, codes);
    const update = mix(ops.mul(root, gate), values.smore_proj as Value, { onto: y });
    return ops.add(update, ops.mul(values.smore_proj_bias as Value, gate));
  },
} satisfies Method<SmoreConfig>;

/**
 * S'MoRE with a configuration. Cannot be merged. `talliesOf` counts where tokens go; padding is left out of the balance loss where
 * the model's inputs say which rows it is (language models, encoders).
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { smore } from "tunesmith/methods";
 * const adaptation = smore({ experts: [4, 4], active: [2, 2], ranks: [8, 8], targets: ["gate_proj", "up_proj"] });
 * ```
 */
export const smore = (config: z.input<typeof schema> = {}): Adaptation<SmoreConfig> => ({
  method: smoreMethod,
  config: parseConfig("smore", schema, config),
});
