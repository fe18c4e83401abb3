import type { ErrorCode } from "./codes.js";

export { type ErrorCode, errorMeanings } from "./codes.js";

/**
 * Every error the library throws on bad input. `code` is stable and machine-readable, `message` names the
 * offending thing, `fix` says what to do about it; `details` holds the values a program may want to read.
 *
 * @example
 * ```ts
 * import { TunesmithError } from "tunesmith";
 * try {
 *   throw new TunesmithError("target-not-found", "no module matches 'q_prj'", { fix: "did you mean 'q_proj'?" });
 * } catch (error) {
 *   if (error instanceof TunesmithError && error.code === "target-not-found") console.error(error.fix);
 * }
 * ```
 */
export class TunesmithError extends Error {
  readonly code: ErrorCode;
  readonly fix: string | undefined;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(
    code: ErrorCode,
    message: string,
    options: { fix?: string; cause?: unknown; details?: Record<string, unknown> } = {},
  ) {
    super(options.fix ? `${message}\n  fix: ${options.fix}` : message, { cause: options.cause });
    this.name = "TunesmithError";
    this.code = code;
    this.fix = options.fix;
    this.details = options.details ?? {};
  }
}
