// Published files, wherever they are: what their authors say of them must come out. TUNESMITH_ASSETS names the folder.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { decodeImage, imageTensor, openArchive, readIdx, resizeImage } from "../../src/data/index.js";
import { makeGraph } from "../../src/graph/index.js";
import {
  type CausalLm,
  type ConvNetConfig,
  loadModel,
  runModel,
  staticInputs,
  type TensorModel,
} from "../../src/models/index.js";
import { evaluate, rng } from "../../src/runtime/index.js";
import { type Tensor, tensor } from "../../src/tensor/index.js";

const ASSETS = process.env.TUNESMITH_ASSETS ?? "../shared/assets";
/** The share of the data that is run; 1 for the figures of the whole. */
const EVERY = Number(process.env.TUNESMITH_EVERY ?? 5);

/** A test over files that is skipped, and says so, where they are not. */
const withFiles = (title: string, files: readonly string[], run: (paths: string[]) => Promise<void>) => {
  const paths = files.map((file) => join(ASSETS, file));
  const missing = paths.find((path) => !existsSync(path));
  test.skipIf(missing !== undefined)(
    missing ? `${title} (skipped: no ${missing})` : title,
    () => run(paths),
    600_000,
  );
};

/** Measured figures, for the log. */
const report = (line: string) => console.info(line);

/** The largest of each row's scores. */
function best({ shape, data }: Tensor): number[] {
  const width = shape.at(-1) as number;
  const numbers = data as Float32Array;
  return Array.from({ length: numbers.length / width }, (_, row) => {
    const part = numbers.subarray(row * width, (row + 1) * width);
    return part.indexOf(Math.max(...part));
  });
}

const share = (flags: readonly boolean[]) => flags.filter(Boolean).length / flags.length;

const CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

async function cifar(path: string, every: number) {
  const archive = await openArchive(path);
  const picked = archive.entries.filter((_, at) => at % every === 0);
  const images = [];
  for (const { path: name, read } of picked)
    images.push({
      image: decodeImage(await read(), name),
      label: CIFAR.indexOf(name.split("/").at(-2) ?? ""),
    });
  await archive.close();
  return images;
}

withFiles(
  "ResNet-20 knows CIFAR-10",
  ["models/resnet20-cifar10/resnet20.th", "data/cifar10/test.tar"],
  async ([checkpoint = "", archive = ""]) => {
    const model = await loadModel(checkpoint, { task: "image-classification" });
    expect(model.config).toMatchObject({
      depths: [3, 3, 3],
      widths: [16, 32, 64],
      shortcut: "pad",
      num_labels: 10,
    });
    const images = await cifar(archive, EVERY);
    const right: boolean[] = [];
    for (let at = 0; at < images.length; at += 250) {
      const part = images.slice(at, at + 250);
      const pixel_values = imageTensor(
        part.map(({ image }) => image),
        { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] },
      );
      const { logits } = await runModel(model, { pixel_values });
      right.push(...best(logits as Tensor).map((label, index) => label === part[index]?.label));
    }
    report(`ResNet-20: ${(100 * share(right)).toFixed(2)} % of ${right.length} CIFAR-10 JPEGs`);
    // 91.78 % are of the original images. PyTorch and Pillow make 81.03 % of these files (80.45 % of every fifth): they
    // are strongly compressed.
    expect(share(right)).toBeGreaterThan(0.785);
    expect(share(right)).toBeLessThan(0.83);
  },
);

const MNIST_CNN: ConvNetConfig = {
  model_type: "conv_net",
  image: [1, 28, 28],
  layers: [
    { type: "conv", name: "conv1", out: 8, kernel: 3 },
    { type: "activation", function: "relu" },
    { type: "conv", name: "conv2", out: 16, kernel: 3 },
    { type: "activation", function: "relu" },
    { type: "conv", name: "conv3", out: 24, kernel: 3 },
    { type: "activation", function: "relu" },
    { type: "batch_norm", name: "norm1" },
    { type: "flatten" },
    { type: "linear", name: "fc1", out: 32 },
    { type: "activation", function: "relu" },
    { type: "linear", name: "fc2", out: 10 },
    { type: "batch_norm", name: "norm2" },
  ],
};

