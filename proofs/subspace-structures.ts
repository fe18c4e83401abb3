import {
  type AdamssConfig,
  adamss,
  adamssMethod,
  type BdloraConfig,
  bdlora,
  bdloraMethod,
  type DeftProjectionConfig,
  deftProjection,
  deftProjectionMethod,
  type FrodConfig,
  frod,
  frodMethod,
  type KasaConfig,
  kasa,
  kasaMethod,
  type Method,
  type OsfConfig,
  osf,
  osfMethod,
  type QaloraConfig,
  qalora,
  qaloraMethod,
} from "../src/methods/index.js";
import { qr, svd } from "../src/runtime/index.js";
import { sgd } from "../src/training/index.js";
import { matrixOf, squareOf, tailOf, trainedCount, turned } from "./matrices.js";
import {
  agreement,
  compute,
  disturb,
  gap,
  learn,
  norm,
  normals,
  type PlantedMap,
  plus,
  start,
  times,
} from "./planted.js";
import { between, type Check, type Proof } from "./proof.js";
import { matrix, type Numbers, numbersAt, planted, type Structure, structured } from "./structure.js";

const [OUT, IN] = [24, 32];
const SIZE = [OUT, IN] as const;

const numbers = (all: Numbers, key: string): ArrayLike<number> => {
  const found = all[key];
  if (!found) throw new Error(`no tensor ${key}`);
  return found;
};

/** Columns of `a` `[rows, k]` times one number each. */
const scaled = (a: ArrayLike<number>, d: ArrayLike<number>): Float32Array =>
  Float32Array.from(a, (value, at) => value * Number(d[at % d.length]));

/** W of its singular triplets from one to another. */
function part({ weight, out, in: inn }: PlantedMap, from: number, to = Math.min(out, inn)): Float32Array {
  const { u, s, vt } = svd(matrixOf(out, inn, weight));
  return matrix(out, inn, (i, j) => {
    let sum = 0;
    for (let k = from; k < to; k++)
      sum += Number(u.data[i * u.cols + k]) * Number(s[k]) * Number(vt.data[k * inn + j]);
    return sum;
  });
}

const KEPT = 18;

const osfStructure: Structure<OsfConfig> = {
  label: `${KEPT} of ${OUT} directions kept`,
  config: osf({ keptRank: KEPT }).config,
  size: SIZE,
  formula(map, all) {
    const trained = OUT - KEPT;
    const product = times(scaled(numbers(all, "U_low"), numbers(all, "S_low")), numbers(all, "V_low"), [
      OUT,
      trained,
      IN,
    ]);
    return { weight: plus(part(map, 0, KEPT), product) };
  },
  count: (OUT - KEPT) * (OUT + IN + 1),
  rank: 2 * (OUT - KEPT),
};

/** Sides of a change that lie in the directions that stay, relative to its size. */
function inKept({ weight }: PlantedMap, delta: Float32Array): { left: number; right: number } {
  const { u, vt } = svd(matrixOf(OUT, IN, weight));
  const left = Float32Array.from({ length: KEPT * OUT }, (_, at) =>
    Number(u.data[(at % OUT) * u.cols + Math.floor(at / OUT)]),
  );
  const right = turned(KEPT, IN, vt.data.subarray(0, KEPT * IN));
  return {
    left: norm(times(left, delta, [KEPT, OUT, IN])) / norm(delta),
    right: norm(times(delta, right, [OUT, IN, KEPT])) / norm(delta),
  };
}

/** OSF: what stays of the weight is out of training's reach. */
export const osfProof = structured(osfMethod, {
  name: "osf",
  title: "OSF trains the small singular directions and leaves the large ones alone",
  papers: ["2504.07097"],
  structures: [osfStructure],
  async extra(method, learns) {
    if (!learns) return [];
    const adaptation = { method, config: osfStructure.config };
    const weight = normals(OUT * IN, "w0", "osf").map((value) => value / Math.sqrt(IN));
    const target = plus(
      weight,
      normals(OUT * IN, "target", "osf").map((value) => value / Math.sqrt(IN)),
    );
    const map: PlantedMap = { path: "map", out: OUT, in: IN, weight, target };
    const { live, errors } = await learn(adaptation, [map], { steps: 300, optimizer: sgd({ lr: 0.3 }) });
    const found = await compute(adaptation, map, live, new Float32Array(IN));
    const { left, right } = inKept(map, plus(found.weight, weight, -1));
    const nothing = (what: string, measured: number): Check => ({
      what,
      measured,
      expected: 0,
      tolerance: 1e-4,
    });
    return [
      nothing("training towards any change: what of it lies in kept outputs", left),
      nothing("the same of kept inputs", right),
      {
        what: "what is missed of it, over what lies outside of both",
        measured: Number(errors[0]) / Math.sqrt(1 - reachable(map) / squareOf(plus(target, weight, -1))),
        expected: 1,
        tolerance: 0.02,
      },
    ];
  },
});

