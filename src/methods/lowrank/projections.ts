import { mt19937 } from "../../runtime/random/index.js";
import type { SharedInitContext, SharedSpec, SiteShape } from "../method.js";

interface Projections {
  readonly names: readonly [string, string];
  /** Rows of A: r, or 2r. */
  readonly rowsOfA: number;
  /** Columns of B. */
  readonly rank: number;
  readonly seed: number;
  readonly stored: boolean;
}

/**
 * Frozen random matrices that all sites slice: A `[rows, most inputs]` and B `[most outputs, r]`, Kaiming-uniform, drawn one after
 * the other from PyTorch's CPU generator, so that a file may hold the seed alone.
 */
export function sharedProjections(
  sites: readonly SiteShape[],
  { names, rowsOfA, rank, seed, stored }: Projections,
): Record<string, SharedSpec> {
  const inputs = Math.max(...sites.map(({ inFeatures }) => inFeatures));
  const outputs = Math.max(...sites.map(({ outFeatures }) => outFeatures));
  const both = ({ once }: SharedInitContext) =>
    once("projections", async () => {
      const generator = mt19937(seed);
      const draw = (rows: number, columns: number) => {
        const bound = Math.sqrt(3) * (Math.SQRT2 / Math.sqrt(columns));
        return generator.uniform(rows * columns, -bound, bound);
      };
      return { a: draw(rowsOfA, inputs), b: draw(outputs, rank) };
    });
  const common = { trainable: false, stored };
  return {
    [names[0]]: { ...common, shape: [rowsOfA, inputs], init: async (context) => (await both(context)).a },
    [names[1]]: { ...common, shape: [outputs, rank], init: async (context) => (await both(context)).b },
  };
}
