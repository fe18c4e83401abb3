import { type Node, normalAxis, op, ops, type Shape, type Value } from "../../graph/index.js";
import { intAttr } from "../../graph/infer/types.js";
import type { Dtype } from "../../tensor/index.js";
import type { VjpContext, VjpRule, VjpTable } from "../types.js";
import { unbroadcast } from "../unbroadcast.js";
import { linear } from "./linear.js";
import { windows } from "./window.js";

/** Largest and smallest code of the types that values are quantised to. */
const LIMITS: Partial<Record<Dtype, readonly [number, number]>> = {
  uint8: [0, 255],
  int8: [-128, 127],
  uint16: [0, 65535],
  int16: [-32768, 32767],
  uint4: [0, 15],
  int4: [-8, 7],
};

/** A scale or zero point against `x`: one number, one per place of `axis`, or one per block of it. */
function spread(parameter: Value, x: Value, node: Node): Value {
  if (parameter.shape.every((dim) => dim === 1)) return ops.reshape(parameter, []);
  const rank = x.shape.length;
  const axis = normalAxis(intAttr(node.attrs, "axis", 1), rank, "axis");
  if (parameter.shape.length === 1 && rank !== 1) {
    return ops.reshape(parameter, [-1, ...Array<number>(rank - 1 - axis).fill(1)]);
  }
  const block = intAttr(node.attrs, "block_size", 0);
  if (block === 0) return parameter;
  const at = (from: number, to?: number) => parameter.shape.slice(from, to);
  const wide = ops.expand(
    ops.unsqueeze(parameter, axis + 1),
    [...at(0, axis + 1), block, ...at(axis + 1)],
    [parameter],
  );
  const length = Number(parameter.shape[axis]) * block;
  const full = ops.reshape(wide, [...at(0, axis), length, ...at(axis + 1)], [parameter]);
  return length === x.shape[axis] ? full : ops.slice(full, axis, 0, Number(x.shape[axis]));
}

/** Sums a gradient over everything that shares one scale. */
function gathered(gradient: Value, scale: Value, node: Node): Value {
  const rank = gradient.shape.length;
  if (scale.shape.every((dim) => dim === 1))
    return ops.reshape(ops.reduceSum(gradient, undefined, false), scale.shape);
  const axis = normalAxis(intAttr(node.attrs, "axis", 1), rank, "axis");
  const block = intAttr(node.attrs, "block_size", 0);
  if (block === 0) {
    const others = gradient.shape.flatMap((_, at) => (at === axis ? [] : [at]));
    return others.length > 0 ? ops.reduceSum(gradient, others, false) : gradient;
  }
  const [length, blocks] = [Number(gradient.shape[axis]), Number(scale.shape[axis])];
  const none = gradient.shape.map(() => 0);
  const missing = none.map((_, at) => (at === axis ? blocks * block - length : 0));
  const full = length === blocks * block ? gradient : ops.pad(gradient, none, missing);
  const shape: Shape = [...full.shape.slice(0, axis), blocks, block, ...full.shape.slice(axis + 1)];
  return ops.reduceSum(ops.reshape(full, shape, [full]), [axis + 1], false);
}

const single = (x: Value): Value => ops.cast(x, "float32");

/**
 * The gradient of codes is counted per unit of the code, in single precision, as if nothing were rounded: straight
 * through where the code is not at a limit. Together with DequantizeLinear's rule this is the estimate of LSQ
 * (arXiv:1902.08153) for the scale.
 */
const quantize: VjpRule = ({ dy, inputs, outputs, needs, node }) => {
  const [x, scale, zero] = inputs as [Value, Value, Value | undefined];
  const limits = LIMITS[outputs[0]?.dtype ?? "uint8"];
  const [data, step] = [single(x), spread(single(scale), x, node)];
  const steps = ops.div(data, step);
  const place = zero ? ops.add(steps, spread(single(zero), x, node)) : steps;
  const inside = limits
    ? ops.and(ops.greaterOrEqual(place, limits[0] - 0.5), ops.lessOrEqual(place, limits[1] + 0.5))
    : undefined;
  const through = inside ? ops.where(inside, dy, 0) : dy;
  const perStep = ops.div(through, step);
  return [
    needs(0) ? ops.cast(perStep, x.dtype) : undefined,
    needs(1) ? ops.cast(gathered(ops.neg(ops.mul(perStep, steps)), scale, node), scale.dtype) : undefined,
  ];
};

