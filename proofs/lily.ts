import { constant, ops, scope, type Value } from "../src/graph/index.js";
import {
  type Adaptation,
  type Adapted,
  adapt,
  type LilyConfig,
  lily,
  lilyMethod,
  lora,
  type Method,
} from "../src/methods/index.js";
import { runModel, type TensorModel } from "../src/models/index.js";
import { rng } from "../src/runtime/index.js";
import { svd } from "../src/runtime/linalg/index.js";
import { tensor } from "../src/tensor/index.js";
import { type ExampleSource, regression } from "../src/training/index.js";
import { liveTensor, normals, tune } from "./network.js";
import { gap, times } from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";

export interface LilyProofOptions {
  /** The implementation under test. */
  readonly method?: Method<LilyConfig>;
}

/** Six maps of one name, 12 x 12; two matrices A, three experts B. */
const [MAPS, SIZE, RANK, STRIDE, EXPERTS, SCALE] = [6, 12, 3, 3, 3, 0.5];
const PATHS = Array.from({ length: MAPS }, (_, at) => `maps.${at}.proj`);

/** That factors are shared and mixed as the paper says, and that updates which share theirs are found with fewer numbers than LoRA's. */
export function lilyProof({ method = lilyMethod }: LilyProofOptions = {}): Proof {
  return {
    name: "lily",
    title:
      "Lily's factors are shared by layers and mixed by the batch; updates that share are found with fewer numbers",
    papers: ["2407.09946"],
    run: () => checks(method),
  };
}

const weightsOf = (path: string) => normals(SIZE * SIZE, 0.3, "lily", path);

/** The maps side by side: `[batch, 12]` in, `[batch, 72]` out. */
const base: TensorModel = {
  task: "custom",
  architecture: "maps",
  weights: new Map(
    PATHS.map((path) => {
      const name = `${path}.weight`;
      return [name, constant(tensor("float32", [SIZE, SIZE], weightsOf(path)), name)];
    }),
  ),
  parameters: new Map(),
  config: {},
  defaultTargets: ["proj"],
  tokenizer: undefined,
  origin: undefined,
  inputs: [{ name: "x", dtype: "float32", shape: ["batch", SIZE] }],
  probeAxes: { batch: 2 },
  build({ values }) {
    const maps = PATHS.map((path) =>
      scope(path, () =>
        ops.gemm(values.x as Value, base.weights.get(`${path}.weight`) as Value, undefined, { transB: true }),
      ),
    );
    return { values: { logits: ops.concat(maps, 1) }, boundaries: [] };
  },
};

const outputs = async (model: TensorModel, x: Float32Array): Promise<Float32Array> =>
  (await runModel(model, { x: tensor("float32", [x.length / SIZE, SIZE], x) })).logits?.data as Float32Array;

/** Inputs with a mean: a router that is averaged over many rows tells little of others. */
function inputs(count: number, seed: string): Float32Array {
  const mean = normals(SIZE, 1, "lily", "mean");
  return normals(count * SIZE, 1, "lily", seed).map((value, at) => value + Number(mean[at % SIZE]));
}

const adaptation = (method: Method<LilyConfig>): Adaptation => {
  const { config } = lily({ rank: RANK, stride: STRIDE, experts: EXPERTS, scale: SCALE, targets: ["proj"] });
  return { method, config } as unknown as Adaptation;
};

/** The adapter with noise on every tensor. */
async function moved(method: Method<LilyConfig>): Promise<Adapted<TensorModel>> {
  const model = await adapt(base, adaptation(method));
  for (const { name, trainable, tensor: own } of model.parameters.values())
    if (trainable) rng(5, name).fillNormal(own.data as Float32Array, 0, 0.5);
  return model;
}

const turned = (m: Float32Array, rows: number, columns: number) =>
  m.map((_, at) => Number(m[(at % rows) * columns + Math.floor(at / rows)]));

/** y = W·x + s·(Σ p·B)ᵀ·A·x with p the mean of softmax(R·A·x) over the rows, in plain arithmetic; A and B those of the first sharers. */
function plain(model: Adapted<TensorModel>, x: Float32Array): Float32Array {
  const rows = x.length / SIZE;
  const all = unchanged(x);
  for (const at of PATHS.keys()) {
    const get = (owner: number, key: string) =>
      liveTensor(model, PATHS[owner] as string, key).data as Float32Array;
    const a = get(at - (at % STRIDE), "lily_A");
    const u = times(x, turned(a, RANK, SIZE), [rows, SIZE, RANK]);
    const scores = times(u, turned(get(at, "lily_router"), EXPERTS, RANK), [rows, RANK, EXPERTS]);
    const shares = new Float64Array(EXPERTS);
    for (let row = 0; row < rows; row++) {
      const own = Array.from(scores.subarray(row * EXPERTS, (row + 1) * EXPERTS), Math.exp);
      const sum = own.reduce((total, value) => total + value, 0);
      own.forEach((value, expert) => {
        shares[expert] = Number(shares[expert]) + value / sum / rows;
      });
    }
    const b = get(0, "lily_B");
    const mixed = Float32Array.from({ length: RANK * SIZE }, (_, k) =>
      shares.reduce((sum, share, expert) => sum + share * Number(b[expert * RANK * SIZE + k]), 0),
    );
    times(u, mixed, [rows, RANK, SIZE]).forEach((value, k) => {
      all[placeOf(k, at)] = Number(all[placeOf(k, at)]) + SCALE * value;
    });
  }
  return all;
}

