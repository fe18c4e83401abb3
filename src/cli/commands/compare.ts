import { writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { methodNames } from "../../methods/index.js";
import type { Context } from "../command.js";
import { paretoChart } from "../tracking/pareto.js";
import { columns } from "../tracking/text.js";
import { formatBytes, formatCount } from "../ui.js";
import { throwIfAborted } from "../work.js";
import { type CompareConfig, type ComparedMethod, measureMethod } from "./compare-method.js";

/** Trains several methods in the same way and reports what each cost and brought. */
export async function runCompare(config: CompareConfig, context: Context): Promise<void> {
  const { ui } = context;
  checkMethods(config);
  const results: ComparedMethod[] = [];
  const bar = ui.progress("comparing", config.methods.length);
  try {
    for (const [at, method] of config.methods.entries()) {
      throwIfAborted(context.signal);
      bar.update(at, method);
      results.push(await measureMethod(method, config, context));
    }
  } finally {
    bar.stop();
  }
  const score = scoreName(results);
  ui.say(
    columns(
      head(score),
      results.map((result) => line(result, score)),
    ),
  );
  if (config.out !== undefined) {
    await writeFileAtomic(`${config.out}.json`, `${JSON.stringify({ config, results }, null, 2)}\n`);
    await writeFileAtomic(`${config.out}.svg`, paretoChart(results, score));
    ui.say(`wrote ${config.out}.json and ${config.out}.svg`);
  }
  ui.result({ results });
}

function checkMethods({ methods, options, validation, validationShare, ...budgets }: CompareConfig): void {
  const unknown = methods.find((name) => !methodNames.includes(name));
  if (unknown !== undefined) {
    throw new TunesmithError("config-invalid", `--methods: unknown method '${unknown}'`, {
      fix: `known: ${methodNames.join(", ")}`,
    });
  }
  const twice = methods.find((name, at) => methods.indexOf(name) !== at);
  if (twice !== undefined) {
    throw new TunesmithError("config-invalid", `--methods names '${twice}' twice`, { fix: "name it once" });
  }
  const idle = Object.keys(options).find((name) => !methods.includes(name));
  if (idle !== undefined) {
    throw new TunesmithError("config-invalid", `--options: '${idle}' is not compared`, {
      fix: `give options of ${methods.join(", ")}, or name it in --methods`,
    });
  }
  if (budgets.budgetSeconds !== undefined && budgets.steps !== undefined) {
    throw new TunesmithError("config-invalid", "--steps does nothing: --budget-seconds sets them", {
      fix: "leave one of the two out",
    });
  }
  if (validation === undefined && validationShare === 0) {
    throw new TunesmithError("config-invalid", "there is no validation data to compare on", {
      fix: "give --validation, or a --validation-share above 0",
    });
  }
}

/** The score that is compared: accuracy and its like where there is one, else the loss. */
const scoreName = (results: readonly ComparedMethod[]): string | undefined =>
  ["accuracy", "f1", "perplexity"].find((name) => results.some(({ scores }) => name in scores));

const head = (score: string | undefined): string[] => [
  "method",
  "parameters",
  "loss before",
  "after",
  ...(score ? [score] : []),
  "lr",
  "steps",
  "step",
  "memory",
];

function line(result: ComparedMethod, score: string | undefined): string[] {
  const { method, parameters, lossBefore, lossAfter, scores, stepSeconds, failed } = result;
  if (failed !== undefined) return [method, "-", failed];
  const own = score ? [(scores[score] ?? Number.NaN).toPrecision(4)] : [];
  return [
    method,
    formatCount(parameters),
    lossBefore.toFixed(4),
    lossAfter.toFixed(4),
    ...own,
    result.lr.toExponential(0),
    String(result.steps),
    `${(1000 * stepSeconds).toFixed(0)} ms`,
    formatBytes(result.memoryBytes),
  ];
}
