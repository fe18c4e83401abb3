import { TunesmithError } from "../../errors/index.js";
import type { TensorModel } from "../../models/index.js";

/** Names that a config gives when nobody named the classes. */
const UNNAMED = /^LABEL_\d+$/;

/**
 * The place of a label among the model's classes: its name, or where the classes have no names, its number. Throws
 * `data-invalid` for one the model does not have.
 */
export function classIndex({ labels = [] }: Pick<TensorModel, "labels">, label: string | number): number {
  const named = labels.indexOf(String(label));
  if (named >= 0) return named;
  const number = typeof label === "number" ? label : Number.NaN;
  const unnamed = labels.every((name) => UNNAMED.test(name));
  if (Number.isInteger(number) && number >= 0 && number < labels.length && unnamed) return number;
  throw new TunesmithError("data-invalid", `the model has no class '${label}'`, {
    fix: `its classes: ${labels.slice(0, 12).join(", ") || "none"}; load it with { labels: [...] } (--head) for others`,
    details: { label },
  });
}
