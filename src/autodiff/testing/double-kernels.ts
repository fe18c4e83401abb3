import {
  decompose,
  type Graph,
  type Node,
  nodesOf,
  op,
  ops,
  rewrite,
  type Value,
} from "../../graph/index.js";
import { floatAttr, intAttr, stringAttr } from "../../graph/infer/types.js";

type Definition = (x: Value, node: Node, inputs: readonly (Value | undefined)[]) => Value;

const negative = (below: Definition, above: Definition = (x) => x): Definition => {
  return (x, node, inputs) => ops.where(ops.greater(x, 0), above(x, node, inputs), below(x, node, inputs));
};
const alpha = (node: Node, fallback: number) => floatAttr(node.attrs, "alpha", fallback);
const expMinusOne = (x: Value) => ops.sub(ops.exp(x), 1);
const half = (x: Value) => ops.mul(x, 0.5);
const softplus: Definition = (x) => ops.log(ops.add(ops.exp(x), 1));
const hardSigmoid = (x: Value, a: number, b: number) => ops.clip(ops.add(ops.mul(x, a), b), 0, 1);
const SELU_ALPHA = 1.6732631921768188;
const SELU_GAMMA = 1.0507010221481323;

/** erf(x) = 2/√π Σ (-1)ⁿ x²ⁿ⁺¹ / (n!(2n+1)), to double precision for |x| < 3. */
function erf(x: Value): Value {
  const x2 = ops.square(x);
  let factorial = 1;
  const coefficients = Array.from({ length: 60 }, (_, n) => {
    if (n > 0) factorial *= n;
    return ((n % 2 === 0 ? 1 : -1) * 2) / (Math.sqrt(Math.PI) * factorial * (2 * n + 1));
  });
  const sum = coefficients.reduceRight<Value>(
    (acc, c) => ops.add(ops.mul(acc, x2), c),
    ops.scalar(0, x.dtype),
  );
  return ops.mul(sum, x);
}

/** Definitions, from ONNX's operator documents, of what ONNX Runtime's CPU side implements in single precision only. */
const definitions: Readonly<Record<string, Definition>> = {
  Erf: erf,
  Softplus: softplus,
  Sinh: (x) => half(ops.sub(ops.exp(x), ops.exp(ops.neg(x)))),
  Cosh: (x) => half(ops.add(ops.exp(x), ops.exp(ops.neg(x)))),
  Asinh: (x) => ops.log(ops.add(x, ops.sqrt(ops.add(ops.square(x), 1)))),
  Acosh: (x) => ops.log(ops.add(x, ops.sqrt(ops.sub(ops.square(x), 1)))),
  Atanh: (x) => half(ops.log(ops.div(ops.add(x, 1), ops.sub(1, x)))),
  Tan: (x) => ops.div(ops.sin(x), ops.cos(x)),
  LeakyRelu: negative((x, node) => ops.mul(x, alpha(node, 0.01))),
  Elu: negative((x, node) => ops.mul(expMinusOne(x), alpha(node, 1))),
  Celu: negative((x, node) => ops.mul(expMinusOne(ops.div(x, alpha(node, 1))), alpha(node, 1))),
  Selu: negative(
    (x, node) =>
      ops.mul(expMinusOne(x), alpha(node, SELU_ALPHA) * floatAttr(node.attrs, "gamma", SELU_GAMMA)),
    (x, node) => ops.mul(x, floatAttr(node.attrs, "gamma", SELU_GAMMA)),
  ),
  ThresholdedRelu: (x, node) => ops.where(ops.greater(x, alpha(node, 1)), x, 0),
  HardSigmoid: (x, node) => hardSigmoid(x, alpha(node, 0.2), floatAttr(node.attrs, "beta", 0.5)),
  HardSwish: (x) => ops.mul(x, hardSigmoid(x, 1 / 6, 0.5)),
  Shrink: (x, node) => {
    const [limit, bias] = [floatAttr(node.attrs, "lambd", 0.5), floatAttr(node.attrs, "bias", 0)];
    const below = ops.where(ops.less(x, -limit), ops.add(x, bias), 0);
    return ops.where(ops.greater(x, limit), ops.sub(x, bias), below);
  },
  Mish: (x, node, inputs) => ops.mul(x, ops.tanh(softplus(x, node, inputs))),
  Softsign: (x) => ops.div(x, ops.add(ops.abs(x), 1)),
  PRelu: (x, _, inputs) => ops.where(ops.less(x, 0), ops.mul(x, inputs[1] as Value), x),
  Gelu: (x, node) => {
    const tanh = stringAttr(node.attrs, "approximate", "none") === "tanh";
    const inner = ops.mul(ops.add(x, ops.mul(ops.pow(x, 3), 0.044715)), Math.sqrt(2 / Math.PI));
    const cdf = tanh ? ops.tanh(inner) : erf(ops.mul(x, Math.SQRT1_2));
    return ops.mul(half(x), ops.add(cdf, 1));
  },
  Mean: (_, node, inputs) => ops.div(op("Sum", inputs), node.inputs.length),
  RMSNormalization: (x, node, inputs) => {
    const { length } = x.shape;
    const from = (intAttr(node.attrs, "axis", -1) + length) % length;
    const axes = Array.from({ length: length - from }, (_, at) => from + at);
    const variance = ops.add(ops.reduceMean(ops.square(x), axes), floatAttr(node.attrs, "epsilon", 1e-5));
    return ops.mul(ops.div(x, ops.sqrt(variance)), inputs[1] as Value);
  },
  LogSoftmax: (x, node) => ops.log(op("Softmax", [x], node.attrs)),
};

const keyOf = (node: Node) => (node.domain ? `${node.domain}.${node.op}` : node.op);

/**
 * The graph in operators that have double kernels: the listed operators of any dtype by the library's decompositions,
 * double nodes by the definitions above.
 */
export function inDouble(graph: Graph, decomposed: readonly string[]): Graph {
  const wants = (node: Node) => node.inputs[0]?.dtype === "float64" && !node.domain && node.op in definitions;
  let result = decompose(graph, (node) => decomposed.includes(keyOf(node)));
  while (nodesOf(result).some(wants)) {
    result = rewrite(result, {
      visit: (node, inputs) => {
        const definition = wants(node) ? definitions[node.op] : undefined;
        return definition && [definition(inputs[0] as Value, node, inputs)];
      },
    });
  }
  return result;
}
