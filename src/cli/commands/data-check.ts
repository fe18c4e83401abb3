import type { z } from "zod";
import { appendText, fileExists, joinPath, readText, remove, stat } from "#io";
import { type CheckPart, checkDataset, type DatasetCheck, type DroppedRow } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import { loadTokenizer, type Tokenizer } from "../../models/index.js";
import type { Context } from "../command.js";
import type { dataCheckSchema } from "../config/data-schema.js";
import { bytesIn } from "../config/flags.js";
import { formatCount, type Ui } from "../ui.js";
import { openData, openModel, throwIfAborted, tokenizeOptions, tokenizerOf } from "../work.js";
import { checkText } from "./data-text.js";

export async function runDataCheck(
  options: z.output<typeof dataCheckSchema>,
  { ui, signal }: Context,
): Promise<void> {
  const started = performance.now();
  const named = { train: options.data, validation: options.validation, test: options.test };
  const parts: CheckPart[] = [];
  const model = options.model === undefined ? undefined : await openTokenizer(options.model, ui, signal);
  const dropped = options.dropped === undefined ? undefined : await droppedFile(options.dropped);
  try {
    for (const [name, path] of Object.entries(named)) {
      if (path !== undefined) parts.push({ name, stream: await openData(path, options) });
    }
    const report = reporter(ui);
    const check = await checkDataset(parts, {
      ...(model ?? {}),
      ...tokenizeOptions(options),
      maxLength: options.length,
      tokenRows: options.tokenRows,
      threshold: options.near,
      memoryBytes: bytesIn(options.memory),
      seed: options.seed,
      ...(dropped ? { onDropped: dropped.add } : {}),
      onProgress(rows) {
        throwIfAborted(signal);
        report(rows);
      },
    });
    await dropped?.flush();
    const seconds = (performance.now() - started) / 1000;
    ui.say(checkText(check, seconds));
    ui.result({ ...check, seconds });
    failIfStrict(check, options.strict);
  } finally {
    for (const { stream } of parts) await stream.close();
  }
}

/** How many rows there are is known at the end only: a line now and then instead of a bar. */
function reporter(ui: Ui): (rows: number) => void {
  let last = performance.now();
  return (rows) => {
    const now = performance.now();
    if (now - last < 5000) return;
    last = now;
    ui.note(`checked ${formatCount(rows)} rows`);
  };
}

function failIfStrict({ findings }: DatasetCheck, strict: boolean): void {
  const bad = findings.filter(({ severity }) => severity !== "note");
  if (!strict || bad.length === 0) return;
  throw new TunesmithError("data-invalid", `the data has ${bad.length} errors and warnings`, {
    fix: "correct the data, or leave out --strict",
    details: { findings: bad.map(({ code }) => code) },
  });
}

/** The tokenizer of a model, and the rows of its embedding; weights are read only where they hold the tokenizer. */
export async function openTokenizer(
  path: string,
  ui: Ui,
  signal: AbortSignal,
): Promise<{ tokenizer: Tokenizer; vocabSize?: number }> {
  const isFolder = (await fileExists(path)) && (await stat(path)).isDirectory;
  if (!isFolder) {
    const model = await openModel(path, ui, signal);
    return { tokenizer: tokenizerOf(model), ...vocabulary(model.config) };
  }
  const config = joinPath(path, "config.json");
  const tokenizer = await loadTokenizer(path);
  return { tokenizer, ...((await fileExists(config)) ? vocabulary(JSON.parse(await readText(config))) : {}) };
}

const vocabulary = (config: unknown): { vocabSize?: number } => {
  const size = (config as { vocab_size?: unknown }).vocab_size;
  return typeof size === "number" ? { vocabSize: size } : {};
};

/** Writes dropped rows as they come, many at a time. */
async function droppedFile(path: string) {
  await remove(path);
  let lines: string[] = [];
  const flush = async () => {
    if (lines.length > 0) await appendText(path, lines.join(""));
    lines = [];
  };
  return {
    async add(part: string, { row, reason }: DroppedRow): Promise<void> {
      lines.push(`${JSON.stringify({ part, row, reason })}\n`);
      if (lines.length >= 1000) await flush();
    },
    flush,
  };
}
