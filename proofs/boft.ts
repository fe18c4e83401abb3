import {
  type Adaptation,
  type BoftConfig,
  boft,
  boftMethod,
  lora,
  type Method,
} from "../src/methods/index.js";
import {
  identity,
  identityMap,
  isTrue,
  liveOf,
  orthogonalGap,
  rotation,
  shake,
  spectrumChange,
  trainedCount,
  turned,
  vanishes,
} from "./matrices.js";
import { atLeast } from "./network.js";
import { compute, gap, learn, normals, start, times } from "./planted.js";
import type { Check, Proof } from "./proof.js";
import { rotatedTask } from "./rotated-task.js";

export interface BoftProofOptions {
  /** The implementation under test. */
  readonly method?: Method<BoftConfig>;
  /** Leave the learning checks and large sizes out. Default false. */
  readonly algebraOnly?: boolean;
}

/**
 * What BOFT must do: R is orthogonal with exactly the butterfly's non-zeros; more factors reach more rotations with fewer
 * numbers; and a network whose inputs were rotated is repaired where LoRA with as many numbers is not.
 */
export function boftProof({ method = boftMethod, algebraOnly = false }: BoftProofOptions = {}): Proof {
  return {
    name: "boft",
    title: "BOFT is a sparse product of rotations that undoes a rotation of inputs",
    papers: ["2311.06243", "2306.07280"],
    async run() {
      const checks = [
        ...(await algebra(method, algebraOnly ? [16] : [16, 32, 64])),
        ...(await couplings(method)),
      ];
      if (algebraOnly) return checks;
      return [...checks, ...(await expressivity(method)), ...(await learning(method))];
    },
  };
}

/** Every legal butterfly of these sizes: [width, block, factors]. */
function* shapes(widths: readonly number[]): Generator<[number, number, number]> {
  for (const d of widths)
    for (const b of [2, 4, 8]) for (let m = 1; b * 2 ** (m - 1) <= d; m++) yield [d, b, m];
}

/** R of random generators: what the method makes of the identity, turned. */
async function matrixR(method: Method<BoftConfig>, [d, b, m]: readonly number[], std: number) {
  const { config } = boft({ blockSize: Number(b), factors: Number(m) });
  const map = identityMap(Number(d));
  const live = await start({ method, config }, [map]);
  shake(live, std);
  liveOf(live, "boft_s").fill(1);
  const { weight } = await compute({ method, config }, map, live, new Float32Array(map.in));
  return { r: turned(map.in, map.in, weight), live };
}

async function algebra(method: Method<BoftConfig>, widths: readonly number[]): Promise<Check[]> {
  let [orthogonal, support, start0, spectrum, cosines, counts] = [0, 0, 0, 0, 0, 0];
  for (const [d, b, m] of shapes(widths)) {
    const { r, live } = await matrixR(method, [d, b, m], 1);
    orthogonal = Math.max(orthogonal, orthogonalGap(d, r));
    for (let row = 0; row < d; row++) {
      const filled = r.subarray(row * d, (row + 1) * d).filter((value) => Math.abs(value) > 1e-9).length;
      if (filled !== Math.min(d, b * 2 ** (m - 1))) support++;
    }
    const zero = await matrixR(method, [d, b, m], 0);
    start0 = Math.max(start0, gap(zero.r, identity(d)));
    const w = normals(24 * d, "boft w", d);
    const changed = times(w, turned(d, d, r), [24, d, d]);
    spectrum = Math.max(spectrum, spectrumChange(24, d, w, changed));
    cosines = Math.max(cosines, gap(cosinesOf(w, d), cosinesOf(changed, d)));
    if (trainedCount(live) !== m * d * b + d) counts++;
  }
  return [
    vanishes("largest entry of RᵀR − I", orthogonal, 1e-5),
    vanishes("rows of R without min(d, b·2^(m−1)) entries", support, 0),
    vanishes("R − I for generators of zero", start0, 1e-6),
    vanishes("change of W's singular values", spectrum, 1e-5),
    vanishes("change of cosines among W's rows", cosines, 1e-5),
    vanishes("shapes whose numbers are not m·d·b + out", counts, 0),
  ];
}

function cosinesOf(w: Float32Array, width: number): Float32Array {
  const rows = w.length / width;
  const gram = times(w, turned(rows, width, w), [rows, width, rows]);
  const length = (row: number) => Math.sqrt(Number(gram[row * (rows + 1)]));
  return gram.map((value, at) => value / length(Math.floor(at / rows)) / length(at % rows));
}

