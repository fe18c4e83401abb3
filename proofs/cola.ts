import { ops, type Value } from "../src/graph/index.js";
import { adapt, isAdapted, lora, setActive, trainChain } from "../src/methods/index.js";
import type { TensorModel } from "../src/models/index.js";
import { numericalRank, svd } from "../src/runtime/index.js";
import { tensor } from "../src/tensor/index.js";
import { adamw, fit, type Schedule, type TensorLoss, tensorObjective } from "../src/training/index.js";
import { logits, network, numbersOf } from "./network.js";
import { gap, lowRank, norm, normals, plus, times } from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface ColaProofOptions {
  /** The implementation under test. */
  readonly chain?: typeof trainChain;
  /** Seeds. Default 1, 2, 3. */
  readonly seeds?: readonly number[];
}

const SIZE = 48;
const STEPS = 1200;

/** That a chain of links passes the error that no single adapter of its rank can. */
export function colaProof({ chain = trainChain, seeds = [1, 2, 3] }: ColaProofOptions = {}): Proof {
  return {
    name: "cola",
    title: "a chain of LoRA links of rank 4 reaches the rank, and the fit, of all of them together",
    papers: ["2401.04151"],
    async run() {
      const checks = await identities(chain);
      for (const seed of seeds) checks.push(...(await learning(chain, seed)));
      return checks;
    },
  };
}

/** One linear map, and rows of a target of rank 16 away from it: the unit vectors are the data. */
async function problem(seed: number) {
  const model = network([SIZE, SIZE], { seed });
  const weight = await numbersOf(model, "fc1.weight");
  const bias = await numbersOf(model, "fc1.bias");
  const delta = lowRank(SIZE, SIZE, 16, 0.3, "cola", seed);
  const target = plus(weight, delta);
  const loss: TensorLoss = {
    name: "squares",
    targets: [{ name: "y", dtype: "float32", shape: ["batch", SIZE] }],
    sum: ({ outputs, targets }) =>
      ops.reduceSum(ops.square(ops.sub(outputs.logits as Value, targets.y as Value)), undefined, false),
  };
  const column = (at: number) =>
    Float32Array.from({ length: SIZE }, (_, i) => Number(target[i * SIZE + at]) + Number(bias[i]));
  const train = {
    size: SIZE,
    hash: "unit vectors",
    at: (index: number) => ({
      inputs: { x: tensor("float32", [SIZE], new Float32Array(SIZE).fill(1, index, index + 1)) },
      targets: { y: tensor("float32", [SIZE], column(index)) },
    }),
  };
  const objective = (own: TensorModel) => tensorObjective(own, { train, batchSize: SIZE, loss });
  return { model, weight, target, delta, objective };
}

const session = { threads: 1, worker: false } as const;
const optimizer = (shift: (schedule: Schedule) => Schedule, steps = STEPS) =>
  adamw({ lr: 5e-3, weightDecay: 0, schedule: shift((step) => Math.max(0.02, 1 - step / steps)) });
const link = (rank: number) => lora({ rank, alpha: 2 * rank });

async function learning(chain: typeof trainChain, seed: number): Promise<Check[]> {
  const { model, weight, target, delta, objective } = await problem(seed);
  const run = async (ranks: readonly number[]) => {
    const tuned = await chain(model, { links: ranks.map(link), steps: STEPS, objective, optimizer, session });
    const now = await numbersOf(tuned, "fc1.weight");
    const rank = numericalRank({ rows: SIZE, cols: SIZE, data: plus(now, weight, -1) }, 1e-4);
    return { error: norm(plus(now, target, -1)) / norm(delta), rank };
  };
  const values = svd({ rows: SIZE, cols: SIZE, data: delta }).s;
  const floor = Math.hypot(...Array.from(values).slice(4)) / norm(delta);
  const chains = [];
  for (const count of [1, 2, 3, 4]) chains.push(await run(new Array<number>(count).fill(4)));
  const down = await run([4, 3, 2, 2]);
  const errors = chains.map(({ error }) => error);
  const falling = errors.filter((error, at) => at > 0 && error >= Number(errors[at - 1])).length;
  return [
    {
      what: `seed ${seed}: relative error of one link: the best of rank 4`,
      measured: Number(errors[0]),
      expected: floor,
      tolerance: 0.02,
    },
    between(`seed ${seed}: of four links, over that of one`, Number(errors[3]) / Number(errors[0]), 0, 0.5),
    between(`seed ${seed}: chains no better than the one a link shorter`, falling, 0, 0),
    {
      what: `seed ${seed}: rank of three links`,
      measured: Number(chains[2]?.rank),
      expected: 12,
      tolerance: 0,
    },
    { what: `seed ${seed}: rank of links 4, 3, 2, 2`, measured: down.rank, expected: 11, tolerance: 0 },
  ];
}

async function identities(chain: typeof trainChain): Promise<Check[]> {
  const { model, objective, weight } = await problem(9);
  const steps = 20;
  const own = {
    steps,
    objective,
    session,
    optimizer: (shift: (schedule: Schedule) => Schedule) => optimizer(shift, steps),
  };
  // One link is LoRA.
  const alone = await adapt(model, link(3), { name: "link1" });
  await fit(objective(alone), { steps, optimizer: optimizer((schedule) => schedule, steps), session });
  const one = await chain(model, { ...own, links: [link(3)], keepLinks: true });
  const points = { width: SIZE, x: normals(4 * SIZE, "points"), labels: [0, 0, 0, 0] };
  // Links kept apart compute what links merged do; without them the base is there.
  const apart = await chain(model, { ...own, links: [link(3), link(2)], keepLinks: true });
  const merged = await chain(model, { ...own, links: [link(3), link(2)] });
  const [left, right] = [await logits(apart, points), await logits(merged, points)];
  const restored = isAdapted(apart) ? await logits(setActive(apart, []), points) : left;
  const bias = await numbersOf(model, "fc1.bias");
  const plain = times(weight, points.x.slice(0, SIZE), [SIZE, SIZE, 1]).map(
    (value, at) => value + Number(bias[at]),
  );
  const zero = (what: string, measured: number, tolerance = 1e-5): Check => ({
    what,
    measured,
    expected: 0,
    tolerance,
  });
  return [
    zero("one link against LoRA", gap(await logits(one, points), await logits(alone, points)), 0),
    zero("links kept apart against links merged", gap(left, right)),
    zero("links switched off against the base", gap(restored.slice(0, SIZE), plain), 1e-4),
    zero("adapters left in a merged chain", isAdapted(merged) ? 1 : 0, 0),
  ];
}
