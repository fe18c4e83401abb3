import type { z } from "zod";
import { TunesmithError } from "../errors/index.js";
import { type Model, probeOutputs } from "../models/index.js";
import { siteShapes } from "./adapter.js";
import { parseConfig } from "./config.js";
import type { Adaptation, Method, SiteConfig } from "./method.js";
import { ownTensors } from "./saved.js";

/**
 * Numbers that an adaptation would train on a model, without making them: those of its sites, those they share, and
 * the base tensors it is about. Biases, saved modules and token rows come on top.
 *
 * @example
 * ```ts
 * import { lora, trainedNumbers } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * console.log(trainedNumbers(await loadModel("path/to/model"), lora({ rank: 8, targets: "all-linear" })));
 * ```
 */
export function trainedNumbers<Config extends SiteConfig>(
  model: Model,
  adaptation: Adaptation<Config>,
): number {
  const { method, config } = adaptation;
  const own = method.whole ? ownTensors(probeOutputs(model), adaptation as unknown as Adaptation) : [];
  const sites = siteShapes(model, adaptation as unknown as Adaptation);
  const specs = [
    ...Object.values(method.shared?.(sites, config) ?? {}),
    ...sites.flatMap((site) => Object.values(method.tensors(site, config))),
  ];
  const shapes = [
    ...specs.flatMap(({ trainable, shape }) => (trainable ? [shape] : [])),
    ...own.map(({ weight }) => weight.shape as readonly number[]),
  ];
  return shapes.reduce((sum, shape) => sum + shape.reduce((product, size) => product * size, 1), 0);
}

/** Sizes that are tried: 1, 2, 3, 4, then in steps of a quarter to a third. */
const SIZES: readonly number[] = [
  ...[1, 2, 3],
  ...Array.from({ length: 15 }, (_, power) => [4, 5, 6, 7].map((size) => size * 2 ** power)).flat(),
];

/** A method's options at a size, and what it trains then. */
export interface Sized {
  readonly options: Readonly<Record<string, unknown>>;
  readonly parameters: number;
}

/**
 * The options with which a method trains as many numbers as it can without going over `budget`; where even its smallest
 * size goes over, that one. A rank goes no higher than the widest site. A method of fixed size keeps its options. Throws what its options or targets are refused with.
 */
export function withinBudget<Config extends SiteConfig>(
  model: Model,
  method: Method<Config>,
  options: Readonly<Record<string, unknown>>,
  budget: number,
): Sized {
  const { sized } = method;
  const schema = method.schema as unknown as z.ZodObject;
  const bySize = sized ?? ("rank" in schema.shape ? (size: number) => ({ rank: size }) : undefined);
  const given: Sized = { options, parameters: 0 };
  if (!bySize) return { ...given, parameters: counted(model, method, options) };
  const widest = sized ? Number.POSITIVE_INFINITY : widestSite(model, method, options);
  const found: Sized[] = [];
  for (const size of SIZES) {
    if (size > widest) break;
    const tried = { ...options, ...bySize(size) };
    const parameters = possible(() => counted(model, method, tried));
    if (parameters === undefined) continue;
    found.push({ options: tried, parameters });
    // Counts that only rise need no further look.
    if (parameters > budget && found.length > 1 && rises(found)) break;
  }
  if (found.length === 0) return { ...given, parameters: counted(model, method, options) };
  const within = found.filter(({ parameters }) => parameters <= budget);
  return within.length > 0
    ? within.reduce((best, each) => (each.parameters > best.parameters ? each : best))
    : found.reduce((best, each) => (each.parameters < best.parameters ? each : best));
}

/** The most features a site has: a rank above it adds nothing but work. */
const widestSite = <Config extends SiteConfig>(
  model: Model,
  method: Method<Config>,
  options: Readonly<Record<string, unknown>>,
): number =>
  siteShapes(model, { method, config: parsed(method, options) } as unknown as Adaptation).reduce(
    (widest, { inFeatures, outFeatures }) => Math.max(widest, inFeatures, outFeatures),
    0,
  );

const rises = (found: readonly Sized[]): boolean =>
  found.every(({ parameters }, at) => at === 0 || parameters >= (found[at - 1]?.parameters ?? 0));

const counted = <Config extends SiteConfig>(
  model: Model,
  method: Method<Config>,
  options: Readonly<Record<string, unknown>>,
): number => trainedNumbers(model, { method, config: parsed(method, options) });

const parsed = <Config extends SiteConfig>(
  { name, schema }: Method<Config>,
  options: Readonly<Record<string, unknown>>,
): Config => parseConfig(name, schema as unknown as z.ZodObject, options) as unknown as Config;

/** A size that the method refuses is none. */
function possible(count: () => number): number | undefined {
  try {
    return count();
  } catch (error) {
    if (error instanceof TunesmithError && error.code === "config-invalid") return undefined;
    throw error;
  }
}
