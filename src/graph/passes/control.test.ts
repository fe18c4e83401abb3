import { describe, expect, test } from "vitest";
import { gradients } from "../../autodiff/index.js";
import { compareDecomposition } from "../../autodiff/testing/compare-decomposition.js";
import { type Compile, checkGradients, type Operand } from "../../autodiff/testing/finite-differences.js";
import { createSession, evaluate } from "../../runtime/index.js";
import { tensor } from "../../tensor/index.js";
import {
  type Attrs,
  bindInputs,
  constant,
  decompose,
  fold,
  type Graph,
  inlineControlFlow,
  input,
  makeGraph,
  makeNode,
  nodesOf,
  op,
  ops,
  prune,
  specialise,
  type Value,
} from "../index.js";

const compile: Compile = (graph) => createSession(graph, { threads: 1, optimization: "basic" });
const lower = ["If", "Loop", "Scan"];
const opsIn = (graph: Graph) => nodesOf(graph).map((node) => node.op);
const lastOf = (values: readonly Value[]) => values[0] as Value;

function body(inputs: readonly Value[], outputs: readonly Value[], captures: readonly Value[]): { g: Graph } {
  const named = outputs.map((value, at): [string, Value] => [`out${at}`, value]);
  return { g: { ...makeGraph("body", inputs, named), captures } };
}

/** condition ? exp(a)·b : a - b² */
function choice(condition: Value, a: Value, b: Value): Value {
  const attrs: Attrs = {
    then_branch: body([], [ops.mul(ops.exp(a), b)], [a, b]),
    else_branch: body([], [ops.sub(a, ops.square(b))], [a, b]),
  };
  return op("If", [condition], attrs);
}

/** `count` rounds of s = s·w + sin(s), returning the last state and every state before its round. */
function loop(count: Value, s: Value, w: Value): readonly Value[] {
  const [at, going, state] = [
    input("at", "int64", []),
    input("going", "bool", []),
    input("state", s.dtype, s.shape),
  ];
  const next = ops.add(ops.mul(state, w), ops.sin(state));
  const attrs: Attrs = { body: body([at, going, state], [op("Identity", [going]), next, state], [w]) };
  return makeNode("Loop", [count, undefined, s], attrs, { outputs: 2 }).outputs;
}

const bool = (value: number): Operand => ({ shape: [], values: [value], dtype: "bool" });
const x: Operand = { shape: [3] };

describe("If", () => {
  test.each([0, 1])(
    "with a condition from outside (%i): both branches, the right derivative",
    async (flag) => {
      const build = (...[c, a, b]: Value[]) => choice(c as Value, a as Value, b as Value);
      const operands = [bool(flag), x, x];
      expect(await compareDecomposition(compile, { operands, build, lower })).toBe(0);
      await checkGradients(compile, { operands, build });
      await checkGradients(compile, { operands, build, lower });
    },
  );
  test("branches of different shapes run, and are refused on the path of a gradient", async () => {
    const [c, a] = [input("c", "bool", []), input("a", "float32", [4])];
    const attrs: Attrs = {
      then_branch: body([], [ops.square(a)], [a]),
      else_branch: body([], [ops.slice(a, 0, 0, 2)], [a]),
    };
    const y = makeNode("If", [c], attrs, { name: "/head/If" }).outputs[0] as Value;
    const loss = ops.reduceSum(y, undefined, false);
    const feeds = { c: tensor("bool", [], [0]), a: tensor("float32", [4], [1, 2, 3, 4]) };
    expect((await evaluate(makeGraph("g", [c, a], [["loss", loss]]), feeds)).loss?.data[0]).toBe(3);
    expect(() => gradients(loss, [a])).toThrow(/If '\/head\/If'.*\[4\] or \[2\]/);
  });
  test("a condition on a bound axis decides when the axis is bound", async () => {
    const a = input("a", "float32", ["n", 4]);
    const long = ops.greater(ops.gather(ops.shapeOf(a), ops.scalar(0, "int64")), 2);
    const graph = makeGraph("g", [a], [["y", choice(long, a, a)]]);
    expect(opsIn(graph)).toContain("If");
    const [three, two] = [specialise(graph, { n: 3 }), specialise(graph, { n: 2 })];
    for (const each of [three, two]) expect(opsIn(each)).not.toContain("If");
    expect([opsIn(three).includes("Exp"), opsIn(two).includes("Exp")]).toEqual([true, false]);
    expect(
      opsIn(fold(makeGraph("g", [a], [["y", choice(constant(tensor("bool", [], [1])), a, a)]]))),
    ).toEqual(["Exp", "Mul"]);
  });
});

