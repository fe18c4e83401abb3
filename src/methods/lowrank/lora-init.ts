import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { qr, randomizedSvd, slice, svd, transpose } from "../../runtime/linalg/index.js";
import type { InitContext, SiteShape, Statistic, TensorSpec } from "../method.js";
import { corda } from "./corda.js";
import { eva, loraGa } from "./data-starts.js";

export const loraInitSchema = z.union([
  z.enum([
    "default",
    "gaussian",
    "pissa",
    "olora",
    "orthogonal",
    "mica",
    "corda",
    "corda_kpm",
    "loftq",
    "eva",
    "lora_ga",
  ]),
  z.string().regex(/^pissa_niter_\d+$/, "pissa_niter_N with N power iterations"),
]);
export type LoraInit = z.infer<typeof loraInitSchema>;

interface Pair {
  readonly a: TensorSpec["init"];
  readonly b: TensorSpec["init"];
  /** The pair reproduces part of W at the start, which the framework must subtract. */
  readonly changesBase: boolean;
}

interface Factors {
  readonly a: Float32Array;
  readonly b: Float32Array;
}

/** Both factors from one computation, shared between A, B and their frozen copies. */
const joint = (compute: (context: InitContext) => Promise<Factors>, changesBase: boolean): Pair => {
  const both = (context: InitContext) => context.once("factors", () => compute(context));
  return {
    a: async (context) => (await both(context)).a.slice(),
    b: async (context) => (await both(context)).b.slice(),
    changesBase,
  };
};

/** Initialisers of A `[r, in]` and B `[out, r]`; all but `loftq` leave the output unchanged at the start. */
export function loraInits(
  init: LoraInit,
  site: SiteShape,
  rank: number,
  scale: number,
  whiten = false,
): Pair {
  const zeros = ({ length }: { length: number }) => new Float32Array(length);
  if (site.kind === "embedding") {
    return {
      a: () => zeros({ length: rank * site.inFeatures }),
      b: (context) => context.normal(site.outFeatures * rank),
      changesBase: false,
    };
  }
  const b = () => zeros({ length: site.outFeatures * rank });
  const bound = 1 / Math.sqrt(site.inFeatures);
  switch (init) {
    case "default":
      return {
        a: (context) => context.uniform(rank * site.inFeatures, -bound, bound),
        b,
        changesBase: false,
      };
    case "gaussian":
      return { a: (context) => context.normal(rank * site.inFeatures, 1 / rank), b, changesBase: false };
    case "orthogonal":
      return joint((context) => orthogonal(context, site, rank), false);
    case "mica":
      return joint((context) => mica(context, site, rank), false);
    case "olora":
      return joint((context) => olora(context, site, rank), true);
    case "loftq":
      return joint((context) => loftq(context, rank, scale), false);
    case "eva": {
      checkRank(rank, site.inFeatures, site, init);
      return joint((context) => eva(context, rank, whiten), false);
    }
    case "lora_ga": {
      checkRank(2 * rank, Math.min(site.inFeatures, site.outFeatures), site, init);
      return joint((context) => loraGa(context, rank), true);
    }
    case "corda":
    case "corda_kpm": {
      checkRank(rank, Math.min(site.inFeatures, site.outFeatures), site, init);
      return joint((context) => corda(context, rank, scale, init === "corda" ? "ipm" : "kpm"), true);
    }
    default:
      return joint((context) => pissa(context, site, rank, scale, init), true);
  }
}

/**
 * LoftQ (arXiv 2310.08659) with the base left as it is: s·B·A starts as the best approximation of rank r of what quantising
 * lost, W − Q, so that the start is nearer to the model of floats. The paper goes on to quantise W − s·B·A, which
 * makes another base for each adapter.
 */
async function loftq(context: InitContext, rank: number, scale: number): Promise<Factors> {
  const { site } = context;
  const whole = await context.original?.();
  if (!whole) {
    throw new TunesmithError(
      "config-invalid",
      `init 'loftq': ${site.path} is not on a model that was quantised here`,
      {
        fix: "load it with { quantize: ... } (--quantize), or choose another init",
      },
    );
  }
  checkRank(rank, Math.min(site.inFeatures, site.outFeatures), site, "loftq");
  const kept = await context.weight();
  const lost = asMatrix(
    whole.map((value, at) => value - (kept[at] as number)),
    site,
  );
  if (lost.data.every((value) => value === 0))
    return { a: new Float32Array(rank * site.inFeatures), b: context.normal(site.outFeatures * rank) };
  return split(await randomizedSvd(lost, { rank, powerIterations: 4 }), site, rank, scale);
}

