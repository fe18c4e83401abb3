import { gradients } from "../src/autodiff/index.js";
import { constant as constantValue, input, makeGraph, ops, scope, type Value } from "../src/graph/index.js";
import { adapt, deft, lora, softDensity } from "../src/methods/index.js";
import { probeOutputs, runModel, sitesOf, type TensorModel } from "../src/models/index.js";
import { evaluate, rng } from "../src/runtime/index.js";
import { tensor } from "../src/tensor/index.js";
import { adam, constant } from "../src/training/index.js";
import { accuracy, mixture, normals, type Points, pretrain, tune } from "./network.js";
import type { Check, Proof } from "./proof.js";

export interface DeftProofOptions {
  /** The implementation under test. */
  readonly make?: typeof deft;
  readonly density?: typeof softDensity;
  /** Steps of every run; 0 leaves out what is trained. Default 3000. */
  readonly steps?: number;
  /** Weights of the term that are compared, rising. Default 0, 0.1, 1 and 10. */
  readonly weights?: readonly number[];
}

const [WIDTH, HIDDEN, CLASSES, BLOCKS] = [16, 64, 4, 6];

/**
 * What DEFT must do: its surrogate is z² / (z² + ε), and with it a low-rank adapter halves the share of hidden units that are
 * not zero at next to no cost in accuracy.
 */
export function deftProof(options: DeftProofOptions = {}): Proof {
  const { make = deft, density = softDensity, steps = 3000, weights = [0, 0.1, 1, 10] } = options;
  return {
    name: "deft",
    title: "adapters that also make hidden activations sparse",
    papers: ["2402.01911"],
    async run() {
      const checks = await surrogate(density);
      return steps > 0 ? [...checks, ...(await sparser(make, steps, weights))] : checks;
    },
  };
}

/** Values and gradients at five numbers, ε = 1e-7. */
async function surrogate(density: typeof softDensity): Promise<Check[]> {
  const z = input("z", "float32", [5, 1]);
  const each = Array.from({ length: 5 }, (_, row) => density(ops.slice(z, 0, row, row + 1), 1e-7));
  const [gradient] = gradients(
    each.reduce((a, b) => ops.add(a, b)),
    [z],
  );
  const outputs = each.map((value, row): [string, Value] => [`${row}`, value]);
  const graph = makeGraph("density", [z], [...outputs, ["gradient", gradient as Value]]);
  const numbers = [0, 1e-4, 1e-3, 1e-2, 1];
  const found = await evaluate(graph, { z: tensor("float32", [5, 1], Float32Array.from(numbers)) });
  const wanted = [0, 0.0909, 0.909, 0.999, 1];
  const slopes = found.gradient?.data as Float32Array;
  return numbers.flatMap((value, row): Check[] => [
    {
      what: `soft density of ${value}`,
      measured: Number(found[row]?.data[0]),
      expected: Number(wanted[row]),
      tolerance: 6e-4,
    },
    {
      what: `its gradient at ${value}`,
      measured: Number(slopes[row]),
      expected: (2 * value * 1e-7) / (value ** 2 + 1e-7) ** 2,
      tolerance: 1e-3,
      relative: true,
    },
  ]);
}

/** Residual blocks x + W₂·relu(W₁·x) / √6 between two maps. */
function blocks(): TensorModel {
  const weights = new Map<string, Value>();
  const map = (name: string, out: number, inn: number) => {
    const random = (shape: number[], part: string) => {
      const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
      rng(0, "blocks", name, part).fillUniform(data, -1 / Math.sqrt(inn), 1 / Math.sqrt(inn));
      const value = constantValue(tensor("float32", shape, data), `${name}.${part}`);
      weights.set(`${name}.${part}`, value);
      return value;
    };
    const [w, b] = [random([out, inn], "weight"), random([out], "bias")];
    return (x: Value) => scope(name, () => ops.gemm(x, w, b, { transB: true }));
  };
  const layers = Array.from({ length: BLOCKS }, (_, at) => ({
    up: map(`blocks.${at}.up`, HIDDEN, WIDTH),
    down: map(`blocks.${at}.down`, WIDTH, HIDDEN),
  }));
  const head = map("head", CLASSES, WIDTH);
  return {
    task: "custom",
    architecture: "blocks",
    weights,
    parameters: new Map(),
    config: {},
    defaultTargets: ["up"],
    tokenizer: undefined,
    origin: undefined,
    inputs: [{ name: "x", dtype: "float32", shape: ["batch", WIDTH] }],
    probeAxes: { batch: 2 },
    build({ values }) {
      let h = values.x as Value;
      for (const { up, down } of layers)
        h = ops.add(h, ops.mul(down(ops.relu(up(h))), 1 / Math.sqrt(BLOCKS)));
      return { values: { logits: head(h) }, boundaries: [] };
    },
  };
}

/** Share of hidden units that are not zero. */
async function hiddenDensity(model: TensorModel, { x, labels }: Points): Promise<number> {
  const tapped: TensorModel = {
    ...model,
    build(inputs) {
      const outputs = model.build(inputs);
      const taps = sitesOf(outputs).filter(({ path }) => path.endsWith(".down"));
      return {
        ...outputs,
        values: Object.fromEntries(taps.map((site, at) => [`z${at}`, ops.mul(site.input, 1)])),
      };
    },
  };
  const found = await runModel(tapped, { x: tensor("float32", [labels.length, WIDTH], x) });
  const shares = Object.values(found).map(({ data }) => {
    const numbers = data as Float32Array;
    return numbers.filter((value) => value !== 0).length / numbers.length;
  });
  return shares.reduce((a, b) => a + b, 0) / shares.length;
}

async function sparser(make: typeof deft, steps: number, weights: readonly number[]): Promise<Check[]> {
  const centres = normals(CLASSES * WIDTH, 0.7, "centres", "deft");
  const points = (seed: string, count: number) => mixture(centres, { classes: CLASSES, count, seed });
  const [train, test] = [points("deft train", 6000), points("deft test", 3000)];
  const base = await pretrain(blocks(), train, { steps: 800, lr: 2e-3 });
  const known = sitesOf(probeOutputs(base)).filter(({ path }) => path.endsWith(".down")).length;
  const reached: { density: number; accuracy: number }[] = [];
  for (const weight of weights) {
    const adapted = await adapt(base, lora({ rank: 4, alpha: 8, targets: ["up"] }));
    const optimizer = adam({ lr: 3e-3, schedule: constant() });
    await tune(make(adapted, { inputsOf: ["down"], weight }), train, { steps, lr: 3e-3, optimizer });
    reached.push({ density: await hiddenDensity(adapted, test), accuracy: await accuracy(adapted, test) });
  }
  const [plain, strong] = [reached[0], reached[weights.indexOf(1)]];
  const rises = reached.slice(1).map(({ density }, at) => density - Number(reached[at]?.density));
  const densities = reached.map(({ density }) => density.toFixed(2)).join(", ");
  return [
    { what: "blocks that are tapped", measured: known, expected: BLOCKS, tolerance: 0 },
    {
      what: "density with weight 1 over that without, at most half",
      measured: Number(strong?.density) / Number(plain?.density),
      expected: 0.25,
      tolerance: 0.25,
    },
    {
      what: "accuracy lost by it",
      measured: Number(plain?.accuracy) - Number(strong?.accuracy),
      expected: 0,
      tolerance: 0.015,
    },
    {
      what: `times the density rises with the weight (${densities})`,
      measured: rises.filter((rise) => rise > 0).length,
      expected: 0,
      tolerance: 0,
    },
  ];
}
