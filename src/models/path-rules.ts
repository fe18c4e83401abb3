import { TunesmithError } from "../errors/index.js";

/** A regular expression of the user's. Throws `config-invalid` for a pattern JavaScript cannot read. */
export function userRegex(source: string, shown: string): RegExp {
  try {
    return new RegExp(source);
  } catch (cause) {
    throw new TunesmithError("config-invalid", `'${shown}' is not a valid regular expression`, {
      cause,
      fix: "escape special characters, or give a list of module names",
    });
  }
}

/** Whether a module path equals an item or ends in `.item`. */
export const endsWithName = (path: string, items: readonly string[]): boolean =>
  items.some((item) => path === item || path.endsWith(`.${item}`));

/** A list is of names and endings of paths; a string is a regular expression over the whole path (`re.fullmatch`). */
export const matchesPath = (path: string, rule: string | readonly string[]): boolean =>
  typeof rule === "string" ? userRegex(`^(?:${rule})$`, rule).test(path) : endsWithName(path, rule);

/**
 * Short names that select these paths: the last segment of each, or the whole path where that is a number, a group of
 * modules or the name of something else too.
 */
export function namesOf(chosen: readonly string[], all: readonly string[]): string[] {
  const wanted = new Set(chosen);
  const groups = all.flatMap((path) => [...path.matchAll(/\./g)].map(({ index }) => path.slice(0, index)));
  const others = [...all.filter((path) => !wanted.has(path)), ...groups];
  const isClear = (name: string) => !/^\d+$/.test(name) && !others.some((path) => endsWithName(path, [name]));
  const clear = new Map<string, boolean>();
  const names = chosen.map((path) => {
    const name = path.slice(path.lastIndexOf(".") + 1);
    if (!clear.has(name)) clear.set(name, isClear(name));
    return clear.get(name) ? name : path;
  });
  return [...new Set(names)];
}
