/** Pictures as training data for a classifier. */
import {
  classification,
  decodeImage,
  imageTensor,
  labelNames,
  type Row,
  resizeImage,
  type TensorExample,
  type TensorModel,
  tensor,
  tensorObjective,
} from "tunesmith";

interface ImageOptions {
  readonly batchSize: number;
  /** Tells the pictures from others when a run is resumed. */
  readonly hash: string;
}

/** Cross-entropy over the classes; those of the data are taken in their order when the model does not name its own. */
export function imageObjective(model: TensorModel, rows: readonly Row[], { batchSize, hash }: ImageOptions) {
  const [input] = model.inputs;
  const [, , height, width] = input?.shape ?? [];
  if (!input || typeof height !== "number" || typeof width !== "number")
    throw new Error(`${model.task}: only language models and classifiers of pictures of a fixed size`);
  const classes = (model.labels ?? labelNames(rows)).map(String);
  const at = async (index: number): Promise<TensorExample> => {
    const row = rows[index];
    if (row?.kind !== "image") throw new Error("the data are not pictures");
    const label = classes.indexOf(String(row.label));
    if (label < 0) throw new Error(`'${row.label}' is none of the model's classes: ${classes.join(", ")}`);
    const picture = decodeImage(await row.file.read(), row.file.name);
    const { shape, data, dtype } = imageTensor([resizeImage(picture, { width, height })]);
    const pixels = { dtype, shape: shape.slice(1), data } as ReturnType<typeof imageTensor>;
    return { inputs: { [input.name]: pixels }, targets: { label: tensor("int64", [], [label]) } };
  };
  return tensorObjective(model, {
    train: { size: rows.length, at, hash },
    batchSize,
    loss: classification(),
  });
}
