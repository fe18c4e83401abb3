import { dequantised } from "../graph/decompose/quantized.js";
import { makeNode, type Node, type Value, withScope } from "../graph/index.js";
import { operatorOf } from "./operands.js";
import type { Site } from "./sites.js";
import { storedOf } from "./stored.js";

type Found = Omit<Site, "isHead" | "path">;

const BLOCKED = new Set([
  "com.microsoft.MatMulNBits",
  "com.microsoft.MatMulBnb4",
  "tunesmith.MatMulNormalFloat",
]);

/**
 * A product with a weight that only integer operators read: MatMulNBits, MatMulBnb4 and MatMulNormalFloat, and what dynamic quantisation
 * makes of a product or a convolution (DynamicQuantizeLinear, MatMulInteger or ConvInteger, Cast, Mul by both scales).
 */
export function quantisedMap(node: Node): Found | undefined {
  if (BLOCKED.has(operatorOf(node))) return blocked(node);
  return node.op === "Mul" && node.domain === "" ? dynamic(node) : undefined;
}

function blocked(node: Node): Found | undefined {
  const [x, codes, scales] = node.inputs;
  // An order of the rows (g_idx) or a weight that is not turned has no float form here.
  const readable = operatorOf(node) === "com.microsoft.MatMulNBits" ? !node.inputs[4] : isTurned(node);
  if (!x || !scales || codes?.source.kind !== "constant" || codes.name === undefined || !readable)
    return undefined;
  const weight = withScope(node.scope, () => dequantised(node.inputs, scales, node));
  const [rows, columns] = weight.shape as [number, number];
  return {
    node,
    kind: "linear",
    input: x,
    weight,
    weightName: codes.name,
    stored: { form: "float-product", node, codes },
    bias: node.inputs[5],
    orientation: "out-in",
    inFeatures: columns,
    outFeatures: rows,
    attrs: {},
  };
}

const isTurned = ({ attrs: { transB } }: Node): boolean =>
  !transB || !("i" in transB) || Number(transB.i) !== 0;

const nodeBehind = (value: Value | undefined): Node | undefined =>
  value?.source.kind === "node" ? value.source.node : undefined;

/** Cast(product of codes) · (scale of x · scale of W), the factors in either order. */
function dynamic(node: Node): Found | undefined {
  for (const [first, second] of [node.inputs, node.inputs.toReversed()]) {
    const cast = nodeBehind(first);
    const product = cast?.op === "Cast" ? nodeBehind(cast.inputs[0]) : undefined;
    const scales = nodeBehind(second);
    if (!product || scales?.op !== "Mul" || !/^(MatMul|Conv)Integer$/.test(product.op)) continue;
    const quantise = nodeBehind(product.inputs[0]);
    if (quantise?.op !== "DynamicQuantizeLinear") continue;
    const scale = scales.inputs.find((value) => value && value !== quantise.outputs[1]);
    if (scale && scales.inputs.includes(quantise.outputs[1]))
      return dynamicSite(node, product, quantise, scale);
  }
  return undefined;
}

function dynamicSite(node: Node, product: Node, quantise: Node, scale: Value): Found | undefined {
  const [, codes, , zero] = product.inputs;
  const x = quantise.inputs[0];
  const stored = codes && storedOf(codes);
  if (!x || !codes || stored?.name === undefined || !storedOf(scale)) return undefined;
  const isConv = product.op === "ConvInteger";
  const shape = codes.shape as readonly number[];
  if (!isConv && shape.length !== 2) return undefined;
  const perChannel = scale.shape.length === 1 && scale.shape[0] !== 1;
  const one = perChannel ? scale : scalar(scale);
  const point = zero && (perChannel ? zero : scalar(zero));
  const axis = isConv ? 0 : 1;
  const dequantise = withScope(node.scope, () =>
    makeNode("DequantizeLinear", [codes, one, point], perChannel ? { axis: { i: axis } } : {}),
  );
  const [first = 1, ...rest] = shape;
  const size = rest.reduce((a, b) => a * b, 1);
  const group = product.attrs.group;
  return {
    node,
    kind: isConv ? "conv" : "linear",
    input: x,
    weight: dequantise.outputs[0] as Value,
    weightName: stored.name,
    stored: { form: "integer-product", node: product, codes },
    bias: undefined,
    orientation: isConv ? "out-in" : "in-out",
    inFeatures: isConv ? size : first,
    outFeatures: isConv ? first : size,
    ...(isConv
      ? { conv: { kernel: rest.slice(1), groups: group && "i" in group ? Number(group.i) : 1 } }
      : {}),
    attrs: product.attrs,
  };
}

/** A tensor of one number without axes. */
const scalar = (value: Value): Value =>
  value.shape.length === 0 ? value : (makeNode("Squeeze", [value]).outputs[0] as Value);
