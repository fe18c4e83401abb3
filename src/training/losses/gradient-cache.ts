import { vjp } from "../../autodiff/index.js";
import { ops, reach, recompute, type Value } from "../../graph/index.js";
import type { TensorModel, TensorOutputs } from "../../models/index.js";

/** Parts of a batch, and which outputs the loss reads. */
export interface CachedPassOptions {
  readonly rows: number;
  readonly forwardRows: number;
  readonly training: boolean;
  readonly wanted: readonly string[];
}

type Values = Readonly<Record<string, Value>>;

/**
 * A batch run in parts (arXiv 2101.06983): the wanted outputs of all parts are joined for the loss; the backward pass takes the
 * parts one after the other and computes each again, so that the activations of one part exist at a time.
 */
export function cachedPasses(
  model: TensorModel,
  values: Values,
  { rows, forwardRows, training, wanted }: CachedPassOptions,
): { readonly passes: readonly TensorOutputs[]; readonly outputs: Values } {
  const passes: TensorOutputs[] = [];
  const parts: Value[][] = [];
  const chain: Chain = { forward: [], backward: [] };
  for (let start = 0; start < rows; start += forwardRows) {
    const end = Math.min(rows, start + forwardRows);
    const sliced = Object.entries(values).map(([name, value]) => {
      const part = ops.slice(value, 0, start, end);
      return [name, later(part, chain.forward)] as const;
    });
    const pass = model.build({ values: Object.fromEntries(sliced), training });
    const outputs = wanted.flatMap((name) => pass.values[name] ?? []);
    chain.forward = outputs;
    // What methods add to the loss is of the weights: it counts once.
    const { penalty: _, ...rest } = pass;
    passes.push(start === 0 ? pass : rest);
    parts.push(
      outputs.map((value) =>
        recomputed(
          value,
          sliced.map(([, part]) => part),
          chain,
        ),
      ),
    );
  }
  const names = wanted.filter((name) => passes[0]?.values[name]);
  const joined = names.map(
    (name, at) =>
      [
        name,
        ops.concat(
          parts.map((part) => part[at] as Value),
          0,
        ),
      ] as const,
  );
  return { passes, outputs: Object.fromEntries(joined) };
}

/** What the next part waits for, in each direction. */
interface Chain {
  forward: readonly Value[];
  backward: readonly Value[];
}

/** `x`, scheduled after `values`, whatever its type. */
function later(x: Value, values: readonly Value[]): Value {
  if (values.length === 0) return x;
  const zeros = values.map((value) => ops.reduceSum(ops.slice(value, 0, 0, 0), undefined, false));
  const zero = zeros.reduce((a, b) => ops.add(a, b));
  return ops.add(x, x.dtype === "float32" ? zero : ops.cast(zero, x.dtype));
}

/** An output of a part, whose derivative is taken on a clone made when its gradient is there. */
function recomputed(output: Value, inputs: readonly Value[], chain: Chain): Value {
  const { values } = reach([output], new Set(inputs));
  const parameters = values.filter(
    (value) => value.source.kind === "input" && value.dtype === "float32" && !inputs.includes(value),
  );
  return ops.customVjp(output, parameters, [...inputs], ({ output: own, wrt, saved }, dy) => {
    const again = new Map(saved.map((value) => [value, later(value, [dy, ...chain.backward])] as const));
    const [clone] = recompute([own], again) as [Value];
    const gradients = vjp([{ output: clone, gradient: dy }], wrt, [...again.values()]);
    chain.backward = gradients.flatMap((value) => (value && value.shape.length > 0 ? [value] : []));
    return gradients;
  });
}
