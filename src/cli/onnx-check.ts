import * as ort from "onnxruntime-node";
import { TunesmithError } from "../errors/index.js";
import { type CausalLm, logitsOf, probeIds } from "../models/index.js";
import { maxAbsDiff, type Tensor } from "../tensor/index.js";

/** How an exported file compares with the model it was made from. */
export interface OnnxCheck {
  /** Largest difference of a logit on a row of probe tokens. */
  readonly maxDiff: number;
  /** Largest logit of the row, to judge the difference by. */
  readonly scale: number;
}

/**
 * Runs a written ONNX file with plain ONNX Runtime, by its documented inputs, and compares its logits with the model's.
 * Throws `numerical-failure` when they differ by more than rounding.
 */
export async function checkOnnx(model: CausalLm, path: string): Promise<OnnxCheck> {
  const ids = probeIds(model.sizes.vocabSize, Math.min(16, model.sizes.maxPositions));
  const wanted = await logitsOf(model, ids, { worker: true });
  const got = await logitsOfFile(model, path, ids);
  const flat = (t: Tensor): Tensor => ({ ...t, shape: [t.data.length] });
  const maxDiff = maxAbsDiff(flat(got), flat(wanted));
  const scale = (wanted.data as Float32Array).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  if (maxDiff <= 1e-3 * Math.max(1, scale)) return { maxDiff, scale };
  throw new TunesmithError(
    "numerical-failure",
    `${path} gives logits that differ by ${maxDiff} from the model's`,
    {
      fix: "report this with the model's config.json",
      details: { maxDiff, scale },
    },
  );
}

async function logitsOfFile(model: CausalLm, path: string, ids: readonly number[]): Promise<Tensor> {
  const session = await ort.InferenceSession.create(path, { logSeverityLevel: 3 });
  try {
    const shape = [1, ids.length];
    const long = (values: readonly number[]) =>
      new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
    const { kvHeads, headDim } = model.sizes;
    const empty = () => new ort.Tensor("float32", new Float32Array(0), [1, kvHeads, 0, headDim]);
    const known: Record<string, () => ort.Tensor> = {
      input_ids: () => long(ids),
      attention_mask: () => long(ids.map(() => 1)),
      position_ids: () => long(ids.map((_, at) => at)),
    };
    const feeds = Object.fromEntries(session.inputNames.map((name) => [name, (known[name] ?? empty)()]));
    const { logits } = await session.run(feeds, ["logits"]);
    return { dtype: "float32", shape: [...(logits?.dims ?? [])], data: logits?.data as Float32Array };
  } finally {
    await session.release();
  }
}
