import { TunesmithError } from "../../errors/index.js";
import type { Model } from "../../models/index.js";
import { rng } from "../../runtime/random/index.js";
import { adapterNamed } from "../adapt.js";
import { type Adapted, adaptedModel } from "../adapted.js";
import { type Adapter, type AdapterSite, createAdapter } from "../adapter.js";
import type { HookSite, SiteShape } from "../method.js";
import { type GloraConfig, type GloraForms, gloraMethod } from "./glora.js";
import { formsAt, type GloraTensor, gloraChoices, gloraRank, setForms } from "./glora-paths.js";

/** Forms of every module, by path. */
export type GloraSelection = Readonly<Record<string, GloraForms>>;

export interface GloraCandidate {
  readonly selection: GloraSelection;
  /** Trained numbers that it keeps. */
  readonly parameters: number;
  /** Smaller is better. */
  readonly loss: number;
}

export interface GloraSearchOptions {
  /** The adapter that is searched. Default "default". */
  readonly name?: string;
  /** Loss on held-out data of the model as it stands: one evaluator serves all candidates, whose masks are fed. */
  readonly loss: () => Promise<number>;
  /** Most trained numbers a candidate may keep. */
  readonly budget: number;
  /** Candidates of a generation. Default 50. */
  readonly population?: number;
  /** Best candidates of all that are parents. Default 10. */
  readonly parents?: number;
  /** Default 20. */
  readonly generations?: number;
  /** Chance that a form is drawn anew in a mutation. Default 0.2. */
  readonly mutation?: number;
  readonly seed?: number;
  readonly onCandidate?: (candidate: GloraCandidate, generation: number) => void;
}

type Genes = readonly number[];
const SLOTS: readonly GloraTensor[] = ["A", "B", "C", "D", "E"];

/** Trained numbers of a module in some forms. */
export function gloraParameters(site: SiteShape, config: GloraConfig, forms: GloraForms): number {
  const specs = gloraMethod.tensors(site, { ...config, supernet: false, chosen: { [site.path]: forms } });
  return Object.values(specs).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
}

/**
 * Evolutionary search (arXiv 2306.07967) over the forms of a trained supernet's modules, under a budget of parameters: random
 * candidates first, then mutations and crossovers of the best so far. Leaves the supernet set to the best one. Judge by
 * data that neither training nor the final test uses.
 *
 * Throws `config-invalid` for an adapter that is no supernet, and for a budget that no candidate meets.
 *
 * @example
 * ```ts
 * import { type AdaptedLm, extractGlora, searchGlora } from "tunesmith/methods";
 * export async function choose(supernet: AdaptedLm, validationLoss: () => Promise<number>) {
 *   const { selection } = await searchGlora(supernet, { loss: validationLoss, budget: 20_000 });
 *   return extractGlora(supernet, selection);
 * }
 * ```
 */
export async function searchGlora(model: Adapted, options: GloraSearchOptions): Promise<GloraCandidate> {
  const { config, sites } = supernetOf(model, options.name);
  return searchForms([...sites.values()], config, options);
}

/** The search over modules of a supernet, whatever they belong to. */
export async function searchForms(
  all: readonly HookSite[],
  config: GloraConfig,
  options: GloraSearchOptions,
): Promise<GloraCandidate> {
  const choices = all.map(({ shape }) => gloraChoices(shape, config));
  const sizes = all.map(({ shape }, at) => slotSizes(shape, config, choices[at] as (typeof choices)[number]));
  const domain = choices.flatMap(({ forms }) => SLOTS.map((name) => forms[name].length));
  const selectionOf = (genes: Genes): GloraSelection =>
    Object.fromEntries(
      all.map(({ shape }, at) => {
        const own = genes.slice(at * SLOTS.length, (at + 1) * SLOTS.length);
        return [shape.path, formsAt(choices[at] as (typeof choices)[number], own)];
      }),
    );
  const put = (selection: GloraSelection) => {
    for (const site of all) setForms(site, selection[site.shape.path] as GloraForms, config);
  };
  const best = await evolve(domain, sizes.flat(), options, async (genes, parameters) => {
    const selection = selectionOf(genes);
    put(selection);
    return { selection, parameters, loss: await options.loss() };
  });
  put(best.selection);
  return best;
}

/** Numbers that each form of each support tensor of a module costs. */
function slotSizes(
  site: SiteShape,
  config: GloraConfig,
  { forms }: ReturnType<typeof gloraChoices>,
): readonly (readonly number[])[] {
  const none: GloraForms = { a: "none", b: "none", c: "none", d: "none", e: "none" };
  return SLOTS.map((name) =>
    forms[name].map((form) => gloraParameters(site, config, { ...none, [name.toLowerCase()]: form })),
  );
}

interface Scored extends GloraCandidate {
  readonly genes: Genes;
}

