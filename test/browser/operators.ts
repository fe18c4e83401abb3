/** Every operator that the graph builders, the derivatives and the decompositions write, on small random operands. */
import {
  type Attrs,
  constant,
  input,
  makeGraph,
  makeNode,
  op,
  ops,
  type Value,
} from "../../src/graph/index.js";
import { type Tensor, tensor } from "../../src/tensor/index.js";
import { indices, noise } from "./noise.js";
import type { GraphAndFeeds } from "./training-graph.js";

export interface OperatorCase extends GraphAndFeeds {
  readonly name: string;
  /** Allowed on WebGPU, relative to the largest value (at least 1). */
  readonly gpuTolerance: number;
}

const cases: OperatorCase[] = [];

function add(
  name: string,
  feeds: readonly Tensor[],
  build: (...inputs: Value[]) => Value | readonly Value[],
  gpuTolerance = 2e-5,
): void {
  const inputs = feeds.map((feed, at) => input(`x${at}`, feed.dtype, feed.shape));
  const built = build(...inputs);
  const outputs = Array.isArray(built) ? (built as readonly Value[]) : [built as Value];
  cases.push({
    name,
    gpuTolerance,
    graph: makeGraph(
      name,
      inputs,
      outputs.map((value, at): [string, Value] => [`y${at}`, value]),
    ),
    feeds: Object.fromEntries(feeds.map((feed, at) => [`x${at}`, feed])),
  });
}

const wide = noise(1, [3, 70, 5], 2);
const other = noise(2, [70, 5], 2);
const positive = tensor(
  "float32",
  [3, 70],
  Array.from(noise(3, [3, 70]).data as Float32Array, (x) => Math.abs(x) + 0.1),
);
const flags = tensor(
  "bool",
  [3, 70],
  Array.from(noise(4, [3, 70]).data as Float32Array, (x) => (x > 0 ? 1 : 0)),
);
const otherFlags = tensor(
  "bool",
  [3, 70],
  Array.from(noise(5, [3, 70]).data as Float32Array, (x) => (x > 0.3 ? 1 : 0)),
);
const image = noise(6, [2, 4, 9, 8]);

const i = (value: number) => ({ i: value });
const f = (value: number) => ({ f: value });
const ints = (...values: number[]) => ({ ints: values });
const s = (value: string) => ({ s: value });

function elementwise(): void {
  for (const name of [
    "add",
    "sub",
    "mul",
    "div",
    "max",
    "min",
    "equal",
    "less",
    "lessOrEqual",
    "greater",
    "greaterOrEqual",
  ] as const) {
    add(
      name,
      [wide, name === "div" ? noise(7, [70, 1], 1) : other],
      (a, b) => ops[name](a as Value, b as Value),
      1e-4,
    );
  }
  add("add int64", [indices(1, [40], 9), indices(2, [40], 9)], (a, b) =>
    ops.mul(ops.add(a as Value, b as Value), 3),
  );
  add("pow", [positive, noise(8, [70], 2)], (a, b) => ops.pow(a as Value, b as Value));
  add("and or not", [flags, otherFlags], (a, b) => [
    ops.and(a as Value, b as Value),
    ops.or(a as Value, b as Value),
    ops.not(a as Value),
  ]);
  for (const name of [
    "neg",
    "abs",
    "exp",
    "tanh",
    "erf",
    "sigmoid",
    "relu",
    "sign",
    "softplus",
    "square",
    "silu",
    "gelu",
  ] as const) {
    add(name, [wide], (x) => ops[name](x as Value));
  }
  add("sin cos", [wide], (x) => [ops.sin(x as Value), ops.cos(x as Value)]);
  const far = noise(13, [60], 4000);
  add("sin cos of large angles", [far], (x) => [ops.sin(x as Value), ops.cos(x as Value)]);
  add("gelu tanh", [wide], (x) => ops.gelu(x as Value, "tanh"));
  for (const name of ["log", "sqrt", "reciprocal"] as const)
    add(name, [positive], (x) => ops[name](x as Value));
  const named: readonly (readonly [string, Attrs?])[] = [
    ["Floor"],
    ["Ceil"],
    ["Round"],
    ["Atan"],
    ["LeakyRelu", { alpha: f(0.1) }],
    ["Elu", { alpha: f(0.8) }],
    ["Selu"],
    ["Celu"],
    ["Softsign"],
    ["HardSigmoid"],
    ["HardSwish"],
    ["Mish"],
    ["Identity"],
  ];
  for (const [name, attrs] of named) add(name, [wide], (x) => op(name, [x as Value], attrs));
  add("where", [flags, noise(9, [3, 70]), noise(10, [70])], (c, a, b) =>
    ops.where(c as Value, a as Value, b as Value),
  );
  add("clip", [wide], (x) => [
    ops.clip(x as Value, -0.5, 0.7),
    ops.clip(x as Value, undefined, 0),
    ops.clip(x as Value, 0),
  ]);
  add("cast", [wide, flags], (x, b) => [
    ops.cast(x as Value, "int32"),
    ops.cast(x as Value, "int64"),
    ops.cast(x as Value, "bool"),
    ops.cast(b as Value, "float32"),
  ]);
  add("cast int64 to float", [indices(3, [50], 1000)], (x) => [
    ops.cast(x as Value, "float32"),
    ops.cast(x as Value, "int32"),
  ]);
  add("isNaN", [tensor("float32", [4], [1, Number.NaN, 3, Number.NaN])], (x) => op("IsNaN", [x as Value]));
  add(
    "mod",
    [noise(11, [50], 9), noise(12, [50], 3)],
    (a, b) => op("Mod", [a as Value, b as Value], { fmod: i(1) }),
    1e-4,
  );
  add("sum mean", [wide, other], (a, b) => [
    op("Sum", [a as Value, b as Value, b as Value]),
    op("Mean", [a as Value, b as Value]),
  ]);
}

