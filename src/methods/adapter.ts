import { TunesmithError } from "../errors/index.js";
import { input } from "../graph/index.js";
import {
  frozenTensor,
  type Model,
  type Parameter,
  type Parameters,
  probeOutputs,
  type Site,
  sitesOf,
} from "../models/index.js";
import { rng } from "../runtime/random/index.js";
import { tensor, toFloat32 } from "../tensor/index.js";
import type { Calibration } from "./calibration.js";
import { definitionOrder } from "./definition-order.js";
import type { Adaptation, InitContext, SiteShape, Statistic, TensorNumbers, TensorSpec } from "./method.js";
import { type SavedTensor, savedTensors } from "./saved.js";
import { selectTargets } from "./targets.js";
import { type TokenRows, tokenRows } from "./tokens.js";

/** A site with the tensors a method put there. */
export interface AdapterSite {
  readonly shape: SiteShape;
  readonly weightName: string;
  readonly orientation: Site["orientation"];
  /** Numbers laid out as the weight in the file, as `[out, in]`. */
  oriented(data: Float32Array): Float32Array;
  readonly tensors: Readonly<Record<string, Parameter>>;
}

/** One named adaptation of a model: its tensors and where they act. The base is never changed. */
export interface Adapter {
  readonly name: string;
  readonly adaptation: Adaptation;
  /** By module path. */
  readonly sites: ReadonlyMap<string, AdapterSite>;
  /** Tensors that all sites read. */
  readonly shared: Readonly<Record<string, Parameter>>;
  /** Base tensors trained whole: those the method is about, modules to save, biases. */
  readonly saved: readonly SavedTensor[];
  /** Trained rows of the input embedding. */
  readonly tokens: readonly TokenRows[];
  /** Strength, a scalar that is fed: 1, or what `setScale` wrote. */
  readonly gate: Parameter;
  /** All of the above by name, the gate included. */
  readonly parameters: Parameters;
}

export function parameter(
  name: string,
  shape: readonly number[],
  data: TensorNumbers,
  trainable: boolean,
  dtype: "float32" | "int64" | "int32" | "bool" = "float32",
): Parameter {
  return { name, value: input(name, dtype, shape), tensor: tensor(dtype, shape, data), trainable };
}

/** The parameter of an adapter that a method's specification asks for. */
const specified = (
  adapter: string,
  key: string,
  { shape, trainable, dtype, routed = false }: Omit<TensorSpec, "init">,
  data: TensorNumbers,
): Parameter => ({
  ...parameter(`${adapter}/${key}`, shape, data, trainable, dtype),
  ...(routed ? { routed: adapter } : {}),
});

export const shapeOfSite = (site: Site): SiteShape => {
  const isEmbedding = site.kind === "embedding";
  return {
    path: site.path,
    kind: site.kind,
    inFeatures: site.inFeatures,
    outFeatures: site.outFeatures,
    hasBias: !isEmbedding && site.bias !== undefined,
    ...(site.conv ? { conv: site.conv } : {}),
  };
};

/** A weight as `[out, in]` float32, whatever its orientation in the file. */
export async function orientedWeight(
  site: Pick<Site, "weight" | "orientation" | "kind">,
): Promise<Float32Array> {
  return oriented(site, toFloat32(await frozenTensor(site.weight)));
}

/** Numbers laid out as a site's weight in the file, as `[out, in]`; themselves when they are so already. */
export function oriented(
  site: Pick<Site, "weight" | "orientation" | "kind">,
  data: Float32Array,
): Float32Array {
  const turned = site.orientation === "in-out" || site.kind === "embedding";
  const [rows, columns] = site.weight.shape as [number, number];
  return turned ? transposed(data, rows, columns) : data;
}

function transposed(data: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++)
      out[column * rows + row] = data[row * columns + column] as number;
  }
  return out;
}

/**
 * Stored numbers of a site's tensor, or of a shared one, of exactly its shape; undefined for a tensor that is not stored.
 * `made` are the site's tensors that come before it.
 */
export type StoredTensor = (
  site: SiteShape | undefined,
  key: string,
  spec: Omit<TensorSpec, "init">,
  made: Readonly<Record<string, Parameter>>,
) => Promise<TensorNumbers | undefined>;

export interface CreateOptions {
  readonly name: string;
  readonly seed: number;
  readonly stored?: StoredTensor;
  readonly calibration?: Calibration | undefined;
}

/**
 * Creates an adapter's tensors on a model, from a file where `stored` finds them and by their initialisers otherwise.
 * Throws `target-not-found`, `target-unsupported` (a site the method cannot adapt), `config-invalid`,
 * `calibration-missing`.
 */
