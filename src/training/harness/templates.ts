import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";
import { TunesmithError } from "../../errors/index.js";
import { pythonRegExp } from "../scores/python-regexp.js";

/** A row of a task's data. */
export type Doc = Readonly<Record<string, unknown>>;

/** A compiled template. */
export interface DocTemplate {
  /** The text for a row. */
  render(doc: Doc): string;
  /** The value, when the template is one expression such as `{{choices.text}}`; its text otherwise. */
  value(doc: Doc): unknown;
}

/** What the interpreter's nodes and values have that is read here; the package does not export their types. */
interface Node {
  readonly type: string;
  readonly value?: unknown;
  readonly operand?: Node;
  readonly filter?: Node;
  readonly callee?: Node;
  readonly args?: readonly Node[];
  readonly object?: Node;
  readonly property?: Node;
}
interface RuntimeValue {
  readonly type: string;
  readonly value: unknown;
}
type Statement = Parameters<Interpreter["evaluate"]>[0];
type Value = ReturnType<Interpreter["evaluate"]>;

const TEXT = new Set(["StringLiteral", "Comment"]);

/**
 * Compiles a Jinja template as evaluation harnesses use them: line ends stay, a missing field is an error, and
 * `regex_replace(pattern, replacement)` and the list method `index` exist besides what chat templates know.
 *
 * Throws `config-invalid` for a malformed template; rendering throws `data-invalid` for a field that is not there.
 */
export function docTemplate(source: string): DocTemplate {
  const program = compile(source);
  const statements = program.body as unknown as readonly Node[];
  const evaluateAll = (doc: Doc): Value[] => {
    const { interpreter, environment } = interpreterFor(doc);
    try {
      return statements.map((node) => interpreter.evaluate(node as unknown as Statement, environment));
    } catch (cause) {
      throw new TunesmithError("data-invalid", `template '${source}': ${(cause as Error).message}`, {
        fix: `correct the template or the row; its fields are ${Object.keys(doc).join(", ")}`,
        cause,
      });
    }
  };
  const only = statements.length === 1 && !TEXT.has(statements[0]?.type ?? "") && /^\{\{/.test(source);
  const render = (doc: Doc) => evaluateAll(doc).map(textOf).join("");
  return {
    render,
    value: (doc) => (only ? plain(evaluateAll(doc)[0] as RuntimeValue) : render(doc)),
  };
}

function compile(source: string): ReturnType<typeof parse> {
  // The tokenizer drops one line end at the end of a template.
  const kept = source.endsWith("\n") ? `${source}\n` : source;
  try {
    return parse(tokenize(kept, { lstrip_blocks: false, trim_blocks: false }));
  } catch (cause) {
    throw new TunesmithError("config-invalid", `template '${source}': ${(cause as Error).message}`, {
      fix: "correct the template",
      cause,
    });
  }
}

const CONSTANTS = { true: true, false: false, none: null, True: true, False: false, None: null };

function range(from: number, to?: number): number[] {
  const [start, end] = to === undefined ? [0, from] : [from, to];
  return Array.from({ length: Math.max(0, end - start) }, (_, at) => start + at);
}

function interpreterFor(doc: Doc) {
  const environment = new Environment();
  for (const [name, value] of Object.entries({ ...CONSTANTS, range, ...doc })) environment.set(name, value);
  const interpreter = new Interpreter(environment);
  const evaluate = interpreter.evaluate.bind(interpreter);
  // Values are made by an environment, as the package does not export its classes.
  const make = (value: unknown): Value => new Environment().set("made", value);
  /** Operands of tests and filters (`x is defined`, `x | default(1)`) may be missing. */
  const mayBeMissing = new Set<Node>();
  interpreter.evaluate = (statement: Statement, scope: Environment): Value => {
    if (statement === undefined) return evaluate(statement, scope);
    const node = statement as unknown as Node;
    if (node.type === "TestExpression" || filterName(node) === "default")
      mayBeMissing.add(node.operand as Node);
    if (node.type === "MemberExpression") {
      const found = listIndex(node, (part) => interpreter.evaluate(part as unknown as Statement, scope));
      if (found) return make(found);
    }
    if (filterName(node) === "regex_replace") {
      const of = (part: Node | undefined) =>
        String((interpreter.evaluate(part as unknown as Statement, scope) as RuntimeValue).value);
      const [pattern = "", replacement = ""] = (node.filter?.args ?? []).map(of);
      return make(
        of(node.operand).replace(pythonRegExp(pattern, "g"), replacement.replace(/\\(\d)/g, "$$$1")),
      );
    }
    const value = evaluate(statement, scope);
    const named = node.type === "Identifier" || node.type === "MemberExpression";
    if (named && value.type === "UndefinedValue" && !mayBeMissing.has(node)) {
      throw new Error(`'${nameOf(node)}' is undefined`);
    }
    return value;
  };
  return { interpreter, environment };
}

const filterName = (node: Node): unknown =>
  node.type === "FilterExpression" ? (node.filter?.callee ?? node.filter)?.value : undefined;

const nameOf = (node: Node | undefined): string =>
  node?.type === "MemberExpression"
    ? `${nameOf(node.object)}.${nameOf(node.property)}`
    : String(node?.value ?? "...");

/** The method `index` of a list. */
function listIndex(node: Node, evaluate: (part: Node) => Value) {
  if (node.property?.type !== "Identifier" || node.property.value !== "index" || !node.object)
    return undefined;
  const list = evaluate(node.object) as RuntimeValue;
  if (list.type !== "ArrayValue") return undefined;
  const values = plain(list) as unknown[];
  return (wanted: unknown) => {
    const at = values.indexOf(wanted);
    if (at < 0) throw new Error(`${JSON.stringify(wanted)} is not in the list`);
    return at;
  };
}

/** A value of the interpreter as plain data. */
function plain(value: RuntimeValue): unknown {
  if (value.type === "ArrayValue" || value.type === "TupleValue") {
    return (value.value as readonly RuntimeValue[]).map(plain);
  }
  if (value.type === "ObjectValue") {
    return Object.fromEntries(
      [...(value.value as Map<string, RuntimeValue>)].map(([key, of]) => [key, plain(of)]),
    );
  }
  return value.value;
}

/** As Python's `str`. */
function textOf(value: Value): string {
  const { type } = value as RuntimeValue;
  if (type === "ArrayValue" || type === "ObjectValue" || type === "BooleanValue")
    return pythonText(plain(value));
  if (type === "NullValue") return "None";
  return type === "StringValue" ? String(value.value) : value.toString();
}

/** As Python's `repr` of plain data. */
export function pythonText(value: unknown): string {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonText).join(", ")}]`;
  if (typeof value === "object") {
    const entries = Object.entries(value).map(([key, of]) => `${pythonText(key)}: ${pythonText(of)}`);
    return `{${entries.join(", ")}}`;
  }
  if (typeof value !== "string") return String(value);
  const quote = value.includes("'") && !value.includes('"') ? '"' : "'";
  const inner = value
    .replaceAll("\\", "\\\\")
    .replaceAll("\n", "\\n")
    .replaceAll("\t", "\\t")
    .replaceAll("\r", "\\r");
  return quote + (quote === "'" ? inner.replaceAll("'", "\\'") : inner) + quote;
}
