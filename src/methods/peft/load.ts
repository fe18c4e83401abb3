import { fileExists, joinPath } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { type CausalLm, nearest, readJson } from "../../models/index.js";
import { openSharded, readTensor, type TensorFile, tensorsEqual, toFloat32 } from "../../tensor/index.js";
import { type Adapter, createAdapter } from "../adapter.js";
import { checkFingerprint, type Fingerprint } from "../fingerprint.js";
import { adaptationOf, parsePeftConfig } from "./config.js";
import { PREFIX, peftNames } from "./names.js";

export interface LoadAdapterOptions {
  readonly name?: string;
  /** Apply it although the base differs from the one it was trained on. Default false. */
  readonly anyBase?: boolean;
}

/** Key under which the fingerprint of the base travels in the safetensors metadata. */
export const FINGERPRINT_KEY = "tunesmith.base_fingerprint";

/**
 * Reads a PEFT adapter folder for a model. Stricter than the reference: every tensor the config promises must be there
 * with its shape, every tensor in the file must be used, and the base must be the one it was trained on when that is known.
 *
 * Throws `file-not-found`, `file-corrupt`, `adapter-invalid`, `wrong-base`, `target-not-found`.
 */
export async function loadPeft(
  model: CausalLm,
  folder: string,
  options: LoadAdapterOptions = {},
): Promise<Adapter> {
  const configPath = joinPath(folder, "adapter_config.json");
  if (!(await fileExists(configPath))) {
    throw new TunesmithError("file-not-found", `${folder}: no adapter_config.json`, {
      fix: "give the folder of a PEFT adapter",
    });
  }
  const config = parsePeftConfig(await readJson(configPath), configPath);
  const file = await openSharded(folder, "adapter_model");
  try {
    const prints = file.metadata.get(FINGERPRINT_KEY);
    if (prints !== undefined && !options.anyBase) {
      await checkFingerprint(model, JSON.parse(prints) as Fingerprint, folder);
    }
    const adapter = await createAdapter(model, adaptationOf(config), options.name ?? "default", 0);
    await fill(adapter, file, model);
    return adapter;
  } finally {
    await file.close();
  }
}

async function fill(adapter: Adapter, file: TensorFile, model: CausalLm): Promise<void> {
  const wanted = peftNames(adapter);
  for (const [parameterName, name] of wanted) {
    const entry = file.entries.get(name);
    const parameter = adapter.parameters.get(parameterName);
    if (!entry || !parameter) throw missing(file, name);
    const same = entry.shape.join() === parameter.tensor.shape.join();
    if (!same) {
      throw new TunesmithError(
        "adapter-invalid",
        `${file.name}: '${name}' has shape [${entry.shape}], this model needs [${parameter.tensor.shape}]`,
        { fix: "the adapter belongs to another base, or its config names another rank" },
      );
    }
    (parameter.tensor.data as Float32Array).set(toFloat32(await readTensor(entry)));
  }
  const used = new Set(wanted.values());
  for (const name of file.entries.keys()) if (!used.has(name)) await checkExtra(name, file, model);
}

/** A stored copy of a base weight must be the base's own; anything else that is left over is an error. */
async function checkExtra(name: string, file: TensorFile, model: CausalLm): Promise<void> {
  const base = name.startsWith(PREFIX) ? name.slice(PREFIX.length).replace(".base_layer.", ".") : "";
  const own = model.weights.get(base)?.source ?? tiedHead(base, model);
  if (own?.kind === "constant" && name.includes(".base_layer.")) {
    if (tensorsEqual(await readTensor(own.data), await file.read(name))) return;
    throw new TunesmithError("wrong-base", `${file.name}: '${name}' differs from the base's '${base}'`, {
      fix: "load the base it was trained on",
    });
  }
  const reason = name.startsWith(PREFIX) ? "no module of the model takes it" : `its name lacks '${PREFIX}'`;
  throw new TunesmithError("adapter-invalid", `${file.name}: tensor '${name}' is not used: ${reason}`, {
    fix: "check that the adapter belongs to this architecture; nothing was applied",
    details: { tensor: name },
  });
}

/** A tied output head is stored under its own name. */
function tiedHead(name: string, model: CausalLm) {
  if (name !== "lm_head.weight") return undefined;
  const embedding = [...model.weights.keys()].find((key) => /(embed_tokens|wte)\.weight$/.test(key));
  return embedding === undefined ? undefined : model.weights.get(embedding)?.source;
}

function missing(file: TensorFile, name: string): TunesmithError {
  const near = nearest(name, file.entries.keys(), 3).join(", ");
  return new TunesmithError("adapter-invalid", `${file.name}: tensor '${name}' is missing`, {
    fix: `the config asks for it; the nearest in the file: ${near}`,
    details: { tensor: name },
  });
}
