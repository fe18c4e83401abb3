import { expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import { rng } from "../../runtime/random/index.js";
import { cosine, createUpdateSession, type Params, updateGraph } from "./index.js";

const shapes = new Map<string, readonly number[]>([
  ["layers.0.proj.weight", [24, 40]],
  ["layers.1.proj.weight", [40, 24]],
  ["layers.1.norm.weight", [33]],
  ["layers.1.stack", [2, 5, 8]],
]);

const start = (): Map<string, Float32Array> =>
  new Map(
    [...shapes].map(([name, shape]) => {
      const size = shape.reduce((a, b) => a * b, 1);
      return [name, rng(1, name).fillNormal(new Float32Array(size))] as const;
    }),
  );

const gradsAt = (params: Params, step: number): Map<string, Float32Array> =>
  new Map(
    [...params].map(([name, data]) => {
      const noise = rng(step, "noise", name).fillNormal(new Float32Array(data.length));
      return [name, data.map((value, i) => 0.5 * value + (noise[i] as number))] as const;
    }),
  );

const shared = {
  schedule: cosine({ totalSteps: 12, warmupSteps: 2 }),
  groups: [{ match: "norm", lrMultiplier: 2, weightDecay: 0 }],
  maxGradNorm: 5,
};

type Arguments = Parameters<typeof updateGraph>;
const cases: Record<string, [Arguments[0], Arguments[1]]> = {
  sgd: ["sgd", { ...shared, lr: 0.05, weightDecay: 0.01 }],
  "sgd, momentum": ["sgd", { ...shared, lr: 0.05, momentum: 0.9, weightDecay: 0.01 }],
  "sgd, Nesterov": ["sgd", { lr: 0.05, momentum: 0.9, nesterov: true }],
  adamw: ["adamw", { ...shared, lr: 0.01 }],
  "adamw, unclipped": ["adamw", { lr: 0.01, weightDecay: 0, betas: [0.8, 0.95] }],
  lion: ["lion", { ...shared, lr: 0.003, weightDecay: 0.1 }],
  adafactor: ["adafactor", { weightDecay: 0.01 }],
  "adafactor, first moment": [
    "adafactor",
    { ...shared, lr: 0.01, relativeStep: false, scaleParameter: false, beta1: 0.9, clipThreshold: 0.5 },
  ],
  muon: ["muon", { ...shared, lr: 0.01, weightDecay: 0.1 }],
};

test.each(Object.entries(cases))("%s: the graph gives the loop's numbers", async (_, [name, options]) => {
  const session = await createUpdateSession(name, options, shapes, { threads: 1 });
  try {
    const { optimizer } = session;
    const [loop, graph] = [start(), start()];
    const [loopState, graphState] = [optimizer.init(loop, shapes), optimizer.init(graph, shapes)];
    for (let step = 1; step <= 10; step++) {
      await session.step(graph, gradsAt(graph, step), graphState, { step });
      optimizer.step(loop, gradsAt(loop, step), loopState, { step });
      const gaps = [...loop].map(([key, data]) =>
        Math.max(
          ...data.map(
            (value, i) => Math.abs(value - Number(graph.get(key)?.[i])) / Math.max(1, Math.abs(value)),
          ),
        ),
      );
      // Newton-Schulz multiplies rounding of the sums.
      expect(Math.max(...gaps)).toBeLessThan(name === "muon" ? 5e-6 : 1e-6);
    }
    expect(graph).not.toEqual(start());
  } finally {
    await session.release();
  }
});

test("the state is the loop's: a run may change over between two updates", async () => {
  const session = await createUpdateSession("adamw", { lr: 0.01 }, shapes, { threads: 1 });
  const { optimizer } = session;
  const [whole, params] = [start(), start()];
  const [wholeState, state] = [optimizer.init(whole, shapes), optimizer.init(params, shapes)];
  for (let step = 1; step <= 6; step++) {
    optimizer.step(whole, gradsAt(whole, step), wholeState, { step });
    if (step % 2) optimizer.step(params, gradsAt(params, step), state, { step });
    else await session.step(params, gradsAt(params, step), state, { step });
  }
  for (const [key, data] of whole)
    data.forEach((value, i) => {
      expect(Math.abs(value - Number(params.get(key)?.[i]))).toBeLessThan(1e-6);
    });
  await session.release();
});

test("what has no graph is refused", () => {
  const code = (run: () => unknown) => {
    try {
      run();
    } catch (error) {
      return error instanceof TunesmithError ? error.code : String(error);
    }
    return undefined;
  };
  expect(code(() => updateGraph("adamw", { lr: 1, amsgrad: true }, shapes))).toBe("config-invalid");
  expect(code(() => updateGraph("adafactor", { factored: false }, shapes))).toBe("config-invalid");
  expect(code(() => updateGraph("lamb" as "lion", { lr: 1 }, shapes))).toBe("config-invalid");
  const { feeds, optimizer } = updateGraph("lion", { lr: 1 }, shapes);
  const params = start();
  expect(code(() => feeds(params, new Map(), optimizer.init(params), { step: 1 }))).toBe("tensor-not-found");
});
