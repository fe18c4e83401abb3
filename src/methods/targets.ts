import { TunesmithError } from "../errors/index.js";
import {
  endsWithName as endsWith,
  matchesPath as matches,
  nearest,
  userRegex as regex,
  type Site,
} from "../models/index.js";

/** Which modules a method changes; the rules and names of Hugging Face PEFT. */
export interface TargetSelection {
  /**
   * A list matches a module path that equals an item or ends in `.item`; a string is a regular expression over the
   * whole path; `"all-linear"` is every linear layer but the output head.
   */
  readonly targets: string | readonly string[];
  /** As `targets`; wins over it. */
  readonly exclude?: string | readonly string[] | undefined;
  /** Only these layer indices. The reference has them for lists only; here they narrow every form of `targets`. */
  readonly layers?: readonly number[] | undefined;
  /** Name of the module list whose index counts as the layer, e.g. `h` or `layers`; default: the first index found. */
  readonly layersPattern?: string | readonly string[] | undefined;
  /** Modules trained whole; nothing below them is adapted. */
  readonly saved?: readonly string[] | undefined;
}

export interface Candidate {
  readonly path: string;
  readonly kind: Site["kind"] | "tensor";
  readonly isHead: boolean;
}

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

const isAllLinear = (targets: string | readonly string[]): boolean =>
  typeof targets === "string" && targets.toLowerCase() === "all-linear";

/** Index of the layer a path lies in, by PEFT's patterns. */
function layerIndex(path: string, pattern: string | readonly string[] | undefined): number | undefined {
  const expressions =
    pattern === undefined || pattern.length === 0
      ? [/^.*?\.[^.]*\.(\d+)\./]
      : [pattern].flat().map((name) => regex(`^(?:.*?\\.)?${name}\\.(\\d+)\\.`, name));
  for (const expression of expressions) {
    const found = expression.exec(path);
    if (found) return Number(found[1]);
  }
  return undefined;
}

/** Whether a module is selected. `exact` full paths ignore the layer list, as in the reference. */
export function isTarget(candidate: Candidate, selection: TargetSelection): boolean {
  const { path } = candidate;
  const { targets, exclude, saved = [], layers, layersPattern } = selection;
  if (exclude !== undefined && exclude.length > 0 && matches(path, exclude)) return false;
  if (saved.some((name) => new RegExp(`(^|.*\\.)${escaped(name)}($|\\..*)`).test(path))) return false;
  if (isAllLinear(targets) && (candidate.kind !== "linear" || candidate.isHead)) return false;
  if (!isAllLinear(targets) && !matches(path, targets)) return false;
  if (!layers || (typeof targets !== "string" && targets.includes(path))) return true;
  const index = layerIndex(path, layersPattern);
  return index !== undefined && layers.includes(index);
}

/**
 * The selected candidates. Throws `target-not-found` when nothing matches, or when one item of the list matches
 * nothing (a misspelled name must not hide behind a correct one); the message lists near names. Throws
 * `target-unsupported` when an item names a group of modules (`mlp`).
 */
export function selectTargets<T extends Candidate>(
  candidates: readonly T[],
  selection: TargetSelection,
): T[] {
  const { targets } = selection;
  if (targets.length === 0) {
    throw new TunesmithError("target-not-found", "targets is empty", {
      fix: "name at least one module to adapt; readers of adapter folders (PEFT) require it",
    });
  }
  if ((selection.layersPattern?.length ?? 0) > 0 && selection.layers === undefined) {
    throw new TunesmithError("config-invalid", "layersPattern is given without layers", {
      fix: "say which layers are adapted, for example layers: [0, 1]",
    });
  }
  const chosen = candidates.filter((candidate) => isTarget(candidate, selection));
  const wanted = typeof targets === "string" ? [] : targets;
  checkGroups(candidates, selection);
  const idle = wanted.filter((item) => !candidates.some(({ path }) => endsWith(path, [item])));
  if (chosen.length > 0 && idle.length === 0) return chosen;
  const missed = idle[0] ?? (typeof targets === "string" ? targets : targets.join(", "));
  const endings = new Set(candidates.map(({ path }) => path.slice(path.lastIndexOf(".") + 1)));
  const reason = idle.length > 0 ? "matches no module" : "selects no module after excludes and layers";
  throw new TunesmithError("target-not-found", `target '${missed}' ${reason}`, {
    fix: `near names: ${nearest(missed, endings, 5).join(", ")}; 'tunesmith inspect' lists every module${
      typeof targets === "string" && !isAllLinear(targets)
        ? "; a string is a regular expression over the whole path, use a list for name endings"
        : ""
    }`,
    details: { target: missed, modules: candidates.map(({ path }) => path) },
  });
}

/** A name that also stands for a group of modules is not guessed at, as in the reference. */
function checkGroups(candidates: readonly Candidate[], selection: TargetSelection): void {
  const { targets } = selection;
  if (typeof targets === "string") return;
  const paths = new Set(candidates.map(({ path }) => path));
  const groups = new Set(candidates.flatMap(({ path }) => parentsOf(path)));
  for (const group of groups) {
    if (paths.has(group) || !isTarget({ path: group, kind: "linear", isHead: false }, selection)) continue;
    const inside = [...paths].filter((path) => path.startsWith(`${group}.`)).slice(0, 3);
    throw new TunesmithError(
      "target-unsupported",
      `target '${targets.find((item) => endsWith(group, [item]))}' names '${group}', a group of modules`,
      { fix: `name modules in it, such as ${inside.join(", ")}`, details: { group } },
    );
  }
}

/** `a`, `a.b` of `a.b.c`. */
const parentsOf = (path: string): string[] => {
  const segments = path.split(".");
  return segments.slice(1).map((_, at) => segments.slice(0, at + 1).join("."));
};

/** The first key of a pattern table that matches a path (`rank_pattern`, `alpha_pattern`), else the default. */
export function patternValue(
  patterns: Readonly<Record<string, number>>,
  path: string,
  fallback: number,
): number {
  for (const [key, value] of Object.entries(patterns)) {
    if (regex(`^(.*\\.)?(${key})$`, key).test(path)) return value;
  }
  return fallback;
}
