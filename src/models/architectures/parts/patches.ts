import { z } from "zod";
import { ops, type Value } from "../../../graph/index.js";

const side = z.number().int().positive().max(65_536);

/** One number for a square, or height and width. */
export const imageSize = z.union([side, z.tuple([side, side])]);

/**
 * Height and width of the images to be read when they are others than those the model was trained on: its position
 * embeddings are then interpolated, as `interpolate_pos_encoding` of the reference does.
 */
export const interpolated = imageSize.optional();

/** How many patches fit, by height and width. */
export function imageGrid(size: z.infer<typeof imageSize>, patch: number): [number, number] {
  const [height, width] = typeof size === "number" ? [size, size] : size;
  return [Math.floor(height / patch), Math.floor(width / patch)];
}

/**
 * Position embeddings `[1, first + rows*columns, width]` for another grid of patches: the first ones stay, the others
 * are interpolated bicubically.
 */
export function placeTable(
  table: Value,
  options: {
    readonly first: number;
    readonly grid: readonly [number, number];
    readonly wanted: readonly [number, number];
  },
): Value {
  const { first, grid, wanted } = options;
  if (grid.join() === wanted.join()) return table;
  const width = table.shape[2] as number;
  const image = ops.reshape(ops.slice(table, 1, first), [1, grid[0], grid[1], width]);
  const resized = ops.resize(ops.transpose(image, [0, 3, 1, 2]), wanted, "cubic");
  const patches = ops.reshape(ops.transpose(resized, [0, 2, 3, 1]), [1, wanted[0] * wanted[1], width]);
  return ops.concat([ops.slice(table, 1, 0, first), patches], 1);
}