/** The best of all candidates that were looked at. */
async function evolve(
  domain: readonly number[],
  sizes: readonly (readonly number[])[],
  options: GloraSearchOptions,
  score: (genes: Genes, parameters: number) => Promise<GloraCandidate>,
): Promise<GloraCandidate> {
  const { population = 50, parents = 10, generations = 20, mutation = 0.2, seed = 0, budget } = options;
  const random = rng(seed, "glora-search");
  const uniform = () => random.fillUniform(new Float32Array(1))[0] as number;
  const below = (count: number) => Math.min(count - 1, Math.floor(uniform() * count));
  const seen = new Set<string>();
  let best: Scored[] = [];
  const fresh = (): Genes => domain.map(below);
  const parent = () => (best[below(best.length)] as Scored).genes;
  const mutate = (): Genes =>
    parent().map((gene, at) => (uniform() < mutation ? below(domain[at] as number) : gene));
  const cross = (): Genes => {
    const [left, right] = [parent(), parent()];
    return left.map((gene, at) => (uniform() < 0.5 ? gene : (right[at] as number)));
  };
  /** Up to `count` new candidates within the budget, in at most ten times as many tries. */
  const draw = (count: number, make: () => Genes): { genes: Genes; parameters: number }[] => {
    const found: { genes: Genes; parameters: number }[] = [];
    for (let tries = 0; tries < 10 * count && found.length < count; tries++) {
      const genes = make();
      const parameters = genes.reduce((sum, gene, at) => sum + (sizes[at]?.[gene] as number), 0);
      if (parameters > budget || seen.has(genes.join())) continue;
      seen.add(genes.join());
      found.push({ genes, parameters });
    }
    return found;
  };
  const lean = cheapest(domain, sizes);
  for (let generation = 0; generation < generations; generation++) {
    const children =
      generation === 0
        ? [...draw(1, () => lean), ...draw(population - 1, () => trimmed(fresh(), sizes, budget, below))]
        : [...draw(Math.ceil(population / 2), mutate), ...draw(Math.floor(population / 2), cross)];
    if (generation > 0 && children.length < population)
      children.push(...draw(population - children.length, fresh));
    for (const { genes, parameters } of children) {
      const candidate = { ...(await score(genes, parameters)), genes };
      options.onCandidate?.(candidate, generation);
      best = [...best, candidate].sort((a, b) => a.loss - b.loss).slice(0, parents);
    }
    if (best.length === 0) throw overBudget(budget);
  }
  const { genes: _, ...winner } = best[0] as Scored;
  return winner;
}

const cheapest = (domain: readonly number[], sizes: readonly (readonly number[])[]): Genes =>
  domain.map((_, at) => (sizes[at] as number[]).indexOf(Math.min(...(sizes[at] as number[]))));

/** Random genes with random places made cheaper until the budget is met: plain drawing hardly ever meets a small one. */
function trimmed(
  genes: Genes,
  sizes: readonly (readonly number[])[],
  budget: number,
  below: (n: number) => number,
): Genes {
  const own = [...genes];
  const cost = () => own.reduce((sum, gene, at) => sum + (sizes[at]?.[gene] as number), 0);
  for (let tries = 0; cost() > budget && tries < 50 * own.length; tries++) {
    const at = below(own.length);
    const other = below((sizes[at] as number[]).length);
    if ((sizes[at]?.[other] as number) < (sizes[at]?.[own[at] as number] as number)) own[at] = other;
  }
  return own;
}

const overBudget = (budget: number) =>
  new TunesmithError("config-invalid", `glora: no configuration has at most ${budget} parameters`, {
    fix: "raise the budget",
    details: { budget },
  });

function supernetOf(model: Adapted, name = "default") {
  const adapter = adapterNamed(model, name);
  const config = adapter.adaptation.config as GloraConfig;
  if (adapter.adaptation.method.name === "glora" && config.supernet) return { ...adapter, config };
  throw new TunesmithError("config-invalid", `adapter '${name}' is no GLoRA supernet`, {
    fix: "adapt with glora({ supernet: true, ... }) and train it first",
  });
}

/**
 * The model with a supernet replaced by an adapter of the selected forms alone; it computes what the supernet does with
 * that selection. Throws `config-invalid` for an adapter that is no supernet.
 */
export async function extractGlora<M extends Model>(
  model: Adapted<M>,
  selection: GloraSelection,
  options: { readonly name?: string } = {},
): Promise<Adapted<M>> {
  const { name = "default" } = options;
  const { sites, config: whole, adaptation } = supernetOf(model, name);
  const config = { ...whole, supernet: false, chosen: selection };
  const extracted: Adapter = await createAdapter(
    model.base,
    { ...adaptation, config },
    {
      name,
      seed: 0,
      stored: async (site, key, { shape }) =>
        site &&
        part(sites.get(site.path) as AdapterSite, key, shape, selection[site.path] as GloraForms, config),
    },
  );
  return adaptedModel(model.base, new Map([...model.adapters, [name, extracted]]), model.active);
}

/** What a form reads of the supernet's tensor: all, its first columns or rows, its first column, its first number. */
function part(
  { tensors }: AdapterSite,
  key: string,
  shape: readonly number[],
  forms: GloraForms,
  { ranks }: GloraConfig,
): Float32Array {
  const [, name, kind] = key.split(/[_.]/) as [string, string, string];
  const whole = (tensors[key] ?? tensors[`glora_${name}.Xd`])?.tensor;
  const data = whole?.data as Float32Array;
  const width = Math.max(...ranks);
  if (kind === "Xu")
    return data.slice(
      0,
      shape.reduce((a, b) => a * b, 1),
    );
  if (!whole || whole.shape.length === 1) return data.slice(0, shape[0]);
  const form = forms[name.toLowerCase() as keyof GloraForms];
  const columns = form.startsWith("lora") ? gloraRank(form, ranks) : 1;
  const rows = shape[0] as number;
  return Float32Array.from({ length: rows * columns }, (_, at) => {
    const [row, column] = [Math.floor(at / columns), at % columns];
    return data[row * width + column] as number;
  });
}
