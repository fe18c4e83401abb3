import { z } from "zod";

/** Options of `config show` and `config explain`. */

export const configShowSchema = z.strictObject({
  file: z.string().min(1).describe("YAML or JSON configuration file"),
  set: z
    .array(z.string())
    .meta({ verbatim: true })
    .default([])
    .describe("key=value on top of the file; may be repeated"),
});

export const configExplainSchema = z.strictObject({
  key: z.string().min(1).describe("key of a configuration, such as rank"),
  file: z.string().min(1).optional().describe("also say what this configuration file sets it to, and where"),
});
