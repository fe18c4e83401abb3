import { create } from "@bufbuild/protobuf";
import { TunesmithError } from "../../errors/index.js";
import { bytesOf, type Dtype, dtypeToOnnx, type Tensor } from "../../tensor/index.js";
import type { Attr, Dim, Shape } from "../types.js";
import {
  type AttributeProto,
  AttributeProtoSchema,
  AttributeProto_AttributeType as AttributeType,
  type GraphProto,
  type TensorProto,
  TensorProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from "./generated/onnx_pb.js";

const utf8 = new TextEncoder();

/** A tensor message; `name` empty for attributes. Its bytes are a view of the tensor's data. */
export function tensorMessage(data: Tensor, name: string): TensorProto {
  const head = { dims: data.shape.map(BigInt), dataType: dtypeToOnnx(data.dtype), ...(name ? { name } : {}) };
  if (data.dtype === "string") {
    const stringData = (data.data as readonly string[]).map((text) => utf8.encode(text));
    return create(TensorProtoSchema, { ...head, stringData });
  }
  return create(TensorProtoSchema, { ...head, rawData: bytesOf(data) });
}

/** An input or output declaration. Axes for which `show` is false are left unknown. */
export function valueInfo(
  name: string,
  dtype: Dtype,
  shape: Shape,
  show: (dim: string) => boolean = () => true,
): ValueInfoProto {
  const dimension = (dim: Dim) => {
    if (typeof dim === "number") return { value: { case: "dimValue" as const, value: BigInt(dim) } };
    return show(dim) ? { value: { case: "dimParam" as const, value: dim } } : {};
  };
  const tensorType = { elemType: dtypeToOnnx(dtype), shape: { dim: shape.map(dimension) } };
  return create(ValueInfoProtoSchema, {
    name,
    type: { value: { case: "tensorType", value: tensorType } },
  });
}

/** An attribute message; sub-graphs are encoded by `encodeInner`. */
export function attributeMessage(
  name: string,
  attr: Attr,
  where: string,
  encodeInner: (graph: Extract<Attr, { g: unknown }>["g"]) => GraphProto,
): AttributeProto {
  const make = (fields: Omit<Partial<AttributeProto>, "$typeName" | "$unknown">) =>
    create(AttributeProtoSchema, { name, ...fields });
  if ("i" in attr) return make({ type: AttributeType.INT, i: BigInt(attr.i) });
  if ("f" in attr) return make({ type: AttributeType.FLOAT, f: attr.f });
  if ("s" in attr) return make({ type: AttributeType.STRING, s: utf8.encode(attr.s) });
  if ("ints" in attr) return make({ type: AttributeType.INTS, ints: attr.ints.map(BigInt) });
  if ("floats" in attr) return make({ type: AttributeType.FLOATS, floats: [...attr.floats] });
  if ("strings" in attr) {
    return make({ type: AttributeType.STRINGS, strings: attr.strings.map((text) => utf8.encode(text)) });
  }
  if ("t" in attr) return make({ type: AttributeType.TENSOR, t: tensorMessage(attr.t, "") });
  if ("g" in attr) return make({ type: AttributeType.GRAPH, g: encodeInner(attr.g) });
  throw new TunesmithError(
    "graph-invalid",
    `${where}: attribute '${name}' holds a function, which ONNX cannot store`,
    { fix: "lower the marker before encoding the graph" },
  );
}
