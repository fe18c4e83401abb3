import {
  type AdamssConfig,
  adamss,
  adamssMethod,
  type DeftProjectionConfig,
  deftProjection,
  deftProjectionMethod,
  type KasaConfig,
  kasa,
  kasaMethod,
  type Method,
  type OsfConfig,
  osf,
  osfMethod,
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
import type { Check, Proof } from "./proof.js";
import { matrix, numbersAt, type Structure, structured } from "./structure.js";
import { exact, IN, numbers, OUT, part, SIZE, scaled } from "./structure-parts.js";

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