/** Singular triplets shared between A and B, their product times `scale` being the matrix. */
function split(
  { u, s, vt }: Awaited<ReturnType<typeof randomizedSvd>>,
  site: SiteShape,
  rank: number,
  scale: number,
): Factors {
  const a = new Float32Array(rank * site.inFeatures);
  const b = new Float32Array(site.outFeatures * rank);
  for (let k = 0; k < rank; k++) {
    const root = Math.sqrt((s[k] as number) / scale);
    for (let j = 0; j < site.inFeatures; j++)
      a[k * site.inFeatures + j] = root * (vt.data[k * vt.cols + j] as number);
    for (let i = 0; i < site.outFeatures; i++) b[i * rank + k] = root * (u.data[i * u.cols + k] as number);
  }
  return { a, b };
}

/** Statistics an initialiser reads. */
export const loraInitNeeds = (init: LoraInit): readonly Statistic[] => NEEDS[init] ?? [];

const NEEDS: Readonly<Record<string, readonly Statistic[]>> = {
  corda: ["covariance"],
  corda_kpm: ["covariance"],
  eva: ["covariance", "inputMean"],
  lora_ga: ["gradient"],
};

const asMatrix = (weight: Float32Array, site: SiteShape) => ({
  rows: site.outFeatures,
  cols: site.inFeatures,
  data: weight,
});

/** PiSSA (arXiv 2404.02948): the r largest singular triplets, S/s split evenly between A and B. */
async function pissa(
  context: InitContext,
  site: SiteShape,
  rank: number,
  scale: number,
  init: string,
): Promise<Factors> {
  checkRank(rank, Math.min(site.inFeatures, site.outFeatures), site, init);
  const matrix = asMatrix(await context.weight(), site);
  const iterations = /^pissa_niter_(\d+)$/.exec(init)?.[1];
  const triplets =
    iterations === undefined
      ? svd(matrix)
      : await randomizedSvd(matrix, { rank, powerIterations: Number(iterations) });
  return split(triplets, site, rank, scale);
}

/** OLoRA (arXiv 2406.01775): B = first columns of Q, A = first rows of R, not divided by s. */
async function olora(context: InitContext, site: SiteShape, rank: number): Promise<Factors> {
  checkRank(rank, Math.min(site.inFeatures, site.outFeatures), site, "olora");
  const { q, r } = qr(asMatrix(await context.weight(), site));
  const b = new Float32Array(site.outFeatures * rank);
  for (let i = 0; i < site.outFeatures; i++) {
    for (let k = 0; k < rank; k++) b[i * rank + k] = q.data[i * q.cols + k] as number;
  }
  return { a: Float32Array.from(r.data.subarray(0, rank * site.inFeatures)), b };
}

/** MiCA (arXiv 2604.01694): B = the r left singular vectors that matter least, which stay as they are; A = 0. */
async function mica(context: InitContext, site: SiteShape, rank: number): Promise<Factors> {
  checkRank(rank, Math.min(site.inFeatures, site.outFeatures), site, "mica");
  const { u } = svd(asMatrix(await context.weight(), site));
  const b = slice(u, 0, u.rows, u.cols - rank, u.cols);
  return { a: new Float32Array(rank * site.inFeatures), b: Float32Array.from(b.data) };
}

/** Rows of one orthogonal matrix dealt alternately to A and B: B·A = 0 with neither factor zero. */
async function orthogonal(context: InitContext, site: SiteShape, rank: number): Promise<Factors> {
  if (rank % 2 !== 0) {
    throw new TunesmithError(
      "config-invalid",
      `init 'orthogonal' needs an even rank, ${site.path} has ${rank}`,
      {
        fix: "use an even rank",
      },
    );
  }
  const half = rank / 2;
  const { q } = qr({ rows: rank, cols: rank, data: context.normal(rank * rank) });
  const product = (rows: number, parity: number) => {
    const random = context.normal(rows * half);
    const out = new Float32Array(rows * rank);
    for (let i = 0; i < rows; i++) {
      for (let k = 0; k < rank; k++) {
        let sum = 0;
        for (let h = 0; h < half; h++)
          sum += (random[i * half + h] as number) * (q.data[(2 * h + parity) * rank + k] as number);
        out[i * rank + k] = sum / 10;
      }
    }
    return out;
  };
  const columns = { rows: site.inFeatures, cols: rank, data: product(site.inFeatures, 0) };
  return { a: Float32Array.from(transpose(columns).data), b: product(site.outFeatures, 1) };
}

function checkRank(rank: number, most: number, site: SiteShape, init: string): void {
  if (rank <= most) return;
  throw new TunesmithError(
    "config-invalid",
    `init '${init}': rank ${rank} exceeds what ${site.path} allows (${most})`,
    {
      fix: `choose rank <= ${most}`,
    },
  );
}
