import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { constant, makeGraph, type Value } from "../../graph/index.js";
import {
  type AnyModel,
  type CausalLm,
  deepenModel,
  type Inputs,
  inputsOf,
  type Model,
  parameterFeeds,
  probeOutputs,
  rewriteOutputs,
  type Site,
  sitesOf,
} from "../../models/index.js";
import { evaluate } from "../../runtime/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { parseConfig } from "../config.js";
import { plainFields, rewrittenModel } from "../fields.js";
import { unfreeze } from "../full.js";
import { selectTargets } from "../targets.js";
import { chainGroup, type MadeGroup, type MpoGroup } from "./group.js";
import { chainOptions } from "./mpo.js";

const names = z.union([z.string(), z.array(z.string())]);

export const mpoModelSchema = z.strictObject({
  targets: names
    .default("all-linear")
    .describe("maps that become chains: name endings (list), a regular expression (string), or all-linear"),
  exclude: names.optional().describe("maps to leave out, as targets"),
  ...chainOptions,
  depth: z
    .number()
    .int()
    .positive()
    .optional()
    .describe(
      "layers of the result, of a causal language model; more than it has are copies that write little",
    ),
  copyScale: z
    .number()
    .min(0)
    .optional()
    .describe("factor of what such copies write; default: 1 / sqrt(2 * depth)"),
  share: z
    .enum(["kind", "none"])
    .default("kind")
    .describe("layers share the central tensor of maps of one kind (all q_proj, ...), or nothing"),
  groups: z
    .number()
    .int()
    .positive()
    .default(1)
    .describe("runs of neighbouring layers that share, each a central tensor of its own"),
  rounds: z
    .number()
    .int()
    .min(0)
    .default(10)
    .describe("rounds of the search for a central tensor that suits all layers"),
  adapterRank: z
    .number()
    .int()
    .min(0)
    .default(0)
    .describe("rank of a low-rank addition to each map, zero at the start; 0: none"),
  train: z
    .enum(["all", "aux", "central"])
    .default("all")
    .describe("tensors of chains that are trained: all, the small outer ones, or the large central ones"),
  rest: z
    .boolean()
    .optional()
    .describe("train embeddings, norms, biases and all other weights too; default: with train all"),
});
export type MpoModelConfig = z.infer<typeof mpoModelSchema>;

/** A model whose maps are chains of tensors. */
export type MpoModel<M extends Model = Model> = M & {
  /** The plain model it was made of, as deep as it. */
  readonly base: M;
  readonly chains: {
    readonly groups: readonly MpoGroup[];
    /** Numbers of all chains, and of the weights in whose place they are. */
    readonly numbers: number;
    readonly denseNumbers: number;
    /** ‖W − L·C·R‖ / ‖W‖ of the start, over all of them; 0: the model starts as its base. */
    readonly startError: number;
    /** What takes the place of each weight, by its name in files: a function of parameters. */
    readonly weights: ReadonlyMap<string, Value>;
  };
};

/** Whether a model is the result of `mpoModel`. */
export const isMpoModel = <M extends Model>(model: M): model is MpoModel<M> => "chains" in model;

/**
 * A model with matrix product operators in the place of its weights (MPOBERT, arXiv 2303.16753): each map is a chain of small
 * tensors; the large central one is shared by all layers, the others are each layer's own. `depth` makes the model deeper
 * first (`deepenModel`), for few numbers more. Without sharing and with `truncate`, it is a compressed model. Train it, then
 * `mpoMerge` makes a plain model of it.
 *
 * **The start is the base only without sharing and truncation.** One central tensor cannot be exact for layers that differ: it is
 * fitted to all of them, and `chains.startError` says what is missing. Layers that are multiples of each other, such as
 * copies that `depth` made of one layer, are fitted exactly; `groups` equal to the layers there were keeps all of them.
 *
 * Throws `target-not-found`, `target-unsupported` (a map whose weight is not floats), `config-invalid`,
 * `architecture-unsupported` for a depth of models that cannot be deepened.
 *
 * @example
 * ```ts
 * import { mpoMerge, mpoModel } from "tunesmith/methods";
 * import { loadModel, saveModel } from "tunesmith/models";
 * import { adamw, fit, type Objective } from "tunesmith/training";
 * import type { CausalLm } from "tunesmith/models";
 * export async function deeper(objective: (model: CausalLm) => Objective) {
 *   const model = await mpoModel(await loadModel("path/to/model"), { depth: 24 });
 *   console.log(model.chains.numbers, model.chains.startError);
 *   await fit(objective(model), { steps: 1000, optimizer: adamw({ lr: 1e-3 }) });
 *   await saveModel(await mpoMerge(model), "path/to/deeper");
 * }
 * ```
 */
