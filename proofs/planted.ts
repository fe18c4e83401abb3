import { gradients } from "../src/autodiff/index.js";
import { type Graph, input, makeGraph, ops, type Value } from "../src/graph/index.js";
import {
  type Adaptation,
  callMethod,
  type HookContext,
  type HookSite,
  type SharedSpec,
  type SiteConfig,
  type SiteShape,
  type TensorSpec,
} from "../src/methods/index.js";
import type { TensorNumbers } from "../src/methods/method.js";
import { inputsOf, type Parameter } from "../src/models/index.js";
import { createSession, rng, type Session } from "../src/runtime/index.js";
import { type Tensor, tensor } from "../src/tensor/index.js";
import { adamw, forgetMoments, type Optimizer } from "../src/training/index.js";
import type { Check } from "./proof.js";

/** One linear map, and the one that training should turn it into; row-major `[out, in]`. */
export interface PlantedMap {
  readonly path: string;
  readonly out: number;
  readonly in: number;
  readonly weight: Float32Array;
  readonly target: Float32Array;
  readonly bias?: Float32Array;
  readonly targetBias?: Float32Array;
  /** Its inputs are the rows of `root` `[in, in]`: their covariance is rootᵀ·root. Default: the identity. */
  readonly root?: Float32Array;
  /** Statistics for starts that depend on data. */
  readonly statistics?: Readonly<Record<string, Float32Array>>;
}

/** Standard normal numbers of one stream. */
export const normals = (count: number, ...stream: readonly (string | number)[]): Float32Array =>
  rng(1, "planted", ...stream.map(String)).fillNormal(new Float32Array(count));

/** C[m,n] = A[m,k]·B[k,n], summed in float64. */
export function times(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  [m, k, n]: readonly [number, number, number],
): Float32Array {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    for (let h = 0; h < k; h++) {
      const left = Number(a[i * k + h]);
      for (let j = 0; j < n; j++) out[i * n + j] = Number(out[i * n + j]) + left * Number(b[h * n + j]);
    }
  return Float32Array.from(out);
}

export const plus = (a: Float32Array, b: Float32Array, scale = 1): Float32Array =>
  a.map((value, at) => value + scale * Number(b[at]));

export const norm = (a: ArrayLike<number>): number => {
  let sum = 0;
  for (let at = 0; at < a.length; at++) sum += Number(a[at]) ** 2;
  return Math.sqrt(sum);
};

/** Largest absolute difference. */
export const gap = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let most = a.length === b.length ? 0 : Number.POSITIVE_INFINITY;
  for (let at = 0; at < a.length; at++) most = Math.max(most, Math.abs(Number(a[at]) - Number(b[at])));
  return most;
};

export const shapeOf = (map: PlantedMap): SiteShape => ({
  path: map.path,
  kind: "linear",
  inFeatures: map.in,
  outFeatures: map.out,
  hasBias: map.bias !== undefined,
});

/** A method's live tensors at planted maps. */
export interface PlantedSites {
  readonly sites: readonly HookSite[];
  readonly shared: Readonly<Record<string, Parameter>>;
}

const once = () => {
  const known = new Map<string, Promise<unknown>>();
  return <T>(key: string, compute: () => Promise<T>) => {
    const found = known.get(key) ?? compute();
    known.set(key, found);
    return found as Promise<T>;
  };
};

const drawn = (seed: number, ...stream: string[]) => {
  const random = rng(seed, ...stream);
  return {
    normal: (count: number, std = 1) => random.fillNormal(new Float32Array(count), 0, std),
    uniform: (count: number, low: number, high: number) =>
      random.fillUniform(new Float32Array(count), low, high),
  };
};

