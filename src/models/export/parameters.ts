import { constant, input, reach, type Value } from "../../graph/index.js";
import type { Tensor } from "../../tensor/index.js";
import { rewriteOutputs, valuesIn } from "../rewrite.js";
import type { AnyModel, Outputs, Parameter } from "../types.js";

/**
 * What becomes of adapters and unfrozen weights in a file:
 * - `merged`: constants, as they are now;
 * - `inputs`: inputs like others, which every run feeds. The only way in onnxruntime-node and onnxruntime-web, which cannot
 *   override initialisers;
 * - `optional`: initialisers that a run may override, by `add_active_adapter` of ONNX Runtime for Python (C, C++, C#, Java) or by a
 *   feed; left alone they hold what the adapter holds now.
 */
export type AdapterWeights = "merged" | "inputs" | "optional";

/** A forward pass whose parameters are what a file makes of them. */
export interface BoundOutputs<O extends Outputs> {
  readonly outputs: O;
  /** Parameters that are inputs now, in order of creation. */
  readonly inputs: readonly Value[];
  /** What those hold, by input. */
  readonly tensors: ReadonlyMap<Value, Tensor>;
}

/** Parameters as constants or inputs. Scalars (an adapter's strength) are constants always: adapter files hold none. */
export function bindParameters<O extends Outputs>(
  model: AnyModel,
  outputs: O,
  mode: AdapterWeights,
): BoundOutputs<O> {
  const read = parametersIn(model, outputs);
  const names = namesOf(read);
  const replace = new Map<Value, Value>();
  const tensors = new Map<Value, Tensor>();
  for (const { value, tensor, name } of read) {
    const held = copyOf(tensor);
    const isInput = mode !== "merged" && tensor.shape.length > 0;
    const bound = isInput
      ? input(names.get(name) as string, tensor.dtype, tensor.shape)
      : constant(held, name);
    replace.set(value, bound);
    if (isInput) tensors.set(bound, held);
  }
  return { outputs: rewriteOutputs(outputs, { replace }), inputs: [...tensors.keys()], tensors };
}

function parametersIn(model: AnyModel, outputs: Outputs): Parameter[] {
  const values = new Map([...model.parameters.values()].map((entry) => [entry.value, entry] as const));
  return reach(valuesIn(outputs)).values.flatMap((value) => values.get(value) ?? []);
}

/** Names in the file: without the adapter's own name where there is only one, so that adapters of any name fit. */
function namesOf(parameters: readonly Parameter[]): Map<string, string> {
  const owners = new Set(parameters.map(({ name }) => name.slice(0, name.indexOf("/"))));
  const bare = (name: string) => (owners.size === 1 ? name.slice(name.indexOf("/") + 1) : name);
  return new Map(parameters.map(({ name }) => [name, bare(name)]));
}

/** Later training must not change what was exported. */
const copyOf = (tensor: Tensor): Tensor => ({ ...tensor, data: tensor.data.slice() }) as Tensor;
