import { gradients } from "../../src/autodiff/index.js";
import { makeGraph, ops, type Value } from "../../src/graph/index.js";
import { type Adapted, adapt, lora } from "../../src/methods/index.js";
import {
  type AnyModel,
  inputsOf,
  type Model,
  mainResult,
  parameterFeeds,
  probe,
  probeOutputs,
  sitesOf,
} from "../../src/models/index.js";
import { evaluate } from "../../src/runtime/index.js";
import type { Tensor } from "../../src/tensor/index.js";

/** A model with a LoRA of rank 2 on every linear map and every convolution, which acts at once. */
export async function adaptedEverywhere<M extends Model>(model: M): Promise<Adapted<M>> {
  const targets = sitesOf(probeOutputs(model as Model)).flatMap(({ kind, path }) =>
    kind === "embedding" ? [] : [path],
  );
  const adapted = await adapt(model, lora({ rank: 2, init: "gaussian", targets }));
  for (const { name, tensor } of adapted.parameters.values())
    if (name.endsWith("lora_B")) (tensor.data as Float32Array).fill(0.02);
  return adapted;
}

/** The sum of squares of the main output on the probe's input, and its gradient by every trained tensor. */
export async function lossAndGradients(
  model: AnyModel,
): Promise<{ loss: number; gradients: ReadonlyMap<string, Float32Array> }> {
  const { inputs, feeds } = probe(model);
  const output = mainResult(model.build({ ...inputs, training: true }));
  const trained = [...model.parameters.values()].filter(({ trainable }) => trainable);
  const loss = ops.reduceMean(ops.mul(output, output), undefined, false);
  const found = gradients(
    loss,
    trained.map(({ value }) => value),
  );
  const results = trained.map((_, at): [string, Value] => [String(at), found[at] ?? ops.scalar(0)]);
  const graph = makeGraph("step", inputsOf([loss, ...results.map(([, value]) => value)]), [
    ["loss", loss],
    ...results,
  ]);
  const read = Object.entries(feeds).filter(([name]) => graph.inputs.some((value) => value.name === name));
  const { loss: value, ...rest } = await evaluate(graph, {
    ...Object.fromEntries(read),
    ...parameterFeeds(graph, model.parameters),
  });
  const arrays = trained.map(({ name }, at) => [name, rest[String(at)]?.data as Float32Array] as const);
  return { loss: Number((value as Tensor).data[0]), gradients: new Map(arrays) };
}

/** One step of gradient descent with the length of the step given. */
export function descend(model: AnyModel, gradients: ReadonlyMap<string, Float32Array>, length: number): void {
  const norm = Math.hypot(...[...gradients.values()].map((gradient) => Math.hypot(...gradient)));
  for (const { name, tensor } of model.parameters.values()) {
    const data = tensor.data as Float32Array;
    gradients.get(name)?.forEach((value, at) => {
      data[at] = (data[at] as number) - (length * value) / norm;
    });
  }
}
