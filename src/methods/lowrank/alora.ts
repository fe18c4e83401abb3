import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import type { Tokenizer } from "../../models/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteCall } from "../method.js";
import type { PassText } from "../pass-text.js";
import { loraOptions, plainFactors } from "./lora-options.js";
import { loraScale } from "./scale.js";

const schema = siteConfigSchema.extend({
  ...loraOptions,
  invocation: z
    .union([z.string().min(1), z.array(z.number().int().min(0)).min(1)])
    .describe("text, or ids of tokens, that switches the adapter on, from its last occurrence in a text on"),
});

/** Configuration of aLoRA, after defaults. On a model the invocation is ids. */
export type AloraConfig = z.infer<typeof schema>;

/** The invocation as tokens. Throws `config-invalid` where it is a text and there is no tokenizer, or one that makes nothing of it. */
function asTokens(
  invocation: AloraConfig["invocation"],
  tokenizer: Tokenizer | undefined,
): readonly number[] {
  if (typeof invocation !== "string") return invocation;
  const ids = tokenizer ? Array.from(tokenizer.encode(invocation, { continuation: true })) : [];
  if (ids.length > 0) return ids;
  throw new TunesmithError(
    "config-invalid",
    tokenizer
      ? `invocation: the tokenizer makes no token of '${invocation}'`
      : `invocation: the model has no tokenizer for '${invocation}'`,
    { fix: "give the ids of its tokens" },
  );
}

/** float32 `[batch, past + length]`: n where the invocation begins in column n − 1, 0 elsewhere. */
function starts({ prompt, promptSegments }: PassText, invocation: readonly number[]): Value {
  const more = invocation.length - 1;
  // Columns behind the last are of no text.
  const [ids, segments] = [prompt, promptSegments].map((x) => ops.pad(x, [0, 0], [0, more])) as [
    Value,
    Value,
  ];
  const shifted = (x: Value, by: number) =>
    ops.reshape(by < more ? ops.slice(x, 1, by, by - more) : ops.slice(x, 1, by), prompt.shape, [prompt]);
  const found = invocation
    .map((id, at) =>
      ops.and(ops.equal(shifted(ids, at), id), ops.equal(shifted(segments, at), promptSegments)),
    )
    .reduce((a, b) => ops.and(a, b), ops.greater(promptSegments, 0));
  const numbers = ops.cumSum(ops.full(prompt.shape, 1, "float32", [prompt]), 1);
  return ops.where(found, numbers, 0);
}

/**
 * float32 `[tokens, 1]`: 1 for tokens from the last invocation of their own text on, 0 for those before it and in texts
 * without one.
 */
export function invoked(text: PassText, invocation: readonly number[]): Value {
  const { segments, promptSegments, columns } = text;
  const isOwn = ops.equal(ops.unsqueeze(segments, 2), ops.unsqueeze(promptSegments, 1));
  const last = ops.reduceMax(ops.where(isOwn, ops.unsqueeze(starts(text, invocation), 1), 0), [2], false);
  const active = ops.and(ops.greater(last, 0), ops.greaterOrEqual(columns, last));
  // Recomputed blocks share it.
  return ops.keep(ops.reshape(ops.cast(active, "float32"), [-1, 1], [segments]));
}

/** The pass's own. Throws `target-unsupported` at a module that does not see every token of the texts. */
function activation({ pass, text, site }: SiteCall, config: AloraConfig): Value {
  const known = pass.get("invoked");
  const seen = text();
  if (!seen) {
    throw new TunesmithError(
      "target-unsupported",
      `alora: which rows of ${site.path} come after the invocation cannot be known`,
      {
        fix: "adapt maps inside the blocks of a causal language model, not its head; export it without a key/value cache",
        details: { path: site.path },
      },
    );
  }
  if (known) return known;
  const active = invoked(seen, asTokens(config.invocation, undefined));
  pass.set("invoked", active);
  return active;
}

/**
 * Activated LoRA (arXiv 2504.12397): LoRA for tokens from the last occurrence of an invocation in their text on. Before it the model
 * is the base, keys and values included, so that a cache of the base's serves it too. What is generated later
 * does not count as an invocation.
 */
export const aloraMethod = {
  name: "alora",
  summary:
    "low-rank update that acts from an invocation in the text on, so that the base's cache before it can be used",
  paper: "2504.12397",
  schema,
  kinds: ["linear"],
  settle: async (config, { tokenizer }) => ({
    ...config,
    invocation: [...asTokens(config.invocation, tokenizer)],
  }),
  tensors: (site, config) => plainFactors(site, loraScale(site.path, config).rank),
  unmergeable: () => "it acts on some of a text's tokens only, those from the invocation on",
  probeTail: ({ invocation }) => asTokens(invocation, undefined),
  weight: (weight) => weight,
  forward(call, config) {
    const { x, y, gate, site, tensors, apply, mix, dropped } = call;
    const { lora_A: a, lora_B: b } = tensors as Record<string, Value>;
    const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
    const h = ops.mul(apply(input, a as Value), ops.mul(activation(call, config), gate));
    return mix(h, b as Value, { onto: y, alpha: loraScale(site.path, config).scale });
  },
} satisfies Method<AloraConfig>;

/**
 * aLoRA with a configuration. Defaults are PEFT's; `invocation` is the text that switches it on, or the ids of its tokens, which every text it is
 * trained on must have. A text is tokenised by itself: take one whose tokens do not depend on what stands beside it, such as special tokens. Packed texts are told apart. Cannot be merged, and does not take a model's head.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { alora } from "tunesmith/methods";
 * const invocation = "<|start_of_role|>judge<|end_of_role|>";
 * const adaptation = alora({ invocation, targets: ["q_proj", "k_proj", "v_proj"] });
 * ```
 */
export const alora = (config: z.input<typeof schema>): Adaptation<AloraConfig> => ({
  method: aloraMethod,
  config: parseConfig("alora", schema, config),
});