withFiles(
  "the small MNIST network reads digits",
  [
    "models/mnist-cnn/model.safetensors",
    "data/mnist/t10k-images-idx3-ubyte.gz",
    "data/mnist/t10k-labels-idx1-ubyte.gz",
  ],
  async ([checkpoint = "", imageFile = "", labelFile = ""]) => {
    await expect(loadModel(checkpoint, { task: "auto" })).rejects.toThrow(
      /known by its names[\s\S]*conv_net/,
    );
    const model = await loadModel(checkpoint, { task: "image-classification", config: MNIST_CNN });
    const [images, labels] = [await readIdx(imageFile), await readIdx(labelFile)];
    const right: boolean[] = [];
    for (let at = 0; at < 10_000; at += 250 * EVERY) {
      const bytes = (images.data as Uint8Array).subarray(at * 784, (at + 250) * 784);
      const pixels = Float32Array.from(bytes, (level) => (level / 255 - 0.1307) / 0.3081);
      const { logits } = await runModel(model, { pixel_values: tensor("float32", [250, 1, 28, 28], pixels) });
      right.push(
        ...best(logits as Tensor).map((digit, index) => digit === (labels.data as Uint8Array)[at + index]),
      );
    }
    report(`MNIST network: ${(100 * share(right)).toFixed(2)} % of ${right.length}`);
    expect(share(right)).toBeGreaterThan(0.98);
  },
);

/** The seven columns of ETTh1, standardised by the mean and deviation of the first 8640 rows. */
function etth1(path: string): Float32Array[] {
  const rows = readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .slice(1)
    .map((line) => line.split(",").slice(1).map(Number));
  const columns = Array.from({ length: 7 }, (_, column) => rows.map((row) => row[column] as number));
  return columns.map((values) => {
    const train = values.slice(0, 8640);
    const mean = train.reduce((a, b) => a + b, 0) / train.length;
    const deviation = Math.sqrt(train.reduce((sum, value) => sum + (value - mean) ** 2, 0) / train.length);
    return Float32Array.from(values, (value) => (value - mean) / deviation);
  });
}

/** Rows `start` to `start + count` of all columns, `[count, 7]`. */
const rowsOf = (columns: readonly Float32Array[], start: number, count: number) =>
  Float32Array.from(
    { length: count * 7 },
    (_, at) => columns[at % 7]?.[start + Math.floor(at / 7)] as number,
  );

withFiles(
  "TinyTimeMixer forecasts ETTh1 as the reference does",
  ["models/ttm/config.json", "models/ttm/model.safetensors", "data/ett/ETTh1.csv"],
  async ([, checkpoint = "", table = ""]) => {
    const model = await loadModel(checkpoint, { task: "forecasting" });
    const columns = etth1(table);
    const starts = Array.from({ length: 2785 }, (_, at) => 11520 + at).filter(
      (_, at) => at % (4 * EVERY) === 0,
    );
    let [squares, count, naive] = [0, 0, 0];
    for (let at = 0; at < starts.length; at += 40) {
      const part = starts.slice(at, at + 40);
      const past = Float32Array.from(part.flatMap((start) => [...rowsOf(columns, start - 1024, 1024)]));
      const outputs = await runModel(model, { past_values: tensor("float32", [part.length, 1024, 7], past) });
      const forecast = outputs.prediction_outputs?.data as Float32Array;
      part.forEach((start, index) => {
        const future = rowsOf(columns, start, 96);
        const day = rowsOf(columns, start - 24, 24);
        future.forEach((value, step) => {
          squares += ((forecast[index * 672 + step] as number) - value) ** 2;
          naive += ((day[step % 168] as number) - value) ** 2;
          count++;
        });
      });
    }
    const [error, daily] = [squares / count, naive / count];
    report(
      `TinyTimeMixer 1024 to 96, ETTh1: MSE ${error.toFixed(5)} over ${starts.length} windows (yesterday again: ${daily.toFixed(4)})`,
    );
    // The same as granite-tsfm computes from this file on these windows, 0.71116 (all 2785: 0.71459). The published
    // 0.36 are of IBM's own releases; this copy of one was trained on by somebody else.
    if (EVERY === 5) expect(error).toBeCloseTo(0.71116, 4);
    expect(error).toBeLessThan(0.72);
  },
);

