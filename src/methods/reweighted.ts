import { TunesmithError } from "../errors/index.js";
import { type Node, ops, type Value, type Visit, withScope } from "../graph/index.js";
import { type Model, type Site, siteOf } from "../models/index.js";
import { rewrittenModel } from "./fields.js";
import { sameOperator, withSaved } from "./saved.js";

/**
 * The model with other constants at some modules. Keys are `module.path/leaf` (`model.norm/weight`); a weight that other
 * modules share (a tied head) is changed at the named module only, which unties it. A weight that was a fixed function of
 * a stored tensor (half precision, codes) becomes a plain float32 constant. Throws `target-unsupported` for a weight of
 * a product that is computed in integers.
 */
export function reweighted<M extends Model>(model: M, changes: ReadonlyMap<string, Value>): M {
  const saved = new Map([...changes].map(([key, value]) => [key, () => value] as const));
  const visit: Visit = (node, values) => {
    const site = siteOf(node);
    const whole = site?.stored && floatProduct(site, values, changes);
    if (whole) return [whole];
    const swapped = withSaved(node, values, saved);
    const bias = site && addedBias(site, changes);
    const inputs = bias && node.op !== "MatMul" ? withBias(swapped ?? values, bias) : swapped;
    const results = inputs && sameOperator(node, inputs);
    if (!bias || node.op !== "MatMul") return results;
    const [product] = results ?? sameOperator(node, values);
    return [withScope(node.scope, () => ops.add(product as Value, bias))];
  };
  const weights = new Map(model.weights);
  for (const [key, value] of changes) weights.set(value.name ?? key.replace("/", "."), value);
  return rewrittenModel(model, weights, { visit });
}

/** A merged bias of a map that had none. */
const addedBias = (site: Site, changes: ReadonlyMap<string, Value>): Value | undefined =>
  site.bias || site.kind === "embedding" ? undefined : changes.get(`${site.path}/bias`);

const withBias = ([x, weight]: readonly (Value | undefined)[], bias: Value): (Value | undefined)[] => [
  x,
  weight,
  bias,
];

/** A product whose operator holds codes, with a float weight in the place of them. */
function floatProduct(
  { node, path, stored, bias, weight: own }: Site,
  values: readonly (Value | undefined)[],
  changes: ReadonlyMap<string, Value>,
): Value | undefined {
  const weight = changes.get(`${path}/weight`);
  const shift = changes.get(`${path}/bias`) ?? bias;
  // A changed bias alone has its operand, if there is one.
  if (node.inputs.includes(own) || (!weight && (bias || !shift))) return undefined;
  if (stored?.form === "integer-product") {
    throw new TunesmithError(
      "target-unsupported",
      `${path} is computed in integers: a change cannot be merged into it`,
      { fix: "keep the adapter apart, or merge it into the model that was quantised", details: { path } },
    );
  }
  return withScope(path, () => timesTransposed(node, values[0] as Value, weight ?? own, shift));
}

function timesTransposed({ outputs }: Node, x: Value, weight: Value, bias: Value | undefined): Value {
  const rows = x.shape.length === 2 ? x : ops.reshape(x, [-1, x.shape.at(-1) ?? 1], [x]);
  const shape = outputs[0]?.shape ?? [];
  return ops.reshape(ops.gemm(rows, weight, bias, { transB: true }), shape, [x]);
}
