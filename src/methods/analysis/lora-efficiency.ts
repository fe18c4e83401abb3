import { TunesmithError } from "../../errors/index.js";
import { makeGraph, ops, type Value } from "../../graph/index.js";
import {
  axesOf,
  type CausalLm,
  filled,
  inputsOf,
  type Model,
  parameterFeeds,
  probe,
  type Site,
  sitesOf,
  type TensorModel,
  tensorInputs,
} from "../../models/index.js";
import { evaluate, type SessionOptions } from "../../runtime/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { adapterNamed } from "../adapt.js";
import type { Adapted } from "../adapted.js";
import type { Adapter, AdapterSite } from "../adapter.js";
import { effectiveBias, effectiveWeight, valuesOf } from "../effective.js";
import { loraScale, type ScaleConfig } from "../lowrank/scale.js";
import { asMatrix } from "../site-map.js";

/** How large what meets in the scores of one head is. */
export interface HeadEfficiency {
  /** Path of the attention's module. */
  readonly path: string;
  /** Of the query heads, from 0. */
  readonly head: number;
  /** Largest magnitude in its queries over the data, the adapters and half of the scores' factor (1/√d) in it. */
  readonly gQ: number;
  /** The same of its keys. */
  readonly gK: number;
  /** √(ln L), L tokens in a row. */
  readonly threshold: number;
  /** Whether both are at most the threshold. */
  readonly below: boolean;
  /** The largest scale (alpha / rank) at which what the adapter adds is nowhere above the threshold; undefined where it adds nothing. */
  readonly suggestedMaxScale: number | undefined;
}

export interface LoraEfficiencyOptions {
  /** Heads of queries and of keys; default: the model's. */
  readonly heads?: { readonly query: number; readonly key?: number };
  /** What scores are multiplied by. Default 1/√d; 1 for T5. */
  readonly scoreScale?: number;
  readonly session?: SessionOptions;
}

/**
 * Norms that decide whether gradients of LoRA in attention can be approximated in almost linear time (arXiv 2406.03136):
 * possible where entries of queries and keys stay below about √(ln L), impossible (under SETH) above. Linear or polynomial
 * attention in the place of softmax is safe below it only.
 *
 * Queries and keys are taken as their maps give them, with biases, before rotary embeddings, which may raise the largest
 * entry by √2 at most.
 *
 * @param adapter Name of an adapter of LoRA or LQ-LoRA; others that are active count as part of the model.
 * @param batch A row of token ids of a language model, or tensors by input name.
 * @returns Every head of every attention with a query and a key map.
 *
 * Throws `adapter-invalid` for an unknown name or another method, `target-not-found` for a model without such attentions,
 * `config-invalid` where the number of heads is not known, and what running the model throws.
 *
 * @example
 * ```ts
 * import { type AdaptedLm, loraEfficiency } from "tunesmith/methods";
 * export async function report(model: AdaptedLm, ids: number[]) {
 *   for (const { path, head, gQ, gK, below } of await loraEfficiency(model, "default", ids))
 *     console.log(path, head, gQ.toFixed(2), gK.toFixed(2), below ? "below" : "above");
 * }
 * ```
 */
export async function loraEfficiency(
  model: Adapted,
  adapter: string,
  batch: readonly number[] | Readonly<Record<string, Tensor>>,
  options: LoraEfficiencyOptions = {},
): Promise<HeadEfficiency[]> {
  const own = adapterNamed(model, adapter);
  if (own.adaptation.method.name !== "lora" && own.adaptation.method.name !== "lq-lora") {
    throw new TunesmithError(
      "adapter-invalid",
      `'${adapter}' is no adapter of LoRA but of ${own.adaptation.method.name}`,
      {
        fix: "the scale that is suggested is LoRA's alpha / rank",
      },
    );
  }
  const pass = layPass(model, batch);
  const pairs = attentionsOf(sitesOf(pass.outputs));
  if (pairs.length === 0) {
    throw new TunesmithError("target-not-found", "the model has no attention with a query and a key map", {
      fix: `looked for modules named ${PAIRS.map((pair) => pair.join("/")).join(", ")}, or ${FUSED.join(", ")}`,
    });
  }
  const heads = headsOf(model, options);
  const active = model.active.flatMap((name) => model.adapters.get(name) ?? []);
  const outputs = pairs.flatMap((pair, at) => [
    ...largestOf(pair.query, heads.query, pair, { key: `${at}/query`, active, own, heads }),
    ...largestOf(pair.key, heads.key, pair, { key: `${at}/key`, active, own, heads }),
  ]);
  const values = outputs.map(([, value]) => value);
  const graph = makeGraph("efficiency", inputsOf(values), outputs);
  const read = Object.entries(pass.feeds).filter(([name]) =>
    graph.inputs.some((value) => value.name === name),
  );
  const feeds = { ...Object.fromEntries(read), ...parameterFeeds(graph, model.parameters) };
  const found = await evaluate(graph, feeds, options.session);
  return pairs.flatMap((pair, at) => {
    const of = (part: string) => found[`${at}/${part}`]?.data as Float32Array | undefined;
    return judged(
      pair,
      { query: of("query"), key: of("key"), ofQuery: of("query/own"), ofKey: of("key/own") },
      {
        ...{ heads, model, options },
        threshold: Math.sqrt(Math.log(rowsOf(pair) / pass.batch)),
      },
    );
  });
}

