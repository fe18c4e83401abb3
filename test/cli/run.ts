import { type ChildProcess, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const BIN = fileURLToPath(new URL("../../bin/tunesmith.mjs", import.meta.url));

export interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Starts the command line as a user does; `finished` settles when it ends. */
export function start(
  args: readonly string[],
  cwd: string,
): { child: ChildProcess; finished: Promise<Finished> } {
  const child = spawn(process.execPath, [BIN, ...args], {
    cwd,
    env: { ...process.env, TUNESMITH_OFFLINE: "1" },
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (part: Buffer) => {
    stdout += part;
  });
  child.stderr.on("data", (part: Buffer) => {
    stderr += part;
  });
  const finished = new Promise<Finished>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
  return { child, finished };
}

export const run = (args: readonly string[], cwd: string): Promise<Finished> => start(args, cwd).finished;

/** What the commands put into their last line, as far as tests read it. */
export interface Output {
  readonly loss: number;
  readonly perplexity: number;
  readonly tokens: number;
  readonly bitsPerByte: number;
  readonly bytes: number;
  readonly perplexityBefore: number;
  readonly perplexityAfter: number;
  readonly lossAfter: number;
  readonly maxDiff: number;
  readonly text: string;
  readonly path: string;
  readonly files: readonly string[];
  readonly receipt: Record<string, unknown>;
  readonly trainableParameters: number;
  readonly sites: readonly string[];
  readonly steps: number;
  readonly stepsPerEpoch: number;
  readonly memory: Record<string, unknown>;
  readonly matched: readonly string[];
  readonly targets: Record<string, number>;
  readonly methods: readonly { name: string; paper: string; options: Record<string, unknown> }[];
  readonly reloadMaxDiff: number;
  readonly mergedMaxDiff: number;
  readonly adapterDir: string;
  readonly onnxPath: string;
}

/** Runs a command that must succeed; gives the object of its last line. */
export async function json(args: readonly string[], cwd: string): Promise<Output> {
  const { code, stdout, stderr } = await run([...args, "--json"], cwd);
  if (code !== 0) throw new Error(`tunesmith ${args.join(" ")} ended with ${code}\n${stderr}`);
  return JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? "") as Output;
}
