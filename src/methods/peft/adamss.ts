import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import type { Parameter } from "../../models/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import type { AdapterSite } from "../adapter.js";
import { type AdamssConfig, adamssMethod } from "../lowrank/adamss.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";

const count = z.number().int().positive();

const schema = z.looseObject({
  r: count.default(100),
  num_subspaces: count.default(5),
  subspace_rank: count.default(1),
  use_dynamic_rank: z.boolean().default(false),
  svd_threshold: z.number().default(0.1),
  random_seed: z.number().int().nonnegative().default(0),
  use_asa: z.boolean().default(false),
  asa_target_subspaces: count.default(50),
  init_warmup: z.number().int().nonnegative().default(50),
  final_warmup: count.default(1000),
  mask_interval: count.default(100),
  asa_importance_beta: z.number().default(0.85),
  asa_uncertainty_beta: z.number().default(0.85),
  asa_schedule_exponent: z.number().default(3),
});

type Made = Readonly<Record<string, Parameter>>;
const integers = (made: Made, key: string) => made[key]?.tensor.data as Int32Array;

/** Rows of every cluster, in their order in the weight. */
const rowsBy = (clusters: Int32Array, total: number): number[][] =>
  Array.from({ length: total }, (_, cluster) =>
    [...clusters.keys()].filter((row) => clusters[row] === cluster),
  );

/** One tensor per cluster, of its own directions and its own rows. */
function pieces({ tensors }: AdapterSite): [string, Tensor][] {
  const [a, b] = [tensors.adamss_A?.tensor as Tensor, tensors.adamss_B?.tensor as Tensor];
  const [total, width, rank] = a.shape as [number, number, number];
  const rows = rowsBy(integers(tensors, "adamss_clusters"), total);
  return [...integers(tensors, "adamss_ranks")].flatMap((own, cluster): [string, Tensor][] => {
    const start = cluster * width * rank;
    const directions = (a.data as Float32Array).slice(start, start + own * rank);
    const taken = (rows[cluster] as number[]).flatMap((row) => [
      ...(b.data as Float32Array).subarray(row * width, row * width + own),
    ]);
    const shape = [(rows[cluster] as number[]).length, own];
    return [
      [`adamss_A.${cluster}`, tensor("float32", [own, rank], directions)],
      [`adamss_B.${cluster}`, tensor("float32", shape, Float32Array.from(taken))],
    ];
  });
}

const badShape = (file: string, what: string, { shape }: Tensor) =>
  new TunesmithError("adapter-invalid", `${file}: ${what} has shape [${shape}]`, {
    fix: "the adapter belongs to another base, or its config names other sizes",
  });

/** Files say how many rows a cluster has, but not which: those are found again, and must be as many. */
const otherClusters = (file: string, path: string, found: readonly number[], stored: readonly number[]) =>
  new TunesmithError(
    "adapter-invalid",
    `${file}: rows of ${path} fall into clusters of ${found.join(", ")} here, not of ${stored.join(", ")} as in the file`,
    {
      fix: "the file does not say which rows belong together: load it on the base it was trained on, or merge it where it was made",
      details: { path },
    },
  );

/** AdaMSS. Which rows form a cluster is not in the folder; it is computed from the base as the reference does. */
export const adamssMapping: PeftMapping<AdamssConfig> = {
  peftType: "ADAMSS",
  method: adamssMethod,
  options(config, file) {
    const own = parsePart(schema, config, file);
    return {
      rank: own.r,
      subspaces: own.num_subspaces,
      subspaceRank: own.subspace_rank,
      dynamicRank: own.use_dynamic_rank,
      threshold: own.svd_threshold,
      basisSeed: own.random_seed,
      keep: own.use_asa ? own.asa_target_subspaces : undefined,
      keepAfter: own.init_warmup,
      keepBefore: own.final_warmup,
      interval: own.mask_interval,
      beta1: own.asa_importance_beta,
      beta2: own.asa_uncertainty_beta,
      exponent: own.asa_schedule_exponent,
    };
  },
  config: (own) => ({
    r: own.rank,
    num_subspaces: own.subspaces,
    subspace_rank: own.subspaceRank,
    use_dynamic_rank: own.dynamicRank,
    svd_threshold: own.threshold,
    random_seed: own.basisSeed,
    use_asa: own.keep !== undefined,
    asa_target_subspaces: own.keep ?? 50,
    init_warmup: own.keepAfter,
    final_warmup: own.keepBefore,
    mask_interval: own.interval,
    asa_importance_beta: own.beta1,
    asa_uncertainty_beta: own.beta2,
    asa_schedule_exponent: own.exponent,
    init_weights: "orthogonal",
  }),
  suffix: (key) => (key === "adamss_newB" ? key : undefined),
  async joined(key, site, { made, piece, file }, { subspaceRank: width }) {
    const [rank] = (made.adamss_newB?.tensor.shape ?? []) as number[];
    const total = made.adamss_clusters && Math.max(...integers(made, "adamss_clusters")) + 1;
    const all = (part: string, clusters: number) =>
      Promise.all(Array.from({ length: clusters }, (_, at) => piece(`${part}.${at}`)));
    if (key === "adamss_ranks" && total !== undefined) {
      const found = await all("adamss_A", total);
      const wrong = found.find(({ shape: [own = 0, r] }) => own < 1 || own > width || r !== rank);
      if (wrong) throw badShape(file, `adamss_A of ${site.path}`, wrong);
      return Int32Array.from(found, ({ shape }) => shape[0] as number);
    }
    if (key === "adamss_A" && rank !== undefined && total !== undefined) {
      const data = new Float32Array(total * width * rank);
      for (const [at, found] of (await all(key, total)).entries())
        data.set(found.data as Float32Array, at * width * rank);
      return data;
    }
    if (key !== "adamss_B" || total === undefined) return undefined;
    const rows = rowsBy(integers(made, "adamss_clusters"), total);
    const found = await all(key, total);
    const [sizes, stored] = [rows.map(({ length }) => length), found.map(({ shape }) => shape[0] as number)];
    if (sizes.some((size, at) => size !== stored[at])) throw otherClusters(file, site.path, sizes, stored);
    const data = new Float32Array(site.outFeatures * width);
    for (const [cluster, own] of rows.entries()) {
      const { shape, data: numbers } = found[cluster] as Tensor;
      const columns = shape[1] as number;
      if (columns !== integers(made, "adamss_ranks")[cluster])
        throw badShape(file, `adamss_B.${cluster} of ${site.path}`, found[cluster] as Tensor);
      own.forEach((row, at) => {
        data.set((numbers as Float32Array).subarray(at * columns, (at + 1) * columns), row * width);
      });
    }
    return data;
  },
  rewritten: pieces,
};
