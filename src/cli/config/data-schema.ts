import { z } from "zod";
import { FIELD_NAMES, LAYOUTS } from "../../data/index.js";

const count = (least = 1) => z.number().int().min(least);
/** A number of bytes, or a text such as `512MB`. */
export const bytesField = z.union([
  z.number().int().nonnegative(),
  z.string().regex(/^\d+(\.\d+)?\s*[kmgt]?i?b?$/i, "expected bytes, such as 512MB"),
]);

export const dataField = z
  .string()
  .min(1)
  .describe("JSONL, JSON, CSV, TSV, Parquet or text file, a folder of files, or a dataset id of the hub");

/** How a dataset is found and its rows are read. */
export const rowsShape = {
  layout: z.enum(LAYOUTS).optional().describe("how rows are read; default: by their fields"),
  fields: z
    .partialRecord(z.enum(FIELD_NAMES), z.string())
    .optional()
    .describe('other names of fields, as JSON: {"prompt": "question"}'),
  format: z
    .enum(["jsonl", "json", "csv", "tsv", "parquet", "labelled", "conll", "text"])
    .optional()
    .describe("format of the data file; default: by its ending"),
  encoding: z.enum(["utf-8", "latin1", "utf-16le"]).default("utf-8").describe("how text files are encoded"),
  documentSeparator: z.string().min(1).optional().describe("cuts a text file into documents"),
  extensions: z.array(z.string()).optional().describe("endings of the files to read from a folder"),
  maxBytes: bytesField.optional().describe("read at most so much from a folder of sources; default 64MB"),
  subset: z.string().min(1).optional().describe("configuration of a dataset of the hub"),
  split: z.string().min(1).optional().describe("split of a dataset of the hub; default: train"),
};

/** How text becomes tokens. */
export const tokensShape = {
  chatTemplate: z.string().optional().describe("Jinja chat template instead of the tokenizer's own"),
  trainOn: z.enum(["all", "last"]).default("all").describe("which answers of a conversation count"),
  appendEos: z.boolean().default(true).describe("end documents with the end-of-sequence token"),
};

const modelField = z.string().min(1).describe("model whose tokenizer is used: folder, file or hub id");

export const dataCheckSchema = z.strictObject({
  data: dataField,
  validation: z.string().min(1).optional().describe("data held out for validation, to look for leakage"),
  test: z.string().min(1).optional().describe("data held out for testing, to look for leakage"),
  model: modelField.optional(),
  length: count(2).default(1024).describe("tokens per example at most"),
  tokenRows: count().default(2000).describe("tokenize so many rows of each part, drawn evenly"),
  near: z
    .number()
    .gt(0)
    .max(1)
    .default(0.8)
    .describe("share of phrases from which on rows are near duplicates"),
  memory: bytesField.default("256MB").describe("memory for finding duplicates"),
  dropped: z
    .string()
    .min(1)
    .optional()
    .describe("write every dropped row with its reason to this JSONL file"),
  lenient: z.boolean().default(true).describe("count lines that are no JSON as dropped"),
  strict: z.boolean().default(false).describe("fail when there is anything worse than a note"),
  seed: count(0).default(0).describe("seed of the rows that are tokenized"),
  ...rowsShape,
  ...tokensShape,
});

export const dataShowSchema = z.strictObject({
  data: dataField,
  model: modelField.optional(),
  row: z
    .union([z.number().int(), z.string()])
    .optional()
    .describe("number or path of the row; default: the first"),
  rows: count().default(1).describe("show so many rows"),
  length: count(2).default(1024).describe("tokens per example at most"),
  ids: z.boolean().default(false).describe("list every token with its id"),
  ...rowsShape,
  ...tokensShape,
});

export const dataSplitSchema = z.strictObject({
  data: dataField,
  out: z.string().min(1).describe("folder for train.jsonl, validation.jsonl and test.jsonl"),
  validationShare: z.number().min(0).lt(1).default(0.1).describe("part of the rows for validation; 0: none"),
  testShare: z.number().min(0).lt(1).default(0).describe("part of the rows for testing; 0: none"),
  stratify: z.boolean().default(true).describe("give every class its share in every part"),
  seed: count(0).default(0).describe("same seed and rows, same parts"),
  ...rowsShape,
});
