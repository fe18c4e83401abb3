import { z } from "zod";

/** Where runs are kept, for every command that reads them. */
export const trackField = z
  .string()
  .min(1)
  .optional()
  .describe(
    "database of runs: SQLite file or postgres:// URL; default: TUNESMITH_TRACK, .tunesmith/runs.sqlite",
  );

const run = "id, part of an id, name, or last";

export const runsListSchema = z.strictObject({
  track: trackField,
  limit: z.number().int().min(1).default(20).describe("show the newest so many"),
  status: z
    .enum(["running", "finished", "failed", "interrupted"])
    .optional()
    .describe("only runs in this state"),
});

export const runsShowSchema = z.strictObject({
  run: z.string().min(1).default("last").describe(`run to show: ${run}`),
  track: trackField,
});

export const runsCompareSchema = z.strictObject({
  runs: z.array(z.string()).min(2).describe(`runs to compare: ${run}`),
  track: trackField,
});

export const runsPlotSchema = z.strictObject({
  runs: z.array(z.string()).min(1).default(["last"]).describe(`runs to draw: ${run}`),
  track: trackField,
  metrics: z.array(z.string()).min(1).optional().describe("metrics to draw; default: loss and evalLoss"),
  smoothing: z
    .number()
    .min(0)
    .lt(1)
    .default(0)
    .describe("weight of the past in a moving average of training metrics; 0: none"),
  out: z.array(z.string()).default([]).describe("also write these files: .html (self-contained), .svg, .png"),
});

export const runsExportSchema = z.strictObject({
  run: z.string().min(1).default("last").describe(`run to export: ${run}`),
  track: trackField,
  format: z
    .enum(["jsonl", "csv", "tensorboard"])
    .default("jsonl")
    .describe("jsonl: everything; csv: metrics, as trackio imports them; tensorboard: event files"),
  out: z.string().min(1).describe("file to write; a folder for tensorboard"),
});

export const runsDeleteSchema = z.strictObject({
  runs: z.array(z.string()).min(1).describe(`runs to delete, not their files: ${run}`),
  track: trackField,
});
