import { z } from "zod";
import { fileExists, joinPath, sha256 } from "#io";
import { TunesmithError } from "../../errors/index.js";
import {
  layoutOfNormalFloat,
  type Quantization,
  type QuantizedMatrix,
  quantizationOf,
  storeMatrices,
  type Value,
} from "../../graph/index.js";
import {
  checkPlainBase,
  frozenTensor,
  type Model,
  probeOutputs,
  type Site,
  sitesOf,
  storedOf,
  withQuantizedSites,
} from "../../models/index.js";
import {
  bytesOf,
  codeBytes,
  type LazyTensor,
  openSafetensors,
  readTensor,
  type Tensor,
  type TensorFile,
  writeSafetensors,
} from "../../tensor/index.js";

/** The quantised weights beside an adapter that was trained on numbers of its own. */
const FILE = "quantized_base.safetensors";
const SETTINGS_KEY = "tunesmith.quantization";

/** Key of the identity of those weights in an adapter's metadata. */
export const OWN_BASE_KEY = "tunesmith.quantized_base";

const PARTS = ["codes", "scaleCodes", "scaleScales", "offset"] as const;

/** A hash over a weight's numbers and settings. */
export const printOf = ({ settings, parts }: QuantizedMatrix<Tensor>): Promise<string> =>
  sha256([
    new TextEncoder().encode(JSON.stringify(settings)),
    ...PARTS.map((part) => bytesOf(parts[part] as Tensor)),
  ]);

/** Identity of quantised weights, out of their prints. */
export const identityOf = async (prints: readonly string[]): Promise<string> =>
  (await sha256(new TextEncoder().encode(prints.toSorted().join()))).slice(0, 16);

/** Settings that all have in common, or what is left of them where each has its own. */
export function commonSettings(all: readonly Quantization[]): Quantization {
  const texts = new Set(all.map((settings) => JSON.stringify(settings)));
  return texts.size === 1 ? (all[0] as Quantization) : { kind: "nf" };
}

/** Writes the weights of a base that adapters bring along into an adapter's folder; other bases are left alone. */
export async function saveOwnBase(model: Model, folder: string): Promise<void> {
  const { quantization } = model;
  if (!quantization?.own) return;
  const seen = new Set<unknown>();
  const tensors: [string, LazyTensor][] = [];
  const settings: Record<string, Quantization> = {};
  for (const [path, matrix] of quantization.sites) {
    settings[path] = matrix.settings;
    // Modules that share a weight share its tensors, under the first's name.
    if (seen.has(matrix)) continue;
    seen.add(matrix);
    for (const part of PARTS) {
      const value = matrix.parts[part] as Value;
      const shape = value.shape as readonly number[];
      tensors.push([`${path}.${part}`, { dtype: value.dtype, shape, load: () => frozenTensor(value) }]);
    }
  }
  const metadata = { [OWN_BASE_KEY]: quantization.own, [SETTINGS_KEY]: JSON.stringify(settings) };
  await writeSafetensors(joinPath(folder, FILE), tensors, { metadata });
}

/**
 * The model with the quantised weights that an adapter's folder brings along; the model itself where it brings none, or where
 * they are those it has. Throws `wrong-base` for a model that has others, or lacks a module, and `file-corrupt`.
 */
export async function withOwnBase<M extends Model>(model: M, folder: string): Promise<M> {
  const path = joinPath(folder, FILE);
  if (!(await fileExists(path))) return model;
  const file = await openSafetensors(path);
  try {
    const own = file.metadata.get(OWN_BASE_KEY);
    if (own !== undefined && model.quantization?.own === own) return model;
    if (model.quantization) throw wrongBase(path, "the model is quantised otherwise");
    checkPlainBase(model);
    return await rebuilt(model, file, path, own);
  } finally {
    await file.close();
  }
}

async function rebuilt<M extends Model>(
  model: M,
  file: TensorFile,
  path: string,
  own: string | undefined,
): Promise<M> {
  const settings = settingsIn(file, path);
  const known = new Map(sitesOf(probeOutputs(model)).map((site) => [site.path, site] as const));
  const chosen = Object.keys(settings).map((name) => {
    const site = known.get(name);
    if (site?.kind === "linear") return site;
    throw wrongBase(path, `it has no linear map ${name}`);
  });
  const firsts = chosen.filter((site) => file.entries.has(`${site.path}.codes`));
  const others = chosen.filter((site) => !firsts.includes(site));
  const quantised = new Set(firsts.map(({ weight }) => storedOf(weight)));
  const alone = others.find(({ weight }) => !quantised.has(storedOf(weight)));
  if (alone) throw corrupt(path, `'${alone.path}.codes' is missing`);
  const prints: string[] = [];
  const matrices = await storeMatrices(
    firsts.map((site) => ({
      name: site.weightName,
      async make() {
        const matrix = await readMatrix(file, path, site, settings[site.path] as Quantization);
        prints.push(await printOf(matrix));
        return matrix;
      },
    })),
  );
  if ((await identityOf(prints)) !== own)
    throw corrupt(path, "its tensors are not those it was written with");
  const what = { settings: commonSettings(Object.values(settings)), left: [], own: own as string };
  return withQuantizedSites(model, [...firsts, ...others], matrices, what);
}

const settingsSchema = z.record(z.string(), z.object({ kind: z.literal("nf") }).loose());

function settingsIn(file: TensorFile, path: string): Record<string, Quantization> {
  let given: unknown;
  try {
    given = JSON.parse(file.metadata.get(SETTINGS_KEY) ?? "");
  } catch {
    throw corrupt(path, `'${SETTINGS_KEY}' in its metadata is no JSON`);
  }
  const { data, success } = settingsSchema.safeParse(given);
  if (!success || Object.keys(data).length === 0)
    throw corrupt(path, `'${SETTINGS_KEY}' in its metadata is not a layout by module`);
  return Object.fromEntries(
    Object.entries(data).map(([name, settings]) => [name, quantizationOf(settings)] as const),
  );
}

async function readMatrix(
  file: TensorFile,
  path: string,
  { path: name, outFeatures: rows, inFeatures: columns }: Site,
  settings: Quantization,
): Promise<QuantizedMatrix<Tensor>> {
  const { bits, blockSize, scaleBits, superBlock, scaleDtype } = layoutOfNormalFloat(settings);
  const scales = (rows * columns) / blockSize;
  const expected = {
    codes: ["uint8", codeBytes(rows * columns, bits)],
    scaleCodes: ["uint8", codeBytes(scales, scaleBits)],
    scaleScales: [scaleDtype, Math.ceil(scales / superBlock)],
    offset: ["float32", undefined],
  } as const;
  const parts: Record<string, Tensor> = {};
  for (const part of PARTS) {
    const entry = file.entries.get(`${name}.${part}`);
    const [dtype, length] = expected[part];
    if (!entry) throw corrupt(path, `'${name}.${part}' is missing`);
    if (entry.dtype !== dtype || entry.shape.join() !== (length === undefined ? "" : String(length)))
      throw wrongBase(path, `'${name}.${part}' is not of the module's size`);
    parts[part] = await readTensor(entry);
  }
  return { rows, columns, settings, parts };
}

const corrupt = (path: string, what: string) =>
  new TunesmithError("file-corrupt", `${path}: ${what}`, {
    fix: "save the adapter again",
    details: { path },
  });

const wrongBase = (path: string, what: string) =>
  new TunesmithError("wrong-base", `${path} holds weights for another model: ${what}`, {
    fix: "load the adapter on the plain model that it was trained from",
    details: { path },
  });
