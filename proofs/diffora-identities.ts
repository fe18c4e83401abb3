import { reach } from "../src/graph/index.js";
import {
  type Adapted,
  adapt,
  diffora,
  lora,
  type ModuleSearchOptions,
  type searchModules,
} from "../src/methods/index.js";
import { probeOutputs, runModel, type TensorModel, valuesIn } from "../src/models/index.js";
import { tensor } from "../src/tensor/index.js";
import { adam, createStepper, fit, type StepBatch, sgd } from "../src/training/index.js";
import {
  candidates,
  draw,
  kernelsOf,
  MODULES,
  objectiveOver,
  PLANTED,
  parallel,
  SAMPLES,
  samples,
  session,
  WIDTH,
} from "./diffora-data.js";
import { vanishes as zero } from "./matrices.js";
import { normals } from "./network.js";
import { gap } from "./planted.js";
import { between, type Check } from "./proof.js";

/** What does not depend on what a search finds. */
export async function identities(search: typeof searchModules): Promise<Check[]> {
  const { model, paths } = parallel();
  const chosen = new Set(draw(9, PLANTED));
  const data = { train: samples(chosen, 9, "train"), held: samples(chosen, 9, "held") };
  const short = (
    config: Parameters<typeof diffora>[0],
    more: Partial<ModuleSearchOptions<TensorModel>> = {},
  ) =>
    search(model, diffora({ rank: 2, alpha: 4, perLayer: 2, ...config }), {
      objective: (own, half) => objectiveOver(own, half === "updates" ? data.train : data.held),
      ...{ steps: 6, optimizer: adam({ lr: 1e-2 }), session, ...more },
    });
  return [
    ...(await openGates(model, paths, data.train)),
    ...(await discrete(short, paths)),
    await gateGradient(model, data.held),
    ...(await unrolledGates(short, data)),
    await kernelFormula(model, paths, data.train),
  ];
}

const outputOf = async (model: TensorModel, x: Float32Array): Promise<Float32Array> =>
  (await runModel(model, { x: tensor("float32", [SAMPLES, WIDTH], x) })).y?.data as Float32Array;

const setLogits = (model: TensorModel, value: (at: number) => number): void => {
  const logits = [...model.parameters.values()].filter(({ name }) => name.includes("/logit."));
  for (const [at, { tensor: own }] of logits.entries()) (own.data as Float32Array)[0] = value(at);
};

/** Closed or open, gates start as the base; open for good, the candidates are LoRA. */
async function openGates(
  model: TensorModel,
  targets: readonly string[],
  train: ReturnType<typeof samples>,
): Promise<Check[]> {
  const relaxed = await adapt(model, candidates(), {});
  setLogits(relaxed, (at) => at - 5);
  const start = gap(await outputOf(relaxed, train.x), await outputOf(model, train.x));
  const open = await adapt(model, diffora({ rank: 2, alpha: 4 }), {});
  setLogits(open, () => 30);
  const plain = await adapt(model, lora({ rank: 2, alpha: 4, targets: [...targets] }));
  for (const own of [open, plain]) {
    const optimizer = adam({ lr: 1e-2 });
    await fit(objectiveOver(own, train), { steps: 20, optimizer, session, guardZeroUpdates: false });
  }
  const [left, right] = [await outputOf(open, train.x), await outputOf(plain, train.x)];
  return [
    zero("start against the base, for gates of all sizes", start, 0),
    zero("all gates at 1 against LoRA, after 20 steps", gap(left, right), 1e-6),
  ];
}

type Short = (
  config: Parameters<typeof diffora>[0],
  more?: Partial<ModuleSearchOptions<TensorModel>>,
) => ReturnType<typeof searchModules<TensorModel>>;

const trainedNumbers = (model: TensorModel): number =>
  [...model.parameters.values()].reduce(
    (sum, { trainable, tensor: own }) => sum + (trainable ? own.data.length : 0),
    0,
  );

/** What is left when gates are decided. */
async function discrete(short: Short, paths: readonly string[]): Promise<Check[]> {
  const { table, model } = await short({});
  const perLayer = table.table.map((row) => row.filter((cell) => cell === 1).length);
  const rest = paths.filter((path) => !table.selected.includes(path));
  const { values } = reach(valuesIn(probeOutputs(model)));
  const left = values.filter(({ name }) => rest.some((path) => name?.includes(`/${path}.lora_`)));
  const shared = await short({ unselected: "shared" });
  const kinds = table.kinds.filter((_, kind) => table.table.some((row) => row[kind] === 0)).length;
  const size = 2 * (WIDTH + WIDTH);
  const exact = (what: string, measured: number, expected: number): Check => ({
    ...{ what, measured, expected, tolerance: 0 },
  });
  return [
    exact("fewest modules selected in a layer", Math.min(...perLayer), 2),
    exact("most modules selected in a layer", Math.max(...perLayer), 2),
    zero("tensors of updates at other modules", left.length, 0),
    exact("trained numbers, Σ r(k + d) over the selected", trainedNumbers(model), 4 * size),
    exact("with an update per kind for the rest", trainedNumbers(shared.model), (4 + kinds) * size),
  ];
}

