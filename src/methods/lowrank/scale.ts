import { patternValue } from "../targets.js";

/** The part of a configuration that says how much an update of rank r counts. */
export interface ScaleConfig {
  readonly rank: number;
  readonly alpha: number;
  /** alpha / sqrt(rank) instead of alpha / rank (arXiv 2312.03732). */
  readonly rslora?: boolean;
  readonly rankPattern?: Readonly<Record<string, number>>;
  readonly alphaPattern?: Readonly<Record<string, number>>;
}

/** Rank and scale s of one site. */
export function loraScale(path: string, config: ScaleConfig): { rank: number; scale: number } {
  const rank = patternValue(config.rankPattern ?? {}, path, config.rank);
  const alpha = patternValue(config.alphaPattern ?? {}, path, config.alpha);
  return { rank, scale: alpha / (config.rslora ? Math.sqrt(rank) : rank) };
}
