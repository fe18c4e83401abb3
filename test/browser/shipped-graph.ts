/** The shipped model's training step, as the quickstart has it, on fixed rows. */
import { adapt, lora } from "../../src/methods/index.js";
import { defaultModelPath, loadModel, parameterFeeds } from "../../src/models/index.js";
import { type Tensor, tensor } from "../../src/tensor/index.js";
import { nextToken, stepGraph } from "../../src/training/index.js";
import { noise } from "./noise.js";
import type { GraphAndFeeds } from "./training-graph.js";

const [BATCH, LENGTH] = [2, 64];

/** `folder` is where the model's files are: beside the repository, or served. */
export async function shippedGraph(folder: URL): Promise<GraphAndFeeds> {
  const base = await loadModel(await defaultModelPath(folder));
  const model = await adapt(base, lora({ rank: 8, alpha: 16, targets: "all-linear" }));
  // B starts at zero, and A would then have no gradient.
  let seed = 0;
  for (const { name, tensor: value } of model.parameters.values()) {
    if (name.includes("lora_B"))
      (value.data as Float32Array).set(noise(++seed, value.shape, 0.05).data as never);
  }
  const objective = nextToken(model, { batchSize: BATCH, lengths: [LENGTH], padId: 0 });
  const { graph } = stepGraph(objective, { batch: BATCH, length: LENGTH });
  const known: Record<string, Tensor> = {
    ...parameterFeeds(graph, model.parameters),
    ...rows(base.sizes.vocabSize),
    loss_scale: tensor("float32", [], [1 / (BATCH * (LENGTH - 1))]),
  };
  const feeds = graph.inputs.map(({ name }) => [String(name), known[String(name)] as Tensor] as const);
  return { graph, feeds: Object.fromEntries(feeds) };
}

function rows(vocabulary: number): Record<string, Tensor> {
  const ids = Array.from({ length: BATCH * LENGTH }, (_, at) => (at * at * 31 + at * 7 + 3) % vocabulary);
  const last = (at: number) => (at + 1) % LENGTH === 0;
  const ints = (value: (at: number) => number) =>
    tensor(
      "int32",
      [BATCH, LENGTH],
      ids.map((_, at) => value(at)),
    );
  return {
    ids: ints((at) => ids[at] as number),
    positions: ints((at) => at % LENGTH),
    segments: ints(() => 1),
    labels: ints((at) => (last(at) ? -1 : (ids[at + 1] as number))),
    weights: tensor(
      "float32",
      [BATCH, LENGTH],
      ids.map((_, at) => (last(at) ? 0 : 1)),
    ),
  };
}
