import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { centerCrop, type Image, withChannels } from "./image.js";
import { type Resampling, resizeImage } from "./resize.js";

export interface NormalizeOptions {
  /** Per channel, or one for all; of values in [0, 1]. Default 0. */
  readonly mean?: number | readonly number[];
  /** Default 1. */
  readonly std?: number | readonly number[];
  /** What a level of the 8 bits is worth. Default 1 / 255. */
  readonly scale?: number;
}

/**
 * Images of one size as a float32 tensor `[images, channels, height, width]`: (level * scale - mean) / std.
 *
 * Throws `shape-mismatch` when sizes or channels differ, `data-empty` without images.
 */
export function imageTensor(images: readonly Image[], options: NormalizeOptions = {}): Tensor {
  const { mean = 0, std = 1, scale = 1 / 255 } = options;
  const [first] = images;
  if (!first) throw new TunesmithError("data-empty", "there are no images", { fix: "give at least one" });
  const { width, height, channels } = first;
  const pixels = width * height;
  const of = (value: number | readonly number[], channel: number) =>
    (typeof value === "number" ? value : value[channel]) ?? Number.NaN;
  const out = new Float32Array(images.length * channels * pixels);
  images.forEach((image, index) => {
    if (image.width !== width || image.height !== height || image.channels !== channels) {
      throw new TunesmithError(
        "shape-mismatch",
        `image ${index} is ${image.width} x ${image.height} x ${image.channels}, the first ${width} x ${height} x ${channels}`,
        { fix: "resize or crop the images to one size first" },
      );
    }
    for (let channel = 0; channel < channels; channel++) {
      const [center, spread] = [of(mean, channel), of(std, channel)];
      const start = (index * channels + channel) * pixels;
      for (let pixel = 0; pixel < pixels; pixel++) {
        out[start + pixel] = ((image.data[pixel * channels + channel] as number) * scale - center) / spread;
      }
    }
  });
  return tensor("float32", [images.length, channels, height, width], out);
}

/** Pillow's numbers of resampling filters, as configuration files hold them. */
const RESAMPLING: Readonly<Record<number, Resampling>> = {
  0: "nearest",
  1: "lanczos",
  2: "bilinear",
  3: "bicubic",
};

const pixels = z.number().int().min(1).max(65536);
const sizeSchema = z.union([
  pixels,
  z.object({ height: pixels, width: pixels }),
  z.object({ shortest_edge: pixels }),
]);

/** What `preprocessor_config.json` of ViT, DeiT, CLIP, ResNet and their relatives says. */
const processorSchema = z.object({
  do_resize: z.boolean().default(true),
  size: sizeSchema.default(224),
  resample: z.number().int().min(0).max(3).default(2),
  do_center_crop: z.boolean().default(false),
  crop_size: sizeSchema.optional(),
  do_rescale: z.boolean().default(true),
  rescale_factor: z.number().default(1 / 255),
  do_normalize: z.boolean().default(true),
  image_mean: z.array(z.number()).default([0.5, 0.5, 0.5]),
  image_std: z.array(z.number()).default([0.5, 0.5, 0.5]),
});

/**
 * Prepares images as an image processor of `transformers` does: resize, crop the middle, scale, normalise.
 *
 * @param config The content of `preprocessor_config.json`.
 * @returns float32 `[images, channels, height, width]`
 *
 * Throws `config-invalid` for a config that is none, and what `imageTensor` throws.
 *
 * @example
 * ```ts
 * import { decodeImage, processImages } from "tunesmith/data";
 * const vit = { size: { height: 224, width: 224 }, resample: 2 };
 * const pixels = (bytes: Uint8Array) => processImages([decodeImage(bytes)], vit); // [1, 3, 224, 224]
 * ```
 */
export function processImages(images: readonly Image[], config: unknown): Tensor {
  const parsed = processorSchema.safeParse(config);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new TunesmithError(
      "config-invalid",
      `the image processor's ${issue?.path.join(".") ?? "config"}: ${issue?.message}`,
      { fix: "give the content of the model's preprocessor_config.json" },
    );
  }
  const { data } = parsed;
  const channels = data.image_mean.length === 1 ? 1 : 3;
  const prepared = images.map((source) => {
    let image = withChannels(source, channels);
    if (data.do_resize) image = resizeImage(image, targetSize(image, data.size), RESAMPLING[data.resample]);
    return data.do_center_crop ? centerCrop(image, cropSize(data.crop_size ?? data.size)) : image;
  });
  return imageTensor(prepared, {
    ...(data.do_normalize ? { mean: data.image_mean, std: data.image_std } : {}),
    scale: data.do_rescale ? data.rescale_factor : 1,
  });
}

type Size = z.output<typeof sizeSchema>;

/** A single number is the shorter edge only when the file says so; the image processors default to a square. */
function targetSize({ width, height }: Image, size: Size): { width: number; height: number } {
  if (typeof size === "number") return { width: size, height: size };
  if ("height" in size) return size;
  const { shortest_edge: short } = size;
  const long = Math.trunc((short * Math.max(width, height)) / Math.min(width, height));
  return width <= height ? { width: short, height: long } : { width: long, height: short };
}

function cropSize(size: Size): { width: number; height: number } {
  if (typeof size === "number") return { width: size, height: size };
  return "height" in size ? size : { width: size.shortest_edge, height: size.shortest_edge };
}
