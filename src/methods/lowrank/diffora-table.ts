import { TunesmithError } from "../../errors/index.js";
import type { SiteShape } from "../method.js";

/** Where a module stands in a table of layers and kinds. */
export interface Place {
  /** Path up to the first number, with it; empty for modules outside numbered layers. */
  readonly layer: string;
  /** The rest of the path. */
  readonly kind: string;
}

export function placeOf(path: string): Place {
  const parts = path.split(".");
  const at = parts.findIndex((part) => /^\d+$/.test(part));
  return { layer: parts.slice(0, at + 1).join("."), kind: parts.slice(at + 1).join(".") };
}

/** The kind of modules that can share an update: their name within a layer, and their size. */
export const kindOf = ({ path, inFeatures, outFeatures }: SiteShape): string =>
  `${placeOf(path).kind}.${inFeatures}x${outFeatures}`;

/** The differentiable adaptation matrix, decided: which modules get an update, and what their gates were. */
export interface ModuleTable {
  /** Rows and columns. */
  readonly layers: readonly string[];
  readonly kinds: readonly string[];
  /** `[layers][kinds]`: 1 for selected modules; null where a layer has no such module. */
  readonly table: readonly (readonly (0 | 1 | null)[])[];
  readonly gates: readonly (readonly (number | null)[])[];
  /** Paths of the selected modules, in the order of the candidates. */
  readonly selected: readonly string[];
}

export interface SelectOptions {
  /** Modules per layer. Default: `fraction` of a layer's, rounded up. */
  readonly perLayer?: number | undefined;
  readonly fraction: number;
  readonly scope: "layer" | "global";
}

/**
 * Keeps the largest gates: so many of every layer, or as many of all layers together. Of equal ones the first. Throws
 * `config-invalid` when that is more than a layer has.
 */
export function selectModules(gates: ReadonlyMap<string, number>, options: SelectOptions): ModuleTable {
  const { perLayer, fraction, scope } = options;
  const rows = new Map<string, string[]>();
  for (const path of gates.keys()) {
    const { layer } = placeOf(path);
    rows.set(layer, [...(rows.get(layer) ?? []), path]);
  }
  const quota = (members: readonly string[]) => {
    if (perLayer === undefined) return Math.ceil(fraction * members.length - 1e-9);
    if (perLayer <= members.length) return perLayer;
    throw new TunesmithError(
      "config-invalid",
      `perLayer ${perLayer}: ${members[0]} is one of ${members.length} candidates of its layer`,
      { fix: "select at most as many, or name more targets" },
    );
  };
  const largest = (paths: readonly string[], count: number) =>
    [...paths].sort((a, b) => Number(gates.get(b)) - Number(gates.get(a))).slice(0, count);
  const all = [...rows.values()];
  const kept = new Set(
    scope === "layer"
      ? all.flatMap((members) => largest(members, quota(members)))
      : largest(
          [...gates.keys()],
          all.reduce((sum, members) => sum + quota(members), 0),
        ),
  );
  return tableOf(gates, kept);
}

function tableOf(gates: ReadonlyMap<string, number>, kept: ReadonlySet<string>): ModuleTable {
  const paths = [...gates.keys()];
  const layers = [...new Set(paths.map((path) => placeOf(path).layer))];
  const kinds = [...new Set(paths.map((path) => placeOf(path).kind))];
  const cell = <T>(layer: string, kind: string, of: (path: string) => T): T | null => {
    const path = [layer, kind].filter((part) => part !== "").join(".");
    return gates.has(path) ? of(path) : null;
  };
  const each = <T>(of: (path: string) => T) =>
    layers.map((layer) => kinds.map((kind) => cell(layer, kind, of)));
  return {
    layers,
    kinds,
    table: each((path) => (kept.has(path) ? 1 : 0)),
    gates: each((path) => gates.get(path) as number),
    selected: paths.filter((path) => kept.has(path)),
  };
}
