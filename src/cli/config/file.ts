import { isMap, isScalar, LineCounter, parseDocument } from "yaml";
import { dirname, readText, resolvePath } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { interpolate } from "./interpolate.js";
import { isMapping, type Mapping, mergeMappings } from "./merge.js";

/** A configuration file with what it extends, as one mapping. */
export interface ConfigFile {
  readonly path: string;
  readonly values: Mapping;
  /** Where each key was set last: `base.yaml:3`. */
  readonly places: Readonly<Record<string, string>>;
}

/**
 * Reads a YAML or JSON configuration file. `extends`, a path or a list of paths relative to the file, names files to
 * start from: later ones win over earlier ones, the file over all of them; mappings are merged, lists replaced.
 * `${env:NAME}` in a text stands for an environment variable (see `interpolate`).
 *
 * Throws `file-not-found`, and `config-invalid` for what is not a mapping, a circle of `extends`, a variable.
 */
export const readConfigFile = (path: string): Promise<ConfigFile> => readWithBases(path, []);

async function readWithBases(path: string, above: readonly string[]): Promise<ConfigFile> {
  const absolute = resolvePath(path);
  if (above.includes(absolute)) {
    throw new TunesmithError(
      "config-invalid",
      `${path} extends itself: ${[...above, absolute].join(" -> ")}`,
      {
        fix: "remove one of these `extends`",
      },
    );
  }
  const { values, places } = await readOne(path);
  const { extends: bases = [], ...own } = values;
  let merged: Mapping = {};
  let found: Record<string, string> = {};
  for (const base of basePaths(path, bases)) {
    const file = await readWithBases(base, [...above, absolute]);
    merged = mergeMappings(merged, file.values);
    found = { ...found, ...file.places };
  }
  const { extends: _, ...set } = places;
  return { path, values: mergeMappings(merged, own), places: { ...found, ...set } };
}

function basePaths(path: string, bases: unknown): string[] {
  const list: unknown[] = Array.isArray(bases) ? bases : [bases];
  return list.map((base) => {
    if (typeof base === "string" && base !== "") return resolvedFrom(path, base);
    throw new TunesmithError("config-invalid", `${path}: extends: ${JSON.stringify(base)} is not a path`, {
      fix: "write one path, or a list of paths, relative to this file",
    });
  });
}

/** A path as it is written in a file; kept short when the file's own path is. */
const resolvedFrom = (path: string, base: string): string =>
  /^([/\\]|[a-z]:)/i.test(base) ? base : `${dirname(path) === "." ? "" : `${dirname(path)}/`}${base}`;

async function readOne(path: string): Promise<Omit<ConfigFile, "path">> {
  const lines = new LineCounter();
  // JSON is YAML. Merge keys (`<<`) are part of what YAML files are expected to know.
  const document = parseDocument(await readText(path), { lineCounter: lines, merge: true });
  const [problem] = document.errors;
  if (problem) {
    throw new TunesmithError("config-invalid", `${path}: ${problem.message.split("\n")[0]}`, {
      cause: problem,
      fix: "correct the YAML or JSON",
    });
  }
  const value: unknown = document.toJS({ maxAliasCount: 100 });
  if (!isMapping(value) || !isMap(document.contents)) {
    throw new TunesmithError("config-invalid", `${path} does not hold a mapping of options`, {
      fix: "write one 'key: value' per line, for example 'rank: 8'",
    });
  }
  const places: Record<string, string> = {};
  for (const { key } of document.contents.items) {
    if (!isScalar(key) || !key.range) continue;
    places[String(key.value)] = `${path}:${lines.linePos(key.range[0]).line}`;
  }
  return { values: interpolate(value, path), places };
}