/** Fresh tensors of a method at planted maps. */
export async function start<C extends SiteConfig>(
  { method, config }: Adaptation<C>,
  maps: readonly PlantedMap[],
  seed = 1,
): Promise<PlantedSites> {
  const make = async (
    name: string,
    spec: Pick<TensorSpec, "shape" | "trainable" | "dtype">,
    init: () => ReturnType<TensorSpec["init"]>,
  ): Promise<Parameter> => {
    const dtype = spec.dtype ?? "float32";
    const live = tensor(dtype, spec.shape, (await init()).slice());
    return { name, value: input(name, dtype, spec.shape), tensor: live, trainable: spec.trainable };
  };
  const shapes = maps.map(shapeOf);
  const shared: Record<string, Parameter> = {};
  const common = once();
  const weight = async (path: string) =>
    maps.find((map) => map.path === path)?.weight.slice() as Float32Array;
  for (const [key, spec] of Object.entries(method.shared?.(shapes, config) ?? {}))
    shared[key] = await make(`default/${key}`, spec, () =>
      spec.init({ sites: shapes, seed, once: common, weight, ...drawn(seed, "shared", key) }),
    );
  const sites: HookSite[] = [];
  for (const map of maps) {
    const site = shapeOf(map);
    const tensors: Record<string, Parameter> = {};
    const memo = once();
    for (const [key, spec] of Object.entries(method.tensors(site, config))) {
      const context = {
        ...drawn(seed, map.path, key),
        site,
        seed,
        once: memo,
        weight: async () => map.weight.slice(),
        bias: async () => map.bias?.slice(),
        shared: (name: string) => shared[name]?.tensor.data as TensorNumbers | undefined,
        statistic: async (name: string) => map.statistics?.[name] as Float32Array,
      };
      tensors[key] = await make(`default/${map.path}.${key}`, spec, () => spec.init(context));
    }
    sites.push({ shape: site, weightName: `${map.path}.weight`, tensors, oriented: (gradient) => gradient });
  }
  return {
    sites: sites.map((site) => withLent(site, method.shared?.(shapes, config) ?? {}, shared)),
    shared,
  };
}

/** A site with the shared tensors that only some sites read, by its names for them. */
function withLent(
  site: HookSite,
  specs: Readonly<Record<string, SharedSpec>>,
  shared: Readonly<Record<string, Parameter>>,
): HookSite {
  const lent = Object.entries(specs).flatMap(([key, { readers }]) =>
    readers?.paths.includes(site.shape.path) ? [[readers.as, shared[key] as Parameter] as const] : [],
  );
  return { ...site, tensors: { ...site.tensors, ...Object.fromEntries(lent) } };
}

const valuesOf = ({ shared }: PlantedSites, site: HookSite): Record<string, Value> =>
  Object.fromEntries(Object.entries({ ...shared, ...site.tensors }).map(([key, { value }]) => [key, value]));

const liveFeeds = ({ sites, shared }: PlantedSites): Record<string, Tensor> =>
  Object.fromEntries(
    [...sites.flatMap(({ tensors }) => Object.values(tensors)), ...Object.values(shared)].map((each) => [
      each.name,
      each.tensor,
    ]),
  );

/** The inputs of a graph over planted maps: their weights, and x `[tokens, in]` for each. */
function mapInputs(maps: readonly PlantedMap[], tokens: (map: PlantedMap) => number | string) {
  const named = (name: string, shape: readonly number[], data: Float32Array) => ({
    value: input(name, "float32", shape),
    feed: [name, tensor("float32", shape, data)] as const,
  });
  return maps.map((map) => ({
    map,
    weight: named(`${map.path}/w`, [map.out, map.in], map.weight),
    bias: map.bias && named(`${map.path}/b`, [map.out], map.bias),
    x: input(`${map.path}/x`, "float32", [tokens(map), map.in]),
  }));
}

export interface Computed {
  /** What the method's forward pass gives, `[tokens, out]`. */
  readonly forward: Float32Array;
  /** What the merged weight and bias give. */
  readonly merged: Float32Array;
  readonly weight: Float32Array;
  readonly bias: Float32Array | undefined;
}

/** What a method computes at one map for inputs `x` `[tokens, in]`; the same graph serves until `close`. */
export async function computer<C extends SiteConfig>(
  { method, config }: Adaptation<C>,
  map: PlantedMap,
  live: PlantedSites,
  index = 0,
) {
  const [given] = mapInputs([map], () => "tokens");
  const site = live.sites[index];
  if (!given || !site) throw new Error("no such map");
  const tensors = valuesOf(live, site);
  const [w, b] = [given.weight.value, given.bias?.value];
  const y = callMethod(method, config, { site: site.shape, tensors, x: given.x, weight: w, bias: b });
  const weight = method.weight(w, tensors, site.shape, config);
  const delta = method.biasDelta?.(tensors, site.shape, config, b, () => w);
  const bias = delta && b ? ops.add(b, delta) : (delta ?? b);
  const outputs: [string, Value][] = [
    ["forward", y],
    ["merged", ops.gemm(given.x, weight, bias, { transB: true })],
    ["weight", ops.add(weight, 0)],
    ...(bias ? [["bias", ops.add(bias, 0)] as [string, Value]] : []),
  ];
  const all = (x: Float32Array): Record<string, Tensor> => ({
    ...liveFeeds({ sites: [site], shared: live.shared }),
    ...Object.fromEntries([given.weight.feed, ...(given.bias ? [given.bias.feed] : [])]),
    [`${map.path}/x`]: tensor("float32", [x.length / map.in, map.in], x),
  });
  const graph = graphOf("compute", outputs);
  const session = await createSession(graph, { threads: 1 });
  return {
    close: () => session.release(),
    async run(x: Float32Array): Promise<Computed> {
      const found = await session.run(read(graph, all(x)));
      const numbers = (name: string) => found[name]?.data as Float32Array;
      return {
        forward: numbers("forward"),
        merged: numbers("merged"),
        weight: numbers("weight"),
        bias: bias && numbers("bias"),
      };
    },
  };
}

