import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { vjp } from "../autodiff/index.js";
import {
  constant,
  encodeGraph,
  type Graph,
  input,
  lowerMarkers,
  makeGraph,
  makeNode,
  op,
  ops,
  recompute,
  rewrite,
  type Value,
} from "../graph/index.js";
import { tensor } from "../tensor/index.js";

/**
 * ONNX Runtime decides when each node runs, so how much memory a graph takes is a property of the pinned version:
 * these tests tell when an upgrade undoes what sequencing edges (ops.after) are for. A process of its own per
 * graph, so that the peak is that graph's.
 */
const CHILD = `
const ort = require("onnxruntime-node");
const peak = () => process.resourceUsage().maxRSS / 1024;
(async () => {
  const start = peak();
  const session = await ort.InferenceSession.create(process.argv[1], {
    intraOpNumThreads: 1, enableMemPattern: false, logSeverityLevel: 3,
    extra: { session: { disable_prepacking: "1", intra_op: { allow_spinning: "0" } } },
  });
  const feeds = {};
  for (const { name, type, shape } of session.inputMetadata) {
    const length = shape.reduce((a, b) => a * b, 1);
    const data = type === "int64" ? new BigInt64Array(length) : Float32Array.from({ length }, (_, i) => Math.sin(i) * 0.1);
    feeds[name] = new ort.Tensor(type, data, shape);
  }
  const before = peak();
  await session.run(feeds);
  console.log(peak() - (process.argv[2] === "whole" ? start : before));
})();
`;

/** Megabytes that one run adds to the process, or that the session and a run add. */
function peakOf(graph: Graph, what: "run" | "whole" = "run"): number {
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-memory-"));
  try {
    const path = join(folder, "model.onnx");
    writeFileSync(path, encodeGraph(graph));
    const root = new URL("../../", import.meta.url);
    return Number(execFileSync(process.execPath, ["-e", CHILD, path, what], { encoding: "utf8", cwd: root }));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Cross-entropy and its gradient over a large vocabulary, in chunks of 128 tokens: 10 MB of probabilities each. */
function chunkedLoss(sequenced: boolean): Graph {
  const [chunks, tokens, width, vocabulary] = [8, 128, 32, 20_000];
  const hidden = input("hidden", "float32", [chunks * tokens, width]);
  const labels = input("labels", "int64", [chunks * tokens, 1]);
  const head = input("head", "float32", [width, vocabulary]);
  const back = ops.transpose(head, [1, 0]);
  const losses: Value[] = [];
  const gradients: Value[] = [];
  for (let chunk = 0; chunk < chunks; chunk++) {
    const rows = (x: Value) => ops.slice(x, 0, chunk * tokens, (chunk + 1) * tokens);
    const done = [losses.at(-1), gradients.at(-1)].filter((value) => value !== undefined);
    const part = sequenced ? ops.after(rows(hidden), ...done) : rows(hidden);
    const probabilities = ops.softmax(ops.matmul(part, head));
    const picked = ops.gatherElements(probabilities, rows(labels), 1);
    losses.push(ops.neg(ops.reduceSum(ops.log(ops.max(picked, 1e-37)))));
    gradients.push(ops.matmul(probabilities, back));
  }
  const loss = losses.reduce((a, b) => ops.add(a, b));
  return makeGraph(
    "chunks",
    [hidden, labels, head],
    [
      ["loss", loss],
      ["dhidden", ops.concat(gradients, 0)],
    ],
  );
}

/** How a block's inner values reach its backward pass. */
type Keeping = "kept" | "recomputed" | "recomputed behind an edge";

/** The gradient of a chain of wide blocks with respect to its input. */
function blockChain(keeping: Keeping): Graph {
  const [blocks, tokens, width, inner] = [8, 512, 128, 2048];
  const x = input("x", "float32", [tokens, width]);
  const inputs: Value[] = [x];
  const boundaries: Value[] = [x];
  for (let block = 0; block < blocks; block++) {
    const up = input(`up${block}`, "float32", [width, inner]);
    const down = input(`down${block}`, "float32", [inner, width]);
    inputs.push(up, down);
    const entering = boundaries[block] as Value;
    boundaries.push(ops.add(entering, ops.matmul(ops.gelu(ops.matmul(entering, up)), down)));
  }
  let gradient = boundaries[blocks] as Value;
  for (let block = blocks - 1; block >= 0; block--) {
    const [entering, leaving] = [boundaries[block] as Value, boundaries[block + 1] as Value];
    const start = startOf(keeping, entering, gradient);
    const [output] = keeping === "kept" ? [leaving] : recompute([leaving], new Map([[entering, start]]));
    gradient = vjp([{ output: output as Value, gradient }], [start])[0] as Value;
  }
  return makeGraph("blocks", inputs, [["dx", gradient]]);
}

function startOf(keeping: Keeping, entering: Value, gradient: Value): Value {
  if (keeping === "kept") return entering;
  return keeping === "recomputed" ? ops.add(entering, 0) : ops.after(entering, gradient);
}

test("sequencing edges keep one chunk of a chunked cross-entropy alive at a time", () => {
  const [free, sequenced] = [peakOf(chunkedLoss(false)), peakOf(chunkedLoss(true))];
  expect(sequenced, `${sequenced} MB against ${free} MB`).toBeLessThan(0.5 * free);
});

test("recomputation saves memory behind a sequencing edge, and none without", () => {
  const kept = peakOf(blockChain("kept"));
  const [free, sequenced] = [
    peakOf(blockChain("recomputed")),
    peakOf(blockChain("recomputed behind an edge")),
  ];
  expect(sequenced, `${sequenced} MB against ${kept} MB`).toBeLessThan(0.6 * kept);
  expect(free, "without the edge: when this fails, the runtime has become cleverer").toBeGreaterThan(
    0.8 * kept,
  );
});

const WIDTH = 1024;
const LAYERS = 12;
const bytes = (shape: number[], dtype: "uint8" | "int8" = "uint8") =>
  constant(
    tensor(
      dtype,
      shape,
      Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, at) => (at * 37) % 120),
    ),
  );
