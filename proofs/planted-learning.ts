import { gradients } from "../src/autodiff/index.js";
import { input, ops, type Value } from "../src/graph/index.js";
import {
  type Adaptation,
  callMethod,
  type HookContext,
  type HookSite,
  type SiteConfig,
} from "../src/methods/index.js";
import { createSession, type Session } from "../src/runtime/index.js";
import { type Tensor, tensor } from "../src/tensor/index.js";
import { adamw, forgetMoments, type Optimizer } from "../src/training/index.js";
import { compute } from "./planted-computing.js";
import { norm, outputsOf, type PlantedMap, plus } from "./planted-maps.js";
import { graphOf, liveFeeds, mapInputs, type PlantedSites, read, start, valuesOf } from "./planted-sites.js";

export interface LearnOptions {
  readonly steps: number;
  readonly lr?: number;
  /** Falls linearly to nothing. Default false: constant. */
  readonly decay?: boolean;
  readonly optimizer?: Optimizer;
  readonly seed?: number;
  /** Continue with these tensors. */
  readonly live?: PlantedSites;
  readonly onStep?: (step: number, loss: number, live: PlantedSites) => void;
}

export interface Learned {
  readonly live: PlantedSites;
  /** ‖W' − W*‖ / ‖W* − W‖ per map. */
  readonly errors: readonly number[];
  readonly loss: number;
}

/**
 * Trains a method at planted maps, all at once: the loss is the mean square of the error at inputs of their covariance, reached
 * through the method's forward pass, with its penalty and its hooks.
 */
export async function learn<C extends SiteConfig>(
  adaptation: Adaptation<C>,
  maps: readonly PlantedMap[],
  options: LearnOptions,
): Promise<Learned> {
  const { steps, seed = 1, lr = 5e-3, decay = false } = options;
  const live = options.live ?? (await start(adaptation, maps, seed));
  const schedule = decay ? (step: number) => 1 - step / steps : () => 1;
  const optimizer = options.optimizer ?? adamw({ lr, weightDecay: 0, schedule });
  const trained = [
    ...live.sites.flatMap(({ tensors }) => Object.values(tensors)),
    ...Object.values(live.shared),
  ];
  const params = new Map(
    trained
      .filter(({ trainable }) => trainable)
      .map(({ name, tensor: own }) => [name, own.data as Float32Array]),
  );
  const shapes = new Map(trained.map(({ name, tensor: own }) => [name, own.shape]));
  const state = optimizer.init(params, shapes);
  const { session, feeds } = await trainer(adaptation, maps, live, [...params.keys()]);
  const context: HookContext<C> = { name: "default", config: adaptation.config, ...live };
  const hooks = adaptation.method.hooks?.(context) ?? {};
  let loss = Number.NaN;
  try {
    for (let step = 1; step <= steps; step++) {
      const at = {
        ...{ step, steps, learningRate: optimizer.learningRate(step), params },
        forget: (name: string, entries?: Iterable<number>) => forgetMoments(state, name, entries),
      };
      await hooks.beforeUpdate?.(at);
      const found = await session.run(feeds());
      loss = Number(found.loss?.data[0]);
      const grads = new Map(
        [...params.keys()].map((name) => [name, found[`grad/${name}`]?.data as Float32Array]),
      );
      await hooks.afterBackward?.(at, grads, new Map());
      const kept = (name: string) => hooks.isTrained?.(name, at) ?? true;
      const only = (all: ReadonlyMap<string, Float32Array>) =>
        new Map([...all].filter(([name]) => kept(name)));
      optimizer.step(only(params), only(grads), state, { step });
      await hooks.afterUpdate?.(at);
      options.onStep?.(step, loss, live);
    }
  } finally {
    await session.release();
  }
  const errors: number[] = [];
  for (const [index, map] of maps.entries()) {
    const { weight } = await compute(adaptation, map, live, new Float32Array(map.in), index);
    errors.push(norm(plus(weight, map.target, -1)) / norm(plus(map.target, map.weight, -1)));
  }
  return { live, errors, loss };
}

const identity = (n: number) => Float32Array.from({ length: n * n }, (_, at) => (at % (n + 1) === 0 ? 1 : 0));

/** The session of a training step. With biases, one more input, zero, tells them apart. */
async function trainer<C extends SiteConfig>(
  { method, config }: Adaptation<C>,
  maps: readonly PlantedMap[],
  live: PlantedSites,
  names: readonly string[],
): Promise<{ readonly session: Session; readonly feeds: () => Record<string, Tensor> }> {
  const rows = (map: PlantedMap) => map.in + (map.bias ? 1 : 0);
  const given = mapInputs(maps, rows);
  const fixed: Record<string, Tensor> = {};
  const terms: Value[] = [];
  for (const [index, { map, weight, bias, x }] of given.entries()) {
    const site = live.sites[index] as HookSite;
    const inputs = new Float32Array(rows(map) * map.in);
    inputs.set(map.root ?? identity(map.in));
    fixed[`${map.path}/x`] = tensor("float32", [rows(map), map.in], inputs);
    for (const [name, feed] of [weight.feed, ...(bias ? [bias.feed] : [])]) fixed[name] = feed;
    const y = callMethod(method, config, {
      ...{ site: site.shape, tensors: valuesOf(live, site), x, weight: weight.value, bias: bias?.value },
      training: true,
      addLoss: (term) => terms.push(term),
    });
    const wanted = input(`${map.path}/target`, "float32", [rows(map), map.out]);
    fixed[`${map.path}/target`] = tensor("float32", [rows(map), map.out], outputsOf(map, inputs));
    terms.push(ops.mul(ops.reduceSum(ops.square(ops.sub(y, wanted)), undefined, false), 1 / map.out));
  }
  const penalty = method.penalty?.(
    live.sites.map((site) => ({ site: site.shape, tensors: valuesOf(live, site) })),
    config,
  );
  const loss = [...terms, ...(penalty ? [penalty] : [])].reduce((a, b) => ops.add(a, b));
  const byName = new Map(
    [...live.sites.flatMap(({ tensors }) => Object.values(tensors)), ...Object.values(live.shared)].map(
      ({ name, value }) => [name, value],
    ),
  );
  const wanted = names.map((name) => byName.get(name) as Value);
  const grads = gradients(loss, wanted);
  const outputs: [string, Value][] = [
    ["loss", loss],
    ...names.map((name, at): [string, Value] => [`grad/${name}`, grads[at] as Value]),
  ];
  const graph = graphOf("learn", outputs);
  const session = await createSession(graph, { threads: 1 });
  return { session, feeds: () => read(graph, { ...fixed, ...liveFeeds(live) }) };
}
