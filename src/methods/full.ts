import { z } from "zod";
import { TunesmithError } from "../errors/index.js";
import { constant, type Value } from "../graph/index.js";
import {
  type AnyModel,
  type CausalLm,
  type Inputs,
  type Model,
  nearest,
  type Parameter,
  rewriteOutputs,
} from "../models/index.js";
import { readTensor, tensor, toFloat32 } from "../tensor/index.js";
import { parameter } from "./adapter.js";
import { plainFields, rewrittenModel } from "./fields.js";

/** Settings of full fine-tuning. */
export const fullSchema = z.strictObject({
  select: z
    .union([z.string(), z.instanceof(RegExp), z.array(z.string().min(1)).min(1)])
    .optional()
    .describe("weights to train: a regular expression searched in their names, or names; default: all"),
});
export type FullConfig = z.infer<typeof fullSchema>;

/** A model whose own weights are trained. */
export type Unfrozen<M extends Model = Model> = M & {
  readonly base: M;
  /** The trained weights by their name in files; a tied weight is one. */
  readonly unfrozen: ReadonlyMap<string, Parameter>;
};
export type UnfrozenLm = Unfrozen<CausalLm>;

/** Whether a model is the result of `unfreeze`. */
export const isUnfrozen = <M extends Model>(model: M): model is Unfrozen<M> => "unfrozen" in model;

/**
 * Full fine-tuning: the model with chosen weights as trainable parameters, named as in files. They start as copies, in
 * memory; the given model does not change, unless it is unfrozen itself: then the result trains its weights too. A weight
 * that several modules share stays shared. `freeze` makes a plain model of the result.
 *
 * Throws `target-not-found` when nothing is selected, `target-unsupported` for a weight that is not floating point,
 * `name-conflict` when the model has a parameter of that name.
 *
 * @example
 * ```ts
 * import { freeze, unfreeze } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * const model = await unfreeze(await loadModel("path/to/model"), { select: /\.(mlp|self_attn)\./ });
 * console.log(model.unfrozen.size);
 * const plain = freeze(model);
 * console.log(plain.parameters.size); // 0
 * ```
 */
export async function unfreeze<M extends Model>(model: M, config: FullConfig = {}): Promise<Unfrozen<M>> {
  const chosen = chooseWeights(model, config.select);
  const [base, unfrozen] = isUnfrozen(model)
    ? [model.base, new Map(model.unfrozen)]
    : [model, new Map<string, Parameter>()];
  const below: AnyModel = base;
  for (const [name, weight] of chosen) unfrozen.set(name, await trainable(name, weight));
  const replace = new Map(
    [...unfrozen].map(([name, { value }]) => [base.weights.get(name) as Value, value] as const),
  );
  return {
    ...plainFields(base),
    parameters: new Map([...base.parameters, ...unfrozen]),
    base,
    unfrozen,
    build: (inputs: Inputs) => rewriteOutputs(below.build(inputs), { replace }),
  } as unknown as Unfrozen<M>;
}

/**
 * The model with its trained weights as constants, as they are now: a plain model to save, adapt or export. Training
 * the unfrozen model further does not change it. Throws `adapter-invalid` for a model that was not unfrozen.
 */
export function freeze<M extends Model>(model: M): M {
  if (!isUnfrozen(model)) {
    throw new TunesmithError("adapter-invalid", "the model has no unfrozen weights to freeze", {
      fix: "freeze what `unfreeze` returned",
    });
  }
  const { base, unfrozen } = model;
  const weights = new Map(base.weights);
  const replace = new Map<Value, Value>();
  for (const [name, { tensor: trained }] of unfrozen) {
    const data = (trained.data as Float32Array).slice();
    const fixed = constant(tensor("float32", trained.shape, data), name);
    replace.set(base.weights.get(name) as Value, fixed);
    weights.set(name, fixed);
  }
  return rewrittenModel(base as M, weights, { replace });
}

async function trainable(name: string, weight: Value): Promise<Parameter> {
  const { source } = weight;
  if (source.kind !== "constant" || weight.dtype !== "float32") {
    throw new TunesmithError(
      "target-unsupported",
      `${name} is ${weight.dtype}: only float32 can be trained`,
      {
        fix: "leave it out of `select`",
      },
    );
  }
  const data = toFloat32(await readTensor(source.data)).slice();
  return parameter(name, weight.shape as number[], data, true);
}

function chooseWeights(model: Model, select: FullConfig["select"]): [string, Value][] {
  // Scalars are settings an ONNX file writes as constants (an epsilon, a scale), not weights.
  const names = [...model.weights].flatMap(([name, { shape }]) => (shape.length > 0 ? [name] : []));
  const chosen = names.filter(selector(names, select));
  if (chosen.length === 0) {
    throw new TunesmithError("target-not-found", `no weight matches ${String(select)}`, {
      fix: `the model has ${names.length} weights, such as ${names.slice(0, 3).join(", ")}`,
      details: { select: String(select) },
    });
  }
  const taken = chosen.find((name) => model.parameters.has(name));
  if (taken !== undefined) {
    throw new TunesmithError("name-conflict", `the model already has a parameter '${taken}'`, {
      fix: "unfreeze a weight once only",
    });
  }
  return chosen.map((name) => [name, model.weights.get(name) as Value]);
}

function selector(names: readonly string[], select: FullConfig["select"]): (name: string) => boolean {
  if (select === undefined) return () => true;
  if (Array.isArray(select)) {
    const unknown = select.find((name) => !names.includes(name));
    if (unknown === undefined) return (name) => select.includes(name);
    throw new TunesmithError("target-not-found", `the model has no weight '${unknown}'`, {
      fix: `near names: ${nearest(unknown, names, 3).join(", ")}`,
      details: { name: unknown },
    });
  }
  const pattern = compile(select);
  return (name) => pattern.test(name);
}

function compile(select: string | RegExp): RegExp {
  try {
    // Flags g and y make `test` depend on the previous call.
    return typeof select === "string"
      ? new RegExp(select)
      : new RegExp(select.source, select.flags.replace(/[gy]/g, ""));
  } catch (cause) {
    throw new TunesmithError("config-invalid", `select '${select}' is not a regular expression`, {
      fix: "escape special characters",
      cause,
    });
  }
}
