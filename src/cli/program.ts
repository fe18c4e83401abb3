import { Command as Commander, Option } from "commander";
import type { z } from "zod";
import type { Command } from "./command.js";
import { type Field, fieldOf, parseFlag, shownAs } from "./config/flags.js";

/** A call of a command as it stands on the command line. */
export interface Call {
  readonly command: Command;
  readonly flags: Readonly<Record<string, unknown>>;
  readonly config: string | undefined;
  /** `key=value` texts of `--set`. */
  readonly set: readonly string[];
  readonly json: boolean;
  readonly debug: boolean;
}

/**
 * The commander program of all commands; `onCall` gets what was asked. Flags of methods are those of `method` alone: two
 * methods may mean different things by one name. Errors are thrown, not printed.
 */
export function createProgram(
  commands: readonly Command[],
  { version, method }: { readonly version: string; readonly method: string },
  onCall: (call: Call) => Promise<void>,
): Commander {
  const program = new Commander("tunesmith")
    .description("Fine-tune, adapt, merge and export models: no Python.")
    .version(version, "--version", "print the version")
    .helpOption("-h, --help", "print this")
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ writeErr: () => {} });
  for (const command of commands) addCommand(program, command, method, onCall);
  return program;
}

/** What commands of two words have in common: `runs list`, `runs show`. */
const groups: Readonly<Record<string, string>> = {
  data: "data files: what is wrong with them, how they are tokenized, parts for validation and test",
  runs: "past runs: list, compare, plot, export",
  config: "configuration files: what they mean and where each value comes from",
};

/** The group of a command of two words; its help is shown when nothing follows it. */
function groupOf(program: Commander, name: string): Commander {
  const known = program.commands.find((group) => group.name() === name);
  if (known) return known;
  return program
    .command(name)
    .description(groups[name] ?? "")
    .helpCommand(false)
    .configureOutput({ writeErr: (text) => process.stdout.write(text), outputError: () => {} });
}

function addCommand(
  program: Commander,
  command: Command,
  method: string,
  onCall: (call: Call) => Promise<void>,
): void {
  const [first = "", second] = command.name.split(" ");
  const parent = second === undefined ? program : groupOf(program, first);
  const sub = parent.command(second ?? first).description(command.summary);
  sub.configureOutput({ writeErr: () => {} });
  const own = Object.entries(command.schema.shape).map(([key, part]) => fieldOf(key, part as z.ZodType));
  const extra = Object.entries(command.extra?.(method) ?? {}).map(([key, part]) => fieldOf(key, part));
  const fields = [...own, ...extra];
  const positional = fields.find(({ key }) => key === command.positional);
  const several = positional?.kinds.has("array of string");
  if (positional) sub.argument(`[${positional.key}${several ? "..." : ""}]`, positional.description);
  for (const field of own) {
    sub.addOption(optionOf(field));
    if (field.off !== undefined) sub.addOption(new Option(field.flag.replace("--", "--no-"), field.off));
  }
  for (const field of extra)
    sub.addOption(optionOf(field).helpGroup(`Options of ${method} (another: --method NAME --help):`));
  if (command.configFile) {
    sub.option("--config <file>", "YAML or JSON file with any of these options");
    const several = (text: string, before: readonly string[] = []) => [...before, text];
    sub.option("--set <key=value>", "an option as a configuration file writes it; may be repeated", several);
  }
  sub.option("--json", "print one JSON object as the last line of stdout");
  sub.option("--debug", "print where an error came from");
  sub.addHelpText("after", `\nExample:\n  ${command.example}`);
  sub.action(async () => {
    const options = sub.opts();
    const flags: Record<string, unknown> = {};
    if (positional && sub.args[0] !== undefined)
      flags[positional.key] = several ? sub.args : parseFlag(positional, sub.args[0]);
    for (const field of fields) {
      // For a --no- flag that was not given, commander sets true.
      const raw: unknown = sub.getOptionValueSource(field.key) === "default" ? undefined : options[field.key];
      // A flag that was given several times is a list of texts already.
      if (raw !== undefined) flags[field.key] = typeof raw === "string" ? parseFlag(field, raw) : raw;
    }
    await onCall({
      command,
      flags,
      config: options.config as string | undefined,
      set: (options.set ?? []) as readonly string[],
      json: options.json === true,
      debug: options.debug === true,
    });
  });
}

function optionOf(field: Field): Option {
  const { kinds, fallback, choices } = field;
  const { flag, description } = shownAs(field);
  const isSwitch = kinds.has("boolean") && kinds.size === 1;
  const shown = fallback === undefined || isSwitch || isEmpty(fallback) ? "" : ` (default ${fallback})`;
  const listed = choices ? ` [${choices.join(", ")}]` : "";
  const option = new Option(
    isSwitch ? flag : `${flag} <${valueName(field)}>`,
    `${description}${listed}${shown}`,
  );
  if (field.verbatim) option.argParser<string[] | undefined>((text, before) => [...(before ?? []), text]);
  return option;
}

const isEmpty = (value: unknown) => typeof value === "object" && Object.keys(value ?? {}).length === 0;

function valueName({ kinds, key, choices, verbatim, several }: Field): string {
  if (choices) return key;
  if (several) return "files...";
  if (verbatim) return "text";
  if (kinds.has("array of string")) return "a,b";
  if (kinds.has("array of number")) return "1,2";
  if (kinds.has("record")) return "json";
  if (kinds.has("number")) return kinds.has("string") ? "size" : "n";
  return "text";
}