/** Names of query and key maps beside one another. */
const PAIRS: readonly (readonly [string, string])[] = [
  ["q_proj", "k_proj"],
  ["query", "key"],
  ["q_lin", "k_lin"],
  ["q", "k"],
  ["to_q", "to_k"],
];
/** One map whose outputs are queries, keys and values, in this order. */
const FUSED: readonly string[] = ["c_attn", "qkv_proj"];

interface Part {
  readonly site: Site;
  /** Which part of the outputs of a map for all three: 0 for queries, 1 for keys; undefined for a map of its own. */
  readonly place?: 0 | 1;
}

interface Pair {
  readonly path: string;
  readonly query: Part;
  readonly key: Part;
}

function attentionsOf(sites: readonly Site[]): Pair[] {
  const linear = new Map(
    sites.filter(({ kind }) => kind === "linear").map((site) => [site.path, site] as const),
  );
  return [...linear.values()].flatMap((site): Pair[] => {
    const cut = site.path.lastIndexOf(".");
    const [parent, name] = [site.path.slice(0, Math.max(cut, 0)), site.path.slice(cut + 1)];
    if (FUSED.includes(name)) return [{ path: parent, query: { site, place: 0 }, key: { site, place: 1 } }];
    const other = PAIRS.find(([query]) => query === name)?.[1];
    const key = other === undefined ? undefined : linear.get(parent === "" ? other : `${parent}.${other}`);
    return key ? [{ path: parent, query: { site }, key: { site: key } }] : [];
  });
}

interface Pass {
  readonly outputs: ReturnType<CausalLm["build"]> | ReturnType<TensorModel["build"]>;
  readonly feeds: Readonly<Record<string, Tensor>>;
  /** Rows of tokens. */
  readonly batch: number;
}

function layPass(model: Model, batch: readonly number[] | Readonly<Record<string, Tensor>>): Pass {
  if (model.task === "causal-lm") {
    if (!Array.isArray(batch) || batch.length < 2) {
      throw new TunesmithError(
        "data-invalid",
        "a language model is looked at with a row of at least two token ids",
        {
          fix: "give the ids of a text of usual length",
        },
      );
    }
    const { inputs, feeds } = probe(model, batch.length);
    const ids = tensor("int64", [1, batch.length], batch);
    return {
      outputs: model.build(inputs as Parameters<CausalLm["build"]>[0]),
      feeds: { ...feeds, ids },
      batch: 1,
    };
  }
  const given = batch as Readonly<Record<string, Tensor>>;
  const axes = axesOf(model, given);
  const feeds = Object.fromEntries(
    model.inputs.map((spec) => [spec.name, given[spec.name] ?? filled(model, spec, axes)]),
  );
  return {
    outputs: model.build(tensorInputs(model, axes)),
    feeds,
    batch: Object.values(given)[0]?.shape[0] ?? 1,
  };
}

interface Heads {
  readonly query: number;
  readonly key: number;
}

const HEAD_KEYS = ["num_attention_heads", "n_heads", "num_heads", "encoder_attention_heads", "n_head"];

function headsOf(model: Model, { heads }: LoraEfficiencyOptions): Heads {
  if (heads) return { query: heads.query, key: heads.key ?? heads.query };
  if (model.task === "causal-lm") return { query: model.sizes.heads, key: model.sizes.kvHeads };
  const name = HEAD_KEYS.find((key) => typeof model.config[key] === "number");
  if (name !== undefined) return { query: Number(model.config[name]), key: Number(model.config[name]) };
  throw new TunesmithError("config-invalid", "the model's config does not say how many heads it has", {
    fix: "pass { heads: { query: 8 } }",
  });
}

