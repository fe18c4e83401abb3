import { readText } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { compareResults, type ResultComparison } from "../../training/index.js";
import type { Context } from "../command.js";
import type { EvalConfig } from "../config/schema.js";
import { table } from "../ui.js";

/** Compares two result files over the same examples. */
export async function runCompare(
  files: readonly string[],
  { resamples, seed }: EvalConfig,
  { ui }: Context,
): Promise<void> {
  const [a, b] = await Promise.all(files.map(readJson));
  const comparisons = compareResults(a, b, { resamples, seed });
  for (const { task, filter, metric, examples, ...found } of comparisons) {
    const value = (x: number) => x.toFixed(4);
    ui.say(`${task}: ${metric}${filter === "none" ? "" : `, ${filter}`} (${examples} examples)`);
    ui.say(
      table([
        [files[0] as string, value(found.a)],
        [files[1] as string, value(found.b)],
        ["difference", `${value(found.difference)}, 95 % from ${value(found.low)} to ${value(found.high)}`],
        ["p", `${value(found.pValue)} (bootstrap), ${value(found.permutationPValue)} (permutation)`],
        ["better", betterOf(found, files)],
      ]),
    );
  }
  ui.result({ comparisons });
}

/** Which run is ahead, and whether that may be luck. */
function betterOf(
  {
    difference,
    low,
    high,
    higherIsBetter,
  }: Pick<ResultComparison, "difference" | "low" | "high" | "higherIsBetter">,
  files: readonly string[],
): string {
  if (!(difference !== 0)) return "neither";
  const ahead = difference > 0 === higherIsBetter ? files[1] : files[0];
  return low > 0 || high < 0 ? `${ahead}` : `${ahead}, which may be luck: the interval holds 0`;
}

async function readJson(path: string): Promise<unknown> {
  const text = await readText(path);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new TunesmithError("data-invalid", `${path} is not JSON: ${(cause as Error).message}`, {
      fix: "give files that `tunesmith eval --out` wrote",
      cause,
    });
  }
}
