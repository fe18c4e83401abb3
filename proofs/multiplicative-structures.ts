import {
  type Ia3Config,
  ia3,
  ia3Method,
  type Method,
  type OftConfig,
  oft,
  oftMethod,
  type RoadConfig,
  road,
  roadMethod,
} from "../src/methods/index.js";
import { inverse, svd } from "../src/runtime/index.js";
import {
  identity,
  identityMap,
  matrixOf,
  orthogonalGap,
  shake,
  spectrumChange,
  turned,
  vanishes,
} from "./matrices.js";
import { atLeast } from "./network.js";
import { compute, learn, norm, normals, type PlantedMap, plant, plus, start, times } from "./planted.js";
import type { Check } from "./proof.js";
import { matrix, type Numbers, numbersAt, type Structure, structured } from "./structure.js";

const [OUT, IN] = [24, 32];
const SIZE = [OUT, IN] as const;

/** Numbers around the ones that leave things as they are. */
const around = (centre: number, spread: number) => (key: string, length: number) =>
  normals(length, "around", key).map((value) => centre + spread * value);

const ia3Structure = (label: string, path: string, count: number): Structure<Ia3Config> => ({
  label,
  path,
  bias: true,
  config: ia3({ feedforward: ["down_proj"] }).config,
  size: SIZE,
  formula({ weight, bias }, { ia3_l: rows, ia3_l_inputs: columns }) {
    const factor = (i: number, j: number) => Number(rows ? rows[i] : columns?.[j]);
    return {
      weight: matrix(OUT, IN, (i, j) => factor(i, j) * Number(weight[i * IN + j])),
      bias: rows && bias ? bias.map((value, i) => value * Number(rows[i])) : bias,
    };
  },
  planted: around(1, 0.5),
  count,
  rank: OUT,
  learning: {},
});

/** (IA)³: a number per output, or per input. */
export const ia3Proof = structured(ia3Method, {
  name: "ia3",
  title:
    "(IA)³ finds scales of outputs with their biases, or of inputs, with fewer numbers than LoRA of rank 1",
  papers: ["2205.05638"],
  structures: [
    ia3Structure("outputs", "k_proj", OUT),
    ia3Structure("inputs of a feed-forward map", "down_proj", IN),
  ],
});

/** W, or a column b, with output j turned towards j + g/2 of its group. */
function pairsTurned(
  rows: ArrayLike<number>,
  width: number,
  { variant, groupSize }: RoadConfig,
  { road_theta: theta = [], road_alpha: alpha = [] }: Numbers,
): Float32Array {
  const half = groupSize / 2;
  // Which number an output has for its own part, and for that of its partner.
  const place = (i: number, part: 0 | 1): number => {
    if (variant === "road_2") return i;
    const [group, at] = [Math.floor(i / groupSize), i % groupSize];
    return variant === "road_1" ? group * half + (at % half) : (2 * group + part) * groupSize + at;
  };
  return matrix(OUT, width, (i, j) => {
    const isFirst = i % groupSize < half;
    const partner = isFirst ? -Number(rows[(i + half) * width + j]) : Number(rows[(i - half) * width + j]);
    const [own, other] = [place(i, 0), place(i, 1)];
    return (
      Number(alpha[own]) * Math.cos(Number(theta[own])) * Number(rows[i * width + j]) +
      Number(alpha[other]) * Math.sin(Number(theta[other])) * partner
    );
  });
}

const roadStructure = (variant: RoadConfig["variant"], count: number): Structure<RoadConfig> => {
  const { config } = road({ variant, groupSize: 8 });
  return {
    label: variant,
    bias: true,
    config,
    size: SIZE,
    formula: ({ weight, bias = [] }, all) => ({
      weight: pairsTurned(weight, IN, config, all),
      bias: pairsTurned(bias, 1, config, all),
    }),
    planted: (key, length) =>
      key === "road_theta" ? around(0, 0.6)(key, length) : around(1, 0.3)(key, length),
    count,
    rank: OUT,
    learning: { steps: 1500, lr: 0.05 },
  };
};

