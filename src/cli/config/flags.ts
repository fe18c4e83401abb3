import type { z } from "zod";

/** A schema seen through its wrappers. */
export interface Field {
  readonly key: string;
  /** `--batch-size` */
  readonly flag: string;
  readonly description: string;
  readonly kinds: ReadonlySet<string>;
  readonly choices: readonly string[] | undefined;
  readonly fallback: unknown;
  readonly optional: boolean;
  /** A list of texts whose items may hold anything, commas too: the flag is given once for each. */
  readonly verbatim: boolean;
  /** A list whose items follow one another: `--compare a.json b.json`. */
  readonly several: boolean;
  /** The option can be false: what `--no-...` then says. */
  readonly off: string | undefined;
}

interface Definition {
  readonly type: string;
  readonly innerType?: z.ZodType;
  readonly defaultValue?: unknown;
  readonly options?: readonly z.ZodType[];
  readonly element?: z.ZodType;
  readonly entries?: Record<string, string>;
}
const definitionOf = (schema: z.ZodType): Definition => schema.def as unknown as Definition;

export const flagOf = (key: string): string =>
  `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

/** A switch that is on by default is given as its opposite: `--no-append-eos`. */
export const isOffSwitch = ({ kinds, fallback }: Field): boolean =>
  kinds.has("boolean") && kinds.size === 1 && fallback === true;

/** Flag and description as help and documents show them. */
export const shownAs = (field: Field): { flag: string; description: string } =>
  isOffSwitch(field)
    ? { flag: field.flag.replace("--", "--no-"), description: `do not ${field.description}` }
    : { flag: field.flag, description: field.description };

/** What a flag of this schema looks like. */
export function fieldOf(key: string, schema: z.ZodType): Field {
  let inner = schema;
  let description = schema.description;
  let fallback: unknown;
  let optional = false;
  for (let def = definitionOf(inner); def.innerType; def = definitionOf(inner)) {
    optional ||= def.type === "optional" || def.type === "default";
    if (def.type === "default") fallback = def.defaultValue;
    inner = def.innerType;
    description ??= inner.description;
  }
  const { entries } = definitionOf(inner);
  return {
    key,
    flag: flagOf(key),
    description: description ?? "",
    kinds: new Set(kindsOf(inner)),
    choices: entries && Object.values(entries),
    fallback,
    optional,
    verbatim: inner.meta()?.verbatim === true,
    several: inner.meta()?.several === true,
    off: inner.meta()?.off as string | undefined,
  };
}

/** `string`, `number`, `boolean`, `enum`, `record`, `array of string`, ...; several for a union. */
function kindsOf(schema: z.ZodType): string[] {
  const def = definitionOf(schema);
  if (def.type === "union") return (def.options ?? []).flatMap(kindsOf);
  if (def.type === "array" && def.element) return kindsOf(def.element).map((kind) => `array of ${kind}`);
  return [def.type];
}

/** Characters that only a regular expression has; dots separate module names. */
const REGEX = /[\\*+?^$()[\]{}|]/;
const parts = (text: string) =>
  text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "");

/**
 * Names given as one text: a list separated by commas, `all-linear`, or a regular expression. A plain word is a list of
 * one, since as an expression over whole module paths it would match nothing.
 */
export const nameList = (text: string): string | string[] =>
  REGEX.test(text) || text.toLowerCase() === "all-linear" ? text : parts(text);

/** A flag's text as the value its field takes; texts that do not fit stay texts, for the schema to refuse. */
export function parseFlag(field: Field, text: string): unknown {
  const { kinds } = field;
  const has = (kind: string) => kinds.has(kind);
  if (field.verbatim) return [text];
  if (/^\s*[[{]/.test(text) && (has("record") || has("array of number"))) return fromJson(text);
  if (has("array of enum")) return parts(text);
  if (has("array of string")) return has("string") ? nameList(text) : parts(text);
  if (has("array of number")) return numbers(text, has("string"));
  if (has("record") || has("object")) return fromJson(text);
  if (has("number")) return number(text);
  if (has("boolean")) return text === "true" || (text === "false" ? false : text);
  return text;
}

/** A list of numbers; what is none stays one text where the field takes texts. */
function numbers(text: string, orText: boolean): unknown {
  const list = parts(text).map(number);
  return orText && list.some((part) => typeof part === "string") ? text : list;
}

const number = (text: string): unknown =>
  /^[-+]?(\d|\.\d)/.test(text) && Number.isFinite(Number(text)) ? Number(text) : text;

function fromJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** `512MB` as bytes; k, m, g and t are powers of 1024. */
export function bytesIn(size: number | string): number {
  if (typeof size === "number") return size;
  const [, digits = "0", unit = ""] = /^([\d.]+)\s*([kmgt]?)/i.exec(size) ?? [];
  return Math.floor(Number(digits) * 1024 ** " kmgt".indexOf(unit.toLowerCase() || " "));
}
