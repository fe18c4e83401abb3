import type { z } from "zod";
import { isTarget, selectTargets } from "../../methods/index.js";
import { type Model, modulesOf, probeOutputs, type Site, sitesOf } from "../../models/index.js";
import type { Context } from "../command.js";
import type { inspectSchema } from "../config/schema.js";
import { drawModules } from "../module-tree.js";
import { formatCount, table } from "../ui.js";
import { openModel } from "../work.js";

export async function runInspect(options: z.output<typeof inspectSchema>, context: Context): Promise<void> {
  if (options.adapter !== undefined || options.prompt !== undefined)
    return (await import("./inspect-attention.js")).inspectAttention(options, context);
  const { ui, signal } = context;
  const model = await openModel(options.model, ui, signal, "auto");
  const outputs = probeOutputs(model);
  const sites = uniqueSites(sitesOf(outputs));
  const tree = modulesOf(outputs);
  const { targets } = options;
  const matched = targets === undefined ? undefined : selectTargets(sites, { targets });
  const info = describeModel(model, tree.parameters);
  if (ui.json) {
    return ui.result({
      ...info,
      modules: sites.map(describeSite),
      tree,
      targets: targetCounts(sites),
      ...(matched ? { matched: matched.map(({ path }) => path) } : {}),
    });
  }
  ui.say(table(headOf(options.model, model, info)));
  ui.say("\nmodules");
  const isDefault = sites.length > 0 && model.defaultTargets.length > 0;
  const marked = matched ?? (isDefault ? selectTargets(sites, { targets: model.defaultTargets }) : []);
  ui.say(drawModules(tree, new Set(marked.map(({ path }) => path))));
  if (marked.length > 0)
    ui.say(`  ● ${targets === undefined ? "default targets" : `--targets ${[targets].flat().join(",")}`}`);
  ui.say("\nwhat a target would match");
  const counts = Object.entries(targetCounts(sites));
  ui.say(table(counts.map(([target, count]) => [target, `${count} ${count === 1 ? "module" : "modules"}`])));
  if (matched) {
    ui.say(`\n--targets ${[targets].flat().join(",")} matches ${matched.length} modules`);
    for (const { path } of matched) ui.say(`  ${path}`);
  }
}

const uniqueSites = (sites: readonly Site[]): Site[] => [
  ...new Map(sites.map((site) => [site.path, site] as const)).values(),
];

function headOf(
  path: string,
  model: Model,
  info: ReturnType<typeof describeModel>,
): (readonly [string, string])[] {
  // ONNX files without a config do not say how many layers or positions they have.
  const told = Object.entries(info.sizes ?? {}).filter(
    ([, value]) => value > 0 && value < Number.MAX_SAFE_INTEGER,
  );
  const sizes = told.map(([key, value]) => `${key} ${value}`);
  const inputs = info.inputs?.map(({ name, dtype, shape }) => `${name} ${dtype} [${shape.join(", ")}]`);
  const { tokenizer } = info;
  return [
    ["model", path],
    ["task", info.task],
    ["architecture", `${info.architecture}, ${formatCount(info.parameters)} parameters, ${info.dtype}`],
    ...(sizes.length > 0 ? [["sizes", sizes.join(", ")] as const] : []),
    ...(inputs ? [["inputs", inputs.join("; ")] as const] : []),
    ...(info.labels ? [["labels", info.labels.join(", ")] as const] : []),
    ["tokenizer", tokenizer ? `${tokenizer.source}, ${tokenizer.vocabSize} tokens` : "none"],
    ["default targets", beginningOf(model.defaultTargets) || "none"],
  ];
}

const beginningOf = (names: readonly string[], most = 12): string =>
  [...names.slice(0, most), ...(names.length > most ? [`and ${names.length - most} more`] : [])].join(", ");

function describeModel(model: Model, parameters: number) {
  const weights = [...new Set(model.weights.values())];
  const { tokenizer, config } = model;
  const stored = config.dtype ?? config.torch_dtype;
  return {
    task: model.task,
    architecture: model.architecture,
    parameters,
    dtype: typeof stored === "string" ? stored : (weights[0]?.dtype ?? "float32"),
    ...(model.task === "causal-lm"
      ? { sizes: model.sizes, inputs: undefined, labels: undefined }
      : { sizes: undefined, inputs: model.inputs, labels: model.labels }),
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
  const count = (targets: string | string[]) => sites.filter((site) => isTarget(site, { targets })).length;
  return {
    "all-linear": count("all-linear"),
    ...Object.fromEntries(endings.map((name) => [name, count([name])])),
  };
}
