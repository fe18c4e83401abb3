import {
  type AlphaTuningConfig,
  alphaTuning,
  alphaTuningMethod,
  applyPatch,
  type Method,
} from "../src/methods/index.js";
import type { TensorModel } from "../src/models/index.js";
import { dequantizeBinary, quantizeBinary, tensor } from "../src/tensor/index.js";
import {
  accuracy,
  adapted,
  atLeast,
  mixture,
  network,
  normals,
  numbersOf,
  type Points,
  pretrain,
} from "./network.js";
import type { Check, Proof } from "./proof.js";

export interface AlphaTuningProofOptions {
  /** The implementations under test. */
  readonly method?: Method<AlphaTuningConfig>;
  readonly quantize?: typeof quantizeBinary;
  /** Steps of every run; 0 leaves out what is learnt. Default 2000. */
  readonly steps?: number;
  /** Planes that are compared. Default 1, 2 and 3. */
  readonly planes?: readonly number[];
}

const [WIDTH, HIDDEN, CLASSES] = [32, 128, 10];

/**
 * What AlphaTuning must do: rows split into planes of signs with an error that refinement never raises, and a network of
 * such planes that learns a distorted task by a scale per row.
 */
export function alphaTuningProof(options: AlphaTuningProofOptions = {}): Proof {
  const { method = alphaTuningMethod, quantize = quantizeBinary, steps = 2000, planes = [1, 2, 3] } = options;
  return {
    name: "alphatuning",
    title: "planes of signs, of which a scale per row is tuned",
    papers: ["2210.03858"],
    async run() {
      const checks = codes(quantize);
      return steps > 0 ? [...checks, ...(await learning(method, quantize, steps, planes))] : checks;
    },
  };
}

/** Mean squared errors over normal rows of 256, and how often a half step raises one. */
function codes(quantize: typeof quantizeBinary): Check[] {
  const [rows, columns] = [64, 256];
  const weight = normals(rows * columns, 1, "rows");
  const expected = [0.35, 0.12, 0.038, 0.011];
  return expected.flatMap((wanted, at): Check[] => {
    const planes = at + 1;
    const errors = Array.from({ length: rows }, (): number[] => []);
    const onError = (row: number, error: number) => void errors[row]?.push(error);
    const packed = quantize(weight, rows, columns, { planes, onError });
    const restored = dequantizeBinary(packed, rows, columns, planes);
    const square = restored.reduce((sum, value, k) => sum + (value - Number(weight[k])) ** 2, 0);
    const raised = errors.filter((own) => own.some((error, k) => k > 0 && error > Number(own[k - 1]) + 1e-9));
    return [
      {
        what: `mean square error of ${planes} planes`,
        measured: square / weight.length,
        expected: wanted,
        tolerance: 0.07,
        relative: true,
      },
      {
        what: `rows of ${planes} planes whose error rises`,
        measured: raised.length,
        expected: 0,
        tolerance: 0,
      },
    ];
  });
}

interface Task {
  readonly base: TensorModel;
  readonly train: Points;
  readonly test: Points;
}

/** The points of a known task through x + ½·N·x / √32. */
async function distorted(): Promise<Task> {
  const centres = normals(CLASSES * WIDTH, 0.45, "centres", "alpha");
  const matrix = normals(WIDTH * WIDTH, 0.5 / Math.sqrt(WIDTH), "distortion");
  const points = (seed: string, count: number) => mixture(centres, { classes: CLASSES, count, seed });
  const turned = (given: Points): Points => {
    const x = given.x.slice();
    for (let row = 0; row < given.labels.length; row++)
      for (let i = 0; i < WIDTH; i++)
        for (let j = 0; j < WIDTH; j++)
          x[row * WIDTH + i] =
            Number(x[row * WIDTH + i]) + Number(matrix[i * WIDTH + j]) * Number(given.x[row * WIDTH + j]);
    return { ...given, x };
  };
  const start = network([WIDTH, HIDDEN, HIDDEN, CLASSES], { seed: "alpha" });
  return {
    base: await pretrain(start, points("alpha base", 8000), { steps: 1500, lr: 1e-3 }),
    train: turned(points("alpha train", 6000)),
    test: turned(points("alpha test", 4000)),
  };
}

/** The network with every weight as its planes are. */
async function coarse(
  base: TensorModel,
  quantize: typeof quantizeBinary,
  planes: number,
): Promise<TensorModel> {
  const whole = new Map();
  for (const [name, value] of base.weights) {
    const shape = value.shape as number[];
    const [rows, columns] = shape;
    if (columns === undefined) continue;
    const packed = quantize(await numbersOf(base, name), Number(rows), columns, { planes });
    whole.set(name, tensor("float32", shape, dequantizeBinary(packed, Number(rows), columns, planes)));
  }
  return applyPatch(base, { changes: new Map(), whole });
}

async function learning(
  method: Method<AlphaTuningConfig>,
  quantize: typeof quantizeBinary,
  steps: number,
  all: readonly number[],
): Promise<Check[]> {
  const { base, train, test } = await distorted();
  const checks: Check[] = [];
  for (const planes of all) {
    const quantised = await coarse(base, quantize, planes);
    const reached = async (which: AlphaTuningConfig["train"]) => {
      const { config } = alphaTuning({ planes, train: which, rounds: 40 });
      return accuracy(await adapted(quantised, { method, config }, train, { steps, lr: 3e-3 }), test);
    };
    const before = await accuracy(quantised, test);
    const own = await reached("largest");
    const gain = planes <= 2 ? 0.04 : 0.01;
    checks.push(
      atLeast(
        `${planes} planes: accuracy above the quantised network's (${before.toFixed(3)})`,
        own - before,
        gain,
      ),
    );
    if (planes < 2) continue;
    const every = await reached("all");
    checks.push(
      atLeast(`${planes} planes: all scales above one plane's (${own.toFixed(3)})`, every - own, 0),
    );
  }
  return checks;
}
