import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type Tensor, writeSafetensors } from "../../src/tensor/index.js";

/** A folder that was written, and what the model with it computes. */
export interface Job {
  readonly name: string;
  /** Folder of the base model. */
  readonly base: string;
  readonly adapter: string;
  /** What the model is fed, by the names of transformers. */
  readonly given: Readonly<Record<string, Tensor>>;
  readonly logits: Tensor;
  /** Tensors, as a regular expression, that the folder leaves out on purpose. */
  readonly mayMiss?: string | undefined;
}

interface Report {
  readonly ok: boolean;
  readonly missing: readonly string[];
  readonly unexpected: readonly string[];
  readonly maxChange?: number;
  readonly maxDifference?: number;
  readonly error?: string;
}

/** Largest difference allowed, relative to the largest logit. */
const TOLERANCE = 1e-5;

const largestOf = ({ data }: Tensor): number =>
  (data as Float32Array).reduce((most, value) => Math.max(most, Math.abs(value)), 1);

/** Has PEFT load the folders, prints a line for each, and counts those it does not load or that compute something else. */
export async function loadWithPeft(
  python: string,
  jobs: readonly Job[],
  { root, work }: { readonly root: string; readonly work: string },
): Promise<number> {
  const list: unknown[] = [];
  for (const { name, base, adapter, given, logits, mayMiss } of jobs) {
    const input = join(work, `${name}.input.safetensors`);
    await writeSafetensors(input, new Map(Object.entries({ ...given, logits })));
    list.push({ base, adapter, input, tolerance: TOLERANCE * largestOf(logits), mayMiss });
  }
  const file = join(work, "jobs.json");
  writeFileSync(file, JSON.stringify(list));
  const script = join(root, "scripts/reference/check_peft_loads.py");
  const child = spawn(python, [script, "--jobs", file], { stdio: ["ignore", "pipe", "pipe"] });
  const said: string[] = [];
  child.stderr.on("data", (chunk) => said.push(String(chunk)));
  let [at, failures] = [0, 0];
  for await (const line of createInterface({ input: child.stdout })) {
    const job = jobs[at];
    if (!line.startsWith('{"') || !job) continue;
    at++;
    const report = JSON.parse(line) as Report;
    if (!report.ok) failures++;
    console.log(`${report.ok ? "ok  " : "FAIL"} ${job.name}: ${described(report, largestOf(job.logits))}`);
  }
  if (at === jobs.length) return failures;
  console.error(said.join("").trim().split("\n").slice(-5).join("\n"));
  console.log(`FAIL ${jobs.length - at} folders were not reached`);
  return failures + jobs.length - at;
}

function described(report: Report, largest: number): string {
  const { missing, unexpected, maxDifference = Number.NaN, maxChange = Number.NaN, error } = report;
  if (error !== undefined) return error.split("\n").slice(0, 3).join(" ");
  const names = (what: string, all: readonly string[]) =>
    all.length > 0 ? `, ${all.length} ${what} (${all[0]})` : "";
  const numbers = `difference ${maxDifference.toExponential(1)} of ${largest.toFixed(1)}, change ${maxChange.toExponential(1)}`;
  return `${numbers}${names("missing", missing)}${names("unexpected", unexpected)}`;
}
