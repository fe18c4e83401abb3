import { z } from "zod";

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
