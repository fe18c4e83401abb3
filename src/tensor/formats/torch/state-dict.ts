import { TunesmithError } from "../../../errors/index.js";
import type { Tensor } from "../../tensor.js";
import { isPickledTensor, type PickledTensor } from "./globals.js";

/** Where training scripts put the state dict, in the order they are looked for. */
const WRAPPERS = [
  "state_dict",
  "model_state_dict",
  "model",
  "module",
  "net",
  "network",
  "params_ema",
  "params",
];
const MAX_DEPTH = 3;
/** Written before every name by DataParallel, and by torch.compile. */
const PREFIXES = ["module.", "_orig_mod."];

type Value = PickledTensor | Tensor;

const isArray = (value: unknown): value is Tensor =>
  typeof value === "object" && value !== null && "kind" in value && value.kind === "ndarray";

const isTensor = (value: unknown): value is Value => isPickledTensor(value) || isArray(value);

/**
 * The state dict inside an unpickled checkpoint: below `state_dict`, `model_state_dict`, `model` and the like, or the object
 * itself; `module.` (DataParallel) and `_orig_mod.` (torch.compile) are dropped when every name begins so. Entries
 * that are no tensors are left out.
 *
 * Throws `tensor-not-found` when there is none.
 *
 * @param value `TorchFile.value`, or a part of it.
 * @example
 * ```ts
 * import { openTorch, stateDictOf } from "tunesmith/tensor";
 * const file = await openTorch("checkpoint.pth");
 * const optimizer = file.value instanceof Map ? file.value.get("ema") : undefined;
 * console.log([...stateDictOf(optimizer ?? file.value).keys()]);
 * ```
 */
export function stateDictOf(value: unknown): Map<string, Value> {
  const found = findStateDict(value, 0);
  if (found) return withoutPrefixes(found);
  const keys = value instanceof Map ? [...value.keys()].slice(0, 8).map(String).join(", ") : typeof value;
  throw new TunesmithError("tensor-not-found", `the checkpoint holds no state dict, only: ${keys}`, {
    fix: "save it with torch.save(model.state_dict(), path), or name the part that holds one",
  });
}

function findStateDict(value: unknown, depth: number): Map<string, Value> | undefined {
  if (!(value instanceof Map) || depth > MAX_DEPTH) return undefined;
  for (const key of WRAPPERS) {
    const inner = findStateDict(value.get(key), depth + 1);
    if (inner) return inner;
  }
  const tensors = new Map<string, Value>();
  for (const [key, item] of value) if (typeof key === "string" && isTensor(item)) tensors.set(key, item);
  return tensors.size > 0 ? tensors : undefined;
}

function withoutPrefixes(tensors: Map<string, Value>): Map<string, Value> {
  let result = tensors;
  for (const prefix of PREFIXES) {
    if (![...result.keys()].every((name) => name.startsWith(prefix) && name.length > prefix.length)) continue;
    result = new Map([...result].map(([name, tensor]) => [name.slice(prefix.length), tensor]));
  }
  return result;
}

/** The state dict, or, when there is none, all tensors of the object by their path (`0`, `train.images`). */
export function tensorsOf(value: unknown): Map<string, Value> {
  const found = findStateDict(value, 0);
  if (found) return withoutPrefixes(found);
  const tensors = new Map<string, Value>();
  const seen = new Set<unknown>();
  const open: [string, unknown][] = [["", value]];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const [path, item] = next;
    if (isTensor(item)) tensors.set(path || "tensor", item);
    if (typeof item !== "object" || item === null || seen.has(item) || path.length > 512) continue;
    seen.add(item);
    if (!(item instanceof Map) && !Array.isArray(item)) continue;
    const children = [...(item instanceof Map ? item : item.entries())];
    for (const [key, child] of children.reverse())
      open.push([path ? `${path}.${String(key)}` : String(key), child]);
  }
  return tensors;
}
