import { constant, ops, type Value, withScope } from "../graph/index.js";
import { rng } from "../runtime/random/index.js";
import { tensor } from "../tensor/index.js";
import type { CausalLm, InputSpec, TensorInputs, TensorModel } from "./types.js";

export interface SequenceHeadOptions {
  /** Classes, or 1 for a number. Default 1. */
  readonly labels?: number | readonly string[];
  /** Seed of the head's numbers. Default 0. */
  readonly seed?: number;
}

/** Name of the head's module, as in transformers' classes for sequences over causal models. */
const HEAD = "score";

/**
 * A causal language model as one that gives a number, or class scores, per text: a fresh linear head without bias reads the
 * hidden state of the last token (`score.weight`, as transformers' `ForSequenceClassification` classes call it). Train the
 * head whole: `lora({ modulesToSave: ["score"] })`.
 *
 * Inputs: `input_ids` and `attention_mask` int64 `[batch, length]`, text first, padding behind. Output: `logits` `[batch, labels]`.
 *
 * @example
 * ```ts
 * import { loadModel, sequenceHead } from "tunesmith/models";
 * const judge = sequenceHead(await loadModel("path/to/model"), { labels: 1 });
 * console.log(judge.task); // regression
 * ```
 */
export function sequenceHead(base: CausalLm, options: SequenceHeadOptions = {}): TensorModel {
  const { labels = 1, seed = 0 } = options;
  const names =
    typeof labels === "number" ? Array.from({ length: labels }, (_, at) => `LABEL_${at}`) : labels;
  const { hiddenSize, vocabSize } = base.sizes;
  const data = rng(seed, "init", `${HEAD}.weight`).fillNormal(
    new Float32Array(names.length * hiddenSize),
    0,
    0.02,
  );
  const weight = constant(tensor("float32", [names.length, hiddenSize], data), `${HEAD}.weight`);
  const inputs: InputSpec[] = [
    { name: "input_ids", dtype: "int64", shape: ["batch", "length"], below: vocabSize },
    { name: "attention_mask", dtype: "int64", shape: ["batch", "length"], fill: 1 },
  ];
  return {
    task: names.length === 1 ? "regression" : "sequence-classification",
    architecture: base.architecture,
    weights: new Map([...base.weights, [`${HEAD}.weight`, weight]]),
    parameters: base.parameters,
    config: {
      ...base.config,
      num_labels: names.length,
      id2label: Object.fromEntries(names.map((name, at) => [String(at), name])),
      label2id: Object.fromEntries(names.map((name, at) => [name, at])),
    },
    defaultTargets: base.defaultTargets,
    tokenizer: base.tokenizer,
    origin: base.origin,
    inputs,
    probeAxes: { batch: 1, length: 8 },
    labels: names,
    build: (given) => lay(base, weight, given),
    trainingHooks: base.trainingHooks,
  };
}

function lay(base: CausalLm, weight: Value, { values, training = false }: TensorInputs) {
  const [ids, mask] = [values.input_ids as Value, values.attention_mask as Value];
  const [batch, length] = ids.shape as readonly [number, number];
  const zeros = ops.mul(ids, 0);
  const positions = ops.add(zeros, ops.arange(length));
  const segments = ops.cast(mask, "int32");
  const { hidden, boundaries, penalty } = base.build({ ids, positions, segments, training });
  const width = hidden.shape[1] as number;
  // The last token that is text; a row without any reads its first.
  const last = ops.max(ops.sub(ops.reduceSum(mask, [1], true), 1), 0);
  const index = ops.expand(ops.unsqueeze(last, 2), [batch, 1, width]);
  const states = ops.gatherElements(ops.reshape(hidden, [batch, length, width]), index, 1);
  const logits = withScope(HEAD, () => ops.gemm(ops.squeeze(states, 1), weight, undefined, { transB: true }));
  return { values: { logits }, boundaries, ...(penalty ? { penalty } : {}) };
}
