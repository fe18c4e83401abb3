import type { z } from "zod";
import { joinPath } from "#io";
import { TunesmithError } from "../../errors/index.js";
import {
  type AdapterFileOptions,
  applyDelta,
  readAdapterFile,
  saveDelta,
  writeAdapterFile,
} from "../../methods/index.js";
import type { Model } from "../../models/index.js";
import type { Context } from "../command.js";
import type { convertSchema } from "../config/schema.js";
import { openModel, saveWhole } from "../work.js";

type Config = z.output<typeof convertSchema>;

export async function runConvert(config: Config, context: Context): Promise<void> {
  if (config.to === "delta") return writeDelta(config, context);
  if (config.to === "model" || config.from === "delta") return addDelta(config, context);
  const { ui, signal } = context;
  const base = config.model === undefined ? undefined : await openModel(config.model, ui, signal, "auto");
  const known = base ? knownOf(base) : {};
  const options = {
    ...known,
    ...(config.component === undefined ? {} : { component: config.component }),
    ...(config.alpha === undefined ? {} : { alpha: config.alpha }),
    ...(config.enableLora === undefined ? {} : { enableLora: config.enableLora }),
    ...(config.architecture === undefined ? {} : { architecture: config.architecture }),
    ...(config.heads === undefined ? {} : { heads: config.heads }),
    ...(config.kvHeads === undefined ? {} : { kvHeads: config.kvHeads }),
  };
  const adapter = await readAdapterFile(config.adapter, { ...options, format: config.from });
  checkRead(adapter.format, config);
  const files = await writeAdapterFile(adapter, config.out, config.to, options);
  const tensors = [...adapter.components.values()].reduce((sum, { tensors: own }) => sum + own.size, 0);
  ui.say(`${config.adapter} (${adapter.format}) -> ${files.join(", ")} (${config.to}), ${tensors} tensors`);
  ui.result({ from: adapter.format, to: config.to, files, tensors });
}

const knownOf = (base: Model): AdapterFileOptions => ({
  modelType: base.architecture,
  architecture: base.architecture,
  ...(base.task === "causal-lm"
    ? { heads: base.sizes.heads, kvHeads: base.sizes.kvHeads, layers: base.sizes.layers }
    : {}),
});

/** Throws `config-invalid` for an option that the file which was found has no use for. */
function checkRead(format: string, { from, alpha, enableLora, adapter }: Config): void {
  const fix = "leave it out";
  if (from !== undefined && from !== format)
    throw new TunesmithError("config-invalid", `${adapter} is ${format}, not ${from} (--from)`, { fix });
  if (format === "loralib" || (alpha ?? enableLora) === undefined) return;
  const flag = alpha === undefined ? "--enable-lora" : "--alpha";
  throw new TunesmithError("config-invalid", `${flag} is for loralib checkpoints; ${adapter} is ${format}`, {
    fix,
  });
}

/** What a tuned model changed, against the base of `--model`. */
async function writeDelta(config: Config, { ui, signal }: Context): Promise<void> {
  const base = await openModel(String(config.model), ui, signal, "auto");
  const tuned = await openModel(config.adapter, ui, signal, "auto");
  const report = await saveDelta(base, tuned, config.out);
  const files = [joinPath(config.out, "delta.safetensors")];
  ui.say(`${report.changed.length} weights differ, by ${report.norm.toPrecision(4)} -> ${files[0]}`);
  ui.result({ from: "model", to: "delta", files, ...report });
}

/** A plain model out of a base and a delta. */
async function addDelta(config: Config, { ui, signal }: Context): Promise<void> {
  const base = await openModel(String(config.model), ui, signal, "auto");
  const files = await saveWhole(await applyDelta(base, config.adapter), config.out);
  ui.say(`wrote ${config.out}`);
  ui.result({ from: "delta", to: "model", files });
}
