import { ops, type Value } from "../../graph/index.js";
import type { LossInputs, TensorLoss } from "../tensor-objective.js";

export interface EmbeddingLossOptions {
  /** Output that holds the vectors, `[rows, width]`. Default `sentence_embedding`. */
  readonly output?: string;
}

const DEFAULT_OUTPUT = "sentence_embedding";
const sumOf = (x: Value): Value => ops.reduceSum(x, undefined, false);

/** x / |x| for each row. */
export const unitRows = (x: Value): Value =>
  ops.div(x, ops.sqrt(ops.max(ops.reduceSum(ops.square(x), [1], true), 1e-24)));

/** The rows of each place of the examples: first texts, second texts, ... each `[batch, width]`. */
function places(x: Value, rows: number): Value[] {
  const [all, width] = x.shape as readonly [number, number];
  const grouped = ops.reshape(x, [all / rows, rows, width]);
  return Array.from({ length: rows }, (_, at) => ops.squeeze(ops.slice(grouped, 1, at, at + 1), 1));
}

const cosine = (a: Value, b: Value): Value => ops.reduceSum(ops.mul(unitRows(a), unitRows(b)), [1], false);

export interface RankingOptions extends EmbeddingLossOptions {
  /** Texts per example: an anchor, its positive, and negatives. Default 2. */
  readonly rows?: number;
  /** What cosines are multiplied by: one over the temperature. Default 20. */
  readonly scale?: number;
}

/**
 * Multiple negatives ranking (arXiv 1705.00652): each anchor should find its positive among all positives and negatives of the
 * batch, by cross-entropy over scaled cosines. Larger batches are harder; with `forwardRows` of the objective they need
 * no more memory.
 *
 * @example
 * ```ts
 * import type { TensorModel } from "tunesmith/models";
 * import { type ExampleSource, multipleNegatives, tensorObjective } from "tunesmith/training";
 * export const objective = (model: TensorModel, pairs: ExampleSource) =>
 *   tensorObjective(model, { train: pairs, batchSize: 64, loss: multipleNegatives(), forwardRows: 16 });
 * ```
 */
export function multipleNegatives(options: RankingOptions = {}): TensorLoss {
  const { output = DEFAULT_OUTPUT, rows = 2, scale = 20 } = options;
  return {
    name: "multiple-negatives",
    rows,
    targets: [],
    outputs: [output],
    sum({ outputs, rowWeights }: LossInputs) {
      const [anchors, ...others] = places(outputs[output] as Value, rows) as [Value, ...Value[]];
      const candidates = unitRows(ops.concat(others, 0));
      const scores = ops.mul(ops.matmul(unitRows(anchors), ops.transpose(candidates, [1, 0])), scale);
      // Rows that only fill the batch up are nobody's negatives.
      const absent = ops.mul(
        ops.sub(
          ops.concat(
            others.map(() => rowWeights),
            0,
          ),
          1,
        ),
        1e9,
      );
      const batch = anchors.shape[0] as number;
      const own = ops.reshape(ops.arange(batch), [batch, 1]);
      const logs = ops.logSoftmax(ops.add(scores, ops.unsqueeze(absent, 0)));
      const picked = ops.squeeze(ops.gatherElements(logs, own, 1), 1);
      return ops.neg(sumOf(ops.mul(picked, rowWeights)));
    },
  };
}

/**
 * Triplets (arXiv 1503.03832): max(0, |a − p| − |a − n| + margin), with Euclidean distances. Default margin 5, as in
 * sentence-transformers.
 */
export function triplet(options: EmbeddingLossOptions & { readonly margin?: number } = {}): TensorLoss {
  const { output = DEFAULT_OUTPUT, margin = 5 } = options;
  return {
    name: "triplet",
    rows: 3,
    targets: [],
    outputs: [output],
    sum({ outputs, rowWeights }: LossInputs) {
      const [a, p, n] = places(outputs[output] as Value, 3) as [Value, Value, Value];
      const apart = ops.sub(distance(a, p), distance(a, n));
      return sumOf(ops.mul(ops.relu(ops.add(apart, margin)), rowWeights));
    },
  };
}

/** The square root has no slope at 0, where equal texts are. */
const distance = (a: Value, b: Value): Value =>
  ops.sqrt(ops.add(ops.reduceSum(ops.square(ops.sub(a, b)), [1], false), 1e-12));

const SCORE = { name: "value", dtype: "float32", shape: ["batch"] } as const;

/** Squared error between the cosine of two texts and their score; examples give `value` float32. */
export function cosineSimilarity({ output = DEFAULT_OUTPUT }: EmbeddingLossOptions = {}): TensorLoss {
  return {
    name: "cosine-similarity",
    rows: 2,
    targets: [SCORE],
    outputs: [output],
    sum({ outputs, targets, rowWeights }: LossInputs) {
      const [a, b] = places(outputs[output] as Value, 2) as [Value, Value];
      return sumOf(ops.mul(ops.square(ops.sub(cosine(a, b), targets.value as Value)), rowWeights));
    },
  };
}

/**
 * CoSENT: log(1 + Σ exp(scale·(cos(i) − cos(j)))) over the pairs i, j of examples of a batch where i's score is below j's;
 * examples give `value` float32. The loss is of the batch as a whole and counts once for each of its examples. Default
 * scale 20.
 */
export function cosent(options: EmbeddingLossOptions & { readonly scale?: number } = {}): TensorLoss {
  const { output = DEFAULT_OUTPUT, scale = 20 } = options;
  return {
    name: "cosent",
    rows: 2,
    targets: [SCORE],
    outputs: [output],
    sum({ outputs, targets, rowWeights }: LossInputs) {
      const [a, b] = places(outputs[output] as Value, 2) as [Value, Value];
      const similar = ops.mul(cosine(a, b), scale);
      const against = (x: Value, compare: (i: Value, j: Value) => Value) =>
        compare(ops.unsqueeze(x, 1), ops.unsqueeze(x, 0));
      const below = ops.cast(against(targets.value as Value, ops.less), "float32");
      const counted = ops.mul(below, against(rowWeights, ops.mul));
      const terms = ops.add(against(similar, ops.sub), ops.mul(ops.sub(counted, 1), 1e9));
      const size = (terms.shape[0] as number) * (terms.shape[1] as number);
      // The 1 is exp(0).
      const all = ops.concat([ops.reshape(terms, [size]), ops.full([1], 0, "float32")], 0);
      return ops.mul(ops.reduceLogSumExp(all, undefined, false), sumOf(rowWeights));
    },
  };
}

/**
 * Matryoshka (arXiv 2205.13147): a loss over vectors, added up over their first `widths` numbers, so that cut vectors are good too.
 *
 * @param weights Default 1 each.
 *
 * @example
 * ```ts
 * import { matryoshka, multipleNegatives } from "tunesmith/training";
 * console.log(matryoshka(multipleNegatives(), [384, 128, 64]).name);
 * ```
 */
export function matryoshka(
  loss: TensorLoss,
  widths: readonly number[],
  { output = DEFAULT_OUTPUT, weights }: EmbeddingLossOptions & { readonly weights?: readonly number[] } = {},
): TensorLoss {
  return {
    ...loss,
    name: `matryoshka(${loss.name})`,
    sum(given) {
      const vectors = given.outputs[output] as Value;
      const terms = widths.map((width, at) => {
        const outputs = { ...given.outputs, [output]: ops.slice(vectors, 1, 0, width) };
        return ops.mul(loss.sum({ ...given, outputs }), weights?.[at] ?? 1);
      });
      return terms.reduce((a, b) => ops.add(a, b));
    },
  };
}