/** Square of the best change that keeps clear of both: the projection's, up to the rank that is trained. */
function reachable(map: PlantedMap): number {
  const wanted = plus(map.target, part(map, 0, KEPT), -1);
  const { u, vt } = svd(matrixOf(OUT, IN, map.weight));
  const clear = (i: number, j: number, side: Float64Array, stride: number, step: number) => {
    let sum = i === j ? 1 : 0;
    for (let k = 0; k < KEPT; k++)
      sum -= Number(side[i * stride + k * step]) * Number(side[j * stride + k * step]);
    return sum;
  };
  const left = matrix(OUT, OUT, (i, j) => clear(i, j, u.data, u.cols, 1));
  const right = matrix(IN, IN, (i, j) => clear(i, j, vt.data, 1, IN));
  const inside = times(times(left, wanted, [OUT, OUT, IN]), right, [OUT, IN, IN]);
  const rest = plus(map.target, map.weight, -1);
  return squareOf(rest) - squareOf(plus(wanted, inside, -1)) - tailOf(OUT, IN, inside, OUT - KEPT);
}

const deftStructure: Structure<DeftProjectionConfig> = {
  label: "relu",
  config: deftProjection({ rank: 4, alpha: 8 }).config,
  size: SIZE,
  formula({ weight }, all) {
    const p = Float32Array.from(numbers(all, "deft_P"));
    const right = turned(
      OUT,
      4,
      p.map((value) => Math.max(value, 0)),
    );
    const removed = times(p, times(right, weight, [4, OUT, IN]), [OUT, 4, IN]);
    return { weight: plus(plus(weight, removed, -1), times(p, numbers(all, "deft_R"), [OUT, 4, IN]), 2) };
  },
  count: 4 * (OUT + IN),
  rank: 4,
  // An update of rank 4: LoRA has it too.
  learning: { near: 0.1, loraMisses: 0 },
};

/** DEFT's projections: what is taken from a subspace, and what is put there. */
export const deftProjectionProof = structured(deftProjectionMethod, {
  name: "deft-projection",
  title: "DEFT empties a learned subspace of the outputs and fills it anew",
  papers: [deftProjectionMethod.paper],
  structures: [deftStructure],
  async extra(method) {
    const rank = 5;
    const options = { rank, projection: "qr", alpha: 10 } as const;
    const filled = { method, config: deftProjection(options).config };
    const emptied = { method, config: deftProjection({ ...options, removeOnly: true }).config };
    const weight = normals(OUT * IN, "w0", "deft").map((value) => value / Math.sqrt(IN));
    const map: PlantedMap = { path: "map", out: OUT, in: IN, weight, target: weight };
    const checks: Check[] = [];
    for (const adaptation of [filled, emptied]) {
      const live = await start(adaptation, [map]);
      disturb(live, 0.5);
      const { weight: after } = await compute(adaptation, map, live, new Float32Array(IN));
      const all = numbersAt(live);
      const q = Float32Array.from(qr(matrixOf(OUT, rank, numbers(all, "deft_P"))).q.data);
      const inside = times(turned(OUT, rank, q), after, [rank, OUT, IN]);
      const outside = plus(after, times(q, inside, [OUT, rank, IN]), -1);
      const before = times(turned(OUT, rank, q), weight, [rank, OUT, IN]);
      const label = all.deft_R ? "filled" : "emptied";
      const put = all.deft_R
        ? Float32Array.from(numbers(all, "deft_R"), (value) => 2 * value)
        : inside.map(() => 0);
      checks.push(
        // Signs of Q's columns are a convention.
        {
          what: `${label}: the subspace holds what was put there`,
          measured: gap(inside.map(Math.abs), put.map(Math.abs)),
          ...exact,
        },
        {
          what: `${label}: the rest is as it was`,
          measured: gap(outside, plus(weight, times(q, before, [OUT, rank, IN]), -1)),
          ...exact,
        },
      );
    }
    return checks;
  },
});

const exact = { expected: 0, tolerance: 1e-4 } as const;