/** RoAd: planes of two outputs, turned and scaled. */
export const roadProof = structured(roadMethod, {
  name: "road",
  title:
    "RoAd finds rotations of pairs of outputs with fewer numbers than LoRA, and keeps singular values where it only turns",
  papers: ["2409.00119"],
  structures: [
    roadStructure("road_1", OUT),
    roadStructure("road_2", 2 * OUT),
    roadStructure("road_4", 4 * OUT),
  ],
  async extra(method: Method<RoadConfig>) {
    const adaptation = { method, config: road({ groupSize: 8 }).config };
    const map = plant("map", SIZE, new Float32Array(OUT * IN), "road");
    const live = await start(adaptation, [map]);
    numbersAt(live).road_theta?.set(normals(OUT / 2, "theta"));
    const { weight } = await compute(adaptation, map, live, new Float32Array(IN));
    return [
      vanishes(
        "change of singular values by angles alone",
        spectrumChange(OUT, IN, map.weight, weight),
        1e-5,
      ),
      atLeast("change of the weight by them", norm(plus(weight, map.weight, -1)) / norm(map.weight), 0.1, 2),
    ];
  },
});

const BLOCK = 8;
const ANGLES = (BLOCK * (BLOCK - 1)) / 2;

/** Q of one block from the numbers above its diagonal. */
function skew(above: ArrayLike<number>, block: number): Float64Array {
  const q = new Float64Array(BLOCK * BLOCK);
  let at = block * ANGLES;
  for (let i = 0; i < BLOCK; i++)
    for (let j = i + 1; j < BLOCK; j++, at++) {
      q[i * BLOCK + j] = Number(above[at]);
      q[j * BLOCK + i] = -Number(above[at]);
    }
  return q;
}

/** (I − Q)(I + Q)⁻¹ of every block, in one matrix; for the other sign its transpose. */
function blockRotations(above: ArrayLike<number>, isShared = false): Float32Array {
  const all = new Float32Array(IN * IN);
  for (let block = 0; block < IN / BLOCK; block++) {
    const q = skew(above, isShared ? 0 : block);
    const [minus, one] = [q.map((value) => -value), identity(BLOCK)];
    const sum = (part: Float64Array) => part.map((value, at) => value + Number(one[at]));
    const right = inverse(matrixOf(BLOCK, BLOCK, sum(q))).data;
    const r = times(sum(minus), right, [BLOCK, BLOCK, BLOCK]);
    for (let i = 0; i < BLOCK; i++)
      for (let j = 0; j < BLOCK; j++)
        all[(block * BLOCK + i) * IN + block * BLOCK + j] = Number(r[i * BLOCK + j]);
  }
  return all;
}

const oftStructure = (label: string, blockShare: boolean): Structure<OftConfig> => ({
  label,
  config: oft({ blockSize: BLOCK, neumann: false, blockShare }).config,
  size: SIZE,
  formula: ({ weight }, { oft_R: above = [] }) => ({
    weight: times(weight, turned(IN, IN, blockRotations(above, blockShare)), [OUT, IN, IN]),
  }),
  planted: around(0, 0.3),
  count: blockShare ? ANGLES : (IN / BLOCK) * ANGLES,
  rank: OUT,
  learning: {},
});

/** Σ 1 / ‖ŵᵢ − ŵⱼ‖ over pairs of rows at unit length: how evenly neurons lie on the sphere. */
function hypersphericalEnergy(weight: Float32Array): number {
  const rows = Array.from({ length: OUT }, (_, i) => {
    const row = weight.subarray(i * IN, (i + 1) * IN);
    return row.map((value) => value / norm(row));
  });
  let energy = 0;
  for (const [i, row] of rows.entries())
    for (const other of rows.slice(i + 1)) energy += 1 / norm(plus(row, other, -1));
  return energy;
}

/** The best approximation of rank r. */
function bestOfRank(data: Float32Array, r: number): Float32Array {
  const { u, s, vt } = svd(matrixOf(OUT, IN, data));
  return matrix(OUT, IN, (i, j) => {
    let sum = 0;
    for (let k = 0; k < r; k++)
      sum += Number(u.data[i * u.cols + k]) * Number(s[k]) * Number(vt.data[k * vt.cols + j]);
    return sum;
  });
}

