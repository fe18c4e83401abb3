import { ops, type Value } from "../graph/index.js";
import { noise } from "../models/index.js";
import type { Method, SiteCall, SiteConfig, SiteShape, TensorValues } from "./method.js";
import type { PassText } from "./pass-text.js";
import { matrixMap } from "./site-map.js";

/** One linear map outside a model. */
export interface LoneMap {
  readonly site: SiteShape;
  readonly tensors: TensorValues;
  /** `[tokens, in]` */
  readonly x: Value;
  /** `[out, in]` */
  readonly weight: Value;
  readonly bias?: Value | undefined;
  /** Default 1. */
  readonly gate?: Value;
  /** Default: no dropout. */
  readonly dropped?: SiteCall["dropped"];
  /** Default false. */
  readonly training?: boolean;
  /** Default: drawn as in a model. */
  readonly noise?: SiteCall["noise"];
  /** Receives the terms it adds to the loss. Default: they are dropped. */
  readonly addLoss?: SiteCall["addLoss"];
  /** Default: every row counts. */
  readonly mask?: Value;
  /** Default: rows are not of tokens. */
  readonly text?: PassText;
  /** Default: there was no first pass. */
  readonly hidden?: Value;
  /** Receives what it counts. Default: that is dropped. */
  readonly tally?: SiteCall["tally"];
}

/**
 * The output `[tokens, out]` of a method at one linear map: the mathematics of a method by itself, for proofs and tests.
 *
 * @example
 * ```ts
 * import { input } from "tunesmith/graph";
 * import { callMethod, lora } from "tunesmith/methods";
 * const { method, config } = lora({ rank: 1 });
 * const site = { path: "map", kind: "linear", inFeatures: 3, outFeatures: 2, hasBias: false } as const;
 * const tensors = { lora_A: input("a", "float32", [1, 3]), lora_B: input("b", "float32", [2, 1]) };
 * const [x, weight] = [input("x", "float32", [4, 3]), input("w", "float32", [2, 3])];
 * console.log(callMethod(method, config, { site, tensors, x, weight }).shape); // [4, 2]
 * ```
 */
export function callMethod<Config extends SiteConfig>(
  method: Method<Config>,
  config: Config,
  map: LoneMap,
): Value {
  const { site, tensors, x, weight, bias, gate = ops.scalar(1), dropped = (value) => value } = map;
  const product = (by: Value) => ops.gemm(x, by, bias, { transB: true });
  const call: SiteCall = {
    ...matrixMap("linear", bias),
    site,
    sites: 1,
    tensors,
    x,
    y: product(weight),
    weight: () => weight,
    gate,
    dropped,
    training: map.training ?? false,
    noise: map.noise ?? ((like, kind, part = "") => noise(like, kind, `${site.path}/${part}`)),
    addLoss: map.addLoss ?? (() => {}),
    mask: map.mask,
    text: () => map.text,
    tally: map.tally ?? (() => {}),
    pass: new Map(),
    hidden: map.hidden,
  };
  const direct = method.forward?.(call, config);
  if (direct) return direct;
  const y = product(method.weight(weight, tensors, site, config));
  const delta = method.biasDelta?.(tensors, site, config, bias, () => weight);
  return delta ? ops.add(y, delta) : y;
}
