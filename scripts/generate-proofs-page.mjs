// Writes proofs/results (npm run proofs) as docs/proofs.md and its chart.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import { put, table, withSection } from "./generated-text.mjs";

const folder = fileURLToPath(new URL("../proofs/results/", import.meta.url));
const PAGE = "docs/proofs.md";

const proofs = () =>
  readdirSync(folder)
    .filter((file) => file.endsWith(".json"))
    .sort()
    .map((file) => JSON.parse(readFileSync(join(folder, file), "utf8")));

const link = (paper) =>
  paper.startsWith("https:") ? `[paper](${paper})` : `[${paper}](https://arxiv.org/abs/${paper})`;

function number(value) {
  if (value === null) return "not finite";
  if (value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 1e6))
    return String(Number(value.toPrecision(4)));
  return value.toExponential(1);
}

const allowed = ({ expected, tolerance, relative }) =>
  relative ? tolerance * Math.abs(expected) : tolerance;

function overview(all) {
  return table(
    ["proof", "what it shows", "papers", "checks that hold"],
    all.map(({ name, title, papers, checks }) => [
      `[\`${name}\`](#${name})`,
      title,
      papers.map(link).join(", "),
      `${checks.filter(({ holds }) => holds).length} of ${checks.length}`,
    ]),
  );
}

function section({ name, title, checks }) {
  const rows = checks.map((check) => [
    check.what,
    number(check.measured),
    number(check.expected),
    `± ${number(allowed(check))}`,
    check.holds ? "" : "does not hold",
  ]);
  return `### ${name}\n\n${title}.\n\n${table(["what", "measured", "expected", "allowed", ""], rows)}`;
}

/** Every check as a point: its distance from what is expected, over what is allowed. */
function chart(all) {
  const { document } = parseHTML("<html><body></body></html>");
  const points = all.flatMap(({ name, checks }) =>
    checks.map((check) => ({
      name,
      distance: Math.max(-1.5, Math.min(1.5, (check.measured - check.expected) / (allowed(check) || 1))),
      holds: check.holds,
    })),
  );
  const svg = Plot.plot({
    document,
    width: 760,
    height: 60 + 16 * all.length,
    marginLeft: 160,
    x: { domain: [-1.5, 1.5], label: "(measured − expected) / allowed" },
    y: { label: null, grid: true },
    marks: [
      Plot.ruleX([-1, 1], { stroke: "#999", strokeDasharray: "3,3" }),
      Plot.dot(points, {
        x: "distance",
        y: "name",
        r: 2.5,
        fill: ({ holds }) => (holds ? "#4269d0" : "#d04242"),
        fillOpacity: 0.6,
      }),
    ],
  });
  return `${svg.outerHTML.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')}\n`;
}

/** Writes page and chart, or with `check` only compares; gives whether anything differed. */
export function proofDocs(check = false) {
  const all = proofs();
  const text = [overview(all), "## Measured", ...all.map(section)].join("\n\n");
  const changed = [
    put(PAGE, withSection(PAGE, "proofs", text), check),
    put("docs/data/proofs.svg", chart(all), check),
  ];
  return changed.some(Boolean);
}
