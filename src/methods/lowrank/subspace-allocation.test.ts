import { expect, test } from "vitest";
import { parameter } from "../adapter.js";
import { type AdamssConfig, adamss } from "../index.js";
import type { HookSite } from "../method.js";
import { allocateSubspaces } from "./subspace-allocation.js";

const [OUT, RANK, WIDTH, CLUSTERS] = [6, 4, 1, 3];
/** Rows of the clusters: 0 2, 1 4, 3 5. */
const ROWS = Int32Array.of(0, 1, 0, 2, 1, 2);

function siteOf(path: string): HookSite {
  const make = (key: string, shape: readonly number[], data: Float32Array | Int32Array, trained: boolean) =>
    [key, parameter(`default/${path}.${key}`, shape, data, trained, trained ? "float32" : "int32")] as const;
  const count = CLUSTERS * WIDTH * RANK;
  return {
    shape: { path, kind: "linear", inFeatures: RANK, outFeatures: OUT, hasBias: false },
    weightName: "",
    oriented: (gradient) => gradient,
    tensors: Object.fromEntries([
      make("adamss_clusters", [OUT], ROWS, false),
      make("adamss_A", [CLUSTERS, WIDTH, RANK], new Float32Array(count).fill(1), true),
      make("adamss_B", [OUT, WIDTH], new Float32Array(OUT * WIDTH).fill(1), true),
    ]),
  };
}

/** Gradients that grow with a cluster's number, and are larger at the second site. */
function gradientsOf(sites: readonly HookSite[], step: number): Map<string, Float32Array> {
  const size = (cluster: number, at: number) => (1 + cluster + 3 * at) * (step % 2 === 0 ? 1 : 1.5);
  return new Map(
    sites.flatMap(({ tensors }, at) =>
      [tensors.adamss_A, tensors.adamss_B].map((held, part) => [
        String(held?.name),
        Float32Array.from(held?.tensor.data as Float32Array, (_, index) =>
          size(part === 0 ? Math.floor(index / (WIDTH * RANK)) : Number(ROWS[index]), at),
        ),
      ]),
    ),
  );
}

function run(options: Partial<AdamssConfig>, steps: number, broken?: unknown) {
  const { config } = adamss({ subspaceRank: WIDTH, rank: RANK, ...options } as Parameters<typeof adamss>[0]);
  const sites = ["one", "two"].map(siteOf);
  const hooks = allocateSubspaces({ name: "default", config, sites, shared: {} });
  if (broken) hooks.restore?.(broken);
  const params = new Map(
    sites.flatMap(({ tensors }) =>
      Object.values(tensors).flatMap(({ name, tensor, trainable }) =>
        trainable ? [[name, tensor.data as Float32Array] as const] : [],
      ),
    ),
  );
  for (let step = 1; step <= steps; step++) {
    const at = { step, steps, learningRate: 0.01, params };
    hooks.beforeUpdate?.(at);
    const gradients = gradientsOf(sites, step);
    hooks.afterBackward?.(at, gradients, new Map());
    // An optimiser that moves what it was told to freeze, as weight decay and momentum would.
    for (const [name, data] of params)
      data.forEach((value, index) => {
        data[index] = value - 0.001 * Number(gradients.get(name)?.[index]);
      });
    hooks.afterUpdate?.(at);
  }
  const moved = sites.map(({ tensors }) =>
    Array.from({ length: CLUSTERS }, (_, cluster) =>
      Number(tensors.adamss_A?.tensor.data[cluster * WIDTH * RANK]),
    ),
  );
  return { hooks, sites, moved };
}

test("clusters of the lowest scores are frozen first, on a falling budget, and stay as they were", () => {
  const schedule = { keep: 2, keepAfter: 0, keepBefore: 10, interval: 5, exponent: 1 };
  const { hooks, moved, sites } = run(schedule, 12);
  // 6 clusters: 4 left after the update with 5 before it, 2 after the one with 10.
  expect(hooks.state?.()).toMatchObject({
    frozen: ["one/0", "one/1", "one/2", "two/0"],
  });
  const full = run({}, 12).moved;
  const six = run({}, 6).moved;
  expect(moved[0]?.slice(0, 2)).toEqual(six[0]?.slice(0, 2));
  expect(moved[1]?.slice(1)).toEqual(full[1]?.slice(1));
  expect(moved[1]?.[0]).not.toBe(full[1]?.[0]);
  // Rows of B stop with their cluster.
  const b = sites[0]?.tensors.adamss_B?.tensor.data as Float32Array;
  expect(b[0]).toBe(moved[0]?.[0]);
  expect(b[2]).toBe(b[0]);
});

test("a checkpoint keeps what is frozen", () => {
  const schedule = { keep: 2, keepAfter: 0, keepBefore: 10, interval: 5, exponent: 1 };
  const state = JSON.parse(JSON.stringify(run(schedule, 12).hooks.state?.()));
  const { moved } = run({ ...schedule, keepAfter: 100, keepBefore: 200 }, 3, state);
  expect(moved[0]?.[0]).toBe(1);
  expect(moved[1]?.[1]).not.toBe(1);
});

test("without keep nothing is frozen; a schedule of no length is refused", () => {
  expect(run({}, 3).hooks).toEqual({});
  expect(() => run({ keep: 2, keepAfter: 5, keepBefore: 5 }, 1)).toThrowError(
    expect.objectContaining({ code: "config-invalid" }),
  );
});