function linear(): void {
  add("matmul", [noise(20, [70, 130]), noise(21, [130, 33])], (a, b) => ops.matmul(a as Value, b as Value));
  add("matmul one row", [noise(22, [1, 256]), noise(23, [256, 96])], (a, b) =>
    ops.matmul(a as Value, b as Value),
  );
  add("matmul batched", [noise(24, [2, 3, 17, 20]), noise(25, [3, 20, 9])], (a, b) =>
    ops.matmul(a as Value, b as Value),
  );
  add("matmul by matrix", [noise(26, [2, 7, 64]), noise(27, [64, 128])], (a, b) =>
    ops.matmul(a as Value, b as Value),
  );
  add("matmul vectors", [noise(28, [20]), noise(29, [20, 5])], (a, b) => ops.matmul(a as Value, b as Value));
  add("matmul of nothing", [noise(30, [4, 0]), noise(31, [0, 5])], (a, b) =>
    ops.matmul(a as Value, b as Value),
  );
  for (const [transA, transB] of [
    [false, false],
    [true, false],
    [false, true],
    [true, true],
  ] as const) {
    const [a, b] = [noise(32, transA ? [40, 70] : [70, 40]), noise(33, transB ? [36, 40] : [40, 36])];
    add(`gemm ${transA ? "T" : "N"}${transB ? "T" : "N"}`, [a, b, noise(34, [36])], (x, y, c) => [
      ops.gemm(x as Value, y as Value, c, { transA, transB, alpha: 0.5, beta: 2 }),
      ...(transB ? [ops.gemm(x as Value, y as Value, undefined, { transA, transB })] : []),
    ]);
  }
  add("einsum", [noise(35, [2, 7, 5, 4]), noise(36, [2, 9, 5, 4])], (a, b) =>
    ops.einsum("bqhd,bkhd->bhqk", a as Value, b as Value),
  );
  add("fused matmul", [noise(37, [2, 30, 20]), noise(38, [2, 30, 24])], (a, b) =>
    op("FusedMatMul", [a as Value, b as Value], { transA: i(1), alpha: f(0.3) }, { domain: "com.microsoft" }),
  );
}

