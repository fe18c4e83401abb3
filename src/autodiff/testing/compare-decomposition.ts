import { type Graph, input, makeGraph, type Value } from "../../graph/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { inDouble } from "./double-kernels.js";
import { type Compile, drawValues, type GradientCase, generator } from "./finite-differences.js";

type Comparison = Pick<GradientCase, "operands" | "build" | "lower">;

/** Largest difference between ONNX Runtime's own single-precision kernel and the decomposition, over all outputs. */
export async function compareDecomposition(compile: Compile, item: Comparison): Promise<number> {
  const { graph, feeds } = laid(item);
  const kernel = await outputs(compile, graph, feeds);
  const parts = await outputs(compile, inDouble(graph, item.lower ?? []), feeds);
  return largest(kernel.map((value, at) => value - (parts[at] ?? Number.NaN)));
}

/** Largest magnitude among the outputs of an expression: for differences that should be zero. */
export async function largestOutput(compile: Compile, item: Comparison): Promise<number> {
  const { graph, feeds } = laid(item);
  return largest(await outputs(compile, graph, feeds));
}

/** NaN counts as larger than everything. */
const largest = (values: readonly number[]): number =>
  values.reduce(
    (most, value) => (Math.abs(value) <= most ? most : Number.isNaN(value) ? Infinity : Math.abs(value)),
    0,
  );

function laid({ operands, build }: Comparison) {
  const random = generator(11);
  const data = operands.map(({ shape, values, range = [-1.5, 1.5], dtype = "float32" }) =>
    tensor(dtype, shape, values ?? drawValues(random, shape, range, false)),
  );
  const inputs = operands.map(({ shape, symbolic }, at) =>
    input(`x${at}`, data[at]?.dtype ?? "float32", symbolic ?? shape),
  );
  const values = [build(...inputs)].flat() as Value[];
  const graph = makeGraph(
    "forward",
    inputs,
    values.map((value, at) => [`y${at}`, value] as const),
  );
  return { graph, feeds: Object.fromEntries(data.map((feed, at) => [`x${at}`, feed])) };
}

async function outputs(compile: Compile, graph: Graph, feeds: Record<string, Tensor>): Promise<number[]> {
  const session = await compile(graph);
  const results = await session.run(feeds);
  await session.release();
  return [...graph.outputs.keys()].flatMap((name) =>
    Array.from((results[name]?.data ?? []) as Float32Array, Number),
  );
}
