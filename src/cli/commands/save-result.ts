import { TunesmithError } from "../../errors/index.js";
import {
  formatReceipt,
  freeze,
  isAdapted,
  isUnfrozen,
  saveAdapter,
  type UnfrozenLm,
} from "../../methods/index.js";
import type { CausalLm } from "../../models/index.js";
import { readTensor, toFloat32 } from "../../tensor/index.js";
import { formatCount, type Ui } from "../ui.js";
import { saveWhole } from "../work.js";

/** Writes what was trained (an adapter as a PEFT folder, a whole model as a model folder), prints and returns the receipt. */
export async function saveResult(model: CausalLm, folder: string, ui: Ui): Promise<object> {
  if (isAdapted(model)) {
    const receipt = await saveAdapter(model, folder);
    ui.say(formatReceipt(receipt));
    return receipt;
  }
  if (!isUnfrozen(model)) throw new TunesmithError("adapter-invalid", "the method left nothing to save");
  const files = await saveWhole(freeze(model), folder);
  const change = await changeOf(model);
  ui.say(
    `save '${model.architecture}' (full): ${change.tensorsChanged} of ${model.unfrozen.size} weights changed`,
  );
  ui.say(`  parameters  ${formatCount(change.trainableParameters)} trained`);
  ui.say(`  change      ${change.changeNorm.toPrecision(4)} (Frobenius norm)`);
  return { action: "save", method: "full", files, ...change };
}

async function changeOf({ base, unfrozen }: UnfrozenLm) {
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