const numbers = (length: number, value: number) =>
  constant(tensor("float32", [length], Array<number>(length).fill(value)));

/** Layers over frozen weights of 4 or 8 bits, as files have them. */
const quantised: Record<string, (x: Value) => Value> = {
  MatMulNBits: (x) =>
    op(
      "MatMulNBits",
      [x, bytes([WIDTH, WIDTH / 32, 16]), numbers((WIDTH * WIDTH) / 32, 1e-3)],
      { N: { i: WIDTH }, K: { i: WIDTH }, bits: { i: 4 }, block_size: { i: 32 } },
      { domain: "com.microsoft" },
    ),
  DequantizeLinear: (x) =>
    ops.matmul(
      x,
      op("DequantizeLinear", [bytes([WIDTH, WIDTH], "int8"), numbers(WIDTH, 1e-3)], { axis: { i: 1 } }),
    ),
  MatMulInteger: (x) => {
    const [codes, scale, zero] = makeNode("DynamicQuantizeLinear", [x]).outputs as [Value, Value, Value];
    const product = op("MatMulInteger", [codes, bytes([WIDTH, WIDTH]), zero, ops.scalar(60, "uint8")]);
    return ops.mul(ops.cast(product, "float32"), ops.mul(scale, 1e-3));
  },
};

function frozenLayers(layer: (x: Value) => Value): Graph {
  const x = input("x", "float32", [32, WIDTH]);
  let y = x;
  for (let at = 0; at < LAYERS; at++) y = ops.tanh(layer(y));
  const [dx] = vjp([{ output: y, gradient: ops.full([32, WIDTH], 1, "float32") }], [x]);
  return makeGraph("frozen", [x], [["dx", dx as Value]]);
}

/** The graph without its sequencing edges. */
const unsequenced = (graph: Graph): Graph =>
  rewrite(lowerMarkers(graph), {
    visit: (node, [x, zero]) => {
      let source = zero?.source.kind === "node" ? zero.source.node : undefined;
      // Codes, which have no sum, are sliced from there on.
      while (node.op === "Slice" && source && ["Reshape", "Cast"].includes(source.op))
        source = source.inputs[0]?.source.kind === "node" ? source.inputs[0].source.node : undefined;
      const isEdge = source?.op === "ReduceSum" && source.inputs[0]?.shape.includes(0);
      return isEdge && (node.op === "Add" || node.op === "Slice") && x ? [x] : undefined;
    },
  });

// 4 MB a layer as floats; measured on two cores: 21, 7 and 7 MB against 69, 101 and 53.
test.each(Object.keys(quantised))("gradients over %s hold the floats of few layers at a time", (name) => {
  const graph = frozenLayers(quantised[name] as (x: Value) => Value);
  const [late, early] = [peakOf(graph), peakOf(unsequenced(graph))];
  expect(late, `${late} MB against ${early} MB`).toBeLessThan(0.5 * early);
});

const normalFloat = (x: Value): Value =>
  op(
    "MatMulNormalFloat",
    [x, bytes([(WIDTH * WIDTH * 3) / 8]), bytes([WIDTH * 16]), numbers(64, 1e-3), ops.scalar(0)],
    {
      ...{ N: { i: WIDTH }, K: { i: WIDTH }, bits: { i: 3 } },
      ...{ block_size: { i: 64 }, scale_bits: { i: 8 }, super_block: { i: 256 } },
    },
    { domain: "tunesmith" },
  );

// Measured on two cores: 53 MB against 681.
test("a session over NormalFloat codes does not make them floats once for all runs", () => {
  const graph = frozenLayers(normalFloat);
  const [late, early] = [peakOf(graph, "whole"), peakOf(unsequenced(graph), "whole")];
  expect(late, `${late} MB against ${early} MB`).toBeLessThan(0.2 * early);
});
