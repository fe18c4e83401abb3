import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { adapt, lora, merge } from "../../methods/index.js";
import { maxAbsDiff, type Tensor } from "../../tensor/index.js";
import { probe, probeOutputs, runModel } from "../probe.js";
import { sitesOf } from "../sites.js";
import { loadOnnxModel } from "./tensor-model.js";

const ASSETS = process.env.TUNESMITH_ASSETS ?? "../shared/assets";

/** Published files: how many sites they have, and the output compared. */
const FILES: readonly (readonly [string, string])[] = [
  ["squeezenet/SqueezeNet_fp16.onnx", "conv"],
  ["mnist-onnx/mnist.onnx", "linear"],
  ["dtln/model_1.onnx", "linear"],
  ["face-rfb320/version-RFB-320.onnx", "conv"],
  ["basic-pitch/nmp.onnx", "conv"],
];

describe.each(FILES)("%s", (file, kind) => {
  const path = join(ASSETS, "models", file);
  test.skipIf(!existsSync(path))("is adapted, and merges into the same network", async () => {
    const model = await loadOnnxModel(path);
    const sites = sitesOf(probeOutputs(model)).filter((site) => site.kind === kind);
    expect(sites.length).toBeGreaterThan(0);
    expect(new Set(sites.map((site) => site.path)).size, "module paths").toBe(sites.length);
    const adapted = await adapt(model, lora({ rank: 2, init: "gaussian", targets: [sites[0]?.path ?? ""] }));
    for (const { name, tensor } of adapted.parameters.values())
      if (name.endsWith("lora_B")) (tensor.data as Float32Array).fill(0.02);
    const { feeds } = probe(model);
    const [plain, apart, merged] = await Promise.all(
      [model, adapted, await merge(adapted)].map((each) => runModel(each, feeds)),
    );
    const [name] = Object.keys(apart ?? {});
    const of = (results: Record<string, Tensor> | undefined) => results?.[String(name)] as Tensor;
    expect(maxAbsDiff(of(merged), of(apart))).toBeLessThan(1e-4);
    expect(maxAbsDiff(of(plain), of(apart))).toBeGreaterThan(0);
  });
});
