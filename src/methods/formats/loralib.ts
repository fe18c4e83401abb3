import { TunesmithError } from "../../errors/index.js";
import { type Tensor, toFloat32 } from "../../tensor/index.js";
import {
  fromPeft,
  invalid,
  isEmbeddingPath,
  type LoraModule,
  type NamedTensors,
  type PeftTensors,
  pair,
  put,
  rankOf,
  refuse,
  scaled,
  toPeft,
} from "./parts.js";

export interface FromLoralibOptions {
  /** `lora_alpha` of the training script; the file does not say it (16 for the published RoBERTa adapters, 32 for GPT-2). */
  readonly alpha: number;
  /**
   * `enable_lora` of `MergedLinear`: which equal parts of a fused projection are adapted, such as `[true, false, true]` for queries and values.
   * Needed when the file has such layers.
   */
  readonly enableLora?: readonly boolean[];
  /** Modules to be saved whole although the file holds a full model, by path: `["classifier"]`. */
  readonly saved?: readonly string[];
}

/** An adapter read from a loralib checkpoint. */
export interface LoralibAdapter extends PeftTensors {
  /** The other tensors of a full checkpoint: the base. Empty when the file holds the trained tensors only. */
  readonly base: NamedTensors;
}

/**
 * An adapter of loralib, the code of the LoRA paper (arXiv 2106.09685), in PEFT's names: `….lora_A`, `….lora_B` beside a full or partial state
 * dict. In a partial one every other tensor was trained whole (a classifier) and is kept; in a full one they are the
 * base's, which comes back apart. Parts of a `MergedLinear` become one update of rank r · parts, whose B is block-diagonal: the
 * same function.
 *
 * Throws `adapter-invalid` for half a pair or shapes that do not fit, `config-invalid` for a missing or wrong `enableLora`.
 *
 * @param tensors The state dict, as `openTorch` gives it.
 * @example
 * ```ts
 * import { fromLoralib } from "tunesmith/methods";
 * import { loadAll, openTorch } from "tunesmith/tensor";
 * const file = await openTorch("roberta_base_lora_mnli.bin");
 * const adapter = fromLoralib(await loadAll(file), { alpha: 16 });
 * ```
 */
export function fromLoralib(tensors: NamedTensors, options: FromLoralibOptions): LoralibAdapter {
  const found = new Map<string, Map<string, Tensor>>();
  const others = new Map<string, Tensor>();
  for (const [name, value] of tensors) {
    const match = /^(.+)\.(lora_A|lora_B)$/.exec(name);
    if (match) put(found, match[1] ?? "", match[2] ?? "", value);
    else others.set(name, value);
  }
  const full = [...found.keys()].some((path) => others.has(`${path}.weight`));
  const isSaved = (name: string) =>
    !full || (options.saved ?? []).some((path) => name.startsWith(`${path}.`));
  const modules = [...found].map(([path, entries]): LoraModule => {
    if (others.has(`${path}.conv.weight`)) {
      throw invalid(
        `'${path}' is a convolution, whose factors loralib shapes differently`,
        "merge it where it was trained",
      );
    }
    const { a, b } = pair(entries, path, ["lora_A", "lora_B"]);
    const rank = b.shape[1] ?? 0;
    const scale = options.alpha / rank;
    const embedding = isEmbeddingPath(path);
    if (a.shape[0] === rank) return { path, a, b, scale, embedding };
    return { path, a, b: blockDiagonal(path, a, b, options.enableLora), scale, embedding };
  });
  const saved = new Map([...others].filter(([name]) => isSaved(name)));
  const base = new Map([...others].filter(([name]) => !isSaved(name)));
  return { ...toPeft({ modules, saved }), base };
}

