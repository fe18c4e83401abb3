import { type Model, probeOutputs, type Spelling, sitesOf } from "../../models/index.js";
import type { Adapter } from "../adapter.js";
import type { Method, SiteConfig } from "../method.js";
import { tensorModules, tensorUses } from "../saved.js";
import { type Candidate, isTarget, patternValue, type TargetSelection } from "../targets.js";
import type { PeftConfig } from "./config-part.js";
import type { AdapterTensors } from "./load.js";
import { PREFIX, targetPaths } from "./names.js";

const spellingOf = (model: Model): Spelling | undefined => ("spelling" in model ? model.spelling : undefined);

const PATTERNS = ["rank_pattern", "alpha_pattern"] as const;
type Patterns = Readonly<Record<string, unknown>> | null | undefined;

const escaped = (path: string) => path.replaceAll(".", "\\.");

/** A pattern table over paths written out: one entry per path that it says something of. */
function writtenOut(table: Patterns, paths: readonly { readonly from: string; readonly to: string }[]) {
  const entries = paths.flatMap(({ from, to }): [string, unknown][] => {
    // AdaLoRA's table is by tensor, not by pattern.
    const rows = table?.[`${from}.lora_E`];
    if (rows !== undefined) return [[`${to}.lora_E`, rows]];
    const value = patternValue((table ?? {}) as Record<string, number>, from, Number.NaN);
    return Number.isNaN(value) ? [] : [[escaped(to), value]];
  });
  return Object.fromEntries(entries);
}

const renamedKeys = <T>(entries: ReadonlyMap<string, T>, rename: (name: string) => string): Map<string, T> =>
  new Map(
    [...entries].map(([name, value]) => [
      name.startsWith(PREFIX) ? PREFIX + rename(name.slice(PREFIX.length)) : name,
      value,
    ]),
  );

const inMemory = (site: Candidate, { memory }: Spelling) => ({ ...site, path: memory(site.path) });

/** An adapter's config and tensors by the names that the model's own files have. */
export function inOwnNames(
  model: Model,
  config: PeftConfig,
  file: AdapterTensors,
  method: Pick<Method<SiteConfig>, "whole">,
): { readonly config: PeftConfig; readonly file: AdapterTensors } {
  const spelling = spellingOf(model);
  if (!spelling) return { config, file };
  const own = { ...file, entries: renamedKeys(file.entries, spelling.file) };
  const { target_modules: targets, layers_to_transform: layers } = config;
  if (targets == null || targets === "all-linear") return { config, file: own };
  const selection: TargetSelection = {
    targets,
    exclude: config.exclude_modules ?? undefined,
    layers: layers == null ? undefined : [layers].flat(),
    layersPattern: config.layers_pattern ?? undefined,
    saved: config.modules_to_save ?? [],
  };
  const outputs = probeOutputs(model);
  const isMeant = (module: Candidate) => isTarget(inMemory(module, spelling), selection);
  const sites = method.whole ? tensorModules(tensorUses(outputs), outputs) : sitesOf(outputs);
  const others = sites.filter(isMeant);
  if (others.length === 0 || sites.some((site) => isTarget(site, selection) && !others.includes(site)))
    return { config, file: own };
  const paths = others.map(({ path }) => ({ from: spelling.memory(path), to: path }));
  const tables = PATTERNS.map((key) => [key, writtenOut(config[key] as Patterns, paths)] as const);
  const written = {
    ...config,
    ...Object.fromEntries(tables),
    target_modules: others.map(({ path }) => path),
    exclude_modules: null,
    layers_to_transform: null,
    layers_pattern: null,
  };
  return { config: written, file: own };
}

/** What a folder is written with: the names that the reference has in memory. */
export function inMemoryNames<T>(
  model: Model,
  adapter: Adapter,
  config: Readonly<Record<string, unknown>>,
  tensors: ReadonlyMap<string, T>,
): { readonly config: Readonly<Record<string, unknown>>; readonly tensors: ReadonlyMap<string, T> } {
  const spelling = spellingOf(model);
  if (!spelling) return { config, tensors };
  const paths = targetPaths(adapter).map((path) => ({ from: path, to: spelling.memory(path) }));
  const tables = PATTERNS.filter((key) => key in config).map(
    (key) => [key, writtenOut(config[key] as Patterns, paths)] as const,
  );
  const written = {
    ...config,
    ...Object.fromEntries(tables),
    target_modules: paths.map(({ to }) => to).sort(),
    exclude_modules: null,
    layers_to_transform: null,
    layers_pattern: null,
  };
  return { config: written, tensors: renamedKeys(tensors, spelling.memory) };
}
