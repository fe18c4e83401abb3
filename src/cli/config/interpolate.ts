import { env } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { isMapping, type Mapping } from "./merge.js";

const REFERENCE = /(\$?)\$\{env:([^}]*)\}/g;
const PARTS = /^([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?$/s;
const SECRET = /token|secret|passw|credential|private|api_?key|access_?key/i;

/**
 * `${env:NAME}` and `${env:NAME:-otherwise}` in every text of a configuration; `$${env:NAME}` stays as it is written
 * but for one `$`. Only variables that are named are read, once, as text; nothing is run, and what they hold is not
 * looked through again. A resolved configuration is saved with the run, so that variables that look like secrets are
 * refused. Throws `config-invalid`.
 */
export function interpolate(values: Mapping, path: string): Mapping {
  const walk = (value: unknown, place: string): unknown => {
    if (typeof value === "string") return replaceIn(value, place);
    if (Array.isArray(value)) return value.map((item, at) => walk(item, `${place}[${at}]`));
    if (!isMapping(value)) return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, inner]) => [key, walk(inner, `${place}.${key}`)]),
    );
  };
  return Object.fromEntries(
    Object.entries(values).map(([key, value]) => [key, walk(value, `${path}: ${key}`)]),
  );
}

const replaceIn = (text: string, place: string): string =>
  text.replace(REFERENCE, (whole, dollar: string, inside: string) =>
    dollar === "" ? variable(inside, place) : whole.slice(1),
  );

function variable(inside: string, place: string): string {
  const [, name, otherwise] = PARTS.exec(inside) ?? [];
  if (name === undefined) {
    throw new TunesmithError("config-invalid", `${place}: \${env:${inside}} does not name a variable`, {
      fix: `write \${env:NAME}, or \${env:NAME:-value without it}`,
    });
  }
  if (SECRET.test(name)) {
    throw new TunesmithError("config-invalid", `${place}: ${name} looks like a secret`, {
      fix: "configurations are saved with each run: keep secrets out of them",
    });
  }
  const value = env(name) ?? otherwise;
  if (value !== undefined) return value;
  throw new TunesmithError("config-invalid", `${place}: the environment variable ${name} is not set`, {
    fix: `set it, or write \${env:${name}:-value without it}`,
  });
}
