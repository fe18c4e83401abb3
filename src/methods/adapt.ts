import { TunesmithError } from "../errors/index.js";
import type { CausalLm } from "../models/index.js";
import { type AdaptedLm, adaptedLm, isAdapted } from "./adapted.js";
import { type Adapter, createAdapter } from "./adapter.js";
import type { Adaptation, SiteConfig } from "./method.js";
import { type LoadAdapterOptions, loadPeft } from "./peft/load.js";
import { savePeft } from "./peft/save.js";

export interface AdaptOptions {
  /** Name of the adapter. Default "default". */
  readonly name?: string;
  /** Seed of its initialisation. Default 0. */
  readonly seed?: number;
}

/**
 * Puts a fresh adapter on a model; adapters already there stay active below it. The base is not changed.
 *
 * Throws `target-not-found`, `target-unsupported`, `config-invalid`, `name-conflict`.
 *
 * @example
 * ```ts
 * import { adapt, lora } from "tunesmith/methods";
 * import { loadFolder } from "tunesmith/models";
 * const model = await adapt(await loadFolder("path/to/model"), lora({ rank: 8, targets: ["q_proj", "v_proj"] }));
 * console.log(model.parameters.size);
 * ```
 */
export async function adapt<Config extends SiteConfig>(
  model: CausalLm,
  adaptation: Adaptation<Config>,
  options: AdaptOptions = {},
): Promise<AdaptedLm> {
  const base = isAdapted(model) ? model.base : model;
  const { name = "default", seed = 0 } = options;
  const adapter = await createAdapter(base, adaptation as unknown as Adaptation, name, seed);
  return withAdapter(model, adapter);
}

/** Loads a PEFT adapter folder onto a model. Throws as `loadPeft`. */
export async function loadAdapter(
  model: CausalLm,
  folder: string,
  options: LoadAdapterOptions = {},
): Promise<AdaptedLm> {
  const base = isAdapted(model) ? model.base : model;
  return withAdapter(model, await loadPeft(base, folder, options));
}

/** Saves one adapter of a model as a PEFT folder; default: the last active one. */
export async function saveAdapter(
  model: AdaptedLm,
  folder: string,
  name = model.active.at(-1) ?? "default",
): Promise<void> {
  await savePeft(model.base, adapterNamed(model, name), folder);
}

function withAdapter(model: CausalLm, adapter: Adapter): AdaptedLm {
  const [base, adapters, active] = isAdapted(model)
    ? [model.base, model.adapters, model.active]
    : [model, new Map<string, Adapter>(), [] as string[]];
  if (adapters.has(adapter.name)) {
    throw new TunesmithError("name-conflict", `the model already has an adapter '${adapter.name}'`, {
      fix: "give the new one another name, or unload the old one first",
    });
  }
  return adaptedLm(base, new Map([...adapters, [adapter.name, adapter]]), [...active, adapter.name]);
}

export function adapterNamed(model: AdaptedLm, name: string): Adapter {
  const adapter = model.adapters.get(name);
  if (adapter) return adapter;
  throw new TunesmithError("adapter-invalid", `no adapter '${name}' on this model`, {
    fix: `adapters: ${[...model.adapters.keys()].join(", ") || "none"}`,
  });
}

/** The model with exactly these adapters switched on, in this order; none gives the base's behaviour exactly. */
export const setActive = (model: AdaptedLm, names: readonly string[]): AdaptedLm =>
  adaptedLm(model.base, model.adapters, names);

/** Sets an adapter's strength (1 is as trained); takes effect at the next run of any graph over the model. */
export function setScale(model: AdaptedLm, name: string, scale: number): void {
  (adapterNamed(model, name).gate.tensor.data as Float32Array)[0] = scale;
}

/** The model without an adapter; its memory is freed when nothing else holds it. */
export function unload(model: AdaptedLm, name: string): AdaptedLm {
  adapterNamed(model, name);
  const rest = new Map([...model.adapters].filter(([other]) => other !== name));
  return adaptedLm(
    model.base,
    rest,
    model.active.filter((other) => other !== name),
  );
}
