import { TunesmithError } from "../../errors/index.js";
import { type Dtype, dtypeFromOnnx } from "../../tensor/index.js";
import { symbolsOf } from "../dims.js";
import type { Dim, Shape } from "../types.js";
import type { TensorShapeProto_Dimension, ValueInfoProto } from "./generated/onnx_pb.js";

/** Turns declared axes into dimensions; the same name gives the same symbol everywhere in a file. */
export type DimReader = (dimension: TensorShapeProto_Dimension, fresh: string) => Dim;

const IDENTIFIER = /^[A-Za-z_][\w.]*$/;
const clean = (text: string) => text.replace(/[^\w.]+/g, "_").replace(/^(\d)/, "_$1");

/**
 * Reads `dim_param`. Exporters also write expressions there (`past_sequence_length + 1`): they stay expressions when
 * every name in them is an axis of its own; any other odd character makes it a plain name.
 */
export function dimReader(declared: readonly ValueInfoProto[]): DimReader {
  const plain = new Set(
    declared
      .flatMap((info) => dimensionsOf(info) ?? [])
      .flatMap(({ value }) => {
        return value.case === "dimParam" && IDENTIFIER.test(value.value) ? [value.value] : [];
      }),
  );
  return ({ value }, fresh) => {
    if (value.case === "dimValue" && value.value >= 0n) return Number(value.value);
    if (value.case !== "dimParam" || value.value === "") return clean(fresh);
    const text = value.value;
    if (plain.has(text)) return text;
    const atoms = symbolsOf(text);
    if (atoms.length > 0 && atoms.every((atom) => plain.has(atom))) return text.replaceAll(" ", "");
    return clean(text);
  };
}

function dimensionsOf(info: ValueInfoProto): readonly TensorShapeProto_Dimension[] | undefined {
  const type = info.type?.value;
  return type?.case === "tensorType" ? type.value.shape?.dim : undefined;
}

export interface Declared {
  readonly dtype: Dtype;
  /** Undefined when not even the rank is declared. */
  readonly shape: Shape | undefined;
}

/** Dtype and shape of a declaration; undefined when it says nothing. Throws `dtype-unsupported` for non-tensors. */
export function declaredOf(info: ValueInfoProto, read: DimReader): Declared | undefined {
  const type = info.type?.value;
  if (type?.case === undefined) return undefined;
  if (type.case !== "tensorType") {
    throw new TunesmithError("dtype-unsupported", `'${info.name}' is a ${type.case}, not a tensor`, {
      fix: "export the model with tensors for inputs and outputs",
      details: { name: info.name },
    });
  }
  if (type.value.elemType === 0) return undefined;
  const shape = dimensionsOf(info)?.map((dimension, axis) => read(dimension, `${info.name}_dim_${axis}`));
  return { dtype: dtypeFromOnnx(type.value.elemType), shape };
}
