import { TunesmithError } from "../errors/index.js";
import { makeGraph, ops, type Value } from "../graph/index.js";
import {
  inputsOf,
  type Model,
  type Parameters,
  parameterFeeds,
  probeOutputs,
  sitesOf,
} from "../models/index.js";
import { evaluate } from "../runtime/index.js";
import type { Tensor } from "../tensor/index.js";
import { adapterNamed } from "./adapt.js";
import { type Adapted, adaptedModel } from "./adapted.js";
import { type Adapter, createAdapter } from "./adapter.js";
import { effectiveWeight, valuesOf } from "./effective.js";
import { lora } from "./lowrank/lora.js";
import { asMatrix } from "./site-map.js";

/** The factors of a site's update: `[r, in]` and `[out, r]`. */
interface Factors {
  readonly a: Float32Array;
  readonly b: Float32Array;
  readonly rank: number;
}

/**
 * The model with one adapter written as LoRA, in its place and under its name: for programs that know nothing else. For
 * methods whose update is a low-rank product: HRA, PSOFT, orthogonal adaptation, KAdaptation without biases, VeRA, AdaLoRA, ElaLoRA,
 * dynamic-rank DoRA. The strength that is set goes into the factors. An update that depends on W (HRA) is the one at the weights
 * that adapters before it leave. Components that do nothing are dropped, and modules left without any.
 *
 * Throws `target-unsupported` for a method whose update is not low-rank, or that trains more than sites; `adapter-no-effect` when
 * no component is left.
 *
 * @example
 * ```ts
 * import { type AdaptedLm, saveAdapter, toLora } from "tunesmith/methods";
 * export const publish = async (model: AdaptedLm) => saveAdapter(await toLora(model), "lora-folder");
 * ```
 */
export async function toLora<M extends Model>(
  model: Adapted<M>,
  options: { readonly name?: string } = {},
): Promise<Adapted<M>> {
  const name = options.name ?? model.active.at(-1) ?? "default";
  const adapter = adapterNamed(model, name);
  const known = await factorsOf(model, adapter);
  if (known.size === 0) throw noEffect(name);
  const ranks = Object.fromEntries([...known].map(([path, { rank }]) => [path, rank]));
  const most = Math.max(...Object.values(ranks));
  const adaptation = lora({
    targets: [...known.keys()],
    rank: most,
    alpha: most,
    rankPattern: ranks,
    alphaPattern: ranks,
  });
  const converted = await createAdapter(model.base, adaptation as unknown as Adapter["adaptation"], {
    name,
    seed: 0,
    stored: async (site, key) => {
      const own = known.get(site?.path ?? "");
      return key === "lora_A" ? own?.a : own?.b;
    },
  });
  return adaptedModel(model.base, new Map([...model.adapters, [name, converted]]), model.active);
}

async function factorsOf(model: Adapted, adapter: Adapter): Promise<Map<string, Factors>> {
  const { method, config } = adapter.adaptation;
  const { lowRank } = method;
  const sites = new Map(sitesOf(probeOutputs(model.base)).map((site) => [site.path, site] as const));
  const below = model.active
    .slice(0, Math.max(0, model.active.indexOf(adapter.name)))
    .flatMap((name) => model.adapters.get(name) ?? []);
  const found = new Map<string, Factors>();
  for (const [path, own] of adapter.sites) {
    const site = sites.get(path);
    const biased = method.biasDelta?.(valuesOf(own, adapter), own.shape, config, undefined, () =>
      ops.scalar(0),
    );
    if (!lowRank || !site || biased || adapter.saved.length > 0 || adapter.tokens.length > 0) {
      throw refusal(adapter, lowRank === undefined);
    }
    const weight = below.reduce<Value>(
      (value, other) => {
        const at = other.sites.get(path);
        return at ? effectiveWeight(value, at, other) : value;
      },
      asMatrix(site, site.weight),
    );
    const product = lowRank(weight, valuesOf(own, adapter), own.shape, config);
    if (!product) throw refusal(adapter, true);
    const { a, b } = product;
    if (a.shape[0] === 0) continue;
    const scaled = ops.mul(b, adapter.gate.value);
    const factors = compact(await numbers({ a: ops.mul(a, 1), b: scaled }, [...below, adapter]));
    if (factors.rank > 0) found.set(path, factors);
  }
  return found;
}

function refusal({ name, adaptation }: Adapter, isFull: boolean): TunesmithError {
  const why = isFull ? "is not a low-rank product" : "trains biases, modules or tokens too";
  return new TunesmithError("target-unsupported", `'${name}' (${adaptation.method.name}) ${why}`, {
    fix: "merge it into the weights instead",
  });
}

const noEffect = (name: string) =>
  new TunesmithError("adapter-no-effect", `adapter '${name}' has no component that does anything`, {
    fix: "train it first",
  });

/** Without the components whose product is zero. */
function compact({ a, b, rank }: Factors): Factors {
  const [width, rows] = [a.length / rank, b.length / rank];
  const used = Array.from({ length: rank }, (_, k) => k).filter(
    (k) =>
      a.subarray(k * width, (k + 1) * width).some((value) => value !== 0) &&
      Array.from({ length: rows }, (_, i) => b[i * rank + k]).some((value) => value !== 0),
  );
  if (used.length === rank) return { a, b, rank };
  const left = new Float32Array(used.length * width);
  for (const [at, k] of used.entries()) left.set(a.subarray(k * width, (k + 1) * width), at * width);
  const right = Float32Array.from({ length: rows * used.length }, (_, at) => {
    const [row, column] = [Math.floor(at / used.length), used[at % used.length] as number];
    return b[row * rank + column] as number;
  });
  return { rank: used.length, a: left, b: right };
}

async function numbers(factors: { a: Value; b: Value }, adapters: readonly Adapter[]): Promise<Factors> {
  const parameters: Parameters = new Map(adapters.flatMap((each) => [...each.parameters]));
  const outputs = Object.entries(factors);
  const graph = makeGraph("factors", inputsOf(Object.values(factors)), outputs);
  const { a, b } = (await evaluate(graph, parameterFeeds(graph, parameters))) as Record<"a" | "b", Tensor>;
  return { a: a.data as Float32Array, b: b.data as Float32Array, rank: a.shape[0] as number };
}