/** Factor i alone joins half-blocks j and j xor 2^i, and nothing else. */
async function couplings(method: Method<BoftConfig>): Promise<Check[]> {
  let wrong = 0;
  for (const [d, b, m] of [
    [32, 4, 4],
    [32, 2, 5],
    [64, 8, 3],
  ] as const) {
    const { config } = boft({ blockSize: b, factors: m });
    const map = identityMap(d);
    for (let level = 0; level < m; level++) {
      const live = await start({ method, config }, [map]);
      const generators = liveOf(live, "boft_R");
      generators.subarray(level * d * b, (level + 1) * d * b).set(normals(d * b, "generators", level));
      const { weight } = await compute({ method, config }, map, live, new Float32Array(d));
      const piece = (at: number) => Math.floor(at / (b / 2));
      weight.forEach((value, at) => {
        const [i, j] = [piece(Math.floor(at / d)), piece(at % d)];
        if (Math.abs(value) > 1e-9 !== (i === j || i === (j ^ (2 ** level)))) wrong++;
      });
    }
  }
  return [vanishes("entries of single factors off the half-blocks j and j xor 2^i", wrong, 0)];
}

/** Its rotations alone: the learned scale is no part of the question. */
function withoutScale(method: Method<BoftConfig>): Method<BoftConfig> {
  return {
    ...method,
    tensors(site, config) {
      const { boft_s: scale, ...rest } = method.tensors(site, config);
      return scale ? { ...rest, boft_s: { ...scale, trainable: false } } : rest;
    },
  };
}

/** Distance to a random rotation that training leaves, of ‖I − T‖². */
async function expressivity(given: Method<BoftConfig>): Promise<Check[]> {
  const d = 32;
  const target = rotation(d, 3);
  const method = withoutScale(given);
  const found = new Map<string, number>();
  for (const [m, b] of [
    [1, 2],
    [5, 2],
    [1, 4],
    [4, 4],
    [1, 8],
    [3, 8],
  ] as const) {
    const { config } = boft({ blockSize: b, factors: m });
    const map = identityMap(d, target);
    const live = await start({ method, config }, [map]);
    liveOf(live, "boft_R").set(normals(m * d * b, "tiny", m, b).map((value) => 0.01 * value));
    const { errors } = await learn({ method, config }, [map], { steps: 1500, lr: 3e-2, live });
    found.set(`${m},${b}`, Number(errors[0]) ** 2);
  }
  const at = (key: string) => Number(found.get(key));
  const reference = { "1,2": 0.74, "5,2": 0.46, "1,4": 0.66, "4,4": 0.34, "1,8": 0.53, "3,8": 0.22 };
  return [
    ...Object.entries(reference).map(([key, expected]) => ({
      ...{ what: `distance left to a random rotation, BOFT(${key})`, measured: at(key), expected },
      tolerance: 0.15,
    })),
    isTrue(
      "more factors come closer, at every block size",
      at("5,2") < at("1,2") && at("4,4") < at("1,4") && at("3,8") < at("1,8"),
    ),
    isTrue("BOFT(5,2), 80 free numbers, comes closer than blocks of 8, 112", at("5,2") < at("1,8")),
  ];
}

/** Accuracy of a network whose inputs were rotated, its first layer adapted. */
async function learning(given: Method<BoftConfig>): Promise<Check[]> {
  const method = withoutScale(given);
  const task = await rotatedTask();
  const by = rotation(32, 5);
  const own = (factors: number, blockSize: number): Adaptation =>
    ({ method, config: boft({ factors, blockSize }).config }) as unknown as Adaptation;
  const of = async (adaptation: Adaptation) => task.repair(adaptation, by, { lr: 2e-2 });
  const [butterfly, narrow, blocks, whole] = [
    await of(own(4, 4)),
    await of(own(3, 8)),
    await of(own(1, 8)),
    await of(own(1, 32)),
  ];
  const two = await of(lora({ rank: 2, alpha: 2 }) as unknown as Adaptation);
  const tensors = butterfly.model.adapters.get("default")?.sites.get("fc1")?.tensors;
  const map = identityMap(32);
  const live = await start({ method, config: boft({ factors: 4, blockSize: 4 }).config }, [map]);
  liveOf(live, "boft_R").set(tensors?.boft_R?.tensor.data as Float32Array);
  const { weight } = await compute(own(4, 4), map, live, new Float32Array(32));
  const reported = (what: string, measured: number, expected: number): Check => ({
    what: `accuracy, ${what}`,
    measured,
    expected,
    tolerance: 0.15,
  });
  return [
    reported("before the rotation", task.baseAccuracy, 0.88),
    reported("rotated, as it is", await task.untouched(by), 0.1),
    reported("BOFT(4,4), 192 free numbers", butterfly.accuracy, 0.83),
    reported("BOFT(3,8)", narrow.accuracy, 0.86),
    reported("one block of 32", whole.accuracy, 0.875),
    reported("blocks of 8", blocks.accuracy, 0.7),
    reported("LoRA rank 2, 192 numbers", two.accuracy, 0.4),
    atLeast("BOFT(4,4) above LoRA rank 2", butterfly.accuracy - two.accuracy, 0.25),
    atLeast("BOFT(4,4) above blocks of 8", butterfly.accuracy - blocks.accuracy, 0.08),
    vanishes("RᵀR − I after training", orthogonalGap(32, weight), 1e-5),
  ];
}