function reductions(): void {
  const names = [
    "reduceSum",
    "reduceMean",
    "reduceMax",
    "reduceMin",
    "reduceProd",
    "reduceL2",
    "reduceLogSumExp",
  ] as const;
  for (const name of names) {
    add(name, [noise(40, [3, 70, 5], 1.2)], (x) => [
      ops[name](x as Value, [1]),
      ops[name](x as Value, [0, 2], false),
      ops[name](x as Value, [-1]),
    ]);
  }
  add(
    "reduce everything",
    [wide],
    (x) => [ops.reduceSum(x as Value, undefined, false), ops.reduceMean(x as Value)],
    1e-4,
  );
  add("softmax", [wide], (x) => [
    ops.softmax(x as Value),
    ops.softmax(x as Value, 1),
    ops.softmax(x as Value, 0),
  ]);
  add("logSoftmax", [wide], (x) => [ops.logSoftmax(x as Value), ops.logSoftmax(x as Value, 1)]);
  add("argMax", [wide], (x) => [ops.argMax(x as Value, 1), ops.argMax(x as Value, -1, false)]);
  add("cumSum", [wide], (x) => [
    ops.cumSum(x as Value, 1),
    ops.cumSum(x as Value, -1, { exclusive: true, reverse: true }),
  ]);
  add("topK", [wide], (x) => {
    const { values, indices: at } = ops.topK(x as Value, 3, 1);
    return [values, at];
  });
  add("layerNorm", [noise(41, [6, 96], 3), noise(42, [96]), noise(43, [96])], (x, g, b) =>
    ops.layerNorm(x as Value, g as Value, b as Value, 1e-5),
  );
  add("layerNorm statistics", [noise(44, [6, 96], 3), noise(45, [96])], (x, g) => {
    const attrs = { axis: i(-1), epsilon: f(1e-5) };
    return makeNode("LayerNormalization", [x as Value, g as Value], attrs, { outputs: 3 }).outputs;
  });
  add("rmsNorm", [noise(46, [6, 96], 3), noise(47, [96])], (x, g) =>
    ops.rmsNorm(x as Value, g as Value, 1e-6),
  );
  add(
    "skip layer norm with sum",
    [noise(48, [2, 6, 96]), noise(49, [2, 6, 96]), noise(50, [96]), noise(51, [96])],
    (x, k, g, b) => {
      const node = makeNode(
        "SkipLayerNormalization",
        [x, k, g, b] as Value[],
        {},
        { domain: "com.microsoft", outputs: 4 },
      );
      return [node.outputs[0] as Value, node.outputs[3] as Value];
    },
  );
  add("instance norm", [image, noise(52, [4]), noise(53, [4])], (x, g, b) =>
    op("InstanceNormalization", [x, g, b] as Value[]),
  );
  add("group norm", [image, noise(54, [4]), noise(55, [4])], (x, g, b) =>
    op("GroupNormalization", [x, g, b] as Value[], { num_groups: i(2) }),
  );
}

function shapes(): void {
  add("transpose", [wide], (x) => [ops.transpose(x as Value, [2, 0, 1]), ops.transposeLast(x as Value)]);
  add("reshape squeeze unsqueeze", [wide], (x) => [
    ops.reshape(x as Value, [15, -1]),
    ops.unsqueeze(x as Value, 0, 2),
    ops.squeeze(ops.unsqueeze(x as Value, 1), 1),
  ]);
  add("expand tile", [noise(60, [3, 1, 4])], (x) => [
    ops.expand(x as Value, [3, 5, 4]),
    ops.tile(x as Value, [2, 3, 1]),
  ]);
  add("concat split", [wide, noise(61, [3, 2, 5])], (a, b) => {
    const joined = ops.concat([a as Value, b as Value], 1);
    return [joined, ...ops.split(joined, [10, 0, 62], 1)];
  });
  add("slice", [wide], (x) => [
    ops.slice(x as Value, 1, 3, 60),
    ops.slice(x as Value, 1, -1, -50, -3),
    ops.slice(x as Value, 2, 0, 5, 2),
  ]);
  add("pad", [wide], (x) => [
    ops.pad(x as Value, [0, 2, 1], [1, 0, 3]),
    ops.pad(x as Value, [0, -5, 0], [0, 3, -2]),
  ]);
  add("shape", [wide], (x) => ops.shapeOf(x as Value));
  add("trilu", [noise(62, [2, 9, 9])], (x) => [
    ops.trilu(x as Value, false),
    ops.trilu(x as Value, true, 1),
    ops.trilu(x as Value, false, -2),
  ]);
  add("depth to space", [noise(63, [1, 8, 3, 4])], (x) =>
    op("DepthToSpace", [x as Value], { blocksize: i(2) }),
  );
  add("sequencing edge", [wide, other], (a, b) =>
    ops.after(a as Value, ops.exp(b as Value), ops.reduceSum(b as Value, undefined, false)),
  );
  add("range, one hot, constant of shape", [indices(60, [6], 5)], (x) => [
    op("OneHot", [x as Value, ops.scalar(5, "int64"), constant(tensor("float32", [2], [0, 1]))]),
    op("ConstantOfShape", [ops.ints([2, 3])]),
    op("Range", [ops.scalar(2, "int64"), ops.scalar(9, "int64"), ops.scalar(3, "int64")]),
  ]);
}

