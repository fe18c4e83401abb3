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