withFiles(
  "the GPT of the sorting demonstration sorts",
  ["models/gpt-nano-sort/model.json"],
  async ([path = ""]) => {
    const model: CausalLm = await loadModel(path);
    expect(model.sizes).toMatchObject({ layers: 3, heads: 3, vocabSize: 3, maxPositions: 11 });
    const random = rng(1, "sort");
    const rows = Array.from({ length: 100 }, () => {
      const letters = Array.from(random.fillUniform(new Float32Array(6), 0, 3), Math.floor);
      return [...letters, ...letters.toSorted((a, b) => a - b)];
    });
    const inputs = staticInputs(100, 11);
    const ids = rows.flatMap((row) => row.slice(0, 11));
    const { logits } = await evaluate(
      makeGraph("sort", Object.values(inputs), [["logits", model.build(inputs).logits]]),
      {
        ids: tensor("int64", [100, 11], ids),
        positions: tensor(
          "int64",
          [100, 11],
          ids.map((_, at) => at % 11),
        ),
        segments: tensor(
          "int32",
          [100, 11],
          ids.map(() => 1),
        ),
      },
    );
    const guesses = best(logits as Tensor);
    // Every next letter is right after the right ones, so that greedy decoding writes the sorted row.
    rows.forEach((row, at) => {
      expect(guesses.slice(at * 11 + 5, at * 11 + 11), row.slice(0, 6).join("")).toEqual(row.slice(6));
    });
  },
);

const ANIMALS = ["bird", "cat", "deer", "dog", "frog", "horse"];

withFiles(
  "SqueezeNet in half precision tells animals from vehicles",
  ["models/squeezenet/SqueezeNet_fp16.onnx", "data/cifar10/test.tar"],
  async ([path = "", archive = ""]) => {
    const model = (await loadModel(path, { task: "auto" })) as TensorModel;
    const [input] = model.inputs;
    const weights: Record<"animal" | "vehicle", number[]> = { animal: [], vehicle: [] };
    for (const { image, label } of await cifar(archive, 200)) {
      const large = resizeImage(image, { width: 224, height: 224 }, "bicubic");
      const { data } = imageTensor([large], { scale: 1, mean: [123, 117, 104] });
      const [red, green, blue] = [0, 1, 2].map((at) =>
        (data as Float32Array).subarray(at * 50_176, (at + 1) * 50_176),
      );
      // It wants blue, green, red.
      const turned = Float32Array.from([...(blue ?? []), ...(green ?? []), ...(red ?? [])]);
      const feed = tensor("float32", [1, 3, 224, 224], turned);
      const outputs = await runModel(model, { [String(input?.name)]: feed });
      const scores = Object.values(outputs)[0]?.data as Float32Array;
      // The first 398 of ImageNet's classes are animals.
      const weight = scores.subarray(0, 398).reduce((a, b) => a + b, 0);
      weights[ANIMALS.includes(CIFAR[label] ?? "") ? "animal" : "vehicle"].push(weight);
    }
    const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    const [animals, vehicles] = [mean(weights.animal), mean(weights.vehicle)];
    report(
      `SqueezeNet gives animals ${animals.toFixed(2)} on enlarged CIFAR-10 animals, ${vehicles.toFixed(2)} on vehicles`,
    );
    // ONNX Runtime on the file itself: 0.81 and 0.37.
    expect(animals).toBeGreaterThan(0.7);
    expect(vehicles).toBeLessThan(0.5);
  },
);
