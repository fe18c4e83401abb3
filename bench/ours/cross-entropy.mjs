// Peak memory of one pass of the chunked cross-entropy (loss and gradient of the hidden states) over an idle session.
//   node bench/ours/cross-entropy.mjs --tokens 1024 --vocabulary 50257 --hidden 768
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { vjp } from "tunesmith/autodiff";
import { constant, input, makeGraph, ops } from "tunesmith/graph";
import { createSession } from "tunesmith/runtime";
import { openSafetensors, tensor, writeSafetensors } from "tunesmith/tensor";
import { crossEntropy } from "tunesmith/training";
import { memorySampler, memoryStatus } from "./process.mjs";

const { values } = parseArgs({
  options: {
    tokens: { type: "string" },
    vocabulary: { type: "string" },
    hidden: { type: "string" },
    prepare: { type: "string" },
  },
});
const [tokens, vocabulary, width] = [values.tokens, values.vocabulary, values.hidden].map(Number);
const numbers = (count) => Float32Array.from({ length: count }, (_, at) => Math.sin(at * 0.7) * 0.05);
if (values.prepare) {
  await writeSafetensors(values.prepare, [
    ["head", tensor("float32", [vocabulary, width], numbers(vocabulary * width))],
  ]);
  process.exit(0);
}
// The weights are written by a process of its own, so that freeing them here cannot hide what the run allocates.
const folder = mkdtempSync(join(tmpdir(), "tunesmith-bench-"));
const path = join(folder, "head.safetensors");
execFileSync(process.execPath, [...process.argv.slice(1), "--prepare", path]);
const file = await openSafetensors(path);
const head = constant(file.entries.get("head"), "head");
const hidden = input("hidden", "float32", [tokens, width]);
const labels = input("labels", "int64", [tokens]);
const weights = input("weights", "float32", [tokens]);
const logits = ops.gemm(hidden, head, undefined, { transB: true });
const loss = crossEntropy({ hidden, logits, labels, weights, chunkRows: 83 });
const [gradient] = vjp([{ output: loss, gradient: ops.scalar(1) }], [hidden]);
const graph = makeGraph(
  "loss",
  [hidden, labels, weights],
  [
    ["loss", loss],
    ["gradient", gradient],
  ],
);
const session = await createSession(graph, { threads: 2, worker: true });
const feeds = {
  hidden: tensor("float32", [tokens, width], numbers(tokens * width)),
  labels: tensor(
    "int64",
    [tokens],
    BigInt64Array.from({ length: tokens }, (_, at) => BigInt((at * 7919) % vocabulary)),
  ),
  weights: tensor("float32", [tokens], new Float32Array(tokens).fill(1 / tokens)),
};
globalThis.gc?.();
const idle = memoryStatus().RssAnon;
const sampler = memorySampler();
const result = await session.run(feeds);
const { peakRssAnonMb } = sampler.stop();
await session.release();
rmSync(folder, { recursive: true });
console.log(JSON.stringify({ loss: result.loss.data[0], idleMb: idle, peakMb: peakRssAnonMb - idle }));