async function energies(method: Method<OftConfig>): Promise<Check[]> {
  const adaptation = { method, config: oft({ blockSize: BLOCK, neumann: false }).config };
  const map = plant("map", SIZE, new Float32Array(OUT * IN), "oft");
  const live = await start(adaptation, [map]);
  shake(live, 0.3);
  const { weight } = await compute(adaptation, map, live, new Float32Array(IN));
  const before = hypersphericalEnergy(map.weight);
  const change = (after: Float32Array) => Math.abs(hypersphericalEnergy(after) / before - 1);
  const low = bestOfRank(plus(weight, map.weight, -1), 2);
  return [
    vanishes("change of the neurons' hyperspherical energy", change(weight), 1e-6),
    atLeast("the same by LoRA's best for the same update, rank 2", change(plus(map.weight, low)), 1e-3),
    vanishes("change of singular values", spectrumChange(OUT, IN, map.weight, weight), 1e-5),
  ];
}

/** The matrix R that inputs are turned by, for Q of a size. */
async function rotationBy(method: Method<OftConfig>, options: Parameters<typeof oft>[0], size: number) {
  const adaptation = { method, config: oft({ blockSize: BLOCK, ...options }).config };
  const live = await start(adaptation, [identityMap(IN)]);
  const above = numbersAt(live).oft_R as Float32Array;
  above.set(normals(above.length, "series").map((value) => size * value));
  const { weight } = await compute(adaptation, identityMap(IN), live, new Float32Array(IN));
  return { r: turned(IN, IN, weight), above };
}

/** OFTv2's series: the inverse map, off by the power of Q at which it ends. */
async function series(method: Method<OftConfig>): Promise<Check[]> {
  const off = async (neumannTerms: number, size: number) => {
    const { r, above } = await rotationBy(method, { neumannTerms }, size);
    return norm(plus(r, turned(IN, IN, blockRotations(above)), -1));
  };
  const { r } = await rotationBy(method, {}, 0.01);
  const checks = [vanishes("series: largest entry of RᵀR − I for small angles", orthogonalGap(IN, r), 1e-4)];
  for (const terms of [3, 4])
    checks.push({
      what: `series of ${terms} terms: growth of its error when angles double`,
      measured: (await off(terms, 0.08)) / (await off(terms, 0.04)),
      expected: 2 ** (terms - 1),
      tolerance: 0.1,
      relative: true,
    });
  return checks;
}

/** COFT stays in its ball however far the target lies. */
async function constrained(method: Method<OftConfig>): Promise<Check[]> {
  const eps = 0.05;
  const adaptation = { method, config: oft({ blockSize: BLOCK, neumann: false, coft: true, eps }).config };
  const free = { method, config: oft({ blockSize: BLOCK, neumann: false }).config };
  const far = normals((IN / BLOCK) * ANGLES, "far").map((value) => 0.3 * value);
  const map: PlantedMap = identityMap(IN, turned(IN, IN, blockRotations(far)));
  const largest = async (own: typeof adaptation) => {
    const { live } = await learn(own, [map], { steps: 200, lr: 0.02 });
    const above = numbersAt(live).oft_R as Float32Array;
    return Math.max(
      ...Array.from({ length: IN / BLOCK }, (_, block) => norm(Float32Array.from(skew(above, block)))),
    );
  };
  const bound = eps / Math.sqrt(IN / BLOCK);
  return [
    {
      what: "COFT: largest ‖Q‖ of a block, at the edge of its ball",
      measured: await largest(adaptation),
      expected: bound,
      tolerance: 1e-4,
      relative: true,
    },
    atLeast("without: the same over that", (await largest(free)) / bound, 10, 1000),
  ];
}

/** OFT: rotations of the inputs in blocks. */
export const oftProof = structured(oftMethod, {
  name: "oft",
  title: "OFT turns inputs in blocks: it finds such turns, and neurons keep their angles",
  papers: ["2306.07280", "2506.19847"],
  structures: [oftStructure("four blocks", false), oftStructure("one rotation for all blocks", true)],
  async extra(method, learns) {
    const checks = [...(await energies(method)), ...(await series(method))];
    return learns ? [...checks, ...(await constrained(method))] : checks;
  },
});
