import { ops, type Value } from "../graph/index.js";
import {
  type AnyModel,
  type Inputs,
  type LmInputs,
  type Model,
  type Outputs,
  probeOutputs,
  type Site,
  sitesOf,
} from "../models/index.js";
import { selectTargets, type TargetSelection } from "./targets.js";

export interface DensityOptions {
  /** Maps whose inputs are to become sparse: the second one of each feed-forward block, such as `down_proj`. As `targets`. */
  readonly inputsOf: NonNullable<TargetSelection["targets"]>;
  /** α, weight of the mean density in the loss. Default 1. */
  readonly weight?: number;
  /** ε of z² / (z² + ε). Default 1e-7. */
  readonly epsilon?: number;
}

const chosenPaths = (sites: readonly Site[], { inputsOf }: DensityOptions): Set<string> => {
  const unique = [...new Map(sites.map((site) => [site.path, site])).values()];
  return new Set(selectTargets(unique, { targets: inputsOf }).map(({ path }) => path));
};

/** Rows of activations that are data: tokens of a language model that are not padding. */
function rowMask(inputs: Inputs, rows: Value): Value | undefined {
  const { segments } = inputs as Partial<LmInputs>;
  if (!segments) return undefined;
  const mask = ops.reshape(
    ops.cast(ops.greater(segments, ops.cast(ops.scalar(0), "int32")), "float32"),
    [-1],
  );
  return mask.shape[0] === rows.shape[0] ? mask : undefined;
}

/** Mean over units, and over rows that count, of z² / (z² + ε): how many activations are not zero, with a gradient. */
export function softDensity(z: Value, epsilon: number, mask?: Value): Value {
  // As 1 − ε / (z² + ε): the quotient of squares has a gradient of differences that cancel.
  const rest = ops.div(ops.scalar(epsilon), ops.add(ops.square(z), epsilon));
  const rows = ops.reduceMean(ops.sub(ops.scalar(1), rest), [-1], false);
  if (!mask) return ops.reduceMean(rows, undefined, false);
  const kept = ops.reduceSum(ops.mul(rows, mask), undefined, false);
  return ops.div(kept, ops.reduceSum(mask, undefined, false));
}

/**
 * DEFT (arXiv 2402.01911): the model, whatever is trained of it, with a term in its loss that drives activations inside
 * feed-forward blocks to exact zeros, so that fewer products are needed after. Nothing else changes; a weight of 0 is the model
 * itself. Padding does not count.
 *
 * Throws `target-not-found` when `inputsOf` selects nothing.
 *
 * @example
 * ```ts
 * import { adapt, deft, lora } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * const adapted = await adapt(await loadModel("path/to/model"), lora({ targets: "all-linear" }));
 * const model = deft(adapted, { inputsOf: ["down_proj"], weight: 1 });
 * console.log(model.parameters.size);
 * ```
 */
export function deft<M extends Model>(model: M, options: DensityOptions): M {
  const { weight = 1, epsilon = 1e-7 } = options;
  const paths = chosenPaths(sitesOf(probeOutputs(model)), options);
  if (weight === 0) return model;
  const below: AnyModel = model;
  return {
    ...model,
    build(inputs: Inputs) {
      const outputs: Outputs = below.build(inputs);
      if (inputs.training !== true) return outputs;
      const taps = new Map(
        sitesOf(outputs).flatMap(({ path, input }) => (paths.has(path) ? [[path, input] as const] : [])),
      );
      const densities = [...taps.values()].map((z) => softDensity(z, epsilon, rowMask(inputs, z)));
      const term = ops.mul(
        densities.reduce((a, b) => ops.add(a, b)),
        weight / densities.length,
      );
      return { ...outputs, penalty: outputs.penalty ? ops.add(outputs.penalty, term) : term };
    },
  } as M;
}
