import { CommanderError } from "commander";
import { TunesmithError } from "../errors/index.js";

/** 0 is success. */
export const EXIT = { error: 1, usage: 2, interrupted: 130 } as const;

/** Errors that are about what was asked, not about what happened. */
const USAGE = new Set(["config-invalid", "target-not-found", "target-unsupported"]);

export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT.usage;
  if (!(error instanceof TunesmithError)) return EXIT.error;
  if (error.code === "cancelled") return EXIT.interrupted;
  return USAGE.has(error.code) ? EXIT.usage : EXIT.error;
}

/** The library's errors speak of its options; on the command line they are flags. */
const AS_FLAGS: readonly (readonly [RegExp, string])[] = [
  [/pass \{ anyBase: true \}/, "give --any-base"],
  [/continue with resume/, "continue with --resume"],
  [/set saveEvery to be able to continue/, "with --save-every N it could be continued"],
  [/lower warmupSteps or use warmupRatio/, "lower --warmup, or give a share of all steps such as 0.1"],
  [/\bmaxLength\b/, "--length"],
  [/`extensions`/, "--extensions"],
  [/packing: none/, "--packing none"],
  [
    /pass `template` \(PLAIN_CHAT_TEMPLATE is one\)/,
    "put a chat_template into tokenizer_config.json (train and eval take --chat-template)",
  ],
  [/\(spans: 'last'\)/, "(--train-on last)"],
  [/give one with chatTemplate \(PLAIN_CHAT_TEMPLATE is one\)/, "give one with --chat-template"],
  [/use appendEos: false/, "give --no-append-eos"],
  [/name `layout` and `fields`/, "give --layout and --fields"],
  [/stratify: false/, "--no-stratify"],
  [/; pass \{ allowNoEffect: true \} if that is meant/, ""],
  [/name (the|their) fields with `fields`/, 'name $1 fields with --fields \'{"prompt": "question"}\''],
  [/name its `encoding` \(/, "name its --encoding ("],
  [/give `config`:/, "give --subset:"],
  [/give `split`:/, "give --split:"],
  [/read them in another `layout`/, "read them in another --layout"],
  [/, or take one answer of each row with answerRow/, ""],
];
/** What the library says to do, with flags instead of its options. */
export const asFlags = (fix: string): string =>
  AS_FLAGS.reduce((text, [option, flag]) => text.replace(option, flag), fix);

/** An error as people read it: what, and what to do. `debug` adds where it came from. */
export function describeError(error: unknown, debug: boolean): string {
  const stack = debug && error instanceof Error ? `\n${withCauses(error)}` : "";
  if (error instanceof CommanderError) return fromCommander(error) + stack;
  if (error instanceof TunesmithError) {
    const [message = ""] = error.message.split("\n  fix: ");
    return `error[${error.code}]: ${message}${error.fix ? `\n  fix: ${asFlags(error.fix)}` : ""}${stack}`;
  }
  const message = error instanceof Error ? error.message : String(error);
  const fix = "this should not happen: run again with --debug and report what it prints";
  return `error[internal]: ${message}\n  fix: ${fix}${stack}`;
}

function withCauses(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by ${withCauses(error.cause)}` : "";
  return `${error.stack ?? error.message}${cause}`;
}

/** `error: unknown option '--rnak'\n(Did you mean --rank?)` in our own form. */
function fromCommander(error: CommanderError): string {
  if (error.code === "commander.help")
    return "error[config-invalid]: a command is missing\n  fix: add one of the commands above";
  const [first = "", hint] = error.message.split("\n");
  const message = first.replace(/^error: /, "");
  const fix = hint ? hint.replace(/^\(|\)$/g, "").replace(/^Did/, "did") : "see --help";
  return `error[config-invalid]: ${message}\n  fix: ${fix}`;
}

/** The same for programs, as JSON. */
export function errorObject(error: unknown): Record<string, unknown> {
  const code =
    error instanceof TunesmithError
      ? error.code
      : error instanceof CommanderError
        ? "config-invalid"
        : "internal";
  const message = error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error);
  const fix = error instanceof TunesmithError && error.fix ? { fix: asFlags(error.fix) } : {};
  return { error: { code, message: message.replace(/^error: /, ""), ...fix } };
}
