import * as ort from "#ort";
import { type GemmBackend, gemmOnRuntime } from "./linalg/index.js";
import type { SessionOptions } from "./ort/types.js";

/**
 * Matrix products in ONNX Runtime, for `randomizedSvd` and anything else that takes a `GemmBackend`. Its sessions
 * are one node each and live as long as the page or process; make one backend and keep it.
 *
 * @param options where and with how many threads, as for `createSession`
 * @example
 * ```ts
 * import { type Matrix, randomizedSvd, runtimeGemm } from "tunesmith/runtime";
 * const gemm = runtimeGemm();
 * export const leading = (weight: Matrix) => randomizedSvd(weight, { rank: 64, gemm });
 * ```
 */
export function runtimeGemm(options: SessionOptions = {}): GemmBackend {
  return gemmOnRuntime(async (model) => {
    const session = await ort.load(model, new Set(), options);
    return { run: (feeds) => session.run(feeds, ["c"]) };
  });
}
