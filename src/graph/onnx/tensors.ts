import { type ByteSource, joinPath, openFile } from "#io";
import { TunesmithError } from "../../errors/index.js";
import {
  arrayLengthOf,
  arrayOf,
  byteLengthOf,
  type Dtype,
  dtypeFromOnnx,
  elementCount,
  fromBytes,
  type NumericData,
  type Tensor,
  type TensorRef,
} from "../../tensor/index.js";
import {
  type GraphProto,
  type ModelProto,
  type NodeProto,
  type TensorProto,
  TensorProto_DataLocation,
} from "./generated/onnx_pb.js";
import { REFERENCE_BYTES, SELF } from "./scan.js";

/** Every tensor message of a model, resolved to data in memory or to a place in a file. */
export interface ResolvedTensors {
  get(message: TensorProto): Tensor | TensorRef;
  /** Closes the external data files. */
  close(): Promise<void>;
}

interface Resolver {
  readonly source: ByteSource;
  readonly baseDir: string | undefined;
  readonly files: Map<string, ByteSource>;
}

/** Resolves all tensors; those in attributes (except of Constant nodes) are read, because operators need them. */
export async function resolveTensors(
  model: ModelProto,
  source: ByteSource,
  baseDir: string | undefined,
): Promise<ResolvedTensors> {
  const resolver: Resolver = { source, baseDir, files: new Map() };
  const resolved = new Map<TensorProto, Tensor | TensorRef>();
  const close = async () => {
    for (const file of resolver.files.values()) await file.close();
  };
  try {
    for (const { message, name, inMemory } of tensorsOf(model)) {
      resolved.set(message, await resolve(message, name, inMemory, resolver));
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    get(message) {
      const found = resolved.get(message);
      if (found) return found;
      throw new TunesmithError(
        "graph-invalid",
        `tensor '${message.name}' is in a place that holds no tensors`,
      );
    },
    close,
  };
}

interface Found {
  readonly message: TensorProto;
  readonly name: string;
  readonly inMemory: boolean;
}

function* tensorsOf(model: ModelProto): Generator<Found> {
  if (model.graph) yield* graphTensors(model.graph);
  for (const called of model.functions) {
    yield* nodeTensors(called.node);
    for (const { t, name } of called.attributeProto) if (t) yield { message: t, name, inMemory: true };
  }
}

function* graphTensors(graph: GraphProto): Generator<Found> {
  for (const message of graph.initializer) yield { message, name: message.name, inMemory: false };
  yield* nodeTensors(graph.node);
}

function* nodeTensors(nodes: readonly NodeProto[]): Generator<Found> {
  for (const node of nodes) {
    for (const attribute of node.attribute) {
      const name = `${node.opType} '${node.name || node.output[0]}', attribute '${attribute.name}'`;
      if (attribute.t) yield { message: attribute.t, name, inMemory: node.opType !== "Constant" };
      if (attribute.g) yield* graphTensors(attribute.g);
    }
  }
}

function bad(name: string, what: string, fix: string): TunesmithError {
  return new TunesmithError("file-corrupt", `tensor '${name}': ${what}`, { fix, details: { tensor: name } });
}

async function resolve(
  message: TensorProto,
  name: string,
  inMemory: boolean,
  resolver: Resolver,
): Promise<Tensor | TensorRef> {
  const dtype = dtypeOf(message, name);
  const shape = message.dims.map(Number);
  const count = elementCount(shape, `tensor '${name}'`);
  if (message.segment)
    throw bad(name, "is split into segments", "save the model again with a current exporter");
  if (message.dataLocation !== TensorProto_DataLocation.EXTERNAL)
    return inlineTensor(message, name, dtype, shape, count);
  const byteLength = byteLengthOf(dtype, count);
  const { source, offset } = await locate(message, name, byteLength, resolver);
  const ref: TensorRef = { dtype, shape, source, offset, byteLength, name };
  if (source.path !== undefined && !inMemory && byteLength >= REFERENCE_BYTES) return ref;
  return fromBytes(dtype, shape, await source.read(offset, byteLength));
}

function dtypeOf(message: TensorProto, name: string): Dtype {
  try {
    return dtypeFromOnnx(message.dataType);
  } catch (cause) {
    throw new TunesmithError(
      "dtype-unsupported",
      `tensor '${name}' has ONNX element type ${message.dataType}`,
      {
        fix: "convert it to float32, float16, an integer type or 4-bit integers",
        cause,
        details: { tensor: name, code: message.dataType },
      },
    );
  }
}

async function locate(
  message: TensorProto,
  name: string,
  byteLength: number,
  resolver: Resolver,
): Promise<{ source: ByteSource; offset: number }> {
  const entries = new Map(message.externalData.map(({ key, value }) => [key, value]));
  const location = entries.get("location") ?? "";
  const source = location === SELF ? resolver.source : await openExternal(location, name, resolver);
  const offset = Number(entries.get("offset") ?? 0);
  const length = Number(entries.get("length") ?? byteLength);
  if (length !== byteLength) {
    throw bad(
      name,
      `holds ${length} bytes where its shape takes ${byteLength}`,
      "the model file is damaged; get it again",
    );
  }
  if (!Number.isSafeInteger(offset) || offset < 0 || offset + length > source.size) {
    throw bad(
      name,
      `lies at bytes ${offset} to ${offset + length} of ${source.name}, which has ${source.size}`,
      "the weight file is truncated or belongs to another model; get both files again",
    );
  }
  return { source, offset };
}

async function openExternal(location: string, name: string, resolver: Resolver): Promise<ByteSource> {
  const known = resolver.files.get(location);
  if (known) return known;
  const parts = location.split(/[/\\]/);
  const absolute = /^([/\\]|[a-z]:|[a-z]+:\/\/)/i.test(location);
  if (location === "" || location.includes("\0") || absolute || parts.includes("..")) {
    throw bad(
      name,
      `names the weight file '${location}', outside the model's folder`,
      "use models from a source you trust",
    );
  }
  if (resolver.baseDir === undefined) {
    throw new TunesmithError(
      "file-not-found",
      `tensor '${name}' is in '${location}', and the model's folder is unknown`,
      {
        fix: "pass baseDir, the folder that holds the weight file",
        details: { tensor: name, location },
      },
    );
  }
  const path = joinPath(resolver.baseDir, location);
  const file = await openFile(path).catch((cause: unknown) => {
    throw new TunesmithError("file-not-found", `tensor '${name}': cannot open its weight file ${path}`, {
      fix: `put '${location}' next to the model file`,
      cause,
      details: { tensor: name, path },
    });
  });
  resolver.files.set(location, file);
  return file;
}

function inlineTensor(
  message: TensorProto,
  name: string,
  dtype: Dtype,
  shape: number[],
  count: number,
): Tensor {
  if (dtype === "string") {
    const texts = message.stringData.map((bytes) => new TextDecoder().decode(bytes));
    checkLength(name, texts.length, count);
    return { dtype, shape, data: texts };
  }
  if (message.rawData.byteLength > 0) {
    checkLength(name, message.rawData.byteLength, byteLengthOf(dtype, count), "bytes");
    return fromBytes(dtype, shape, message.rawData);
  }
  const values = typedValues(message, dtype);
  checkLength(name, values.length, arrayLengthOf(dtype, count));
  const data: NumericData = new (arrayOf(dtype))(values.length);
  for (let i = 0; i < values.length; i++) data[i] = values[i] as never;
  return { dtype, shape, data };
}

/** Which `*_data` field holds a type; half types are stored as their bits. */
function typedValues(message: TensorProto, dtype: Dtype): readonly (number | bigint)[] {
  switch (dtype) {
    case "float32":
      return message.floatData;
    case "float64":
      return message.doubleData;
    case "int64":
      return message.int64Data;
    case "uint64":
      return message.uint64Data;
    case "uint32":
      return message.uint64Data.map(Number);
    default:
      return message.int32Data;
  }
}

function checkLength(name: string, found: number, wanted: number, unit = "elements"): void {
  if (found === wanted) return;
  throw bad(
    name,
    `holds ${found} ${unit} where its shape takes ${wanted}`,
    "the model file is damaged; get it again",
  );
}
