import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { adaptedEverywhere, descend, lossAndGradients } from "../../../test/support/adapting.js";
import { adapt, lora, merge } from "../../methods/index.js";
import { maxAbsDiff, type Tensor } from "../../tensor/index.js";
import { loadModel } from "../load.js";
import { type Module, modulesOf } from "../modules.js";
import { probe, probeOutputs, runModel } from "../probe.js";
import { sitesOf } from "../sites.js";
import type { TensorModel } from "../types.js";

const ASSETS = process.env.TUNESMITH_ASSETS ?? "../shared/assets";

/** Published files, and how many maps they have that an adapter can be put on. */
const FILES: readonly (readonly [string, Readonly<Record<string, number>>])[] = [
  ["squeezenet/SqueezeNet_fp16.onnx", { conv: 26 }],
  ["mnist-onnx/mnist.onnx", { conv: 2, linear: 1 }],
  ["mnist-onnx/opt-mnist.onnx", { conv: 2, linear: 1 }],
  ["dtln/model_1.onnx", { linear: 1 }],
  ["face-rfb320/version-RFB-320.onnx", { conv: 52 }],
  ["basic-pitch/nmp.onnx", { conv: 32 }],
];

const all = (module: Module): Module[] => [module, ...module.children.flatMap(all)];

describe.each(FILES)("%s", (file, counts) => {
  const path = join(ASSETS, "models", file);
  test.skipIf(!existsSync(path))(
    "is adapted everywhere, trained a step, and merges into the same network",
    async () => {
      const model = (await loadModel(path, { task: "auto" })) as TensorModel;
      const outputs = probeOutputs(model);
      const sites = sitesOf(outputs);
      const found = (kind: string) => sites.filter((site) => site.kind === kind).length;
      expect(Object.fromEntries(Object.keys(counts).map((kind) => [kind, found(kind)]))).toEqual(counts);
      const weights = new Map(sites.map((site) => [site.path, site.weightName]));
      expect(sites.filter((site) => weights.get(site.path) !== site.weightName)).toEqual([]);
      const [root, ...modules] = all(modulesOf(outputs));
      expect(modules.every((module) => module.path !== "")).toBe(true);
      expect(root?.parameters).toBeGreaterThan(1000);
      expect(sitesOf(probeOutputs(await adapt(model, lora({ rank: 1 })))).length).toBeGreaterThan(0);
      const adapted = await adaptedEverywhere(model);
      const before = await lossAndGradients(adapted);
      descend(adapted, before.gradients, 1e-3);
      expect((await lossAndGradients(adapted)).loss).toBeLessThan(before.loss);
      const { feeds } = probe(model);
      const [plain, apart, merged] = await Promise.all(
        [model, adapted, await merge(adapted)].map((each) => runModel(each, feeds)),
      );
      for (const [name, value] of Object.entries(apart as Record<string, Tensor>)) {
        const scale = (value.data as Float32Array).reduce((most, item) => Math.max(most, Math.abs(item)), 0);
        expect(maxAbsDiff(merged?.[name] as Tensor, value), name).toBeLessThanOrEqual(
          1e-4 * Math.max(scale, 1),
        );
      }
      const [main] = Object.keys(apart ?? {});
      expect(maxAbsDiff(plain?.[String(main)] as Tensor, apart?.[String(main)] as Tensor)).toBeGreaterThan(0);
    },
    120_000,
  );
});
