// Writes bench/results.json (npm run bench -- --update bench/results.json) as tables into README.md and docs/benchmarks.md.
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { sections } from "../bench/sections.mjs";
import { put, table, withSection } from "./generated-text.mjs";

const path = fileURLToPath(new URL("../bench/results.json", import.meta.url));
/** What the README shows; docs/benchmarks.md has everything. */
const SHORT = ["step", "small", "prefix", "recompute", "loss", "shared", "browser"];
const NOT_YET =
  "Not measured on this checkout yet: `npm run bench -- --update bench/results.json && npm run docs`.";

/** The report; npm's own lines before it do no harm. Undefined when there is none. */
function readReport() {
  if (!existsSync(path)) return undefined;
  const lines = readFileSync(path, "utf8").trim().split("\n");
  const start = lines.findIndex((line) => line.startsWith("{"));
  return start < 0 ? undefined : JSON.parse(lines.slice(start).join("\n"));
}

const spaced = (key) => key.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

function figure(value, unit) {
  if (!isNumber(value)) return "";
  const text = Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
  return unit ? `${text} ${unit}` : text;
}

/** Lower is better unless the row says `atLeast`. */
function goal({ ratio, target, atLeast }) {
  if (!isNumber(target)) return "";
  const met = atLeast ? ratio >= target : ratio <= target;
  return `${atLeast ? "≥" : "≤"} ${figure(target)}${isNumber(ratio) ? `, ${met ? "met" : "missed"}` : ""}`;
}

const rowCells = (row) => [
  row.what.trim(),
  figure(row.ours, row.unit),
  row.peerName ? `${figure(row.peer, row.unit)} (${row.peerName})` : figure(row.peer, row.unit),
  figure(row.ratio),
  goal(row),
];

const HEAD = ["what", "Tunesmith", "reference", "ratio", "target"];

/** Rows as a table; figures that only some sections have stand in columns of their own. */
function rowsTable(rows) {
  const more = [...new Set(rows.flatMap(({ extra = {} }) => Object.keys(extra)))];
  const cells = rows.map((row) => [...rowCells(row), ...more.map((key) => figure(row.extra?.[key]))]);
  return table([...HEAD, ...more], cells);
}

/** Sections of the report in the order of the bench, then those it no longer knows. */
function sectionsOf(report) {
  const results = report.results ?? {};
  const known = sections.map(({ name, title }) => ({ name, title }));
  const others = Object.keys(results).filter((name) => !known.some((section) => section.name === name));
  return [...known, ...others.map((name) => ({ name, title: name }))].flatMap((section) => {
    const result = results[section.name];
    return result?.rows?.length > 0 ? [{ ...section, ...result }] : [];
  });
}

/** `{ torch: "2.13" }`, or such objects under `ours` and `peer`, as one list of them. */
const flat = (versions = {}) => [
  Object.fromEntries(Object.entries(versions).filter(([, value]) => typeof value === "string")),
  ...Object.values(versions).filter((value) => typeof value === "object" && value !== null),
];

function machineOf({ machine = {} }, found) {
  const versions = Object.assign({}, ...found.flatMap(({ versions: of }) => flat(of)));
  const list = Object.entries({ node: machine.node, ...versions })
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name} ${String(value).replace(/^v/, "")}`);
  const cpu = machine.cpu ? `${String(machine.cpu).trim()}, ${machine.cores} cores` : "unknown";
  return { cpu, versions: list.join(", ") };
}

function shortTable(report) {
  const found = sectionsOf(report);
  const shown = found.filter(({ name }) => SHORT.includes(name));
  if (shown.length === 0) return NOT_YET;
  const { cpu, versions } = machineOf(report, found);
  const rows = shown.flatMap(({ title, rows: all }) =>
    all.map((row) => {
      const [what, ...rest] = rowCells(row);
      return [`${title}: ${what}`, ...rest];
    }),
  );
  return [
    table(HEAD, rows),
    "",
    `${cpu}; ${versions}. The reference is PyTorch + PEFT unless the row or [docs/benchmarks.md](docs/benchmarks.md) says otherwise.`,
  ].join("\n");
}

function longText(report) {
  const found = sectionsOf(report);
  if (found.length === 0) return NOT_YET;
  const { cpu, versions } = machineOf(report, found);
  const missing = sections.filter(({ name }) => !found.some((section) => section.name === name));
  const parts = [`Machine: ${cpu}.`, `Versions: ${versions || "unknown"}.`];
  for (const { name, title, rows, versions: _, reports: __, ...rest } of found) {
    const notes = Object.entries(rest).filter(([, value]) => isNumber(value) || typeof value === "string");
    parts.push(`### ${title}`, `\`npm run bench -- --only ${name}\``, rowsTable(rows));
    if (notes.length > 0)
      parts.push(
        notes.map(([key, value]) => `${spaced(key)}: ${isNumber(value) ? figure(value) : value}`).join("; "),
      );
  }
  if (missing.length > 0) parts.push(`Not measured here: ${missing.map(({ title }) => title).join("; ")}.`);
  return parts.join("\n\n");
}

/** Writes both documents, or with `check` only compares; gives whether anything differed. */
export function benchDocs(check = false) {
  const report = readReport();
  const short = report ? shortTable(report) : NOT_YET;
  const long = report ? longText(report) : NOT_YET;
  const readme = put("README.md", withSection("README.md", "bench", short), check);
  return put("docs/benchmarks.md", withSection("docs/benchmarks.md", "bench", long), check) || readme;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) benchDocs();
