import { vjp } from "../../autodiff/index.js";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { probeOutputs, type Site, sitesOf } from "../../models/index.js";
import { type SessionOptions, symmetricEigen } from "../../runtime/index.js";
import type { Objective, StepBatch } from "../../training/index.js";
import { valuesOver } from "../calibration.js";

export interface ModuleKernelOptions {
  /** The modules, by path. */
  readonly modules: readonly string[];
  /** Batches to look at; each is a sample: give the objective a batch size of 1. Default 8. */
  readonly samples?: number;
  /** Seed of their order. Default 0. */
  readonly seed?: number;
  readonly session?: SessionOptions;
}

/** Numbers of gradients that are held at a time. */
const MOST_HELD = 2 ** 26;

/**
 * The Gram matrix `[samples, samples]` of each module: products of the gradients, per sample, of the objective's loss with
 * respect to the module's weight, where the model stands. Sums of them are the kernel that a choice of modules learns with
 * (arXiv 2502.08905): its least eigenvalue bounds how fast squared errors fall. For the kernel of outputs rather than of a loss, give
 * an objective that sums outputs.
 *
 * Throws `target-not-found` naming a module the model lacks.
 */
export async function moduleKernels(
  objective: Objective,
  { modules, samples = 8, seed = 0, session }: ModuleKernelOptions,
): Promise<Map<string, Float64Array>> {
  const sites = new Map(sitesOf(probeOutputs(objective.model)).map((site) => [site.path, site]));
  const wanted = modules.map((path) => sites.get(path) ?? unknownModule(path));
  const source = objective.batches({ epoch: 0, step: 0 }, seed);
  const batches: StepBatch[] = [];
  while (batches.length < samples) batches.push((await source.next()).value as StepBatch);
  await source.return?.();
  const kernels = new Map<string, Float64Array>();
  for (const group of groupsOf(wanted, samples)) {
    const rows: Record<string, Float32Array>[] = [];
    for (const batch of batches) rows.push(await gradientsOf(objective, batch, group, session));
    for (const { path } of group) kernels.set(path, gram(rows.map((row) => row[path] as Float32Array)));
  }
  return kernels;
}

/** The least eigenvalue of the sum of some modules' kernels. */
export function leastEigenvalue(
  kernels: ReadonlyMap<string, Float64Array>,
  modules: Iterable<string>,
): number {
  let sum: Float64Array | undefined;
  for (const path of modules) {
    const kernel = kernels.get(path) ?? unknownModule(path);
    sum = sum ? sum.map((value, at) => value + (kernel[at] as number)) : kernel;
  }
  if (!sum) return 0;
  const rows = Math.sqrt(sum.length);
  const { values } = symmetricEigen({ rows, cols: rows, data: Float64Array.from(sum) });
  return Math.min(...values);
}

/** Modules whose gradients of all samples fit into memory together. */
function groupsOf(sites: readonly Site[], samples: number): Site[][] {
  const groups: Site[][] = [];
  let held = Number.POSITIVE_INFINITY;
  for (const site of sites) {
    const size = samples * site.inFeatures * site.outFeatures;
    if (held + size > MOST_HELD) {
      groups.push([]);
      held = 0;
    }
    groups.at(-1)?.push(site);
    held += size;
  }
  return groups;
}

async function gradientsOf(
  objective: Objective,
  batch: StepBatch,
  sites: readonly Site[],
  session: SessionOptions | undefined,
): Promise<Record<string, Float32Array>> {
  const { loss } = objective.lossGraph(batch.shape, { training: false });
  const seeds = [{ output: loss, gradient: ops.scalar(1) }];
  const found = vjp(
    seeds,
    sites.map(({ weight }) => weight),
  );
  const outputs = sites.map(({ path, weight }, at): [string, Value] => [
    path,
    found[at] ?? ops.zerosLike(weight),
  ]);
  const results = await valuesOver(objective, batch, outputs, session);
  return Object.fromEntries(Object.entries(results).map(([path, { data }]) => [path, data as Float32Array]));
}

function gram(rows: readonly Float32Array[]): Float64Array {
  const count = rows.length;
  const out = new Float64Array(count * count);
  for (const [i, left] of rows.entries()) {
    for (let j = i; j < count; j++) {
      const right = rows[j] as Float32Array;
      let sum = 0;
      for (let at = 0; at < left.length; at++) sum += (left[at] as number) * (right[at] as number);
      out[i * count + j] = sum;
      out[j * count + i] = sum;
    }
  }
  return out;
}

function unknownModule(path: string): never {
  throw new TunesmithError("target-not-found", `the model has no module '${path}' with a kernel`, {
    fix: "name modules as the candidates of the search are named",
  });
}
