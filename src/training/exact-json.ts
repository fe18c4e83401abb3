import { sha256 } from "#io";
import { TunesmithError } from "../errors/index.js";

/** Plain data that survives a checkpoint exactly, including NaN, the infinities, -0 and big integers. */
export type PlainData =
  | null
  | boolean
  | number
  | bigint
  | string
  | undefined
  | readonly PlainData[]
  | { readonly [key: string]: PlainData };

/**
 * JSON text of plain data. What JSON cannot hold becomes `{"$number": "NaN"}` or `{"$bigint": "5"}`; finite doubles
 * are exact in JSON already, since their shortest form reads back to the same bits.
 *
 * @param what Names the data in the error.
 * @throws `config-invalid` for a function, class instance, typed array or other value that is not plain data.
 */
export function stringifyExact(value: unknown, what: string, indent?: number): string {
  return JSON.stringify(encode(value, what), undefined, indent);
}

/** The data of `stringifyExact`. Throws `file-corrupt` when the text is not JSON. */
export function parseExact(text: string, what: string): PlainData {
  try {
    return decode(JSON.parse(text));
  } catch (cause) {
    throw new TunesmithError("file-corrupt", `${what}: not valid JSON`, {
      fix: "the file is damaged; use an older checkpoint",
      cause,
    });
  }
}

/** SHA-256 of plain data, whatever the order of its keys. */
export function hashPlainData(value: PlainData, what: string): Promise<string> {
  return sha256(new TextEncoder().encode(stringifyExact(sorted(value), what)));
}

/** The dotted paths at which two values differ, each with both values as text, as in `optimizer.lr: 0.1 -> 0.2`. */
export function differences(
  before: PlainData,
  after: PlainData,
  path = "",
): { readonly path: string; readonly before: string; readonly after: string }[] {
  if (isObject(before) && isObject(after)) {
    const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
    return [...keys]
      .sort()
      .flatMap((key) => differences(before[key], after[key], path ? `${path}.${key}` : key));
  }
  const texts = [before, after].map((value) => stringifyExact(sorted(value), path) ?? "absent");
  const [a = "", b = ""] = texts;
  return a === b ? [] : [{ path: path || "(whole)", before: a, after: b }];
}

function sorted(value: PlainData): PlainData {
  if (isArray(value)) return value.map(sorted);
  if (!isObject(value)) return value;
  return Object.fromEntries(
    Object.keys(value)
      .sort()
      .map((key) => [key, sorted(value[key])]),
  );
}

function encode(value: unknown, what: string): unknown {
  if (typeof value === "number" && (!Number.isFinite(value) || Object.is(value, -0))) {
    return { $number: Object.is(value, -0) ? "-0" : String(value) };
  }
  if (typeof value === "bigint") return { $bigint: String(value) };
  if (isArray(value)) return value.map((item, index) => encode(item, `${what}[${index}]`));
  if (isObject(value)) {
    const prototype: unknown = Object.getPrototypeOf(value);
    const plain = prototype === Object.prototype || prototype === null;
    if (!plain || "$number" in value || "$bigint" in value) throw notPlain(what);
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [key, encode(item, `${what}.${key}`)]),
    );
  }
  if (typeof value === "function" || typeof value === "symbol") throw notPlain(what);
  return value;
}

function decode(value: PlainData): PlainData {
  if (isArray(value)) return value.map(decode);
  if (!isObject(value)) return value;
  if (typeof value.$number === "string") return Number(value.$number);
  if (typeof value.$bigint === "string") return BigInt(value.$bigint);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, decode(item)]));
}

function notPlain(what: string): TunesmithError {
  return new TunesmithError(
    "config-invalid",
    `${what} is not plain data and cannot be stored in a checkpoint`,
    {
      fix: "store numbers, strings, booleans, arrays and plain objects; arrays of weights belong into `params`",
    },
  );
}

function isArray(value: unknown): value is readonly PlainData[] {
  return Array.isArray(value);
}

function isObject(value: unknown): value is { readonly [key: string]: PlainData } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
