import { TunesmithError } from "../../errors/index.js";
import { mt19937 } from "../../runtime/random/index.js";
import type { SiteShape } from "../method.js";
import { patternValue } from "../targets.js";

/** The part of a configuration that says which entries of a spectrum are trained. */
export interface SpectrumConfig {
  readonly frequencies: number;
  readonly frequencyPattern: Readonly<Record<string, number>>;
  readonly positionSeed: number;
}

/** Entries of a site's spectrum that are trained. Throws `config-invalid` when it has fewer. */
export function frequenciesOf(site: SiteShape, config: SpectrumConfig): number {
  const count = patternValue(config.frequencyPattern, site.path, config.frequencies);
  const most = site.inFeatures * site.outFeatures;
  if (count <= most) return count;
  throw new TunesmithError(
    "config-invalid",
    `frequencies: ${site.path} has ${most} entries, ${count} are asked for`,
    {
      fix: "choose fewer, or fewer for this module in frequencyPattern",
      details: { path: site.path, most },
    },
  );
}

/** Key that sites of one shape and number of entries share: the seed gives them the same positions. */
export const shapeKey = (site: SiteShape, config: SpectrumConfig): string =>
  `${site.outFeatures}x${site.inFeatures}x${frequenciesOf(site, config)}`;

/** Rows and columns of the trained entries, from PyTorch's generator as PEFT draws them. */
export function spectrumPositions(
  site: SiteShape,
  config: SpectrumConfig,
): readonly (readonly [row: number, column: number])[] {
  const { inFeatures, outFeatures } = site;
  const all = mt19937(config.positionSeed).randperm(inFeatures * outFeatures);
  return Array.from(all.subarray(0, frequenciesOf(site, config)), (at) => [
    Math.floor(at / inFeatures),
    at % inFeatures,
  ]);
}
