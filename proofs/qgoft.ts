import { input, makeGraph } from "../src/graph/index.js";
import {
  type Adaptation,
  type GoftConfig,
  goft,
  goftMethod,
  lora,
  type Method,
  rotationTree,
} from "../src/methods/index.js";
import { evaluate, rng } from "../src/runtime/index.js";
import { tensor } from "../src/tensor/index.js";
import {
  determinant,
  identity,
  identityMap,
  isTrue,
  liveOf,
  orthogonalGap,
  shake,
  turned,
  vanishes,
} from "./matrices.js";
import { atLeast } from "./network.js";
import { compute, gap, norm, normals, shapeOf, start, times } from "./planted.js";
import type { Check, Proof } from "./proof.js";
import { type Repaired, rotatedTask } from "./rotated-task.js";

export interface QgoftProofOptions {
  /** The implementation under test. */
  readonly method?: Method<GoftConfig>;
  /** Leave the learning checks out. Default false. */
  readonly algebraOnly?: boolean;
}

const configOf = (options: Parameters<typeof goft>[0]) => goft(options).config;

/**
 * What GOFT and qGOFT must do: a tree of d − 1 plane rotations that can turn any vector onto the first axis, and undoes a planted
 * rotation of its own family, where LoRA with three times the numbers does not; free blocks also learn scales.
 */
export function qgoftProof({ method = goftMethod, algebraOnly = false }: QgoftProofOptions = {}): Proof {
  return {
    name: "qgoft",
    title: "GOFT is a tree of plane rotations; qGOFT learns scales beside",
    papers: ["2404.04316"],
    async run() {
      const checks = [
        ...tree(),
        ...(await rotations(method)),
        ...(await onto(method)),
        ...(await free(method)),
      ];
      return algebraOnly ? checks : [...checks, ...(await learning(method)), ...(await scales(method))];
    },
  };
}

function tree(): Check[] {
  const wrong = [8, 10, 13, 64, 768].filter((d) => {
    const levels = rotationTree(d);
    const planes = levels.reduce((sum, { i }) => sum + i.length, 0);
    const most = Math.max(...levels.flatMap(({ j }) => j));
    const disjoint = levels.every(({ i, j }) => new Set([...i, ...j]).size === 2 * i.length);
    return planes !== d - 1 || levels.length !== Math.ceil(Math.log2(d)) || most > d - 1 || !disjoint;
  });
  return [vanishes("widths without d − 1 planes in log2(d) levels of disjoint ones", wrong.length, 0)];
}

const ANGLES = { scale: false };

/** R: what the method makes of the identity, turned. */
async function matrixR(
  method: Method<GoftConfig>,
  d: number,
  options: Parameters<typeof goft>[0],
  fill: (live: Awaited<ReturnType<typeof start>>) => void,
) {
  const adaptation = { method, config: configOf(options) };
  const map = identityMap(d);
  const live = await start(adaptation, [map]);
  fill(live);
  return turned(d, d, (await compute(adaptation, map, live, new Float32Array(d))).weight);
}

async function rotations(method: Method<GoftConfig>): Promise<Check[]> {
  let [orthogonal, signs, still] = [0, 0, 0];
  for (const d of [8, 10, 13, 64]) {
    const r = await matrixR(method, d, ANGLES, (live) => shake(live, 0.7));
    orthogonal = Math.max(orthogonal, orthogonalGap(d, r));
    signs = Math.max(signs, Math.abs(determinant(d, r) - 1));
    still = Math.max(still, gap(await matrixR(method, d, ANGLES, () => {}), identity(d)));
  }
  return [
    vanishes("largest entry of RᵀR − I", orthogonal, 1e-5),
    vanishes("determinant less 1", signs, 1e-4),
    vanishes("R − I for angles of zero", still, 0),
  ];
}

/** Angles chosen level by level send all of a vector to the first coordinate. */
async function onto(method: Method<GoftConfig>): Promise<Check[]> {
  let rest = 0;
  for (const d of [8, 13, 64]) {
    const x = normals(d, "onto", d);
    const moving = Float64Array.from(x);
    const angles: number[] = [];
    for (const { i, j } of rotationTree(d)) {
      i.forEach((a, k) => {
        const [p, q] = [Number(moving[a]), Number(moving[Number(j[k])])];
        angles.push(Math.atan2(-q, p));
        moving[a] = Math.hypot(p, q);
        moving[Number(j[k])] = 0;
      });
    }
    const r = await matrixR(method, d, ANGLES, (live) => {
      liveOf(live, "goft_angles").set(angles.map((angle) => Math.atanh(angle / Math.PI)));
    });
    const sent = times(r, x, [d, d, 1]);
    rest = Math.max(rest, norm(sent.subarray(1)) / norm(x));
  }
  return [vanishes("what a vector turned onto the first axis keeps elsewhere", rest, 1e-5)];
}

/** Blocks set to rotations are GOFT; the penalty sees angles only. */
async function free(method: Method<GoftConfig>): Promise<Check[]> {
  const d = 13;
  const angles = normals(d - 1, "angles").map((value) => 0.4 * value);
  const blocks = Float32Array.from({ length: 4 * (d - 1) }, (_, at) => {
    const theta = Math.PI * Math.tanh(Number(angles[Math.floor(at / 4)]));
    return [Math.cos(theta), -Math.sin(theta), Math.sin(theta), Math.cos(theta)][at % 4] as number;
  });
  const [strict, loose] = [
    await matrixR(method, d, ANGLES, (live) => liveOf(live, "goft_angles").set(angles)),
    await matrixR(method, d, { quasi: true }, (live) => liveOf(live, "goft_blocks").set(blocks)),
  ];
  const scaled = blocks.map((value, at) => value * (at % 2 === 0 ? 2 : 0.5));
  const skewed = blocks.map((value, at) => value + (at % 4 === 1 ? 0.1 : 0));
  const none = await matrixR(method, d, { quasi: true }, () => {});
  return [
    vanishes("free blocks at their start: R − I", gap(none, identity(d)), 0),
    vanishes("free blocks set to rotations, against GOFT", gap(loose, strict), 1e-6),
    vanishes("penalty of rotations", await penaltyOf(method, d, blocks), 1e-9),
    vanishes("penalty of scaled rotations", await penaltyOf(method, d, scaled), 1e-9),
    isTrue("skewed blocks are penalised", (await penaltyOf(method, d, skewed)) > 1e-3),
  ];
}

