import { type Command, command } from "./command.js";
import { dataCheckSchema, dataShowSchema, dataSplitSchema } from "./config/data-schema.js";
import { configExplainSchema, configShowSchema } from "./config/inspection.js";
import { predictSchema } from "./config/predict-schema.js";
import {
  arrowCommandSchema,
  compareSchema,
  convertSchema,
  evalSchema,
  exportSchema,
  generateFlagsSchema,
  inspectSchema,
  mergeSchema,
  methodOptions,
  methodsSchema,
  quickstartSchema,
  runSchema,
  trainSchema,
} from "./config/schema.js";
import {
  runsCompareSchema,
  runsDeleteSchema,
  runsExportSchema,
  runsListSchema,
  runsPlotSchema,
  runsShowSchema,
} from "./tracking/schemas.js";

/** All commands. Their code is loaded when they are called. */
export const commands: readonly Command[] = [
  command({
    name: "quickstart",
    summary: "tune the small model that comes along on your own files, in about a minute",
    schema: quickstartSchema,
    example: "tunesmith quickstart --data src",
    run: async (options, context) =>
      (await import("./commands/quickstart.js")).runQuickstart(options, context),
  }),
  command({
    name: "train",
    summary: "train an adapter (or the whole model) on text, images, sounds or series",
    configFile: true,
    schema: trainSchema,
    extra: methodOptions,
    schemaFor: ({ method }) => runSchema(typeof method === "string" ? method : "lora"),
    example:
      "tunesmith train --model MODEL --data notes.jsonl --method lora --rank 8 --targets q_proj,v_proj --out adapter",
    run: async (options, context) =>
      (await import("./commands/train.js")).runTrain(options as never, context),
  }),
  command({
    name: "eval",
    summary:
      "perplexity on text, scores of a model's task, scores of answers, tasks of the LM evaluation harness, comparisons",
    schema: evalSchema,
    positional: "model",
    example:
      "tunesmith eval MODEL --adapter adapter --data answers.jsonl --task generate --metrics exact_match,rougeL",
    run: async (options, context) => (await import("./commands/eval.js")).runEval(options, context),
  }),
  command({
    name: "predict",
    summary: "classes, numbers, tags, texts, vectors or forecasts of a model for rows of data",
    schema: predictSchema,
    positional: "model",
    example: "tunesmith predict MODEL --adapter adapter --data new.csv --out predictions.jsonl",
    run: async (options, context) => (await import("./commands/predict.js")).runPredict(options, context),
  }),
  command({
    name: "generate",
    summary: "continue a text, as it comes",
    schema: generateFlagsSchema,
    positional: "prompt",
    example:
      'tunesmith generate --model MODEL --adapter adapter --prompt "Once upon a time" --temperature 0.8',
    run: async (options, context) => (await import("./commands/generate.js")).runGenerate(options, context),
  }),
  command({
    name: "merge",
    summary: "fold an adapter into the weights: a plain model folder",
    schema: mergeSchema,
    example: "tunesmith merge --model MODEL --adapter adapter --out merged",
    run: async (options, context) => (await import("./commands/merge.js")).runMerge(options, context),
  }),
  command({
    name: "arrow",
    summary:
      "one adapter of several that were trained apart: every token goes to those it has most to do with",
    schema: arrowCommandSchema,
    example: "tunesmith arrow --model MODEL --experts adapters/law,adapters/code --top-k 1 --out routed",
    run: async (options, context) => (await import("./commands/arrow.js")).runArrow(options, context),
  }),
  command({
    name: "compare",
    summary: "train several methods in the same way: what each costs and brings, as a table and a chart",
    configFile: true,
    schema: compareSchema,
    example:
      "tunesmith compare --model MODEL --data notes.jsonl --methods lora,vera,ia3 --steps 200 --out comparison",
    run: async (options, context) => (await import("./commands/compare.js")).runCompare(options, context),
  }),
  command({
    name: "convert",
    summary:
      "adapters from one format to another: peft, mlx, gguf, kohya, diffusers, loralib; deltas of whole models",
    schema: convertSchema,
    positional: "adapter",
    example: "tunesmith convert adapter --to gguf --model MODEL --out adapter.gguf",
    run: async (options, context) => (await import("./commands/convert.js")).runConvert(options, context),
  }),
  command({
    name: "export",
    summary: "write a model as ONNX, and check that it gives the same logits",
    schema: exportSchema,
    example: "tunesmith export --model MODEL --adapter adapter --format onnx --out onnx",
    run: async (options, context) => (await import("./commands/export.js")).runExport(options, context),
  }),
  command({
    name: "inspect",
    summary: "modules, shapes, and what adapter targets would match",
    schema: inspectSchema,
    positional: "model",
    example: "tunesmith inspect MODEL --targets q_proj,v_proj",
    run: async (options, context) => (await import("./commands/inspect.js")).runInspect(options, context),
  }),
  command({
    name: "methods",
    summary: "every method with its options",
    schema: methodsSchema,
    example: "tunesmith methods --json",
    run: async (_, context) => (await import("./commands/methods.js")).runMethods(context),
  }),
  command({
    name: "config show",
    summary: "a configuration file as it is resolved: extended files, defaults, where each value is set",
    schema: configShowSchema,
    positional: "file",
    example: "tunesmith config show run.yaml --set rank=16",
    run: async (options, context) => (await import("./commands/config.js")).runConfigShow(options, context),
  }),
  command({
    name: "config explain",
    summary: "what a key of a configuration means: type, default, flag, methods, where it is set",
    schema: configExplainSchema,
    positional: "key",
    example: "tunesmith config explain rank --file run.yaml",
    run: async (options, context) =>
      (await import("./commands/config.js")).runConfigExplain(options, context),
  }),
  command({
    name: "runs list",
    summary: "the newest recorded runs with state and loss",
    schema: runsListSchema,
    example: "tunesmith runs list --limit 10",
    run: async (options, context) => (await import("./commands/runs.js")).runRunsList(options, context),
  }),
  command({
    name: "runs show",
    summary: "one run: configuration with origins, metrics, files",
    schema: runsShowSchema,
    positional: "run",
    example: "tunesmith runs show last",
    run: async (options, context) => (await import("./commands/runs.js")).runRunsShow(options, context),
  }),
  command({
    name: "runs compare",
    summary: "where configurations of runs differ, and what came out",
    schema: runsCompareSchema,
    positional: "runs",
    example: "tunesmith runs compare 1a2b 3c4d",
    run: async (options, context) => (await import("./commands/runs.js")).runRunsCompare(options, context),
  }),
  command({
    name: "runs plot",
    summary: "draw metrics of runs in the terminal, and to HTML, SVG or PNG files",
    schema: runsPlotSchema,
    positional: "runs",
    example: "tunesmith runs plot last --smoothing 0.9 --out plot.html",
    run: async (options, context) => (await import("./commands/runs-plot.js")).runRunsPlot(options, context),
  }),
  command({
    name: "runs export",
    summary: "write a run as JSON lines, CSV or TensorBoard event files",
    schema: runsExportSchema,
    positional: "run",
    example: "tunesmith runs export last --format csv --out run.csv",
    run: async (options, context) =>
      (await import("./commands/runs-export.js")).runRunsExport(options, context),
  }),
  command({
    name: "runs delete",
    summary: "remove runs from the database; their files stay",
    schema: runsDeleteSchema,
    positional: "runs",
    example: "tunesmith runs delete 1a2b",
    run: async (options, context) => (await import("./commands/runs.js")).runRunsDelete(options, context),
  }),
  command({
    name: "data check",
    summary: "what would go wrong with data: dropped rows, lengths, duplicates, leakage, special tokens",
    schema: dataCheckSchema,
    positional: "data",
    example: "tunesmith data check train.jsonl --validation held-out.jsonl --model MODEL --length 512",
    run: async (options, context) =>
      (await import("./commands/data-check.js")).runDataCheck(options, context),
  }),
  command({
    name: "data show",
    summary: "rows as they are trained: the exact tokens, and which of them have a loss",
    schema: dataShowSchema,
    positional: "data",
    example: "tunesmith data show chats.jsonl --model MODEL --row 3",
    run: async (options, context) => (await import("./commands/data-show.js")).runDataShow(options, context),
  }),
  command({
    name: "data split",
    summary: "split rows into parts for training, validation and test, the same every time",
    schema: dataSplitSchema,
    positional: "data",
    example: "tunesmith data split all.jsonl --out parts --validation-share 0.1 --test-share 0.1",
    run: async (options, context) =>
      (await import("./commands/data-split.js")).runDataSplit(options, context),
  }),
];
