import { constant, makeGraph, ops, type Value } from "../graph/index.js";
import { type CausalLm, inputsOf, probeOutputs, type Site, sitesOf } from "../models/index.js";
import { evaluate } from "../runtime/index.js";
import type { Tensor } from "../tensor/index.js";
import { type AdaptedLm, effectiveWeight, valuesOf } from "./adapted.js";
import type { Adapter } from "./adapter.js";
import { reweighted } from "./reweighted.js";

/**
 * The active adapters folded into the weights: a plain model of the base's size, with the same outputs. The adapted
 * model and its base stay as they are, so unmerging is keeping `model`.
 *
 * Throws `adapter-invalid` when an adapter has no exact merged form.
 *
 * @example
 * ```ts
 * import { loadAdapter, merge } from "tunesmith/methods";
 * import { loadFolder } from "tunesmith/models";
 * const merged = merge(await loadAdapter(await loadFolder("model"), "adapter"));
 * console.log((await merged).weights.size);
 * ```
 */
export async function merge(model: AdaptedLm): Promise<CausalLm> {
  const used = model.active.flatMap((name) => model.adapters.get(name) ?? []);
  const sites = new Map(sitesOf(probeOutputs(model.base)).map((site) => [site.path, site] as const));
  const changes = new Map<string, Value>();
  for (const [path, site] of sites) {
    for (const [leaf, merged] of Object.entries(await mergeSite(site, used))) {
      changes.set(`${path}/${leaf}`, constant(merged, `${path}.${leaf}`));
    }
  }
  for (const adapter of used) {
    for (const { path, leaf, parameter } of adapter.saved) {
      const key = `${path}/${leaf}`;
      if (!changes.has(key)) changes.set(key, constant(parameter.tensor, `${path}.${leaf}`));
    }
  }
  return reweighted(model.base, changes);
}

/** Merged tensors of one site, by leaf name; in the orientation of the file. */
async function mergeSite(site: Site, adapters: readonly Adapter[]): Promise<Record<string, Tensor>> {
  const savedLeaf = (leaf: string) =>
    adapters
      .flatMap((adapter) => adapter.saved)
      .findLast((entry) => entry.path === site.path && entry.leaf === leaf);
  const turned = site.orientation === "in-out" || site.kind === "embedding";
  const orient = (value: Value) => (turned ? ops.transpose(value, [1, 0]) : value);
  let weight = orient(savedLeaf("weight")?.parameter.value ?? site.weight);
  let bias = savedLeaf("bias")?.parameter.value ?? site.bias;
  let [touchedWeight, touchedBias] = [false, false];
  for (const adapter of adapters) {
    const own = adapter.sites.get(site.path);
    if (own) {
      const { method, config } = adapter.adaptation;
      weight = effectiveWeight(weight, own, adapter);
      touchedWeight = true;
      const delta = method.biasDelta?.(valuesOf(own), own.shape, config);
      if (delta) {
        const gated = ops.mul(delta, adapter.gate.value);
        bias = bias ? ops.add(bias, gated) : gated;
        touchedBias = true;
      }
    }
    for (const rows of adapter.tokens) {
      if (rows.weightName !== site.weightName) continue;
      const ids = ops.unsqueeze(ops.ints(rows.ids), 1);
      const change = ops.sub(rows.parameter.value, rows.base);
      const table = site.kind === "embedding" ? ops.transpose(weight, [1, 0]) : weight;
      const moved = ops.scatterNd(table, ids, change, "add");
      weight = site.kind === "embedding" ? ops.transpose(moved, [1, 0]) : moved;
      touchedWeight = true;
    }
  }
  const outputs: [string, Value][] = [];
  if (touchedWeight) outputs.push(["weight", orient(weight)]);
  if (touchedBias && bias) outputs.push(["bias", bias]);
  if (outputs.length === 0) return {};
  const graph = makeGraph(`merge ${site.path}`, inputsOf(outputs.map(([, value]) => value)), outputs);
  const parameters = adapters.flatMap((adapter) => [...adapter.parameters.values()]);
  const feeds = Object.fromEntries(
    parameters.filter(({ value }) => graph.inputs.includes(value)).map((entry) => [entry.name, entry.tensor]),
  );
  return evaluate(graph, feeds);
}
