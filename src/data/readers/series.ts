import { TunesmithError } from "../../errors/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { type DataFile, nameOf, readUnpacked } from "./bytes.js";
import { malformed, parseTable } from "./records.js";

/** A table of numbers over time. */
export interface Series {
  /** Names of the columns; `c0`, `c1`, ... where the file has none. */
  readonly channels: readonly string[];
  /** What the first column says where it is text (dates), else empty. */
  readonly times: readonly string[];
  /** float32 `[steps, channels]`; an empty cell is NaN. */
  readonly values: Tensor;
}

/**
 * Reads a CSV or TSV file (by its ending; packed too) of numbers with or without a line of names, whose first column may
 * hold times. Throws `data-invalid` for a cell that is no number, naming line and column, and `data-empty`.
 *
 * @example
 * ```ts
 * import { readSeries, seriesWindows } from "tunesmith/data";
 * const { channels, values } = await readSeries("ETTh1.csv");
 * for (const { past, future } of seriesWindows(values, { past: 512, future: 96 })) console.log(channels, past.shape, future.shape);
 * ```
 */
export async function readSeries(file: DataFile): Promise<Series> {
  const name = nameOf(file);
  const format = /\.tsv(\.gz)?$/i.test(name) ? "tsv" : "csv";
  const text = new TextDecoder().decode(await readUnpacked(file));
  const table = parseTable(name, text, format, 0);
  const isNumber = (cell: string | undefined) => cell === "" || Number.isFinite(Number(cell));
  const hasNames = table[0]?.some((cell, index) => !isNumber(cell) && (index > 0 || isNumber(table[1]?.[0])));
  const names = hasNames ? table[0] : undefined;
  const body = table.slice(hasNames ? 1 : 0);
  const first = body[0];
  if (!first) {
    throw new TunesmithError("data-empty", `${name} holds no rows of numbers`, {
      fix: "give a file with rows",
    });
  }
  const skip = isNumber(first[0]) ? 0 : 1;
  const width = first.length - skip;
  const data = new Float32Array(body.length * width);
  body.forEach((cells, step) => {
    for (let channel = 0; channel < width; channel++) {
      const cell = cells[channel + skip];
      if (!isNumber(cell)) {
        throw malformed(
          `${name}:${step + (hasNames ? 2 : 1)}`,
          `column ${channel + skip + 1}: '${cell}' is no number`,
        );
      }
      data[step * width + channel] = cell === "" ? Number.NaN : Number(cell);
    }
  });
  return {
    channels: names?.slice(skip) ?? Array.from({ length: width }, (_, channel) => `c${channel}`),
    times: skip === 1 ? body.map(([time = ""]) => time) : [],
    values: tensor("float32", [body.length, width], data),
  };
}

export interface WindowOptions {
  /** Steps a forecast is made from. */
  readonly past: number;
  /** Steps that are forecast. */
  readonly future: number;
  /** Steps between the beginnings of windows. Default 1. */
  readonly stride?: number;
}

/**
 * Windows over a series, in order, as views of it: `past` `[past, channels]` and `future` `[future, channels]`. None when
 * the series is shorter than one window. Throws `config-invalid` for lengths below 1.
 */
export function* seriesWindows(
  values: Tensor,
  options: WindowOptions,
): Generator<{ readonly start: number; readonly past: Tensor; readonly future: Tensor }> {
  const { past, future, stride = 1 } = options;
  const [steps = 0, channels = 0] = values.shape;
  if (![past, future, stride].every((length) => Number.isInteger(length) && length >= 1)) {
    throw new TunesmithError(
      "config-invalid",
      `windows of ${past} + ${future} steps every ${stride} are not possible`,
      {
        fix: "give whole numbers of at least 1",
      },
    );
  }
  const data = values.data as Float32Array;
  const part = (from: number, length: number) =>
    tensor("float32", [length, channels], data.subarray(from * channels, (from + length) * channels));
  for (let start = 0; start + past + future <= steps; start += stride) {
    yield { start, past: part(start, past), future: part(start + past, future) };
  }
}