export async function mpoModel<M extends Model>(
  model: M,
  given: z.input<typeof mpoModelSchema> = {},
): Promise<MpoModel<M>> {
  const config = parseConfig("mpo-shared", mpoModelSchema, given);
  const { depth, copyScale: scale } = config;
  const base = depth === undefined ? model : await deepenModel(model as CausalLm, { layers: depth, scale });
  const made: MadeGroup[] = [];
  for (const [name, sites] of groupsOf(chosenSites(base, config), config))
    made.push(await chainGroup(name, sites, config));
  const weights = new Map(made.flatMap((group) => group.weights));
  const own = new Map(made.flatMap((group) => group.parameters).map((each) => [each.name, each] as const));
  const below = await withRest(base, weights, config);
  const replace = new Map([...weights].map(([name, value]) => [base.weights.get(name) as Value, value]));
  const inner: AnyModel = below;
  const sum = (of: (group: MadeGroup) => number) => made.reduce((total, group) => total + of(group), 0);
  return {
    ...plainFields(below),
    weights: new Map([...below.weights].filter(([name]) => !weights.has(name))),
    parameters: new Map([...below.parameters, ...own]),
    base,
    chains: {
      groups: made.map(({ group }) => group),
      numbers: [...own.values()].reduce((total, each) => total + each.tensor.data.length, 0),
      denseNumbers: [...weights.values()].reduce(
        (total, { shape }) => total + Number(shape[0]) * Number(shape[1]),
        0,
      ),
      startError: Math.sqrt(sum(({ missed }) => missed) / (sum(({ size }) => size) || 1)),
      weights,
    },
    build: (inputs: Inputs) => rewriteOutputs(inner.build(inputs), { replace }),
  } as unknown as MpoModel<M>;
}

/** Every other weight of floats as a parameter, where that is wanted. */
async function withRest(
  base: Model,
  chained: ReadonlyMap<string, Value>,
  { rest, train }: MpoModelConfig,
): Promise<Model> {
  const others = [...base.weights].flatMap(([name, { dtype, shape }]) =>
    chained.has(name) || dtype !== "float32" || shape.length === 0 ? [] : [name],
  );
  return (rest ?? train === "all") && others.length > 0 ? unfreeze(base, { select: others }) : base;
}

function chosenSites(model: Model, { targets, exclude }: MpoModelConfig): Site[] {
  const linear = sitesOf(probeOutputs(model)).filter(({ kind }) => kind === "linear");
  const unique = [...new Map(linear.map((site) => [site.weightName, site] as const)).values()];
  const chosen = selectTargets(unique, { targets, exclude });
  const bad = chosen.find(
    (site) => model.weights.get(site.weightName) !== site.weight || site.weight.dtype !== "float32",
  );
  if (!bad) return chosen;
  throw new TunesmithError("target-unsupported", `${bad.path}: its weight is not kept as float32`, {
    fix: "leave it out of the targets, or load the model without quantize",
  });
}

/** Maps that share, by name: those of one kind and shape in all layers, or in runs of them. */
function groupsOf(sites: readonly Site[], { share, groups }: MpoModelConfig): Map<string, Site[]> {
  if (share === "none") return new Map(sites.map((site) => [site.path, [site]]));
  const kinds = new Map<string, Site[]>();
  for (const site of sites) {
    const kind = site.path.replace(/(?<=^|\.)\d+(?=\.|$)/g, "*");
    const key = `${kind} ${site.outFeatures}x${site.inFeatures}`;
    kinds.set(key, [...(kinds.get(key) ?? []), site]);
  }
  const runs = new Map<string, Site[]>();
  for (const [key, kind] of kinds)
    for (const [at, site] of kind.entries()) {
      const run = groups === 1 ? key : `${key} ${Math.floor((at * groups) / kind.length)}`;
      runs.set(run, [...(runs.get(run) ?? []), site]);
    }
  return runs;
}

/**
 * The model with its chains multiplied out and what else was trained as constants: a plain model with weights of the usual
 * shapes, to save, adapt or export. Layers no longer share anything then. Throws `adapter-invalid` for another model.
 *
 * @example
 * ```ts
 * import { mpoMerge, mpoModel } from "tunesmith/methods";
 * import { loadModel, saveModel } from "tunesmith/models";
 * const compressed = await mpoModel(await loadModel("path/to/model"), { share: "none", truncate: 64 });
 * await saveModel(await mpoMerge(compressed), "path/to/result");
 * ```
 */
export async function mpoMerge<M extends Model>(model: M): Promise<M> {
  if (!isMpoModel(model)) {
    throw new TunesmithError("adapter-invalid", "the model has no chains of tensors to multiply out", {
      fix: "merge what `mpoModel` returned; adapters are merged by `merge`",
    });
  }
  const { chains, base, parameters } = model;
  const weights = new Map(base.weights);
  const replace = new Map<Value, Value>();
  const put = (name: string, found: Tensor) => {
    const fixed = constant(found, name);
    replace.set(base.weights.get(name) as Value, fixed);
    weights.set(name, fixed);
  };
  for (const [name, value] of chains.weights) {
    const graph = makeGraph("weight", inputsOf([value]), [["weight", value]]);
    put(name, (await evaluate(graph, parameterFeeds(graph, parameters))).weight as Tensor);
  }
  for (const name of base.weights.keys()) {
    const trained = parameters.get(name)?.tensor;
    if (trained) put(name, tensor("float32", trained.shape, (trained.data as Float32Array).slice()));
  }
  return rewrittenModel(base, weights, { replace });
}