describe("bindInputs", () => {
  test("takes the branch an input decides, nested ones too, and frees inputs of the other", async () => {
    const [flag, a, past] = [
      input("use_cache_branch", "bool", [1]),
      input("a", "float32", [4]),
      input("past", "float32", [4]),
    ];
    const inner = choice(op("Not", [flag]), a, a);
    const attrs: Attrs = {
      then_branch: body([], [ops.add(a, past)], [a, past]),
      else_branch: body([], [inner], [flag, a]),
    };
    const graph = makeGraph("merged", [flag, a, past], [["y", op("If", [flag], attrs)]]);
    const first = prune(bindInputs(graph, { use_cache_branch: tensor("bool", [1], [0]) }));
    expect(opsIn(first).filter((name) => name !== "Not")).toEqual(["Exp", "Mul"]);
    expect(first.inputs.map((value) => value.name)).toEqual(["a"]);
    const cached = bindInputs(graph, { use_cache_branch: tensor("bool", [1], [1]) });
    expect(opsIn(cached)).toEqual(["Add"]);
    const feeds = { a: tensor("float32", [4], [1, 2, 3, 4]), past: tensor("float32", [4], [4, 3, 2, 1]) };
    const all = { ...feeds, use_cache_branch: tensor("bool", [1], [1]) };
    expect((await evaluate(cached, feeds)).y).toEqual((await evaluate(graph, all)).y);
  });
  test("names what does not fit", () => {
    const graph = makeGraph("g", [input("a", "float32", [2])], []);
    expect(() => bindInputs(graph, { b: tensor("float32", [2], [1, 2]) })).toThrow(/no input 'b'/);
    expect(() => bindInputs(graph, { a: tensor("float32", [3], [1, 2, 3]) })).toThrow(/not float32\[3\]/);
  });
});

