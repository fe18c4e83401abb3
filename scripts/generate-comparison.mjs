// Writes docs/data/method-sweep.json (npm run sweep) as the table of default rates, and as docs/comparison.md with its charts.
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { put, table, withSection } from "./generated-text.mjs";

const path = fileURLToPath(new URL("../docs/data/method-sweep.json", import.meta.url));
const DEFAULT_OF = "lora";

/** The run of a method with the lowest held-out loss. */
function bestRun(runs = []) {
  const done = runs.filter(({ loss }) => Number.isFinite(loss));
  return done.length > 0 ? done.reduce((best, run) => (run.loss < best.loss ? run : best)) : undefined;
}

/** Best rates over LoRA's, rounded to half a decade, and cut to a tenth to ten: 0.1, 0.3, 1, 3 or 10. */
function relativeRates({ methods }, known) {
  const usual = bestRun(methods[DEFAULT_OF])?.lr;
  return Object.entries(methods).flatMap(([name, runs]) => {
    const best = bestRun(runs);
    if (!known.includes(name) || !best || usual === undefined) return [];
    const halves = Math.max(-2, Math.min(2, Math.round(2 * Math.log10(best.lr / usual))));
    return [[name, Number((10 ** (halves / 2)).toPrecision(1))]];
  });
}

const RATES_FILE = "src/methods/rates.ts";

function ratesModule(rates) {
  const lines = rates.map(([name, rate]) => `  ${/^[a-z0-9]+$/.test(name) ? name : `"${name}"`}: ${rate},`);
  return `// Written by npm run docs from docs/data/method-sweep.json.

/**
 * The best learning rate of each method over LoRA's, to half a decade, as measured on a small model (docs/comparison.md), cut to
 * a tenth to ten.
 * Methods that were not measured are not in it.
 */
export const relativeRates: Readonly<Record<string, number>> = {
${lines.join("\n")}
};
`;
}

const percent = (value) => (value === undefined ? "" : (100 * value).toFixed(1));
const figure = (value, digits) => (value === undefined ? "" : value.toFixed(digits));

/** Tasks whose measure is accuracy. */
const SCORED = ["sst2", "banking77"];

/** One row a method, best first by the loss of the first task. */
function comparison({ tasks }) {
  const names = [...new Set(Object.values(tasks).flatMap(({ methods }) => Object.keys(methods)))];
  const rows = names
    .map((name) => {
      const [language, ...scored] = ["language", ...SCORED].map((task) =>
        bestRun(tasks[task]?.methods[name]),
      );
      return { name, language, scored, any: [language, ...scored].find((run) => run !== undefined) };
    })
    .filter(({ any }) => any)
    .sort((a, b) => (a.language?.loss ?? 99) - (b.language?.loss ?? 99));
  const cells = rows.map(({ name, language, scored, any }) => [
    `\`${name}\``,
    any.parameters.toLocaleString("en"),
    ...[figure(language?.loss, 4), language?.lr ?? ""],
    ...scored.flatMap((run) => [percent(run?.accuracy), run?.lr ?? ""]),
    figure(any.memoryBytes / 1e6, 0),
  ]);
  const head = ["method", "trained", "language: loss", "rate"];
  head.push(...SCORED.flatMap((task) => [`${task}: %`, "rate"]), "MB");
  const whats = Object.entries(tasks).map(([task, { what }]) => `- **${task}**: ${what}.`);
  return [whats.join("\n"), table(head, cells), searchedText(tasks), leftOut(tasks)].join("\n\n").trim();
}

/** Whose rate was searched on a scored task itself: those that were tried at several. */
function searchedText(tasks) {
  return SCORED.map((task) => {
    const searched = Object.entries(tasks[task]?.methods ?? {}).filter(([, runs]) => runs.length > 1);
    return `Rates searched on ${task}: ${searched.map(([name]) => `\`${name}\``).join(", ")}.`;
  }).join("\n\n");
}

/** What did not run, and why. */
function leftOut(tasks) {
  const failed = Object.entries(tasks).flatMap(([task, { methods }]) =>
    Object.entries(methods).flatMap(([name, runs]) =>
      bestRun(runs) || !runs[0]?.failed ? [] : [`- \`${name}\` on ${task}: ${runs[0].failed.split("\n")[0]}`],
    ),
  );
  const known = new Set(Object.values(tasks).flatMap(({ methods }) => Object.keys(methods)));
  const absent = Object.entries(tasks).flatMap(([task, { methods }]) => {
    const names = [...known].filter((name) => !methods[name]).map((name) => `\`${name}\``);
    return names.length > 0 ? [`- not run on ${task}: ${names.join(", ")}`] : [];
  });
  const lines = [...failed, ...absent];
  return lines.length > 0 ? `Not in the table:\n\n${lines.join("\n")}` : "";
}

/** A method's runs as points of the chart. */
const points = ({ methods }) =>
  Object.entries(methods).flatMap(([method, runs]) => {
    const best = bestRun(runs);
    if (!best) return [];
    const { parameters, memoryBytes, stepSeconds, loss, accuracy } = best;
    const scores = accuracy === undefined ? {} : { accuracy };
    return [{ method, parameters, memoryBytes, stepSeconds, lossAfter: loss, scores }];
  });

/** Writes rates, page and charts, or with `check` only compares; gives whether anything differed. */
export function comparisonDocs({ methodNames, paretoChart }, check = false) {
  if (!existsSync(path)) return false;
  const found = JSON.parse(readFileSync(path, "utf8"));
  const text = comparison(found);
  const page = "docs/comparison.md";
  const changed = [
    put(RATES_FILE, ratesModule(relativeRates(found.tasks.language, methodNames)), check),
    put(page, withSection(page, "comparison", text), check),
    ...Object.entries(found.tasks).map(([name, task]) => {
      const all = points(task);
      const score = all.some(({ scores }) => "accuracy" in scores) ? "accuracy" : undefined;
      return put(`docs/data/comparison-${name}.svg`, `${paretoChart(all, score)}\n`, check);
    }),
  ];
  return changed.some(Boolean);
}
