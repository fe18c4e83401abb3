import { TunesmithError } from "../errors/index.js";
import { commands } from "./commands.js";
import { readConfigFile } from "./config/file.js";
import { parseOverrides } from "./config/merge.js";
import { givenValues, originsOf, resolveOptions } from "./config/resolve.js";
import { describeError, errorObject, exitCodeOf } from "./errors.js";
import { type Call, createProgram } from "./program.js";
import { progress } from "./progress.js";
import { createUi } from "./ui.js";
import { version } from "./version.js";

async function runCall({ command, flags, config, set, json }: Call): Promise<void> {
  const file = config === undefined ? undefined : await readConfigFile(config);
  const given = { flags, file, set: parseOverrides(set) };
  const schema = command.schemaFor?.(givenValues(given)) ?? command.schema;
  const options = resolveOptions(schema, given);
  const controller = new AbortController();
  const interrupt = (signal: NodeJS.Signals) => {
    if (controller.signal.aborted) {
      // Ended by the system: an exit of our own would tear a worker down inside native code, which aborts.
      process.removeAllListeners(signal);
      process.kill(process.pid, signal);
      return;
    }
    process.stderr.write("\nstopping; once more to stop at once\n");
    controller.abort();
  };
  process.on("SIGINT", interrupt);
  process.on("SIGTERM", interrupt);
  try {
    await command.run(options, {
      ui: createUi({ json, progress }),
      signal: controller.signal,
      origins: originsOf(options, given),
    });
  } catch (error) {
    // What was stopped on purpose may fail in its own way; it is still a stop.
    if (!controller.signal.aborted || (error instanceof TunesmithError && error.code === "cancelled"))
      throw error;
    throw new TunesmithError("cancelled", "interrupted", { cause: error });
  } finally {
    process.off("SIGINT", interrupt);
    process.off("SIGTERM", interrupt);
  }
}

/** The method a command line, or the configuration file it names, asks for. */
async function methodIn(args: readonly string[]): Promise<string> {
  const givenTo = (flag: string) => {
    const joined = args.find((arg) => arg.startsWith(`${flag}=`));
    return joined?.slice(flag.length + 1) ?? args[args.indexOf(flag) + 1 || args.length];
  };
  const named = givenTo("--method");
  const path = givenTo("--config");
  if (named !== undefined || path === undefined) return named ?? "lora";
  // What is wrong with the file is said when the command reads it.
  const file = await readConfigFile(path).catch(() => undefined);
  const method = file?.values.method;
  return typeof method === "string" ? method : "lora";
}

/** Runs the command line; gives the exit code. */
export async function main(args: readonly string[]): Promise<number> {
  const debug = args.includes("--debug");
  // A reader that has seen enough (`| head`) is no error.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));
  try {
    const program = createProgram(commands, { version: version(), method: await methodIn(args) }, runCall);
    if (args.length === 0) {
      program.outputHelp();
      return 0;
    }
    await program.parseAsync(args, { from: "user" });
    return 0;
  } catch (error) {
    const code = exitCodeOf(error);
    if (code === 0) return 0;
    process.stderr.write(`${describeError(error, debug)}\n`);
    if (args.includes("--json")) process.stdout.write(`${JSON.stringify(errorObject(error))}\n`);
    return code;
  }
}
