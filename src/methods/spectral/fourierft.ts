import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SharedInitContext, SharedSpec, SiteShape } from "../method.js";
import { foldedPlaces, foldedTransform, halfWaves } from "./fourier-transform.js";
import { frequenciesOf, shapeKey, spectrumPositions } from "./positions.js";

const schema = siteConfigSchema.extend({
  frequencies: z.number().int().positive().default(1000).describe("trained entries of each spectrum"),
  scaling: z.number().positive().default(150).describe("scale of the update"),
  positionSeed: z.number().int().nonnegative().default(777).describe("seed of the places of the entries"),
  frequencyPattern: z
    .record(z.string(), z.number().int().positive())
    .default({})
    .describe("frequencies by module pattern"),
  init: z
    .enum(["zero", "normal"])
    .default("zero")
    .describe("start of the entries; normal, PEFT's default, does not start as the base"),
});

/** Configuration of FourierFT, after defaults. */
export type FourierftConfig = z.infer<typeof schema>;

/** cos and ∓sin of 2π·frequency·place / size for every frequency: `[2n, size]`. */
function waves(frequencies: readonly number[], size: number, sign: 1 | -1): Float32Array {
  const count = frequencies.length;
  const numbers = new Float32Array(2 * count * size);
  frequencies.forEach((frequency, row) => {
    for (let place = 0; place < size; place++) {
      const angle = (2 * Math.PI * ((frequency * place) % size)) / size;
      numbers[row * size + place] = Math.cos(angle);
      numbers[(count + row) * size + place] = sign * Math.sin(angle);
    }
  });
  return numbers;
}

/**
 * Whether the transform of all frequencies takes fewer products than one wave for each entry: (out + in) / 2 a weight
 * instead of 4n.
 */
const isDense = (site: SiteShape, config: FourierftConfig): boolean =>
  site.outFeatures + site.inFeatures < 8 * frequenciesOf(site, config);

/** What the inverse transform multiplies entries with, once per shape of weight. */
function bases(sites: readonly SiteShape[], config: FourierftConfig): Record<string, SharedSpec> {
  const specs: Record<string, SharedSpec> = {};
  for (const site of sites)
    Object.assign(specs, isDense(site, config) ? dense(site, config) : sparse(site, config));
  return specs;
}

const frozen = (shape: readonly number[], init: SharedSpec["init"]): SharedSpec => ({
  ...{ shape, trainable: false, stored: false, init },
});

/** Waves of every frequency of both sides, and where the entries are among them. */
function dense(site: SiteShape, config: FourierftConfig): Record<string, SharedSpec> {
  const key = shapeKey(site, config);
  const size = [site.outFeatures, site.inFeatures] as const;
  const folded = ({ once }: SharedInitContext) =>
    once(`folded/${key}`, async () => foldedPlaces(spectrumPositions(site, config), size));
  const count = [frequenciesOf(site, config)];
  const waves = size.flatMap((length) =>
    (["cos", "sin"] as const).map((wave): [string, SharedSpec] => {
      const half = Math.floor(length / 2) + 1;
      return [`fourierft_${wave}_${length}`, frozen([half, half], () => halfWaves(length, wave))];
    }),
  );
  return {
    ...Object.fromEntries(waves),
    [`fourierft_places_${key}`]: {
      ...frozen(count, async (context) => (await folded(context)).places),
      dtype: "int32",
    },
    [`fourierft_signs_${key}`]: frozen(count, async (context) => (await folded(context)).signs),
  };
}

/** The waves of each entry. */
function sparse(site: SiteShape, config: FourierftConfig): Record<string, SharedSpec> {
  const key = shapeKey(site, config);
  const waved = (axis: 0 | 1): SharedSpec => {
    const size = axis === 0 ? site.outFeatures : site.inFeatures;
    const init: SharedSpec["init"] = () =>
      waves(
        spectrumPositions(site, config).map((place) => place[axis]),
        size,
        axis === 0 ? -1 : 1,
      );
    return { shape: [2 * frequenciesOf(site, config), size], trainable: false, stored: false, init };
  };
  return { [`fourierft_rows_${key}`]: waved(0), [`fourierft_columns_${key}`]: waved(1) };
}

/**
 * FourierFT (arXiv 2405.03003): W' = W + s·Re(F⁻¹(S)), S zero but for n trained entries. The inverse transform of a sparse
 * spectrum is a product of 2n waves over rows and columns: Σ sₖ·(cos·cos − sin·sin) / (out·in), or one of all frequencies.
 */
export const fourierftMethod = {
  name: "fourierft",
  summary: "a few trained entries of the update's Fourier transform",
  paper: "2405.03003",
  sized: (size) => ({ frequencies: size }),
  schema,
  kinds: ["linear"],
  shared: bases,
  tensors: (site, config) => {
    const count = frequenciesOf(site, config);
    return {
      fourierft_spectrum: {
        shape: [count],
        trainable: true,
        init: ({ normal }) => (config.init === "zero" ? new Float32Array(count) : normal(count)),
      },
    };
  },
  additive: () => true,
  weight(weight, values, site, config) {
    const key = shapeKey(site, config);
    const entries = values.fourierft_spectrum as Value;
    const alpha = config.scaling / (site.outFeatures * site.inFeatures);
    if (isDense(site, config)) {
      const wave = (kind: "cos" | "sin", length: number) => values[`fourierft_${kind}_${length}`] as Value;
      const update = foldedTransform(ops.mul(entries, alpha), [site.outFeatures, site.inFeatures], {
        rowCos: wave("cos", site.outFeatures),
        rowSin: wave("sin", site.outFeatures),
        columnCos: wave("cos", site.inFeatures),
        columnSin: wave("sin", site.inFeatures),
        places: values[`fourierft_places_${key}`] as Value,
        signs: values[`fourierft_signs_${key}`] as Value,
      });
      return ops.add(weight, update);
    }
    const columns = values[`fourierft_columns_${key}`] as Value;
    const scaled = ops.mul(columns, ops.unsqueeze(ops.concat([entries, entries], 0), 1));
    return ops.gemm(values[`fourierft_rows_${key}`] as Value, scaled, weight, {
      transA: true,
      alpha,
    });
  },
} satisfies Method<FourierftConfig>;

/**
 * FourierFT with a configuration. Defaults are PEFT's, but it starts as the base.
 *
 * Throws `config-invalid` naming the field; so does adapting a weight of fewer entries than `frequencies`.
 *
 * @example
 * ```ts
 * import { fourierft } from "tunesmith/methods";
 * const adaptation = fourierft({ frequencies: 500, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const fourierft = (config: z.input<typeof schema> = {}): Adaptation<FourierftConfig> => ({
  method: fourierftMethod,
  config: parseConfig("fourierft", schema, config),
});
