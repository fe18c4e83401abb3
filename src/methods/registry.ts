import { z } from "zod";
import { TunesmithError } from "../errors/index.js";
import { type Model, nearest } from "../models/index.js";
import { type AdaptOptions, adapt } from "./adapt.js";
import { type Sized, withinBudget } from "./budget.js";
import { siteMethods } from "./catalog.js";
import { parseConfig } from "./config.js";
import { unfreeze } from "./full.js";
import { type DifforaConfig, difforaMethod, settled } from "./lowrank/diffora.js";
import { type ModuleSearch, type ModuleSearchOptions, searchModules } from "./lowrank/diffora-search.js";
import { polyMethod } from "./lowrank/poly.js";
import type { Adaptation, Method, SiteConfig, Statistic } from "./method.js";
import { xloraOver, xloraSchema } from "./mixture/xlora.js";
import { xlora } from "./mixture/xlora-experts.js";
import { mpoModel, mpoModelSchema } from "./mpo/model.js";
import { lqLora, lqLoraMethod } from "./quantised/lq-lora.js";
import { ltSftFolderSchema, ltSftOfFolder } from "./sparse/lt-sft.js";
import { selekt, selektSchema } from "./sparse/selekt.js";

/** A method under its name: what a configuration file, a command line or a table knows about it. */
export interface MethodEntry {
  readonly name: string;
  /** One line. */
  readonly summary: string;
  /** arXiv identifier; undefined where there is no paper. */
  readonly paper: string | undefined;
  /** What it changes. */
  readonly kinds: readonly string[];
  /** What it leaves behind: an adapter folder, or a whole model. */
  readonly result: "adapter" | "model";
  readonly options: z.ZodObject;
  /** Statistics of data that it starts from with these options; see `calibrate`. */
  needs(options: Readonly<Record<string, unknown>>): readonly Statistic[];
  /** The options with which it trains at most `budget` numbers, as near to it as it comes; see `withinBudget`. */
  within?(model: Model, options: Readonly<Record<string, unknown>>, budget: number): Sized;
  /**
   * What it decides by training on parts of the data before the run, if these options leave anything to decide; the model is
   * then ready for the run, and `found` the options that `apply` makes the like of it from.
   */
  readonly search?: (options: Readonly<Record<string, unknown>>) => MethodSearch | undefined;
  /** Whether it learns several tasks apart, each under its number (`byTask`, `setTask`); its option `tasks` says how many. */
  readonly learnsTasks?: boolean;
  /** Makes the model trainable by this method; `options` are checked. */
  apply<M extends Model>(model: M, options: Readonly<Record<string, unknown>>, how: AdaptOptions): Promise<M>;
}

/** The part of a method that comes before a run. */
export interface MethodSearch {
  /** Steps of it; default: a quarter of the run's. */
  readonly steps: number | undefined;
  /** Share of the data that its parameters learn from; the rest judges. */
  readonly split: number;
  /** Samples to compute kernels of modules from (`moduleKernels`); 0 for none. */
  readonly kernelSamples: number;
  /** Whether the run begins with what was learnt. */
  readonly warmStart: boolean;
  run<M extends Model>(
    model: M,
    how: ModuleSearchOptions<M>,
  ): Promise<ModuleSearch<M> & { readonly found: Readonly<Record<string, unknown>> }>;
}

/** An adapter method by its definition alone. */
const ofSites = <Config extends SiteConfig>(method: Method<Config>): MethodEntry => ({
  name: method.name,
  summary: method.summary,
  paper: method.paper,
  kinds: method.whole ? [method.whole.of] : method.kinds,
  result: "adapter",
  // Every method's schema is an object.
  options: method.schema as unknown as z.ZodObject,
  needs(options) {
    const parsed = method.schema.safeParse(options);
    return parsed.success ? (method.needs?.(parsed.data) ?? []) : [];
  },
  within: (model, options, budget) => withinBudget(model, method, options, budget),
  learnsTasks: method.name === polyMethod.name,
  apply: (model, options, how) => adapt(model, { method, config: options as Config }, how),
});

/** LoRA where its modules are known; candidates behind gates before. */
const difforaEntry: MethodEntry = {
  ...ofSites(difforaMethod),
  apply: (model, options, how) => adapt(model, settled(options as DifforaConfig) as Adaptation, how),
  search(given) {
    const config = difforaMethod.schema.parse(given);
    if (config.selected) return undefined;
    return {
      steps: config.searchSteps,
      split: config.searchSplit,
      kernelSamples: config.kernelSamples,
      warmStart: config.warmStart,
      async run(model, how) {
        const result = await searchModules(model, { method: difforaMethod, config }, how);
        return { ...result, found: { ...given, selected: result.table.selected } };
      },
    };
  },
};

