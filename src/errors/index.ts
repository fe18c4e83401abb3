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

/** The closed list of error codes; add one here before throwing it. */
export type ErrorCode =
  // files and formats
  | "file-not-found"
  | "file-corrupt"
  | "file-read-failed"
  | "file-write-failed"
  | "format-unsupported"
  | "offline"
  | "checksum-mismatch"
  // tensors and graphs
  | "dtype-unsupported"
  | "shape-mismatch"
  | "tensor-not-found"
  | "tensor-unused"
  | "graph-invalid"
  | "op-unknown"
  | "op-not-differentiable"
  | "attribute-unsupported"
  // models and adapters
  | "architecture-unsupported"
  | "tokenizer-unsupported"
  | "target-not-found"
  | "target-unsupported"
  | "adapter-invalid"
  | "adapter-no-effect"
  | "wrong-base"
  | "name-conflict"
  // data, training, configuration
  | "config-invalid"
  | "data-invalid"
  | "data-empty"
  | "loss-not-finite"
  | "zero-update"
  | "checkpoint-mismatch"
  | "out-of-memory"
  // execution
  | "runtime-failed"
  | "numerical-failure"
  | "cancelled";
