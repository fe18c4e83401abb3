import * as ort from "onnxruntime-node";
import { fileExists } from "#io";
import { TunesmithError } from "../errors/index.js";
import { logitsOf, type Model, probe, probeIds, runModel } from "../models/index.js";
import { loadAll, openOnnxAdapter, type Tensor } from "../tensor/index.js";

/** How an exported file compares with the model it was made from. */
export interface OnnxCheck {
  /** Largest difference of an output on a small example. */
  readonly maxDiff: number;
  /** Largest output there, to judge the difference by. */
  readonly scale: number;
}

type Feeds = Readonly<Record<string, ort.Tensor>>;
type Named = Readonly<Record<string, Tensor>>;

/**
 * Runs a written ONNX file with plain ONNX Runtime, by its documented inputs, and compares its outputs with the model's; an
 * encoder with the decoder beside it. Throws `numerical-failure` when they differ by more than rounding.
 */
export async function checkOnnx(model: Model, path: string): Promise<OnnxCheck> {
  const { feeds, expected } = model.task === "causal-lm" ? await ofRow(model) : await ofExample(model);
  const first = await outputsOf(path, { ...feeds, ...(await adapterFeeds(path)) });
  const got = path.endsWith(ENCODER) ? { ...first, ...(await decoded(model, path, feeds, first)) } : first;
  let [maxDiff, scale] = [0, 0];
  for (const [name, { data }] of Object.entries(expected)) {
    const found = got[name === "encoder_last_hidden_state" && !(name in got) ? "last_hidden_state" : name];
    if (!found) continue;
    const values = data as Float32Array;
    values.forEach((value, at) => {
      maxDiff = Math.max(maxDiff, Math.abs(value - Number(found.data[at])));
      scale = Math.max(scale, Math.abs(value));
    });
  }
  if (scale > 0 && maxDiff <= 1e-3 * Math.max(1, scale)) return { maxDiff, scale };
  throw new TunesmithError(
    "numerical-failure",
    `${path} gives outputs that differ by ${maxDiff} from the model's`,
    {
      fix: "report this with the model's config.json",
      details: { maxDiff, scale },
    },
  );
}

const ENCODER = "encoder_model.onnx";

/** The first step of the decoder that lies beside an encoder. */
async function decoded(
  model: Model,
  path: string,
  feeds: Feeds,
  { last_hidden_state }: Feeds,
): Promise<Record<string, ort.Tensor>> {
  const { decoder_input_ids: ids, attention_mask } = feeds;
  const sizes = model.task === "causal-lm" ? undefined : model.decoder;
  if (!ids || !last_hidden_state || !sizes) return {};
  const { layers, kvHeads, headDim } = sizes;
  const empty = new ort.Tensor("float32", new Float32Array(0), [ids.dims[0] ?? 1, kvHeads, 0, headDim]);
  const cache = Array.from({ length: layers }, (_, layer) =>
    ["decoder", "encoder"].flatMap((side) =>
      ["key", "value"].map((part) => [`past_key_values.${layer}.${side}.${part}`, empty] as const),
    ),
  );
  const beside = path.replace(ENCODER, "decoder_model_merged.onnx");
  return outputsOf(beside, {
    input_ids: ids,
    encoder_hidden_states: last_hidden_state,
    ...(attention_mask ? { encoder_attention_mask: attention_mask } : {}),
    use_cache_branch: new ort.Tensor("bool", [false], [1]),
    ...Object.fromEntries(cache.flat()),
    ...(await adapterFeeds(beside)),
  });
}

async function ofRow(model: Model & { task: "causal-lm" }): Promise<{ feeds: Feeds; expected: Named }> {
  const { kvHeads, headDim, layers, vocabSize, maxPositions } = model.sizes;
  const ids = probeIds(vocabSize, Math.min(16, maxPositions));
  const shape = [1, ids.length];
  const long = (values: readonly number[]) =>
    new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
  const empty = new ort.Tensor("float32", new Float32Array(0), [1, kvHeads, 0, headDim]);
  const cache = Array.from({ length: layers }, (_, layer) => [
    [`past_key_values.${layer}.key`, empty] as const,
    [`past_key_values.${layer}.value`, empty] as const,
  ]);
  const feeds = {
    input_ids: long(ids),
    attention_mask: long(ids.map(() => 1)),
    position_ids: long([...ids.keys()]),
    ...Object.fromEntries(cache.flat()),
  };
  return { feeds, expected: { logits: await logitsOf(model, ids, { worker: true }) } };
}

async function ofExample(
  model: Exclude<Model, { task: "causal-lm" }>,
): Promise<{ feeds: Feeds; expected: Named }> {
  const { feeds } = probe(model);
  return { feeds: asFeeds(Object.entries(feeds)), expected: await runModel(model, feeds, { worker: true }) };
}

const asFeeds = (tensors: Iterable<readonly [string, Tensor]>): Feeds =>
  Object.fromEntries(
    [...tensors].map(([name, { dtype, data, shape }]) => [
      name,
      new ort.Tensor(dtype as "float32", data.slice() as Float32Array, [...shape]),
    ]),
  );

/** The adapter that was written beside a file whose adapter weights are inputs. */
async function adapterFeeds(path: string): Promise<Feeds> {
  const beside = path.replace(/\.onnx$/, ".onnx_adapter");
  if (!(await fileExists(beside))) return {};
  const file = await openOnnxAdapter(beside);
  try {
    return asFeeds(await loadAll(file));
  } finally {
    await file.close();
  }
}

async function outputsOf(path: string, feeds: Feeds): Promise<Record<string, ort.Tensor>> {
  const session = await ort.InferenceSession.create(path, { logSeverityLevel: 3 });
  try {
    const wanted = session.inputNames.flatMap((name) => (feeds[name] ? [[name, feeds[name]] as const] : []));
    return { ...(await session.run(Object.fromEntries(wanted))) };
  } finally {
    await session.release();
  }
}
