import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";

const nameList = z.union([z.string(), z.array(z.string())]).nullish();

/** What all methods share in `adapter_config.json`; the rest is the method's own, and unknown keys are let through. */
export const peftSchema = z.looseObject({
  peft_type: z.string(),
  base_model_name_or_path: z.string().nullish(),
  task_type: z.string().nullish(),
  bias: z.string().nullish(),
  target_modules: nameList,
  exclude_modules: nameList,
  layers_to_transform: z.union([z.number(), z.array(z.number())]).nullish(),
  layers_pattern: nameList,
  modules_to_save: z.array(z.string()).nullish(),
  trainable_token_indices: z
    .union([z.array(z.number()), z.record(z.string(), z.array(z.number()))])
    .nullish(),
});
export type PeftConfig = z.infer<typeof peftSchema>;

/** Reads a part of `adapter_config.json` by its schema. Throws `adapter-invalid` naming file, key and what is wrong. */
export function parsePart<Schema extends z.ZodType>(
  schema: Schema,
  config: Readonly<Record<string, unknown>>,
  file: string,
): z.infer<Schema> {
  const parsed = schema.safeParse(config);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new TunesmithError("adapter-invalid", `${file}: ${issue?.path.join(".")}: ${issue?.message}`, {
    fix: "compare it with a file that PEFT wrote",
  });
}
