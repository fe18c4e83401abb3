import { expect, test } from "vitest";
import { input, makeGraph, type Value } from "../graph/index.js";
import { evaluate } from "../runtime/index.js";
import { type Tensor, tensor } from "../tensor/index.js";
import { inputsOf, rowMask } from "./index.js";

const run = async (mask: Value | undefined, feeds: Record<string, Tensor>) => {
  if (!mask) throw new Error("no mask");
  const result = await evaluate(makeGraph("mask", inputsOf([mask]), [["mask", mask]]), feeds);
  return Array.from(result.mask?.data as Float32Array);
};

const ids = input("ids", "int64", [2, 3]);
const segments = input("segments", "int32", [2, 3]);
const attention = input("attention_mask", "int64", [2, 3]);

test("padding of a language model is where its segments are 0 or less", async () => {
  const mask = rowMask({ ids, positions: ids, segments });
  const fed = { segments: tensor("int32", [2, 3], [1, 2, 0, 1, 0, -1]) };
  expect(await run(mask, fed)).toEqual([1, 1, 0, 1, 0, 0]);
});

test("padding of an encoder is where its mask is 0", async () => {
  const mask = rowMask({ values: { input_ids: ids, attention_mask: attention } });
  const fed = { attention_mask: tensor("int64", [2, 3], [1, 1, 0, 1, 1, 1]) };
  expect(await run(mask, fed)).toEqual([1, 1, 0, 1, 1, 1]);
});

test("it is not known of images, nor where a decoder has rows of its own", () => {
  expect(rowMask({ values: { pixel_values: input("pixels", "float32", [1, 3, 8, 8]) } })).toBeUndefined();
  const values = { input_ids: ids, attention_mask: attention, decoder_input_ids: ids };
  expect(rowMask({ values })).toBeUndefined();
});