interface Looking {
  readonly key: string;
  readonly active: readonly Adapter[];
  readonly own: Adapter;
  readonly heads: Heads;
}

/** Largest magnitudes per head of what a map gives, and of what the adapter adds to that at scale 1. */
function largestOf(
  { site, place }: Part,
  heads: number,
  { query: { site: whole } }: Pair,
  { key, active, own, heads: all }: Looking,
): [string, Value][] {
  let weight = asMatrix(site, site.weight);
  let bias = site.bias;
  const x = flat(site.input);
  for (const adapter of active) {
    const there = adapter.sites.get(site.path);
    if (!there) continue;
    const below = weight;
    bias = effectiveBias(bias, () => below, there, adapter);
    weight = effectiveWeight(below, there, adapter);
  }
  const product = ops.gemm(x, weight, undefined, { transB: true });
  const dim = place === undefined ? site.outFeatures / heads : fusedDim(whole, all);
  const maxima = (y: Value): Value => {
    const start = place === 1 ? all.query * dim : 0;
    const part = place === undefined ? y : ops.slice(y, 1, start, start + heads * dim);
    return ops.reduceMax(ops.abs(ops.reshape(part, [Number(x.shape[0]), heads, dim])), [0, 2], false);
  };
  const found: [string, Value][] = [[key, maxima(bias ? ops.add(product, bias) : product)]];
  const there = own.sites.get(site.path);
  if (there) found.push([`${key}/own`, maxima(ownUpdate(x, weight, there, own))]);
  return found;
}

/** Queries, keys and values share the outputs: heads of all three have one width. */
const fusedDim = ({ outFeatures }: Site, { query, key }: Heads): number => outFeatures / (query + 2 * key);

function ownUpdate(x: Value, weight: Value, site: AdapterSite, adapter: Adapter): Value {
  const { method, config } = adapter.adaptation;
  const pair = method.lowRank?.(weight, valuesOf(site, adapter), site.shape, config);
  if (!pair) {
    throw new TunesmithError("adapter-invalid", `'${adapter.name}' is not a low-rank update (DoRA is none)`, {
      fix: "look at an adapter without dora",
    });
  }
  const { scale } = loraScale(site.shape.path, config as unknown as ScaleConfig);
  const inner = ops.gemm(x, pair.a, undefined, { transB: true });
  return ops.gemm(inner, pair.b, undefined, { transB: true, alpha: 1 / scale });
}

const flat = (x: Value): Value => (x.shape.length === 2 ? x : ops.reshape(x, [-1, x.shape.at(-1) ?? 1], [x]));

const countOf = ({ site }: Part): number =>
  site.input.shape.slice(0, -1).reduce<number>((product, dim) => product * Number(dim), 1);

/** Tokens that queries, or keys, are made of: the more of them. */
const rowsOf = ({ query, key }: Pair): number => Math.max(countOf(query), countOf(key));

interface Maxima {
  readonly query: Float32Array | undefined;
  readonly key: Float32Array | undefined;
  readonly ofQuery: Float32Array | undefined;
  readonly ofKey: Float32Array | undefined;
}

function judged(
  { path, query }: Pair,
  { query: q, key: k, ofQuery, ofKey }: Maxima,
  {
    heads,
    model,
    options,
    threshold,
  }: {
    readonly heads: Heads;
    readonly model: Model;
    readonly options: LoraEfficiencyOptions;
    readonly threshold: number;
  },
): HeadEfficiency[] {
  const dim = query.place === undefined ? query.site.outFeatures / heads.query : fusedDim(query.site, heads);
  const scale = options.scoreScale ?? (model.architecture === "t5" ? 1 : 1 / Math.sqrt(dim));
  const half = Math.sqrt(scale);
  return Array.from({ length: heads.query }, (_, head): HeadEfficiency => {
    const keyHead = Math.floor((head * heads.key) / heads.query);
    const [gQ, gK] = [half * Number(q?.[head]), half * Number(k?.[keyHead])];
    const added = half * Math.max(ofQuery?.[head] ?? 0, ofKey?.[keyHead] ?? 0);
    return {
      ...{ path, head, gQ, gK, threshold },
      below: gQ <= threshold && gK <= threshold,
      suggestedMaxScale: added > 0 ? threshold / added : undefined,
    };
  });
}
