import { fileExists, joinPath, readText, sha256, writeFileAtomic } from "#io";
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

/** The name that `transformers` gives the file, too. */
const FILE = "chat_template.jinja";

/** Puts a template beside what was trained with it (an adapter, a model). */
export async function writeTemplate(folder: string, { template }: ResolvedTemplate): Promise<void> {
  await writeFileAtomic(joinPath(folder, FILE), template);
}

/** The template that an adapter or model was trained with; undefined when none lies beside it. */
export async function readTemplate(folder: string): Promise<string | undefined> {
  const path = joinPath(folder, FILE);
  return (await fileExists(path)) ? readText(path) : undefined;
}
