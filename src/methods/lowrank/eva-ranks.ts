import { symmetricEigen } from "../../runtime/linalg/index.js";
import type { Settling, SiteShape } from "../method.js";
import { patternValue } from "../targets.js";

/** What of LoRA's configuration the sharing out of ranks reads and writes. */
export interface EvaConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly rankPattern: Readonly<Record<string, number>>;
  readonly alphaPattern: Readonly<Record<string, number>>;
}

export interface EvaOptions {
  /** A site may get this many times the rank it had. */
  readonly rho: number;
  /** Alpha follows the rank, so that the scale stays. */
  readonly adjustScaling: boolean;
}

/** Covariance of a site's inputs around their mean, its directions and variances, the largest first. */
export async function inputDirections(
  n: number,
  statistic: (name: "covariance" | "inputMean") => Promise<Float32Array>,
): Promise<{ readonly variances: Float64Array; readonly vectors: Float64Array }> {
  const [products, mean] = [await statistic("covariance"), await statistic("inputMean")];
  const data = Float64Array.from(
    products,
    (value, at) => value - (mean[Math.floor(at / n)] as number) * (mean[at % n] as number),
  );
  const { values, vectors } = symmetricEigen({ rows: n, cols: n, data });
  return { variances: values.map((value) => Math.max(0, value)), vectors: vectors.data };
}

/** Maps that read the same activations, the first of them ahead. */
interface Readers {
  readonly products: Float32Array;
  readonly paths: string[];
  /** Shares of the variance, the largest first. */
  readonly shares: Float64Array;
}

/**
 * EVA's ranks (arXiv 2410.07170): as many as the sites had together go to the directions that explain the largest shares of
 * their site's variance, at most `rho` times as many as a site had. Sites that get none are left out. Among equal
 * shares (queries, keys and values read the same activations) the first site wins, as in PEFT.
 */
export async function evaRanks(
  config: EvaConfig,
  { rho, adjustScaling }: EvaOptions,
  { sites, statistic }: Settling,
): Promise<{ ranks: ReadonlyMap<string, number>; config: Pick<EvaConfig, "rankPattern" | "alphaPattern"> }> {
  const linear = sites.filter(({ kind }) => kind === "linear");
  const given = new Map(
    linear.map(({ path }) => [path, patternValue(config.rankPattern, path, config.rank)]),
  );
  const groups: Readers[] = [];
  for (const site of linear) {
    const products = await statistic(site.path, "covariance");
    const known = groups.find((group) => equal(group.products, products));
    if (known) known.paths.push(site.path);
    else groups.push({ products, paths: [site.path], shares: await sharesOf(site, statistic) });
  }
  const ranks = shareOut(groups, given, rho);
  const rankPattern: [string, number][] = [];
  const alphaPattern: [string, number][] = [];
  for (const site of sites) {
    const before = given.get(site.path) ?? patternValue(config.rankPattern, site.path, config.rank);
    const rank = ranks.get(site.path) ?? before;
    if (rank === 0) continue;
    const alpha = patternValue(config.alphaPattern, site.path, config.alpha);
    const scaled = adjustScaling ? (alpha * rank) / before : alpha;
    if (rank !== config.rank) rankPattern.push([site.path, rank]);
    if (scaled !== config.alpha) alphaPattern.push([site.path, scaled]);
  }
  return {
    ranks,
    config: { rankPattern: longestFirst(rankPattern), alphaPattern: longestFirst(alphaPattern) },
  };
}

const equal = (a: Float32Array, b: Float32Array): boolean =>
  a.length === b.length && a.every((value, at) => value === b[at]);

async function sharesOf(
  { path, inFeatures }: SiteShape,
  statistic: Settling["statistic"],
): Promise<Float64Array> {
  const { variances } = await inputDirections(inFeatures, (name) => statistic(path, name));
  const total = variances.reduce((a, b) => a + b, 0);
  return variances.map((value) => value / (total || 1));
}

function shareOut(
  groups: readonly Readers[],
  given: ReadonlyMap<string, number>,
  rho: number,
): Map<string, number> {
  const ranks = new Map([...given.keys()].map((path) => [path, 0]));
  const most = ({ paths, shares }: Readers) =>
    Math.min(shares.length, Math.round(Math.max(...paths.map((path) => given.get(path) as number)) * rho));
  const candidates = (path: string | undefined, group: Readers) =>
    path === undefined ? [] : Array.from(group.shares.subarray(0, most(group)), (share) => ({ path, share }));
  const all = [
    ...groups.flatMap((group) => candidates(group.paths[0], group)),
    ...groups.flatMap((group) => group.paths.slice(1).flatMap((path) => candidates(path, group))),
  ];
  const budget = [...given.values()].reduce((a, b) => a + b, 0);
  for (const { path } of all.sort((a, b) => b.share - a.share).slice(0, budget))
    ranks.set(path, (ranks.get(path) as number) + 1);
  return ranks;
}

/** Patterns also match what ends like them: longer paths come first. */
const longestFirst = (entries: readonly [string, number][]): Record<string, number> =>
  Object.fromEntries([...entries].sort(([a], [b]) => b.length - a.length));
