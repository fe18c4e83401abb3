import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { buildSketch } from "./sketch.js";

const schema = siteConfigSchema.extend({
  bits: z.number().int().min(1).max(8).default(4).describe("bits of a code; a book has 2^bits numbers"),
  groupsPerRow: z.number().int().positive().default(4).describe("books of each row; divides its inputs"),
  calibrated: z
    .boolean()
    .default(false)
    .describe("choose codes that keep the outputs, by the covariance of inputs over calibration data"),
  exponent: z
    .number()
    .min(0)
    .default(0)
    .describe(
      "how much inputs whose errors cannot be passed on count in books; 4 raised errors by up to a fifth",
    ),
  damping: z
    .number()
    .positive()
    .default(0.01)
    .describe("added to the covariance, as a share of its diagonal"),
});

/** Configuration of SketchTune, after defaults. */
export type SketchTuneConfig = z.infer<typeof schema>;

const sketched = (context: InitContext, config: SketchTuneConfig) =>
  context.once("sketch", async () =>
    buildSketch(await context.weight(), {
      rows: context.site.outFeatures,
      columns: context.site.inFeatures,
      bits: config.bits,
      groups: config.groupsPerRow,
      covariance: config.calibrated ? await context.statistic("covariance") : undefined,
      exponent: config.exponent,
      damping: config.damping,
    }),
  );

function tensors(site: SiteShape, config: SketchTuneConfig): Record<string, TensorSpec> {
  const { outFeatures: out, inFeatures: inn, path } = site;
  const { groupsPerRow: groups, bits, calibrated } = config;
  if (inn % groups !== 0) {
    throw new TunesmithError(
      "config-invalid",
      `groupsPerRow: ${groups} does not divide the ${inn} inputs of ${path}`,
      {
        fix: "choose a divisor",
        details: { path },
      },
    );
  }
  const shape = [out * groups * 2 ** bits];
  const books = async (context: InitContext) => (await sketched(context, config)).books.slice();
  return {
    sketch_books: { shape, trainable: true, init: books },
    // Without calibration data both follow from the base's weight.
    sketch_start: { shape, trainable: false, stored: calibrated, init: books },
    sketch_codes: {
      shape: [out, inn],
      dtype: "int32",
      trainable: false,
      stored: calibrated,
      init: async (context) => (await sketched(context, config)).codes,
    },
  };
}

/** What the books changed of each entry, `[out, in]`. */
function change(
  { sketch_books: books, sketch_start: start, sketch_codes: codes }: TensorValues,
  { outFeatures, inFeatures }: SiteShape,
  { groupsPerRow: groups, bits }: SketchTuneConfig,
): Value {
  const size = 2 ** bits;
  const row = ops.unsqueeze(ops.mul(ops.arange(outFeatures), ops.ints([groups * size])), 1);
  const width = inFeatures / groups;
  const column = ops.ints(Array.from({ length: inFeatures }, (_, at) => Math.floor(at / width) * size));
  const places = ops.add(ops.add(ops.cast(codes as Value, "int64"), row), column);
  return ops.gather(ops.sub(books as Value, start as Value), places);
}

/**
 * SketchTune (arXiv 2410.06364): entries of a row that share a code share a number, and those numbers are trained. What the
 * sketch leaves of the given weight stays in it, so that the start is the base; over a base that is its own sketch
 * nothing is left.
 */
export const sketchTuneMethod = {
  name: "sketchtune",
  summary: "the books of numbers that codes of each row stand for",
  paper: "2410.06364",
  sized: (size) => ({ groupsPerRow: size }),
  schema,
  kinds: ["linear"],
  needs: ({ calibrated }) => (calibrated ? ["covariance"] : []),
  tensors,
  weight: (weight, values, site, config) => ops.add(weight, change(values, site, config)),
} satisfies Method<SketchTuneConfig>;

/**
 * SketchTune with a configuration.
 *
 * Throws `config-invalid` naming the field; `calibrated` asks for a calibration with `covariance`.
 *
 * @example
 * ```ts
 * import { sketchTune } from "tunesmith/methods";
 * const adaptation = sketchTune({ bits: 4, groupsPerRow: 4, targets: "all-linear" });
 * ```
 */
export const sketchTune = (config: z.input<typeof schema> = {}): Adaptation<SketchTuneConfig> => ({
  method: sketchTuneMethod,
  config: parseConfig("sketchtune", schema, config),
});
