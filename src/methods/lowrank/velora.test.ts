import { expect, test } from "vitest";
import { gradients } from "../../autodiff/index.js";
import { packExamples } from "../../data/index.js";
import { input, makeGraph, ops } from "../../graph/index.js";
import { inputsOf, probeIds } from "../../models/index.js";
import { evaluate } from "../../runtime/index.js";
import { tensor } from "../../tensor/index.js";
import { nextToken } from "../../training/index.js";
import { adapt, calibrate, callMethod, velora } from "../index.js";
import { largestGap, smallModel } from "../testing/fixtures.js";

const PATH = "model.layers.0.mlp.down_proj";

test("the direction of calibration data is that of the mean group of a site's inputs", async () => {
  const base = smallModel();
  const examples = [{ ids: Int32Array.from(probeIds(40, 8)), lossMask: new Uint8Array(8).fill(1, 1) }];
  const train = packExamples(examples, { length: 8, strategy: "none" });
  const calibration = await calibrate(nextToken(base, { batchSize: 1, lengths: [8], padId: 0, train }), {
    statistics: ["inputMean"],
    batches: 1,
  });
  // 32 features in 5 groups: 7 in each, the last of 4.
  const model = await adapt(base, velora({ groups: 5, direction: "once", targets: ["down_proj"] }), {
    calibration,
  });
  const found = model.adapters.get("default")?.sites.get(PATH)?.tensors.lora_velora_embed?.tensor;
  const mean = (await calibration.statistic(PATH, "inputMean")) as Float32Array;
  const sums = Float64Array.from({ length: 7 }, (_, k) =>
    mean.reduce((sum, value, at) => (at % 7 === k ? sum + value : sum), 0),
  );
  const length = Math.hypot(...sums);
  expect(found?.shape).toEqual([7]);
  expect(
    largestGap(
      found?.data as Float32Array,
      sums.map((value) => value / length),
    ),
  ).toBeLessThan(1e-5);
  await expect(adapt(base, velora({ direction: "once" }))).rejects.toMatchObject({
    code: "calibration-missing",
  });
});

test("rows of padding do not turn the direction of a batch", async () => {
  const site = { path: "map", kind: "linear", inFeatures: 6, outFeatures: 2, hasBias: false } as const;
  const shapes = {
    lora_A: [1, 6],
    lora_B: [2, 1],
    lora_velora_embed: [3],
    x: [2, 6],
    weight: [2, 6],
    mask: [2],
  };
  const gradientFor = async (padding: number) => {
    const value = Object.fromEntries(
      Object.entries(shapes).map(([key, shape]) => [key, input(key, "float32", shape)]),
    ) as Record<keyof typeof shapes, ReturnType<typeof input>>;
    const { x, weight, mask, ...tensors } = value;
    const { method, config } = velora({ rank: 1, groups: 2 });
    const y = callMethod(method, config, { site, tensors, x, weight, mask, training: true });
    // The loss reads the first row.
    const loss = ops.reduceSum(ops.slice(y, 0, 0, 1), undefined, false);
    const outputs = gradients(loss, [tensors.lora_A]).map((each) => ["da", each] as [string, typeof y]);
    const row = [1, 2, -1, 0.5, 3, 1];
    const numbers: Record<string, number[]> = {
      ...{ lora_A: [1, 0, 2, 1, 1, 0], lora_B: [1, 2], weight: new Array(12).fill(0), mask: [1, 0] },
      x: [...row, ...row.map((_, at) => padding * at)],
    };
    const graph = makeGraph("padding", inputsOf(outputs.map(([, each]) => each)), outputs);
    const feeds = graph.inputs.map(({ name, shape }) => [
      String(name),
      tensor("float32", shape as number[], numbers[String(name)] as number[]),
    ]);
    return (await evaluate(graph, Object.fromEntries(feeds))).da?.data as Float32Array;
  };
  const clean = await gradientFor(0);
  expect(clean.some((value) => value !== 0)).toBe(true);
  expect(largestGap(await gradientFor(50), clean)).toBeLessThan(1e-6);
});
