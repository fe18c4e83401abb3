import { z } from "zod";
import { TunesmithError } from "../errors/index.js";

const names = z.union([z.string(), z.array(z.string())]);

/** What every method's configuration shares; methods extend it with their own fields. */
export const siteConfigSchema = z.strictObject({
  targets: names
    .optional()
    .describe("modules to adapt: name endings (list), a regular expression (string), or all-linear"),
  exclude: names.optional().describe("modules to leave out, as targets"),
  layers: z.array(z.number().int().nonnegative()).optional().describe("only these layer indices"),
  layersPattern: names.optional().describe("name of the module list that counts layers"),
  modulesToSave: z.array(z.string()).optional().describe("modules trained whole and saved with the adapter"),
  bias: z.enum(["none", "all", "adapted"]).default("none").describe("which biases are trained"),
  trainableTokens: z
    .union([
      z.array(z.number().int().nonnegative()),
      z.record(z.string(), z.array(z.number().int().nonnegative())),
    ])
    .optional()
    .describe("rows of the input embedding to train"),
});

/** Reads a configuration by a method's schema. Throws `config-invalid` naming method, field and what is wrong. */
export function parseConfig<Schema extends z.ZodObject>(
  method: string,
  schema: Schema,
  config: unknown,
): z.infer<Schema> {
  const parsed = schema.safeParse(config);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const field = issue?.path.join(".") ?? "";
  throw new TunesmithError("config-invalid", `${method}: ${field ? `${field}: ` : ""}${issue?.message}`, {
    fix: `its options: ${Object.keys(schema.shape).join(", ")}`,
    details: { method, field },
  });
}