/** Σ⟨α, β⟩² at λ = 1. */
async function penaltyOf(method: Method<GoftConfig>, d: number, blocks: Float32Array): Promise<number> {
  const value = input("blocks", "float32", [d - 1, 4]);
  const site = shapeOf(identityMap(d));
  const penalty = method.penalty?.(
    [{ site, tensors: { goft_blocks: value } }],
    configOf({ quasi: true, lambda: 1 }),
  );
  if (!penalty) return Number.NaN;
  const feeds = { blocks: tensor("float32", [d - 1, 4], blocks) };
  const { penalty: found } = await evaluate(makeGraph("penalty", [value], [["penalty", penalty]]), feeds);
  return Number(found?.data[0]);
}

const D = 32;

/** R(t*) of a planted t*. */
const planted = (method: Method<GoftConfig>) =>
  matrixR(method, D, ANGLES, (live) => {
    liveOf(live, "goft_angles").set(normals(D - 1, "t*").map((value) => 0.3 * value));
  });

/** Mean |⟨α, β⟩| of the trained blocks. */
function skewOf({ model }: Repaired): number {
  const blocks = model.adapters.get("default")?.sites.get("fc1")?.tensors.goft_blocks?.tensor
    .data as Float32Array;
  let sum = 0;
  for (let at = 0; at < blocks.length; at += 4) {
    const [a, b, c, e] = [...blocks.subarray(at, at + 4)] as [number, number, number, number];
    sum += Math.abs(a * b + c * e);
  }
  return sum / (blocks.length / 4);
}

const adaptationOf = (method: Method<GoftConfig>, options: Parameters<typeof goft>[0]): Adaptation =>
  ({ method, config: configOf(options) }) as unknown as Adaptation;

async function learning(method: Method<GoftConfig>): Promise<Check[]> {
  const task = await rotatedTask();
  const r = await planted(method);
  const undone = turned(D, D, r);
  const strict = adaptationOf(method, ANGLES);
  const quasi = (lambda: number) => adaptationOf(method, { quasi: true, lambda });
  const plain = lora({ rank: 1, alpha: 1 }) as unknown as Adaptation;
  const own = await task.repair(strict, undone, { lr: 2e-2 });
  const one = await task.repair(plain, undone, { lr: 2e-2 });
  const checks: Check[] = [
    {
      what: "accuracy turned, as it is",
      measured: await task.untouched(undone),
      expected: 0.465,
      tolerance: 0.15,
    },
    vanishes(
      "GOFT, 31 angles: accuracy short of the base",
      Math.max(0, task.baseAccuracy - own.accuracy),
      0.01,
    ),
    atLeast("GOFT above LoRA rank 1, 96 numbers", own.accuracy - one.accuracy, 0.15),
  ];
  for (const lambda of [0.001, 0.05, 0.5]) {
    const { accuracy } = await task.repair(quasi(lambda), undone, { lr: 1e-2 });
    checks.push({
      what: `accuracy, qGOFT with λ = ${lambda}`,
      measured: accuracy,
      expected: 0.877,
      tolerance: 0.02,
    });
  }
  const other = await task.repair(strict, r, { lr: 2e-2 });
  const inverse = await task.repair(quasi(0.001), r, { lr: 1e-2 });
  return [
    ...checks,
    isTrue(
      "the inverse rotation is outside the family: GOFT stays 3 points below",
      other.accuracy < task.baseAccuracy - 0.03,
    ),
    isTrue("and qGOFT comes closer", inverse.accuracy > other.accuracy),
  ];
}

/** Coordinates scaled by e^U(−0.7, 0.7) before the rotation. */
async function scales(method: Method<GoftConfig>): Promise<Check[]> {
  const task = await rotatedTask();
  const random = rng(4, "scales").fillUniform(new Float32Array(D), -0.7, 0.7);
  const by = turned(D, D, await planted(method)).map(
    (value, at) => value * Math.exp(Number(random[Math.floor(at / D)])),
  );
  const strict = await task.repair(adaptationOf(method, ANGLES), by, { lr: 2e-2 });
  const skews: number[] = [];
  let loose = Number.NaN;
  for (const lambda of [0.001, 0.05, 0.5]) {
    const found = await task.repair(adaptationOf(method, { quasi: true, lambda }), by, { lr: 1e-2 });
    if (lambda === 0.001) loose = found.loss;
    skews.push(skewOf(found));
  }
  const [low, middle, high] = skews as [number, number, number];
  return [
    {
      what: "scaled: loss of qGOFT over GOFT's",
      measured: loose / strict.loss,
      expected: 0.4,
      tolerance: 0.4,
    },
    isTrue("mean |⟨α, β⟩| falls with λ", low > middle && middle > high),
    ...skews.map((measured, k) => ({
      ...{ what: `mean |⟨α, β⟩|, λ = ${[0.001, 0.05, 0.5][k]}`, measured },
      ...{ expected: [0.118, 0.012, 0.004][k] as number, tolerance: 1, relative: true },
    })),
  ];
}
