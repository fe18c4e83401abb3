import {
  type BdloraConfig,
  bdlora,
  bdloraMethod,
  type FrodConfig,
  frod,
  frodMethod,
  type QaloraConfig,
  qalora,
  qaloraMethod,
} from "../src/methods/index.js";
import { turned } from "./matrices.js";
import { compute, plus, times } from "./planted.js";
import { between } from "./proof.js";
import { matrix, planted, type Structure, structured } from "./structure.js";
import { IN, numbers, OUT, SIZE } from "./structure-parts.js";

const FROD_PATH = "layers.0.q_proj";

/** U·(S + diag(λ))·Vᵀ, whole. */
const frodStructure = (size: readonly [number, number], sparseRate: number): Structure<FrodConfig> => {
  const [out, inn] = size;
  const count = Math.floor(inn * inn * sparseRate);
  return {
    label: `${out} x ${inn}`,
    config: frod({ sparseRate }).config,
    size,
    path: FROD_PATH,
    formula(_, all) {
      const [u, v] = [numbers(all, "frod_U"), numbers(all, "frod_V.q_proj")];
      const [lambda, values] = [numbers(all, "frod_lambda_l"), numbers(all, "frod_lambda_s_values")];
      const places = numbers(all, "frod_s_indices.q_proj");
      const middle = matrix(inn, inn, (i, j) => (i === j ? Number(lambda[i]) : 0));
      for (let at = 0; at < count; at++) {
        const place = Number(places[at]) * inn + Number(places[count + at]);
        middle[place] = Number(middle[place]) + Number(values[at]);
      }
      return { weight: times(times(u, middle, [out, inn, inn]), turned(inn, inn, v), [out, inn, inn]) };
    },
    count: inn + count,
    rank: Math.min(out, inn),
    learning: { steps: 1500 },
  };
};

/** FRoD: full rank. */
export const frodProof = structured(frodMethod, {
  name: "frod",
  title: "FRoD's update has full rank with the numbers of LoRA of a low one",
  papers: [frodMethod.paper],
  structures: [frodStructure([24, 32], 0.05), frodStructure([32, 24], 0.1)],
});

const GROUP = 8;

const qaloraStructure: Structure<QaloraConfig> = {
  label: `groups of ${GROUP}`,
  config: qalora({ rank: 2, alpha: 1, groupSize: GROUP }).config,
  size: SIZE,
  formula({ weight }, all) {
    const groups = IN / GROUP;
    const product = times(numbers(all, "lora_B"), numbers(all, "lora_A"), [OUT, 2, groups]);
    // s = 1/2; a mean over the group, times the number of groups.
    const scale = (0.5 * groups) / GROUP;
    const entry = (i: number, j: number) => scale * Number(product[i * groups + Math.floor(j / GROUP)]);
    return { weight: plus(weight, matrix(OUT, IN, entry)) };
  },
  count: 2 * (IN / GROUP + OUT),
  rank: 2,
  learning: {},
};

/** QA-LoRA: an update that zero points take up. */
export const qaloraProof = structured(qaloraMethod, {
  name: "qalora",
  title: "QA-LoRA's update moves the zero points of a quantised weight, and none of its codes",
  papers: ["2309.14717"],
  structures: [qaloraStructure],
  async extra(method) {
    const adaptation = { method, config: qaloraStructure.config };
    const { map, delta } = await planted("qalora", adaptation, qaloraStructure);
    const codes = (weight: Float32Array) => {
      const out = new Float32Array(weight.length);
      for (let at = 0; at < weight.length; at += GROUP) {
        const group = weight.subarray(at, at + GROUP);
        const [low, high] = [Math.min(...group), Math.max(...group)];
        group.forEach((value, k) => {
          out[at + k] = Math.round(((value - low) / (high - low)) * 15);
        });
      }
      return out;
    };
    const live = (await planted("qalora", adaptation, qaloraStructure)).live;
    const { weight: after } = await compute(adaptation, map, live, new Float32Array(IN));
    const moved = codes(after).filter((code, at) => code !== codes(map.weight)[at]).length;
    return [
      { what: "codes of 4 bits that the update changes", measured: moved, expected: 0, tolerance: 0 },
      between("largest change of a zero point", Math.max(...delta.map(Math.abs)), 0.1, 10),
    ];
  },
});

const BLOCKS = 4;

const bdloraStructure = (side: "a" | "b", rank: number): Structure<BdloraConfig> => {
  const cut = side === "a" ? { blockA: ["map"], blockB: [] } : { blockA: [], blockB: ["map"] };
  return {
    label: `${side.toUpperCase()} in ${BLOCKS} blocks`,
    config: bdlora({ rank, alpha: 2 * rank, blocks: BLOCKS, ...cut }).config,
    size: SIZE,
    formula({ weight }, all) {
      const [a, b] = [numbers(all, "lora_A"), numbers(all, "lora_B")];
      const own = rank / BLOCKS;
      const entry = (i: number, j: number) => {
        let sum = 0;
        for (let k = 0; k < rank; k++) {
          const block = Math.floor(k / own);
          const [rows, columns] = [OUT / BLOCKS, IN / BLOCKS];
          if (side === "a" && Math.floor(j / columns) === block)
            sum += Number(b[i * rank + k]) * Number(a[k * columns + (j % columns)]);
          if (side === "b" && Math.floor(i / rows) === block)
            sum += Number(b[i * own + (k % own)]) * Number(a[k * IN + j]);
        }
        return 2 * sum;
      };
      return { weight: plus(weight, matrix(OUT, IN, entry)) };
    },
    count: side === "a" ? (rank * IN) / BLOCKS + OUT * rank : rank * IN + (OUT * rank) / BLOCKS,
    rank,
    // The update is no better than LoRA's; it is its cut that is wanted.
    learning: { loraMisses: 0 },
  };
};

/** BD-LoRA: parts of a model that need nothing of each other. */
export const bdloraProof = structured(bdloraMethod, {
  name: "bdlora",
  title: "BD-LoRA's factors fall apart into blocks, with the numbers of a smaller LoRA",
  papers: ["2510.23346"],
  structures: [bdloraStructure("a", 8), bdloraStructure("b", 8)],
});
