import { input, type Value } from "../../../graph/index.js";
import type { InputSpec, TensorInputs } from "../../types.js";
import type { WeightReader } from "../../weights.js";
import type { TensorDescription } from "../definition.js";
import type { WeightInit, WeightSpec } from "./weight-specs.js";

/** How a tensor begins when it is fresh, and whether it is made anew for other classes. */
export interface ParamOptions {
  /** Default `normal`. */
  readonly init?: WeightInit | undefined;
  /** Standard deviation of a `normal` start. Default: the config's. */
  readonly std?: number | undefined;
  readonly head?: boolean | undefined;
}

/**
 * The weight `name` of `shape`. Modules laid with it say both at once, so that the list of a model's tensors comes from
 * its forward pass (`recordSpecs`) instead of being written twice.
 */
export type Params = (name: string, shape: readonly number[], options?: ParamOptions) => Value;

/** Weights of a checkpoint, whose shapes were compared when it was loaded. */
export const paramsOf =
  (weights: WeightReader): Params =>
  (name) =>
    weights.get(name);

/** Every tensor that `lay` asks for over a small input of the model described. */
export function recordSpecs(
  { inputs, probeAxes }: Pick<TensorDescription, "inputs" | "probeAxes">,
  lay: (params: Params, inputs: TensorInputs) => unknown,
): WeightSpec[] {
  const specs = new Map<string, WeightSpec>();
  lay(
    (name, shape, { init = "normal", std, head } = {}) => {
      specs.set(name, { name, shape, init, ...(std ? { std } : {}), ...(head ? { head } : {}) });
      return input(name, "float32", shape);
    },
    { values: Object.fromEntries(inputs.map((spec) => [spec.name, smallInput(spec, probeAxes)])) },
  );
  return [...specs.values()];
}

const smallInput = ({ name, dtype, shape }: InputSpec, axes: TensorDescription["probeAxes"]): Value =>
  input(
    name,
    dtype,
    shape.map((dim) => (typeof dim === "number" ? dim : (axes[dim] ?? 1))),
  );
