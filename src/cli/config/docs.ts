import type { z } from "zod";
import { methodNamed, methodNames } from "../../methods/index.js";
import type { Command } from "../command.js";
import { type Field, fieldOf, isOffSwitch, shownAs } from "./flags.js";

const cell = (text: string) => text.replaceAll("|", "\\|");

function row(field: Field): string {
  const { choices, optional } = field;
  const { flag, description } = shownAs(field);
  const fallback = isOffSwitch(field) ? undefined : field.fallback;
  const value = choices ? `${description} (${choices.join(", ")})` : description;
  const empty = typeof fallback === "object" && Object.keys(fallback ?? {}).length === 0;
  const shown = fallback === undefined || empty ? "" : `\`${JSON.stringify(fallback)}\``;
  const flags = field.off === undefined ? `\`${flag}\`` : `\`${flag}\`, \`${flag.replace("--", "--no-")}\``;
  return `| ${flags} | ${cell(value)} | ${optional ? shown : "required"} |`;
}

function optionTable(shape: Readonly<Record<string, unknown>>): string {
  const rows = Object.entries(shape).map(([key, schema]) => row(fieldOf(key, schema as z.ZodType)));
  return ["| option | | default |", "| --- | --- | --- |", ...rows].join("\n");
}

/** The options of every command and method as Markdown, from the schemas that check them. */
export function optionsMarkdown(commands: readonly Command[]): string {
  const perCommand = commands.map(({ name, summary, schema, example }) => {
    const options = Object.keys(schema.shape).length > 0 ? `\n\n${optionTable(schema.shape)}` : "";
    return `### ${name}\n\n${summary[0]?.toUpperCase()}${summary.slice(1)}.\n\n\`\`\`sh\n${example}\n\`\`\`${options}`;
  });
  const perMethod = methodNames.map((name) => {
    const { summary, paper, options } = methodNamed(name);
    const source = paper ? ` (arXiv ${paper})` : "";
    return `### train --method ${name}\n\n${summary}${source}\n\n${optionTable(options.shape)}`;
  });
  return [...perCommand, ...perMethod].join("\n\n");
}
