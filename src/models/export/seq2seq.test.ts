import { expect, test } from "vitest";
import { createSession } from "../../runtime/index.js";
import { maxAbsDiff, openSafetensors, type Tensor, tensor } from "../../tensor/index.js";
import { loadModel } from "../load.js";
import { runModel } from "../probe.js";
import { seq2seqGraphs } from "./seq2seq.js";

const FIXTURES = new URL("../../../fixtures/text-models/", import.meta.url).pathname;

async function inputsOf(name: string): Promise<Record<string, Tensor>> {
  const file = await openSafetensors(`${FIXTURES}${name}/expected.safetensors`);
  const keys = [...file.entries.keys()].filter((key) => key.startsWith("input."));
  const inputs = await Promise.all(keys.map(async (key) => [key.slice(6), await file.read(key)] as const));
  await file.close();
  return Object.fromEntries(inputs);
}

const cut = (ids: Tensor, from: number, to: number): Tensor => {
  const [batch, length] = ids.shape as [number, number];
  const rows = Array.from({ length: batch }, (_, row) =>
    Array.from((ids.data as BigInt64Array).subarray(row * length + from, row * length + to), Number),
  );
  return tensor("int64", [batch, to - from], rows.flat());
};

test.each(["t5", "t5-gated", "whisper"])(
  "%s: encoder and decoder apart give the whole model's logits",
  async (name) => {
    const model = await loadModel(`${FIXTURES}${name}`, { task: "seq2seq" });
    const { decoder_input_ids: ids, ...source } = await inputsOf(name);
    const { logits: whole } = await runModel(model, { ...source, decoder_input_ids: ids as Tensor });
    const { encoder, decoder } = seq2seqGraphs(model, "merged");
    const [encode, decode] = [await createSession(encoder.graph), await createSession(decoder.graph)];
    const wanted = encoder.graph.inputs.map((value) => String(value.name));
    const { last_hidden_state: states } = await encode.run(
      Object.fromEntries(Object.entries(source).filter(([key]) => wanted.includes(key))),
    );
    const [batch, length] = (ids as Tensor).shape as [number, number];
    const { kvHeads, headDim, layers } = model.decoder as NonNullable<typeof model.decoder>;
    const none = tensor("float32", [batch, kvHeads, 0, headDim], []);
    let cache: Record<string, Tensor> = Object.fromEntries(
      Array.from({ length: layers }, (_, layer) =>
        ["decoder", "encoder"].flatMap((side) =>
          ["key", "value"].map((part) => [`past_key_values.${layer}.${side}.${part}`, none] as const),
        ),
      ).flat(),
    );
    const parts: Tensor[] = [];
    for (let at = 0; at < length; at = at === 0 ? 2 : at + 1) {
      const to = at === 0 ? 2 : at + 1;
      const { logits, ...present } = await decode.run({
        input_ids: cut(ids as Tensor, at, to),
        encoder_hidden_states: states as Tensor,
        ...(source.attention_mask ? { encoder_attention_mask: source.attention_mask } : {}),
        use_cache_branch: tensor("bool", [1], [at === 0 ? 0 : 1]),
        ...cache,
      });
      parts.push(logits as Tensor);
      cache = Object.fromEntries(
        Object.entries(present).map(([key, value]) => [key.replace("present", "past_key_values"), value]),
      );
    }
    const last = parts.at(-1) as Tensor;
    const vocab = last.shape[2] as number;
    const all = whole?.data as Float32Array;
    const ends = Array.from({ length: batch }, (_, row) =>
      Array.from(all.subarray(((row + 1) * length - 1) * vocab, (row + 1) * length * vocab)),
    );
    expect(maxAbsDiff(last, tensor("float32", last.shape, ends.flat()))).toBeLessThan(1e-4);
    await encode.release();
    await decode.release();
  },
);
