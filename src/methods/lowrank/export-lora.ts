import { TunesmithError } from "../../errors/index.js";
import { makeGraph, ops, type Value } from "../../graph/index.js";
import { inputsOf, type Model, parameterFeeds } from "../../models/index.js";
import { evaluate } from "../../runtime/index.js";
import { adapterNamed } from "../adapt.js";
import { type Adapted, adaptedModel } from "../adapted.js";
import { type Adapter, type AdapterSite, createAdapter } from "../adapter.js";
import { valuesOf } from "../effective.js";
import { lora } from "./lora.js";

interface Factors {
  readonly rank: number;
  readonly a: Float32Array;
  readonly b: Float32Array;
}

/**
 * The model with a low-rank adapter of another method (ElaLoRA, AdaLoRA, dynamic-rank DoRA, VeRA, chains) written as plain LoRA that
 * computes the same: components that do nothing are dropped, each module has the rank that is left, and PEFT reads it.
 *
 * Throws `config-invalid` for a method whose update is not of low rank, `adapter-no-effect` when no component is left.
 *
 * @example
 * ```ts
 * import { type AdaptedLm, exportLora, saveAdapter } from "tunesmith/methods";
 * export const share = async (trained: AdaptedLm) => saveAdapter(await exportLora(trained), "path/to/adapter");
 * ```
 */
export async function exportLora<M extends Model>(
  model: Adapted<M>,
  options: { readonly name?: string } = {},
): Promise<Adapted<M>> {
  const { name = model.active.at(-1) ?? "default" } = options;
  const adapter = adapterNamed(model, name);
  const factors = new Map<string, Factors>();
  for (const [path, site] of adapter.sites) {
    const own = await factorsOf(site, adapter);
    if (own.rank > 0) factors.set(path, own);
  }
  if (factors.size === 0) {
    throw new TunesmithError("adapter-no-effect", `adapter '${name}' has no component that does anything`, {
      fix: "train it first",
    });
  }
  const ranks = Object.fromEntries([...factors].map(([path, { rank }]) => [path, rank]));
  const { bias, modulesToSave, trainableTokens } = adapter.adaptation.config;
  const adaptation = lora({
    ...(bias ? { bias } : {}),
    ...(modulesToSave ? { modulesToSave: [...modulesToSave] } : {}),
    ...(trainableTokens ? { trainableTokens: trainableTokens as number[] } : {}),
    targets: [...factors.keys()],
    rank: 1,
    alpha: 1,
    rankPattern: ranks,
    alphaPattern: ranks,
  });
  const plain = await createAdapter(model.base, { ...adaptation } as unknown as Adapter["adaptation"], {
    name,
    seed: 0,
    stored: async (site, key) => factors.get(site?.path ?? "")?.[key.endsWith("A") ? "a" : "b"],
  });
  for (const [key, own] of plain.parameters) {
    const before = /\.lora_[AB]$/.test(key) ? undefined : adapter.parameters.get(key);
    if (before) (own.tensor.data as Float32Array).set(before.tensor.data as Float32Array);
  }
  return adaptedModel(model.base, new Map([...model.adapters, [name, plain]]), model.active);
}

/** A and B of one module, without the components whose product is zero. */
async function factorsOf(site: AdapterSite, adapter: Adapter): Promise<Factors> {
  const { method, config } = adapter.adaptation;
  const found = method.factors?.(valuesOf(site, adapter), site.shape, config);
  if (!found) {
    throw new TunesmithError("config-invalid", `method '${method.name}' is no sum of low-rank products`, {
      fix: "merge the adapter instead",
    });
  }
  if (found.a.shape[0] === 0) return { rank: 0, a: new Float32Array(0), b: new Float32Array(0) };
  // A factor may be a parameter itself, which no graph gives back.
  const outputs: [string, Value][] = [
    ["a", ops.add(found.a, 0)],
    ["b", ops.add(found.b, 0)],
  ];
  const graph = makeGraph("factors", inputsOf([found.a, found.b]), outputs);
  const { a, b } = await evaluate(graph, parameterFeeds(graph, adapter.parameters));
  return compact(a?.data as Float32Array, b?.data as Float32Array, found.a.shape as number[]);
}

function compact(a: Float32Array, b: Float32Array, [rank = 0, width = 0]: readonly number[]): Factors {
  const rows = rank === 0 ? 0 : b.length / rank;
  const used = Array.from({ length: rank }, (_, k) => k).filter(
    (k) =>
      a.subarray(k * width, (k + 1) * width).some((value) => value !== 0) &&
      Array.from({ length: rows }, (_, i) => b[i * rank + k]).some((value) => value !== 0),
  );
  const left = new Float32Array(used.length * width);
  for (const [at, k] of used.entries()) left.set(a.subarray(k * width, (k + 1) * width), at * width);
  const right = Float32Array.from({ length: rows * used.length }, (_, at) => {
    const [row, column] = [Math.floor(at / used.length), used[at % used.length] as number];
    return b[row * rank + column] as number;
  });
  return { rank: used.length, a: left, b: right };
}
