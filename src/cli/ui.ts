import { formatDuration } from "../training/index.js";

/** Where a command's words go: results to stdout, everything else to stderr. */
export interface Ui {
  readonly json: boolean;
  /** For people: on stdout, or on stderr when stdout carries JSON. */
  say(text?: string): void;
  /** Text as it comes, without a line end; nothing in JSON mode. */
  write(text: string): void;
  /** What is going on: on stderr. */
  note(text: string): void;
  /** The result for programs: one line of JSON, the last on stdout; nothing otherwise. */
  result(value: object): void;
  progress(label: string, total: number): Progress;
}

export interface Progress {
  /** `detail` stands behind the bar: loss, speed. */
  update(done: number, detail?: string): void;
  /** Removes the bar. */
  stop(): void;
}

/** Creates a progress display for the given stream. */
export type ProgressFactory = (label: string, total: number) => Progress;

export function createUi(options: { json: boolean; progress: ProgressFactory }): Ui {
  const { json } = options;
  const note = (text: string) => {
    process.stderr.write(`${text}\n`);
  };
  return {
    json,
    note,
    say(text = "") {
      if (json) note(text);
      else process.stdout.write(`${text}\n`);
    },
    write(text) {
      if (!json) process.stdout.write(text);
    },
    result(value) {
      if (json) process.stdout.write(`${JSON.stringify(value)}\n`);
    },
    progress: options.progress,
  };
}

export const formatCount = (value: number): string => value.toLocaleString("en-US");

export function formatBytes(bytes: number): string {
  const units = ["B", "KB", "MB", "GB", "TB"];
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** power;
  return `${value < 10 && power > 0 ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}

/** Two columns, the first as wide as its longest entry. */
export function table(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `  ${name.padEnd(width)}  ${value}`).join("\n");
}

export { formatDuration };
