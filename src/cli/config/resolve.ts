import type { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { nearest } from "../../models/index.js";
import type { ConfigFile } from "./file.js";
import { type Field, fieldOf, nameList } from "./flags.js";
import { type Mapping, mergeMappings } from "./merge.js";

/** Options as they were given, and where. */
export interface Given {
  readonly flags: Mapping;
  /** What `--set` gives. */
  readonly set?: Mapping;
  readonly file?: ConfigFile | undefined;
}

/** Everything that was given as one mapping, unchecked: flags win over `--set`, that over the file. */
export const givenValues = ({ flags, set = {}, file }: Given): Mapping => ({
  ...mergeMappings(file?.values ?? {}, set),
  ...flags,
});

/** Where the value of each option of a resolved configuration came from: `--rank`, `--set`, `run.yaml:3`, `default`. */
export function originsOf(options: Mapping, given: Given): Record<string, string> {
  const origin = (key: string) => {
    if (Object.hasOwn(given.flags, key)) return fieldOf(key, noSchema).flag;
    const inFile = given.file && Object.hasOwn(given.file.values, key) ? given.file.places[key] : undefined;
    if (!Object.hasOwn(given.set ?? {}, key)) return inFile ?? "default";
    // Only a mapping is changed by parts; anything else is replaced.
    const both = inFile !== undefined && isMergedBy(given, key);
    return both ? `${inFile}, --set` : "--set";
  };
  const keys = Object.keys(options).filter((key) => options[key] !== undefined);
  return Object.fromEntries(keys.map((key) => [key, origin(key)]));
}

const isMergedBy = ({ file, set }: Given, key: string): boolean =>
  [file?.values[key], set?.[key]].every(
    (value) => typeof value === "object" && value !== null && !Array.isArray(value),
  );

/**
 * File, `--set` and flags together, checked; flags win. Throws `config-invalid` naming the flag or the file's key: for unknown
 * keys (with near names), missing and wrong values.
 */
export function resolveOptions<S extends z.ZodObject>(schema: S, given: Given): z.output<S> {
  const { flags, set = {}, file } = given;
  const fields = new Map(
    Object.entries(schema.shape).map(([key, part]) => [key, fieldOf(key, part as z.ZodType)] as const),
  );
  if (file) checkKeys(file.path, Object.keys(file.values), fields);
  checkKeys("--set", Object.keys(set), fields);
  checkTwice(given);
  for (const key of Object.keys(flags)) {
    if (!fields.has(key)) throw unknownFlag(key, fields);
  }
  const values = Object.fromEntries(
    Object.entries(givenValues(given))
      .filter(([key]) => key !== "$schema")
      .map(([key, value]) => [key, normal(fields.get(key), value)]),
  );
  const parsed = schema.safeParse(values);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const key = String(issue?.path[0] ?? "");
  const field = fields.get(key);
  const place = placeOf(given, key) ?? field?.flag;
  if (!(key in values)) {
    throw new TunesmithError("config-invalid", `${field?.flag ?? key} is missing`, {
      fix: `give ${field?.flag ?? key}: ${field?.description}`,
    });
  }
  const inner = issue?.path.slice(1).join(".");
  const message = `${place}${inner ? ` (${inner})` : ""}: ${reasonOf(issue, values[key])}`;
  throw new TunesmithError("config-invalid", message, { fix: fixOf(field) });
}

/** A key in a file or in `--set`; undefined for flags. */
function placeOf({ flags, set = {}, file }: Given, key: string): string | undefined {
  if (Object.hasOwn(flags, key)) return undefined;
  if (Object.hasOwn(set, key)) return `--set ${key}`;
  if (!file || !Object.hasOwn(file.values, key)) return undefined;
  return `${file.places[key]?.replace(/:\d+$/, "") ?? file.path}: ${key}`;
}

function checkTwice({ flags, set = {} }: Given): void {
  const twice = Object.keys(set).find((key) => Object.hasOwn(flags, key));
  if (twice === undefined) return;
  const { flag } = fieldOf(twice, noSchema);
  throw new TunesmithError("config-invalid", `${twice} is given twice: ${flag} and --set ${twice}`, {
    fix: "leave one of them out",
  });
}

/** A list written as one text means the same in a file as on the command line. */
const normal = (field: Field | undefined, value: unknown): unknown =>
  typeof value === "string" &&
  !field?.several &&
  field?.kinds.has("string") &&
  field.kinds.has("array of string")
    ? nameList(value)
    : value;

function checkKeys(path: string, keys: readonly string[], fields: ReadonlyMap<string, Field>): void {
  const unknown = keys.find((key) => key !== "$schema" && !fields.has(key));
  if (unknown === undefined) return;
  throw new TunesmithError("config-invalid", `${path}: unknown key '${unknown}'`, {
    fix: `near names: ${nearest(unknown, fields.keys(), 3).join(", ")}`,
    details: { key: unknown },
  });
}

function unknownFlag(key: string, fields: ReadonlyMap<string, Field>): TunesmithError {
  const flag = fieldOf(key, noSchema).flag;
  const known = [...fields.values()].map((field) => field.flag);
  return new TunesmithError("config-invalid", `${flag} is not an option of this method`, {
    fix: `near names: ${nearest(flag, known, 3).join(", ")}`,
  });
}
const noSchema = { def: { type: "unknown" }, meta: () => undefined } as unknown as z.ZodType;

function reasonOf(issue: z.core.$ZodIssue | undefined, value: unknown): string {
  const shown = JSON.stringify(value);
  if (issue?.code === "invalid_value") return `${shown} is not one of ${issue.values.join(", ")}`;
  const text = issue?.message.replace(/^Invalid input: |^Too \w+: /, "") ?? "invalid";
  return `${shown}: ${text}`;
}

function fixOf(field: Field | undefined): string {
  if (!field) return "see --help";
  const { choices, fallback, flag, description } = field;
  if (choices) return `use one of: ${choices.join(", ")}`;
  return typeof fallback === "number"
    ? `for example ${flag} ${fallback} (${description})`
    : `${flag} is: ${description}`;
}
