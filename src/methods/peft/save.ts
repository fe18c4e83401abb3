import { joinPath, makeDir, writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { type Model, probeOutputs, sitesOf } from "../../models/index.js";
import { type Tensor, tensor, writeSafetensors } from "../../tensor/index.js";
import type { Adapter, AdapterSite } from "../adapter.js";
import { fingerprint, touchedWeights } from "../fingerprint.js";
import { type LoraConfig, loraMethod } from "../lowrank/lora.js";
import { isTarget } from "../targets.js";
import { peftConfigOf } from "./config.js";
import { FINGERPRINT_KEY, TOKENIZER_KEY } from "./load.js";
import { PREFIX, peftNames } from "./names.js";

/**
 * Writes an adapter as a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`. Adapters whose
 * initialisation took a part of the base (PiSSA, OLoRA) are written in portable form: of twice the rank, for the
 * original base.
 *
 * Writes what it is given: `saveAdapter` checks first that it has an effect. Throws `format-unsupported` for a method
 * that PEFT has no format for, `file-write-failed`.
 */
export async function savePeft(model: Model, adapter: Adapter, folder: string): Promise<void> {
  const { method } = adapter.adaptation;
  if (method.name !== loraMethod.name) {
    throw new TunesmithError(
      "format-unsupported",
      `an adapter of method '${method.name}' has no PEFT format here`,
      {
        fix: "merge it and save the model, or keep its tensors with writeSafetensors",
      },
    );
  }
  await makeDir(folder);
  const names = peftNames(adapter);
  const tensors = new Map<string, Tensor>();
  for (const [parameterName, name] of names) {
    const parameter = adapter.parameters.get(parameterName);
    if (parameter) tensors.set(name, parameter.tensor);
  }
  const portable = [...adapter.sites.values()].some((site) => site.tensors.lora_A0 !== undefined);
  for (const [path, site] of adapter.sites)
    for (const [name, value] of doubled(path, site)) tensors.set(name, value);
  const prints = await fingerprint(model, touchedWeights(adapter));
  const metadata = {
    format: "pt",
    [FINGERPRINT_KEY]: JSON.stringify(prints),
    ...(model.tokenizer ? { [TOKENIZER_KEY]: model.tokenizer.hash } : {}),
  };
  await writeSafetensors(joinPath(folder, "adapter_model.safetensors"), tensors, { metadata });
  const config = peftConfigOf(adapter.adaptation.config as LoraConfig, {
    targets: savedTargets(model, adapter),
    base: model.origin ?? "",
    portable,
  });
  const sorted = Object.fromEntries(Object.entries(config).sort(([a], [b]) => (a < b ? -1 : 1)));
  await writeFileAtomic(joinPath(folder, "adapter_config.json"), `${JSON.stringify(sorted, null, 2)}\n`);
}

/** [A; A0] and [B, −B0] of a site whose initialisation took part of the base. */
function doubled(path: string, site: AdapterSite): [string, Tensor][] {
  const { lora_A: a, lora_B: b, lora_A0: a0, lora_B0: b0 } = site.tensors;
  if (!a || !b || !a0 || !b0) return [];
  const [rank, inFeatures] = a.tensor.shape as [number, number];
  const outFeatures = b.tensor.shape[0] as number;
  const stacked = new Float32Array(2 * rank * inFeatures);
  stacked.set(a.tensor.data as Float32Array);
  stacked.set(a0.tensor.data as Float32Array, rank * inFeatures);
  const beside = new Float32Array(outFeatures * 2 * rank);
  for (let row = 0; row < outFeatures; row++) {
    for (let k = 0; k < rank; k++) {
      beside[row * 2 * rank + k] = (b.tensor.data as Float32Array)[row * rank + k] as number;
      beside[row * 2 * rank + rank + k] = -((b0.tensor.data as Float32Array)[row * rank + k] as number);
    }
  }
  return [
    [`${PREFIX}${path}.lora_A.weight`, tensor("float32", [2 * rank, inFeatures], stacked)],
    [`${PREFIX}${path}.lora_B.weight`, tensor("float32", [outFeatures, 2 * rank], beside)],
  ];
}

/**
 * `all-linear` and the default are written out, since readers expand them by tables of their own; so is an expression
 * with `layers`, which they refuse.
 */
function savedTargets(model: Model, adapter: Adapter): string | readonly string[] {
  const {
    targets = model.defaultTargets,
    exclude,
    layers,
    layersPattern,
    modulesToSave,
  } = adapter.adaptation.config;
  const isKeyword = typeof targets === "string" && targets.toLowerCase() === "all-linear";
  if (!isKeyword && (typeof targets !== "string" || layers === undefined)) return targets;
  const selection = { targets, exclude, layers, layersPattern, saved: modulesToSave };
  return sitesOf(probeOutputs(model))
    .filter((site) => isTarget(site, selection))
    .map((site) => site.path)
    .sort();
}
