import { makeGraph } from "../../graph/index.js";
import {
  type CausalLm,
  initModel,
  inputsOf,
  loadFolder,
  logitsOf,
  type Parameters,
  parameterFeeds,
  staticInputs,
} from "../../models/index.js";
import { evaluate } from "../../runtime/index.js";
import { rng } from "../../runtime/random/index.js";
import { maxAbsDiff, type Tensor, tensor } from "../../tensor/index.js";

/** Path of something in the repository's fixtures folder. */
export const fixture = (path: string): string =>
  new URL(`../../../fixtures/${path}`, import.meta.url).pathname;

export const baseModel = (name: string): Promise<CausalLm> => loadFolder(fixture(`models/${name}`));

/** A causal language model of two layers of width 16, with random weights. */
export const smallModel = (options: Readonly<Record<string, unknown>> = {}): CausalLm =>
  initModel(
    {
      model_type: "llama",
      vocab_size: 64,
      hidden_size: 16,
      intermediate_size: 32,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      ...options,
    },
    { seed: 2 },
  );

export const PROBE = [3, 17, 40, 5, 5, 61, 0, 22];

export const probeLogits = (model: CausalLm): Promise<Tensor> => logitsOf(model, PROBE);

/** Logits `[batch * length, vocab]` of whole rows of ids `[batch, length]` run together. */
export async function batchLogits(model: CausalLm, ids: Tensor): Promise<Tensor> {
  const [batch, length] = ids.shape as [number, number];
  const places = Array.from({ length: batch * length }, (_, at) => at % length);
  const ones = places.map(() => 1);
  const { logits } = model.build(staticInputs(batch, length));
  const given = {
    ids,
    positions: tensor("int64", ids.shape, places),
    segments: tensor("int32", ids.shape, ones),
  };
  const graph = makeGraph("batch", inputsOf([logits]), [["logits", logits]]);
  const read = Object.entries(given).filter(([name]) => graph.inputs.some((value) => value.name === name));
  const feeds = { ...Object.fromEntries(read), ...parameterFeeds(graph, model.parameters) };
  return (await evaluate(graph, feeds)).logits as Tensor;
}

/** Noise on everything trainable, as training would leave it; magnitudes move a little. */
export function randomise<M extends { readonly parameters: Parameters }>(model: M, seed = 1, std = 0.2): M {
  for (const { name, trainable, tensor } of model.parameters.values()) {
    if (!trainable) continue;
    const data = tensor.data as Float32Array;
    const noise = rng(seed, name).fillNormal(new Float32Array(data.length), 0, std);
    const isMagnitude = name.endsWith("magnitude_vector");
    for (let at = 0; at < data.length; at++) {
      const value = data[at] as number;
      data[at] = isMagnitude ? value * (1 + (noise[at] as number)) : value + (noise[at] as number);
    }
  }
  return model;
}

/** Largest difference over the largest value. */
export function relativeDifference(a: Tensor, b: Tensor): number {
  const largest = (b.data as Float32Array).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return maxAbsDiff(a, b) / largest;
}

/** C[m,n] = A[m,k]·B[k,n] in double precision, with either operand turned. */
export function product(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  [m, k, n]: readonly [number, number, number],
): Float64Array {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    for (let h = 0; h < k; h++) {
      const left = a[i * k + h] as number;
      for (let j = 0; j < n; j++)
        out[i * n + j] = (out[i * n + j] as number) + left * (b[h * n + j] as number);
    }
  return out;
}

export const largestGap = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let most = a.length === b.length ? 0 : Number.POSITIVE_INFINITY;
  for (let at = 0; at < a.length; at++)
    most = Math.max(most, Math.abs((a[at] as number) - (b[at] as number)));
  return most;
};