/** LoRA over a base that it makes itself. */
const lqLoraEntry: MethodEntry = {
  ...ofSites(lqLoraMethod),
  apply: (model, options, how) => lqLora(model, options, how),
};

const full: MethodEntry = {
  name: "full",
  summary: "every weight, or those selected, trained as they are",
  paper: undefined,
  kinds: ["weight"],
  result: "model",
  options: z.strictObject({
    select: z
      .string()
      .optional()
      .describe("weights to train: a regular expression searched in their names; default: all"),
  }),
  needs: () => [],
  apply: (model, options) => unfreeze(model, options as { select?: string }),
};

const selektEntry: MethodEntry = {
  name: "selekt",
  summary: "every weight trained, and all but the largest changes undone now and then",
  paper: "2503.03656",
  kinds: ["weight"],
  result: "model",
  options: selektSchema,
  needs: () => [],
  apply: (model, options) => selekt(model, options),
};

const ltSftEntry: MethodEntry = {
  name: "lt-sft",
  summary: "the entries that full fine-tuning moved farthest, trained from the base",
  paper: "2110.07560",
  kinds: ["weight"],
  result: "model",
  options: ltSftFolderSchema,
  needs: () => [],
  within: (_, options, budget) => ({ options: { ...options, count: budget }, parameters: budget }),
  apply: (model, options) => ltSftOfFolder(model, options as z.infer<typeof ltSftFolderSchema>),
};

const mpoSharedEntry: MethodEntry = {
  name: "mpo-shared",
  summary: "chains of tensors whose large central one all layers share, in a model that may become deeper",
  paper: "2303.16753",
  kinds: ["linear"],
  result: "model",
  options: mpoModelSchema,
  needs: () => [],
  apply: (model, options) => mpoModel(model, options),
};

const { summary: xloraSummary, paper: xloraPaper, kinds: xloraKinds } = xloraOver([]);
const xloraEntry: MethodEntry = {
  name: "xlora",
  summary: xloraSummary,
  paper: xloraPaper,
  kinds: xloraKinds,
  result: "adapter",
  options: xloraSchema,
  needs: () => [],
  apply: (model, options, how) => xlora(model, options as z.infer<typeof xloraSchema>, how),
};

/** Every method there is: those of catalog.ts, and what is not an adapter. */
const entries: readonly MethodEntry[] = [
  ...siteMethods.map((method) => (method.name === difforaMethod.name ? difforaEntry : ofSites(method))),
  full,
  selektEntry,
  ltSftEntry,
  xloraEntry,
  mpoSharedEntry,
  lqLoraEntry,
];

/** Names of all methods. */
export const methodNames: readonly string[] = entries.map(({ name }) => name);

/**
 * The method `name`. Throws `config-invalid` with near names.
 *
 * @example
 * ```ts
 * import { methodNamed } from "tunesmith/methods";
 * console.log(methodNamed("lora").summary, methodNamed("lora").paper);
 * ```
 */
export function methodNamed(name: string): MethodEntry {
  const found = entries.find((entry) => entry.name === name);
  if (found) return found;
  throw new TunesmithError("config-invalid", `unknown method '${name}'`, {
    fix: `near names: ${nearest(name, methodNames, 3).join(", ")}`,
  });
}

/**
 * Applies a method with options given as data; throws `config-invalid` naming the option, and what the method throws.
 *
 * @example
 * ```ts
 * import { applyMethod } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * const model = await applyMethod(await loadModel("path/to/model"), "lora", { rank: 4, targets: ["q_proj"] });
 * console.log(model.parameters.size);
 * ```
 */
export async function applyMethod<M extends Model>(
  model: M,
  name: string,
  options: Readonly<Record<string, unknown>> = {},
  how: AdaptOptions = {},
): Promise<M> {
  const entry = methodNamed(name);
  return entry.apply(model, parseConfig(name, entry.options, options), how);
}

/** A method with its options as a JSON schema's properties, for tables and other programs. */
export const describeMethod = ({ name, summary, paper, kinds, result, options }: MethodEntry) => ({
  name,
  summary,
  paper: paper ?? null,
  kinds,
  result,
  options: z.toJSONSchema(options, { io: "input" }).properties ?? {},
});
