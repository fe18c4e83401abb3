import type { RunRecord } from "../../training/index.js";
import { formatDuration } from "../ui.js";

/** Columns, each as wide as its longest entry; numbers to the right. */
export function columns(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((name, at) =>
    Math.max(name.length, ...rows.map((row) => [...(row[at] ?? "")].length)),
  );
  const isNumber = head.map((_, at) =>
    rows.every((row) => /^[-+]?[\d.,e+-]*%?$|^(NaN|-?Infinity)$/.test(row[at] ?? "")),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, at) =>
        isNumber[at]
          ? cell.padStart(widths[at] ?? 0)
          : cell + " ".repeat((widths[at] ?? 0) - [...cell].length),
      )
      .join("  ")
      .trimEnd();
  return [head, ...rows].map(line).join("\n");
}

export const shownNumber = (value: number | undefined): string => {
  if (value === undefined) return "";
  if (!Number.isFinite(value) || Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1e6 || size < 1e-3 ? value.toExponential(3) : String(Number(value.toPrecision(5)));
};

/** A value of a configuration in one line. */
export const shownValue = (value: unknown): string =>
  typeof value === "string"
    ? value
    : typeof value === "number"
      ? String(value)
      : (JSON.stringify(value) ?? "");

export const shownTime = (time: number): string =>
  new Date(time).toISOString().slice(0, 16).replace("T", " ");

/** How long a run took, or has taken so far. */
export const shownDuration = ({ createdAt, finishedAt, heartbeatAt }: RunRecord): string =>
  formatDuration(Math.max(0, (finishedAt ?? heartbeatAt) - createdAt) / 1000);
