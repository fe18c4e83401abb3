import { readSeries } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import type { TensorModel } from "../../models/index.js";
import { createEvaluator, objectiveFor } from "../../training/index.js";
import type { Context } from "../command.js";
import type { EvalConfig } from "../config/schema.js";
import { formatCount, table } from "../ui.js";
import { readData, required, sessionOf } from "../work.js";
import { processorOf } from "./task-model.js";

async function readOwn(data: string, { task }: TensorModel, config: EvalConfig) {
  if (task === "forecasting") {
    if (config.limit === undefined) return { series: await readSeries(data) };
    throw new TunesmithError("config-invalid", "--limit counts rows; a series is judged by all its windows", {
      fix: "leave it out",
    });
  }
  const rows = (await readData(data, config)).rows.slice(0, config.limit);
  return { train: rows, validation: rows };
}

/** Loss and scores of a model's own task over rows. */
export async function runOwnTask(model: TensorModel, config: EvalConfig, { ui }: Context): Promise<void> {
  const data = required(config.data, "data");
  const processor = await processorOf(model);
  const options = {
    batchSize: config.batchSize,
    length: config.length,
    ...(processor ? { processor } : {}),
  };
  const given = await readOwn(data, model, config);
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