/** As `computer`, once. */
export async function compute<C extends SiteConfig>(
  adaptation: Adaptation<C>,
  map: PlantedMap,
  live: PlantedSites,
  x: Float32Array,
  index = 0,
): Promise<Computed> {
  const { run, close } = await computer(adaptation, map, live, index);
  try {
    return await run(x);
  } finally {
    await close();
  }
}

const graphOf = (name: string, outputs: readonly [string, Value][]): Graph =>
  makeGraph(name, inputsOf(outputs.map(([, value]) => value)), outputs);

/** Those of the feeds that a graph reads. */
const read = ({ inputs }: Graph, feeds: Record<string, Tensor>): Record<string, Tensor> =>
  Object.fromEntries(inputs.map(({ name }) => [String(name), feeds[String(name)] as Tensor]));

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

/** Inputs `[rows, in]` through the target. */
export function outputsOf(map: PlantedMap, inputs: Float32Array): Float32Array {
  const rows = inputs.length / map.in;
  const out = new Float32Array(rows * map.out);
  for (let row = 0; row < rows; row++)
    for (let i = 0; i < map.out; i++) {
      let sum = map.bias ? Number((map.targetBias ?? map.bias)[i]) : 0;
      for (let j = 0; j < map.in; j++)
        sum += Number(map.target[i * map.in + j]) * Number(inputs[row * map.in + j]);
      out[row * map.out + i] = sum;
    }
  return out;
}

/** A product of `[out, rank]` and `[rank, in]` normal factors, entries of variance `scale²`. */
export function lowRank(
  out: number,
  inn: number,
  rank: number,
  scale: number,
  ...stream: readonly (string | number)[]
): Float32Array {
  if (rank === 0) return new Float32Array(out * inn);
  const [b, a] = [normals(out * rank, ...stream, "b"), normals(rank * inn, ...stream, "a")];
  return times(b, a, [out, rank, inn]).map((value) => (value * scale) / Math.sqrt(rank));
}

/** A frozen map of entries of variance 1 / in, and a target that differs from it by `delta`. */
export function plant(
  path: string,
  [out, inn]: readonly [number, number],
  delta: Float32Array,
  ...stream: readonly (string | number)[]
): PlantedMap {
  const weight = normals(out * inn, "w0", path, ...stream).map((value) => value / Math.sqrt(inn));
  return { path, out, in: inn, weight, target: plus(weight, delta) };
}

/** Noise on every trained number. */
export function disturb({ sites, shared }: PlantedSites, std: number, seed = 5): void {
  const all = new Set([...sites.flatMap(({ tensors }) => Object.values(tensors)), ...Object.values(shared)]);
  for (const { name, trainable, tensor: own } of all) {
    if (!trainable) continue;
    const data = own.data as Float32Array;
    const noise = rng(seed, name).fillNormal(new Float32Array(data.length), 0, std);
    data.set(plus(data, noise));
  }
}

/** Live numbers of one tensor. */
export const numbersOf = ({ sites, shared }: PlantedSites, key: string, index = 0): Float32Array =>
  (sites[index]?.tensors[key] ?? shared[key])?.tensor.data as Float32Array;

/** Largest differences of a method's weight, and of its forward pass, from a weight and bias in plain arithmetic. */
export async function agreement<C extends SiteConfig>(
  label: string,
  adaptation: Adaptation<C>,
  map: PlantedMap,
  live: PlantedSites,
  expected: { readonly weight: Float32Array; readonly bias?: Float32Array | undefined },
): Promise<Check[]> {
  const x = normals(5 * map.in, "agreement", map.path);
  const found = await compute(adaptation, map, live, x);
  const { bias = map.bias } = expected;
  const wanted = outputsOf(
    { ...map, target: expected.weight, ...(bias ? { bias, targetBias: bias } : {}) },
    x,
  );
  const check = (what: string, measured: number): Check => ({ what, measured, expected: 0, tolerance: 1e-4 });
  return [
    check(
      `${label}: merged weight against the formula`,
      Math.max(gap(found.weight, expected.weight), gap(found.merged, wanted)),
    ),
    check(`${label}: forward pass against the formula`, gap(found.forward, wanted)),
  ];
}
