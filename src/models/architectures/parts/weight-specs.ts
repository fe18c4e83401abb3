/**
 * How a fresh weight begins. `normal`: Gaussian of the config's `initializer_range`; `residual`: the same divided by
 * sqrt(2 * layers), for what is added to the residual stream (GPT-2's recipe); `ones` and `zeros` as they say.
 */
export type WeightInit = "normal" | "residual" | "ones" | "zeros";

/** A tensor that an architecture reads: its name in files, its shape as stored, and how training from scratch begins. */
export interface WeightSpec {
  readonly name: string;
  readonly shape: readonly number[];
  readonly init: WeightInit;
  /** Standard deviation of a `normal` start. Default: the config's `initializer_range`. */
  readonly std?: number;
  /** Part of a head: made anew for other classes. */
  readonly head?: boolean;
}

/** A linear map's weight `[out, in]`, and its bias if it has one. */
export function linearSpecs(
  name: string,
  [inFeatures, outFeatures]: readonly [number, number],
  { init = "normal", bias = false }: { readonly init?: WeightInit; readonly bias?: boolean } = {},
): WeightSpec[] {
  const weight: WeightSpec = { name: `${name}.weight`, shape: [outFeatures, inFeatures], init };
  return bias ? [weight, { name: `${name}.bias`, shape: [outFeatures], init: "zeros" }] : [weight];
}
