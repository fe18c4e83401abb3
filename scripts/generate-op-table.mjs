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
  AveragePool: "static spatial lengths",
  Conv: "static spatial lengths for the filter, and for the data where a stride is not 1",
  ConvTranspose: "static spatial lengths for the filter",
  Dropout: "outside training mode; in training, masks are fed and multiplied",
  GRU: "static length",
  GridSample: "static spatial lengths and grid",
  LSTM: "static length",
  LpPool: "static spatial lengths",
  Mod: "floats (fmod=1)",
  Pad: "modes other than constant: static lengths of the padded axes",
  RNN: "static length",
  ReduceProd: "with zeros: first derivative only",
  Resize: "static lengths of the resized axes",
  ScatterElements: "reduction none: no duplicate indices; mul: updates not 0",
  ScatterND: "reduction none: no duplicate indices; mul: updates not 0",
  Slice: "a symbolic axis: step 1",
  "com.microsoft.Attention": "without a cache",
  "com.microsoft.EmbedLayerNormalization": "not through the mask output",
  "com.microsoft.GroupQueryAttention": "without a cache",
  "com.microsoft.MatMulBnb4": "the data",
  "com.microsoft.MatMulNBits": "the data and the bias; 4 and 8 bits",
  "com.microsoft.MultiHeadAttention": "unpacked projections",
  "com.microsoft.RotaryEmbedding": "scale 1",
  "com.microsoft.SkipLayerNormalization": "not through the statistics outputs",
  "com.microsoft.SkipSimplifiedLayerNormalization": "not through the statistics outputs",
};
const rows = [
  ...[...vjpRules.keys()].map((op) => [op, "rule"]),
  ...[...decompositions.keys()].filter((op) => !vjpRules.has(op)).map((op) => [op, "decomposition"]),
  ...[...stops].map((op) => [op, "stops"]),
].sort(([a], [b]) => (a < b ? -1 : 1));

const text = `# Operators and their gradients

Written by \`node scripts/generate-op-table.mjs\` from the tables in \`src/autodiff/rules\` and \`src/graph/decompose\`.
**rule**: a VJP of its own. **decomposition**: differentiated as the simpler operators it stands for. **stops**: no
gradient flows, on purpose. Any other operator on the path throws \`op-not-differentiable\`. Every rule and decomposition
is checked against central finite differences, in first and second order, by the tests in \`src/autodiff/rules\`.

| operator | gradient | limits |
|---|---|---|
${rows.map(([op, how]) => `| ${op} | ${how} | ${limits[op] ?? ""} |`).join("\n")}
`;
writeFileSync(new URL("../docs/ops.md", import.meta.url), text);