describe("Loop", () => {
  const build = (...[s, w]: Value[]) => loop(ops.scalar(4, "int64"), s as Value, w as Value);
  test("of known length is unrolled", async () => {
    const [s, w] = [input("s", "float32", [3]), input("w", "float32", [3])];
    const values = build(s, w);
    const graph = makeGraph(
      "g",
      [s, w],
      [
        ["last", values[0] as Value],
        ["all", values[1] as Value],
      ],
    );
    const plain = inlineControlFlow(graph);
    expect(opsIn(plain).filter((name) => name === "Sin").length).toBe(4);
    expect(opsIn(plain)).not.toContain("Loop");
    const feeds = { s: tensor("float32", [3], [0.1, 0.2, 0.3]), w: tensor("float32", [3], [1, -1, 0.5]) };
    expect(await evaluate(plain, feeds)).toEqual(await evaluate(graph, feeds));
  });
  test("has the derivative of its rounds, through state and captured values", async () => {
    expect(await compareDecomposition(compile, { operands: [x, x], build, lower })).toBeLessThan(1e-6);
    await checkGradients(compile, { operands: [x, x], build });
  });
  test("that its own condition ends early", async () => {
    const [s, w] = [input("s", "float32", [3]), input("w", "float32", [3])];
    const [at, going, state] = [
      input("at", "int64", []),
      input("going", "bool", []),
      input("state", "float32", [3]),
    ];
    const attrs: Attrs = { body: body([at, going, state], [ops.less(at, 2), ops.mul(state, w)], [w]) };
    const y = op("Loop", [ops.scalar(10, "int64"), constant(tensor("bool", [], [1])), s], attrs);
    const graph = makeGraph("g", [s, w], [["y", y]]);
    const plain = inlineControlFlow(graph);
    expect(opsIn(plain).filter((name) => name === "Mul").length).toBe(3);
    const feeds = { s: tensor("float32", [3], [1, 2, 3]), w: tensor("float32", [3], [2, 3, 4]) };
    expect(await evaluate(plain, feeds)).toEqual(await evaluate(graph, feeds));
  });
  test("no round at all", () => {
    const [s, w] = [input("s", "float32", [3]), input("w", "float32", [3])];
    const [last, all] = loop(ops.scalar(0, "int64"), s, w) as [Value, Value];
    const plain = inlineControlFlow(
      makeGraph(
        "g",
        [s, w],
        [
          ["last", last],
          ["all", all],
        ],
      ),
    );
    expect(plain.outputs.get("last")).toBe(s);
    expect(plain.outputs.get("all")?.shape).toEqual([0, 3]);
  });
  test("too long, or of a length that is only known at run time, names itself", () => {
    const [s, w] = [input("s", "float32", [3]), input("w", "float32", [3])];
    const long = ops.reduceSum(lastOf(loop(ops.scalar(1000, "int64"), s, w)), undefined, false);
    expect(() => gradients(long, [w])).toThrow(/Loop.*number of rounds=1000/);
    const open = ops.reduceSum(lastOf(loop(input("n", "int64", []), s, w)), undefined, false);
    expect(() => gradients(open, [w])).toThrow(/Loop.*known at run time only/);
    const kept = inlineControlFlow(makeGraph("g", [s, w], [["y", long]]), { maxRounds: 10 });
    expect(opsIn(kept)).toContain("Loop");
  });
});

describe("Scan", () => {
  const scan =
    (attrs: Attrs, axis: number) =>
    (...[h, xs, w]: Value[]) => {
      const [state, sequence] = [h as Value, xs as Value];
      const shape = sequence.shape.filter((_, at) => at !== axis);
      const [before, element] = [input("h", state.dtype, state.shape), input("x", state.dtype, shape)];
      const next = ops.tanh(ops.add(ops.mul(before, w as Value), element));
      const graph = body([before, element], [next, ops.mul(next, element)], [w as Value]);
      return makeNode(
        "Scan",
        [state, sequence],
        { body: graph, num_scan_inputs: { i: 1 }, ...attrs },
        { outputs: 2 },
      ).outputs;
    };
  const ints = (...values: number[]) => ({ ints: values });
  test.each<[string, Attrs, number, number[]]>([
    ["along the first axis", {}, 0, [4, 2, 3]],
    [
      "along a middle axis, stacked last",
      { scan_input_axes: ints(1), scan_output_axes: ints(-1) },
      1,
      [2, 4, 3],
    ],
    ["backwards", { scan_input_directions: ints(1), scan_output_directions: ints(1) }, 0, [4, 2, 3]],
  ])("%s", async (_, attrs, axis, shape) => {
    const item = { operands: [{ shape: [2, 3] }, { shape }, { shape: [3] }], build: scan(attrs, axis) };
    expect(await compareDecomposition(compile, { ...item, lower })).toBeLessThan(1e-6);
    await checkGradients(compile, item);
  });
  test("decompose takes apart what stands around and inside", () => {
    const [h, xs, w] = [
      input("h", "float32", [2]),
      input("xs", "float32", [3, 2]),
      input("w", "float32", [2]),
    ];
    const graph = makeGraph("g", [h, xs, w], [["y", lastOf(scan({}, 0)(h, xs, w))]]);
    expect(opsIn(decompose(graph)).filter((name) => name === "Tanh").length).toBe(3);
  });
});
