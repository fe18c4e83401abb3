import type { z } from "zod";
import type { Ui } from "./ui.js";

/** What a command gets besides its options. */
export interface Context {
  readonly ui: Ui;
  /** Aborted by Ctrl-C; a second Ctrl-C ends the process at once. */
  readonly signal: AbortSignal;
  /** Where each option came from: `--rank`, `run.yaml:3`, `default`. */
  readonly origins: Readonly<Record<string, string>>;
}

/** A command: its schema gives flags, help and checks; `run` only calls the library and prints. */
export interface Command<S extends z.ZodObject = z.ZodObject> {
  /** One word, or a group and a word: `runs list`. */
  readonly name: string;
  readonly summary: string;
  /** Options that may also come from a file (`--config`). */
  readonly configFile?: boolean;
  readonly schema: S;
  /** Flags besides those of `schema`: the options of the method that is used, checked by `schemaFor`. */
  readonly extra?: (method: string) => Readonly<Record<string, z.ZodType>>;
  /** The schema of a particular call, when it depends on the options. */
  readonly schemaFor?: (given: Readonly<Record<string, unknown>>) => z.ZodObject;
  /** The option that may be given without its flag. */
  readonly positional?: string;
  readonly example: string;
  /** Loads the command's code and runs it. */
  run(options: z.output<S>, context: Context): Promise<void>;
}

/** Keeps the type of the options between schema and `run`. */
export const command = <S extends z.ZodObject>(definition: Command<S>): Command =>
  definition as unknown as Command;
