import pc from "picocolors";
import type { DatasetCheck, Finding, Lengths, Matches, PartReport } from "../../data/index.js";
import { asFlags } from "../errors.js";
import { formatBytes, formatCount, formatDuration, table } from "../ui.js";

type Line = readonly [name: string, text: string];

/** A check as people read it. */
export function checkText(check: DatasetCheck, seconds: number): string {
  const { parts, duplicates, template, findings } = check;
  const blocks = parts.map(partText);
  const { exact, near, leakage, threshold, complete } = duplicates;
  const lines: Line[] = [
    ["duplicates", matchText(exact)],
    ["nearly equal", `${matchText(near)} (${Math.round(100 * threshold)} % of phrases in common)`],
  ];
  if (parts.length > 1) {
    lines.push(["in two parts", matchText(leakage.exact)]);
    lines.push(["nearly so", matchText(leakage.near)]);
    lines.push(["same input", matchText(leakage.input)]);
  }
  if (!complete)
    lines.push(["", "memory was used up: later rows were compared with earlier ones only (--memory)"]);
  if (template) {
    const from = template.from === "option" ? "given" : "the tokenizer's";
    lines.push(["chat template", `${from}, sha256 ${template.hash.slice(0, 16)}`]);
  }
  blocks.push(table(lines));
  blocks.push(findings.length === 0 ? pc.green("nothing was found") : findings.map(findingText).join("\n"));
  return `${blocks.join("\n\n")}\n\nchecked in ${formatDuration(seconds)}`;
}

function partText(part: PartReport): string {
  const { name, source, layout, guess, rows, dropped, bytes, lengths, labels, tokens } = part;
  const sure = guess ? ` (${Math.round(100 * guess.confidence)} % sure: ${guess.reason})` : "";
  const count = dropped.reduce((sum, reason) => sum + reason.count, 0);
  const lines: Line[] = [
    ["rows", `${formatCount(rows)} of ${layout}${sure}`],
    ["size", formatBytes(bytes)],
  ];
  lines.push(["dropped", count === 0 ? "none" : `${formatCount(count)} of ${formatCount(rows + count)}`]);
  for (const reason of dropped.slice(0, 10)) {
    lines.push([
      "",
      `${formatCount(reason.count)}  ${reason.reason} (${reason.rows.join(", ")}${reason.count > reason.rows.length ? ", ..." : ""})`,
    ]);
  }
  if (lengths) lines.push([unitOf(layout), lengthText(lengths)]);
  if (labels.length > 0) lines.push([layout === "tags" ? "tags" : "classes", labelText(labels)]);
  if (tokens?.lengths) {
    const share = ((100 * tokens.trainedTokens) / Math.max(1, tokens.tokens)).toFixed(0);
    lines.push([
      "tokens",
      `${lengthText(tokens.lengths)}, ${share} % trained (${formatCount(tokens.rows)} rows tokenized)`,
    ]);
    const { truncated, maxLength } = tokens;
    lines.push([
      `over ${maxLength}`,
      `${formatCount(truncated.examples)} examples, losing ${formatCount(truncated.tokens)} tokens; ${formatCount(truncated.lost)} lose their whole answer`,
    ]);
  }
  const chart = tokens?.lengths ?? lengths;
  const title = `${pc.bold(name)}: ${source}`;
  return [title, table(lines), ...(chart && chart.max > chart.min ? [histogram(chart)] : [])].join("\n");
}

const unitOf = (layout: string) =>
  layout === "image" ? "pixels" : layout === "audio" ? "seconds" : "characters";

const lengthText = ({ median, p95, max, mean }: Lengths) =>
  `median ${formatCount(median)}, mean ${formatCount(Math.round(mean))}, 95 % up to ${formatCount(p95)}, longest ${formatCount(max)}`;

function labelText(labels: PartReport["labels"]): string {
  const shown = labels.slice(0, 6).map(([label, count]) => `${label} ${formatCount(count)}`);
  const rest = labels.length - shown.length;
  return `${labels.length}: ${shown.join(", ")}${rest > 0 ? ` and ${rest} more` : ""}`;
}

function histogram({ bins }: Lengths): string {
  const most = Math.max(...bins.map(({ count }) => count));
  return table(
    bins.map(({ from, to, count }) => [
      `  ${formatCount(from)}-${formatCount(to)}`,
      `${"█".repeat(Math.round((40 * count) / most))} ${formatCount(count)}`,
    ]),
  );
}

function matchText({ count, examples }: Matches): string {
  if (count === 0) return "none";
  const pairs = examples
    .slice(0, 3)
    .map(({ part, row, of }) =>
      part === of.part ? `${row} = ${of.row}` : `${part} ${row} = ${of.part} ${of.row}`,
    );
  return `${formatCount(count)} rows (${pairs.join(", ")}${count > pairs.length ? ", ..." : ""})`;
}

const COLORS = { error: pc.red, warning: pc.yellow, note: pc.cyan };

function findingText({ severity, message, fix, rows }: Finding): string {
  const where = rows && rows.length > 0 ? pc.dim(` (rows ${rows.join(", ")})`) : "";
  return `${COLORS[severity](severity)}: ${message}${where}${fix ? `\n  fix: ${asFlags(fix)}` : ""}`;
}
