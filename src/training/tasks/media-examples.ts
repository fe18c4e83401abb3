import {
  decodeImage,
  decodeWav,
  type Image,
  image,
  logMel,
  type MediaRow,
  mono,
  processImages,
  resample,
  withChannels,
} from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import type { InputSpec, TensorModel } from "../../models/index.js";
import { type Rng, rng } from "../../runtime/random/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { hashWords } from "../hash.js";
import type { ExampleSource, TensorExample } from "../tensor-objective.js";
import { classIndex } from "./labels.js";

const scalar = (value: number): Tensor => tensor("int64", [], [value]);
/** A tensor of one row without its batch axis. */
const unbatched = ({ dtype, shape, data }: Tensor): Tensor =>
  ({ dtype, shape: shape.slice(1), data }) as Tensor;

/** What is changed at random in images while training. */
export interface Augmentation {
  /** Mirror half of the images. Default false. */
  readonly flip?: boolean | undefined;
  /** Shift images by up to so many pixels, black coming in at the edge. Default 0. */
  readonly shift?: number | undefined;
}

export interface ImageOptions extends Augmentation {
  /** Content of the model's preprocessor_config.json. Default: resized to what the model reads, mean and deviation 0.5. */
  readonly processor?: Readonly<Record<string, unknown>> | undefined;
  /** Seed of the augmentation. Default 0. */
  readonly seed?: number | undefined;
}

/** Rows of files, read when they are needed. */
const mediaSource = (
  rows: readonly MediaRow[],
  model: TensorModel,
  varies: boolean,
  read: (row: MediaRow, index: number, epoch: number | undefined) => Promise<TensorExample["inputs"]>,
): ExampleSource => {
  const labels = rows.map(({ label }) => classIndex(model, label));
  return {
    size: rows.length,
    varies,
    hash: hashWords(function* () {
      for (const [at, { file }] of rows.entries()) {
        yield labels[at] as number;
        for (const letter of file.name) yield letter.codePointAt(0) ?? 0;
      }
    }),
    at: async (index, epoch) => ({
      inputs: await read(rows[index] as MediaRow, index, epoch),
      targets: { label: scalar(labels[index] as number) },
    }),
  };
};

/** The one input of the model that media go into. Throws `task-mismatch`. */
function mediaInput(
  { inputs, architecture }: TensorModel,
  fits: (spec: InputSpec) => boolean,
  what: string,
): InputSpec {
  const found = inputs.filter((spec) => spec.fill === undefined && spec.dtype === "float32" && fits(spec));
  const [spec] = found;
  if (spec && found.length === 1) return spec;
  throw new TunesmithError("task-mismatch", `${architecture} has no single input for ${what}`, {
    fix: `its inputs: ${inputs.map(({ name, shape }) => `${name} [${shape.join(", ")}]`).join("; ")}`,
  });
}

/** Pixels of image bytes as the model reads them. */
export function imageReader(model: TensorModel, options: ImageOptions = {}) {
  const spec = mediaInput(model, ({ shape }) => shape.length === 4, "images");
  const [, channels, height, width] = spec.shape;
  const grey = channels === 1;
  const size = typeof height === "number" && typeof width === "number" ? { size: { height, width } } : {};
  const norm = grey ? { image_mean: [0.5], image_std: [0.5] } : {};
  const processor = options.processor ?? { ...size, ...norm };
  return (bytes: Uint8Array, name: string, change?: (source: Image) => Image): TensorExample["inputs"] => {
    const decoded = decodeImage(bytes, name);
    const pixels = processImages([change ? change(decoded) : decoded], processor);
    return { [spec.name]: unbatched(pixels) };
  };
}

/** Images with a class; augmentation acts while training only, another every epoch. */
export function imageExamples(
  rows: readonly MediaRow[],
  model: TensorModel,
  options: ImageOptions = {},
): ExampleSource {
  const read = imageReader(model, options);
  const { flip = false, shift = 0, seed = 0 } = options;
  const varies = flip || shift > 0;
  return mediaSource(rows, model, varies, async ({ file }, index, epoch) => {
    const drawn = varies && epoch !== undefined ? rng(seed, "augment", epoch, index) : undefined;
    return read(
      await file.read(),
      file.name,
      drawn && ((source) => augmented(source, drawn, { flip, shift })),
    );
  });
}

/** The image mirrored or shifted, as is drawn. */
export function augmented(source: Image, random: Rng, { flip = false, shift = 0 }: Augmentation): Image {
  const { width, height, channels, data } = withChannels(source, source.channels);
  const mirror = flip && random.uniform() < 0.5;
  const [right, down] = shift > 0 ? [random.int(-shift, shift + 1), random.int(-shift, shift + 1)] : [0, 0];
  const out = new Uint8Array(data.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [fromX, fromY] = [(mirror ? width - 1 - x : x) - right, y - down];
      if (fromX < 0 || fromX >= width || fromY < 0 || fromY >= height) continue;
      for (let c = 0; c < channels; c++)
        out[(y * width + x) * channels + c] = data[(fromY * width + fromX) * channels + c] as number;
    }
  }
  return image(width, height, channels, out);
}

export interface AudioOptions {
  /** Content of the model's preprocessor_config.json, for its sample rate. Default: 16000 Hz. */
  readonly processor?: Readonly<Record<string, unknown>> | undefined;
}

/** Samples between frames of a log-mel spectrogram. */
const HOP = 160;

/** What a model reads of WAV bytes: a log-mel spectrogram where its input has bands and frames, else the samples. */
export function audioReader(model: TensorModel, { processor = {} }: AudioOptions = {}) {
  const spec = mediaInput(model, ({ shape }) => shape.length === 2 || shape.length === 3, "sounds");
  const rate = typeof processor.sampling_rate === "number" ? processor.sampling_rate : 16000;
  const [, bands, frames] = spec.shape;
  const spectral = spec.shape.length === 3 && typeof bands === "number" && bands > 1;
  return (bytes: Uint8Array, name: string): TensorExample["inputs"] => {
    const sound = decodeWav(bytes, name);
    const samples = resample(mono(sound), sound.sampleRate, rate);
    if (!spectral) return { [spec.name]: samplesOf(samples, spec) };
    const length = typeof frames === "number" ? { length: frames * HOP } : {};
    return { [spec.name]: logMel(samples, { mels: bands, sampleRate: rate, ...length }) };
  };
}

/** Samples cut or padded to a fixed length, or as long as they are. */
function samplesOf(samples: Float32Array, { shape }: InputSpec): Tensor {
  const inner = shape.slice(1);
  const fixed = inner.at(-1);
  const length = typeof fixed === "number" ? fixed : samples.length;
  const data = new Float32Array(length);
  data.set(samples.subarray(0, length));
  return tensor("float32", inner.length === 2 ? [1, length] : [length], data);
}

/** Sounds with a class. */
export function audioExamples(
  rows: readonly MediaRow[],
  model: TensorModel,
  options: AudioOptions = {},
): ExampleSource {
  const read = audioReader(model, options);
  return mediaSource(rows, model, false, async ({ file }) => read(await file.read(), file.name));
}
