/**
 * Writes files of every container format into a folder, for check_written_containers.py to read with the libraries that
 * define them:
 *
 *     node scripts/run-ts.mjs scripts/reference/check_written_containers.ts .cache/containers
 *     python scripts/reference/check_written_containers.py .cache/containers
 */

import { readFileSync } from "node:fs";
import { joinPath, makeDir, writeFileAtomic } from "#io";
import { fromMlx, toMlx } from "../../src/methods/index.js";
import {
  castTensor,
  loadAll,
  openSafetensors,
  tensor,
  writeGguf,
  writeNpz,
  writeOnnxAdapter,
  writeSafetensors,
} from "../../src/tensor/index.js";

const folder = process.argv[2];
if (!folder) throw new Error("give the folder to write into");
await makeDir(folder);

const values = Array.from({ length: 12 }, (_, index) => (index - 5) / 4);
const f32 = tensor("float32", [3, 4], values);
const tensors = [
  ["f32", f32],
  ["f16", castTensor(f32, "float16")],
  ["i32", tensor("int32", [2], [1, -2])],
] as const;
await writeOnnxAdapter(
  joinPath(folder, "a.onnx_adapter"),
  [...tensors, ["i64", tensor("int64", [1], [7n])], ["empty", tensor("float32", [0, 2], [])]],
  {
    adapterVersion: 5,
    modelVersion: 6,
  },
);
const metadata = {
  "general.architecture": { type: "string", value: "llama" },
  "general.type": { type: "string", value: "adapter" },
  "adapter.lora.alpha": { type: "float32", value: 16 },
  list: { type: "array", of: "uint32", value: [1, 2, 3] },
} as const;
await writeGguf(joinPath(folder, "a.gguf"), [...tensors, ["bf16", castTensor(f32, "bfloat16")]], metadata);
const arrays = [
  ...tensors,
  ["text", tensor("string", [2], ["a", "snow \u2603"])],
  ["i64", tensor("int64", [], [7n])],
] as const;
await writeNpz(joinPath(folder, "a.npz"), arrays);
await writeNpz(joinPath(folder, "b.npz"), arrays, { compress: true, fortran: true });

// An adapter of MLX-LM, read and written again.
const source = "fixtures/adapter-formats/mlx";
const file = await openSafetensors(joinPath(source, "adapters.safetensors"));
const given = JSON.parse(readFileSync(joinPath(source, "adapter_config.json"), "utf8"));
const mlx = toMlx(fromMlx({ tensors: await loadAll({ tensors: file.entries }), config: given }), {
  layers: 3,
});
await makeDir(joinPath(folder, "mlx"));
await writeSafetensors(joinPath(folder, "mlx", "adapters.safetensors"), mlx.tensors, {
  metadata: { format: "mlx" },
});
await writeFileAtomic(joinPath(folder, "mlx", "adapter_config.json"), JSON.stringify(mlx.config));