function indexing(): void {
  const table = noise(70, [50, 12]);
  add("gather", [table, indices(71, [4, 9], 50)], (x, at) => [
    ops.gather(x as Value, at as Value),
    ops.gather(x as Value, ops.ints([3, -1, 0]), 1),
  ]);
  add("gather int32", [table, indices(72, [7], 50, "int32")], (x, at) => ops.gather(x as Value, at as Value));
  add("gatherElements", [table, indices(73, [50, 2], 12)], (x, at) =>
    ops.gatherElements(x as Value, at as Value, 1),
  );
  add("gatherNd", [table, indices(74, [9, 2], 12)], (x, at) => ops.gatherNd(x as Value, at as Value));
  add("scatterElements", [table, indices(75, [50, 4], 12), noise(76, [50, 4])], (x, at, u) =>
    ops.scatterElements(x as Value, at as Value, u as Value, 1, "add"),
  );
  add("scatterElements axis 0", [table, indices(77, [8, 12], 50), noise(78, [8, 12])], (x, at, u) =>
    ops.scatterElements(x as Value, at as Value, u as Value, 0, "add"),
  );
  add(
    "scatterNd add, repeated rows",
    [table, indices(79, [90, 1], 50), noise(80, [90, 12])],
    (x, at, u) => ops.scatterNd(x as Value, at as Value, u as Value, "add"),
    1e-4,
  );
  add("scatterNd", [table, tensor("int64", [3, 1], [7, 0, 49]), noise(81, [3, 12])], (x, at, u) =>
    ops.scatterNd(x as Value, at as Value, u as Value),
  );
}

function vision(): void {
  const conv = (name: string, x: Tensor, w: Tensor, attrs: Attrs) =>
    add(name, [x, w], (a, b) => op("Conv", [a as Value, b as Value], attrs));
  conv("conv", image, noise(90, [6, 4, 3, 3]), { pads: ints(1, 1, 1, 1) });
  conv("conv strided, dilated", image, noise(91, [6, 4, 3, 2]), {
    strides: ints(2, 1),
    dilations: ints(1, 2),
    pads: ints(0, 1, 2, 1),
  });
  conv("conv grouped", image, noise(92, [8, 2, 3, 3]), { group: i(2) });
  conv("conv depthwise", image, noise(93, [4, 1, 3, 3]), { group: i(4), pads: ints(1, 1, 1, 1) });
  conv("conv 1-D", noise(94, [2, 5, 30]), noise(95, [7, 5, 3]), { strides: ints(2) });
  conv("conv pointwise", image, noise(96, [10, 4, 1, 1]), {});
  add("conv with bias", [image, noise(97, [5, 4, 3, 3]), noise(98, [5])], (x, w, b) =>
    op("Conv", [x, w, b] as Value[]),
  );
  const transposed = (name: string, w: Tensor, attrs: Attrs) =>
    add(name, [image, w], (x, k) => op("ConvTranspose", [x as Value, k as Value], attrs));
  transposed("conv transposed", noise(99, [4, 3, 3, 3]), {
    strides: ints(2, 2),
    pads: ints(1, 1, 1, 1),
    output_padding: ints(1, 0),
  });
  transposed("conv transposed, grouped", noise(100, [4, 2, 3, 3]), { group: i(2) });
  transposed("conv transposed, dilated", noise(101, [4, 3, 2, 2]), { dilations: ints(2, 2) });
  const window = { kernel_shape: ints(3, 2), strides: ints(2, 2), pads: ints(1, 0, 1, 0) };
  add("max pool", [image], (x) => op("MaxPool", [x as Value], window));
  add(
    "max pool with indices",
    [image],
    (x) => makeNode("MaxPool", [x as Value], window, { outputs: 2 }).outputs,
  );
  add("average pool", [image], (x) => [
    op("AveragePool", [x as Value], window),
    op("AveragePool", [x as Value], { ...window, count_include_pad: i(1) }),
  ]);
  add("global pools", [image], (x) => [
    op("GlobalAveragePool", [x as Value]),
    op("GlobalMaxPool", [x as Value]),
  ]);
  const sizes = ops.ints([2, 4, 18, 12]);
  add("resize nearest", [image], (x) =>
    op("Resize", [x as Value, undefined, undefined, sizes], {
      mode: s("nearest"),
      coordinate_transformation_mode: s("asymmetric"),
      nearest_mode: s("floor"),
    }),
  );
  add(
    "resize linear",
    [image],
    (x) => op("Resize", [x as Value, undefined, undefined, sizes], { mode: s("linear") }),
    1e-4,
  );
  add(
    "resize with antialias",
    [image],
    (x) =>
      op("Resize", [x as Value, undefined, undefined, ops.ints([2, 4, 4, 5])], {
        mode: s("linear"),
        antialias: i(1),
      }),
    1e-4,
  );
  add(
    "grid sample",
    [image, noise(102, [2, 5, 4, 2], 0.9)],
    (x, g) => op("GridSample", [x as Value, g as Value], { mode: s("linear") }),
    1e-4,
  );
}

/** Builds the table; every call gives the same graphs and feeds. */
export function operatorCases(): readonly OperatorCase[] {
  if (cases.length === 0)
    for (const part of [elementwise, linear, reductions, shapes, indexing, vision]) part();
  return cases;
}
