/** A test runner of a few lines for the page: vitest itself does not run there. */
import { maxAbsDiff, type Tensor } from "../../src/tensor/index.js";

export interface Result {
  readonly name: string;
  readonly status: "passed" | "failed" | "skipped";
  readonly milliseconds: number;
  readonly message: string;
}

/** Thrown by `skip`. */
class Skipped extends Error {}

/** Leaves a test out, saying why. */
export function skip(why: string): never {
  throw new Skipped(why);
}

const tests: { readonly name: string; readonly run: () => Promise<unknown> }[] = [];

/** Declares a test; a string that `run` returns is printed beside its name. */
export function test(name: string, run: () => Promise<unknown>): void {
  tests.push({ name, run });
}

/** Runs what was declared, one after the other. */
export async function runTests(report: (result: Result) => void): Promise<void> {
  for (const { name, run } of tests) {
    const start = performance.now();
    const done = (status: Result["status"], message: string) =>
      report({ name, status, message, milliseconds: Math.round(performance.now() - start) });
    try {
      const note = await run();
      done("passed", typeof note === "string" ? note : "");
    } catch (error) {
      if (error instanceof Skipped) done("skipped", error.message);
      else done("failed", error instanceof Error ? (error.stack ?? error.message) : String(error));
    }
  }
}

export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(message);
}

export function equal(actual: unknown, expected: unknown, what: string): void {
  const [left, right] = [JSON.stringify(actual), JSON.stringify(expected)];
  assert(left === right, `${what}: ${left} instead of ${right}`);
}

/** The code and message of the error that `promise` ends with. */
export async function failure(promise: Promise<unknown>): Promise<{ code: string; message: string }> {
  try {
    await promise;
  } catch (error) {
    return { code: String((error as { code?: unknown }).code), message: (error as Error).message };
  }
  throw new Error("no error was thrown");
}

/** Largest difference over the largest absolute value (at least `floor`) of what is expected. */
export function difference(actual: Tensor | undefined, expected: Tensor, floor = 1): number {
  assert(actual !== undefined, "an output is missing");
  equal([actual.dtype, actual.shape], [expected.dtype, expected.shape], "dtype and shape");
  if (expected.data.length === 0) return 0;
  const magnitude = Array.from(expected.data as ArrayLike<number | bigint>, (x) => Math.abs(Number(x)));
  return maxAbsDiff(actual, expected) / magnitude.reduce((a, b) => Math.max(a, b), floor);
}

/** `floor` as in `difference`: 1 compares small values absolutely, 0 relatively. */
export function close(
  actual: Tensor | undefined,
  expected: Tensor,
  tolerance: number,
  what: string,
  floor = 1,
): void {
  const error = difference(actual, expected, floor);
  assert(error <= tolerance, `${what}: differs by ${error}, allowed ${tolerance}`);
}
