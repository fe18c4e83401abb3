import { ops, type Value } from "../graph/index.js";
import { type Outputs, type Site, sitesOf } from "../models/index.js";
import type { Adapter, AdapterSite } from "./adapter.js";
import { savedValues, type TensorUse, tensorUses } from "./saved.js";
import { asMatrix, asStored } from "./site-map.js";

/** A base tensor that adapters change, before and after, as it lies in the file. */
export interface TensorChange {
  /** Module path; a tied weight that changes at two modules is listed at both. */
  readonly path: string;
  /** `weight` or `bias`. */
  readonly leaf: string;
  /** The base's tensor; undefined for a bias that the base lacks. */
  readonly before: Value | undefined;
  /** What takes its place: a function of the adapters' parameters. */
  readonly after: Value;
  /** after − before, perhaps turned: for norms, with fewer passes over the weight than the difference of the two. */
  readonly difference: Value;
}

/** The tensors of a site as a method reads them, shared ones included. */
export const valuesOf = (site: AdapterSite, adapter: Pick<Adapter, "shared">): Record<string, Value> =>
  Object.fromEntries(
    Object.entries({ ...adapter.shared, ...site.tensors }).map(([name, entry]) => [name, entry.value]),
  );

/** W + gate·(W' − W), `[out, in]`. */
export const effectiveWeight = (weight: Value, site: AdapterSite, adapter: Adapter): Value =>
  ops.add(weight, weightDelta(weight, site, adapter));

/** gate·(W' − W), `[out, in]`. */
function weightDelta(weight: Value, site: AdapterSite, adapter: Adapter): Value {
  const { method, config } = adapter.adaptation;
  const changed = method.weight(weight, valuesOf(site, adapter), site.shape, config);
  return ops.mul(ops.sub(changed, weight), adapter.gate.value);
}

/** A site's bias `[out]` with what an adapter adds to it, its strength applied; undefined for none. `weight` is the one below. */
export function effectiveBias(
  bias: Value | undefined,
  weight: () => Value,
  site: AdapterSite,
  adapter: Pick<Adapter, "adaptation" | "gate" | "shared">,
): Value | undefined {
  const { method, config } = adapter.adaptation;
  const delta = method.biasDelta?.(valuesOf(site, adapter), site.shape, config, bias, weight);
  if (!delta) return bias;
  const added = ops.mul(delta, adapter.gate.value);
  return bias ? ops.add(bias, added) : added;
}

/**
 * Every tensor that `adapters` change in a forward pass of their base, applied in order. Merging computes the `after`
 * values, receipts compare them with `before`.
 */
export function changesOf(outputs: Outputs, adapters: readonly Adapter[]): TensorChange[] {
  const uses = tensorUses(outputs);
  const saved = savedAsRead(uses, adapters);
  const sites = new Map(sitesOf(outputs).map((site) => [site.path, site] as const));
  const changes = [...sites.values()].flatMap((site) => siteChanges(site, adapters, saved));
  const known = new Set(changes.map(({ path, leaf }) => `${path}/${leaf}`));
  for (const { path, leaf, weight } of uses) {
    const key = `${path}/${leaf}`;
    const after = saved.get(key);
    if (after && !known.has(key)) changes.push(change(path, leaf, weight, after));
  }
  return changes;
}

/** What takes the place of base tensors, by `path/leaf`. */
function savedAsRead(uses: readonly TensorUse[], adapters: readonly Adapter[]): Map<string, Value> {
  const values = savedValues(adapters);
  return new Map(
    uses.flatMap(({ path, leaf, weight }) => {
      const value = values.get(`${path}/${leaf}`);
      return value ? [[`${path}/${leaf}`, value(weight)] as const] : [];
    }),
  );
}

const change = (path: string, leaf: string, before: Value | undefined, after: Value): TensorChange => ({
  path,
  leaf,
  before,
  after,
  difference: before ? ops.sub(after, before) : after,
});

function siteChanges(
  site: Site,
  adapters: readonly Adapter[],
  saved: ReadonlyMap<string, Value>,
): TensorChange[] {
  const stored = saved.get(`${site.path}/weight`);
  const layers = weightLayers(site, adapters, stored);
  let bias = saved.get(`${site.path}/bias`) ?? site.bias;
  adapters.forEach((adapter, at) => {
    const own = adapter.sites.get(site.path);
    if (own) bias = effectiveBias(bias, () => layers.below[at] as Value, own, adapter);
  });
  const changes = weightChange(site, layers, stored);
  if (bias && bias !== site.bias) changes.push(change(site.path, "bias", site.bias, bias));
  return changes;
}

/** A site's weight `[out, in]` as the adapters change it one after the other. */
interface WeightLayers {
  /** What each adapter finds. */
  readonly below: readonly Value[];
  readonly last: Value;
  readonly deltas: readonly Value[];
}

function weightLayers(site: Site, adapters: readonly Adapter[], stored: Value | undefined): WeightLayers {
  const start = asMatrix(site, stored ?? site.weight);
  let weight = start;
  const below: Value[] = [];
  const deltas: Value[] = stored ? [ops.sub(start, asMatrix(site, site.weight))] : [];
  for (const adapter of adapters) {
    below.push(weight);
    const own = adapter.sites.get(site.path);
    if (own) {
      const delta = weightDelta(weight, own, adapter);
      deltas.push(delta);
      weight = ops.add(weight, delta);
    }
    const moved = withTokenRows(weight, site, adapter);
    if (moved !== weight) deltas.push(ops.sub(moved, weight));
    weight = moved;
  }
  return { below, last: weight, deltas };
}

function weightChange(
  site: Site,
  { below, last, deltas }: WeightLayers,
  stored: Value | undefined,
): TensorChange[] {
  if (deltas.length === 0) return [];
  const difference = deltas.reduce((a, b) => ops.add(a, b));
  const after = last === below[0] && stored ? stored : asStored(site, last);
  return [{ path: site.path, leaf: "weight", before: site.weight, after, difference }];
}

/** The trained rows of an embedding, at the embedding and at a head tied to it; `weight` is `[out, in]`. */
function withTokenRows(weight: Value, site: Site, adapter: Adapter): Value {
  return adapter.tokens
    .filter((rows) => rows.weightName === site.weightName)
    .reduce((value, rows) => {
      const ids = ops.unsqueeze(ops.ints(rows.ids), 1);
      const change = ops.sub(rows.parameter.value, rows.base);
      // An embedding `[width, rows]` as methods see it is turned back for the rows to be added.
      const isEmbedding = site.kind === "embedding";
      const table = isEmbedding ? ops.transpose(value, [1, 0]) : value;
      const moved = ops.scatterNd(table, ids, change, "add");
      return isEmbedding ? ops.transpose(moved, [1, 0]) : moved;
    }, weight);
}
