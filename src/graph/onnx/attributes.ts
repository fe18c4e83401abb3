import { TunesmithError } from "../../errors/index.js";
import { isTensorRef, type Tensor, type TensorRef } from "../../tensor/index.js";
import type { Attr, Graph } from "../types.js";
import {
  type AttributeProto,
  AttributeProto_AttributeType as AttributeType,
  type GraphProto,
  type TensorProto,
} from "./generated/onnx_pb.js";

const utf8 = new TextDecoder();

/** What reading an attribute needs from its surroundings. */
export interface AttributeContext {
  /** How errors name the node. */
  readonly where: string;
  readonly tensor: (message: TensorProto) => Tensor | TensorRef;
  readonly graph: (message: GraphProto) => Graph;
}

/** Files older than IR version 3 leave the type out; the field that is set tells it. */
function typeOf(message: AttributeProto): AttributeType {
  if (message.type !== AttributeType.UNDEFINED) return message.type;
  if (message.t) return AttributeType.TENSOR;
  if (message.g) return AttributeType.GRAPH;
  if (message.floats.length > 0) return AttributeType.FLOATS;
  if (message.ints.length > 0) return AttributeType.INTS;
  if (message.strings.length > 0) return AttributeType.STRINGS;
  if (message.s.byteLength > 0) return AttributeType.STRING;
  return message.f !== 0 ? AttributeType.FLOAT : AttributeType.INT;
}

/** An attribute message as the graph holds it. Throws `attribute-unsupported` for sparse and type attributes. */
export function attributeOf(message: AttributeProto, context: AttributeContext): Attr {
  switch (typeOf(message)) {
    case AttributeType.INT: {
      const small = Number(message.i);
      return { i: Number.isSafeInteger(small) ? small : message.i };
    }
    case AttributeType.FLOAT:
      return { f: message.f };
    case AttributeType.STRING:
      return { s: utf8.decode(message.s) };
    case AttributeType.INTS: {
      const small = message.ints.map(Number);
      return { ints: small.every(Number.isSafeInteger) ? small : message.ints };
    }
    case AttributeType.FLOATS:
      return { floats: message.floats };
    case AttributeType.STRINGS:
      return { strings: message.strings.map((bytes) => utf8.decode(bytes)) };
    case AttributeType.TENSOR:
      return { t: inMemory(message, context) };
    case AttributeType.GRAPH:
      if (message.g) return { g: context.graph(message.g) };
      break;
    default:
  }
  throw new TunesmithError(
    "attribute-unsupported",
    `${context.where}: attribute '${message.name}' of type ${AttributeType[message.type] ?? message.type}`,
    {
      fix: "export the model again without sparse tensors, optional types and sequences",
      details: { attribute: message.name },
    },
  );
}

function inMemory(message: AttributeProto, context: AttributeContext): Tensor {
  const data = message.t && context.tensor(message.t);
  if (data && !isTensorRef(data)) return data;
  throw new TunesmithError("graph-invalid", `${context.where}: attribute '${message.name}' holds no tensor`);
}
