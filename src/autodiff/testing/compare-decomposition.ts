import { input, makeGraph, type Value } from "../../graph/index.js";
import { tensor } from "../../tensor/index.js";
import { inDouble } from "./double-kernels.js";
import { type Compile, drawValues, type GradientCase, generator } from "./finite-differences.js";

/** Largest difference between ONNX Runtime's own single-precision kernel and the decomposition, over all outputs. */
export async function compareDecomposition(
  compile: Compile,
  { operands, build, lower = [] }: Pick<GradientCase, "operands" | "build" | "lower">,
): Promise<number> {
  const random = generator(11);
  const feeds = operands.map(({ shape, values, range = [-1.5, 1.5], dtype = "float32" }) =>
    tensor(dtype, shape, values ?? drawValues(random, shape, range, false)),
  );
  const inputs = operands.map(({ shape, symbolic }, at) =>
    input(`x${at}`, feeds[at]?.dtype ?? "float32", symbolic ?? shape),
  );
  const outputs = ([build(...inputs)].flat() as Value[]).map((value, at): [string, Value] => [
    `y${at}`,
    value,
  ]);
  const graph = makeGraph("forward", inputs, outputs);
  const results = [];
  for (const variant of [graph, inDouble(graph, lower)]) {
    const session = await compile(variant);
    results.push(await session.run(Object.fromEntries(feeds.map((feed, at) => [`x${at}`, feed]))));
    await session.release();
  }
  const [kernel, parts] = results;
  return Math.max(
    ...outputs.map(([name]) => {
      const [a, b] = [kernel?.[name]?.data ?? [], parts?.[name]?.data ?? []].map((data) =>
        Array.from(data as Float32Array),
      );
      return Math.max(...(a ?? []).map((value, at) => Math.abs(value - (b?.[at] ?? Number.NaN))));
    }),
  );
}
