import type { Layout, LayoutGuess } from "../types.js";
import { ALIASES, type FieldName, type FieldNames, type Fields, isFields, PAIRS } from "./fields.js";
import { verdict } from "./pairs.js";
import { readRow } from "./read.js";

/** A layout that some row's fields fit, and how they are named there. */
interface Candidate {
  readonly layout: Layout;
  readonly fields: FieldNames;
}

/** The most telling first: a row of preferences may also have a text, never the other way round. */
const ORDER: readonly Layout[] = [
  "preference",
  "feedback",
  "image",
  "audio",
  "tags",
  "chat",
  "alpaca",
  "completion",
  "similarity",
  "classification",
  "text",
];

const REQUIRED: Readonly<Record<Layout, readonly FieldName[]>> = {
  preference: ["chosen", "rejected"],
  feedback: ["prompt", "completion", "label"],
  image: ["image", "label"],
  audio: ["audio", "label"],
  tags: ["tokens", "tags"],
  chat: ["messages"],
  alpaca: ["instruction", "output"],
  completion: ["prompt", "completion"],
  similarity: ["anchor", "positive"],
  classification: ["text", "label"],
  text: ["text"],
};

const OPTIONAL: Readonly<Partial<Record<Layout, readonly FieldName[]>>> = { similarity: ["negative"] };

/** Confidence of a guess that rests on names other than the layout's own. */
const INTERPRETED = 0.8;

/**
 * Finds the layout that most of the values can be read in. Undefined when none of them has the fields of one.
 *
 * @param values Some rows of a data file as they were parsed.
 * @param fields Names of fields that are known.
 * @param only Looks for the names of this layout's fields only.
 *
 * @example
 * ```ts
 * import { detectLayout } from "tunesmith/data";
 * const guess = detectLayout([{ question: "1 + 1?", answer: "2" }]);
 * console.log(guess?.layout, guess?.confidence, guess?.reason); // completion 0.8 ...
 * ```
 */
export function detectLayout(
  values: readonly unknown[],
  fields: FieldNames = {},
  only?: Layout,
): LayoutGuess | undefined {
  const found = new Map<string, Candidate & { fits: number; has: number }>();
  for (const value of values) {
    if (!isFields(value)) continue;
    for (const candidate of candidatesOf(value, fields)) {
      if (only !== undefined && candidate.layout !== only) continue;
      const key = JSON.stringify(candidate);
      const entry = found.get(key) ?? { ...candidate, fits: 0, has: 0 };
      entry.has++;
      if (typeof readRow(value, candidate.layout, candidate.fields) !== "string") entry.fits++;
      found.set(key, entry);
    }
  }
  const renamed = (candidate: Candidate) => Object.keys(interpreted(candidate, fields)).length;
  const ranked = [...found.values()].sort(
    (a, b) =>
      b.fits - a.fits ||
      b.has - a.has ||
      ORDER.indexOf(a.layout) - ORDER.indexOf(b.layout) ||
      renamed(a) - renamed(b),
  );
  const best = ranked[0];
  if (!best) return undefined;
  const share = best.fits / values.length;
  const names = interpreted(best, fields);
  const alternatives = [...new Set(ranked.filter(({ fits }) => fits > 0).map(({ layout }) => layout))];
  return {
    layout: best.layout,
    confidence: share * (renamed(best) > 0 ? INTERPRETED : 1),
    reason: reasonOf(best, values.length, names),
    fields: best.fields as Readonly<Record<string, string>>,
    alternatives: alternatives.filter((layout) => layout !== best.layout),
  };
}

/** Names of fields that the caller did not give and that are not the layout's own. */
function interpreted({ fields }: Candidate, given: FieldNames): Record<string, string> {
  const entries = Object.entries(fields).filter(
    ([name, field]) => field !== name && given[name as FieldName] !== field,
  );
  return Object.fromEntries(entries);
}

function reasonOf(best: Candidate & { fits: number }, rows: number, names: Record<string, string>): string {
  const required = requiredOf(best).map((name) => `'${best.fields[name] ?? name}'`);
  const has = `${best.fits} of the first ${rows} rows have ${required.join(" and ")}`;
  const read = Object.entries(names).map(([name, field]) => `'${field}' as the ${name}`);
  return read.length > 0 ? `${has}; ${read.join(", ")} by its name` : has;
}

const requiredOf = ({ layout, fields }: Candidate): readonly FieldName[] =>
  layout === "feedback" && fields.messages !== undefined
    ? ["messages", "label"]
    : fields.pair !== undefined
      ? ["text", "pair", "label"]
      : REQUIRED[layout];

/** Every layout whose fields a row has, in order. */
function candidatesOf(value: Fields, given: FieldNames): Candidate[] {
  return ORDER.flatMap((layout) => {
    const fields = layout === "classification" ? pairFields(value, given) : undefined;
    const named = fields ?? namesFor(value, layout, given);
    return named && isPlausible(value, layout, named) ? [{ layout, fields: named }] : [];
  });
}

function namesFor(value: Fields, layout: Layout, given: FieldNames): FieldNames | undefined {
  const judged = layout === "feedback" && nameOf(value, "messages", given) !== undefined;
  const required = judged ? (["messages", "label"] as const) : REQUIRED[layout];
  const names: Partial<Record<FieldName, string>> = { ...given };
  const taken = new Set<string>();
  for (const name of required) {
    const field = nameOf(value, name, given, taken);
    if (field === undefined) return undefined;
    taken.add(field);
    if (field !== name || judged) names[name] = field;
  }
  for (const name of OPTIONAL[layout] ?? []) {
    const field = nameOf(value, name, given, taken);
    if (field !== undefined && field !== name) names[name] = field;
  }
  // ShareGPT's name is one of the layout's own.
  if (layout === "chat" && names.messages === "conversations" && given.messages === undefined) {
    delete names.messages;
  }
  return names;
}

function nameOf(
  value: Fields,
  name: FieldName,
  given: FieldNames,
  taken: ReadonlySet<string> = new Set(),
): string | undefined {
  if (given[name] !== undefined) return given[name] in value ? given[name] : undefined;
  return [name, ...(ALIASES[name] ?? [])].find((field) => field in value && !taken.has(field));
}

function pairFields(value: Fields, given: FieldNames): FieldNames | undefined {
  const label = nameOf(value, "label", given) ?? ("score" in value ? "score" : undefined);
  const pair = given.pair ? undefined : PAIRS.find(([a, b]) => a in value && b in value);
  if (label === undefined || !pair) return undefined;
  const names = { ...given, text: pair[0], pair: pair[1] };
  return label === "label" ? names : { ...names, label };
}

/** Where names alone would be too weak: a verdict is true or false, a class is a word or a number. */
function isPlausible(value: Fields, layout: Layout, fields: FieldNames): boolean {
  if (layout === "feedback") return verdict(value[fields.label ?? "label"]) !== undefined;
  if (layout === "image" || layout === "audio") return typeof value[fields[layout] ?? layout] === "object";
  return true;
}
