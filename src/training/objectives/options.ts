import type { z } from "zod";
import { TunesmithError } from "../../errors/index.js";

/** The options of a schema out of an object with others, with defaults. Throws `config-invalid` naming the option. */
export function settingsOf<S extends z.ZodObject>(name: string, schema: S, options: object): z.output<S> {
  const own = Object.fromEntries(
    Object.entries(options).filter(([key, value]) => key in schema.shape && value !== undefined),
  );
  const parsed = schema.safeParse(own);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const where = [name, ...(issue?.path ?? [])].join(".");
  throw new TunesmithError("config-invalid", `${where}: ${issue?.message}`, {
    fix: `its options: ${Object.keys(schema.shape).join(", ")}`,
  });
}
