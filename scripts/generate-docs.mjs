// Writes everything in the documents that comes from code: npm run docs. With --check it only compares, and fails.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { benchDocs } from "./generate-bench-docs.mjs";
import { comparisonDocs } from "./generate-comparison.mjs";
import { proofDocs } from "./generate-proofs-page.mjs";
import { put, table, withSection } from "./generated-text.mjs";
import { importSource } from "./import-source.mjs";

const root = fileURLToPath(new URL("../", import.meta.url));
const check = process.argv.includes("--check");

const source = await importSource(
  "docs",
  `
  export { commands } from "./src/cli/commands.ts";
  export { configJsonSchema } from "./src/cli/config/schema.ts";
  export { fieldOf } from "./src/cli/config/flags.ts";
  export { optionsMarkdown } from "./src/cli/config/docs.ts";
  export { paretoChart } from "./src/cli/tracking/pareto.ts";
  export { errorMeanings } from "./src/errors/index.ts";
  export { methodNamed, methodNames } from "./src/methods/index.ts";
  export { architectures, tensorArchitectures } from "./src/models/index.ts";
  export { objectiveNamed, objectiveNames } from "./src/training/objectives/index.ts";
  export { optimizerModifiers, optimizerNamed, optimizerNames } from "./src/training/optim/index.ts";
  export { scoreRegistry } from "./src/training/scores/index.ts";
`,
);

/** The reference stands at the end of the page, below this line. */
const CLI_MARK = "<!-- options: written by npm run docs -->\n";

function cliPage() {
  const [before] = readFileSync(join(root, "docs/cli.md"), "utf8").split(/<!-- options: .*-->\n/);
  return `${before}${CLI_MARK}\n${source.optionsMarkdown(source.commands)}\n`;
}

/** The registry: one row per method, then the options of each. */
function methodsReference() {
  const methods = source.methodNames.map((name) => source.methodNamed(name));
  // Some are not on arXiv: an address stands for itself.
  const places = { "openreview.net": "OpenReview", "proceedings.neurips.cc": "NeurIPS", "doi.org": "DOI" };
  const link = (paper) => {
    if (!paper) return "";
    if (!paper.startsWith("https:")) return `[${paper}](https://arxiv.org/abs/${paper})`;
    const { hostname } = new URL(paper);
    return `[${places[hostname] ?? hostname}](${paper})`;
  };
  const overview = table(
    ["method", "what it does", "paper (arXiv)", "acts on", "leaves behind"],
    methods.map(({ name, summary, paper, kinds, result }) => [
      `\`${name}\``,
      summary,
      link(paper),
      kinds.join(", "),
      result === "adapter" ? "an adapter folder" : "a whole model",
    ]),
  );
  const options = methods.map(({ name, options: { shape } }) => {
    const rows = Object.entries(shape).map(([key, schema]) => {
      const { flag, fallback, description } = source.fieldOf(key, schema);
      return [
        `\`${key}\``,
        `\`${flag}\``,
        fallback === undefined ? "" : `\`${JSON.stringify(fallback)}\``,
        description,
      ];
    });
    return `### Options of \`${name}\`\n\n${table(["in code and files", "flag", "default", "what"], rows)}`;
  });
  return [overview, ...options].join("\n\n");
}

/** Options of a schema with their defaults. */
const optionsTable = ({ shape }) =>
  table(
    ["option", "default", "what"],
    Object.entries(shape).map(([key, schema]) => {
      const { fallback, description, choices } = source.fieldOf(key, schema);
      const shown = fallback === undefined ? "" : `\`${JSON.stringify(fallback)}\``;
      return [`\`${key}\``, shown, choices ? `${description} (${choices.join(", ")})` : description];
    }),
  );

/** One row per optimiser, the options of each, and of what goes around all of them. */
function optimizersReference() {
  const entries = source.optimizerNames.map((name) => source.optimizerNamed(name));
  const overview = table(
    ["optimiser", "what it is", "paper (arXiv)"],
    entries.map(({ name, summary, paper }) => [
      `\`${name}\``,
      summary,
      paper ? `[${paper}](https://arxiv.org/abs/${paper})` : "",
    ]),
  );
  const each = entries.map(({ name, options: own }) => `### Options of \`${name}\`\n\n${optionsTable(own)}`);
  const around = `## Around every optimiser\n\n${optionsTable(source.optimizerModifiers)}`;
  return [overview, around, "## Options", ...each].join("\n\n");
}

/** One row per objective of language models, and the options of each. */
function objectivesReference() {
  const entries = source.objectiveNames.map((name) => source.objectiveNamed(name));
  const overview = table(
    ["objective", "what is learnt", "rows (layout)", "paper (arXiv)"],
    entries.map(({ name, summary, layouts, paper }) => [
      `\`${name}\``,
      summary,
      layouts.join(", "),
      paper ? `[${paper}](https://arxiv.org/abs/${paper})` : "",
    ]),
  );
  const each = entries
    .filter(({ options }) => Object.keys(options.shape).length > 0)
    .map(({ name, options }) => `### Options of \`${name}\`\n\n${optionsTable(options)}`);
  return [overview, ...each].join("\n\n");
}

const errorsTable = () =>
  table(
    ["code", "meaning"],
    Object.entries(source.errorMeanings).map(([code, meaning]) => [`\`${code}\``, meaning]),
  );

const scoresTable = () =>
  table(
    ["`--metrics`", "what", "needs", "range", "better", "as computed by"],
    source.scoreRegistry.map(({ name, summary, needs, range, better, reference }) => [
      `\`${name}\``,
      summary,
      `\`${needs}\``,
      range,
      better,
      reference,
    ]),
  );

const architectureList = () => {
  const list = (names) => names.map((name) => `\`${name}\``).join(", ");
  const languageModels = table(
    ["`model_type` in config.json", "default targets of adapters"],
    source.architectures.flatMap(({ modelTypes, defaultTargets }) =>
      modelTypes.map((type) => [`\`${type}\``, list(defaultTargets)]),
    ),
  );
  const others = table(
    ["`model_type` of other models", "tasks it has heads for"],
    source.tensorArchitectures.map(({ modelTypes, tasks }) => [list(modelTypes), list(tasks)]),
  );
  return `${languageModels}\n\n${others}`;
};

const schema = () => `${JSON.stringify(source.configJsonSchema(), null, 2)}\n`;

const changed = [
  put("docs/cli.md", cliPage(), check),
  put("docs/methods.md", withSection("docs/methods.md", "methods", methodsReference()), check),
  put("docs/evaluation.md", withSection("docs/evaluation.md", "scores", scoresTable()), check),
  put("docs/optimizers.md", withSection("docs/optimizers.md", "optimizers", optimizersReference()), check),
  put("docs/objectives.md", withSection("docs/objectives.md", "objectives", objectivesReference()), check),
  put("docs/errors.md", withSection("docs/errors.md", "errors", errorsTable()), check),
  put("docs/formats.md", withSection("docs/formats.md", "architectures", architectureList()), check),
  put("schema/tunesmith.schema.json", schema(), check),
  benchDocs(check),
  comparisonDocs(source, check),
  proofDocs(check),
];
if (!check) spawnSync(process.execPath, ["scripts/generate-op-table.mjs"], { cwd: root, stdio: "inherit" });
const stale = changed.filter(Boolean).length;
if (check) console.log(`documents: ${stale} not up to date${stale > 0 ? " (npm run docs)" : ""}`);
process.exit(check && stale > 0 ? 1 : 0);