export async function createAdapter(
  model: Model,
  given: Adaptation,
  options: CreateOptions,
): Promise<Adapter> {
  const { name } = options;
  const outputs = probeOutputs(model);
  const all = sitesOf(outputs);
  checkCalibration(given, options);
  const adaptation = await settled(given, model, chooseSites(model, all, given), options);
  const chosen = chooseSites(model, all, adaptation);
  const shared = await sharedTensors(chosen, adaptation, options);
  const lent = lentTensors(chosen.map(shapeOfSite), adaptation, shared);
  const floats = floatSites(model);
  const sites = new Map<string, AdapterSite>();
  for (const site of chosen) {
    const own = await siteTensors(site, adaptation, { ...options, floats, shared });
    const tensors = { ...lent.get(site.path), ...own };
    sites.set(site.path, {
      shape: shapeOfSite(site),
      weightName: site.weightName,
      orientation: site.orientation,
      oriented: (gradient) => oriented(site, gradient),
      tensors,
    });
  }
  const saved = await savedTensors(outputs, name, adaptation, new Set(sites.keys()));
  const tokens = await tokenRows(all, name, adaptation.config.trainableTokens);
  return assemble({ name, adaptation, sites, shared, saved, tokens });
}

/** The adaptation as its method has it once data and model are known. */
async function settled(
  adaptation: Adaptation,
  { tokenizer }: Model,
  sites: readonly Site[],
  { stored, calibration }: CreateOptions,
): Promise<Adaptation> {
  const { method, config } = adaptation;
  if (!method.settle || stored) return adaptation;
  const statistic = (path: string, name: Statistic) => statisticOf(calibration, method.name, path, name);
  const context = { sites: sites.map(shapeOfSite), statistic, tokenizer };
  return { method, config: await method.settle(config, context) };
}

async function statisticOf(
  calibration: Calibration | undefined,
  method: string,
  path: string,
  name: Statistic,
): Promise<Float32Array> {
  const found = await calibration?.statistic(path, name);
  if (!found) throw calibrationMissing(method, name);
  return found;
}

/** The sites an adaptation would change. Throws as `createAdapter`. */
export const siteShapes = (model: Model, adaptation: Adaptation): SiteShape[] =>
  chooseSites(model, sitesOf(probeOutputs(model)), adaptation).map(shapeOfSite);

function checkCalibration({ method, config }: Adaptation, { calibration, stored }: CreateOptions): void {
  const missing = stored
    ? undefined
    : method.needs?.(config).find((name) => !calibration?.statistics.includes(name));
  if (missing) throw calibrationMissing(method.name, missing);
}

/** The sites of the floats that a quantised model was made from. */
const floatSites = ({ quantization }: Model): ReadonlyMap<string, Site> | undefined =>
  quantization &&
  new Map(sitesOf(probeOutputs(quantization.base as Model)).map((site) => [site.path, site] as const));

interface SiteOptions extends CreateOptions {
  readonly floats?: ReadonlyMap<string, Site> | undefined;
  readonly shared: Readonly<Record<string, Parameter>>;
}

/** More numbers than one typed array of floats holds on every platform. */
const MOST_NUMBERS = 2 ** 30;

async function siteTensors(
  site: Site,
  { method, config }: Adaptation,
  options: SiteOptions,
): Promise<Record<string, Parameter>> {
  const tensors: Record<string, Parameter> = {};
  const once = sharedComputations();
  const shape = shapeOfSite(site);
  for (const [key, spec] of Object.entries(method.tensors(shape, config))) {
    checkSize(`${site.path}: ${key}`, spec.shape);
    const data =
      (await options.stored?.(shape, key, spec, tensors)) ??
      (await spec.init(initContext(site, key, once, options, method.name)));
    tensors[key] = specified(options.name, `${site.path}.${key}`, spec, data);
  }
  return tensors;
}

async function sharedTensors(
  chosen: readonly Site[],
  { method, config }: Adaptation,
  { name, seed, stored }: CreateOptions,
): Promise<Record<string, Parameter>> {
  const tensors: Record<string, Parameter> = {};
  const once = sharedComputations();
  const sites = chosen.map(shapeOfSite);
  const weight = (path: string) => orientedWeight(chosen.find((site) => site.path === path) as Site);
  for (const [key, spec] of Object.entries(method.shared?.(sites, config) ?? {})) {
    checkSize(key, spec.shape);
    const data =
      (await stored?.(undefined, key, spec, {})) ??
      (await spec.init({ sites, seed, once, weight, ...randomNumbers(seed, "shared", key) }));
    tensors[key] = specified(name, key, spec, data);
  }
  return tensors;
}

