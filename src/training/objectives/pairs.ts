import {
  answerRow,
  type FeedbackRow,
  type PreferenceRow,
  type Row,
  type TokenizedExample,
  type TokenizeOptions,
  tokenizeExamples,
} from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import type { Tokenizer } from "../../models/index.js";

/** Two answers to one prompt as tokens; the prompt's have no loss. */
export interface PairExample {
  readonly chosen: TokenizedExample;
  readonly rejected: TokenizedExample;
  /** Summed log-probabilities of the answers under the reference model, where they are known. */
  readonly reference?: { readonly chosen: number; readonly rejected: number };
}

/** One answer with a verdict as tokens. */
export interface FeedbackExample {
  readonly answer: TokenizedExample;
  readonly desirable: boolean;
}

/** Examples, and how many rows gave none because the prompt fills the row. */
export interface Judged<E> {
  readonly examples: readonly E[];
  readonly dropped: number;
}

/**
 * Preference rows as tokens; a pair that loses one of its answers at `maxLength` is dropped. Throws `data-invalid` for rows
 * of other kinds, `data-empty` when nothing is left.
 */
export function tokenizePairs(
  rows: readonly Row[],
  tokenizer: Tokenizer,
  options: TokenizeOptions,
): Judged<PairExample> {
  const pairs = rows.map((row) => (row.kind === "preference" ? row : wrongKind(row, "preference")));
  const side = (name: "chosen" | "rejected") =>
    aligned(
      pairs.map((row: PreferenceRow) => answerRow(row, name)),
      tokenizer,
      options,
    );
  const [chosen, rejected] = [side("chosen"), side("rejected")];
  const examples = chosen.flatMap((answer, at) => {
    const other = rejected[at];
    return answer && other ? [{ chosen: answer, rejected: other }] : [];
  });
  return { examples: notEmpty(examples), dropped: rows.length - examples.length };
}

/** Feedback rows as tokens. Throws as `tokenizePairs`. */
export function tokenizeFeedback(
  rows: readonly Row[],
  tokenizer: Tokenizer,
  options: TokenizeOptions,
): Judged<FeedbackExample> {
  const judged = rows.map((row) => (row.kind === "feedback" ? row : wrongKind(row, "feedback")));
  const answers = aligned(
    judged.map((row: FeedbackRow) => answerRow(row)),
    tokenizer,
    options,
  );
  const examples = answers.flatMap((answer, at) =>
    answer ? [{ answer, desirable: judged[at]?.desirable === true }] : [],
  );
  return { examples: notEmpty(examples), dropped: rows.length - examples.length };
}

/** One example per row; undefined where nothing of the answer is left. */
function aligned(rows: readonly Row[], tokenizer: Tokenizer, options: TokenizeOptions) {
  const { examples, report } = tokenizeExamples(rows, tokenizer, { ...options, trainOn: "last" });
  const gone = new Set(report.dropped.map(({ row }) => Number(row) - 1));
  let at = 0;
  return rows.map((_, row) => (gone.has(row) ? undefined : examples[at++]));
}

function notEmpty<E>(examples: readonly E[]): readonly E[] {
  if (examples.length > 0) return examples;
  throw new TunesmithError("data-empty", "no pair of answers is left after tokenizing", {
    fix: "raise maxLength: prompts alone fill the rows",
  });
}

function wrongKind(row: Row, wanted: string): never {
  throw new TunesmithError("data-invalid", `a ${row.kind} row is no ${wanted} row`, {
    fix: `give rows of layout ${wanted}, or choose the objective that fits the data`,
    details: { kind: row.kind },
  });
}
