import { invalid, paired, sum } from "./check.js";
import { average, fromCounts, type PrecisionRecallF1 } from "./classification.js";
import { SCHEMES, type Scheme } from "./schemes.js";

/** A named span of tokens. */
export interface Span {
  readonly type: string;
  /** First token, and one past the last. */
  readonly start: number;
  readonly end: number;
}

export interface SpanScores extends PrecisionRecallF1 {
  readonly type: string;
  readonly support: number;
}

export interface SpanReport {
  readonly types: readonly SpanScores[];
  readonly micro: PrecisionRecallF1;
  readonly macro: PrecisionRecallF1;
  readonly weighted: PrecisionRecallF1;
  /** Share of tags that are right. */
  readonly accuracy: number;
}

export interface SpanOptions {
  /**
   * Read tags strictly by a scheme: a span that breaks its rules is none. Default: as conlleval, which makes the most
   * of any mixture of B, I, E, S and O.
   */
  readonly scheme?: Scheme;
}

interface Tag {
  readonly prefix: string;
  readonly type: string;
}
const OUTSIDE: Tag = { prefix: "O", type: "_" };

function parse(text: string): Tag {
  const prefix = text[0] ?? "O";
  // `O` and a bare `B` have no type; seqeval calls it `_`.
  const type = text.slice(1).replace(/^-/, "");
  return { prefix, type: type === "" ? "_" : type };
}

/**
 * The spans that tags mark, by seqeval's rules.
 *
 * @param tags `B-PER`, `I-PER`, `O`, ... of one sentence
 * @throws `data-invalid` for a tag that `scheme` does not know.
 * @example
 * ```ts
 * import { spansOf } from "tunesmith/training";
 * spansOf(["B-PER", "I-PER", "O", "B-LOC"]); // PER 0 to 2, LOC 3 to 4
 * ```
 */
export function spansOf(tags: readonly string[], options: SpanOptions = {}): Span[] {
  return options.scheme ? strictSpans(tags, options.scheme) : lenientSpans(tags.map(parse));
}

function lenientSpans(tags: readonly Tag[]): Span[] {
  const spans: Span[] = [];
  let previous = OUTSIDE;
  let start = 0;
  for (const [at, tag] of [...tags, OUTSIDE].entries()) {
    if (ends(previous, tag)) spans.push({ type: previous.type, start, end: at });
    if (begins(previous, tag)) start = at;
    previous = tag;
  }
  return spans;
}

function ends(previous: Tag, { prefix, type }: Tag): boolean {
  if (previous.prefix === "O") return false;
  if (previous.prefix === "E" || previous.prefix === "S") return true;
  return "BSO".includes(prefix) || previous.type !== type;
}

function begins(previous: Tag, { prefix, type }: Tag): boolean {
  if (prefix === "O") return false;
  if (prefix === "B" || prefix === "S") return true;
  return "ESO".includes(previous.prefix) || previous.type !== type;
}

function strictSpans(texts: readonly string[], name: Scheme): Span[] {
  const scheme = SCHEMES[name];
  const tags = [...texts.map(parse), OUTSIDE];
  const wrong = texts.find((_, at) => !scheme.allowed.includes(tags[at]?.prefix ?? ""));
  if (wrong !== undefined) {
    invalid(
      "spans",
      `'${wrong}' is no tag of ${name}, which has ${[...scheme.allowed].join(", ")}`,
      "choose its scheme",
    );
  }
  const matches = (patterns: readonly string[], previous: Tag, tag: Tag) =>
    patterns.some((pattern) => {
      const [from, to, same] = pattern.split(" ") as [string, string, string];
      const fits = (set: string, { prefix }: Tag) => set === "*" || set === prefix;
      const typed = same === "any" || (same === "same") === (previous.type === tag.type);
      return fits(from, previous) && fits(to, tag) && typed;
    });
  const at = (index: number) => tags[index] ?? OUTSIDE;
  const spans: Span[] = [];
  let previous = OUTSIDE;
  for (let index = 0; index < tags.length; ) {
    if (!matches(scheme.start, previous, at(index))) {
      previous = at(index++);
      continue;
    }
    let end = index + 1;
    while (end < tags.length && matches(scheme.inside, at(end - 1), at(end))) end++;
    if (matches(scheme.end, at(end - 1), at(end))) spans.push({ type: at(index).type, start: index, end });
    index = end;
    previous = at(index - 1);
  }
  return spans;
}

/**
 * Entity-level precision, recall and F1, 0 to 1, as seqeval: a span counts when type and both ends are right.
 *
 * @param expected tags of each sentence
 * @param predicted tags of each sentence, as many
 * @throws `data-empty` without sentences; `data-invalid` for different lengths.
 * @example
 * ```ts
 * import { spanScores } from "tunesmith/training";
 * const { micro } = spanScores([["B-PER", "I-PER", "O"]], [["B-PER", "O", "O"]]);
 * ```
 */
export function spanScores(
  expected: readonly (readonly string[])[],
  predicted: readonly (readonly string[])[],
  options: SpanOptions = {},
): SpanReport {
  paired("seqeval", expected, predicted);
  const keys = (sentences: readonly (readonly string[])[]) =>
    sentences.flatMap((tags, at) =>
      spansOf(tags, options).map(({ type, start, end }) => ({ type, key: `${at} ${start} ${end} ${type}` })),
    );
  expected.forEach((tags, at) => {
    if (tags.length !== predicted[at]?.length) {
      invalid(
        "seqeval",
        `sentence ${at} has ${tags.length} tags against ${predicted[at]?.length}`,
        "predict one tag for each token",
      );
    }
  });
  const [known, guessed] = [keys(expected), keys(predicted)];
  const found = new Set(known.map(({ key }) => key));
  const types = [...new Set([...known, ...guessed].map(({ type }) => type))].sort().map((type) => {
    const mine = guessed.filter((span) => span.type === type);
    const support = known.filter((span) => span.type === type).length;
    const right = mine.filter(({ key }) => found.has(key)).length;
    return { type, support, ...fromCounts(right, mine.length, support) };
  });
  const flat = expected.flat();
  const other = predicted.flat();
  return {
    types,
    micro: fromCounts(guessed.filter(({ key }) => found.has(key)).length, guessed.length, known.length),
    macro: average(types, () => 1),
    weighted: average(types, ({ support }) => support),
    accuracy: sum(flat.map((tag, at) => (tag === other[at] ? 1 : 0))) / Math.max(1, flat.length),
  };
}