/** Shared tensors that only some sites read, by the path and the name of their readers. */
function lentTensors(
  sites: readonly SiteShape[],
  { method, config }: Adaptation,
  shared: Readonly<Record<string, Parameter>>,
): ReadonlyMap<string, Readonly<Record<string, Parameter>>> {
  const lent = new Map<string, Record<string, Parameter>>();
  for (const [key, { readers }] of Object.entries(method.shared?.(sites, config) ?? {})) {
    const found = shared[key];
    for (const path of found ? (readers?.paths ?? []) : [])
      lent.set(path, { ...lent.get(path), [readers?.as as string]: found as Parameter });
  }
  return lent;
}

function checkSize(what: string, shape: readonly number[]): void {
  if (shape.reduce((product, size) => product * size, 1) <= MOST_NUMBERS) return;
  throw new TunesmithError("config-invalid", `${what} of shape [${shape}] is too large`, {
    fix: "choose a smaller rank",
  });
}

export function assemble(parts: Omit<Adapter, "gate" | "parameters">): Adapter {
  const { name, sites, shared, saved, tokens } = parts;
  const gate = parameter(`${name}/gate`, [], Float32Array.of(1), false);
  const own = [...sites.values()].flatMap((site) => Object.values(site.tensors));
  const all = [
    gate,
    ...Object.values(shared),
    ...own,
    ...saved.map((entry) => entry.parameter),
    ...tokens.map((entry) => entry.parameter),
  ];
  const parameters = new Map(all.map((entry) => [entry.name, entry] as const));
  return { ...parts, gate, parameters };
}

/** The sites an adaptation's configuration selects, in the order that the model defines them. Throws `target-not-found` and `target-unsupported`. */
export function chooseSites(model: Model, sites: readonly Site[], { method, config }: Adaptation): Site[] {
  if (method.whole) return [];
  const unique = [...new Map(sites.map((site) => [site.path, site] as const)).values()];
  const chosen = selectTargets(unique, {
    targets: config.targets ?? model.defaultTargets,
    exclude: config.exclude,
    layers: config.layers,
    layersPattern: config.layersPattern,
    saved: config.modulesToSave,
  });
  const bad = chosen.find((site) => !method.kinds.includes(site.kind));
  if (bad) {
    throw new TunesmithError(
      "target-unsupported",
      `method '${method.name}' cannot adapt ${bad.path}, a ${bad.kind}`,
      {
        fix: `it adapts: ${method.kinds.join(", ")}`,
      },
    );
  }
  const order = definitionOrder(unique.map(({ path }) => path));
  return chosen.toSorted((a, b) => Number(order.get(a.path)) - Number(order.get(b.path)));
}

/** Results that several initialisers ask for, computed once. */
function sharedComputations(): InitContext["once"] {
  const known = new Map<string, Promise<unknown>>();
  return <T>(label: string, compute: () => Promise<T>) => {
    const found = known.get(label) ?? compute();
    known.set(label, found);
    return found as Promise<T>;
  };
}

function randomNumbers(seed: number, ...stream: string[]): Pick<InitContext, "normal" | "uniform"> {
  const random = rng(seed, ...stream);
  return {
    normal: (count, std = 1) => random.fillNormal(new Float32Array(count), 0, std),
    uniform: (count, low, high) => random.fillUniform(new Float32Array(count), low, high),
  };
}

function initContext(
  site: Site,
  key: string,
  once: InitContext["once"],
  { seed, calibration, floats, shared }: SiteOptions,
  method: string,
): InitContext {
  return {
    site: shapeOfSite(site),
    seed,
    once,
    ...randomNumbers(seed, site.path, key),
    shared: (name) => shared[name]?.tensor.data as TensorNumbers | undefined,
    weight: () => orientedWeight(site),
    bias: async () => site.bias && toFloat32(await frozenTensor(site.bias)),
    original: async () => {
      const whole = floats?.get(site.path);
      return whole && orientedWeight(whole);
    },
    statistic: (name) => statisticOf(calibration, method, site.path, name),
  };
}

export const calibrationMissing = (method: string, name: Statistic) =>
  new TunesmithError("calibration-missing", `${method} starts from the ${name} of data, and none are given`, {
    fix: "pass adapt(..., { calibration }) what calibrate(objective, ...) collected; --calibrate on the command line",
    details: { method, statistic: name },
  });
