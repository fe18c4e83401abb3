import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { pythonRegExp } from "../scores/python-regexp.js";
import type { HarnessTask } from "./task.js";

/** A named chain of filters over the answers of one row. */
export interface FilterChain {
  readonly name: string;
  apply(answer: string): string;
}

const regex = z.strictObject({
  function: z.string(),
  regex_pattern: z.string().default("#### (\\-?[0-9\\.\\,]+)"),
  group_select: z.number().int().default(0),
  fallback: z.string().default("[invalid]"),
});
const map = z.strictObject({
  function: z.string(),
  mapping_dict: z.record(z.string(), z.string()),
  default_value: z.string().nullable().default(null),
});
const bare = z.strictObject({ function: z.string() });

type Step = (answer: string) => string;

const FILTERS: Readonly<Record<string, (given: unknown) => Step>> = {
  regex: (given) => regexFilter(regex.parse(given)),
  map(given) {
    const { mapping_dict: table, default_value: fallback } = map.parse(given);
    return (answer) => (Object.hasOwn(table, answer) ? (table[answer] as string) : (fallback ?? "None"));
  },
  remove_whitespace: plain((answer) => answer.trim()),
  lowercase: plain((answer) => answer.toLowerCase()),
  uppercase: plain((answer) => answer.toUpperCase()),
  // A row has one answer, so these only end the chain.
  take_first: plain((answer) => answer),
  majority_vote: plain((answer) => answer),
};

function plain(step: Step): (given: unknown) => Step {
  return (given) => {
    bare.parse(given);
    return step;
  };
}

function regexFilter({
  regex_pattern: pattern,
  group_select: which,
  fallback,
}: z.output<typeof regex>): Step {
  const expression = pythonRegExp(pattern, "g");
  return (answer) => {
    const found = [...answer.matchAll(expression)].at(which);
    if (!found) return fallback;
    // As re.findall: without groups the match, else the first group that is not empty.
    const match = found.length === 1 ? found[0] : found.slice(1).find((group) => group);
    // A single group may be empty; of several, none may be left.
    return match === undefined ? (found.length === 2 ? "" : fallback) : match.trim();
  };
}

/** The filters of a task; without any, answers are taken as they are. Throws `config-invalid` for unknown ones. */
export function filtersOf(task: HarnessTask): FilterChain[] {
  const lists = task.filter_list ?? [{ name: "none", filter: [{ function: "take_first" }] }];
  return lists.map(({ name, filter }) => {
    const steps = filter.map((given) => stepOf(task, given));
    return { name, apply: (answer) => steps.reduce((text, step) => step(text), answer) };
  });
}

function stepOf(task: HarnessTask, given: { readonly function: string }): Step {
  const make = Object.hasOwn(FILTERS, given.function) ? FILTERS[given.function] : undefined;
  if (!make) {
    throw new TunesmithError("config-invalid", `task '${task.task}': no filter '${given.function}'`, {
      fix: `filters: ${Object.keys(FILTERS).join(", ")}`,
    });
  }
  try {
    return make(given);
  } catch (cause) {
    if (cause instanceof TunesmithError) throw cause;
    const [issue] = (cause as z.ZodError).issues;
    throw new TunesmithError(
      "config-invalid",
      `task '${task.task}': filter ${given.function}: ${issue?.path.join(".")}: ${issue?.message}`,
      { fix: "correct filter_list", cause },
    );
  }
}
