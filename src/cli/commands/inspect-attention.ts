import type { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { type HeadEfficiency, isAdapted, loraEfficiency } from "../../methods/index.js";
import type { Context } from "../command.js";
import type { inspectSchema } from "../config/schema.js";
import { columns } from "../tracking/text.js";
import { openAdapted, rowLength, tokenizerOf } from "../work.js";

type Config = z.output<typeof inspectSchema>;

/** Norms in the attention of a language model with an adapter, measured on a text. */
export async function inspectAttention(
  { model: path, adapter, anyBase, adapterTask, prompt }: Config,
  { ui, signal }: Context,
): Promise<void> {
  if (adapter === undefined || prompt === undefined) {
    throw new TunesmithError("config-invalid", "--adapter and --prompt belong together", {
      fix: "give both: norms in attention are those of an adapter on a text",
    });
  }
  const model = await openAdapted({ model: path, adapter, anyBase, adapterTask }, ui, signal, "causal-lm");
  const ids = tokenizerOf(model).encode(prompt).slice(0, rowLength(model, undefined));
  if (!isAdapted(model)) return;
  const heads = await loraEfficiency(model, "default", Array.from(ids));
  const [first] = heads as [HeadEfficiency];
  const below = heads.filter((head) => head.below).length;
  ui.say(
    `\nlargest entries of queries and keys, of the factor of the scores half each, on ${ids.length} tokens; √ln(tokens) is ${first.threshold.toFixed(2)}`,
  );
  ui.say(columns(["attention", "head", "queries", "keys", "", "alpha / rank up to"], heads.map(line)));
  ui.say(
    `${below} of ${heads.length} heads are below: linear attention, and gradients in almost linear time, are near softmax's there only`,
  );
  ui.result({ tokens: ids.length, heads });
}

const line = ({ path, head, gQ, gK, below, suggestedMaxScale }: HeadEfficiency): string[] => [
  path,
  String(head),
  gQ.toFixed(2),
  gK.toFixed(2),
  below ? "below" : "above",
  suggestedMaxScale === undefined ? "-" : suggestedMaxScale.toPrecision(3),
];
