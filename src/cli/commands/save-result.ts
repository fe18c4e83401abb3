import { TunesmithError } from "../../errors/index.js";
import {
  formatReceipt,
  freeze,
  isAdapted,
  isMpoModel,
  isUnfrozen,
  type MpoModel,
  mpoMerge,
  saveAdapter,
  type Unfrozen,
} from "../../methods/index.js";
import type { Model } from "../../models/index.js";
import { readTensor, toFloat32 } from "../../tensor/index.js";
import { formatCount, type Ui } from "../ui.js";
import { saveWhole } from "../work.js";

export interface SavedResult {
  readonly kind: "adapter" | "model" | "onnx";
  readonly receipt: object;
  /** The receipt as people read it. */
  readonly text: string;
}

/** Writes what was trained (an adapter as a PEFT folder, a whole model as a model folder), prints and returns the receipt. */
export async function saveResult(model: Model, folder: string, ui: Ui): Promise<SavedResult> {
  if (isAdapted(model)) {
    const receipt = await saveAdapter(model, folder);
    const text = formatReceipt(receipt);
    ui.say(text);
    return { kind: "adapter", receipt, text };
  }
  if (isMpoModel(model)) return saveChains(model, folder, ui);
  if (!isUnfrozen(model)) throw new TunesmithError("adapter-invalid", "the method left nothing to save");
  const files = await saveWhole(freeze(model), folder);
  const change = await changeOf(model);
  const text = [
    `save '${model.architecture}' (full): ${change.tensorsChanged} of ${model.unfrozen.size} weights changed`,
    `  parameters  ${formatCount(change.trainableParameters)} trained`,
    `  change      ${change.changeNorm.toPrecision(4)} (Frobenius norm)`,
  ].join("\n");
  ui.say(text);
  const kind = model.architecture === "onnx" ? "onnx" : "model";
  return { kind, receipt: { action: "save", method: "full", files, ...change }, text };
}

/** A model of chains, multiplied out. */
async function saveChains(model: MpoModel, folder: string, ui: Ui): Promise<SavedResult> {
  const files = await saveWhole(await mpoMerge(model), folder);
  const { numbers, denseNumbers, groups, startError } = model.chains;
  const maps = groups.reduce((sum, group) => sum + group.maps.length, 0);
  const text = [
    `save '${model.architecture}' (mpo-shared): ${maps} maps with ${groups.length} central tensors, multiplied out`,
    `  parameters  ${formatCount(numbers)} in chains, ${formatCount(denseNumbers)} as the weights that were written`,
    `  start       ${(100 * startError).toFixed(2)} % of the base's weights were not in the chains it started from`,
  ].join("\n");
  ui.say(text);
  const receipt = { action: "save", method: "mpo-shared", files, maps, numbers, denseNumbers, startError };
  return { kind: model.architecture === "onnx" ? "onnx" : "model", receipt, text };
}

async function changeOf({ base, unfrozen }: Unfrozen) {
  let [squares, tensorsChanged, trainableParameters] = [0, 0, 0];
  for (const [name, { tensor }] of unfrozen) {
    const source = base.weights.get(name)?.source;
    if (source?.kind !== "constant") continue;
    const old = toFloat32(await readTensor(source.data));
    const sum = (tensor.data as Float32Array).reduce(
      (total, value, at) => total + (value - (old[at] ?? 0)) ** 2,
      0,
    );
    squares += sum;
    tensorsChanged += sum > 0 ? 1 : 0;
    trainableParameters += tensor.data.length;
  }
  return { tensorsChanged, trainableParameters, changeNorm: Math.sqrt(squares) };
}
