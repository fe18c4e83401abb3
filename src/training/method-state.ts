import type { Model, TrainingHooks } from "../models/index.js";
import type { Tensor } from "../tensor/index.js";
import type { PlainData } from "./exact-json.js";

/** What a method keeps besides the parameters that are trained. */
export interface MethodState {
  readonly hooks: PlainData | undefined;
  /** Tensors that are not trained but were changed: chosen places, masks, drawn matrices. */
  readonly tensors: ReadonlyMap<string, Tensor>;
}

export interface MethodKeeper {
  /** A copy of the state as it is; undefined for methods that do nothing between steps. */
  capture(): MethodState | undefined;
  restore(state: MethodState): void;
}

/** Keeps what a method's hooks change, so that checkpoints and the best weights are whole. */
export function methodKeeper({ parameters }: Model, hooks: TrainingHooks): MethodKeeper {
  if (Object.keys(hooks).length === 0) return { capture: () => undefined, restore: () => undefined };
  const fixed = [...parameters.values()].filter(({ trainable }) => !trainable);
  const start = new Map(fixed.map(({ name, tensor }) => [name, copyOf(tensor)]));
  return {
    capture() {
      const changed = fixed.filter(({ name, tensor }) => !sameData(tensor, start.get(name)));
      return {
        hooks: structuredClone(hooks.state?.()) as PlainData | undefined,
        tensors: new Map(changed.map(({ name, tensor }) => [name, copyOf(tensor)])),
      };
    },
    restore(state) {
      for (const { name, tensor } of fixed) copyInto(tensor, state.tensors.get(name) ?? start.get(name));
      if (state.hooks !== undefined) hooks.restore?.(state.hooks);
    },
  };
}

/** The arrays that tensors of parameters have. */
type Numbers = Float32Array | BigInt64Array | Uint8Array;

const copyOf = (tensor: Tensor): Tensor => ({ ...tensor, data: (tensor.data as Numbers).slice() }) as Tensor;

function sameData(a: Tensor, b: Tensor | undefined): boolean {
  const [left, right] = [a.data as Numbers, b?.data as Numbers];
  return left.every((value: number | bigint, at: number) => Object.is(value, right[at]));
}

function copyInto(target: Tensor, from: Tensor | undefined): void {
  if (from) (target.data as Float32Array).set(from.data as Float32Array);
}
