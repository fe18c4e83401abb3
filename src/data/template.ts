import { sha256 } from "#io";
import type { Tokenizer } from "../models/tokenizer/index.js";

/** The chat template of a run, decided once. */
export interface ResolvedTemplate {
  /** Jinja source. */
  readonly template: string;
  readonly from: "option" | "tokenizer";
  /** SHA-256 of the source. */
  readonly hash: string;
}

/** The template that conversations are laid out with; undefined when there is none. */
export async function resolveTemplate(
  tokenizer: Tokenizer,
  option?: string,
): Promise<ResolvedTemplate | undefined> {
  const template = option ?? tokenizer.chatTemplate;
  if (template === undefined) return undefined;
  const hash = await sha256(new TextEncoder().encode(template));
  return { template, from: option === undefined ? "tokenizer" : "option", hash };
}
