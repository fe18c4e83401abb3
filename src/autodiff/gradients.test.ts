import { describe, expect, test } from "vitest";
import { TunesmithError } from "../errors/index.js";
import { constant, input, makeGraph, makeNode, nodesOf, op, ops, scope, type Value } from "../graph/index.js";
import { createSession, evaluate } from "../runtime/index.js";
import { tensor } from "../tensor/index.js";
import { gradients, vjp } from "./gradients.js";
import { checkGradients, type GradientCase } from "./testing/finite-differences.js";

const check = (options: GradientCase) =>
  checkGradients((graph) => createSession(graph, { threads: 1, optimization: "basic" }), options);
const sum = (x: Value) => ops.reduceSum(x, undefined, false);
const f64 = (...values: number[]) => tensor("float64", [values.length], values);

async function numbers(
  outputs: readonly Value[],
  feeds: Readonly<Record<string, ReturnType<typeof f64>>>,
  inputs: Value[],
) {
  const graph = makeGraph(
    "test",
    inputs,
    outputs.map((value, at): [string, Value] => [`o${at}`, value]),
  );
  const results = await evaluate(graph, feeds);
  return outputs.map((_, at) => Array.from(results[`o${at}`]?.data ?? [], Number));
}

describe("accumulation", () => {
  test("a value used several times, also twice by one node", async () => {
    await check({
      operands: [{ shape: [3] }],
      build: (x) => {
        const a = ops.exp(x as Value);
        return ops.add(ops.mul(a, a), ops.mul(ops.sin(a), x as Value));
      },
    });
  });

  test("one value at two inputs of a decomposed operator", async () => {
    const build = (x: Value | undefined) => op("BiasGelu", [x, x], {}, { domain: "com.microsoft" });
    await check({ operands: [{ shape: [3] }], build, lower: ["com.microsoft.BiasGelu"] });
  });

  test("several outputs, one of them unused", async () => {
    const build = (x: Value | undefined) => {
      const [a, , c] = ops.split(x as Value, [1, 1, 2], 0);
      return [ops.square(a as Value), ops.exp(c as Value)];
    };
    await check({ operands: [{ shape: [4, 2] }], build });
  });

  test("gradients of inner values and of what depends on them", async () => {
    const x = input("x", "float64", [2]);
    const y = ops.square(x);
    const grads = gradients(sum(ops.mul(y, x)), [x, y]);
    expect(await numbers(grads, { x: f64(2, 3) }, [x])).toEqual([
      [12, 27],
      [2, 3],
    ]);
  });

  test("third order", async () => {
    const x = input("x", "float64", [2]);
    let y = ops.pow(x, 4);
    for (let order = 0; order < 3; order++) y = gradients(sum(y), [x])[0] as Value;
    expect(await numbers([y], { x: f64(1, 2) }, [x])).toEqual([[24, 48]]);
  });
});

