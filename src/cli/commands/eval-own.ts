import { readSeries } from "../../data/index.js";
import type { TensorModel } from "../../models/index.js";
import { createEvaluator, objectiveFor } from "../../training/index.js";
import type { Context } from "../command.js";
import type { EvalConfig } from "../config/schema.js";
import { formatCount, table } from "../ui.js";
import { readData, required, sessionOf } from "../work.js";
import { processorOf } from "./task-model.js";

/** Loss and scores of a model's own task over rows. */
export async function runOwnTask(model: TensorModel, config: EvalConfig, { ui }: Context): Promise<void> {
  const data = required(config.data, "data");
  const processor = await processorOf(model);
  const options = {
    batchSize: config.batchSize,
    length: config.length,
    ...(processor ? { processor } : {}),
  };
  const given =
    model.task === "forecasting"
      ? { series: await readSeries(data) }
      : await readData(data, config).then(({ rows }) => ({ train: rows, validation: rows }));
  const objective = objectiveFor(model, given, options);
  const evaluator = createEvaluator(objective, { session: sessionOf(config) });
  try {
    const { loss, count, scores } = await evaluator.run(objective.validation?.() ?? []);
    ui.say(
      table([
        ["task", model.task],
        ["loss", loss.toFixed(4)],
        ...Object.entries(scores).map(([name, value]): [string, string] => [name, value.toFixed(4)]),
        ["items", formatCount(count)],
      ]),
    );
    ui.result({ task: model.task, loss, count, scores });
  } finally {
    await evaluator.close();
  }
}
