import { TunesmithError } from "../errors/index.js";
import { memoryLevers } from "./memory-levers.js";
import { type MemoryPlan, type MemoryPlanOptions, memoryPlan } from "./memory-plan.js";
import type { Objective, StepShape } from "./objective.js";

/** Arrays that the engine could not make. */
const NO_ARRAY =
  /array buffer allocation|invalid (typed )?array (buffer )?length|allocation failed|out of memory/i;

/**
 * An error of a run, where it is a lack of memory with what the run would need and what makes it need less: the runtime's
 * (`bad_alloc`, `failed to allocate`, in WebAssembly too) and the engine's (`RangeError`). Others stay as they are.
 */
export function memoryError(
  error: unknown,
  objective: Objective,
  shape: StepShape | undefined,
  options: MemoryPlanOptions,
): unknown {
  const isRuntimes = error instanceof TunesmithError && error.code === "out-of-memory";
  const isEngines = error instanceof RangeError && NO_ARRAY.test(error.message);
  if (!isRuntimes && !isEngines) return error;
  const plan = shape && planOf(objective, shape, options);
  const megabytes = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MB`;
  const needs = plan ? `; the run needs about ${megabytes(plan.peak ?? plan.total)}` : "";
  return new TunesmithError(
    "out-of-memory",
    `${(error as Error).message.replace(/\n[\s\S]*$/, "")}${needs}`,
    {
      fix: memoryLevers(plan, options).join("; "),
      cause: error,
      details: { ...(plan ? { plan } : {}), ...(shape ? { shape } : {}) },
    },
  );
}

/** The plan is made of graphs that were laid before; should that fail now, the error is told without. */
function planOf(objective: Objective, shape: StepShape, options: MemoryPlanOptions): MemoryPlan | undefined {
  try {
    return memoryPlan(objective, shape, options);
  } catch {
    return undefined;
  }
}
