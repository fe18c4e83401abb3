// Writes docs/ops.md: what differentiation does with each operator, read from the rule tables themselves.
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = fileURLToPath(new URL("..", import.meta.url));
const { outputFiles } = await build({
  stdin: {
    contents: `export { stops, vjpRules } from "./src/autodiff/index.ts"; export { decompositions } from "./src/graph/index.ts";`,
    resolveDir: root,
    loader: "ts",
  },
  bundle: true,
  format: "esm",
  platform: "node",
  conditions: ["source"],
  write: false,
});
const { decompositions, stops, vjpRules } = await import(
  `data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`
);

const limits = {
  AffineGrid: "a known size",
  Attention: "without windows; is_causal not together with nonpad_kv_seqlen",
  AveragePool: "static spatial lengths",
  BatchNormalization: "what it normalises by: batchNormMode()",
  Conv: "static spatial lengths for the filter, and for the data where a stride is not 1",
  ConvInteger: "straight through the rounding; the weights are frozen",
  ConvTranspose: "static spatial lengths for the filter",
  DFT: "a static length; not one-sided and inverse at once",
  DequantizeLinear: "data and scale; codes get gradients per unit",
  Dropout: "outside training mode; in training, masks are fed and multiplied",
  DynamicQuantizeLinear: "straight through the rounding, the scale as given",
  GRU: "static length",
  GridSample: "static spatial lengths and grid",
  If: "the branch taken where the condition is known, else both, of equal shapes",
  LSTM: "static length",
  Loop: "at most 256 rounds, of a known number",
  LpPool: "static spatial lengths",
  MatMulInteger: "straight through the rounding",
  Mod: "floats (fmod=1)",
  Pad: "modes other than constant: static lengths of the padded axes",
  QuantizeLinear: "straight through the rounding, zero where codes are cut; the scale by LSQ",
  RNN: "static length",
  ReduceProd: "with zeros: first derivative only",
  Resize: "static lengths of the resized axes",
  RoiAlign: "means of a fixed number of samples, static spatial lengths",
  STFT: "static lengths of signal, frames and steps",
  Scan: "at most 256 rounds, of a known number",
  ScatterElements: "reduction none: no duplicate indices; mul: updates not 0",
  ScatterND: "reduction none: no duplicate indices; mul: updates not 0",
  Slice: "a symbolic axis: step 1",
  "com.microsoft.Attention": "without a shared cache buffer and without do_rotary",
  "com.microsoft.DynamicQuantizeLSTM": "static length; straight through what it rounds of its data",
  "com.microsoft.DynamicQuantizeMatMul": "the data and the bias",
  "com.microsoft.GatherBlockQuantized": "rows of tables quantised along the last axis; the scales",
  "com.microsoft.GroupQueryAttention": "without a quantised cache",
  "com.microsoft.MatMulBnb4": "the data",
  "com.microsoft.MatMulIntegerToFloat": "the data and the bias",
  "com.microsoft.MatMulNBits": "the data and the bias; 2, 4 and 8 bits, without g_idx",
  "com.microsoft.MultiHeadAttention": "without a shared cache buffer",
  "com.microsoft.RotaryEmbedding": "scale 1",
  "com.microsoft.SkipLayerNormalization": "not through the statistics outputs",
  "com.microsoft.SkipSimplifiedLayerNormalization": "not through the statistics outputs",
  "tunesmith.MatMulNormalFloat": "the data; runs as lookups and a Gemm",
};
const rows = [
  ...[...vjpRules.keys()].map((op) => [op, "rule"]),
  ...[...decompositions.keys()].filter((op) => !vjpRules.has(op)).map((op) => [op, "decomposition"]),
  ...[...stops].map((op) => [op, "stops"]),
].sort(([a], [b]) => (a < b ? -1 : 1));

const text = `# Operators and their gradients

Written by \`node scripts/generate-op-table.mjs\` from the tables in \`src/autodiff/rules\` and \`src/graph/decompose\`.
**rule**: a VJP of its own. **decomposition**: differentiated as the simpler operators it stands for. **stops**: no
gradient flows, on purpose. Any other operator on the path throws \`op-not-differentiable\`. Operators that only move values
(Reshape, Concat, MaxPool, ...) also pass the gradients of quantised codes, which are counted per unit of the code. Every rule and decomposition
is checked against central finite differences, in first and second order, by the tests in \`src/autodiff/rules\`.

| operator | gradient | limits |
|---|---|---|
${rows.map(([op, how]) => `| ${op} | ${how} | ${limits[op] ?? ""} |`).join("\n")}
`;
writeFileSync(new URL("../docs/ops.md", import.meta.url), text);
