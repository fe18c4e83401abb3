import { ops, type Value } from "../../graph/index.js";
import type { Parameter, Site } from "../../models/index.js";
import { rng } from "../../runtime/random/index.js";
import { orientedWeight, parameter } from "../adapter.js";
import { centreOf, coreShape, type MpoOptions, type MpoShape, mpoShape } from "./chain.js";
import { contractSides, sideOf } from "./contract.js";
import { fitShared } from "./fit.js";

/** Maps that have one central tensor. */
export interface MpoGroup {
  /** Name of the parameter that holds it. */
  readonly central: string;
  readonly shape: MpoShape;
  readonly maps: readonly {
    readonly path: string;
    /** Name in files. */
    readonly weightName: string;
    /** Of the start: ‖W − L·C·R‖ / ‖W‖, 0 where the chain is exact. */
    readonly error: number;
  }[];
}

export interface GroupOptions extends Pick<MpoOptions, "cores" | "factors" | "truncate"> {
  readonly rounds: number;
  readonly adapterRank: number;
  readonly train: "all" | "aux" | "central";
}

export interface MadeGroup {
  readonly group: MpoGroup;
  readonly parameters: readonly Parameter[];
  /** What takes the place of each weight, by its name in files and laid out as there. */
  readonly weights: readonly (readonly [string, Value])[];
  /** Squared size of what the start misses of the weights, and of the weights. */
  readonly missed: number;
  readonly size: number;
}

/** Chains with one central tensor in the place of the weights of `sites`, which have one shape. */
export async function chainGroup(
  name: string,
  sites: readonly Site[],
  options: GroupOptions,
): Promise<MadeGroup> {
  const { outFeatures: rows, inFeatures: cols } = sites[0] as Site;
  const shape = mpoShape(rows, cols, options);
  const matrices = [];
  for (const site of sites) matrices.push({ rows, cols, data: await orientedWeight(site) });
  const sizes = matrices.map(({ data }) => data.reduce((sum, value) => sum + value * value, 0));
  const fit = fitShared(matrices, options, options.rounds);
  const central = parameter(
    `mpo/${name}.central`,
    coreShape(shape, centreOf(shape)),
    Float32Array.from(fit.central),
    options.train !== "aux",
  );
  const parameters = [central];
  const weights = sites.map((site, at) => {
    const { left, right } = fit.layers[at] as (typeof fit.layers)[number];
    const side = (cores: readonly Float64Array[], from: number) =>
      cores.map((core, index) => {
        const place = `mpo/${site.path}.T${from + index + 1}`;
        const shapeAt = coreShape(shape, from + index);
        return parameter(place, shapeAt, Float32Array.from(core), options.train !== "central");
      });
    const [before, after] = [side(left, 0), side(right, centreOf(shape) + 1)];
    const extra = adapterOf(site, options.adapterRank);
    parameters.push(...before, ...after, ...extra);
    const values = (own: readonly Parameter[]) => own.map(({ value }) => value);
    const matrix = contractSides(
      sideOf(values(before), shape, "left"),
      central.value,
      sideOf(values(after), shape, "right"),
      shape,
    );
    const [u, v] = values(extra);
    const whole = u && v ? ops.gemm(u, v, matrix) : matrix;
    return [site.weightName, site.orientation === "in-out" ? ops.transposeLast(whole) : whole] as const;
  });
  const maps = sites.map(({ path, weightName }, at) => {
    const missed = fit.layers[at]?.missed as number;
    return { path, weightName, error: missed / (Math.sqrt(sizes[at] as number) || 1) };
  });
  return {
    group: { central: central.name, shape, maps },
    parameters,
    weights,
    missed: fit.layers.reduce((sum, { missed }) => sum + missed * missed, 0),
    size: sizes.reduce((a, b) => a + b, 0),
  };
}

/** U·V of a layer, V zero at the start. */
function adapterOf({ path, outFeatures, inFeatures }: Site, rank: number): Parameter[] {
  if (rank === 0) return [];
  const u = rng(0, "mpo", path, "U").fillNormal(new Float32Array(outFeatures * rank), 0, 1 / Math.sqrt(rank));
  return [
    parameter(`mpo/${path}.U`, [outFeatures, rank], u, true),
    parameter(`mpo/${path}.V`, [rank, inFeatures], new Float32Array(rank * inFeatures), true),
  ];
}
