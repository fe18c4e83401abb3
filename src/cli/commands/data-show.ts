import pc from "picocolors";
import type { z } from "zod";
import {
  decodeImage,
  decodeWav,
  type MaskedExample,
  type MaskedToken,
  type MediaRow,
  maskRow,
  type NumberedRow,
  type RowStream,
} from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import type { Tokenizer } from "../../models/index.js";
import type { Context } from "../command.js";
import type { dataShowSchema } from "../config/data-schema.js";
import { openData, tokenizeOptions } from "../work.js";
import { openTokenizer } from "./data-check.js";

type Options = z.output<typeof dataShowSchema>;

export async function runDataShow(options: Options, { ui, signal }: Context): Promise<void> {
  const stream = await openData(options.data, options);
  try {
    const rows = await rowsFrom(stream, options.row, options.rows);
    const tokenizer =
      options.model === undefined ? undefined : (await openTokenizer(options.model, ui, signal)).tokenizer;
    const shown = [];
    for (const numbered of rows) {
      const { row, value } = numbered;
      ui.say(pc.bold(`row ${row}, ${value.kind}`));
      const examples = tokenizer ? examplesOf(numbered, tokenizer, options) : [];
      if (value.kind === "image" || value.kind === "audio") ui.say(await mediaText(value));
      else if (examples.length === 0) ui.say(JSON.stringify(value, undefined, 2));
      for (const example of examples) ui.say(exampleText(example, options.ids));
      ui.say();
      shown.push({ row, kind: value.kind, value, examples });
    }
    if (tokenizer) ui.say(legend());
    ui.result({ layout: stream.layout, guess: stream.guess ?? null, rows: shown });
  } finally {
    await stream.close();
  }
}

const examplesOf = ({ value }: NumberedRow, tokenizer: Tokenizer, options: Options): MaskedExample[] =>
  maskRow(value, tokenizer, { ...tokenizeOptions(options), maxLength: options.length });

/** Rows from the one that is asked for; throws `config-invalid` when there is none, saying why if it was dropped. */
async function rowsFrom(stream: RowStream, wanted: number | string | undefined, count: number) {
  const rows: NumberedRow[] = [];
  const isWanted = (row: number | string) => wanted === undefined || String(row) === String(wanted);
  for await (const batch of stream.batches()) {
    const dropped = wanted === undefined ? undefined : batch.dropped.find(({ row }) => isWanted(row));
    if (dropped) {
      throw new TunesmithError("data-invalid", `row ${wanted} is dropped: ${dropped.reason}`, {
        fix: "choose another row, or correct this one",
      });
    }
    for (const numbered of batch.rows) {
      if (rows.length === 0 && !isWanted(numbered.row)) continue;
      rows.push(numbered);
      if (rows.length === count) return rows;
    }
  }
  if (rows.length > 0) return rows;
  throw new TunesmithError(
    "config-invalid",
    `${stream.name} has no ${wanted === undefined ? "rows" : `row ${wanted}`}`,
    {
      fix: "rows are numbered from 1; in JSONL by line",
    },
  );
}

async function mediaText({ kind, file, label }: MediaRow): Promise<string> {
  const bytes = await file.read();
  if (kind === "image") {
    const { width, height } = decodeImage(bytes, file.name);
    return `  ${file.name}: ${width} x ${height} pixels, class ${label}`;
  }
  const { channels, sampleRate } = decodeWav(bytes, file.name);
  const seconds = (channels[0]?.length ?? 0) / sampleRate;
  return `  ${file.name}: ${seconds.toFixed(2)} s at ${sampleRate} Hz, ${channels.length} channels, class ${label}`;
}

function exampleText({ name, tokens }: MaskedExample, ids: boolean): string {
  const trained = tokens.filter((token) => token.trained).length;
  const head = `${name ? `${name}: ` : ""}${tokens.length} tokens, ${trained} trained`;
  const body = ids ? tokens.map(tokenLine).join("\n") : runsOf(tokens).map(runText).join("");
  return `${pc.italic(head)}\n${body}`;
}

/** Tokens that look alike, joined. */
function runsOf(tokens: readonly MaskedToken[]): MaskedToken[] {
  const runs: MaskedToken[] = [];
  for (const token of tokens) {
    const last = runs.at(-1);
    if (last && last.trained === token.trained && last.special === token.special && !token.special) {
      runs[runs.length - 1] = { ...last, text: last.text + token.text };
    } else runs.push(token);
  }
  return runs;
}

/** Without colours, trained text stands between marks, so that the mask is never lost. */
function runText({ text, trained, special }: MaskedToken): string {
  if (!pc.isColorSupported) return trained ? `⟦${text}⟧` : text;
  const shown = special ? pc.magenta(text) : text;
  return trained ? pc.bgGreen(pc.black(special ? pc.bold(text) : text)) : pc.dim(shown);
}

function tokenLine({ id, text, trained, special }: MaskedToken, index: number): string {
  const mark = trained ? "trained" : "       ";
  const line = `${String(index).padStart(6)}  ${String(id).padStart(7)}  ${mark}  ${JSON.stringify(text)}${special ? "  special" : ""}`;
  return trained ? pc.green(line) : pc.dim(line);
}

const legend = (): string =>
  pc.isColorSupported
    ? `${pc.dim("read only")}  ${pc.bgGreen(pc.black("trained"))}  ${pc.magenta("special token")}`
    : "⟦ ⟧ trained; the rest is only read";
