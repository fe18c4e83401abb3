import type { z } from "zod";
import { appendText, joinPath, makeDir, remove } from "#io";
import { partitionRows, type RowStream } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import type { Context } from "../command.js";
import type { dataSplitSchema } from "../config/data-schema.js";
import { formatCount, table } from "../ui.js";
import { openData, throwIfAborted } from "../work.js";

/** Characters that are collected before they are written. */
const BUFFER = 1 << 20;

export async function runDataSplit(
  options: z.output<typeof dataSplitSchema>,
  { ui, signal }: Context,
): Promise<void> {
  const { validationShare, testShare, seed, stratify, out } = options;
  const rest = 1 - validationShare - testShare;
  if (rest <= 0 || validationShare + testShare === 0) {
    throw new TunesmithError(
      "config-invalid",
      `nothing to split off, or nothing left: train gets ${rest.toFixed(3)}`,
      {
        fix: "give --validation-share and --test-share that sum to more than 0 and less than 1",
      },
    );
  }
  const all = { train: rest, validation: validationShare, test: testShare };
  const shares = Object.fromEntries(Object.entries(all).filter(([, share]) => share > 0));
  const stream = await openData(options.data, options);
  try {
    checkWritable(stream);
    const { counts, rows } = await partitionRows(stream, { shares, seed, stratify });
    await makeDir(out);
    const files = await writeParts(out, Object.keys(shares), rows(), signal);
    ui.say(
      table(
        Object.entries(counts).map(([name, count]) => [name, `${formatCount(count)} rows, ${files[name]}`]),
      ),
    );
    ui.result({ layout: stream.layout, counts, files });
  } finally {
    await stream.close();
  }
}

function checkWritable({ layout, name }: RowStream): void {
  if (layout !== "image" && layout !== "audio") return;
  throw new TunesmithError("format-unsupported", `${name} holds files: they are not copied into parts`, {
    fix: "put the files of each part into a folder of its own",
  });
}

/** Writes each row, as it was read, to the file of its part. */
async function writeParts(
  folder: string,
  names: readonly string[],
  rows: AsyncGenerator<{ part: string; row: { raw?: unknown } }>,
  signal: AbortSignal,
): Promise<Record<string, string>> {
  const files = Object.fromEntries(names.map((name) => [name, joinPath(folder, `${name}.jsonl`)]));
  const waiting = new Map(names.map((name) => [name, ""]));
  const flush = async (name: string) => {
    await appendText(files[name] as string, waiting.get(name) ?? "");
    waiting.set(name, "");
  };
  for (const name of names) await remove(files[name] as string);
  for await (const { part, row } of rows) {
    const text = `${waiting.get(part) ?? ""}${JSON.stringify(row.raw, plainNumbers)}\n`;
    waiting.set(part, text);
    if (text.length > BUFFER) {
      throwIfAborted(signal);
      await flush(part);
    }
  }
  for (const name of names) await flush(name);
  return files;
}

/** Parquet's 64-bit integers have no JSON of their own. */
const plainNumbers = (_: string, value: unknown) => (typeof value === "bigint" ? Number(value) : value);
