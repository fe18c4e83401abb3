import { TunesmithError } from "../../errors/index.js";
import { dequantizeByMap, dynamicMap, quantizeByMap } from "../../tensor/index.js";
import { wrapped } from "./finished.js";
import { requireNumber } from "./groups.js";
import type { Optimizer, OptimizerState, Params } from "./types.js";

/** Slots without negative values: all codes go to positive numbers. */
const UNSIGNED = new Set(["nu", "nuMax"]);

/**
 * Keeps an optimiser's state in 8 bits: bitsandbytes' dynamic data type, one scale per block (arXiv 2110.02861). Updates
 * are computed in float32, one parameter after the other, so that only one is unpacked at a time.
 *
 * @param options.blockSize Values per scale. Default 256.
 * @param options.minSize Parameters with fewer values stay in float32. Default 4096.
 * @throws `config-invalid` from `init` for an optimiser whose update of one parameter depends on others, or that keeps
 *   other things than one number per weight: use adamw, adam, sgd, lion, rmsprop, adagrad or lamb, and `clipped` outside.
 *
 * @example
 * ```ts
 * import { adamw, quantizedState } from "tunesmith/training";
 * const optimizer = quantizedState(adamw({ lr: 1e-3 }));
 * const params = new Map([["w", new Float32Array(8192)]]);
 * console.log(optimizer.init(params).bytes?.["0/mu"]?.get("w")?.length); // 8192
 * ```
 */
export function quantizedState(
  inner: Optimizer,
  { blockSize = 256, minSize = 4096 }: { blockSize?: number | undefined; minSize?: number | undefined } = {},
): Optimizer {
  requireNumber("quantizedState: blockSize", blockSize, 1);
  requireNumber("quantizedState: minSize", minSize, 0);
  const maps = { signed: dynamicMap(true), unsigned: dynamicMap(false) };
  const mapOf = (slot: string) => (UNSIGNED.has(slot.split("/").at(-1) ?? "") ? maps.unsigned : maps.signed);
  return wrapped(inner, "8-bit", {
    init(initInner, params, shapes) {
      const small = new Map([...params].filter(([, data]) => data.length < minSize));
      const scales: Record<string, Map<string, Float32Array>> = {};
      const codes: Record<string, Map<string, Uint8Array>> = {};
      for (const [name, data] of params) {
        if (small.has(name)) continue;
        for (const [slot, values] of slotsOf(
          inner,
          inner.transform.init(new Map([[name, data]]), shapes),
          name,
        )) {
          const own = {
            codes: new Uint8Array(data.length),
            scales: new Float32Array(Math.ceil(data.length / blockSize)),
          };
          quantizeByMap(values, mapOf(slot), blockSize, own.codes, own.scales);
          codes[slot] = (codes[slot] ?? new Map()).set(name, own.codes);
          scales[slot] = (scales[slot] ?? new Map()).set(name, own.scales);
        }
      }
      // Empty arrays under all names: groups are checked against these, not against one name at a time.
      initInner(new Map([...params.keys()].map((name) => [name, new Float32Array(0)])));
      return { slots: scales, bytes: codes, scalars: {}, inner: [inner.transform.init(small, shapes)] };
    },
    step(params, grads, state, context) {
      const whole = state.inner[0] as OptimizerState;
      const packed = (name: string) => Object.values(state.bytes ?? {}).some((slot) => slot.has(name));
      const small = new Map([...grads].filter(([name]) => !packed(name)));
      inner.step(params, small, whole, context);
      for (const [name, grad] of grads) {
        if (small.has(name)) continue;
        const own = new Map([[name, params.get(name) ?? new Float32Array(0)]]);
        const unpacked = inner.transform.init(own);
        const slots = slotsOf(inner, unpacked, name);
        eachPacked(state, name, (slot, codes, scales) => {
          dequantizeByMap(codes, mapOf(slot), blockSize, scales, slots.get(slot) as Float32Array);
        });
        inner.step(own, new Map([[name, grad]]), unpacked, context);
        eachPacked(state, name, (slot, codes, scales) => {
          quantizeByMap(slots.get(slot) as Float32Array, mapOf(slot), blockSize, codes, scales);
        });
      }
    },
  });
}

function eachPacked(
  state: OptimizerState,
  name: string,
  visit: (slot: string, codes: Uint8Array, scales: Float32Array) => void,
): void {
  for (const [slot, arrays] of Object.entries(state.bytes ?? {})) {
    const [codes, scales] = [arrays.get(name), state.slots[slot]?.get(name)];
    if (codes && scales) visit(slot, codes, scales);
  }
}

/** The state's arrays of one parameter by `part/slot`, all as long as it. */
function slotsOf(
  inner: Optimizer,
  state: OptimizerState,
  name: string,
  prefix = "",
): Map<string, Float32Array> {
  const found = new Map<string, Float32Array>();
  const unfit = Object.keys(state.scalars).length > 0 || state.bytes !== undefined;
  for (const [slot, values] of Object.entries(state.slots) as [string, Params][]) {
    const data = values.get(name);
    if (data) found.set(`${prefix}${slot}`, data);
  }
  if (unfit || ["shape", "x0", "z"].some((slot) => state.slots[slot])) {
    throw new TunesmithError("config-invalid", `the state of ${inner.name} cannot be kept in 8 bits`, {
      fix: "use adamw, adam, sgd, lion, rmsprop, adagrad or lamb; put clipping outside, with clipped()",
    });
  }
  state.inner.forEach((part, at) => {
    for (const [slot, data] of slotsOf(inner, part, name, `${prefix}${at}/`)) found.set(slot, data);
  });
  return found;
}
