import { z } from "zod";

/** What configs say of classes. */
export const labelsSchema = {
  id2label: z.record(z.string(), z.string()).nullish(),
  num_labels: z.number().int().positive().nullish(),
  problem_type: z.string().nullish(),
  architectures: z.array(z.string()).nullish(),
  initializer_range: z.number().nullish(),
};
export interface LabelConfig {
  readonly id2label?: Readonly<Record<string, string>> | null | undefined;
  readonly num_labels?: number | null | undefined;
  readonly problem_type?: string | null | undefined;
  readonly architectures?: readonly string[] | null | undefined;
}

/** Names of the classes in order; two when the config names none, as in transformers. */
export function labelsOf({ id2label, num_labels }: LabelConfig): readonly string[] {
  if (id2label) return Object.keys(id2label).map((_, at) => id2label[String(at)] ?? `LABEL_${at}`);
  return Array.from({ length: num_labels ?? 2 }, (_, at) => `LABEL_${at}`);
}

/** Whether a sequence head gives a number instead of classes. */
export const isRegression = (config: LabelConfig): boolean =>
  config.problem_type === "regression" || (!config.problem_type && labelsOf(config).length === 1);