/** What the maps give without an update. */
function unchanged(x: Float32Array): Float32Array {
  const rows = x.length / SIZE;
  const all = new Float32Array(rows * MAPS * SIZE);
  for (const [at, path] of PATHS.entries())
    times(x, turned(weightsOf(path), SIZE, SIZE), [rows, SIZE, SIZE]).forEach((value, k) => {
      all[placeOf(k, at)] = value;
    });
  return all;
}

/** Where the k-th number of a map's outputs stands among those of all. */
const placeOf = (k: number, map: number): number =>
  Math.floor(k / SIZE) * MAPS * SIZE + map * SIZE + (k % SIZE);

/** Updates of rank 3 that share: two matrices of inputs, three of outputs, mixed with weights of their own. */
function planted(x: Float32Array): Float32Array {
  const rows = x.length / SIZE;
  const all = unchanged(x);
  const bs = normals(EXPERTS * RANK * SIZE, 0.5, "lily", "B");
  for (const at of PATHS.keys()) {
    const a = normals(RANK * SIZE, 0.5, "lily", "A", Math.floor(at / STRIDE));
    const shares = Array.from(normals(EXPERTS, 1.5, "lily", "shares", at), Math.exp);
    const total = shares.reduce((sum, share) => sum + share, 0);
    const b = Float32Array.from({ length: RANK * SIZE }, (_, k) =>
      shares.reduce((sum, share, expert) => sum + (share / total) * Number(bs[expert * RANK * SIZE + k]), 0),
    );
    const u = times(x, turned(a, RANK, SIZE), [rows, SIZE, RANK]);
    times(u, b, [rows, RANK, SIZE]).forEach((value, k) => {
      all[placeOf(k, at)] = Number(all[placeOf(k, at)]) + value;
    });
  }
  return all;
}

const squares = (values: Float32Array, others: Float32Array): number =>
  values.reduce((sum, value, at) => sum + (value - Number(others[at])) ** 2, 0);

/** What training leaves of the error on fresh rows, as a share of the base's. */
async function errorLeft(model: Adapted<TensorModel>): Promise<number> {
  const [x, fresh] = [inputs(512, "train"), inputs(256, "test")];
  const wanted = planted(x);
  const width = MAPS * SIZE;
  const source: ExampleSource = {
    size: 512,
    hash: "lily",
    at: (row) => ({
      inputs: { x: tensor("float32", [SIZE], x.subarray(row * SIZE, (row + 1) * SIZE)) },
      targets: { value: tensor("float32", [width], wanted.subarray(row * width, (row + 1) * width)) },
    }),
  };
  await tune(model, source, { steps: 300, lr: 3e-2, batchSize: 64, loss: regression({ shape: [width] }) });
  const right = planted(fresh);
  return squares(await outputs(model, fresh), right) / squares(await outputs(base, fresh), right);
}

/** The share of the error that the best updates of rank 2 leave on the fresh rows, by Eckart and Young: what LoRA cannot get below. */
function rankTwoFloor(): number {
  const fresh = inputs(256, "test");
  const [all, before] = [planted(fresh), unchanged(fresh)];
  let [left, whole] = [0, 0];
  for (let at = 0; at < MAPS; at++) {
    const update = Float32Array.from({ length: 256 * SIZE }, (_, k) => {
      const place = placeOf(k, at);
      return Number(all[place]) - Number(before[place]);
    });
    const energies = Array.from(svd({ data: update, rows: 256, cols: SIZE }).s, (value) => value ** 2);
    left += energies.slice(2).reduce((a, b) => a + b, 0);
    whole += energies.reduce((a, b) => a + b, 0);
  }
  return left / whole;
}

/** LoRA of rank 2, and what it leaves. */
async function trainRival() {
  const model = await adapt(base, lora({ rank: 2, alpha: 2, targets: ["proj"] }));
  return { numbers: trainedNumbers(model), left: await errorLeft(model) };
}
let rival: ReturnType<typeof trainRival> | undefined;

const trainedNumbers = ({ parameters }: Pick<TensorModel, "parameters">): number =>
  [...parameters.values()].reduce(
    (sum, { trainable, tensor: own }) => sum + (trainable ? own.data.length : 0),
    0,
  );

async function checks(method: Method<LilyConfig>): Promise<Check[]> {
  const zero = (what: string, measured: number, tolerance = 1e-4): Check => ({
    what,
    measured,
    expected: 0,
    tolerance,
  });
  const x = inputs(7, "few");
  const fresh = await adapt(base, adaptation(method));
  const model = await moved(method);
  const whole = await outputs(model, x);
  const first = x.slice(0, SIZE);
  const alone = await outputs(model, first);
  const numbers = trainedNumbers(fresh);
  rival ??= trainRival();
  const [other, floor] = [await rival, rankTwoFloor()];
  return [
    zero(
      "change at the start",
      gap(await outputs(await adapt(base, adaptation(method)), x), await outputs(base, x)),
      0,
    ),
    zero("outputs against plain arithmetic", gap(whole, plain(model, x))),
    zero("one row against plain arithmetic", gap(alone, plain(model, first))),
    between("the same row in a batch of 7, how far", gap(alone, whole.slice(0, MAPS * SIZE)), 1e-3, 10),
    {
      what: "trained numbers: r·d·(L / stride) + E·r·d + L·E·r",
      measured: numbers,
      expected: RANK * SIZE * (MAPS / STRIDE) + EXPERTS * RANK * SIZE + MAPS * EXPERTS * RANK,
      tolerance: 0,
    },
    between("trained numbers of LoRA of rank 2 over them", other.numbers / numbers, 1, 2),
    between("error that LoRA of rank 2 leaves, over the least it can", other.left / floor, 1, 2),
    between("error that Lily leaves, over the same", (await errorLeft(fresh)) / floor, 0, 0.5),
  ];
}
