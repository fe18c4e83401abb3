import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";

const label = z.union([z.string(), z.number()]);
const numbers = z.array(z.number());

/**
 * What scores read, one object per example. `text` is a model's answer with acceptable ones; `labels` a class;
 * `probabilities` those of all classes, `expected` the number of the right one; `tags` one tag for each token; `ranking`
 * a search; `numbers` one value; `series` a forecast with what came before; `likelihood` how a text was predicted.
 */
export const exampleSchemas = {
  labels: z.object({ expected: label, predicted: label }),
  probabilities: z.object({ expected: z.number().int().min(0), probabilities: numbers.min(1) }),
  text: z.object({ prediction: z.string(), references: z.union([z.string(), z.array(z.string()).min(1)]) }),
  tags: z.object({ expected: z.array(z.string()), predicted: z.array(z.string()) }),
  ranking: z.object({ ranked: z.array(z.string()), relevant: z.record(z.string(), z.number()) }),
  numbers: z.object({ expected: z.number(), predicted: z.number() }),
  series: z.object({ expected: numbers.min(1), predicted: numbers, history: numbers }),
  likelihood: z.object({
    logLikelihood: z.number(),
    tokens: z.number(),
    words: z.number(),
    bytes: z.number(),
  }),
} as const;

/** A kind of example. */
export type ExampleKind = keyof typeof exampleSchemas;

/** An example of one kind. */
export type ExampleOf<K extends ExampleKind> = z.output<(typeof exampleSchemas)[K]>;

/**
 * Reads examples of a kind. Throws `data-invalid` naming the first that lacks a field, `data-empty` without examples.
 *
 * @param where for the message: a file's name
 */
export function readExamples<K extends ExampleKind>(
  kind: K,
  values: readonly unknown[],
  where = "examples",
): ExampleOf<K>[] {
  if (values.length === 0) {
    throw new TunesmithError("data-empty", `${where}: no example`, { fix: "give at least one" });
  }
  return values.map((value, at) => {
    const read = exampleSchemas[kind].safeParse(value);
    if (read.success) return read.data as ExampleOf<K>;
    const issue = read.error.issues[0];
    throw new TunesmithError(
      "data-invalid",
      `${where}: example ${at + 1} is no '${kind}' example: ${issue?.path.join(".") || "value"}: ${issue?.message}`,
      { fix: `give ${Object.keys(exampleSchemas[kind].shape).join(", ")}, or a metric of another kind` },
    );
  });
}
