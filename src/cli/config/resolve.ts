import type { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { nearest } from "../../models/index.js";
import { type Field, fieldOf, nameList } from "./flags.js";

/** Options as they were given, and where. */
export interface Given {
  readonly flags: Readonly<Record<string, unknown>>;
  readonly file?: { readonly path: string; readonly values: Readonly<Record<string, unknown>> } | undefined;
}

/**
 * File and flags together, checked; flags win. Throws `config-invalid` naming the flag or the file's key: for unknown
 * keys (with near names), missing and wrong values.
 */
export function resolveOptions<S extends z.ZodObject>(schema: S, { flags, file }: Given): z.output<S> {
  const fields = new Map(
    Object.entries(schema.shape).map(([key, part]) => [key, fieldOf(key, part as z.ZodType)] as const),
  );
  if (file) checkKeys(file.path, Object.keys(file.values), fields);
  for (const key of Object.keys(flags)) {
    if (!fields.has(key)) throw unknownFlag(key, fields);
  }
  const values = Object.fromEntries(
    Object.entries({ ...file?.values, ...flags })
      .filter(([key]) => key !== "$schema")
      .map(([key, value]) => [key, normal(fields.get(key), value)]),
  );
  const parsed = schema.safeParse(values);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const key = String(issue?.path[0] ?? "");
  const field = fields.get(key);
  const place = key in flags || !file || !(key in file.values) ? field?.flag : `${file.path}: ${key}`;
  if (!(key in values)) {
    throw new TunesmithError("config-invalid", `${field?.flag ?? key} is missing`, {
      fix: `give ${field?.flag ?? key}: ${field?.description}`,
    });
  }
  const inner = issue?.path.slice(1).join(".");
  const message = `${place}${inner ? ` (${inner})` : ""}: ${reasonOf(issue, values[key])}`;
  throw new TunesmithError("config-invalid", message, { fix: fixOf(field) });
}

/** A list written as one text means the same in a file as on the command line. */
const normal = (field: Field | undefined, value: unknown): unknown =>
  typeof value === "string" && field?.kinds.has("string") && field.kinds.has("array of string")
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
