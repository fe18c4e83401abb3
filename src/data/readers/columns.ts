import type { ByteSource } from "../../io/types.js";
import { type Encoding, lineBatches } from "./lines.js";
import type { RawRecord } from "./records.js";

/** A class and a text: `1 a fine film`, `DESC:manner How ...`, `__label__spam ...`. */
const LABELLED = /^(\d{1,3}|__label__\S+|[A-Z]{2,5}:[A-Za-z]+)[ \t]+(\S.*)$/;

/** Whether lines look like a class and a text each: all of them do, and there are few classes but not one. */
export function isLabelled(lines: readonly string[]): boolean {
  const labels = new Set<string>();
  const filled = lines.filter((line) => line.trim() !== "");
  for (const line of filled) {
    const label = LABELLED.exec(line)?.[1];
    if (label === undefined) return false;
    labels.add(label);
  }
  return filled.length >= 4 && labels.size >= 2 && labels.size <= Math.max(10, filled.length / 4);
}

/** {label, text} of each line; a number becomes a number. */
export async function* labelledBatches(
  source: ByteSource,
  encoding?: Encoding,
): AsyncGenerator<readonly RawRecord[]> {
  for await (const { first, lines } of lineBatches(source, encoding)) {
    yield lines.flatMap((line, index): RawRecord[] => {
      if (line.trim() === "") return [];
      const [, name, text] = LABELLED.exec(line) ?? [];
      if (name === undefined || text === undefined) {
        return [{ row: first + index, value: undefined, problem: "no class before the text" }];
      }
      const plain = name.replace(/^__label__/, "");
      return [{ row: first + index, value: { label: /^\d+$/.test(plain) ? Number(plain) : plain, text } }];
    });
  }
}

/**
 * Sentences of CoNLL-U ({tokens, lemmas, upos, xpos}), or of two or more columns of which the first is the word and the
 * last its tag ({tokens, tags}). A sentence has the number of its first line. Multi-word spans and empty nodes are left
 * out: their words follow one by one.
 */
export async function* conllBatches(
  source: ByteSource,
  encoding?: Encoding,
): AsyncGenerator<readonly RawRecord[]> {
  let sentence: string[][] = [];
  let start = 0;
  for await (const { first, lines } of lineBatches(source, encoding)) {
    const records: RawRecord[] = [];
    for (let index = 0; index < lines.length; index++) {
      const line = lines[index] as string;
      if (line.trim() === "") {
        if (sentence.length > 0) records.push(sentenceRecord(start, sentence));
        sentence = [];
      } else if (!line.startsWith("#") && !line.startsWith("-DOCSTART-")) {
        if (sentence.length === 0) start = first + index;
        sentence.push(line.includes("\t") ? line.split("\t") : line.trim().split(/ +/));
      }
    }
    yield records;
  }
  if (sentence.length > 0) yield [sentenceRecord(start, sentence)];
}

function sentenceRecord(row: number, lines: readonly string[][]): RawRecord {
  const width = lines[0]?.length ?? 0;
  if (width < 2 || lines.some((cells) => cells.length !== width)) {
    return { row, value: undefined, problem: "the lines of a sentence have different numbers of columns" };
  }
  const column = (from: readonly string[][], index: number) => from.map((cells) => cells[index] as string);
  if (width !== 10) return { row, value: { tokens: column(lines, 0), tags: column(lines, width - 1) } };
  const words = lines.filter(([id = ""]) => /^\d+$/.test(id));
  const [tokens, lemmas, upos, xpos] = [1, 2, 3, 4].map((index) => column(words, index));
  return { row, value: { tokens, lemmas, upos, xpos } };
}