describe("what is not differentiated", () => {
  test("an independent value gets zeros from gradients and nothing from vjp", async () => {
    const [x, z] = [input("x", "float64", [2]), input("z", "float64", [2])];
    const loss = sum(ops.square(x));
    const [dz] = gradients(loss, [z]) as [Value];
    expect(await numbers([dz], { z: f64(1, 2) }, [z])).toEqual([[0, 0]]);
    expect(vjp([{ output: loss, gradient: ops.scalar(1, "float64") }], [z])).toEqual([undefined]);
  });

  test("nothing below the values asked for is visited", () => {
    const x = input("x", "float32", [2]);
    const frozen = op("QuantizeLinear", [x, ops.scalar(1)]);
    const w = input("w", "float32", [2]);
    const [dw] = gradients(sum(ops.mul(ops.cast(frozen, "float32"), w)), [w]) as [Value];
    expect(nodesOf(makeGraph("g", [x], [["dw", dw]])).map((node) => node.op)).toContain("QuantizeLinear");
  });

  test.each(["Floor", "Ceil", "Round", "Sign", "Hardmax"])("%s stops gradients", async (name) => {
    const x = input("x", "float64", [3]);
    const y = ops.cast(op(name, [ops.cast(x, "float32")]), "float64");
    const [dx] = gradients(sum(ops.mul(y, x)), [x]) as [Value];
    const [value, through] = await numbers([y, dx], { x: f64(0.3, -1.4, 2.6) }, [x]);
    expect(through).toEqual(value);
  });

  test("comparisons, ArgMax and Shape stop gradients", async () => {
    const x = input("x", "float64", [3]);
    const chosen = ops.gather(x, ops.argMax(x, 0), 0);
    const lengths = ops.cast(ops.shapeOf(x), "float64");
    const masked = ops.where(ops.greater(x, 1), x, 0);
    const [dx] = gradients(ops.add(ops.add(sum(chosen), sum(masked)), sum(lengths)), [x]) as [Value];
    expect(await numbers([dx], { x: f64(0.5, 2, 1.5) }, [x])).toEqual([[0, 2, 1]]);
  });

  test("a sequencing edge adds nothing to the gradient graph", () => {
    const [x, z] = [input("x", "float32", [2, 2]), input("z", "float32", [2, 2])];
    const [dx, dz] = gradients(sum(ops.mul(ops.after(x, ops.exp(z)), x)), [x, z]) as [Value, Value];
    const used = nodesOf(
      makeGraph(
        "g",
        [x, z],
        [
          ["dx", dx],
          ["dz", dz],
        ],
      ),
    ).map((node) => node.op);
    expect(used).not.toContain("Pad");
  });

  test("stopGradient, and customVjp for a derivative of one's own", async () => {
    const x = input("x", "float64", [2]);
    const stopped = gradients(sum(ops.mul(ops.stopGradient(x), x)), [x]);
    expect(await numbers(stopped, { x: f64(2, 3) }, [x])).toEqual([[2, 3]]);
    const rounded = ops.customVjp(op("Round", [x]), [x], [], (_, dy) => [dy]);
    const through = gradients(sum(ops.mul(rounded, rounded)), [x]);
    expect(await numbers(through, { x: f64(1.2, 2.9) }, [x])).toEqual([[2, 6]]);
  });

  test("rows that are masked as a whole, and cleaned by the graph, give zeros and not NaN", async () => {
    const x = input("x", "float64", [2, 2]);
    const mask = constant(tensor("float64", [2, 2], [0, 0, -Infinity, -Infinity]));
    const y = ops.softmax(ops.add(x, mask));
    const clean = ops.where(op("IsNaN", [ops.cast(y, "float32")]), 0, y);
    const direct = ops.where(op("IsNaN", [y]), 0, y);
    const [dx] = gradients(sum(ops.mul(direct, x)), [x]) as [Value];
    const [values, grads] = await numbers([clean, dx], { x: tensor("float64", [2, 2], [1, 1, 2, 3]) }, [x]);
    expect(values).toEqual([0.5, 0.5, 0, 0]);
    expect(grads).toEqual([0.5, 0.5, 0, 0]);
  });

  test("a saved value of customVjp is differentiated in the second order", async () => {
    const x = input("x", "float64", [2]);
    const cube = ops.customVjp(ops.stopGradient(ops.pow(x, 3)), [x], [x], ({ saved }, dy) => [
      ops.mul(dy, ops.mul(ops.square(saved[0] as Value), 3)),
    ]);
    const [first] = gradients(sum(cube), [x]) as [Value];
    const second = gradients(sum(first), [x]);
    expect(await numbers([first, ...second], { x: f64(1, 2) }, [x])).toEqual([
      [3, 12],
      [6, 12],
    ]);
  });
});

describe("errors", () => {
  const blocked = (build: (x: Value) => Value) => {
    const x = input("x", "float32", [2, 2]);
    try {
      gradients(sum(build(x)), [x]);
    } catch (error) {
      if (error instanceof TunesmithError) return error;
      throw error;
    }
    throw new Error("expected an error");
  };

  test("an operator without a rule is named, with its node and module path", () => {
    const error = blocked((x) =>
      scope("model.layers.3", () =>
        scope(
          "mixer",
          () => makeNode("Bernoulli", [x], {}, { name: "/mixer/Bernoulli" }).outputs[0] as Value,
        ),
      ),
    );
    expect(error.code).toBe("op-not-differentiable");
    expect(error.message).toContain("Bernoulli '/mixer/Bernoulli' in model.layers.3.mixer");
    expect(error.fix).toContain("stopGradient");
    expect(error.details).toEqual({
      op: "Bernoulli",
      node: "/mixer/Bernoulli",
      scope: "model.layers.3.mixer",
    });
  });

  test("integers made of floats in a way without a known meaning are not a silent zero", () => {
    const error = blocked((x) => {
      const boxes = ops.reshape(ops.concat([x, x], 0), [1, 2, 4]);
      const scores = ops.full([1, 1, 2], 1, "float32");
      return ops.cast(op("NonMaxSuppression", [boxes, scores]), "float32");
    });
    expect(error.code).toBe("op-not-differentiable");
    expect(error.message).toContain("NonMaxSuppression");
  });

  test("the loss must be a scalar", () => {
    const x = input("x", "float32", [2]);
    expect(() => gradients(ops.square(x), [x])).toThrow(/expected a scalar/);
  });

  test("new nodes carry the module path of the node they differentiate", () => {
    const x = input("x", "float32", [2, 2]);
    const y = scope("layers.1.mlp", () => ops.matmul(x, x));
    const [dx] = gradients(sum(y), [x]) as [Value];
    const paths = nodesOf(makeGraph("g", [x], [["dx", dx]])).map((node) => node.scope);
    expect(paths).toContain("layers.1.mlp");
  });
});
