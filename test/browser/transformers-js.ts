/** transformers.js in the page, over folders that were exported here; nothing is asked of another host. */
import {
  type AutoModel,
  AutoModelForCausalLM,
  AutoModelForImageClassification,
  AutoModelForSeq2SeqLM,
  AutoModelForSequenceClassification,
  AutoTokenizer,
  env,
  Tensor,
} from "@huggingface/transformers";
import type { Exported } from "./exported.js";
import { assert, equal, test } from "./harness.js";
import type { PlainTensor } from "./reference.js";

const asTensor = ({ dtype, shape, data }: PlainTensor) =>
  new Tensor(
    dtype as "int64",
    dtype === "int64" ? BigInt64Array.from(data as number[], BigInt) : Float32Array.from(data as number[]),
    [...shape],
  );
const long = (ids: readonly number[]) =>
  new Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);

function sameOutputs(name: string, Loader: typeof AutoModel, found: Promise<Exported>): void {
  test(`${name}: the same outputs`, async () => {
    const { feeds, outputs } = (await found).models[name] as Exported["models"][string];
    const model = await Loader.from_pretrained(name);
    const inputs = Object.fromEntries(Object.entries(feeds).map(([key, value]) => [key, asTensor(value)]));
    const got = (await model(inputs)) as Record<string, Tensor>;
    let worst = 0;
    for (const [key, { data }] of Object.entries(outputs)) {
      const values = got[key]?.data as Float32Array | undefined;
      equal(values?.length, data.length, `${key}'s length`);
      data.forEach((value, at) => {
        worst = Math.max(worst, Math.abs(Number(value) - Number(values?.[at])));
      });
    }
    assert(worst < 1e-4, `differ by ${worst}`);
    await model.dispose();
    return `largest difference ${worst.toExponential(1)}`;
  });
}

export function transformersJs(): void {
  env.localModelPath = "/exported/";
  env.allowLocalModels = true;
  env.allowRemoteModels = false;
  env.useBrowserCache = false;
  const { wasm } = env.backends.onnx;
  if (wasm) wasm.wasmPaths = "/ort/";
  const found = fetch("/exported.json").then((response) => response.json() as Promise<Exported>);

  for (const dtype of ["fp32", "q8"] as const) {
    test(`the shipped model (${dtype}, data beside it) ${dtype === "q8" ? "runs" : "writes the same text"}`, async () => {
      const { prompt, text } = await found;
      const [model, tokenizer] = [
        await AutoModelForCausalLM.from_pretrained("shipped", { dtype }),
        await AutoTokenizer.from_pretrained("shipped"),
      ];
      const inputs = tokenizer(prompt) as Record<string, Tensor>;
      const made = (await model.generate({ ...inputs, max_new_tokens: 24, do_sample: false })) as Tensor;
      const [written] = tokenizer.batch_decode(made, { skip_special_tokens: true });
      if (dtype === "fp32") equal(written, prompt + text, "what it writes");
      else assert((written?.length ?? 0) > prompt.length, "it writes something");
      await model.dispose();
    });
  }
  sameOutputs("bert", AutoModelForSequenceClassification, found);
  sameOutputs("vit", AutoModelForImageClassification, found);
  test("t5: encoder and decoder write the same tokens", async () => {
    const { source, tokens } = (await found).seq2seq;
    const model = await AutoModelForSeq2SeqLM.from_pretrained("t5");
    const options = { max_new_tokens: 8, do_sample: false, eos_token_id: -1 };
    const inputs = { inputs: long(source), attention_mask: long(source.map(() => 1)) };
    const made = (await model.generate({ ...inputs, ...options } as never)) as Tensor;
    equal(Array.from(made.data as BigInt64Array, Number), tokens, "tokens");
    await model.dispose();
  });
}
