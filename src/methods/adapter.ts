import { TunesmithError } from "../errors/index.js";
import { input } from "../graph/index.js";
import {
  type Model,
  type Parameter,
  type Parameters,
  probeOutputs,
  type Site,
  sitesOf,
} from "../models/index.js";
import { rng } from "../runtime/random/index.js";
import { readTensor, tensor, toFloat32 } from "../tensor/index.js";
import type { Adaptation, InitContext, SiteShape } from "./method.js";
import { type SavedTensor, savedTensors } from "./saved.js";
import { selectTargets } from "./targets.js";
import { type TokenRows, tokenRows } from "./tokens.js";

/** A site with the tensors a method put there. */
export interface AdapterSite {
  readonly shape: SiteShape;
  readonly weightName: string;
  readonly orientation: Site["orientation"];
  readonly tensors: Readonly<Record<string, Parameter>>;
}

/** One named adaptation of a model: its tensors and where they act. The base is never changed. */
export interface Adapter {
  readonly name: string;
  readonly adaptation: Adaptation;
  /** By module path. */
  readonly sites: ReadonlyMap<string, AdapterSite>;
  /** Base tensors trained whole (modules to save, biases). */
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
  data: Float32Array,
  trainable: boolean,
): Parameter {
  return { name, value: input(name, "float32", shape), tensor: tensor("float32", shape, data), trainable };
}

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
  const { source } = site.weight;
  if (source.kind !== "constant")
    throw new TunesmithError("graph-invalid", "a site's weight must be a constant");
  const data = toFloat32(await readTensor(source.data));
  const turned = site.orientation === "in-out" || site.kind === "embedding";
  if (!turned) return data;
  const [rows, columns] = site.weight.shape as [number, number];
  return transposed(data, rows, columns);
}

function transposed(data: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++)
      out[column * rows + row] = data[row * columns + column] as number;
  }
  return out;
}

/** Stored numbers of a site's tensor, of exactly `shape`; undefined for a tensor that is not stored. */
export type StoredTensor = (
  site: SiteShape,
  key: string,
  shape: readonly number[],
) => Promise<Float32Array | undefined>;

/**
 * Creates an adapter's tensors on a model, from a file where `stored` finds them and by their initialisers otherwise.
 * Throws `target-not-found`, `target-unsupported` (a site the method cannot adapt), `config-invalid`.
 */
export async function createAdapter(
  model: Model,
  adaptation: Adaptation,
  name: string,
  seed: number,
  stored: StoredTensor = async () => undefined,
): Promise<Adapter> {
  const outputs = probeOutputs(model);
  const sites = new Map<string, AdapterSite>();
  for (const site of chooseSites(model, sitesOf(outputs), adaptation)) {
    const shape = shapeOfSite(site);
    const tensors = await siteTensors(site, shape, adaptation, { name, seed, stored });
    sites.set(site.path, { shape, weightName: site.weightName, orientation: site.orientation, tensors });
  }
  const saved = await savedTensors(outputs, name, adaptation.config, new Set(sites.keys()));
  const tokens = await tokenRows(sitesOf(outputs), name, adaptation.config.trainableTokens);
  return assemble(name, adaptation, sites, saved, tokens);
}

/** More numbers than one typed array of floats holds on every platform. */
const MOST_NUMBERS = 2 ** 30;

async function siteTensors(
  site: Site,
  shape: SiteShape,
  { method, config }: Adaptation,
  { name, seed, stored }: { name: string; seed: number; stored: StoredTensor },
): Promise<Record<string, Parameter>> {
  const tensors: Record<string, Parameter> = {};
  const shared = new Map<string, Promise<unknown>>();
  for (const [key, spec] of Object.entries(method.tensors(shape, config))) {
    const read = await stored(shape, key, spec.shape);
    if (!read && spec.shape.reduce((product, size) => product * size, 1) > MOST_NUMBERS) {
      throw new TunesmithError(
        "config-invalid",
        `${site.path}: ${key} of shape [${spec.shape}] is too large`,
        {
          fix: "choose a smaller rank",
        },
      );
    }
    const data = read ?? (await spec.init(initContext(site, shape, seed, key, shared)));
    tensors[key] = parameter(`${name}/${site.path}.${key}`, spec.shape, data, spec.trainable);
  }
  return tensors;
}

export function assemble(
  name: string,
  adaptation: Adaptation,
  sites: ReadonlyMap<string, AdapterSite>,
  saved: readonly SavedTensor[],
  tokens: readonly TokenRows[],
): Adapter {
  const gate = parameter(`${name}/gate`, [], Float32Array.of(1), false);
  const own = [...sites.values()].flatMap((site) => Object.values(site.tensors));
  const all = [
    gate,
    ...own,
    ...saved.map((entry) => entry.parameter),
    ...tokens.map((entry) => entry.parameter),
  ];
  const parameters = new Map(all.map((entry) => [entry.name, entry] as const));
  return { name, adaptation, sites, saved, tokens, gate, parameters };
}

function chooseSites(model: Model, sites: readonly Site[], { method, config }: Adaptation): Site[] {
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
  return chosen;
}

function initContext(
  site: Site,
  shape: SiteShape,
  seed: number,
  key: string,
  shared: Map<string, Promise<unknown>>,
): InitContext {
  const random = rng(seed, site.path, key);
  return {
    site: shape,
    normal: (count, std = 1) => random.fillNormal(new Float32Array(count), 0, std),
    uniform: (count, low, high) => random.fillUniform(new Float32Array(count), low, high),
    weight: () => orientedWeight(site),
    once<T>(label: string, compute: () => Promise<T>) {
      const known = shared.get(label) ?? compute();
      shared.set(label, known);
      return known as Promise<T>;
    },
  };
}