const [CLUSTERS, WIDTH, BASIS] = [3, 2, 10];

const adamssStructure: Structure<AdamssConfig> = {
  label: `${CLUSTERS} clusters of ${WIDTH} directions`,
  config: adamss({ rank: BASIS, subspaces: CLUSTERS, subspaceRank: WIDTH }).config,
  size: SIZE,
  bias: true,
  formula({ weight, bias }, all) {
    const [a, b, basis] = ["adamss_A", "adamss_B", "adamss_newB"].map((key) => numbers(all, key)) as [
      ArrayLike<number>,
      ArrayLike<number>,
      ArrayLike<number>,
    ];
    const clusters = numbers(all, "adamss_clusters");
    const entry = (row: number, column: number) => {
      let sum = 0;
      for (let w = 0; w < WIDTH; w++)
        for (let k = 0; k < BASIS; k++)
          sum +=
            Number(b[row * WIDTH + w]) *
            Number(a[(Number(clusters[row]) * WIDTH + w) * BASIS + k]) *
            Number(basis[k * (IN + 1) + column]);
      return sum;
    };
    return {
      weight: plus(weight, matrix(OUT, IN, entry)),
      bias: plus(
        bias as Float32Array,
        matrix(OUT, 1, (row) => entry(row, IN)),
      ),
    };
  },
  count: CLUSTERS * WIDTH * BASIS + OUT * WIDTH,
  rank: CLUSTERS * WIDTH,
  learning: { near: 0.1 },
};

/** AdaMSS: the ranks of the clusters add up. */
export const adamssProof = structured(adamssMethod, {
  name: "adamss",
  title: "AdaMSS gives each cluster of rows a small update of its own: their ranks add up",
  papers: [adamssMethod.paper],
  structures: [adamssStructure],
});

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

const KASA_RANK = 5;

/** KaSA: the smallest singular triplets go, trained ones come. It is the one that does not start as the base. */
export function kasaProof({ method = kasaMethod }: { readonly method?: Method<KasaConfig> } = {}): Proof {
  return {
    name: "kasa",
    title:
      "KaSA starts as the best approximation of the weight that leaves its rank out, and adds an SVD to it",
    papers: ["2412.06071"],
    async run() {
      const adaptation = { method, config: kasa({ rank: KASA_RANK, alpha: 10 }).config };
      const weight = normals(OUT * IN, "w0", "kasa").map((value) => value / Math.sqrt(IN));
      const map: PlantedMap = { path: "map", out: OUT, in: IN, weight, target: weight };
      const live = await start(adaptation, [map]);
      const { weight: first } = await compute(adaptation, map, live, new Float32Array(IN));
      const trained = trainedCount(live);
      disturb(live, 0.3);
      const all = numbersAt(live);
      const product = times(
        scaled(numbers(all, "lora_B"), numbers(all, "lora_diag")),
        numbers(all, "lora_A"),
        [OUT, KASA_RANK, IN],
      );
      const kept = OUT - KASA_RANK;
      return [
        {
          what: "square of what is lost at the start, over the least for its rank",
          measured: squareOf(plus(first, weight, -1)) / tailOf(OUT, IN, weight, kept),
          expected: 1,
          tolerance: 1e-4,
        },
        { what: "what is left is of the other triplets", measured: gap(first, part(map, 0, kept)), ...exact },
        ...(await agreement("s·B·diag(d)·A", adaptation, map, live, {
          weight: plus(part(map, 0, kept), product, 2),
        })),
        { what: "trained numbers", measured: trained, expected: KASA_RANK * (OUT + IN + 1), tolerance: 0 },
        {
          what: "what the scale of d changes: the update of half of it",
          measured: await halved(adaptation, map, live),
          expected: 0.5,
          tolerance: 1e-4,
        },
      ];
    },
  };
}

/** Size of the update with half of d, over that with all of it. */
async function halved(
  adaptation: { readonly method: Method<KasaConfig>; readonly config: KasaConfig },
  map: PlantedMap,
  live: Awaited<ReturnType<typeof start>>,
): Promise<number> {
  const size = async () => {
    const { weight } = await compute(adaptation, map, live, new Float32Array(IN));
    return norm(plus(weight, part(map, 0, OUT - KASA_RANK), -1));
  };
  const whole = await size();
  const d = numbersAt(live).lora_diag as Float32Array;
  d.forEach((value, at) => {
    d[at] = value / 2;
  });
  return (await size()) / whole;
}