const dequantize: VjpRule = ({ dy, inputs, needs, node }) => {
  const [codes, scale, zero] = inputs as [Value, Value, Value | undefined];
  const d = single(dy);
  const centred = () => {
    const values = single(codes);
    return zero ? ops.sub(values, spread(single(zero), codes, node)) : values;
  };
  return [
    needs(0) ? ops.mul(d, spread(single(scale), codes, node)) : undefined,
    needs(1) ? ops.cast(gathered(ops.mul(d, centred()), scale, node), scale.dtype) : undefined,
  ];
};

/** The scale follows the data; like the rounding it is taken as given. */
const dynamicQuantize: VjpRule = ({ dys, outputs }) => {
  const [toCodes] = dys;
  return [toCodes && ops.div(toCodes, outputs[1] as Value)];
};

/**
 * Quantised weights as floats, in the form of DequantizeLinear and made when `d` arrives: ONNX Runtime would otherwise make
 * those of all layers first, or fold them into the model, and hold all of them.
 */
export function lateWeights(
  codes: Value,
  scale: Value | undefined,
  zero: Value | undefined,
  axis: number,
  d: Value,
): Value {
  const one = ops.after(scale ?? ops.scalar(1), d);
  const step = zero && one.shape.length < zero.shape.length ? ops.expand(one, zero.shape) : one;
  const point = zero && zero.shape.length < step.shape.length ? ops.expand(zero, step.shape) : zero;
  return op("DequantizeLinear", [codes, step, point], { axis: { i: axis } });
}

/** A row's, or the whole matrix's, parameter as a column. */
const column = (parameter: Value): Value =>
  parameter.shape.length === 1 && parameter.shape[0] !== 1
    ? ops.unsqueeze(parameter, -1)
    : ops.reshape(parameter, []);

const centred = (codes: Value, zero: Value | undefined): Value =>
  zero ? ops.sub(single(codes), column(single(zero))) : single(codes);

/** The float product that an integer product stands for, differentiated by `rule`. */
const integerProduct =
  (rule: VjpRule, axisOf: (weights: Value) => number): VjpRule =>
  (context) => {
    const [a, b, zeroA, zeroB] = context.inputs as [Value, Value, ...(Value | undefined)[]];
    const operands = [centred(a, zeroA), lateWeights(b, undefined, zeroB, axisOf(b), context.dy)];
    return rule({ ...context, inputs: operands }).slice(0, 2);
  };

/** d·Wᵀ with the weights `[in, out]` of an operator that quantises its data itself. */
const dynamicProduct: VjpRule = (context) => {
  const [, weights, scale, zero, bias] = context.inputs as [Value, Value, Value, ...(Value | undefined)[]];
  return productGradients(context, weights, scale, zero, bias, 4);
};

/** As above, of codes: the gradient is per unit of the code. */
const productToFloat: VjpRule = (context) => {
  const [, weights, scaleA, scaleB, , zero, bias] = context.inputs as [
    Value,
    Value,
    Value,
    Value,
    ...(Value | undefined)[],
  ];
  const [dx, ...rest] = productGradients(context, weights, scaleB, zero, bias, 6);
  return [dx && ops.mul(dx, column(single(scaleA))), ...rest];
};

function productGradients(
  { dy, inputs, needs }: VjpContext,
  weights: Value,
  scale: Value,
  zero: Value | undefined,
  bias: Value | undefined,
  biasAt: number,
): (Value | undefined)[] {
  const full = () => lateWeights(weights, scale, zero, weights.shape.length - 1, dy);
  const dx = needs(0)
    ? unbroadcast(ops.matmul(dy, ops.transposeLast(full())), inputs[0]?.shape ?? [])
    : undefined;
  const gradients: (Value | undefined)[] = [dx];
  if (bias && needs(biasAt)) gradients[biasAt] = unbroadcast(dy, bias.shape, bias);
  return gradients;
}

export const integers: VjpTable = {
  QuantizeLinear: quantize,
  DequantizeLinear: dequantize,
  "com.microsoft.QuantizeLinear": quantize,
  "com.microsoft.DequantizeLinear": dequantize,
  DynamicQuantizeLinear: dynamicQuantize,
  MatMulInteger: integerProduct(linear.MatMul as VjpRule, (b) => b.shape.length - 1),
  ConvInteger: integerProduct(windows.Conv as VjpRule, () => 0),
  "com.microsoft.DynamicQuantizeMatMul": dynamicProduct,
  "com.microsoft.MatMulIntegerToFloat": productToFloat,
};
