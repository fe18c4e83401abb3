import { dtypeFromOnnx } from "../../tensor/index.js";
import { makeNode, op } from "../create.js";
import { nearest } from "../decompose/resize.js";
import { dimDiv, dimMul } from "../dims.js";
import { resizeScales } from "../infer/vision.js";
import { numbersOf } from "../ints.js";
import * as ops from "../ops/index.js";
import type { Dim, Value } from "../types.js";
import { floatOf, intOf, type OpCall, operand, type Rule, unsupported, without } from "./upgrade-call.js";

/**
 * Five outputs meant training, which the mode says since opset 14; what was saved for the backward pass is computed.
 * With `spatial=0` (before opset 9) every position has statistics of its own.
 */
export const batchNormalization: Rule = (call) => {
  const attrs = without(call.attrs, "spatial", "is_test", "consumed_inputs");
  const [x, scale, bias, mean, variance] = [0, 1, 2, 3, 4].map((at) => operand(call, at)) as [
    Value,
    Value,
    Value,
    Value,
    Value,
  ];
  if (intOf(call.attrs.spatial, 1) === 0) {
    const deviation = ops.sqrt(ops.add(variance, floatOf(call.attrs.epsilon, 1e-5)));
    return [ops.add(ops.mul(ops.div(ops.sub(x, mean), deviation), scale), bias)];
  }
  if (call.outputs < 2) return { ...call, attrs, outputs: 1 };
  const node = makeNode(
    "BatchNormalization",
    [x, scale, bias, mean, variance],
    { ...attrs, training_mode: { i: 1 } },
    { outputs: 3 },
  );
  const axes = x.shape.map((_, axis) => axis).filter((axis) => axis !== 1);
  const centre = ops.reduceMean(x, axes);
  const spread = ops.reduceMean(ops.square(ops.sub(x, centre)), axes, false);
  return [...node.outputs, ops.reshape(centre, mean.shape, [mean]), spread];
};

/** Empty `roi`, `scales` and `sizes` mean absent. */
export const resizeInputs: Rule = (call) => {
  const [x, ...rest] = call.inputs;
  const present = rest.map((value) =>
    value?.source.kind === "constant" && value.shape[0] === 0 ? undefined : value,
  );
  const mode = call.attrs.coordinate_transformation_mode;
  const result = { ...call, inputs: [x, ...present] };
  return mode && "s" in mode && mode.s === "tf_half_pixel_for_nn" ? [halfPixelRows(result)] : result;
};

/** The coordinates `tf_half_pixel_for_nn` of opset 11 and 12, (i + 1/2) / scale: rows of every axis by number. */
function halfPixelRows(call: OpCall): Value {
  const x = operand(call, 0);
  const scales = resizeScales(call);
  const sizes = numbersOf(call.inputs[3]);
  const { nearest_mode: rounding } = call.attrs;
  const mode = rounding && "s" in rounding ? rounding.s : "round_prefer_floor";
  return x.shape.reduce<Value>((value, length, axis) => {
    const scale = scales?.[axis] ?? Number(sizes?.[axis]) / Number(length);
    if (scale === 1) return value;
    if (typeof length !== "number" || !Number.isFinite(scale))
      throw unsupported(call, "tf_half_pixel_for_nn with lengths that are only known at run time");
    const count = sizes?.[axis] ?? Math.floor(length * scale);
    const rows = Array.from({ length: count }, (_, at) =>
      Math.min(length - 1, Math.max(0, nearest(mode, Math.fround(Math.fround(at + 0.5) / scale)))),
    );
    return ops.gather(value, ops.ints(rows), axis);
  }, x);
}

/** The order of channels that opset 28 added, in operators that opset 21 has. */
export const spaceToDepth: Rule = (call) => {
  const { mode } = call.attrs;
  if (!mode || !("s" in mode) || mode.s !== "CRD") return { ...call, attrs: without(call.attrs, "mode") };
  const x = operand(call, 0);
  const block = intOf(call.attrs.blocksize, 1);
  const [n, c, h, w] = x.shape as [Dim, Dim, Dim, Dim];
  const [rows, columns] = [dimDiv(h, block), dimDiv(w, block)];
  const cut = ops.transpose(ops.reshape(x, [n, c, rows, block, columns, block]), [0, 1, 3, 5, 2, 4]);
  return [ops.reshape(cut, [n, dimMul(c, block * block), rows, columns], [x])];
};

/** Since opset 23 the result may have another type than the scale. */
export const dequantizedType: Rule = (call) => {
  const code = intOf(call.attrs.output_dtype, 0);
  const attrs = without(call.attrs, "output_dtype");
  if (code === 0 || dtypeFromOnnx(code) === call.inputs[1]?.dtype) return { ...call, attrs };
  return [ops.cast(op("DequantizeLinear", call.inputs, attrs), dtypeFromOnnx(code))];
};
