import { z } from "zod";
import { methodNamed, methodNames } from "../../methods/index.js";
import { type Field, fieldOf } from "./flags.js";
import { trainSchema } from "./schema.js";

/** What one key of a configuration means, for a run or for some methods. */
export interface Explanation {
  readonly key: string;
  readonly flag: string;
  readonly type: string;
  /** Undefined where there is none. */
  readonly fallback: unknown;
  readonly required: boolean;
  readonly description: string;
  /** The methods that have the option; undefined for options of every run. */
  readonly methods: readonly string[] | undefined;
}

/** Every meaning of a key; several where methods differ in it, none for an unknown key. */
export function explain(key: string): Explanation[] {
  const own = (trainSchema.shape as Record<string, z.ZodType>)[key];
  if (own) return [explained(fieldOf(key, own), own, undefined)];
  const found = new Map<string, { about: Explanation; methods: string[] }>();
  for (const name of methodNames) {
    const schema = (methodNamed(name).options.shape as Record<string, z.ZodType>)[key];
    if (!schema) continue;
    const about = explained(fieldOf(key, schema), schema, undefined);
    const same = found.get(JSON.stringify(about));
    if (same) same.methods.push(name);
    else found.set(JSON.stringify(about), { about, methods: [name] });
  }
  return [...found.values()].map(({ about, methods }) => ({ ...about, methods }));
}

/** Every key that a configuration can have. */
export const configKeys = (): string[] => [
  ...new Set([
    ...Object.keys(trainSchema.shape),
    ...methodNames.flatMap((name) => Object.keys(methodNamed(name).options.shape)),
  ]),
];

function explained(field: Field, schema: z.ZodType, methods: Explanation["methods"]): Explanation {
  const { key, flag, description, fallback, optional } = field;
  const type = typeText(z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }) as JsonSchema);
  return { key, flag, type, fallback, required: !optional, description, methods };
}

interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly anyOf?: readonly JsonSchema[];
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly items?: JsonSchema;
  readonly additionalProperties?: JsonSchema | boolean;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
  readonly pattern?: string;
}

/** A JSON schema as people write types: `integer, at least 1`. */
function typeText(schema: JsonSchema): string {
  const { anyOf, items, additionalProperties } = schema;
  const type = typeof schema.type === "object" ? schema.type.join(" or ") : schema.type;
  if (anyOf) return [...new Set(anyOf.map(typeText))].join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (type === "array") return `list of ${items ? typeText(items) : "anything"}`;
  if (type === "object" && schema.properties) {
    const parts = Object.entries(schema.properties).map(([name, part]) => `${name} (${typeText(part)})`);
    return `mapping with ${parts.join(", ")}`;
  }
  if (type === "object") {
    const inner = typeof additionalProperties === "object" ? typeText(additionalProperties) : "anything";
    return `mapping of names to ${inner}`;
  }
  return [type ?? "anything", ...limits(schema)].join(", ");
}

function limits(schema: JsonSchema): string[] {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, pattern } = schema;
  const least = minimum !== undefined && minimum > Number.MIN_SAFE_INTEGER;
  const most = maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER;
  return [
    least ? `at least ${minimum}` : "",
    exclusiveMinimum === undefined ? "" : `above ${exclusiveMinimum}`,
    most ? `at most ${maximum}` : "",
    exclusiveMaximum === undefined ? "" : `below ${exclusiveMaximum}`,
    pattern === undefined ? "" : `as /${pattern}/`,
  ].filter((text) => text !== "");
}
