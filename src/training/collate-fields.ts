import { TunesmithError } from "../errors/index.js";
import { type Dtype, type Tensor, zeros } from "../tensor/index.js";

/** A tensor of every example: its first axis is the batch; names are axes that may be padded. */
export interface Field {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly (number | string)[];
  /** What fills an axis up behind what an example gives. Default 0. */
  readonly pad?: number;
  /** What rows hold that give nothing, and those that only fill the batch up. Default: `pad`. */
  readonly fill?: number;
}

/**
 * Stacks one field of a batch. `axes` holds the sizes agreed on so far and gets those this field brings: the longest of the
 * batch, or the first bucket that holds it. Throws `data-invalid` for a tensor that does not fit.
 */
export function stackField(
  field: Field,
  tensors: readonly Tensor[],
  batchSize: number,
  buckets: Readonly<Record<string, readonly number[]>>,
  axes: Record<string, number>,
): Tensor {
  const inner = field.shape.slice(1).map((dim, at) => {
    const longest = Math.max(...tensors.map(({ shape }) => shape[at] ?? 0));
    return typeof dim === "number" ? dim : sizeOf(dim, longest, buckets, axes);
  });
  const rowSize = inner.reduce((a, b) => a * b, 1);
  const out = zeros(field.dtype, [batchSize, ...inner]);
  const numbers = out.data as unknown as (number | bigint)[];
  const { pad = 0, fill = pad } = field;
  const number = (value: number) => (field.dtype === "int64" ? BigInt(value) : value);
  if (fill !== 0) numbers.fill(number(fill));
  tensors.forEach((each, row) => {
    check(field, each, inner);
    if (each.data.length === 0 && rowSize > 0) return;
    if (fill !== pad) numbers.fill(number(pad), row * rowSize, (row + 1) * rowSize);
    copyInto(numbers, row * rowSize, inner, each);
  });
  return out;
}

function sizeOf(
  axis: string,
  longest: number,
  buckets: Readonly<Record<string, readonly number[]>>,
  axes: Record<string, number>,
): number {
  const known = axes[axis];
  if (known !== undefined && longest <= known) return known;
  const size = buckets[axis]?.find((bucket) => bucket >= longest) ?? longest;
  if (known !== undefined) {
    throw new TunesmithError("data-invalid", `axis '${axis}' is ${known} and ${longest} in one example`, {
      fix: "tensors of one example that share an axis must have equal sizes on it",
    });
  }
  axes[axis] = size;
  return size;
}

function check(field: Field, { dtype, shape }: Tensor, inner: readonly number[]): void {
  const fits = dtype === field.dtype && shape.length === inner.length;
  if (fits && shape.every((size, at) => size <= (inner[at] as number))) return;
  throw new TunesmithError(
    "data-invalid",
    `'${field.name}' is ${dtype} [${shape.join(", ")}], expected ${field.dtype} [${field.shape.slice(1).join(", ")}]`,
    { fix: "bring every example to the type and shape the model reads" },
  );
}

/** Copies a tensor into the corner of a padded row. */
function copyInto(
  out: (number | bigint)[],
  start: number,
  inner: readonly number[],
  { shape, data }: Tensor,
): void {
  const width = shape.at(-1) ?? 1;
  const rows = data.length / Math.max(width, 1);
  for (let row = 0; row < rows; row++) {
    let [rest, at, stride] = [row, 0, 1];
    for (let axis = inner.length - 1; axis >= 0; axis--) {
      const size = axis === inner.length - 1 ? 1 : (shape[axis] as number);
      if (axis < inner.length - 1) {
        at += (rest % size) * stride;
        rest = Math.floor(rest / size);
      }
      stride *= inner[axis] as number;
    }
    for (let column = 0; column < width; column++)
      out[start + at + column] = data[row * width + column] as number | bigint;
  }
}
