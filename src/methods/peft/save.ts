import { joinPath, makeDir, writeFileAtomic } from "#io";
import { type Model, type Parameter, probeOutputs, sitesOf } from "../../models/index.js";
import { type Tensor, tensor, writeSafetensors } from "../../tensor/index.js";
import type { Adapter } from "../adapter.js";
import { fingerprint, touchedWeights } from "../fingerprint.js";
import { OWN_BASE_KEY, saveOwnBase } from "../quantised/own-base.js";
import { isTarget } from "../targets.js";
import { peftConfigOf } from "./config.js";
import { FINGERPRINT_KEY, QUANTIZATION_KEY, TOKENIZER_KEY } from "./load.js";
import type { PeftMapping } from "./mapping.js";
import { mappingOf } from "./mappings.js";
import { PREFIX, peftNames, targetPaths, tensorName } from "./names.js";
import { inMemoryNames } from "./spelling.js";

/**
 * Writes an adapter as a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`. Adapters whose
 * initialisation took a part of the base (PiSSA, OLoRA) are written in portable form: of twice the rank, for the
 * original base.
 *
 * Writes what it is given: `saveAdapter` checks first that it has an effect. Throws `format-unsupported` for a method
 * that PEFT has no format for, `file-write-failed`.
 */
export async function savePeft(model: Model, adapter: Adapter, folder: string): Promise<void> {
  const mapping = mappingOf(adapter.adaptation.method);
  const tensors = peftTensors(adapter, mapping);
  await makeDir(folder);
  const prints = await fingerprint(model, touchedWeights(adapter));
  const metadata = {
    format: "pt",
    [FINGERPRINT_KEY]: JSON.stringify(prints),
    ...(model.quantization ? { [QUANTIZATION_KEY]: JSON.stringify(model.quantization.settings) } : {}),
    ...(model.quantization?.own ? { [OWN_BASE_KEY]: model.quantization.own } : {}),
    ...(model.tokenizer ? { [TOKENIZER_KEY]: model.tokenizer.hash } : {}),
  };
  const targets = savedTargets(model, adapter);
  const config = peftConfigOf(adapter, mapping, { targets, base: model.origin ?? "", task: model.task });
  const written = inMemoryNames(model, adapter, config, tensors);
  await writeSafetensors(joinPath(folder, "adapter_model.safetensors"), written.tensors, { metadata });
  await saveOwnBase(model, folder);
  for (const [name, part] of mapping.parts?.(adapter) ?? [])
    await savePeft(model, part, joinPath(folder, name));
  const sorted = Object.fromEntries(Object.entries(written.config).sort(([a], [b]) => (a < b ? -1 : 1)));
  await writeFileAtomic(joinPath(folder, "adapter_config.json"), `${JSON.stringify(sorted, null, 2)}\n`);
}

/** The tensors of an adapter under the names, and in the form, that PEFT writes. */
export function peftTensors(adapter: Adapter, mapping: PeftMapping): Map<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  const unstored = unstoredOf(adapter);
  for (const [parameterName, name] of peftNames(adapter)) {
    const parameter = adapter.parameters.get(parameterName);
    if (parameter && !unstored.has(parameterName)) tensors.set(name, parameter.tensor);
  }
  for (const { shape: site, tensors: own } of adapter.sites.values()) {
    for (const [key, { name: parameterName, tensor: ours }] of Object.entries(own)) {
      const name = tensorName(mapping, site, key);
      if (name && !unstored.has(parameterName)) tensors.set(name, inFile(mapping, site, key, ours, adapter));
    }
  }
  for (const site of adapter.sites.values())
    for (const [suffix, value] of mapping.rewritten?.(site, adapter.adaptation.config) ?? [])
      tensors.set(`${PREFIX}${site.shape.path}.${suffix}`, value);
  return tensors;
}

/** Parameters that a seed gives back. */
function unstoredOf({ adaptation, sites, shared }: Adapter): Set<string> {
  const { method, config } = adaptation;
  const names = new Set<string>();
  const collect = (
    specs: Readonly<Record<string, { stored?: boolean }>>,
    own: Readonly<Record<string, Parameter>>,
  ) => {
    for (const [key, { stored }] of Object.entries(specs))
      if (stored === false && own[key]) names.add(own[key].name);
  };
  const all = [...sites.values()];
  for (const { shape, tensors } of all) collect(method.tensors(shape, config), tensors);
  collect(
    method.shared?.(
      all.map(({ shape }) => shape),
      config,
    ) ?? {},
    shared,
  );
  return names;
}

function inFile(
  { fileShape, toFile }: PeftMapping,
  site: Parameters<NonNullable<PeftMapping["fileShape"]>>[1],
  key: string,
  ours: Tensor,
  { adaptation }: Adapter,
): Tensor {
  const shape = fileShape?.(key, site, ours.shape) ?? ours.shape;
  const data = toFile?.(ours.data as Float32Array, key, site, adaptation.config) ?? ours.data;
  return tensor(ours.dtype, shape, data);
}

/**
 * `all-linear` and the default are written out, since readers expand them by tables of their own; so is an expression
 * with `layers`, which they refuse.
 */
function savedTargets(model: Model, adapter: Adapter): string | readonly string[] {
  const { method, config } = adapter.adaptation;
  if (method.whole && (config.targets === undefined || typeof config.targets === "string"))
    return targetPaths(adapter).sort();
  const { targets = model.defaultTargets, exclude, layers, layersPattern, modulesToSave } = config;
  const isKeyword = typeof targets === "string" && targets.toLowerCase() === "all-linear";
  if (!isKeyword && (typeof targets !== "string" || layers === undefined)) return targets;
  const selection = { targets, exclude, layers, layersPattern, saved: modulesToSave };
  return sitesOf(probeOutputs(model))
    .filter((site) => isTarget(site, selection))
    .map((site) => site.path)
    .sort();
}
