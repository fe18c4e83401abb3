import type { Dtype, TensorData } from "./dtype.js";

/** A dense, row-major tensor in memory. Plain data: build it with `tensor()`, read `data` directly. */
export interface Tensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly data: TensorData;
}
