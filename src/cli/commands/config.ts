import { stringify } from "yaml";
import type { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { nearest } from "../../models/index.js";
import type { Context } from "../command.js";
import { configKeys, type Explanation, explain } from "../config/explain.js";
import { readConfigFile } from "../config/file.js";
import type { configExplainSchema, configShowSchema } from "../config/inspection.js";
import { parseOverrides } from "../config/merge.js";
import { givenValues, originsOf, resolveOptions } from "../config/resolve.js";
import { runSchema } from "../config/schema.js";
import { table } from "../ui.js";

/** A configuration file with all that it extends, its defaults and where each value comes from. */
export async function runConfigShow(
  { file: path, set }: z.output<typeof configShowSchema>,
  { ui }: Context,
): Promise<void> {
  const { options, origins } = await resolved(path, set);
  if (ui.json) return ui.result({ file: path, config: options, origins });
  const lines = Object.entries(options).map(([key, value]) => {
    const text = stringify(
      { [key]: value },
      { lineWidth: 0, flowCollectionPadding: true, collectionStyle: "flow" },
    );
    // The mapping of one key is written in braces like those inside it.
    return [text.trim().replace(/^\{ ?| ?\}$/g, ""), `# ${origins[key]}`] as const;
  });
  const width = Math.min(60, Math.max(...lines.map(([text]) => text.length)));
  for (const [text, comment] of lines) ui.say(`${text.padEnd(width)}  ${comment}`);
}

export async function runConfigExplain(
  { key, file }: z.output<typeof configExplainSchema>,
  { ui }: Context,
): Promise<void> {
  const meanings = explain(key);
  if (meanings.length === 0) {
    throw new TunesmithError("config-invalid", `no configuration has a key '${key}'`, {
      fix: `near names: ${nearest(key, configKeys(), 3).join(", ")}`,
    });
  }
  const set = file === undefined ? undefined : await valueIn(file, key);
  if (ui.json) {
    const options = meanings.map(({ fallback, ...rest }) => ({ ...rest, default: fallback ?? null }));
    return ui.result({ key, options, ...(set ? { set } : {}) });
  }
  ui.say(meanings.map(text).join("\n\n"));
  if (set) ui.say(`  in ${file}  ${JSON.stringify(set.value) ?? "not set"} (${set.origin})`);
}

/** What a file, which need not be complete, means. */
async function resolved(path: string, set: readonly string[]) {
  const given = { flags: {}, set: parseOverrides(set), file: await readConfigFile(path) };
  const { method } = givenValues(given);
  const options: Record<string, unknown> = resolveOptions(
    runSchema(typeof method === "string" ? method : "lora").partial(),
    given,
  );
  return { options, origins: originsOf(options, given) };
}

async function valueIn(path: string, key: string): Promise<{ value: unknown; origin: string }> {
  const { options, origins } = await resolved(path, []);
  return { value: options[key], origin: origins[key] ?? "no default" };
}

const text = ({ key, flag, type, fallback, required, description, methods }: Explanation): string =>
  `${key}: ${description}\n${table([
    ["type", type],
    ["default", fallback === undefined ? (required ? "none, required" : "none") : JSON.stringify(fallback)],
    ["flag", flag],
    ["option of", methods ? methods.join(", ") : "every run"],
  ])}`;
