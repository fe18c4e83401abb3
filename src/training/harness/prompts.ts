import { TunesmithError } from "../../errors/index.js";
import { pythonRandom } from "../../runtime/random/index.js";
import type { TaskData } from "./documents.js";
import { listLiteral } from "./literal.js";
import type { HarnessTask } from "./task.js";
import { type Doc, type DocTemplate, docTemplate } from "./templates.js";

/** A target is a text, the number of a choice, or several of one of these. */
export type Target = string | number | readonly (string | number)[];

/** The parts of a task that are computed from rows. */
export interface Prompts {
  /** A text, or the number of a choice when the choices are the inputs. */
  text(doc: Doc): string | number;
  target(doc: Doc): Target;
  choices(doc: Doc): readonly string[];
  description(doc: Doc): string;
}

/** Compiles the templates of a task. `fields` are those of its rows: a template that is a field's name gives the field. */
export function promptsOf(task: HarnessTask, fields: ReadonlySet<string>): Prompts {
  const compiled = new Map<string, DocTemplate>();
  const of = (source: string): DocTemplate => {
    const known = compiled.get(source) ?? docTemplate(source);
    compiled.set(source, known);
    return known;
  };
  const hasChoices = task.doc_to_choice !== undefined;
  const index = (text: string) => (/^\d+$/.test(text) && hasChoices ? Number(text) : undefined);
  return {
    text(doc) {
      const source = task.doc_to_text;
      if (typeof source === "number") return source;
      if (fields.has(source)) return textOrIndex(doc[source], source, task);
      const text = of(source).render(doc);
      return index(text) ?? text;
    },
    target(doc) {
      const source = task.doc_to_target;
      if (typeof source !== "string") return source;
      if (fields.has(source)) return targetField(doc[source], source, task);
      const text = of(source).render(doc);
      return index(text) ?? listLiteral(text) ?? text;
    },
    choices(doc) {
      const source = task.doc_to_choice;
      if (source === undefined) throw wrong(task, "doc_to_choice", "is needed");
      if (typeof source !== "string") return Array.isArray(source) ? source : Object.values(source);
      const value = fields.has(source) ? doc[source] : of(source).value(doc);
      const list = typeof value === "string" ? listLiteral(value) : value;
      const isList = Array.isArray(list) && list.length > 0 && list.every((item) => typeof item === "string");
      if (!isList) throw wrong(task, "doc_to_choice", `gives ${JSON.stringify(value)}, not a list of texts`);
      return list as string[];
    },
    description: (doc) => (task.description === "" ? "" : of(task.description).render(doc)),
  };
}

function textOrIndex(value: unknown, field: string, task: HarnessTask): string | number {
  if (typeof value === "string" || typeof value === "number") return value;
  throw wrong(task, field, `is ${JSON.stringify(value)}, not a text`);
}

function targetField(value: unknown, field: string, task: HarnessTask): Target {
  const simple = (item: unknown) => typeof item === "string" || typeof item === "number";
  if (typeof value === "boolean") return Number(value);
  if (simple(value) || (Array.isArray(value) && value.every(simple))) return value as Target;
  throw wrong(task, field, `is ${JSON.stringify(value)}, not a text, a number or a list of these`);
}

export const wrong = (task: HarnessTask, what: string, problem: string) =>
  new TunesmithError("data-invalid", `task '${task.task}': ${what} ${problem}`, {
    fix: "correct the task's templates or its data",
  });

/** Chooses the solved examples that stand before a question. */
export interface FewShot {
  sample(doc: Doc): readonly Doc[];
}

/** The harness seeds Python's generator with this for every task. */
const FEWSHOT_SEED = 1234;

/** The few-shot examples of a task, the same that the harness draws for the same seed. */
export async function fewShotOf(
  task: HarnessTask,
  data: TaskData,
  options: { shots: number; evalSplit: string; seed?: number },
): Promise<FewShot> {
  const { shots, evalSplit, seed = FEWSHOT_SEED } = options;
  if (shots === 0) return { sample: () => [] };
  const { sampler = "default", samples } = task.fewshot_config ?? {};
  const chosen = task.fewshot_config?.split ?? task.fewshot_split ?? undefined;
  const split = chosen ?? task.training_split ?? task.validation_split ?? evalSplit;
  if (chosen === undefined && !samples && split === evalSplit) {
    throw new TunesmithError(
      "config-invalid",
      `task '${task.task}': no split to take ${shots} examples from`,
      {
        fix: `name one as fewshot_split; '${evalSplit}' itself is possible, a row is then not its own example`,
      },
    );
  }
  const pool = chosen === undefined && samples ? samples : await data.split(split);
  // What the harness does: a row is kept out of its own examples when they come from the test split.
  const excludesSelf = chosen === evalSplit;
  const random = pythonRandom(seed);
  const draw = (rows: readonly Doc[], count: number) => {
    if (rows.length >= count) return random.sample(rows.length, count).map((at) => rows[at] as Doc);
    throw new TunesmithError("data-empty", `task '${task.task}': ${rows.length} rows for ${count} examples`, {
      fix: "lower num_fewshot, or name a larger fewshot_split",
    });
  };
  return {
    sample(doc) {
      const others = (rows: readonly Doc[]) => rows.filter((row) => !sameDoc(row, doc));
      if (sampler === "first_n") return (excludesSelf ? others(pool) : pool).slice(0, shots);
      if (!excludesSelf) return draw(pool, shots);
      const drawn = others(draw(pool, shots + 1)).slice(0, shots);
      return drawn.length === shots ? drawn : draw(others(pool), shots);
    },
  };
}

const sameDoc = (a: Doc, b: Doc): boolean => a === b || JSON.stringify(a) === JSON.stringify(b);

/**
 * The text before a row's answer: description, solved examples, question. Several when the choices are inputs.
 */
export function contextOf(task: HarnessTask, prompts: Prompts, doc: Doc, shots: readonly Doc[]): string[] {
  const examples = shots.map((shot) => {
    const text = prompts.text(shot);
    const question = typeof text === "number" ? choice(task, prompts.choices(shot), text) : text;
    const answer = answerOf(task, prompts, shot, typeof text === "number");
    return answer === "" ? question : `${question}${task.target_delimiter}${answer}${task.fewshot_delimiter}`;
  });
  const before = prompts.description(doc) + examples.join("");
  const text = prompts.text(doc);
  return typeof text === "number" ? prompts.choices(doc).map((one) => before + one) : [before + text];
}

function answerOf(task: HarnessTask, prompts: Prompts, doc: Doc, choicesAreInputs: boolean): string {
  const target = prompts.target(doc);
  const one = typeof target === "object" ? target[0] : target;
  if (typeof one === "number" && task.doc_to_choice !== undefined && !choicesAreInputs) {
    return choice(task, prompts.choices(doc), one);
  }
  return String(one ?? "");
}

export function choice(task: HarnessTask, choices: readonly string[], at: number): string {
  const found = choices[at];
  if (found !== undefined) return found;
  throw wrong(task, "doc_to_target", `is ${at}, and there are ${choices.length} choices`);
}
