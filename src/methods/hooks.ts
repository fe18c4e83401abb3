import type { TrainingHooks } from "../models/index.js";
import type { Adapter } from "./adapter.js";

/** The hooks of one adapter's method, over its live tensors. */
export function hooksOf({ name, adaptation, sites, shared }: Adapter): TrainingHooks {
  const { method, config } = adaptation;
  return method.hooks?.({ name, config, shared, sites: [...sites.values()] }) ?? {};
}

/** Several sets of hooks as one: each is called in turn, and all must agree that a parameter is trained. */
export function combinedHooks(all: readonly TrainingHooks[]): TrainingHooks {
  const some = all.filter((hooks) => Object.keys(hooks).length > 0);
  const [only] = some;
  if (some.length <= 1) return only ?? {};
  return {
    async beforeUpdate(at) {
      for (const hooks of some) await hooks.beforeUpdate?.(at);
    },
    wantedWeights: (at) => [...new Set(some.flatMap((hooks) => hooks.wantedWeights?.(at) ?? []))],
    async afterBackward(at, gradients, weights) {
      for (const hooks of some) await hooks.afterBackward?.(at, gradients, weights);
    },
    isTrained: (name, at) => some.every((hooks) => hooks.isTrained?.(name, at) ?? true),
    async afterUpdate(at) {
      for (const hooks of some) await hooks.afterUpdate?.(at);
    },
    state: () => some.map((hooks) => hooks.state?.() ?? null),
    restore: (state) => {
      (state as unknown[]).forEach((part, at) => {
        if (part !== null) some[at]?.restore?.(part);
      });
    },
  };
}