async function look(model: TensorModel, data: ReturnType<typeof samples>) {
  const objective = objectiveOver(model, data);
  const stepper = createStepper(objective, { session });
  try {
    const batch = (await objective.batches({ epoch: 0, step: 0 }, 0).next()).value as StepBatch;
    return await stepper.run(batch, batch.count, [1]);
  } finally {
    await stepper.close();
  }
}

const logitName = (model: TensorModel): string =>
  [...model.parameters.keys()].find((name) => name.includes("/logit.")) as string;

/** Every update away from its start, so that gates matter. */
async function moved(model: TensorModel): Promise<Adapted<TensorModel>> {
  const own = await adapt(model, diffora({ rank: 2, alpha: 4 }), {});
  for (const { name, tensor: each } of own.parameters.values())
    if (name.includes("lora_B"))
      (each.data as Float32Array).set(normals(each.data.length, 0.3, "moved", name));
  return own;
}

/** The first logit's derivative against a difference of losses. */
async function gateGradient(model: TensorModel, held: ReturnType<typeof samples>): Promise<Check> {
  const own = await moved(model);
  const name = logitName(own);
  const logit = own.parameters.get(name)?.tensor.data as Float32Array;
  const measured = Number((await look(own, held)).gradients.get(name)?.[0]);
  const at = async (value: number) => {
    logit[0] = value;
    return (await look(own, held)).loss;
  };
  const expected = ((await at(0.05)) - (await at(-0.05))) / 0.1;
  return {
    what: "a gate's gradient against differences",
    measured,
    expected,
    tolerance: 0.01,
    relative: true,
  };
}

/** One plain step of the gates, whose length is their gradient, with a step of the updates unrolled below it. */
async function unrolledGates(
  short: Short,
  { train, held }: Readonly<Record<"train" | "held", ReturnType<typeof samples>>>,
): Promise<Check[]> {
  const once = async (order: number, unrolled: number) => {
    const optimizers = { optimizer: sgd({ lr: 0.5 }), gateOptimizer: sgd({ lr: 1 }) };
    const { relaxed } = await short({ order }, { steps: 1, unrolled, ...optimizers });
    const name = logitName(relaxed);
    return { relaxed, name, gradient: -Number(relaxed.parameters.get(name)?.tensor.data[0]) };
  };
  const [first, still] = [await once(1, 0.5), await once(2, 0)];
  const far = await once(2, 3);
  // The loss of the gates after an unrolled step, at logits a little to either side.
  const { relaxed, name } = await once(1, 0.5);
  setLogits(relaxed, () => 0);
  const logit = relaxed.parameters.get(name)?.tensor.data as Float32Array;
  const updates = [...relaxed.parameters.values()].filter(
    (each) => each.trainable && !each.name.includes("/logit."),
  );
  const starts = updates.map((each) => (each.tensor.data as Float32Array).slice());
  const after = async (value: number) => {
    logit[0] = value;
    const { gradients } = await look(relaxed, train);
    for (const [at, each] of updates.entries()) {
      const [data, start] = [each.tensor.data as Float32Array, starts[at] as Float32Array];
      const down = gradients.get(each.name) as Float32Array;
      data.set(start.map((from, index) => from - 3 * Number(down[index])));
    }
    const { loss } = await look(relaxed, held);
    for (const [at, each] of updates.entries())
      (each.tensor.data as Float32Array).set(starts[at] as Float32Array);
    return loss;
  };
  const expected = ((await after(0.1)) - (await after(-0.1))) / 0.2;
  return [
    zero("second order without a step against first order", still.gradient - first.gradient, 0),
    {
      what: "second order against differences",
      measured: far.gradient,
      expected,
      tolerance: 0.02,
      relative: true,
    },
    between("how far first order is from it", Math.abs(first.gradient / expected - 1), 0.05, 100),
  ];
}

/** At a model that gives 0: products of targets times products of inputs, 4 / width². */
async function kernelFormula(
  model: TensorModel,
  paths: readonly string[],
  { x, y }: ReturnType<typeof samples>,
): Promise<Check> {
  const kernels = await kernelsOf(model, paths, { x, y });
  const order = await sampleOrder(model, { x, y });
  const row = (data: Float32Array, at: number, width: number, from = 0) =>
    data.subarray(at * width + from, at * width + from + WIDTH);
  const dot = (a: Float32Array, b: Float32Array) =>
    a.reduce((sum, value, at) => sum + value * Number(b[at]), 0);
  let most = 0;
  for (const [m, path] of paths.entries())
    for (const [i, left] of order.entries())
      for (const [j, right] of order.entries()) {
        const targets = [left, right].map((at) => row(y, at, MODULES * WIDTH, m * WIDTH));
        const inputs = dot(row(x, left, WIDTH), row(x, right, WIDTH));
        const expected =
          (4 / WIDTH ** 2) * dot(targets[0] as Float32Array, targets[1] as Float32Array) * inputs;
        most = Math.max(most, Math.abs(Number(kernels.get(path)?.[i * SAMPLES + j]) - expected));
      }
  return zero("kernels of modules against their formula", most, 1e-3);
}

/** Which samples the first batches of one are. */
async function sampleOrder(model: TensorModel, data: ReturnType<typeof samples>): Promise<number[]> {
  const source = objectiveOver(model, data, 1).batches({ epoch: 0, step: 0 }, 0);
  const order: number[] = [];
  while (order.length < SAMPLES) order.push(Number(((await source.next()).value as StepBatch).rows?.[0]));
  return order;
}