/** B of the whole projection: part p of the output uses rows p·r to (p+1)·r of A, parts that are off stay zero. */
function blockDiagonal(path: string, a: Tensor, b: Tensor, enable: readonly boolean[] | undefined): Tensor {
  const [rows = 0, rank = 0] = b.shape;
  const groups = (a.shape[0] ?? 0) / rank;
  const on = enable?.filter(Boolean).length ?? 0;
  if (!enable || on !== groups || rows % groups !== 0) {
    throw new TunesmithError(
      "config-invalid",
      `'${path}': A [${a.shape}] and B [${b.shape}] adapt ${groups} parts of a fused projection`,
      {
        fix: "pass enableLora, the enable_lora of the training code, such as [true, false, true]",
        details: { path, groups },
      },
    );
  }
  const part = rows / groups;
  const from = toFloat32(b);
  const data = new Float32Array(part * enable.length * rank * groups);
  let group = 0;
  enable.forEach((enabled, place) => {
    if (!enabled) return;
    for (let row = 0; row < part; row++) {
      const source = (group * part + row) * rank;
      data.set(from.subarray(source, source + rank), (place * part + row) * rank * groups + group * rank);
    }
    group++;
  });
  return { dtype: "float32", shape: [part * enable.length, rank * groups], data };
}

export interface ToLoralibOptions {
  /** `lora_alpha` of the loading script. Default: the one of the first module; other scales are multiplied into B. */
  readonly alpha?: number;
  /** Write fused projections (`mergedModules`) with this `enable_lora`. */
  readonly enableLora?: readonly boolean[];
  /** Last names of the modules that are `MergedLinear`. Default `["c_attn"]`; used only with `enableLora`. */
  readonly mergedModules?: readonly string[];
}

/**
 * An adapter as a loralib state dict: factors, and modules trained whole under their own names.
 *
 * Throws `adapter-invalid` for DoRA and biases, and for a fused projection whose update is not block-diagonal as `enableLora` says.
 */
export function toLoralib(adapter: PeftTensors, options: ToLoralibOptions = {}): Map<string, Tensor> {
  const parts = fromPeft(adapter);
  refuse(parts, "loralib", { dora: true });
  const { enableLora, mergedModules = ["c_attn"] } = options;
  const tensors = new Map<string, Tensor>();
  let alpha = options.alpha;
  for (const module of parts.modules) {
    const merged =
      enableLora && mergedModules.includes(module.path.split(".").at(-1) ?? "") ? enableLora : undefined;
    const b = merged ? withoutBlocks(module, merged) : module.b;
    const own = module.scale * (b.shape[1] ?? 1);
    alpha ??= own;
    tensors.set(`${module.path}.lora_A`, module.a);
    tensors.set(`${module.path}.lora_B`, scaled(b, own / alpha));
  }
  for (const [name, value] of parts.saved) tensors.set(name, value);
  return tensors;
}

/** The blocks of B, one below the other; throws `adapter-invalid` when there is anything outside of them. */
function withoutBlocks(module: LoraModule, enable: readonly boolean[]): Tensor {
  const { path, b } = module;
  const groups = enable.filter(Boolean).length;
  const [rows = 0] = b.shape;
  const rank = rankOf(module) / groups;
  const part = rows / enable.length;
  const not = () =>
    invalid(`'${path}': B is not made of blocks for [${enable}]`, "write it without enableLora");
  if (!Number.isInteger(rank) || !Number.isInteger(part)) throw not();
  const from = toFloat32(b);
  const data = new Float32Array(part * groups * rank);
  let kept = 0;
  let group = 0;
  enable.forEach((enabled, place) => {
    if (!enabled) return;
    for (let row = 0; row < part; row++) {
      const source = (place * part + row) * rank * groups + group * rank;
      const block = from.subarray(source, source + rank);
      data.set(block, (group * part + row) * rank);
      kept += block.reduce((count, value) => count + (value === 0 ? 0 : 1), 0);
    }
    group++;
  });
  const all = from.reduce((count, value) => count + (value === 0 ? 0 : 1), 0);
  if (kept !== all) throw not();
  return { dtype: "float32", shape: [part * groups, rank], data };
}
