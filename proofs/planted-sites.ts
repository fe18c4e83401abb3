import { type Graph, input, makeGraph, type Value } from "../src/graph/index.js";
import type { Adaptation, HookSite, SharedSpec, SiteConfig, TensorSpec } from "../src/methods/index.js";
import type { TensorNumbers } from "../src/methods/method.js";
import { inputsOf, type Parameter } from "../src/models/index.js";
import { rng } from "../src/runtime/index.js";
import { type Tensor, tensor } from "../src/tensor/index.js";
import { type PlantedMap, plus, shapeOf } from "./planted-maps.js";

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

export const valuesOf = ({ shared }: PlantedSites, site: HookSite): Record<string, Value> =>
  Object.fromEntries(Object.entries({ ...shared, ...site.tensors }).map(([key, { value }]) => [key, value]));

export const liveFeeds = ({ sites, shared }: PlantedSites): Record<string, Tensor> =>
  Object.fromEntries(
    [...sites.flatMap(({ tensors }) => Object.values(tensors)), ...Object.values(shared)].map((each) => [
      each.name,
      each.tensor,
    ]),
  );

/** The inputs of a graph over planted maps: their weights, and x `[tokens, in]` for each. */
export function mapInputs(maps: readonly PlantedMap[], tokens: (map: PlantedMap) => number | string) {
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

export const graphOf = (name: string, outputs: readonly [string, Value][]): Graph =>
  makeGraph(name, inputsOf(outputs.map(([, value]) => value)), outputs);

/** Those of the feeds that a graph reads. */
export const read = ({ inputs }: Graph, feeds: Record<string, Tensor>): Record<string, Tensor> =>
  Object.fromEntries(inputs.map(({ name }) => [String(name), feeds[String(name)] as Tensor]));

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
