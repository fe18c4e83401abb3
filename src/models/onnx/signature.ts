import { TunesmithError } from "../../errors/index.js";
import type { Graph, Value } from "../../graph/index.js";

/** How a file carries the keys and values of one layer: two tensors, or one with a first axis of length 2. */
export type CacheSlot =
  | {
      readonly kind: "split";
      readonly past: readonly [string, string];
      readonly present: readonly [string, string];
    }
  | { readonly kind: "packed"; readonly past: string; readonly present: string };

/** The inputs and outputs of a causal language model, by name. */
export interface Signature {
  readonly ids: string;
  readonly mask: string | undefined;
  readonly positions: string | undefined;
  readonly logits: string;
  /** One per layer; empty for a model without a cache. */
  readonly caches: readonly CacheSlot[];
}

/** Metadata key of our own export: `segments` says that the attention mask compares numbers, so it keeps documents apart. */
export const SEGMENT_MASK = "tunesmith.attention_mask";

const SPLIT_PAST = /^past_key_values\.(\d+)\.key$/;
const PACKED_PAST = /^past_(\d+)$/;

/**
 * Recognises the inputs and outputs that exporters give causal language models: `input_ids`, `attention_mask`,
 * `position_ids`, `past_key_values.N.key/value` or `past_N`; `logits`, `present.N.key/value` or `present_N`. Throws
 * `format-unsupported` naming what does not fit.
 */
export function readSignature(graph: Graph, path: string): Signature {
  const inputs = new Map(graph.inputs.map((value) => [String(value.name), value] as const));
  const caches = cachesOf(inputs, graph, path);
  const known = new Set(["input_ids", "attention_mask", "position_ids", ...caches.flatMap(pastNames)]);
  const logits = graph.outputs.get("logits");
  const strange = [...inputs.keys()].filter((name) => !known.has(name));
  if (!inputs.has("input_ids") || !logits || strange.length > 0) {
    throw unsupported(
      path,
      !inputs.has("input_ids")
        ? "it has no input 'input_ids'"
        : !logits
          ? "it has no output 'logits'"
          : `its input '${strange[0]}' is not one that causal language models have`,
      graph,
    );
  }
  if (logits.dtype !== "float32" || logits.shape.length !== 3) {
    throw unsupported(
      path,
      `its logits are ${logits.dtype} of rank ${logits.shape.length}, not float32 [batch, length, vocab]`,
      graph,
    );
  }
  return {
    ids: "input_ids",
    mask: inputs.has("attention_mask") ? "attention_mask" : undefined,
    positions: inputs.has("position_ids") ? "position_ids" : undefined,
    logits: "logits",
    caches,
  };
}

/** Names of a layer's cache inputs. */
export const pastNames = (slot: CacheSlot): readonly string[] =>
  slot.kind === "split" ? slot.past : [slot.past];

function cachesOf(inputs: ReadonlyMap<string, Value>, graph: Graph, path: string): CacheSlot[] {
  const slots = new Map<number, CacheSlot>();
  for (const name of inputs.keys()) {
    const split = SPLIT_PAST.exec(name)?.[1];
    const packed = PACKED_PAST.exec(name)?.[1];
    if (split !== undefined) {
      const both = (prefix: string) => [`${prefix}.${split}.key`, `${prefix}.${split}.value`] as const;
      slots.set(Number(split), { kind: "split", past: both("past_key_values"), present: both("present") });
    } else if (packed !== undefined) {
      slots.set(Number(packed), { kind: "packed", past: name, present: `present_${packed}` });
    }
  }
  return Array.from({ length: slots.size }, (_, layer) => {
    const slot = slots.get(layer);
    if (!slot) throw unsupported(path, `it has no cache input for layer ${layer}`, graph);
    const absent = [
      ...pastNames(slot).filter((name) => !inputs.has(name)),
      ...presentNames(slot).filter((name) => !graph.outputs.has(name)),
    ];
    if (absent.length > 0) throw unsupported(path, `its cache lacks '${absent[0]}'`, graph);
    return slot;
  });
}

const presentNames = (slot: CacheSlot): readonly string[] =>
  slot.kind === "split" ? slot.present : [slot.present];

export function unsupported(path: string, why: string, graph: Graph): TunesmithError {
  const inputs = graph.inputs.map((value) => `${value.name} [${value.shape.join(", ")}]`).join("; ");
  return new TunesmithError(
    "format-unsupported",
    `${path} is not a causal language model that can be loaded: ${why}`,
    {
      fix: `export it with input_ids, attention_mask, position_ids and logits (task text-generation of Optimum); its inputs are ${inputs || "none"}`,
      details: { path, inputs: graph.inputs.map(({ name }) => name), outputs: [...graph.outputs.keys()] },
    },
  );
}
