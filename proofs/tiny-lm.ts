import { type Pack, packExamples } from "../src/data/index.js";
import { type CausalLm, initModel } from "../src/models/index.js";
import { rng } from "../src/runtime/index.js";
import { adamw, createEvaluator, fit, linear, nextToken } from "../src/training/index.js";

export const VOCABULARY = 24;
const LENGTH = 32;

/** Rows to learn from, and others to be judged by. */
export interface Language {
  readonly train: readonly Pack[];
  readonly validation: readonly Pack[];
}

export interface LanguageOptions {
  /** Chooses the rules: the same seed, the same language. */
  readonly seed: number;
  /** Share of the contexts whose rule is another one, drawn from `seed + 1`. Default 0. */
  readonly shifted?: number;
  readonly rows?: number;
}

/**
 * A made-up language of 24 symbols: the next one depends on the two before it, by rules drawn at random. Three
 * continuations of each context have 0.6, 0.3 and 0.1 of the probability.
 */
export function language({ seed, shifted = 0, rows = 1200 }: LanguageOptions): Language {
  const rule = (context: number, from: number) => {
    const random = rng(from, "rules", context);
    return [0, 1, 2].map(() => Math.floor(random.uniform() * VOCABULARY));
  };
  const contexts = Array.from({ length: VOCABULARY ** 2 }, (_, context) =>
    rule(context, rng(seed, "shift", context).uniform() < shifted ? seed + 1 : seed),
  );
  const row = (part: string, index: number) => {
    const random = rng(seed, "rows", part, index);
    const ids = Int32Array.from({ length: LENGTH }, () => Math.floor(random.uniform() * VOCABULARY));
    for (let at = 2; at < LENGTH; at++) {
      const context = Number(ids[at - 2]) * VOCABULARY + Number(ids[at - 1]);
      const u = random.uniform();
      ids[at] = Number(contexts[context]?.[u < 0.6 ? 0 : u < 0.9 ? 1 : 2]);
    }
    return { ids, lossMask: new Uint8Array(LENGTH).fill(1, 2) };
  };
  const packs = (part: string, count: number) =>
    packExamples(
      Array.from({ length: count }, (_, index) => row(part, index)),
      { length: LENGTH, strategy: "none" },
    );
  return { train: packs("train", rows), validation: packs("validation", 200) };
}

/** A small model of `width`, fresh. */
export const freshLm = (layers: number, width: number, seed = 1): CausalLm =>
  initModel(
    {
      model_type: "llama",
      vocab_size: VOCABULARY,
      hidden_size: width,
      intermediate_size: width,
      num_hidden_layers: layers,
      num_attention_heads: 4,
      tie_word_embeddings: true,
      max_position_embeddings: LENGTH,
      initializer_range: 1 / Math.sqrt(width) / 2,
    },
    { seed },
  );

const SESSION = { threads: 1 };
const plan = (data: Language) => ({ ...data, batchSize: 16, lengths: [LENGTH], padId: 0 });

/** Mean loss per token on rows held out, in nats. */
export async function heldOut(model: CausalLm, data: Language): Promise<number> {
  const objective = nextToken(model, { ...plan(data), batchSize: 50 });
  const evaluator = createEvaluator(objective, { session: SESSION });
  try {
    return (await evaluator.run(objective.validation?.() ?? [])).loss;
  } finally {
    await evaluator.close();
  }
}

/** Trains what the model lets be trained, in place; gives the losses of the steps. */
export async function learn(
  model: CausalLm,
  data: Language,
  { steps, lr }: { readonly steps: number; readonly lr: number },
): Promise<number[]> {
  const losses: number[] = [];
  await fit(nextToken(model, plan(data)), {
    steps,
    seed: 0,
    optimizer: adamw({
      lr,
      weightDecay: 0,
      schedule: linear({ totalSteps: steps, warmupSteps: Math.min(20, steps) }),
    }),
    session: { ...SESSION, worker: false },
    onEvent: (event) => void (event.type === "step" && losses.push(event.loss)),
  });
  return losses;
}
