import { intAttr } from "../infer/types.js";
import { numbersOf } from "../ints.js";
import * as ops from "../ops/index.js";
import type { Dim, Value } from "../types.js";
import { floats, staticLengths, unsupported } from "./helpers.js";
import type { Decomposition, DecompositionTable } from "./types.js";

/** cos and sin of 2πkn/N as `[N, bins]`. */
function waves(length: number, bins: number, like: Value): readonly [Value, Value] {
  const table = (wave: (angle: number) => number) =>
    Array.from({ length: length * bins }, (_, at) => {
      const [n, k] = [Math.floor(at / bins), at % bins];
      // The angle is reduced first: products of large indices would lose precision.
      return wave((2 * Math.PI * ((n * k) % length)) / length);
    });
  return [
    floats([length, bins], table(Math.cos), like.dtype),
    floats([length, bins], table(Math.sin), like.dtype),
  ];
}

interface Transform {
  readonly inverse: boolean;
  readonly onesided: boolean;
}

/** Fourier transform of the last axis of `real` (and `imaginary`): `[..., bins, 2]`. */
function transformed(real: Value, imaginary: Value | undefined, length: number, how: Transform): Value {
  const bins = how.onesided ? Math.floor(length / 2) + 1 : length;
  const [cos, sin] = waves(length, bins, real);
  const turn = how.inverse ? ops.neg(sin) : sin;
  let re = ops.matmul(real, cos);
  let im = ops.neg(ops.matmul(real, turn));
  if (imaginary) {
    re = ops.add(re, ops.matmul(imaginary, turn));
    im = ops.add(im, ops.matmul(imaginary, cos));
  }
  const both = ops.concat([ops.unsqueeze(re, -1), ops.unsqueeze(im, -1)], -1);
  return how.inverse ? ops.div(both, length) : both;
}

/** Real and imaginary part of `[..., 1 or 2]`. */
const partsOf = (x: Value): readonly [Value, Value | undefined] => {
  const part = (at: number) => ops.squeeze(ops.slice(x, -1, at, at + 1), -1);
  return [part(0), x.shape.at(-1) === 2 ? part(1) : undefined];
};

const dft: Decomposition = (inputs, node) => {
  const [x, lengthInput, axisInput] = inputs as [Value, Value | undefined, Value | undefined];
  const rank = x.shape.length;
  const raw = axisInput ? numbersOf(axisInput)?.[0] : -2;
  if (raw === undefined) throw unsupported(node, "axis", "known at run time only");
  const axis = raw < 0 ? raw + rank : raw;
  const [own] = staticLengths(node, [x.shape[axis] as Dim], "the transformed axis") as [number];
  const length = lengthInput ? numbersOf(lengthInput)?.[0] : own;
  if (length === undefined) throw unsupported(node, "dft_length", "known at run time only");
  const how = {
    inverse: intAttr(node.attrs, "inverse", 0) !== 0,
    onesided: intAttr(node.attrs, "onesided", 0) !== 0,
  };
  if (how.inverse && how.onesided) throw unsupported(node, "onesided", "1 with inverse=1");
  const none = x.shape.map(() => 0);
  const fitted =
    length === own
      ? x
      : ops.pad(
          x,
          none,
          none.map((_, at) => (at === axis ? length - own : 0)),
        );
  // The transformed axis goes last, and comes back in front of the parts.
  const others = [...Array(rank - 1).keys()].filter((at) => at !== axis);
  const [re, im] = partsOf(fitted).map((part) => part && ops.transpose(part, [...others, axis])) as [
    Value,
    Value | undefined,
  ];
  const y = transformed(re, im, length, how);
  const back = [...Array(rank - 1).keys()].map((at) => [...others, axis].indexOf(at));
  return [ops.transpose(y, [...back, rank - 1])];
};

/** Overlapping frames, weighted by the window, each transformed. */
const stft: Decomposition = (inputs, node) => {
  const [signal, stepInput, window, lengthInput] = inputs as [
    Value,
    Value,
    Value | undefined,
    Value | undefined,
  ];
  const step = numbersOf(stepInput)?.[0];
  const length = lengthInput ? numbersOf(lengthInput)?.[0] : window?.shape[0];
  if (step === undefined || typeof length !== "number")
    throw unsupported(node, "frames", "known at run time only");
  const [samples] = staticLengths(node, [signal.shape[1] as Dim], "the signal") as [number];
  const count = Math.floor((samples - length) / step) + 1;
  const places = Array.from(
    { length: count * length },
    (_, at) => Math.floor(at / length) * step + (at % length),
  );
  const framed = (x: Value) => {
    const frames = ops.reshape(ops.gather(x, ops.ints(places), 1), [x.shape[0] as Dim, count, length], [x]);
    return window ? ops.mul(frames, window) : frames;
  };
  const [re, im] = signal.shape.length === 3 ? partsOf(signal) : [signal, undefined];
  const onesided = intAttr(node.attrs, "onesided", 1) !== 0;
  return [transformed(framed(re), im && framed(im), length, { inverse: false, onesided })];
};

export const signals: DecompositionTable = { DFT: dft, STFT: stft };
