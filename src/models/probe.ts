import { input, makeGraph } from "../graph/index.js";
import { createSession, type SessionOptions } from "../runtime/index.js";
import { type Tensor, tensor } from "../tensor/index.js";
import { inputsOf, parameterFeeds } from "./feeds.js";
import type { CausalLm, LmInputs, LmOutputs } from "./types.js";

/** Fresh inputs of static shape. */
export const staticInputs = (batch: number, length: number): LmInputs => ({
  ids: input("ids", "int64", [batch, length]),
  positions: input("positions", "int64", [batch, length]),
  segments: input("segments", "int32", [batch, length]),
});

/** A forward pass laid over one short row: enough to see every module. */
export const probeOutputs = (model: CausalLm, length = 2): LmOutputs => model.build(staticInputs(1, length));

/** Logits `[length, vocab]` of one row of ids. */
export async function logitsOf(
  model: CausalLm,
  ids: readonly number[],
  options?: SessionOptions,
): Promise<Tensor> {
  const { length } = ids;
  const inputs = staticInputs(1, length);
  const { logits } = model.build(inputs);
  const graph = makeGraph("logits", inputsOf([logits]), [["logits", logits]]);
  const session = await createSession(graph, options);
  try {
    const known: Record<string, Tensor> = {
      ids: tensor("int64", [1, length], ids),
      positions: tensor(
        "int64",
        [1, length],
        ids.map((_, at) => at),
      ),
      segments: tensor(
        "int32",
        [1, length],
        ids.map(() => 1),
      ),
    };
    const read = graph.inputs.flatMap(({ name }) =>
      name !== undefined && known[name] ? [[name, known[name]] as const] : [],
    );
    const feeds = { ...Object.fromEntries(read), ...parameterFeeds(graph, model.parameters) };
    return (await session.run(feeds)).logits as Tensor;
  } finally {
    await session.release();
  }
}

/** A fixed row of ids that every vocabulary has; logits on it identify a model's behaviour. */
export const probeIds = (vocabSize: number, length = 8): number[] =>
  Array.from({ length }, (_, at) => (at * 37 + 11) % vocabSize);
