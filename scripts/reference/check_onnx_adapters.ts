/**
 * Writes a small model whose adapter weights are inputs, and optional inputs, two adapters for them, and the logits that
 * Tunesmith gives; `check_onnx_adapters.py` runs them. Usage: node scripts/run-ts.mjs scripts/reference/check_onnx_adapters.ts FOLDER
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { adapt, lora } from "../../src/methods/index.js";
import { randomise } from "../../src/methods/testing/fixtures.js";
import { exportOnnx, loadFolder, logitsOf, probeIds, saveOnnxAdapter } from "../../src/models/index.js";

const folder = String(process.argv.at(-1));
const base = await loadFolder(new URL("../../fixtures/models/llama", import.meta.url).pathname);
const method = lora({ rank: 3, dora: true, targets: "all-linear" });
const ids = probeIds(base.sizes.vocabSize, 6);
const expected: Record<string, number[]> = { none: [...((await logitsOf(base, ids)).data as Float32Array)] };
const fresh = await adapt(base, method);
await exportOnnx(fresh, join(folder, "inputs"), { adapters: "inputs" });
await exportOnnx(fresh, join(folder, "optional"), { adapters: "optional" });
for (const [seed, name] of ["first", "second"].entries()) {
  const adapted = randomise(await adapt(base, method, { name }), seed + 1);
  await saveOnnxAdapter(adapted, join(folder, `${name}.onnx_adapter`));
  expected[name] = [...((await logitsOf(adapted, ids)).data as Float32Array)];
}
writeFileSync(join(folder, "expected.json"), JSON.stringify({ ids, expected }));
