import {
  type Adaptation,
  type Adapted,
  adapt,
  type Method,
  merge,
  type PeanutConfig,
  peanut,
  peanutMethod,
} from "../src/methods/index.js";
import type { TensorModel } from "../src/models/index.js";
import { rng } from "../src/runtime/index.js";
import { svd } from "../src/runtime/linalg/index.js";
import {
  accuracy,
  atLeast,
  liveTensor,
  logits,
  mixture,
  network,
  normals,
  numbersOf,
  pretrain,
  tune,
} from "./network.js";
import { gap, times } from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface PeanutProofOptions {
  /** The implementation under test. */
  readonly method?: Method<PeanutConfig>;
}

const [INN, OUT, RANK, DEPTH, SCALE, CLASSES] = [10, 14, 3, 2, 0.7, 4];
const PATH = "fc1";

/** That the update is the paper's network of the weight, of rank r, and that it learns. */
export function peanutProof({ method = peanutMethod }: PeanutProofOptions = {}): Proof {
  return {
    name: "peanut",
    title: "PEANuT's update is a small network of the weight: residuals, rank and learning",
    papers: ["2410.01870"],
    run: () => checks(method),
  };
}

const plainNetwork = (seed: string) => network([INN, OUT, CLASSES], { seed });
const points = (x: Float32Array) => ({ width: INN, x, labels: new Array<number>(x.length / INN).fill(0) });

async function moved(
  method: Method<PeanutConfig>,
  base: TensorModel,
  depth: number,
): Promise<Adapted<TensorModel>> {
  const { config } = peanut({ rank: RANK, depth, scale: SCALE, targets: [PATH] });
  const model = await adapt(base, { method, config } as unknown as Adaptation);
  for (const { name, trainable, tensor } of model.parameters.values())
    if (trainable) rng(4, name).fillNormal(tensor.data as Float32Array, 0, 0.8);
  return model;
}

const relu = (m: Float32Array) => m.map((value) => Math.max(0, value));

/** s·B·σ(D₁(σ(D₀·σ(E₁·σ(E₀·σ(A·W)))) + …) …), `[out, in]`, in plain arithmetic. */
async function update(model: Adapted<TensorModel>, depth: number): Promise<Float32Array> {
  const get = (key: string) => liveTensor(model, PATH, key).data as Float32Array;
  let h = relu(times(get("peanut_A"), await numbersOf(model, `${PATH}.weight`), [RANK, OUT, INN]));
  const kept: Float32Array[] = [];
  for (let at = 0; at < depth; at++) {
    kept.push(h);
    h = relu(times(get(`peanut_encoders.${at}`), h, [RANK, RANK, INN]));
  }
  for (let at = 0; at < depth; at++) {
    const before = kept.pop() as Float32Array;
    const up = relu(times(get(`peanut_decoders.${at}`), h, [RANK, RANK, INN]));
    h = up.map((value, k) => value + Number(before[k]));
  }
  return times(get("peanut_B"), h, [OUT, RANK, INN]).map((value) => SCALE * value);
}

/** What merging adds to the weight. */
async function mergedUpdate(model: Adapted<TensorModel>): Promise<Float32Array> {
  const merged = await merge(model);
  const before = await numbersOf(model, `${PATH}.weight`);
  return (await numbersOf(merged, `${PATH}.weight`)).map((value, at) => value - Number(before[at]));
}

/** Accuracy on turned classes, before and after training the adapter on the first layer. */
async function learnt(
  method: Method<PeanutConfig>,
): Promise<{ readonly before: number; readonly after: number }> {
  const centres = normals(CLASSES * INN, 2, "peanut", "centres");
  const made = (seed: string) => mixture(centres, { classes: CLASSES, count: 512, seed });
  const base = await pretrain(plainNetwork("peanut learning"), made("base"), { steps: 150, lr: 1e-2 });
  const turned = (seed: string) => {
    const own = made(seed);
    return { ...own, labels: own.labels.map((label) => (label + 1) % CLASSES) };
  };
  const { config } = peanut({ rank: 8, targets: [PATH] });
  const model = await adapt(base, { method, config } as unknown as Adaptation);
  const test = turned("test");
  const before = await accuracy(model, test);
  await tune(model, turned("train"), { steps: 250, lr: 2e-2 });
  return { before, after: await accuracy(model, test) };
}

async function checks(method: Method<PeanutConfig>): Promise<Check[]> {
  const zero = (what: string, measured: number, tolerance = 1e-4): Check => ({
    what,
    measured,
    expected: 0,
    tolerance,
  });
  const base = plainNetwork("peanut");
  const { config } = peanut({ rank: RANK, targets: [PATH] });
  const x = normals(6 * INN, 1, "peanut", "x");
  const fresh = await adapt(base, { method, config } as unknown as Adaptation);
  const [flat, deep] = [await moved(method, base, 0), await moved(method, base, DEPTH)];
  const found = await mergedUpdate(deep);
  const energies = Array.from(svd({ data: found, rows: OUT, cols: INN }).s);
  // The same tensors on another weight.
  const elsewhere = await mergedUpdate(await moved(method, plainNetwork("peanut other"), DEPTH));
  const { before, after } = await learnt(method);
  return [
    zero("change at the start", gap(await logits(fresh, points(x)), await logits(base, points(x))), 0),
    zero(
      "update without hidden layers against plain arithmetic",
      gap(await mergedUpdate(flat), await update(flat, 0)),
    ),
    zero("update with two on either side", gap(found, await update(deep, DEPTH))),
    zero("apart and merged", gap(await logits(deep, points(x)), await logits(await merge(deep), points(x)))),
    zero(
      "singular values beyond the rank, over the first",
      Number(energies[RANK]) / Number(energies[0]),
      1e-5,
    ),
    between("change of the update with the weight", gap(elsewhere, found) / Number(energies[0]), 1e-3, 10),
    between("accuracy on turned classes before", before, 0, 0.1),
    atLeast("accuracy after training the first layer's update", after, 0.9),
  ];
}
