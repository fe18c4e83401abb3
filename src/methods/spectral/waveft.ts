import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { addAt } from "../algebra.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SharedInitContext, SharedSpec, SiteShape } from "../method.js";
import { frequenciesOf, shapeKey, spectrumPositions } from "./positions.js";

const schema = siteConfigSchema.extend({
  frequencies: z.number().int().positive().default(2592).describe("trained entries of each spectrum"),
  scaling: z.number().positive().default(25).describe("scale of the update"),
  positionSeed: z.number().int().nonnegative().default(777).describe("seed of the places of the entries"),
  frequencyPattern: z
    .record(z.string(), z.number().int().positive())
    .default({})
    .describe("frequencies by module pattern"),
  transform: z
    .boolean()
    .default(true)
    .describe("entries are coefficients of Haar wavelets; false: entries of the update itself"),
});

/** Configuration of WaveFT, after defaults. */
export type WaveftConfig = z.infer<typeof schema>;

interface Spread {
  /** Places in W, flat; four per entry. */
  readonly places: BigInt64Array;
  /** ±½, or 0 for what lies outside of W. */
  readonly factors: Float32Array;
}

/**
 * Where each coefficient of a one-level Haar transform goes. Quadrants of the spectrum, in PEFT's order: mean, differences of
 * rows (top right), of columns (bottom left), of both. Odd sizes are padded by one and cut again.
 */
function haarSpread(site: SiteShape, config: WaveftConfig): Spread {
  const { outFeatures, inFeatures } = site;
  const [halfRows, halfColumns] = [Math.ceil(outFeatures / 2), Math.ceil(inFeatures / 2)];
  const entries = spectrumPositions(site, config);
  const places = new BigInt64Array(4 * entries.length);
  const factors = new Float32Array(4 * entries.length);
  entries.forEach(([row, column], at) => {
    const [down, right] = [row >= halfRows, column >= halfColumns];
    const [top, left] = [2 * (row % halfRows), 2 * (column % halfColumns)];
    for (let corner = 0; corner < 4; corner++) {
      const [i, j] = [corner >> 1, corner & 1];
      if (top + i >= outFeatures || left + j >= inFeatures) continue;
      const isMinus = (right && i === 1) !== (down && j === 1);
      places[corner * entries.length + at] = BigInt((top + i) * inFeatures + left + j);
      factors[corner * entries.length + at] = isMinus ? -0.5 : 0.5;
    }
  });
  return { places, factors };
}

/** Entries as they are: one place each. */
function plainSpread(site: SiteShape, config: WaveftConfig): Spread {
  const entries = spectrumPositions(site, config);
  const places = BigInt64Array.from(entries, ([row, column]) => BigInt(row * site.inFeatures + column));
  return { places, factors: new Float32Array(entries.length).fill(1) };
}

/** Places and factors, once per shape of weight. */
function spreads(sites: readonly SiteShape[], config: WaveftConfig): Record<string, SharedSpec> {
  const specs: Record<string, SharedSpec> = {};
  for (const site of sites) {
    const key = shapeKey(site, config);
    if (specs[`waveft_places_${key}`]) continue;
    const compute = async () => (config.transform ? haarSpread : plainSpread)(site, config);
    const spread = ({ once }: SharedInitContext) => once(key, compute);
    const shape = [frequenciesOf(site, config) * (config.transform ? 4 : 1)];
    const common = { shape, trainable: false, stored: false } as const;
    specs[`waveft_places_${key}`] = {
      ...common,
      dtype: "int64",
      init: async (context) => (await spread(context)).places,
    };
    specs[`waveft_factors_${key}`] = { ...common, init: async (context) => (await spread(context)).factors };
  }
  return specs;
}

/**
 * WaveFT (arXiv 2505.12532): W' = W + s·(inverse Haar transform of a spectrum with n trained entries): each entry moves a
 * block of 2 × 2 numbers.
 */
export const waveftMethod = {
  name: "waveft",
  summary: "a few trained wavelet coefficients of the update",
  paper: "2505.12532",
  sized: (size) => ({ frequencies: size }),
  schema,
  kinds: ["linear"],
  shared: spreads,
  tensors: (site, config) => {
    const count = frequenciesOf(site, config);
    return { waveft_spectrum: { shape: [count], trainable: true, init: () => new Float32Array(count) } };
  },
  additive: () => true,
  weight(weight, values, site, config) {
    const key = shapeKey(site, config);
    const entries = values.waveft_spectrum as Value;
    const spread = ops.mul(
      config.transform ? ops.tile(entries, [4]) : entries,
      ops.mul(values[`waveft_factors_${key}`] as Value, config.scaling),
    );
    return addAt(weight, values[`waveft_places_${key}`] as Value, spread);
  },
} satisfies Method<WaveftConfig>;

/**
 * WaveFT with a configuration. Defaults are PEFT's, with its wavelet db1 (Haar).
 *
 * Throws `config-invalid` naming the field; so does adapting a weight of fewer entries than `frequencies`.
 *
 * @example
 * ```ts
 * import { waveft } from "tunesmith/methods";
 * const adaptation = waveft({ frequencies: 1000, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const waveft = (config: z.input<typeof schema> = {}): Adaptation<WaveftConfig> => ({
  method: waveftMethod,
  config: parseConfig("waveft", schema, config),
});
