// Time and memory of the data check on generated rows: what `tunesmith data check` does on a large JSONL file.
//   node bench/ours/data-check.mjs [--rows 1000000] [--model assets/default-model]
// Also runs without a build: node scripts/run-ts.mjs bench/ours/data-check.mjs

import { once } from "node:events";
import { createWriteStream, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { checkDataset, openRows } from "tunesmith/data";
import { loadTokenizer } from "tunesmith/models";
import { memoryStatus } from "./process.mjs";

const { values } = parseArgs({
  options: { rows: { type: "string", default: "1000000" }, model: { type: "string" } },
});
const count = Number(values.rows);

/** Sentences of a small vocabulary; every 100th row repeats one, every 50th changes a word of one, every 1000th is empty. */
async function writeRows(path) {
  const out = createWriteStream(path);
  const words = Array.from({ length: 5000 }, (_, index) => `word${index.toString(36)}`);
  let state = 1;
  const next = (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const sentence = (length) => Array.from({ length }, () => words[next(words.length)]).join(" ");
  let last = { prompt: "", completion: "" };
  for (let row = 1; row <= count; row++) {
    let value = { prompt: sentence(8 + next(16)), completion: sentence(8 + next(32)) };
    if (row % 100 === 0) value = last;
    else if (row % 50 === 0) value = { ...last, completion: `${last.completion} more` };
    else if (row % 1000 === 1) value = { prompt: "", completion: "" };
    else last = value;
    if (!out.write(`${JSON.stringify(value)}\n`)) await once(out, "drain");
  }
  out.end();
  await once(out, "close");
}

const folder = mkdtempSync(join(tmpdir(), "tunesmith-data-check-"));
try {
  const path = join(folder, "rows.jsonl");
  await writeRows(path);
  const tokenizer = values.model ? await loadTokenizer(values.model) : undefined;
  const started = performance.now();
  const cpu = process.cpuUsage();
  const stream = await openRows(path);
  const check = await checkDataset([{ name: "train", stream }], tokenizer ? { tokenizer } : {});
  const seconds = (performance.now() - started) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  const { exact, near, complete } = check.duplicates;
  const found = {
    dropped: check.parts[0].dropped.reduce((sum, { count: number }) => sum + number, 0),
    exact: exact.count,
    near: near.count,
    complete,
  };
  const mb = statSync(path).size / 2 ** 20;
  const report = {
    rows: count,
    mb,
    seconds,
    cpuSeconds: (user + system) / 1e6,
    peakRssMb: memoryStatus().VmHWM,
  };
  console.log(JSON.stringify({ ...report, found }));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
