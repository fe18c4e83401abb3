import type { z } from "zod";
import { selectTargets } from "../../methods/index.js";
import { type CausalLm, probeOutputs, type Site, sitesOf } from "../../models/index.js";
import type { Context } from "../command.js";
import type { inspectSchema } from "../config/schema.js";
import { formatCount, table } from "../ui.js";
import { openModel } from "../work.js";

export async function runInspect(
  options: z.output<typeof inspectSchema>,
  { ui, signal }: Context,
): Promise<void> {
  const model = await openModel(options.model, ui, signal);
  const sites = uniqueSites(model);
  const matched =
    options.targets === undefined ? undefined : selectTargets(sites, { targets: options.targets });
  const info = describeModel(model);
  if (ui.json) {
    return ui.result({
      ...info,
      modules: sites.map(describeSite),
      targets: targetCounts(sites),
      ...(matched ? { matched: matched.map(({ path }) => path) } : {}),
    });
  }
  ui.say(
    table([
      ["model", options.model],
      ["architecture", `${info.architecture}, ${formatCount(info.parameters)} parameters, ${info.dtype}`],
      [
        "sizes",
        Object.entries(model.sizes)
          .map(([key, value]) => `${key} ${value}`)
          .join(", "),
      ],
      ["tokenizer", info.tokenizer ? `${info.tokenizer.source}, ${info.tokenizer.vocabSize} tokens` : "none"],
      ["default targets", model.defaultTargets.join(", ")],
    ]),
  );
  ui.say("\nmodules");
  ui.say(moduleTable(sites));
  ui.say("\nwhat a target would match");
  const counts = Object.entries(targetCounts(sites));
  ui.say(table(counts.map(([target, count]) => [target, `${count} modules`])));
  if (matched) {
    ui.say(`\n--targets ${[options.targets].flat().join(",")} matches ${matched.length} modules`);
    for (const { path } of matched) ui.say(`  ${path}`);
  }
}

const uniqueSites = (model: CausalLm): Site[] => [
  ...new Map(sitesOf(probeOutputs(model)).map((site) => [site.path, site] as const)).values(),
];

function describeModel(model: CausalLm) {
  const weights = [...new Set(model.weights.values())];
  const parameters = weights.reduce(
    (sum, { shape }) => sum + shape.reduce<number>((a, b) => a * Number(b), 1),
    0,
  );
  const { tokenizer, config } = model;
  const stored = config.dtype ?? config.torch_dtype;
  return {
    task: model.task,
    architecture: model.architecture,
    parameters,
    dtype: typeof stored === "string" ? stored : (weights[0]?.dtype ?? "float32"),
    sizes: model.sizes,
    defaultTargets: model.defaultTargets,
    tokenizer: tokenizer
      ? {
          source: tokenizer.source,
          vocabSize: tokenizer.vocabSize,
          bosId: tokenizer.bosId ?? null,
          eosId: tokenizer.eosId ?? null,
          padId: tokenizer.padId ?? null,
          chatTemplate: tokenizer.chatTemplate !== undefined,
          hash: tokenizer.hash,
        }
      : null,
  };
}

const describeSite = (site: Site) => ({
  path: site.path,
  kind: site.kind,
  weight: site.weightName,
  shape: site.weight.shape,
  orientation: site.orientation,
  inFeatures: site.inFeatures,
  outFeatures: site.outFeatures,
  bias: site.bias !== undefined,
  head: site.isHead,
});

/** How many modules the default, `all-linear` and every name ending would adapt. */
function targetCounts(sites: readonly Site[]): Record<string, number> {
  const endings = [...new Set(sites.map(({ path }) => path.slice(path.lastIndexOf(".") + 1)))];
  const count = (targets: string | string[]) => selectTargets(sites, { targets }).length;
  return {
    "all-linear": count("all-linear"),
    ...Object.fromEntries(endings.map((name) => [name, count([name])])),
  };
}

/** Equal modules of successive layers in one line: `model.layers.{0-5}.mlp.up_proj`. */
function moduleTable(sites: readonly Site[]): string {
  const groups = new Map<string, { label: string; layers: number[]; text: string }>();
  for (const site of sites) {
    const layer = /\.(\d+)\./.exec(site.path);
    const label = site.path.replace(/\.\d+\./, ".*.");
    const shape = `${site.kind} ${site.inFeatures} -> ${site.outFeatures}`;
    const text = `${shape}, stored ${site.orientation} [${site.weight.shape.join(", ")}]${site.bias ? ", bias" : ""}${site.isHead ? ", output head" : ""}`;
    const key = `${label} ${text}`;
    const group = groups.get(key) ?? { label, layers: [], text };
    if (layer) group.layers.push(Number(layer[1]));
    groups.set(key, group);
  }
  return table(
    [...groups.values()].map(({ label, layers, text }) => [
      label.replace(".*.", `.{${ranges(layers)}}.`),
      text,
    ]),
  );
}

/** `0-2, 4` for 0, 1, 2, 4. */
function ranges(numbers: readonly number[]): string {
  const parts: [number, number][] = [];
  for (const number of numbers) {
    const last = parts.at(-1);
    if (last && last[1] === number - 1) last[1] = number;
    else parts.push([number, number]);
  }
  return parts.map(([from, to]) => (from === to ? from : `${from}-${to}`)).join(",");
}
